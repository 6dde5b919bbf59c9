/* The arithmetic of controller.h. No clock, no device, no random numbers: what it decides is a function of
 * what it was told, so that tests can play any machine and any draft. */
#include "runtime/controller.h"

#include <stdlib.h>
#include <string.h>

/* What is assumed before anything is seen: a fair draft, worth two observations. */
static const double PRIOR = 0.6, PRIOR_WEIGHT = 2;
/* How often a tree's other choices are assumed to stay where the first does not, and worth how much. */
static const double CATCHES = 0.5, CATCHES_WEIGHT = 4;
/* Observations that the estimate of a place borrows from the place before it. */
static const double BORROWED = 8;
/* Share of the old counts that a round leaves, also of places it did not test: text changes its character,
 * and a place that was given up must be thought well of again some day. */
static const double FADE = 0.98;
/* Most of the time that tries of an idle draft may take, half as much after each in vain, down to an eighth;
 * and how many it has before that counts. */
static const double TRY_SHARE = 0.006;
enum { FIRST_TRIES = 3, MOST_HALVINGS = 3 };
/* After a try that helped beside a better drafter the next may come so many times sooner. */
static const double AGAIN = 4;
/* Proposals in vain that a doubt weighs as much as. */
static const double DOUBT = 6;
/* Most of a plain round that the first tries in vain may take together before the next. */
static const double FIRST_SHARE = 0.6;
/* A K must promise this much over plain decoding before it is used: estimates err. */
static const double MARGIN = 1.03;

/* Most of the time that a draft hopes to save that it may take to read what came before it: hopes err. */
static const double SAVED_SHARE = 0.5;

/* Rounds that the measurements at the start weigh as much as, and those of a neighbouring K at most; share of
 * the old rounds' weight that a round leaves; how far one round may lie from what is expected. */
static const double MEASURED_WEIGHT = 8, NEIGHBOUR_WEIGHT = 4, COST_FADE = 0.995, FAR = 1.6;

void costs_set(struct costs *c, int32_t n, const int32_t *rows, const double *us, double draft_us,
               double self_us) {
    double least[COST_ROWS];
    /* More rows never cost less; where they seem to, the fewer were disturbed when they were measured. */
    for (int32_t i = n - 1; i >= 0; i--) least[i] = i + 1 < n && least[i + 1] < us[i] ? least[i + 1] : us[i];
    for (int32_t r = 1; r <= COST_ROWS; r++) {
        int32_t i = 0;
        while (i + 2 < n && r > rows[i + 1]) i++;
        double slope = n > 1 ? (least[i + 1] - least[i]) / (rows[i + 1] - rows[i]) : 0;
        c->verify[r] = least[i] + slope * (r - rows[i]);
    }
    c->step[DRAFTER_MODEL] = c->step[DRAFTER_TREE] = draft_us;
    c->step[DRAFTER_SELF] = self_us;
    c->scale[0] = c->scale[1] = c->level[0] = c->level[1] = 1;
    memset(c->seen, 0, sizeof c->seen);
    c->known = true;
}

double costs_verify(const struct costs *c, int32_t rows) {
    if (rows <= COST_ROWS) return c->verify[rows];
    double slope = (c->verify[COST_ROWS] - c->verify[COST_ROWS / 2]) / (COST_ROWS / 2);
    return c->verify[COST_ROWS] + slope * (rows - COST_ROWS);
}

static double by_measurements(const struct costs *c, struct round_shape r) {
    double us = costs_verify(c, r.rows);
    for (int by = 0; by < DRAFTERS; by++) us += r.steps[by] * c->step[by];
    return us;
}

/* Whose steps say most of how a round errs: a model's before n-grams'. */
static enum drafter kind_of(struct round_shape r) {
    return r.steps[DRAFTER_TREE]    ? DRAFTER_TREE
           : r.steps[DRAFTER_MODEL] ? DRAFTER_MODEL
           : r.steps[DRAFTER_SELF]  ? DRAFTER_SELF
                                    : DRAFTER_NGRAM;
}

/* How rounds of K err: as those of K did, and, worth a few rounds, as its neighbours did, half as much for
 * each step away. So a K of which none is seen is taken to err as they do; and what was seen long ago fades,
 * so that slow rounds bar no K for ever. */
static double correction(const struct costs *c, struct round_shape r) {
    const struct cost_seen *seen = c->seen[r.sampling][kind_of(r)];
    double weight = MEASURED_WEIGHT + seen[r.k].weight,
           sum = MEASURED_WEIGHT * c->level[r.sampling] + seen[r.k].sum;
    for (int32_t k = 0; k <= OUTRIDER_MAX_DRAFT; k++) {
        if (k == r.k || seen[k].weight <= 0) continue;
        double most = NEIGHBOUR_WEIGHT / (1 << abs(k - r.k)),
               share = seen[k].weight < most ? 1 : most / seen[k].weight;
        weight += share * seen[k].weight;
        sum += share * seen[k].sum;
    }
    return sum / weight;
}

double costs_round(const struct costs *c, struct round_shape r) {
    return by_measurements(c, r) * correction(c, r);
}

/* A single slow round (another program woke up) must not count for much. */
static double not_far_from(double seen, double expected) {
    return seen < FAR * expected ? seen : FAR * expected;
}

void costs_observe(struct costs *c, struct round_shape r, double us) {
    if (!c->known) return;
    double *scale = &c->scale[r.sampling], expected = correction(c, r), ratio = us / by_measurements(c, r);
    struct cost_seen all = {1, 1};
    for (int by = 0; by < DRAFTERS; by++)
        for (int32_t k = 0; k <= OUTRIDER_MAX_DRAFT; k++) {
            struct cost_seen *seen = &c->seen[r.sampling][by][k];
            seen->weight *= COST_FADE, seen->sum *= COST_FADE;
            all.weight += seen->weight, all.sum += seen->sum;
        }
    c->level[r.sampling] = all.sum / all.weight;
    for (int by = 0; by < DRAFTERS; by++) {
        if (r.k > 0 && by != (int)kind_of(r)) continue; /* a plain round is of all kinds */
        struct cost_seen *seen = &c->seen[r.sampling][by][r.k];
        seen->weight += 1;
        seen->sum += not_far_from(ratio / *scale, expected);
    }
    *scale += 0.05 * (not_far_from(ratio / expected, *scale) - *scale);
}

bool costs_worth_reading(const struct costs *c, double gain, int32_t lag, int32_t left, int32_t idle,
                         bool sampling) {
    double plain = costs_round(c, round_shape(1, 0, DRAFTER_MODEL, sampling)), price = lag * c->draft_read;
    if (price <= c->step[DRAFTER_MODEL]) return true;
    if (gain <= 1) return idle * TRY_SHARE * plain >= price;
    return price <= SAVED_SHARE * left * plain * (1 - 1 / gain);
}

/* The estimate of place i from that of the place before it. */
static double next_place(const struct controller *c, int32_t i, double before) {
    double weight = i == 0 ? PRIOR_WEIGHT : BORROWED;
    return (c->stayed[i] + weight * before) / (c->tested[i] + weight);
}

static double prior_of(const struct controller *c) {
    return c->prior > 0 ? c->prior : PRIOR;
}

double controller_acceptance(const struct controller *c, int32_t i) {
    double a = prior_of(c);
    for (int32_t j = 0; j <= i; j++) a = next_place(c, j, a);
    return a;
}

/* Tokens that a round with K proposals is expected to write. Of a tree, a place stays also when another
 * choice catches what the first has missed. */
static double expected_tokens(const struct controller *c, int32_t k, enum drafter by) {
    double tokens = 1, reach = 1, a = prior_of(c),
           catches = (c->caught + CATCHES * CATCHES_WEIGHT) / (c->missed + CATCHES_WEIGHT);
    for (int32_t i = 0; i < k; i++) {
        a = next_place(c, i, a);
        reach *= by == DRAFTER_TREE ? a + (1 - a) * catches : a;
        tokens += reach;
    }
    return tokens;
}

/* What a drafter that stood by must read first, about: a step of the draft model; the others have read all.
 */
static double unread_us(const struct costs *costs, enum drafter by) {
    return by == DRAFTER_MODEL ? costs->step[by] : 0;
}

int32_t controller_choose(const struct controller *c, const struct costs *costs, int32_t sessions,
                          int32_t limit, enum drafter by, bool sampling, double *gain) {
    double plain = costs_round(costs, round_shape(sessions, 0, by, sampling)),
           unread = c->idle > 0 ? unread_us(costs, by) : 0;
    int32_t best = 0, cap = by == DRAFTER_NGRAM || c->stayed[0] > 0 || limit < 1 ? limit : 1;
    *gain = 1;
    for (int32_t k = 1; k <= cap; k++) {
        double us = costs_round(costs, round_shape(sessions, k, by, sampling)) + unread,
               g = expected_tokens(c, k, by) * plain / us;
        if (g > (best ? *gain : MARGIN)) best = k, *gain = g;
    }
    return best;
}

/* The most it could promise, were all that it proposes accepted. */
static double could_gain(const struct controller *c, const struct costs *costs, int32_t sessions,
                         int32_t limit, enum drafter by, bool sampling) {
    double plain = costs_round(costs, round_shape(sessions, 0, by, sampling)), most = 0,
           unread = c->idle > 0 ? unread_us(costs, by) : 0;
    for (int32_t k = 1; k <= limit; k++) {
        double us = costs_round(costs, round_shape(sessions, k, by, sampling)) + unread,
               g = (k + 1) * plain / us;
        if (g > most) most = g;
    }
    return most;
}

/* The first few tries at once, and while they succeed; else when enough rounds have passed to pay for it. It
 * costs what its round takes longer, or writes less, than the one it stands for, and what must be read. */
bool controller_try(const struct controller *c, const struct costs *costs, int32_t sessions, int32_t limit,
                    enum drafter by, bool sampling, double gain) {
    if (could_gain(c, costs, sessions, limit, by, sampling) <= MARGIN * gain) return false;
    double plain = costs_round(costs, round_shape(sessions, 0, by, sampling)),
           price = costs_round(costs, round_shape(sessions, 1, by, sampling)) + unread_us(costs, by) -
                   plain / gain;
    int32_t halvings = c->in_vain > FIRST_TRIES ? c->in_vain - FIRST_TRIES : 0;
    bool first = c->tries < FIRST_TRIES && c->in_vain * price <= FIRST_SHARE * plain;
    if (gain <= 1 && (first || c->helped)) return true;
    return c->idle * TRY_SHARE * plain >= (c->helped ? price / AGAIN : price * (1 << halvings));
}

void controller_observe(struct controller *c, int32_t k, int32_t accepted) {
    if (k == 0) {
        c->idle++;
        return;
    }
    c->helped = accepted > 0;
    c->idle = 0;
    if (c->tries < FIRST_TRIES) c->tries++;
    if (accepted > 0)
        c->in_vain = 0;
    else if (c->in_vain < FIRST_TRIES + MOST_HALVINGS)
        c->in_vain++;
    for (int32_t i = 0; i < OUTRIDER_MAX_DRAFT; i++) c->tested[i] *= FADE, c->stayed[i] *= FADE;
    for (int32_t i = 0; i < k && i <= accepted;
         i++) { /* the first that fell was tested, those after it were not */
        c->tested[i] += 1;
        c->stayed[i] += i < accepted;
    }
}

void controller_doubt(struct controller *c) {
    c->tested[0] += DOUBT;
    c->tries = c->in_vain = FIRST_TRIES;
}

void controller_observe_tree(struct controller *c, int32_t k, int32_t first_choices, int32_t accepted) {
    controller_observe(c, k, first_choices);
    c->missed *= FADE, c->caught *= FADE;
    c->missed += first_choices < k;
    c->caught += accepted > first_choices;
}

/* The arithmetic of controller.h. No clock, no device, no random numbers: what it decides is a function of
 * what it was told, so that tests can play any machine and any draft. */
#include "runtime/controller.h"

/* What is assumed before anything is seen: a fair draft, worth two observations. */
static const double PRIOR = 0.6, PRIOR_WEIGHT = 2;
/* Observations that the estimate of a place borrows from the place before it. */
static const double BORROWED = 8;
/* Share of the old counts that a round leaves, also of places it did not test: text changes its character,
 * and a place that was given up must be thought well of again some day. */
static const double FADE = 0.98;
/* Most of the time that tries of an idle draft may take. */
static const double TRY_SHARE = 0.008;
/* A K must promise this much over plain decoding before it is used: estimates err. */
static const double MARGIN = 1.02;

void costs_set(struct costs *c, int32_t n, const int32_t *rows, const double *us, double draft_us) {
    for (int32_t r = 1; r <= COST_ROWS; r++) {
        int32_t i = 0;
        while (i + 2 < n && r > rows[i + 1]) i++;
        double slope = n > 1 ? (us[i + 1] - us[i]) / (rows[i + 1] - rows[i]) : 0;
        c->verify[r] = us[i] + slope * (r - rows[i]);
        /* More rows never cost less; a measurement that says so is noise. */
        if (r > 1 && c->verify[r] < c->verify[r - 1]) c->verify[r] = c->verify[r - 1];
    }
    c->draft = draft_us;
    c->scale = 1;
    for (int32_t k = 0; k <= OUTRIDER_MAX_DRAFT; k++) c->by_k[0][k] = c->by_k[1][k] = 1;
    c->known = true;
}

double costs_verify(const struct costs *c, int32_t rows) {
    if (rows <= COST_ROWS) return c->verify[rows];
    double slope = (c->verify[COST_ROWS] - c->verify[COST_ROWS / 2]) / (COST_ROWS / 2);
    return c->verify[COST_ROWS] + slope * (rows - COST_ROWS);
}

double costs_round(const struct costs *c, int32_t sessions, int32_t k, bool free) {
    return ((free ? 0 : k * c->draft) + costs_verify(c, sessions * (k + 1))) * c->by_k[free && k > 0][k];
}

/* Moves a running mean; a single slow round (another program woke up) must not count for much. */
static void follow(double *mean, double seen) {
    if (seen > 2 * *mean) seen = 2 * *mean;
    *mean += 0.05 * (seen - *mean);
}

void costs_observe(struct costs *c, int32_t sessions, int32_t k, bool free, double us) {
    if (!c->known) return;
    double *by_k = &c->by_k[free && k > 0][k], ratio = us / (costs_round(c, sessions, k, free) / *by_k);
    follow(by_k, ratio / c->scale);
    follow(&c->scale, ratio / *by_k);
}

/* The estimate of place i from that of the place before it. */
static double next_place(const struct controller *c, int32_t i, double before) {
    double weight = i == 0 ? PRIOR_WEIGHT : BORROWED;
    return (c->stayed[i] + weight * before) / (c->tested[i] + weight);
}

double controller_acceptance(const struct controller *c, int32_t i) {
    double a = PRIOR;
    for (int32_t j = 0; j <= i; j++) a = next_place(c, j, a);
    return a;
}

/* Tokens that a round with K proposals is expected to write. */
static double expected_tokens(const struct controller *c, int32_t k) {
    double tokens = 1, reach = 1, a = PRIOR;
    for (int32_t i = 0; i < k; i++) {
        a = next_place(c, i, a);
        reach *= a;
        tokens += reach;
    }
    return tokens;
}

int32_t controller_choose(const struct controller *c, const struct costs *costs, int32_t sessions,
                          int32_t limit, bool free, double *gain) {
    double plain = costs_round(costs, sessions, 0, free), could = 0;
    int32_t best = 0;
    *gain = 1;
    for (int32_t k = 1; k <= limit; k++) {
        double per_token = plain / costs_round(costs, sessions, k, free),
               g = expected_tokens(c, k) * per_token;
        if (g > (best ? *gain : MARGIN)) best = k, *gain = g;
        if ((k + 1) * per_token > could) could = (k + 1) * per_token; /* were all accepted */
    }
    if (best > 0 || limit <= 0 || could <= MARGIN) return best;
    /* A try: at once while tries succeed, else when enough plain rounds have passed to pay for it. It costs
     * what its round takes longer, and about a draft step for what the draft did not read meanwhile. */
    double price = costs_round(costs, sessions, 1, free) - plain + (free ? 0 : costs->draft);
    return c->helped || c->idle * TRY_SHARE * plain >= price;
}

void controller_observe(struct controller *c, int32_t k, int32_t accepted) {
    if (k == 0) {
        c->idle++;
        return;
    }
    c->helped = accepted > 0;
    c->idle = 0;
    for (int32_t i = 0; i < OUTRIDER_MAX_DRAFT; i++) c->tested[i] *= FADE, c->stayed[i] *= FADE;
    for (int32_t i = 0; i < k && i <= accepted;
         i++) { /* the first that fell was tested, those after it were not */
        c->tested[i] += 1;
        c->stayed[i] += i < accepted;
    }
}

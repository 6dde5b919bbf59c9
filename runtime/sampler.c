/* Logits to distribution to token (see sampler.h). Every step is a pure function of its arguments; the
 * scratch in struct sampler carries nothing from call to call. */
#include "runtime/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"

/* ---- random numbers ---- */

struct philox {
    uint32_t v[4];
};

/* Philox4x32-10: ten rounds of multiply and mix; key = seed, counter = c. */
static struct philox philox(uint64_t seed, struct philox c) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c.v[0], b = (uint64_t)0xCD9E8D57u * c.v[2];
        c = (struct philox){
            {(uint32_t)(b >> 32) ^ c.v[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c.v[3] ^ k1, (uint32_t)a}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

double rng_uniform(uint64_t seed, enum rng_purpose purpose, int32_t position, int32_t round) {
    struct philox r =
        philox(seed, (struct philox){{(uint32_t)position, (uint32_t)round, (uint32_t)purpose, 0}});
    return (double)(((uint64_t)r.v[0] << 32 | r.v[1]) >> 11) * 0x1p-53;
}

int32_t sampler_gumbel_pick(uint64_t seed, int32_t position, const struct distribution *d) {
    int32_t best = d->id[0];
    double best_score = -INFINITY;
    for (int32_t i = 0; i < d->n; i++) {
        if (d->p[i] == 0) continue;
        struct philox r =
            philox(seed, (struct philox){{(uint32_t)position, (uint32_t)d->id[i], RNG_GUMBEL, 1}});
        double u = ((double)(((uint64_t)r.v[0] << 32 | r.v[1]) >> 12) + 0.5) * 0x1p-52; /* in (0, 1) */
        double score = log((double)d->p[i]) - log(-log(u));
        if (score > best_score || (score == best_score && d->id[i] < best))
            best = d->id[i], best_score = score;
    }
    return best;
}

/* ---- settings ---- */

outrider_status sampler_check(const outrider_settings *s, int32_t vocab_size) {
    if (!(s->temperature >= 0) || isinf(s->temperature))
        return fail(OUTRIDER_EINVAL, "temperature %g: must be 0 or more", s->temperature);
    if (s->top_k < 0) return fail(OUTRIDER_EINVAL, "top-k %d: must be 0 (off) or more", s->top_k);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return fail(OUTRIDER_EINVAL, "top-p %g: must be above 0, at most 1", s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return fail(OUTRIDER_EINVAL, "min-p %g: must be from 0 to 1", s->min_p);
    if (!(s->repeat_penalty > 0) || isinf(s->repeat_penalty))
        return fail(OUTRIDER_EINVAL, "repeat penalty %g: must be above 0 (1 is off)", s->repeat_penalty);
    if (!isfinite(s->presence_penalty) || !isfinite(s->frequency_penalty))
        return fail(OUTRIDER_EINVAL, "presence and frequency penalty must be finite numbers");
    if (s->repeat_last_n < -1)
        return fail(OUTRIDER_EINVAL, "repeat-last-n %d: must be -1 (all), 0 (none) or more",
                    s->repeat_last_n);
    for (size_t i = 0; i < s->n_logit_bias; i++) {
        outrider_logit_bias b = s->logit_bias[i];
        if (b.token < 0 || b.token >= vocab_size)
            return fail(OUTRIDER_EINVAL, "logit bias for token %d: the vocabulary has %d", b.token,
                        vocab_size);
        if (isnan(b.bias) || b.bias == INFINITY)
            return fail(OUTRIDER_EINVAL, "logit bias of token %d: must be a number or -inf", b.token);
    }
    return OUTRIDER_OK;
}

outrider_status sampler_create(const outrider_settings *settings, int32_t vocab_size,
                               struct sampler *sampler) {
    *sampler = (struct sampler){.s = *settings, .vocab_size = vocab_size};
    sampler->s.logit_bias = NULL;
    TRY(sampler_check(settings, vocab_size));
    size_t n = (size_t)vocab_size, n_bias = settings->n_logit_bias;
    outrider_logit_bias *bias = calloc(n_bias + 1, sizeof *bias);
    sampler->s.logit_bias = bias;
    sampler->logits = malloc(n * sizeof *sampler->logits);
    sampler->counts = calloc(n, sizeof *sampler->counts);
    sampler->order = malloc(n * sizeof *sampler->order);
    if (!bias || !sampler->logits || !sampler->counts || !sampler->order) {
        sampler_destroy(sampler);
        return fail_memory("the sampler", n * 12);
    }
    if (n_bias) memcpy(bias, settings->logit_bias, n_bias * sizeof *bias);
    return OUTRIDER_OK;
}

void sampler_destroy(struct sampler *sampler) {
    free((void *)sampler->s.logit_bias);
    free(sampler->logits);
    free(sampler->counts);
    free(sampler->order);
    *sampler = (struct sampler){0};
}

static bool has_penalty(const outrider_settings *s) {
    return s->repeat_last_n != 0 &&
           (s->repeat_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0);
}

bool sampler_is_argmax(const struct sampler *sampler) {
    return sampler->s.temperature == 0 && sampler->s.n_logit_bias == 0 && !has_penalty(&sampler->s);
}

int32_t sampler_support(const struct sampler *sampler) {
    if (sampler->s.temperature == 0) return 1;
    int32_t k = sampler->s.top_k;
    return k > 0 && k < sampler->vocab_size ? k : sampler->vocab_size;
}

/* ---- the knobs ---- */

static void apply_penalties(struct sampler *sampler, const int32_t *history, size_t n) {
    const outrider_settings *s = &sampler->s;
    size_t window = s->repeat_last_n < 0 || (size_t)s->repeat_last_n > n ? n : (size_t)s->repeat_last_n;
    const int32_t *recent = history + (n - window);
    for (size_t i = 0; i < window; i++) sampler->counts[recent[i]]++;
    for (size_t i = 0; i < window; i++) {
        int32_t count = sampler->counts[recent[i]];
        if (count == 0) continue; /* done at an earlier occurrence */
        float *l = &sampler->logits[recent[i]];
        *l = *l > 0 ? *l / s->repeat_penalty : *l * s->repeat_penalty;
        *l -= s->presence_penalty + s->frequency_penalty * (float)count;
        sampler->counts[recent[i]] = 0;
    }
}

/* a before b: greater logit, then lower id. */
static bool before(const float *logits, int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static int compare(const void *a, const void *b, void *logits) {
    return before(logits, *(const int32_t *)a, *(const int32_t *)b) ? -1 : 1;
}

/* Restores the heap whose root is its last in order. */
static void sift_down(int32_t *heap, int32_t n, int32_t i, const float *logits) {
    for (;;) {
        int32_t least = i, left = 2 * i + 1, right = left + 1;
        if (left < n && before(logits, heap[least], heap[left])) least = left;
        if (right < n && before(logits, heap[least], heap[right])) least = right;
        if (least == i) return;
        int32_t swap = heap[i];
        heap[i] = heap[least];
        heap[least] = swap;
        i = least;
    }
}

/* Moves the k first of ids[0..n) to the front, in no order. */
static void select_first(int32_t *ids, int32_t n, int32_t k, const float *logits) {
    for (int32_t i = k / 2 - 1; i >= 0; i--) sift_down(ids, k, i, logits);
    for (int32_t i = k; i < n; i++) {
        if (!before(logits, ids[i], ids[0])) continue;
        ids[0] = ids[i];
        sift_down(ids, k, 0, logits);
    }
}

static int32_t argmax(const float *logits, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Cuts the sorted ids to the smallest set whose probability reaches top_p, then to those with at least min_p
 * of the first one's. weight[i] belongs to ids[i], total to all tokens that were there before. */
static int32_t cut_tail(const outrider_settings *s, const float *weight, int32_t n, double total) {
    double cumulated = 0;
    int32_t keep = 0;
    while (keep < n && (keep == 0 || s->top_p >= 1 || cumulated < s->top_p * total))
        cumulated += weight[keep++];
    while (keep > 1 && weight[keep - 1] < s->min_p * weight[0]) keep--;
    return keep;
}

/* Drops from ids all that top-p or min-p would drop anyway, so that little is left to sort: tokens below
 * (1 - top_p) / n of the total hold less than 1 - top_p together, so the nucleus lies in the others. */
static int32_t drop_hopeless(const outrider_settings *s, int32_t *ids, float *weight, int32_t n,
                             double total) {
    double least = s->top_p < 1 ? (1 - (double)s->top_p) * total / n * 0.5 : 0;
    if (s->min_p * 0.5 > least) least = s->min_p * 0.5; /* the greatest weight is 1 */
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        if (weight[i] < least) continue;
        ids[kept] = ids[i];
        weight[kept++] = weight[i];
    }
    return kept;
}

/* weight[i] = exp((logit - top) / temperature), at most 1; returns the sum. An infinite top takes all. */
static double weigh(const float *logits, float top, float temperature, const int32_t *ids, int32_t n,
                    float *weight) {
    double total = 0;
    for (int32_t i = 0; i < n; i++) {
        float below = logits[ids[i]] == top ? 0 : logits[ids[i]] - top;
        weight[i] = expf(below / temperature);
        total += weight[i];
    }
    return total;
}

outrider_status sampler_fail_impossible(void) {
    return fail(OUTRIDER_EFAIL, "no token is possible: all logits are minus infinity or not numbers");
}

outrider_status sampler_distribution(struct sampler *sampler, const float *logits, const int32_t *history,
                                     size_t n_history, struct distribution *out) {
    const outrider_settings *s = &sampler->s;
    float *l = sampler->logits;
    int32_t vocab = sampler->vocab_size, n = 0, *ids = sampler->order;

    memcpy(l, logits, (size_t)vocab * sizeof *l);
    for (size_t i = 0; i < s->n_logit_bias; i++) l[s->logit_bias[i].token] += s->logit_bias[i].bias;
    if (has_penalty(s)) apply_penalties(sampler, history, n_history);
    for (int32_t i = 0; i < vocab; i++) {
        if (!(l[i] > -INFINITY)) l[i] = -INFINITY; /* NaN too */
        ids[n] = i;
        n += l[i] > -INFINITY;
    }
    if (n == 0) return sampler_fail_impossible();
    int32_t best = argmax(l, vocab);
    if (s->temperature == 0) {
        distribution_set(out, best);
        return OUTRIDER_OK;
    }

    if (s->top_k > 0 && s->top_k < n) {
        select_first(ids, n, s->top_k, l);
        n = s->top_k;
    }
    double total = weigh(l, l[best], s->temperature, ids, n, out->p);
    if (s->top_p < 1 || s->min_p > 0) {
        n = drop_hopeless(s, ids, out->p, n, total);
        qsort_r(ids, (size_t)n, sizeof *ids, compare, l);
        weigh(l, l[best], s->temperature, ids, n, out->p);
        n = cut_tail(s, out->p, n, total);
        total = 0;
        for (int32_t i = 0; i < n; i++) total += out->p[i];
    }
    for (int32_t i = 0; i < n; i++) out->p[i] = (float)(out->p[i] / total);
    memcpy(out->id, ids, (size_t)n * sizeof *ids);
    out->n = n;
    return OUTRIDER_OK;
}

/* Logits to distribution to token (see sampler.h). Every step is a pure function of its arguments; the
 * scratch in struct sampler carries nothing from call to call. */
#include "runtime/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"

int32_t sampler_gumbel_pick(uint64_t seed, int32_t position, const struct distribution *d) {
    int32_t best = d->id[0];
    double best_score = -INFINITY;
    for (int32_t i = 0; i < d->n; i++) {
        if (d->p[i] == 0) continue;
        const double score = gumbel_score(seed, position, d->id[i], d->p[i]);
        if (score > best_score) best = d->id[i], best_score = score;
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

static int by_token(const void *a, const void *b) {
    const outrider_logit_bias *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

/* One bias a token: the sum of what is given for it. */
static size_t join_biases(outrider_logit_bias *bias, size_t n) {
    size_t joined = 0;
    qsort(bias, n, sizeof *bias, by_token);
    for (size_t i = 0; i < n; i++) {
        if (joined > 0 && bias[joined - 1].token == bias[i].token)
            bias[joined - 1].bias += bias[i].bias;
        else
            bias[joined++] = bias[i];
    }
    return joined;
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
    sampler->s.n_logit_bias = join_biases(bias, n_bias);
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

int32_t sampler_window(const struct sampler *sampler) {
    if (!has_penalty(&sampler->s)) return 0;
    return sampler->s.repeat_last_n < 0 ? INT32_MAX : sampler->s.repeat_last_n;
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
        *l = penalise(*l, s->repeat_penalty, s->presence_penalty, s->frequency_penalty, count);
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

/* The k-th of ids[0..n) in order; their order is lost. */
static int32_t select_kth(int32_t *ids, int32_t n, int32_t k, const float *logits) {
    for (int32_t i = k / 2 - 1; i >= 0; i--) sift_down(ids, k, i, logits);
    for (int32_t i = k; i < n; i++) {
        if (!before(logits, ids[i], ids[0])) continue;
        ids[0] = ids[i];
        sift_down(ids, k, 0, logits);
    }
    return ids[0];
}

static int32_t argmax(const float *logits, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static uint64_t weight(const struct sampler *sampler, int32_t best, int32_t token) {
    return weight_below(sampler->logits[token], sampler->logits[best], sampler->s.temperature);
}

static uint64_t total_weight(const struct sampler *sampler, int32_t best, const int32_t *ids, int32_t n) {
    uint64_t total = 0;
    for (int32_t i = 0; i < n; i++) total += weight(sampler, best, ids[i]);
    return total;
}

/* Leaves in ids, in order of id, those that are not after `last`. */
static int32_t keep_until(const float *logits, int32_t last, int32_t vocab, int32_t *ids) {
    int32_t n = 0;
    for (int32_t i = 0; i < vocab; i++)
        if (!before(logits, last, i)) ids[n++] = i;
    return n;
}

/* The last token, in order of falling logits, of the smallest set whose weight reaches top_p of `total`. ids
 * are lost. */
static int32_t last_of_nucleus(const struct sampler *sampler, int32_t best, int32_t *ids, int32_t n,
                               uint64_t total) {
    const outrider_settings *s = &sampler->s;
    /* First all goes that would be dropped anyway, so that little is left to sort: tokens below (1 - top_p) /
     * n of the total hold less than 1 - top_p together, so the nucleus lies in the others. */
    double hopeless = (1 - (double)s->top_p) * (double)total / n * 0.5;
    if (hopeless < 0.5 * (double)least_weight(s->min_p)) hopeless = 0.5 * (double)least_weight(s->min_p);
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if ((double)weight(sampler, best, ids[i]) >= hopeless) ids[kept++] = ids[i];
    qsort_r(ids, (size_t)kept, sizeof *ids, compare, sampler->logits);
    const uint64_t target = nucleus_of(s->top_p, total);
    int32_t last = 0;
    for (uint64_t sum = weight(sampler, best, ids[0]); sum < target && last + 1 < kept;)
        sum += weight(sampler, best, ids[++last]);
    return ids[last];
}

/* Drops from ids those with under min_p of the greatest weight. */
static int32_t drop_unlikely(const struct sampler *sampler, int32_t best, int32_t *ids, int32_t n) {
    const uint64_t least = least_weight(sampler->s.min_p);
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (weight(sampler, best, ids[i]) >= least) ids[kept++] = ids[i];
    return kept;
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

    if (s->top_k > 0 && s->top_k < n) n = keep_until(l, select_kth(ids, n, s->top_k, l), vocab, ids);
    uint64_t total = total_weight(sampler, best, ids, n);
    if (s->top_p < 1) n = keep_until(l, last_of_nucleus(sampler, best, ids, n, total), vocab, ids);
    if (s->min_p > 0) n = drop_unlikely(sampler, best, ids, n);
    total = total_weight(sampler, best, ids, n);
    for (int32_t i = 0; i < n; i++) out->p[i] = share_of(weight(sampler, best, ids[i]), total);
    memcpy(out->id, ids, (size_t)n * sizeof *ids);
    out->n = n;
    return OUTRIDER_OK;
}

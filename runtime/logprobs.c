/* Log-probabilities of written tokens, from the verifier's logits as they came: no penalty, temperature or
 * cut. They change nothing about the text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/status.h"

static size_t width(const outrider_session *s) {
    return (size_t)s->n_logprobs + 1;
}

outrider_status logprobs_reserve(outrider_session *s, int32_t n) {
    if (s->stats.n_predict == 0) s->n_logprobs = s->sampler.s.n_logprobs;
    size_t need = ((size_t)s->stats.n_predict + (size_t)n) * width(s);
    if (s->n_logprobs == 0 || need <= s->logprobs_capacity) return OUTRIDER_OK;
    outrider_logprob *grown = realloc(s->logprobs, need * 2 * sizeof *grown);
    if (!grown) return fail_memory("log-probabilities", need * 2 * sizeof *grown);
    s->logprobs = grown;
    s->logprobs_capacity = need * 2;
    return OUTRIDER_OK;
}

/* The n greatest logits in falling order; the lower token first where two are equal. */
static void greatest(const float *logits, int32_t vocab, outrider_logprob *top, int32_t n) {
    int32_t found = 0;
    for (int32_t t = 0; t < vocab; t++) {
        if (found == n && !(logits[t] > top[n - 1].logprob)) continue;
        int32_t at = found < n ? found++ : n - 1;
        for (; at > 0 && logits[t] > top[at - 1].logprob; at--) top[at] = top[at - 1];
        top[at] = (outrider_logprob){t, logits[t]};
    }
}

/* In double, relative to the greatest, so that nothing overflows. */
static double log_sum(const float *logits, int32_t vocab, float most) {
    double sum = 0;
    for (int32_t t = 0; t < vocab; t++) sum += exp((double)logits[t] - most);
    return most + log(sum);
}

void logprobs_note(outrider_session *s, const float *logits, int32_t token) {
    int32_t vocab = s->engine->model[OUTRIDER_VERIFIER]->config.vocab_size, n = s->n_logprobs;
    outrider_logprob *out = s->logprobs + (size_t)s->stats.n_predict * width(s);
    for (int32_t i = 0; i <= n; i++) out[i] = (outrider_logprob){-1, -INFINITY}; /* a small vocabulary */
    greatest(logits, vocab, out + 1, n < vocab ? n : vocab);
    double total = log_sum(logits, vocab, out[1].logprob);
    out[0] = (outrider_logprob){token, logits[token]};
    for (int32_t i = 0; i <= n; i++) out[i].logprob = (float)(out[i].logprob - total);
}

const outrider_logprob *outrider_session_logprobs(const outrider_session *s, size_t i, size_t *n) {
    *n = s->n_logprobs > 0 && i < (size_t)s->stats.n_predict ? width(s) : 0;
    return *n ? s->logprobs + i * width(s) : NULL;
}

/* Scores: the logits after every token of a text that is given, for perplexity and for comparing models. A
 * scorer holds a place in the cache; nothing is sampled and no session is touched. */
#include <math.h>
#include <stdlib.h>

#include "runtime/engine.h"
#include "runtime/status.h"

_Static_assert((int)OUTRIDER_SCORE_ROWS == (int)SCORE_CHUNK,
               "the public header names the rows of a scoring pass");

struct outrider_scorer {
    outrider_engine *engine;
    int32_t slot, n; /* tokens read */
};

static int32_t vocab_of(const outrider_engine *e) {
    return e->model[OUTRIDER_VERIFIER]->config.vocab_size;
}

outrider_status outrider_scorer_open(outrider_engine *e, outrider_scorer **out) {
    outrider_scorer *s = malloc(sizeof *s);
    *out = NULL;
    if (!s) return fail_memory("a scorer", sizeof *s);
    *s = (outrider_scorer){.engine = e};
    outrider_status status = kv_acquire(e->kv, &s->slot);
    if (status != OUTRIDER_OK)
        free(s);
    else
        *out = s;
    return status;
}

void outrider_scorer_close(outrider_scorer *s) {
    if (!s) return;
    kv_release(s->engine->kv, s->slot);
    free(s);
}

/* A damaged model must not pass for a bad one. Minus infinity is a logit, all of them are not. */
static outrider_status check_logits(const float *logits, int32_t vocab, int32_t place) {
    float top = -INFINITY;
    bool numbers = true;
    for (int32_t i = 0; i < vocab; i++) {
        numbers &= logits[i] < INFINITY; /* false for NaN too */
        top = logits[i] > top ? logits[i] : top;
    }
    if (numbers && top > -INFINITY) return OUTRIDER_OK;
    return fail(OUTRIDER_EFAIL,
                "the logits after token %d are not numbers: the model's weights are damaged, "
                "or too large for its number format",
                place);
}

static outrider_status check_tokens(const outrider_engine *e, const int32_t *tokens, int32_t n,
                                    int32_t from) {
    if (n < 1 || n > SCORE_CHUNK || n > e->ctx_size - from)
        return fail(OUTRIDER_EINVAL,
                    "%d tokens to score at place %d: must be from 1 to %d, within the context's "
                    "%d",
                    n, from, SCORE_CHUNK, e->ctx_size);
    for (int32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab_of(e))
            return fail(OUTRIDER_EINVAL, "token %d at place %d: the vocabulary has %d", tokens[i], from + i,
                        vocab_of(e));
    return OUTRIDER_OK;
}

outrider_status outrider_scorer_read(outrider_scorer *s, const int32_t *tokens, int32_t n,
                                     const float **logits) {
    outrider_engine *e = s->engine;
    TRY(check_tokens(e, tokens, n, s->n));
    TRY(kv_reserve(e->kv, s->slot, OUTRIDER_VERIFIER, n));
    batch_clear(e);
    for (int32_t i = 0; i < n; i++) batch_add(e, s->slot, s->n + i, tokens[i]);
    batch_upload(e);
    batch_pass(e, OUTRIDER_VERIFIER, 0, n, n, false);
    TRY(batch_logits(e, OUTRIDER_VERIFIER, n));
    kv_advance(e->kv, s->slot, OUTRIDER_VERIFIER, n);
    for (int32_t i = 0; i < n; i++)
        TRY(check_logits(e->logits + (size_t)i * (size_t)vocab_of(e), vocab_of(e), s->n + i));
    s->n += n;
    *logits = e->logits;
    return OUTRIDER_OK;
}

static float nll_of(const float *logits, int32_t vocab, int32_t token) {
    float top = logits[0];
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > top) top = logits[i];
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++) sum += expf(logits[i] - top);
    return (float)(log(sum) + top - logits[token]);
}

outrider_status outrider_score(outrider_engine *e, const int32_t *tokens, size_t n, float *nll) {
    outrider_scorer *s;
    if (n < 2 || n > (size_t)e->ctx_size)
        return fail(OUTRIDER_EINVAL, "%zu tokens to score: must be from 2 to the context's %d", n,
                    e->ctx_size);
    int32_t last = (int32_t)n - 1, vocab = vocab_of(e);
    if (tokens[last] < 0 || tokens[last] >= vocab)
        return fail(OUTRIDER_EINVAL, "token %d at place %d: the vocabulary has %d", tokens[last], last,
                    vocab);
    TRY(outrider_scorer_open(e, &s));
    outrider_status status = OUTRIDER_OK;
    for (int32_t from = 0; from < last && status == OUTRIDER_OK; from += SCORE_CHUNK) {
        int32_t take = last - from < SCORE_CHUNK ? last - from : SCORE_CHUNK;
        const float *logits;
        status = outrider_scorer_read(s, tokens + from, take, &logits);
        for (int32_t i = 0; i < take && status == OUTRIDER_OK; i++)
            nll[from + i] = nll_of(logits + (size_t)i * (size_t)vocab, vocab, tokens[from + i + 1]);
    }
    outrider_scorer_close(s);
    return status;
}

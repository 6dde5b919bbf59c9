/* Sampling and acceptance on the device: what of a session's settings and text goes there, and what comes
 * back.
 *
 * The device writes the tokens that sampler.c and accept.c would (ops.h), so a round may take either way. It
 * takes the host's when the backend knows no other, when all sessions are greedy (an argmax is all they
 * need), or when one asks for more than the device was given room for, or for the logits themselves. */
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/status.h"

/* Room for biases and for the tokens that penalties look back on, of all sessions; and for distributions,
 * enough for 16 sessions with the most proposals. */
enum { MOST_EXTRA = 1 << 16, MOST_ROWS = 16 * (OUTRIDER_MAX_DRAFT + 1) };

outrider_status trials_create(outrider_engine *e, int32_t max_rows) {
    struct batch *b = &e->batch;
    size_t vocab = (size_t)e->model[OUTRIDER_VERIFIER]->config.vocab_size;
    if (!e->ops->propose) return OUTRIDER_OK;
    b->trial_rows = max_rows < MOST_ROWS ? max_rows : MOST_ROWS;
    size_t trials = MAX_BATCH_SESSIONS * sizeof *b->trials, extra = MOST_EXTRA * sizeof *b->extra,
           rows = (size_t)b->trial_rows * vocab * sizeof *b->q;
    b->trials = malloc(trials);
    b->extra = malloc(extra);
    if (!b->trials || !b->extra) return fail_memory("the trials of a round", trials + extra);
    TRY(e->ops->alloc(e->be, trials, (void **)&b->device_trials));
    TRY(e->ops->alloc(e->be, extra, (void **)&b->device_extra));
    TRY(e->ops->alloc(e->be, rows, (void **)&b->q));
    return e->ops->alloc(e->be, rows, (void **)&b->p);
}

void trials_destroy(outrider_engine *e) {
    struct batch *b = &e->batch;
    free(b->trials);
    free(b->extra);
    void *device[] = {b->device_trials, b->device_extra, b->q, b->p};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) e->ops->release(e->be, device[i]);
}

/* Puts n words behind the others and says where they begin; the caller has looked whether they fit. */
static int32_t put(struct batch *b, const void *words, int32_t n) {
    if (n > 0) memcpy(b->extra + b->n_extra, words, (size_t)n * sizeof *b->extra);
    b->n_extra += n;
    return b->n_extra - n;
}

/* False when it does not fit. */
static bool add_trial(struct batch *b, const outrider_session *s) {
    const outrider_settings *set = &s->sampler.s;
    const int32_t window = sampler_window(&s->sampler), n_history = window < s->n ? window : s->n;
    if (s->n_logprobs > 0 || set->n_logit_bias > MOST_EXTRA / 2) return false;
    const int32_t n_bias = (int32_t)set->n_logit_bias;
    if (2 * n_bias + n_history > MOST_EXTRA - b->n_extra) return false;
    struct trial *t = &b->trials[b->n_trials++];
    *t = (struct trial){.temperature = set->temperature,
                        .top_p = set->top_p,
                        .min_p = set->min_p,
                        .repeat_penalty = set->repeat_penalty,
                        .presence_penalty = set->presence_penalty,
                        .frequency_penalty = set->frequency_penalty,
                        .top_k = set->top_k,
                        .rule = (int32_t)set->accept,
                        .seed = set->seed,
                        .place = s->n,
                        .k = s->k,
                        .certain = drafted_by(s, DRAFTER_NGRAM),
                        .window = window < s->n + s->k ? window : s->n + s->k,
                        .n_history = n_history,
                        .n_bias = n_bias,
                        .bias = b->n_extra};
    for (int32_t i = 0; i < n_bias; i++) put(b, &set->logit_bias[i].token, 1);
    for (int32_t i = 0; i < n_bias; i++) put(b, &set->logit_bias[i].bias, 1);
    t->history = put(b, s->tokens + s->n - n_history, n_history);
    memcpy(t->row, s->row, ((size_t)s->k + 1) * sizeof *t->row);
    return true;
}

void trials_send(outrider_engine *e, outrider_session *const *sessions, size_t n) {
    struct batch *b = &e->batch;
    bool sampling = false, fits = b->n <= b->trial_rows;
    b->n_trials = b->n_extra = 0;
    for (size_t i = 0; i < n && fits; i++) {
        sampling |= !sampler_is_argmax(&sessions[i]->sampler);
        fits = add_trial(b, sessions[i]);
    }
    b->on_device = fits && sampling;
    if (!b->on_device) return;
    e->ops->upload(e->be, b->device_trials, b->trials, (size_t)b->n_trials * sizeof *b->trials);
    if (b->n_extra > 0)
        e->ops->upload(e->be, b->device_extra, b->extra, (size_t)b->n_extra * sizeof *b->extra);
}

void trials_propose(outrider_engine *e, outrider_which which, int32_t first, int32_t n, int32_t step) {
    const struct batch *b = &e->batch;
    const struct model *m = e->model[which];
    e->ops->propose(e->be, b->device_trials + first, b->device_extra, n, step, m->logits,
                    m->config.vocab_size, batch_tokens(e), b->q);
}

void trials_judge(outrider_engine *e) {
    const struct batch *b = &e->batch;
    const struct model *m = e->model[OUTRIDER_VERIFIER];
    int32_t most = 0;
    for (int32_t i = 0; i < b->n_trials; i++)
        if (b->trials[i].k > most) most = b->trials[i].k;
    e->ops->judge(e->be, b->device_trials, b->device_extra, b->n_trials, most, m->logits,
                  m->config.vocab_size, batch_tokens(e), b->q, b->p, (struct verdict *)batch_picks(e));
}

struct accepted trials_verdict(const outrider_engine *e, int32_t i) {
    return (struct accepted){batch_pick(e, 2 * i), batch_pick(e, 2 * i + 1)};
}

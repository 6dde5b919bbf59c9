/* Proposers. The draft model writes up to K tokens a session, all sessions in one pass a step.
 *
 * The draft reads the same pages as the verifier and may lag behind it: after a fully accepted run by the
 * last proposal, after a prompt by all of it. draft_catch_up reads a long lag in chunks between rounds, so
 * that the first token never waits for it; the one or two tokens of an ordinary lag ride in the first step's
 * pass. What is proposed decides speed only, never text. */
#include "runtime/engine.h"
#include "runtime/status.h"

enum { MAX_LAG = 4 }; /* unread tokens that the first step takes along */

void draft_catch_up(outrider_session *s, bool *ready) {
    outrider_engine *e = s->engine;
    int32_t read = kv_len(e->kv, s->slot, OUTRIDER_DRAFT);
    *ready = s->n - read <= MAX_LAG;
    if (*ready || s->stats.n_predict == 0) return; /* the first token does not wait for the draft */
    int32_t border = (read / PREFILL_CHUNK + 1) * PREFILL_CHUNK, end = border < s->n - 1 ? border : s->n - 1;
    if (kv_reserve(e->kv, s->slot, OUTRIDER_DRAFT, end - read) != OUTRIDER_OK) return; /* go on plain */
    batch_clear(e);
    for (int32_t i = read; i < end; i++) batch_add(e, s->slot, i, s->tokens[i]);
    batch_run(e, OUTRIDER_DRAFT, true, NULL, 0);
    kv_advance(e->kv, s->slot, OUTRIDER_DRAFT, end - read);
    *ready = s->n - end <= MAX_LAG;
}

/* The session's tokens that the draft must read before it can propose token `step`. */
static int32_t add_unread(outrider_session *s, int32_t step) {
    outrider_engine *e = s->engine;
    int32_t read = kv_len(e->kv, s->slot, OUTRIDER_DRAFT), end = s->n + step;
    for (int32_t i = read; i < end; i++)
        batch_add(e, s->slot, i, i < s->n ? s->tokens[i] : s->proposed[i - s->n]);
    kv_advance(e->kv, s->slot, OUTRIDER_DRAFT, end - read);
    return end - read;
}

static outrider_status pick(outrider_session *s, int32_t step, const float *logits) {
    TRY(session_distribution(s, logits, step, &s->q[step]));
    const outrider_settings *set = &s->sampler.s;
    int32_t position = s->n + step;
    if (set->accept == OUTRIDER_ACCEPT_COUPLED || set->temperature == 0)
        s->proposed[step] = sampler_gumbel_pick(set->seed, position, &s->q[step]);
    else
        s->proposed[step] =
            distribution_draw(&s->q[step], rng_uniform(set->seed, RNG_PROPOSE, position, s->n));
    return OUTRIDER_OK;
}

/* One step for the sessions that want more than `step` proposals. */
static outrider_status step_all(outrider_engine *e, outrider_session *const *sessions, size_t n,
                                int32_t step) {
    int32_t pick_row[MAX_BATCH_SESSIONS], n_pick = 0;
    bool need_logits = false, need_argmax = false, every_row = true;
    int32_t vocab = e->model[OUTRIDER_DRAFT]->config.vocab_size;
    batch_clear(e);
    for (size_t i = 0; i < n; i++) {
        if (sessions[i]->k <= step) continue;
        every_row &= add_unread(sessions[i], step) == 1;
        pick_row[n_pick++] = e->batch.n - 1;
        *(sampler_is_argmax(&sessions[i]->sampler) ? &need_argmax : &need_logits) = true;
        sessions[i]->stats.n_draft_steps++;
    }
    batch_run(e, OUTRIDER_DRAFT, false, every_row ? NULL : pick_row, n_pick);
    if (need_logits) TRY(batch_logits(e, OUTRIDER_DRAFT, n_pick));
    if (need_argmax) TRY(batch_argmax(e, OUTRIDER_DRAFT, n_pick));
    for (size_t i = 0, row = 0; i < n; i++) {
        outrider_session *s = sessions[i];
        if (s->k <= step) continue;
        if (sampler_is_argmax(&s->sampler))
            s->proposed[step] = e->scratch.picks[row];
        else
            TRY(pick(s, step, e->scratch.logits + row * (size_t)vocab));
        row++;
    }
    return OUTRIDER_OK;
}

outrider_status draft_propose(outrider_engine *e, outrider_session *const *sessions, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        outrider_session *s = sessions[i];
        if (s->k == 0) continue;
        int32_t lag = s->n - kv_len(e->kv, s->slot, OUTRIDER_DRAFT);
        if (kv_reserve(e->kv, s->slot, OUTRIDER_DRAFT, lag + s->k - 1) != OUTRIDER_OK) s->k = 0;
        if (s->k > most) most = s->k;
    }
    for (int32_t step = 0; step < most; step++) TRY(step_all(e, sessions, n, step));
    return OUTRIDER_OK;
}

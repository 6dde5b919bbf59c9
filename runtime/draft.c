/* Proposers. The draft model writes up to K tokens a session, all sessions in one pass a step.
 *
 * The draft reads the same pages as the verifier and may lag behind it: after a fully accepted run by the
 * last proposal, after a prompt by all of it. An answer's first token is written without it, so that it never
 * waits for the draft; then draft_catch_up reads a long lag in chunks between rounds, and the few tokens of
 * an ordinary lag ride in the first step's pass. What is proposed decides speed only, never text.
 *
 * The draft may be the verifier's own first layers (Zhang et al. 2024, Elhoushi et al. 2024). Then it lags
 * behind nothing: the keys and values of those layers are where the verifier left them. Those it writes for
 * its proposals lie in pages the round has reserved, at places that the verify writes again before it reads
 * them, with the same bits (a row's bits depend on nothing but its sequence); so nothing is held twice, the
 * cache counts the verifier's tokens only, and its rollback is theirs. Both may serve a session in turn, and
 * different sessions of one round. */
#include "runtime/engine.h"
#include "runtime/status.h"

void draft_catch_up(outrider_session *s, bool *ready) {
    outrider_engine *e = s->engine;
    int32_t read = kv_len(e->kv, s->slot, OUTRIDER_DRAFT);
    bool first = s->stats.n_predict == 0; /* which waits for no draft */
    *ready = !first && s->n - 1 - read <= MAX_LAG;
    if (*ready || first) return;
    int32_t border = (read / PREFILL_CHUNK + 1) * PREFILL_CHUNK, end = border < s->n - 1 ? border : s->n - 1;
    if (kv_reserve(e->kv, s->slot, OUTRIDER_DRAFT, end - read) != OUTRIDER_OK) return; /* go on plain */
    e->unusual = true;
    batch_clear(e);
    for (int32_t i = read; i < end; i++) batch_add(e, s->slot, i, s->tokens[i]);
    batch_upload(e);
    batch_pass(e, OUTRIDER_DRAFT, 0, end - read, 0, true);
    kv_advance(e->kv, s->slot, OUTRIDER_DRAFT, end - read);
    *ready = s->n - 1 - end <= MAX_LAG;
}

/* The draft reads the first tokens of a prompt and says which should follow the last of them: one that is of
 * use guesses a third of them or so, one that guesses none is of no use for what follows either. By what
 * stands written already, so that no random number of the round has part in it. */
static outrider_status probe(outrider_session *s, int32_t lag, bool *useful) {
    enum { MOST_READ = 24, MOST_JUDGED = 16 };
    outrider_engine *e = s->engine;
    const int32_t n = lag < MOST_READ ? lag : MOST_READ, judged = n < MOST_JUDGED ? n : MOST_JUDGED;
    int32_t hits = 0;
    if (kv_reserve(e->kv, s->slot, OUTRIDER_DRAFT, n) != OUTRIDER_OK) return OUTRIDER_OK;
    e->unusual = true;
    batch_clear(e);
    for (int32_t i = 0; i < n; i++) batch_add(e, s->slot, i, s->tokens[i]);
    batch_upload(e);
    batch_pass(e, OUTRIDER_DRAFT, 0, n, judged, false);
    TRY(batch_argmax(e, OUTRIDER_DRAFT, judged));
    kv_advance(e->kv, s->slot, OUTRIDER_DRAFT, n);
    for (int32_t i = 0; i < judged; i++) hits += batch_pick(e, i) == s->tokens[n - judged + i + 1];
    *useful = hits > 0;
    if (!*useful) controller_doubt(&s->controller[DRAFTER_MODEL]);
    return OUTRIDER_OK;
}

outrider_status draft_worth_reading(outrider_session *s, double gain, int32_t left, bool *worth) {
    enum { SHORT = 64 };
    outrider_engine *e = s->engine;
    const bool sampling = !sampler_is_argmax(&s->sampler);
    const int32_t read = kv_len(e->kv, s->slot, OUTRIDER_DRAFT), lag = s->n - 1 - read;
    *worth = lag <= MAX_LAG || s->stats.n_predict == 0; /* rides in the first step; see draft_catch_up */
    if (*worth) return OUTRIDER_OK;
    *worth = (lag <= SHORT && gain > 1) ||
             costs_worth_reading(&e->costs, gain, lag, left, s->controller[DRAFTER_MODEL].idle, sampling);
    return *worth && read == 0 ? probe(s, lag, worth) : OUTRIDER_OK;
}

static void pick(outrider_session *s, int32_t step) {
    const outrider_settings *set = &s->sampler.s;
    int32_t position = s->n + step;
    if (set->accept == OUTRIDER_ACCEPT_COUPLED || set->temperature == 0)
        s->proposed[step] = sampler_gumbel_pick(set->seed, position, &s->q[step]);
    else
        s->proposed[step] =
            distribution_draw(&s->q[step], rng_uniform(set->seed, RNG_PROPOSE, position, s->n));
}

/* The tokens of block step + 1 for the sessions that sample; those of the others stay what the device picked.
 */
static outrider_status sample_step(outrider_engine *e, outrider_which which,
                                   outrider_session *const *sessions, size_t active, int32_t step) {
    size_t vocab = (size_t)e->model[which]->config.vocab_size;
    TRY(batch_logits(e, which, (int32_t)active));
    for (size_t i = 0; i < active; i++) {
        outrider_session *s = sessions[i];
        if (sampler_is_argmax(&s->sampler)) continue;
        /* A draft without a possible token must not end what the verifier can go on with: any guess will do.
         */
        if (session_distribution(s, e->logits + i * vocab, step, &s->q[step]) != OUTRIDER_OK)
            distribution_set(&s->q[step], 0);
        pick(s, step);
        batch_set_token(e, s->row[step + 1], s->proposed[step]);
    }
    return OUTRIDER_OK;
}

/* Sessions [first, end) are one drafter's, by falling k. */
static outrider_status propose_with(outrider_engine *e, outrider_which which,
                                    outrider_session *const *sessions, size_t first, size_t end) {
    outrider_session *const *own = sessions + first;
    for (int32_t step = 0; own[0]->k > step; step++) {
        size_t active = 0;
        bool sampling = false;
        for (; active < end - first && own[active]->k > step; active++) {
            sampling |= !sampler_is_argmax(&own[active]->sampler);
            own[active]->stats.n_draft_steps++;
        }
        int32_t lag = step == 0 && which == OUTRIDER_DRAFT ? e->batch.n_lag : 0;
        batch_pass(e, which, own[0]->row[step] - lag, (int32_t)active + lag, (int32_t)active, false);
        if (e->batch.on_device) {
            trials_propose(e, which, (int32_t)first, (int32_t)active, step);
            continue;
        }
        batch_propose(e, which, (int32_t)active, own[0]->row[step + 1]);
        if (sampling) TRY(sample_step(e, which, own, active, step));
    }
    return OUTRIDER_OK;
}

/* A tree's levels. Its session is greedy and alone in its round. */
static void propose_tree(outrider_engine *e, outrider_session *s) {
    const struct tree *t = &e->trees[s->k];
    for (int32_t level = 1; level <= t->depth; level++) {
        const int32_t first = t->begin[level - 1], rows = t->begin[level] - first,
                      lag = level == 1 ? e->batch.n_lag : 0;
        batch_pass(e, OUTRIDER_DRAFT, first - lag, rows + lag, rows, false);
        batch_propose_level(e, t, level);
        s->stats.n_draft_steps++;
    }
}

static struct kv_place place_of(const outrider_engine *e, const outrider_session *s, int32_t position) {
    int32_t stride, size = e->options.page_size;
    const int32_t *table = kv_tables(e->kv, &stride) + (size_t)s->slot * (size_t)stride;
    return (struct kv_place){table[position / size], position % size};
}

/* Brings the first n proposals of a tree's way to their positions in a model's cache. */
static void straighten(outrider_engine *e, const outrider_session *s, outrider_which which, int32_t n) {
    struct kv_place from[TREE_ROWS], to[TREE_ROWS];
    int32_t moved = 0;
    for (int32_t i = 1; i <= n; i++) {
        const int32_t offset = e->trees[s->k].offset[s->row[i]];
        if (offset == i) continue;
        from[moved] = place_of(e, s, s->n - 1 + offset);
        to[moved++] = place_of(e, s, s->n - 1 + i);
    }
    if (moved > 0) model_move(e->model[which], moved, from, to);
}

void draft_follow_tree(outrider_engine *e, outrider_session *s) {
    const struct tree *t = &e->trees[s->k];
    int32_t token[TREE_ROWS], pick[TREE_ROWS];
    for (int32_t i = 0; i < t->n; i++) token[i] = batch_token(e, i), pick[i] = batch_pick(e, i);
    s->row[0] = 0;
    const int32_t n = tree_walk(t, token, pick, s->row + 1);
    for (int32_t i = 0; i < s->k; i++) {
        s->proposed[i] = i < n ? token[s->row[i + 1]] : -1;
        if (i >= n) s->row[i + 1] = s->row[n];
    }
    straighten(e, s, OUTRIDER_VERIFIER, n);
    straighten(e, s, OUTRIDER_DRAFT, n < s->k ? n : s->k - 1); /* it has not read the last level */
}

outrider_status draft_propose(outrider_engine *e, outrider_session *const *sessions, size_t n) {
    for (size_t first = 0, end; first < n && uses_model(sessions[first]); first = end) {
        const enum drafter by = sessions[first]->by;
        for (end = first; end < n && drafted_by(sessions[end], by);) end++;
        if (by == DRAFTER_TREE) {
            propose_tree(e, sessions[first]);
            continue;
        }
        TRY(propose_with(e, by == DRAFTER_SELF ? OUTRIDER_SELF : OUTRIDER_DRAFT, sessions, first, end));
    }
    for (size_t i = 0; i < n && uses_draft(sessions[i]); i++) {
        const outrider_session *s = sessions[i];
        int32_t read = kv_len(e->kv, s->slot, OUTRIDER_DRAFT);
        kv_advance(e->kv, s->slot, OUTRIDER_DRAFT, s->n - 1 + s->k - read);
    }
    return OUTRIDER_OK;
}

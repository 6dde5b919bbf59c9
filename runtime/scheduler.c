/* The round: read prompts, propose, verify, accept, roll back; for all sessions that ride in it.
 *
 * A prompt is read to its end as a prompt, and the pass that reads its last token also gives the logits of
 * the first token of the answer, which is written at once. From then on a session has all its tokens but the
 * last in the verifier's cache between rounds. A round feeds that last token and the k proposed after it to
 * the verifier as k + 1 rows of one pass over all sessions, decides by accept.h how many proposals stay, adds
 * the verifier's own next token, and truncates the cache to what stays. Each session's result depends on its
 * own tokens and settings only: rows are independent of their neighbours (ops.h), random numbers of
 * everything but seed and place (sampler.h). If anything fails, no session's tokens have changed, and the
 * cache is cut back to them. */
#include <math.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/status.h"

static bool running(const outrider_session *s) {
    return s->state == OUTRIDER_RUNNING;
}

/* Whether the token at a place is read as one of a prompt: when the caller wrote it or the next one. That
 * depends on the text alone, so what a waiting session lost is read again by the product that read it first,
 * and a prompt's last token by the same one whether those before it were read or shared. */
static bool as_prompt_at(const outrider_session *s, int32_t i) {
    return s->sources[i] == OUTRIDER_BY_CALLER || (i + 1 < s->n && s->sources[i + 1] == OUTRIDER_BY_CALLER);
}

/* How many tokens are to be read before a round: the last one too when it is a prompt's. */
static int32_t unwritten(const outrider_session *s) {
    return as_prompt_at(s, s->n - 1) ? s->n : s->n - 1;
}

/* Where the next pass over unread tokens ends: at a border of prompts, or where another product goes on. */
static int32_t chunk_end(const outrider_session *s, int32_t read) {
    const int32_t border = (read / PREFILL_CHUNK + 1) * PREFILL_CHUNK, all = unwritten(s);
    int32_t end = border < all ? border : all;
    bool as_prompt = as_prompt_at(s, read);
    if (!as_prompt && end > read + SCORE_CHUNK) end = read + SCORE_CHUNK;
    int32_t same = read + 1;
    while (same < end && as_prompt_at(s, same) == as_prompt) same++;
    return same;
}

/* Reads one chunk of what the verifier's cache lacks; *ready when only the last token is left, or its logits
 * are there. Without room the session waits. */
static outrider_status read_tokens(outrider_session *s, bool *ready) {
    outrider_engine *e = s->engine;
    session_share_prefix(s);
    int32_t read = kv_len(e->kv, s->slot, OUTRIDER_VERIFIER);
    s->has_logits = false;
    *ready = read == unwritten(s);
    if (*ready) return OUTRIDER_OK;

    double start = now_ms();
    bool as_prompt = as_prompt_at(s, read), again = read < s->n_known;
    int32_t end = chunk_end(s, read);
    if (again && end > s->n_known) end = s->n_known;
    if (room_reserve(s, OUTRIDER_VERIFIER, end - read) != OUTRIDER_OK) return OUTRIDER_OK;
    batch_clear(e);
    for (int32_t i = read; i < end; i++) batch_add(e, s->slot, i, s->tokens[i]);
    batch_upload(e);
    s->has_logits = end == s->n;
    batch_pass(e, OUTRIDER_VERIFIER, 0, end - read, s->has_logits, as_prompt);
    TRY(e->ops->sync(e->be));
    kv_advance(e->kv, s->slot, OUTRIDER_VERIFIER, end - read);
    if (again)
        s->stats.n_reread += end - read;
    else
        s->stats.n_read += end - read, s->n_known = end;
    if (s->n_read == read && as_prompt) s->n_read = end;
    *(s->stats.n_predict > 0 ? &s->stats.predicted_ms : &s->stats.prompt_ms) += now_ms() - start;
    *ready = end == unwritten(s);
    return OUTRIDER_OK;
}

/* The most tokens that may be proposed: never past the context, nor past what n_predict leaves to write. */
static int32_t limit_of(const outrider_session *s) {
    const outrider_settings *set = &s->sampler.s;
    int32_t limit = set->draft_n < 0 ? OUTRIDER_MAX_DRAFT : set->draft_n;
    int32_t room = s->engine->ctx_size - s->n, left = set->n_predict - s->stats.n_predict - 1;
    if (limit > room) limit = room;
    return set->n_predict >= 0 && limit > left ? left : limit;
}

/* As far as one can say: who sets no limit is taken to want a few hundred more. */
static int32_t left_to_write(const outrider_session *s) {
    enum { USUAL = 256 };
    int32_t written = s->stats.n_predict, limit = s->sampler.s.n_predict, room = s->engine->ctx_size - s->n;
    int32_t left = limit >= 0 ? limit - written : written + USUAL;
    return left < room ? left : room;
}

static void propose_ngram(outrider_session *s, int32_t k) {
    s->k = k;
    s->by = DRAFTER_NGRAM;
    memcpy(s->proposed, s->ngram, (size_t)k * sizeof *s->proposed);
}

/* Proposals can be a tree where an argmax decides, of one session; its rows must fit into the context. */
static bool may_be_tree(const outrider_session *s, size_t sessions) {
    return sessions == 1 && sampler_is_argmax(&s->sampler) && !s->sampler.s.synthetic_accept &&
           s->engine->ctx_size - s->n >= TREE_ROWS - 1;
}

/* What a drafter would do in this round: k tokens, for `gain` times plain decoding's tokens a second. */
struct offer {
    int32_t k;
    double gain;
};

static const struct offer NO_OFFER = {0, 1};

/* Where they promise the same: the draft model before the own layers before n-grams. */
static enum drafter best_of(const struct offer *offers) {
    enum drafter best = DRAFTER_MODEL;
    for (int by = DRAFTERS - 1; by >= 0; by--)
        if (offers[by].gain > offers[best].gain) best = (enum drafter)by;
    return best;
}

/* Offers of those that may propose. Returns the best, or who is to be tried in its place. */
static enum drafter collect_offers(const outrider_session *s, int32_t sessions, int32_t limit,
                                   const bool *may, struct offer *offers) {
    const struct costs *costs = &s->engine->costs;
    const bool sampling = !sampler_is_argmax(&s->sampler);
    for (int by = 0; by < DRAFTERS; by++) {
        const struct controller *c = by == DRAFTER_NGRAM  ? &s->ngram_controller[s->ngram_class]
                                     : by == DRAFTER_TREE ? &s->controller[DRAFTER_MODEL]
                                                          : &s->controller[by];
        const int32_t most = by == DRAFTER_NGRAM  ? s->n_ngram
                             : by == DRAFTER_TREE ? tree_levels(limit)
                                                  : limit;
        offers[by] = NO_OFFER;
        if (may[by])
            offers[by].k =
                controller_choose(c, costs, sessions, most, (enum drafter)by, sampling, &offers[by].gain);
    }
    offers[DRAFTER_TREE].k = tree_levels(offers[DRAFTER_TREE].k);
    const enum drafter best = best_of(offers);
    for (int by = DRAFTER_MODEL; by > DRAFTER_NGRAM && best != DRAFTER_NGRAM; by--) {
        if (!may[by] || (by == (int)best && offers[by].k > 0)) continue;
        if (by == DRAFTER_MODEL && best == DRAFTER_TREE) continue; /* which has its first choices */
        if (!controller_try(&s->controller[by], costs, sessions, limit, (enum drafter)by, sampling,
                            offers[best].gain))
            continue;
        offers[by] = (struct offer){offers[by].k > 0 ? offers[by].k : 1, 1};
        return (enum drafter)by;
    }
    return best;
}

/* Whether it can propose at once: the own layers have read what the verifier has. */
static outrider_status is_ready(outrider_session *s, enum drafter by, double gain, bool *ready) {
    bool worth = false;
    *ready = by == DRAFTER_SELF;
    if (*ready) return OUTRIDER_OK;
    TRY(draft_worth_reading(s, gain, left_to_write(s), &worth));
    if (worth) draft_catch_up(s, ready);
    return OUTRIDER_OK;
}

/* Who promises most proposes, so many tokens as promise most. */
static outrider_status choose_automatic(outrider_session *s, int32_t sessions, int32_t limit,
                                        const bool *may) {
    struct offer offers[DRAFTERS];
    if (may[DRAFTER_MODEL] || may[DRAFTER_SELF] || may[DRAFTER_NGRAM]) TRY(room_measure(s));
    if (!s->engine->costs.known) return OUTRIDER_OK;
    enum drafter by = collect_offers(s, sessions, limit, may, offers);
    for (; offers[by].k > 0; by = best_of(offers)) {
        bool ready = false;
        if (by == DRAFTER_NGRAM) return propose_ngram(s, offers[by].k), OUTRIDER_OK;
        TRY(is_ready(s, by, offers[by].gain, &ready));
        if (ready) return s->k = offers[by].k, s->by = by, OUTRIDER_OK;
        offers[by] = NO_OFFER;
    }
    return OUTRIDER_OK;
}

static outrider_status choose_k(outrider_session *s, size_t sessions) {
    const outrider_settings *set = &s->sampler.s;
    struct model *const *models = s->engine->model;
    int32_t limit = s->has_logits ? 0 : limit_of(s);
    bool may[DRAFTERS] = {[DRAFTER_MODEL] = models[OUTRIDER_DRAFT] && set->drafters & OUTRIDER_DRAFT_MODEL,
                          [DRAFTER_SELF] = models[OUTRIDER_SELF] && set->drafters & OUTRIDER_DRAFT_SELF};
    may[DRAFTER_TREE] = may[DRAFTER_MODEL] && set->drafters & OUTRIDER_DRAFT_TREE && may_be_tree(s, sessions);
    bool automatic = set->draft_n < 0, ready = true;
    s->k = s->n_ngram = 0;
    s->engine->unusual |= !automatic; /* the controller learns from what it chose */
    if (limit <= 0) return OUTRIDER_OK;
    bool alone = !may[DRAFTER_MODEL] && !may[DRAFTER_SELF];
    if ((set->drafters & OUTRIDER_DRAFT_NGRAM) && (automatic || alone)) ngram_look(s, limit);
    may[DRAFTER_NGRAM] = s->n_ngram > 0;
    if (automatic) return choose_automatic(s, (int32_t)sessions, limit, may);
    if (alone) return propose_ngram(s, s->n_ngram), OUTRIDER_OK;
    s->by = may[DRAFTER_TREE] ? DRAFTER_TREE : may[DRAFTER_MODEL] ? DRAFTER_MODEL : DRAFTER_SELF;
    if (s->by != DRAFTER_SELF) draft_catch_up(s, &ready);
    if (ready) s->k = s->by == DRAFTER_TREE ? tree_levels(limit) : limit;
    return OUTRIDER_OK;
}

/* Places of the cache that the round fills, from the last token's on. */
static int32_t places(const outrider_session *s) {
    return drafted_by(s, DRAFTER_TREE) ? s->engine->trees[s->k].n : s->k + 1;
}

/* Makes room in the cache for both models' parts of the round; a draft without room proposes nothing. False
 * when the session must wait. */
static bool reserve(outrider_session *s) {
    outrider_engine *e = s->engine;
    if (uses_draft(s)) {
        int32_t unread = s->n - 1 - kv_len(e->kv, s->slot, OUTRIDER_DRAFT);
        if (kv_reserve(e->kv, s->slot, OUTRIDER_DRAFT, unread + places(s)) != OUTRIDER_OK) s->k = 0;
    }
    if (room_reserve(s, OUTRIDER_VERIFIER, places(s)) == OUTRIDER_OK) return true;
    kv_truncate(e->kv, s->slot, s->n - 1);
    return false;
}

/* Leaves in sessions[0..*n) those that have room; they stand oldest first, so that none takes the pages of
 * one that was left in before. */
static outrider_status reserve_all(outrider_session **sessions, size_t *n) {
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++) {
        outrider_session *s = sessions[i];
        TRY(logprobs_reserve(s, s->k + 1));
        TRY(session_reserve_text(s, s->k + 1));
        if (s->admitted && (s->has_logits || reserve(s))) sessions[kept++] = s;
    }
    *n = kept;
    return OUTRIDER_OK;
}

/* a before b: by drafter, the draft model first, those without a model last; then by falling k. */
static bool before(const outrider_session *a, const outrider_session *b) {
    const enum drafter of_a = a->k > 0 ? a->by : DRAFTER_NGRAM, of_b = b->k > 0 ? b->by : DRAFTER_NGRAM;
    return of_a != of_b ? of_a > of_b : a->k > b->k;
}

/* Sorts the sessions, and lays out the round's rows as batch.c draws them. */
static void lay_rows(outrider_engine *e, outrider_session **sessions, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        outrider_session *s = sessions[i];
        size_t j = i;
        for (; j > 0 && before(s, sessions[j - 1]); j--) sessions[j] = sessions[j - 1];
        sessions[j] = s;
        if (s->k > most) most = s->k;
    }
    batch_clear(e);
    for (size_t i = 0; i < n && uses_draft(sessions[i]); i++) {
        outrider_session *s = sessions[i];
        for (int32_t p = kv_len(e->kv, s->slot, OUTRIDER_DRAFT); p < s->n - 1; p++)
            batch_add_lag(e, s->slot, p, s->tokens[p]);
    }
    const bool tree = drafted_by(sessions[0], DRAFTER_TREE);
    const int32_t last = sessions[0]->n - 1;
    if (tree)
        batch_add_tree(e, sessions[0]->slot, last, sessions[0]->tokens[last], &e->trees[sessions[0]->k]);
    for (int32_t block = 0; block <= most && !tree; block++)
        for (size_t i = 0; i < n; i++) {
            outrider_session *s = sessions[i];
            if (s->k < block) continue;
            s->row[block] = e->batch.n;
            batch_add(e, s->slot, s->n - 1 + block,
                      block == 0                     ? s->tokens[s->n - 1]
                      : drafted_by(s, DRAFTER_NGRAM) ? s->proposed[block - 1]
                                                     : 0);
        }
    batch_upload(e);
    trials_send(e, sessions, n);
}

/* The distributions of proposals that were not drawn: 1 for each. */
static void certain(outrider_session *s) {
    for (int32_t i = 0; i < s->k; i++) distribution_set(&s->q[i], s->proposed[i]);
}

/* One pass of the verifier over all rows, unless it has left their logits; tokens and what is needed to judge
 * them come to the host. */
static outrider_status verify(outrider_engine *e, outrider_session *const *sessions, size_t n) {
    bool sampling = false;
    const bool passed = sessions[0]->has_logits;
    if (!passed) batch_pass(e, OUTRIDER_VERIFIER, 0, e->batch.n, e->batch.n, false);
    TRY(batch_fetch(e));
    for (size_t i = 0; i < n; i++) {
        outrider_session *s = sessions[i];
        if (!passed) kv_advance(e->kv, s->slot, OUTRIDER_VERIFIER, s->k + 1);
        const bool tree = drafted_by(s, DRAFTER_TREE);
        if (tree) draft_follow_tree(e, s);
        for (int32_t j = 0; j < s->k && !tree; j++) s->proposed[j] = batch_token(e, s->row[j + 1]);
        if (e->batch.on_device) continue;
        if (drafted_by(s, DRAFTER_NGRAM)) certain(s);
        sampling |= !sampler_is_argmax(&s->sampler) || s->n_logprobs > 0;
        for (int32_t j = 0; j <= s->k; j++) sampling |= batch_pick(e, s->row[j]) == 0; /* see no_token */
    }
    return sampling ? batch_logits(e, OUTRIDER_VERIFIER, e->batch.n) : OUTRIDER_OK;
}

/* An argmax of 0 also stands for a row of nothing but NaN and -inf, which must not become text. Token 0 is
 * hardly ever written, so that fetching its logits costs nothing. */
static bool no_token(const outrider_engine *e, const outrider_session *s, int32_t i) {
    size_t vocab = (size_t)e->model[OUTRIDER_VERIFIER]->config.vocab_size;
    return batch_pick(e, s->row[i]) == 0 && !(e->logits[(size_t)s->row[i] * vocab] > -INFINITY);
}

/* What the device has decided about the i-th session; else the verifier's distributions at the places that
 * were proposed for, and the acceptance rule on them. */
static outrider_status judge_by_rule(outrider_session *s, int32_t i_session, struct accepted *out) {
    const outrider_engine *e = s->engine;
    const outrider_settings *set = &s->sampler.s;
    int32_t picks[OUTRIDER_MAX_DRAFT + 1];
    if (e->batch.on_device) {
        *out = trials_verdict(e, i_session);
        return out->n < 0 ? sampler_fail_impossible() : OUTRIDER_OK;
    }
    if (sampler_is_argmax(&s->sampler)) {
        for (int32_t i = 0; i <= s->k; i++) picks[i] = batch_pick(e, s->row[i]);
        *out = accept_equal(s->k, s->proposed, picks);
        for (int32_t i = 0; i <= out->n; i++) {
            if (!no_token(e, s, i)) continue;
            if (i == 0) return sampler_fail_impossible();
            *out = (struct accepted){i - 1, picks[i - 1]};
        }
        return OUTRIDER_OK;
    }
    size_t vocab = (size_t)e->model[OUTRIDER_VERIFIER]->config.vocab_size;
    int32_t k = s->k;
    for (int32_t i = 0; i <= k; i++) {
        if (session_distribution(s, e->logits + (size_t)s->row[i] * vocab, i, &s->p[i]) == OUTRIDER_OK)
            continue;
        if (i == 0) return OUTRIDER_EFAIL;
        k = i - 1; /* without a token after it, this proposal is not for this round to judge */
    }
    if (set->accept == OUTRIDER_ACCEPT_COUPLED || set->temperature == 0) {
        for (int32_t i = 0; i <= k; i++) picks[i] = sampler_gumbel_pick(set->seed, s->n + i, &s->p[i]);
        *out = accept_equal(k, s->proposed, picks);
        return OUTRIDER_OK;
    }
    double u[OUTRIDER_MAX_DRAFT], last = rng_uniform(set->seed, RNG_FINAL, s->n, s->n);
    for (int32_t i = 0; i < k; i++) u[i] = rng_uniform(set->seed, RNG_ACCEPT, s->n + i, s->n);
    *out = (set->accept == OUTRIDER_ACCEPT_BLOCK ? accept_block : accept_rejection)(k, s->proposed, s->q,
                                                                                    s->p, u, last, e->dense);
    return OUTRIDER_OK;
}

static outrider_status judge(outrider_session *s, int32_t i_session, struct accepted *out) {
    const outrider_settings *set = &s->sampler.s;
    TRY(judge_by_rule(s, i_session, out));
    if (!set->synthetic_accept) return OUTRIDER_OK;
    for (out->n = 0; out->n < s->k; out->n++)
        if (!(rng_uniform(set->seed, RNG_ACCEPT, s->n + out->n, s->n) < set->synthetic_rate)) break;
    return OUTRIDER_OK;
}

static void count(outrider_stats *stats, int32_t k, int32_t accepted) {
    stats->n_verify++;
    stats->draft_n += k;
    stats->draft_n_accepted += accepted;
    stats->runs[accepted]++;
    for (int32_t i = 0; i < k; i++) {
        stats->proposed_at[i]++;
        stats->accepted_at[i] += i < accepted;
    }
}

/* How many of the draft's first choices lead the way through the tree. */
static int32_t first_choices(const outrider_session *s, int32_t accepted) {
    const struct tree *t = &s->engine->trees[s->k];
    int32_t n = 0;
    while (n < accepted && t->offset[s->row[n + 1]] == n + 1) n++;
    return n;
}

/* What the round says of those who run a model. */
static void learn(outrider_session *s, int32_t accepted) {
    struct controller *draft = &s->controller[DRAFTER_MODEL], *self = &s->controller[DRAFTER_SELF];
    if (drafted_by(s, DRAFTER_NGRAM)) return;
    if (drafted_by(s, DRAFTER_TREE))
        controller_observe_tree(draft, s->k, first_choices(s, accepted), accepted);
    else
        controller_observe(draft, drafted_by(s, DRAFTER_MODEL) ? s->k : 0, accepted);
    controller_observe(self, drafted_by(s, DRAFTER_SELF) ? s->k : 0, accepted);
}

/* Writes the accepted run into the session and drops from the cache what did not stay. Returns how many
 * tokens were written. */
static int32_t commit(outrider_session *s, struct accepted a) {
    size_t vocab = (size_t)s->engine->model[OUTRIDER_VERIFIER]->config.vocab_size;
    outrider_source proposer = drafted_by(s, DRAFTER_NGRAM) ? OUTRIDER_BY_NGRAM : OUTRIDER_BY_DRAFT;
    learn(s, a.n);
    int32_t run[OUTRIDER_MAX_DRAFT + 1];
    memcpy(run, s->proposed, (size_t)a.n * sizeof *run);
    run[a.n] = a.token;
    ngram_learn(s, run, a.n + 1);
    int32_t written = 0;
    for (; written <= a.n && running(s); written++) {
        if (s->n_logprobs > 0)
            logprobs_note(s, s->engine->logits + (size_t)s->row[written] * vocab, run[written]);
        session_commit(s, run[written], written < a.n ? proposer : OUTRIDER_BY_VERIFIER);
    }
    count(&s->stats, s->k, written < a.n ? written : a.n); /* what lies behind the end is not counted */
    kv_truncate(s->engine->kv, s->slot, s->n - 1);
    s->n_known = s->n - 1;
    return written;
}

/* The round that was laid out. */
static struct round_shape shape_of(const outrider_engine *e, outrider_session *const *sessions, size_t n) {
    struct round_shape shape = {.rows = e->batch.n};
    for (size_t i = 0; i < n; i++) {
        const outrider_session *s = sessions[i];
        if (s->k > shape.k) shape.k = s->k;
        if (s->k > 0 && s->k > shape.steps[s->by]) shape.steps[s->by] = s->k;
        shape.sampling |= !sampler_is_argmax(&s->sampler);
    }
    return shape;
}

/* What share of this round's time a round without proposals takes, by the costs; 0 when they are not known. A
 * ratio, so that it holds on a machine that is busy. */
static double plain_share(const struct costs *c, size_t n, struct round_shape shape) {
    if (!c->known) return 0;
    return costs_round(c, round_shape((int32_t)n, 0, DRAFTER_NGRAM, shape.sampling)) / costs_round(c, shape);
}

/* One round of sessions that are ready to write, oldest first; their order may change. One whose logits are
 * there is alone. */
static outrider_status write_tokens(outrider_engine *e, outrider_session **sessions, size_t n) {
    struct accepted judged[MAX_BATCH_SESSIONS];
    double start = now_ms(), worked = worked_ms(e);
    e->unusual = sessions[0]->has_logits;
    for (size_t i = 0; i < n; i++) TRY(choose_k(sessions[i], n));
    TRY(reserve_all(sessions, &n));
    if (n == 0) return OUTRIDER_OK;
    lay_rows(e, sessions, n);
    struct round_shape shape = shape_of(e, sessions, n);
    TRY(draft_propose(e, sessions, n));
    double drafted = now_ms();
    TRY(verify(e, sessions, n));
    double verified = now_ms();
    for (size_t i = 0; i < n; i++)
        if (judge(sessions[i], (int32_t)i, &judged[i]) != OUTRIDER_OK)
            sessions[i]->state = OUTRIDER_STOP_FAILED;
    int32_t written[MAX_BATCH_SESSIONS];
    for (size_t i = 0; i < n; i++) written[i] = running(sessions[i]) ? commit(sessions[i], judged[i]) : 0;
    double end = now_ms(), plain_ms = (end - start) * plain_share(&e->costs, n, shape);
    double busy_us = 0, idle_us = 0;
    if (e->ops->round_times) e->ops->round_times(e->be, &busy_us, &idle_us);
    if (!e->unusual) costs_observe(&e->costs, shape, (worked_ms(e) - worked) * 1e3);
    for (size_t i = 0; i < n; i++) {
        sessions[i]->stats.busy_ms += busy_us * 1e-3;
        sessions[i]->stats.idle_ms += idle_us * 1e-3;
        sessions[i]->stats.draft_ms += drafted - start;
        sessions[i]->stats.verify_ms += verified - drafted;
        sessions[i]->stats.predicted_ms += end - start;
        sessions[i]->stats.plain_ms += written[i] * plain_ms;
    }
    return OUTRIDER_OK;
}

/* A failed round leaves the cache with what the tokens say, no more. */
static outrider_status cut_back(outrider_session *const *sessions, size_t n, outrider_status status) {
    if (status == OUTRIDER_OK) return status;
    for (size_t i = 0; i < n; i++)
        if (sessions[i]->n > 0) kv_truncate(sessions[i]->engine->kv, sessions[i]->slot, sessions[i]->n - 1);
    return status;
}

/* Puts those that run into e->order, oldest first. */
static outrider_status line_up(outrider_engine *e, outrider_session *const *sessions, size_t n,
                               size_t *lined) {
    size_t count = 0;
    e->clock++;
    for (size_t i = 0; i < n; i++) {
        outrider_session *s = sessions[i];
        if (s->engine != e) return fail(OUTRIDER_EINVAL, "sessions of one round must share an engine");
        if (!running(s)) continue;
        if (s->rode == e->clock) return fail(OUTRIDER_EINVAL, "a session is named twice in a round");
        s->rode = e->clock;
        if (s->n == 0) return fail(OUTRIDER_EINVAL, "nothing to go on from: the session is empty");
        size_t j = count++;
        for (; j > 0 && e->order[j - 1]->born > s->born; j--) e->order[j] = e->order[j - 1];
        e->order[j] = s;
    }
    *lined = count;
    return OUTRIDER_OK;
}

/* The round of those in e->order. */
static outrider_status ride(outrider_engine *e, size_t n) {
    outrider_session *ready[MAX_BATCH_SESSIONS];
    size_t n_ready = 0;
    bool full = false; /* once one waits for a place, all younger ones do */
    for (size_t i = 0; i < n; i++) {
        outrider_session *s = e->order[i];
        bool is_ready = false;
        full |= !s->admitted && (full || !room_admit(s, i == 0));
        if (!s->admitted) continue;
        TRY(read_tokens(s, &is_ready));
        if (s->has_logits)
            TRY(write_tokens(e, &s, 1));
        else if (is_ready)
            ready[n_ready++] = s;
        if (n_ready < MAX_BATCH_SESSIONS) continue;
        TRY(write_tokens(e, ready, n_ready));
        n_ready = 0;
    }
    return n_ready > 0 ? write_tokens(e, ready, n_ready) : OUTRIDER_OK;
}

outrider_status outrider_round(outrider_session *const *sessions, size_t n) {
    if (n == 0) return OUTRIDER_OK;
    outrider_engine *e = sessions[0]->engine;
    size_t lined;
    TRY(line_up(e, sessions, n, &lined));
    TRY(cut_back(sessions, n, ride(e, lined)));
    for (size_t i = 0; i < lined; i++)
        if (e->order[i]->state == OUTRIDER_STOP_FAILED)
            return cut_back(sessions, n, sampler_fail_impossible());
    return OUTRIDER_OK;
}

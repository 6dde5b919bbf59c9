/* One conversation: its tokens, settings, text and statistics.
 *
 * Invariants: between rounds the cache never holds more than n - 1 of the session's tokens, so there is
 * always a token to feed; text_taken <= text_end <= text_bytes, and text up to text_end is whole UTF-8
 * characters.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/engine.h"
#include "runtime/status.h"

double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

const char *outrider_stop_name(outrider_stop stop) {
    static const char *const names[] = {"running", "eos", "stop", "length", "context", "interrupt", "failed"};
    return (unsigned)stop < sizeof names / sizeof *names ? names[stop] : "unknown";
}

/* ---- settings ---- */

static void free_settings(outrider_session *s) {
    sampler_destroy(&s->sampler);
    for (size_t i = 0; i < s->n_stop; i++) free(s->stop[i]);
    free(s->stop);
    s->stop = NULL;
    s->n_stop = 0;
    free(s->q[0].id); /* the first holds the memory of all */
    s->q[0].id = NULL;
}

/* One block for the ids and probabilities of all distributions of a round. */
static outrider_status alloc_distributions(outrider_session *s) {
    enum { COUNT = 2 * OUTRIDER_MAX_DRAFT + 1 };
    size_t support = (size_t)sampler_support(&s->sampler);
    int32_t *block = malloc(COUNT * support * (sizeof(int32_t) + sizeof(float)));
    if (!block) return fail_memory("distributions", COUNT * support * (sizeof(int32_t) + sizeof(float)));
    float *p = (float *)(block + COUNT * support);
    for (size_t i = 0; i < COUNT; i++) {
        struct distribution *d = i < OUTRIDER_MAX_DRAFT ? &s->q[i] : &s->p[i - OUTRIDER_MAX_DRAFT];
        *d = (struct distribution){0, block + i * support, p + i * support};
    }
    return OUTRIDER_OK;
}

static outrider_status copy_stops(outrider_session *s, const outrider_settings *settings) {
    s->stop = calloc(settings->n_stop + 1, sizeof *s->stop);
    if (!s->stop) return fail_memory("stop strings", (settings->n_stop + 1) * sizeof *s->stop);
    for (size_t i = 0; i < settings->n_stop; i++) {
        s->stop[i] = strdup(settings->stop[i]);
        if (!s->stop[i]) return fail_memory("a stop string", strlen(settings->stop[i]));
        s->n_stop++;
    }
    return OUTRIDER_OK;
}

static outrider_status check_settings(const outrider_engine *e, const outrider_settings *set) {
    TRY(sampler_check(set, e->model[OUTRIDER_VERIFIER]->config.vocab_size));
    if (set->draft_n < -1 || set->draft_n > OUTRIDER_MAX_DRAFT)
        return fail(OUTRIDER_EINVAL, "draft tokens %d: must be from 0 to %d, or -1 for automatic",
                    set->draft_n, OUTRIDER_MAX_DRAFT);
    if (set->n_logprobs < 0 || set->n_logprobs > OUTRIDER_MAX_LOGPROBS)
        return fail(OUTRIDER_EINVAL, "logprobs %d: must be from 0 to %d", set->n_logprobs,
                    OUTRIDER_MAX_LOGPROBS);
    if (set->n_predict < -1)
        return fail(OUTRIDER_EINVAL, "n-predict %d: must be -1 (no limit) or more", set->n_predict);
    if (set->accept < OUTRIDER_ACCEPT_REJECTION || set->accept > OUTRIDER_ACCEPT_COUPLED)
        return fail(OUTRIDER_EINVAL, "unknown acceptance rule %d", (int)set->accept);
    for (size_t i = 0; i < set->n_stop; i++)
        if (!set->stop[i] || !set->stop[i][0]) return fail(OUTRIDER_EINVAL, "a stop string is empty");
    return OUTRIDER_OK;
}

/* n_predict tokens are written, or more where it was lowered meanwhile. */
static bool is_long_enough(const outrider_session *s) {
    return s->sampler.s.n_predict >= 0 && s->stats.n_predict >= s->sampler.s.n_predict;
}

outrider_status outrider_session_set(outrider_session *s, const outrider_settings *settings) {
    TRY(check_settings(s->engine, settings));
    /* Made whole beside the old ones, so that a failure leaves those in force. */
    outrider_session fresh = {.engine = s->engine};
    outrider_status status;
    TRY_GOTO(cleanup, sampler_create(settings, s->engine->model[OUTRIDER_VERIFIER]->config.vocab_size,
                                     &fresh.sampler));
    TRY_GOTO(cleanup, copy_stops(&fresh, settings));
    TRY_GOTO(cleanup, alloc_distributions(&fresh));
    free_settings(s);
    s->sampler = fresh.sampler;
    s->stop = fresh.stop;
    s->n_stop = fresh.n_stop;
    memcpy(s->q, fresh.q, sizeof s->q);
    memcpy(s->p, fresh.p, sizeof s->p);
    s->sampler.s.stop = (const char *const *)s->stop;
    s->sampler.s.n_stop = s->n_stop;
    if (s->state == OUTRIDER_RUNNING && is_long_enough(s)) s->state = OUTRIDER_STOP_LENGTH;
    return OUTRIDER_OK;
cleanup:
    free_settings(&fresh);
    return status;
}

outrider_status session_distribution(outrider_session *s, const float *logits, int32_t ahead,
                                     struct distribution *d) {
    memcpy(s->tokens + s->n, s->proposed, (size_t)ahead * sizeof *s->tokens);
    return sampler_distribution(&s->sampler, logits, s->tokens, (size_t)s->n + (size_t)ahead, d);
}

/* ---- life ---- */

/* What follows is a new answer. */
static void begin_answer(outrider_session *s) {
    s->answer = s->n;
    s->fresh = true;
    s->born = ++s->engine->clock;
    s->admitted = false;
    s->state = s->n >= s->engine->ctx_size ? OUTRIDER_STOP_CONTEXT : OUTRIDER_RUNNING;
    s->stats = (outrider_stats){0};
    if (is_long_enough(s)) s->state = OUTRIDER_STOP_LENGTH;
    s->utf8 = (struct utf8_stream){0};
    s->text_bytes = s->text_taken = s->text_end = 0;
    s->span = s->n;
}

outrider_status outrider_session_open(outrider_engine *e, const outrider_settings *settings,
                                      outrider_session **out) {
    *out = NULL;
    outrider_session *s = calloc(1, sizeof *s);
    if (!s) return fail_memory("a session", sizeof *s);
    s->engine = e;
    s->slot = -1;
    outrider_status status;
    size_t places = (size_t)e->ctx_size + OUTRIDER_MAX_DRAFT + 1;
    s->tokens = malloc(places * sizeof *s->tokens);
    s->sources = malloc(places);
    s->text_upto = malloc(places * sizeof *s->text_upto);
    if (!s->tokens || !s->sources || !s->text_upto) {
        status = fail_memory("a session's tokens", places * (sizeof *s->tokens + sizeof *s->text_upto + 1));
        goto cleanup;
    }
    TRY_GOTO(cleanup, outrider_session_set(s, settings));
    int32_t open = 0;
    for (const outrider_session *o = e->sessions; o; o = o->next) open++;
    if (open >= e->options.max_sessions) {
        status = fail(OUTRIDER_ENOMEM,
                      "all %d sessions of this engine are open; open it with a larger max_sessions", open);
        goto cleanup;
    }
    TRY_GOTO(cleanup, kv_acquire(e->kv, &s->slot));
    begin_answer(s);
    s->next = e->sessions;
    e->sessions = s;
    *out = s;
    return OUTRIDER_OK;
cleanup:
    outrider_session_close(s);
    return status;
}

static void drop_turns(outrider_session *s, size_t keep) {
    while (s->n_turns > keep) free((char *)s->turns[--s->n_turns].message.text);
    if (s->turns_encoded > keep) s->turns_encoded = keep;
}

void outrider_session_close(outrider_session *s) {
    if (!s) return;
    for (outrider_session **p = &s->engine->sessions; *p; p = &(*p)->next)
        if (*p == s) {
            *p = s->next;
            break;
        }
    if (s->slot >= 0) kv_release(s->engine->kv, s->slot);
    free_settings(s);
    drop_turns(s, 0);
    free(s->turns);
    free(s->tokens);
    free(s->sources);
    free(s->text_upto);
    free(s->logprobs);
    free(s->text);
    free(s);
}

outrider_stop outrider_session_stop(const outrider_session *s) {
    return s->state;
}
void outrider_session_stats(const outrider_session *s, outrider_stats *stats) {
    *stats = s->stats;
}

const int32_t *outrider_session_tokens(const outrider_session *s, size_t *n) {
    *n = (size_t)s->n;
    return s->tokens;
}

/* Tokens that end an answer: the model's, and in a conversation the template's. */
static bool is_end(const outrider_session *s, int32_t token) {
    const struct model_config *c = &s->engine->model[OUTRIDER_VERIFIER]->config;
    for (int32_t i = 0; i < c->n_eos; i++)
        if (token == c->eos_token_id[i]) return true;
    return s->answer_open && token == s->engine->chat_end;
}

/* ---- tokens in ---- */

/* Says too whether there is more room to be had. `about` is "at least " or nothing. */
static outrider_status fail_too_long(const outrider_session *s, const char *about, size_t n) {
    const outrider_engine *e = s->engine;
    int32_t most = INT32_MAX;
    if (s->n > 0)
        return fail(OUTRIDER_EINVAL,
                    "%s%zu more tokens do not fit: the session has %d and the context holds %d", about, n,
                    s->n, e->ctx_size);
    for (int m = 0; m < KV_MODELS; m++)
        if (e->model[m] && e->model[m]->config.max_position_embeddings < most)
            most = e->model[m]->config.max_position_embeddings;
    return fail(OUTRIDER_EINVAL, "the prompt has %s%zu tokens, the context holds %d%s", about, n, e->ctx_size,
                e->ctx_size < most ? "; open it larger (-c), the models know more"
                                   : ", all that the models know");
}

/* Before time and memory are spent on a text that cannot fit. */
static outrider_status check_bytes(const outrider_session *s, size_t bytes) {
    size_t least = tokenizer_least(s->engine->tokenizer, bytes);
    return least > (size_t)(s->engine->ctx_size - s->n) ? fail_too_long(s, "at least ", least) : OUTRIDER_OK;
}

outrider_status outrider_session_append(outrider_session *s, const int32_t *tokens, size_t n) {
    int32_t ctx = s->engine->ctx_size, vocab = s->engine->model[OUTRIDER_VERIFIER]->config.vocab_size;
    if (n > (size_t)(ctx - s->n)) return fail_too_long(s, "", n);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab)
            return fail(OUTRIDER_EINVAL, "token %d at place %zu: the vocabulary has %d", tokens[i], i, vocab);
    if (n > 0) memcpy(s->tokens + s->n, tokens, n * sizeof *tokens);
    memset(s->sources + s->n, OUTRIDER_BY_CALLER, n);
    s->n += (int32_t)n;
    begin_answer(s);
    return OUTRIDER_OK;
}

static outrider_status add_bos(const outrider_session *s, struct token_list *list) {
    const struct tokenizer *t = s->engine->tokenizer;
    if (s->n > 0 || !tokenizer_add_bos(t) || tokenizer_bos(t) < 0) return OUTRIDER_OK;
    return token_list_push(list, tokenizer_bos(t));
}

outrider_status outrider_session_append_text(outrider_session *s, const char *text, size_t bytes) {
    struct token_list list = {0};
    outrider_status status;
    TRY(check_bytes(s, bytes));
    TRY_GOTO(cleanup, add_bos(s, &list));
    TRY_GOTO(cleanup, (s->n == 0 ? tokenizer_encode : tokenizer_encode_next)(s->engine->tokenizer, text,
                                                                             bytes, &list));
    status = outrider_session_append(s, list.ids, list.n);
cleanup:
    token_list_free(&list);
    return status;
}

static outrider_status push_turn(outrider_session *s, enum chat_role role, const char *text, size_t bytes) {
    struct turn *grown = realloc(s->turns, (s->n_turns + 1) * sizeof *grown);
    char *copy = malloc(bytes + 1);
    if (grown) s->turns = grown;
    if (!grown || !copy) {
        free(copy);
        return fail_memory("a turn", bytes);
    }
    if (bytes) memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    s->turns[s->n_turns++] = (struct turn){{role, copy, bytes}, (size_t)s->n};
    return OUTRIDER_OK;
}

/* Ids of the turns not yet written, as the template writes them after those before. */
static outrider_status encode_turns(outrider_session *s, bool answered, bool open_answer,
                                    struct token_list *list) {
    const struct tokenizer *t = s->engine->tokenizer;
    struct chat_message *messages = malloc(s->n_turns * sizeof *messages);
    if (!messages) return fail_memory("the turns", s->n_turns * sizeof *messages);
    for (size_t i = 0; i < s->n_turns; i++) messages[i] = s->turns[i].message;
    int32_t last = s->n > 0 ? s->tokens[s->n - 1] : -1;
    bool ended = last >= 0 && is_end(s, last);
    /* Behind text of its own a session has begun: the template's BOS counts as written. */
    bool begun = s->n > 0 && s->turns_encoded == 0 && tokenizer_bos(t) >= 0;
    outrider_status status = begun ? token_list_push(list, tokenizer_bos(t)) : add_bos(s, list);
    if (status == OUTRIDER_OK)
        status = chat_encode(t, s->engine->chat, messages, s->n_turns, s->turns_encoded, open_answer,
                             answered, ended, list);
    if (begun && status == OUTRIDER_OK) memmove(list->ids, list->ids + 1, --list->n * sizeof *list->ids);
    free(messages);
    return status;
}

static outrider_status role_of(const char *name, enum chat_role *role) {
    static const char *const names[] = {"system", "user", "assistant"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) return *role = (enum chat_role)i, OUTRIDER_OK;
    return fail(OUTRIDER_EINVAL, "role %s: there are system, user and assistant", name);
}

outrider_status outrider_session_append_message(outrider_session *s, const char *role_name, const char *text,
                                                size_t bytes) {
    enum chat_role role;
    TRY(role_of(role_name, &role));
    if (s->engine->chat == CHAT_NONE)
        return fail(OUTRIDER_EINVAL, "the model has no chat template; name one with --chat-template");

    /* The words of an answer whose header is written already. */
    if (role == CHAT_ASSISTANT && s->answer_open && s->n == s->answer)
        return outrider_session_append_text(s, text, bytes);

    TRY(check_bytes(s, bytes));
    struct token_list list = {0};
    size_t turns = s->n_turns, encoded = s->turns_encoded;
    bool answered = s->answer_open;
    outrider_status status;
    if (answered && s->turns[encoded - 1].message.role == CHAT_USER) { /* not done by a system turn before */
        TRY_GOTO(cleanup, push_turn(s, CHAT_ASSISTANT, "", 0));
        s->turns[s->n_turns - 1].begin = (size_t)s->answer;
        s->turns_encoded = s->n_turns;
    }
    TRY_GOTO(cleanup, push_turn(s, role, text, bytes));
    if (role != CHAT_SYSTEM) { /* a system turn is written with the one after it */
        TRY_GOTO(cleanup, encode_turns(s, answered, role == CHAT_USER, &list));
        TRY_GOTO(cleanup, outrider_session_append(s, list.ids, list.n));
        s->turns_encoded = s->n_turns;
        s->answer_open = role == CHAT_USER;
    }
    token_list_free(&list);
    return OUTRIDER_OK;
cleanup:
    token_list_free(&list);
    drop_turns(s, turns);
    s->turns_encoded = encoded;
    return status;
}

void session_restart(outrider_session *s, size_t n) {
    if (n == 0) {
        drop_turns(s, 0);
        s->answer_open = false;
        kv_truncate(s->engine->kv, s->slot, 0);
    }
    s->n = (int32_t)n;
    begin_answer(s);
}

outrider_status outrider_session_truncate(outrider_session *s, size_t n) {
    if (n > (size_t)s->n) return fail(OUTRIDER_EINVAL, "cannot keep %zu tokens of %d", n, s->n);
    size_t keep = s->n_turns;
    while (keep > 0 && s->turns[keep - 1].begin >= n) keep--;
    /* What ends an answer is written with the turn behind it, so that it is open again without that. */
    if (keep > 0 && s->turns[keep - 1].message.role == CHAT_ASSISTANT && !s->turns[keep - 1].message.bytes)
        keep--;
    drop_turns(s, keep);
    s->answer_open = keep > 0 && s->turns[keep - 1].message.role == CHAT_USER;
    s->n = (int32_t)n;
    int32_t cached = n > 0 ? (int32_t)n - 1 : 0;
    kv_truncate(s->engine->kv, s->slot, cached);
    if (s->n_read > cached) s->n_read = cached;
    if (s->n_known > cached) s->n_known = cached;
    begin_answer(s);
    return OUTRIDER_OK;
}

outrider_status outrider_session_fork(const outrider_session *from, outrider_session **out) {
    outrider_session *s;
    TRY(outrider_session_open(from->engine, &from->sampler.s, &s));
    outrider_status status;
    for (size_t i = 0; i < from->n_turns; i++) {
        const struct turn *t = &from->turns[i];
        TRY_GOTO(cleanup, push_turn(s, t->message.role, t->message.text, t->message.bytes));
        s->turns[i].begin = t->begin;
    }
    s->turns_encoded = from->turns_encoded;
    s->answer_open = from->answer_open;
    memcpy(s->tokens, from->tokens, (size_t)from->n * sizeof *s->tokens);
    memcpy(s->sources, from->sources, (size_t)from->n);
    s->n = from->n;
    s->n_read = from->n_read;
    s->n_known = from->n_known;
    kv_fork(from->engine->kv, from->slot, s->slot);
    begin_answer(s);
    *out = s;
    return OUTRIDER_OK;
cleanup:
    outrider_session_close(s);
    return status;
}

/* The session that has read most of s's first `limit` tokens as a prompt, if more than *len; and how many. */
static const outrider_session *longest_reader(const outrider_session *s, int32_t limit, int32_t *len) {
    const struct kv *kv = s->engine->kv;
    const outrider_session *best = NULL;
    for (const outrider_session *o = s->engine->sessions; o; o = o->next) {
        int32_t most = kv_len(kv, o->slot, OUTRIDER_VERIFIER), same = 0;
        if (o == s) continue;
        if (most > o->n_read) most = o->n_read;
        if (most > limit) most = limit;
        while (same < most && s->tokens[same] == o->tokens[same]) same++;
        if (same > *len) best = o, *len = same;
    }
    return best;
}

void session_share_prefix(outrider_session *s) {
    outrider_engine *e = s->engine;
    int32_t had = kv_len(e->kv, s->slot, OUTRIDER_VERIFIER), limit = s->n - 1;
    if (s->fresh) s->stats.n_cached = had, s->stats.n_prompt = s->n - had;
    s->fresh = false;
    if (had + e->options.page_size > limit) return; /* less than a page is sooner read than shared */
    /* What it wrote itself it must read as it wrote it. */
    for (int32_t i = 0; i < limit; i++)
        if (s->sources[i + 1] != OUTRIDER_BY_CALLER) limit = i;
    int32_t len = had + e->options.page_size - 1;
    const outrider_session *from = longest_reader(s, limit, &len);
    if (!from) return;
    kv_truncate(e->kv, s->slot, 0);
    kv_fork(e->kv, from->slot, s->slot);
    kv_truncate(e->kv, s->slot, len);
    if (s->n_read < len) s->n_read = len;
    if (len <= s->n_known) return;
    int32_t found = len - (had > s->n_known ? had : s->n_known);
    s->n_known = len;
    s->stats.n_cached += found;
    s->stats.n_prompt -= found;
}

/* ---- text out ---- */

enum { MAX_PIECE_BYTES = 512 }; /* the tokenizer's check of its file allows no longer piece */

outrider_status session_reserve_text(outrider_session *s, int32_t n) {
    size_t need = s->text_bytes + (size_t)n * 3 * (MAX_PIECE_BYTES + 4) + 16;
    if (need <= s->text_capacity) return OUTRIDER_OK;
    size_t capacity = need * 2;
    char *grown = realloc(s->text, capacity);
    if (!grown) return fail_memory("the text", capacity);
    s->text = grown;
    s->text_capacity = capacity;
    return OUTRIDER_OK;
}

/* First place in the text, from `from` on, where a stop string begins; text_bytes when none does. */
static size_t find_stop(const outrider_session *s, size_t from) {
    size_t found = s->text_bytes;
    for (size_t i = 0; i < s->n_stop; i++) {
        const char *at = memmem(s->text + from, s->text_bytes - from, s->stop[i], strlen(s->stop[i]));
        if (at && (size_t)(at - s->text) < found) found = (size_t)(at - s->text);
    }
    return found;
}

/* Bytes at the end of the text that may be the beginning of a stop string. */
static size_t maybe_stop(const outrider_session *s) {
    size_t most = 0;
    for (size_t i = 0; i < s->n_stop; i++) {
        size_t len = strlen(s->stop[i]) - 1;
        if (len > s->text_bytes) len = s->text_bytes;
        while (len > most && memcmp(s->text + s->text_bytes - len, s->stop[i], len) != 0) len--;
        if (len > most) most = len;
    }
    return most;
}

static size_t longest_stop(const outrider_session *s) {
    size_t longest = 0;
    for (size_t i = 0; i < s->n_stop; i++)
        if (strlen(s->stop[i]) > longest) longest = strlen(s->stop[i]);
    return longest;
}

/* Where the text ends and who wrote what, after it grew from `before` bytes. */
static void end_text(outrider_session *s, size_t before) {
    s->text_end = s->text_bytes;
    if (s->n_stop > 0) {
        size_t back = longest_stop(s), from = before > back ? before - back : 0, stop = find_stop(s, from);
        if (stop < s->text_bytes) {
            s->state = OUTRIDER_STOP_STRING;
            s->text_bytes = s->text_end = stop;
        } else if (s->state == OUTRIDER_RUNNING) {
            s->text_end -= maybe_stop(s);
        }
    }
    s->text_upto[s->n - 1] = s->text_bytes;
}

void session_commit(outrider_session *s, int32_t token, outrider_source source) {
    size_t bytes, before = s->text_bytes;
    const char *piece = tokenizer_piece(s->engine->tokenizer, token, s->n == 0, &bytes);
    s->sources[s->n] = (uint8_t)source;
    s->tokens[s->n++] = token;
    s->stats.n_predict++;
    if (!s->sampler.s.ignore_eos && is_end(s, token))
        s->state = OUTRIDER_STOP_EOS;
    else if (is_long_enough(s))
        s->state = OUTRIDER_STOP_LENGTH;
    else if (s->n == s->engine->ctx_size)
        s->state = OUTRIDER_STOP_CONTEXT;

    s->text_bytes += utf8_push(&s->utf8, piece, bytes, s->state != OUTRIDER_RUNNING, s->text + s->text_bytes);
    end_text(s, before);
}

void outrider_session_end(outrider_session *s) {
    if (s->state != OUTRIDER_RUNNING) return;
    s->state = OUTRIDER_STOP_CALLER;
    if (s->stats.n_predict == 0) return;
    size_t before = s->text_bytes;
    s->text_bytes += utf8_push(&s->utf8, NULL, 0, true, s->text + s->text_bytes);
    end_text(s, before);
}

const char *outrider_session_take_text(outrider_session *s, size_t *bytes) {
    const char *text = s->text + s->text_taken;
    *bytes = s->text_end > s->text_taken ? s->text_end - s->text_taken : 0;
    s->text_taken += *bytes;
    return *bytes ? text : "";
}

const uint8_t *outrider_session_sources(const outrider_session *s, size_t *n) {
    *n = (size_t)s->n;
    return s->sources;
}

const char *outrider_session_take_span(outrider_session *s, size_t *bytes, outrider_source *source) {
    const char *text = s->text + s->text_taken;
    size_t end = s->text_taken;
    *source = OUTRIDER_BY_VERIFIER;
    while (s->span < s->n && s->text_upto[s->span] <= s->text_taken) s->span++;
    if (s->span < s->n) *source = (outrider_source)s->sources[s->span];
    for (int32_t i = s->span; i < s->n && s->sources[i] == *source; i++) end = s->text_upto[i];
    if (end > s->text_end) end = s->text_end;
    *bytes = end > s->text_taken ? end - s->text_taken : 0;
    s->text_taken += *bytes;
    return *bytes ? text : "";
}

/* What the files of the engine share: engine, session, and the steps of a round. Not installed. */
#ifndef OUTRIDER_ENGINE_H
#define OUTRIDER_ENGINE_H

#include "runtime/controller.h"
#include "runtime/kv.h"
#include "runtime/model.h"
#include "runtime/sampler.h"
#include "tokenizer/tokenizer.h"

enum {
    PREFILL_CHUNK = 512,    /* borders of prefill passes lie at its multiples */
    SCORE_CHUNK = 64,       /* rows of a pass that all ask for logits */
    MAX_BATCH_SESSIONS = 64 /* sessions whose rows share one pass; more take several */
};

/* The rows of the next pass: filled on the host, uploaded in one piece. */
struct batch {
    int32_t n, capacity, max_position;
    int32_t *token, *position, *slot; /* [capacity] each */
    int32_t *staged, *device;         /* [3][stride] of the pass, on the host and in backend memory */
    int32_t *tables;                  /* backend copy of the page tables */
    uint64_t version;                 /* of the page tables there */
};

struct engine_scratch {
    float *logits;  /* host copy of a pass's logits */
    int32_t *picks; /* host copy of its argmaxes */
    int32_t *device_picks;
    float *dense; /* [vocab], zero between uses */
};

struct outrider_engine {
    outrider_engine_options options; /* strings not kept */
    const struct ops *ops;
    struct backend *be;
    struct model *model[KV_MODELS]; /* the draft's is NULL when there is none */
    struct tokenizer *tokenizer;
    enum chat_kind chat;
    struct kv *kv;
    int32_t ctx_size, pages;
    struct batch batch;
    struct engine_scratch scratch;
    struct costs costs;
    outrider_session *sessions; /* all open ones, linked */
};

/* A turn of the conversation that chat templates need to know about. */
struct turn {
    struct chat_message message; /* text owned; NULL for an answer that was generated in place */
    size_t begin;                /* tokens of the session before it */
};

struct outrider_session {
    outrider_engine *engine;
    outrider_session *next;
    int32_t slot;
    struct sampler sampler; /* holds the settings */
    char **stop;
    size_t n_stop;

    int32_t *tokens; /* [ctx_size + OUTRIDER_MAX_DRAFT + 1]: past n they are scratch */
    int32_t n;
    int32_t answer; /* tokens before the answer in progress */
    bool fresh;     /* nothing of the answer has been read yet */
    outrider_stop state;
    outrider_stats stats;

    /* text of the answer */
    struct utf8_stream utf8;
    char *text;
    size_t text_bytes, text_capacity, text_taken;
    size_t text_end; /* where the text ends: before a stop string, else text_bytes */

    struct turn *turns;
    size_t n_turns, turns_encoded;
    bool answer_open; /* the last turn is the header of an answer */

    struct controller controller;

    /* the round in progress */
    int32_t k; /* tokens it wants proposed */
    int32_t proposed[OUTRIDER_MAX_DRAFT];
    struct distribution q[OUTRIDER_MAX_DRAFT], p[OUTRIDER_MAX_DRAFT + 1];
    int32_t support;   /* entries that q and p have room for */
    int32_t first_row; /* of its rows in the verify pass */
};

/* Sequences the cache can hold: the sessions', and one for scores and meters. */
static inline int32_t slots_of(const outrider_engine *e) {
    return e->options.max_sessions + 1;
}

/* -- batch.c: assembling and running passes -- */
outrider_status batch_create(outrider_engine *e, int32_t max_rows);
void batch_destroy(outrider_engine *e);
void batch_clear(outrider_engine *e);
void batch_add(outrider_engine *e, int32_t slot, int32_t position, int32_t token);
/* Runs the batch through a model, with logits of rows pick[0..n_pick) (NULL: the first). */
void batch_run(outrider_engine *e, outrider_which which, bool prefill, const int32_t *pick, int32_t n_pick);
/* Brings logits, or their argmaxes only, of the last pass to the host scratch. */
outrider_status batch_logits(outrider_engine *e, outrider_which which, int32_t n);
outrider_status batch_argmax(outrider_engine *e, outrider_which which, int32_t n);

/* -- engine.c -- */
/* Measures what the controller must know; once, when a session first asks for it. */
outrider_status engine_measure_costs(outrider_engine *e);

/* -- session.c -- */
/* Takes one token of the answer over: counts it, turns it into text, sees whether the text ends with it. */
void session_commit(outrider_session *s, int32_t token);
/* Room for the text of n more tokens, so that committing them cannot fail half-way. */
outrider_status session_reserve_text(outrider_session *s, int32_t n);
/* Takes over a prefix that another session has in the cache, where one has. */
void session_share_prefix(outrider_session *s);
double now_ms(void);

/* -- draft.c -- */
/* Proposes s->k tokens for each session, lowering k where fewer are. */
outrider_status draft_propose(outrider_engine *e, outrider_session *const *sessions, size_t n);
/* Lets the draft read a chunk of what it has not read; true in *ready when it may propose. */
void draft_catch_up(outrider_session *s, bool *ready);

/* The verifier's or the draft's own next token after the session's tokens and `ahead` proposed ones, from
 * logits row `row`; the distribution goes to `d` unless the token is the argmax. */
outrider_status session_distribution(outrider_session *s, const float *logits, int32_t ahead,
                                     struct distribution *d);

#endif

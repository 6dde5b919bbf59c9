/* What the files of the engine share: engine, session, and the steps of a round. Not installed. */
#ifndef OUTRIDER_ENGINE_H
#define OUTRIDER_ENGINE_H

#include "runtime/controller.h"
#include "runtime/kv.h"
#include "runtime/model.h"
#include "runtime/sampler.h"
#include "tokenizer/tokenizer.h"

enum {
    PREFILL_CHUNK = 512,     /* borders of prefill passes lie at its multiples */
    SCORE_CHUNK = 64,        /* rows of a pass that all ask for logits */
    MAX_LAG = 16,            /* unread tokens that ride in the draft's first step */
    MAX_BATCH_SESSIONS = 64, /* sessions whose rows share one pass; more take several */
    NGRAM_CLASSES = 4,       /* of matches, by their length: a long one is seldom chance */
    MODELS = 3               /* by outrider_which; those of the cache come first */
};

/* The rows of the round in progress; batch.c draws their layout. */
struct batch {
    int32_t n, n_lag;       /* rows of the blocks, and of the lag before them */
    int32_t base, capacity; /* places for the lag, and for all */
    int32_t max_position;
    bool tree;              /* the blocks' rows are one */
    int32_t *host, *device; /* columns of `capacity` places each, and what describes a tree */
    int32_t *tables;        /* backend copy of the page tables */
    uint64_t version;       /* of the page tables there */

    /* trial.c: sampling on the device; all NULL and 0 where the backend leaves it to the host */
    bool on_device;                         /* in this round */
    struct trial *trials, *device_trials;   /* [MAX_BATCH_SESSIONS] */
    int32_t *extra, *device_extra, n_extra; /* what trials refer to */
    int32_t n_trials, trial_rows;           /* in this round; rows of q and p */
    float *q, *p;                           /* backend memory, [trial_rows][vocab] */
};

struct outrider_engine {
    outrider_engine_options options; /* strings not kept */
    const struct ops *ops;
    struct backend *be;
    struct model *model[MODELS]; /* the draft's and the own layers' are NULL when there are none */
    struct tokenizer *tokenizer;
    enum chat_kind chat;
    int32_t chat_end; /* the token that ends an answer in it, -1 for the model's own */
    struct kv *kv;
    int32_t ctx_size, pages;
    outrider_ctx_origin ctx_origin;
    struct batch batch;
    float *logits; /* host copy of a pass's logits, [max_logits][vocab] */
    float *dense;  /* [vocab], zero between uses */
    struct costs costs;
    struct tree trees[TREE_LEVELS + 1]; /* by levels */
    bool unusual;     /* the round in progress did more than propose and verify: its time says nothing */
    char *cost_cache; /* folder of costs_file.c; NULL for none */
    outrider_session *sessions; /* all open ones, linked */
    outrider_session **order;   /* [max_sessions] those of the round in progress, oldest first */
    uint64_t clock;             /* counts answers and rounds: who is older, who rode last */
};

/* A turn of the conversation that chat templates need to know about. */
struct turn {
    struct chat_message message; /* text owned; empty for an answer that was generated in place */
    size_t begin;                /* tokens of the session before it */
};

struct outrider_session {
    outrider_engine *engine;
    outrider_session *next;
    int32_t slot;
    struct sampler sampler; /* holds the settings */
    char **stop;
    size_t n_stop;

    int32_t *tokens;  /* [ctx_size + OUTRIDER_MAX_DRAFT + 1]: past n they are scratch */
    uint8_t *sources; /* outrider_source of each token */
    size_t
        *text_upto; /* bytes of the answer's text when the token was written; for tokens from `answer` on */
    int32_t n;
    int32_t n_read;  /* the first tokens, as far as the verifier read them as a prompt: what others may share.
                        What it wrote came from another product, whose bits need not be the same */
    int32_t n_known; /* the first tokens, as far as the verifier has ever read them */
    uint64_t born, rode; /* engine's clock when the answer began, and in the last round */
    bool admitted;       /* has a place in the cache, which only an older one can take */
    int32_t answer;      /* tokens before the answer in progress */
    bool fresh;          /* nothing of the answer has been read yet */
    outrider_stop state;
    outrider_stats stats;

    /* text of the answer */
    struct utf8_stream utf8;
    char *text;
    size_t text_bytes, text_capacity, text_taken;
    size_t text_end; /* where the text ends: before a stop string, else text_bytes */
    int32_t span;    /* tokens whose text take_span has given out whole */

    outrider_logprob *logprobs; /* [tokens of the answer][n_logprobs + 1] */
    size_t logprobs_capacity;
    int32_t n_logprobs; /* of this answer: as set when its first token was written */

    struct turn *turns;
    size_t n_turns, turns_encoded;
    bool answer_open; /* the last turn is the header of an answer */

    struct controller controller[DRAFTERS];            /* of those that run a model */
    struct controller ngram_controller[NGRAM_CLASSES]; /* by the length of the match */
    int32_t ngram[OUTRIDER_MAX_DRAFT], n_ngram;        /* what n-grams would propose in this round */
    int32_t ngram_class;

    /* the round in progress */
    bool has_logits; /* the prompt's last token was read just now and left its logits */
    int32_t k;       /* tokens it wants proposed, or levels of a tree */
    enum drafter by; /* and by whom, when there are any */
    int32_t proposed[OUTRIDER_MAX_DRAFT];
    struct distribution q[OUTRIDER_MAX_DRAFT], p[OUTRIDER_MAX_DRAFT + 1];
    int32_t row[OUTRIDER_MAX_DRAFT + 1]; /* its rows: the last token's and each proposal's */
};

/* Sequences the cache can hold: the sessions', and one for scores and meters. */
static inline int32_t slots_of(const outrider_engine *e) {
    return e->options.max_sessions + 1;
}

/* This drafter writes the session's proposals in this round. */
static inline bool drafted_by(const outrider_session *s, enum drafter by) {
    return s->k > 0 && s->by == by;
}

/* The draft model does, whose part of the cache may lag behind. */
static inline bool uses_draft(const outrider_session *s) {
    return drafted_by(s, DRAFTER_MODEL) || drafted_by(s, DRAFTER_TREE);
}

/* A model writes them. */
static inline bool uses_model(const outrider_session *s) {
    return s->k > 0 && s->by != DRAFTER_NGRAM;
}

/* -- batch.c: rows and passes. Rows are numbered from the first of block 0; the lag's are negative -- */
outrider_status batch_create(outrider_engine *e, int32_t max_rows);
void batch_destroy(outrider_engine *e);
void batch_clear(outrider_engine *e);
void batch_add(outrider_engine *e, int32_t slot, int32_t position, int32_t token);
void batch_add_lag(outrider_engine *e, int32_t slot, int32_t position, int32_t token);
/* Adds the rows of a tree whose root, the sequence's last token, has a position; their tokens are to come. */
void batch_add_tree(outrider_engine *e, int32_t slot, int32_t root, int32_t token, const struct tree *t);
/* Sends the rows, and the page tables if they changed. */
void batch_upload(outrider_engine *e);
/* Runs rows [first, first + n) through a model; the last n_logits of them leave logits. */
void batch_pass(outrider_engine *e, outrider_which which, int32_t first, int32_t n, int32_t n_logits,
                bool prefill);
/* The n argmaxes of a model's last pass become the tokens of rows [first, first + n), on the device. */
void batch_propose(outrider_engine *e, outrider_which which, int32_t n, int32_t first);
/* The draft's likeliest tokens become those of a tree's level, behind the rows of the level before it. */
void batch_propose_level(outrider_engine *e, const struct tree *t, int32_t level);
/* Puts the token that the host chose for a row, here and on the device. */
void batch_set_token(outrider_engine *e, int32_t row, int32_t token);
/* Brings n rows of logits of the last pass to e->logits. Waits. */
outrider_status batch_logits(outrider_engine *e, outrider_which which, int32_t n);
/* Brings the argmaxes of a model's last pass, over the first n rows. Waits. */
outrider_status batch_argmax(outrider_engine *e, outrider_which which, int32_t n);
/* Brings the rows' tokens and the argmaxes of the verifier's pass over all of them. Waits. */
outrider_status batch_fetch(outrider_engine *e);
int32_t batch_token(const outrider_engine *e, int32_t row);
/* Of the rows as they were fetched: picks lie behind the last row, so good until rows are added or cleared.
 */
int32_t batch_pick(const outrider_engine *e, int32_t row);
/* Backend memory of both, from row 0 on. */
int32_t *batch_tokens(const outrider_engine *e);
int32_t *batch_picks(const outrider_engine *e);

/* -- trial.c: sampling and acceptance on the device -- */
outrider_status trials_create(outrider_engine *e, int32_t max_rows);
void trials_destroy(outrider_engine *e);
/* Sends what the device must know to sample for these sessions, whose rows are laid out; sets
 * batch.on_device, unless none of them samples or one needs what only the host can do. */
void trials_send(outrider_engine *e, outrider_session *const *sessions, size_t n);
/* A model's logits become the proposals of a step of sessions [first, first + n). */
void trials_propose(outrider_engine *e, outrider_which which, int32_t first, int32_t n, int32_t step);
/* The verifier's logits become the verdicts of all sessions, in place of the picks. */
void trials_judge(outrider_engine *e);
/* That of the i-th session, once fetched; a negative n when no token is possible. */
struct accepted trials_verdict(const outrider_engine *e, int32_t i);

/* -- costs_file.c: the measured costs of earlier runs; false when there are none. `busy`: others used the
 * machine meanwhile, so that they are soon measured again -- */
enum { DRAFT_STEP, DRAFT_READ, SELF_STEP, DRAFT_COSTS };
bool costs_load(outrider_engine *e, int32_t n, double *us, double draft_us[DRAFT_COSTS]);
void costs_save(const outrider_engine *e, int32_t n, const double *us, const double draft_us[DRAFT_COSTS],
                bool busy);

/* -- session.c -- */
/* Takes one token of the answer over: counts it, turns it into text, sees whether the text ends with it. */
void session_commit(outrider_session *s, int32_t token, outrider_source source);
/* Room for the text of n more tokens, so that committing them cannot fail half-way. */
outrider_status session_reserve_text(outrider_session *s, int32_t n);
/* Takes over a prefix that another session has read into the cache, where it is longer than its own. */
void session_share_prefix(outrider_session *s);
/* Begins a new answer behind the first n tokens, which are all the session has; with 0 it is as when opened.
 */
void session_restart(outrider_session *s, size_t n);
double now_ms(void);
/* The clock of costs: processor time of the calling thread where the processor does the work, so that a busy
 * machine disturbs it less; else the time that passes. */
double worked_ms(const outrider_engine *e);

/* -- logprobs.c -- */
/* Room for n more tokens' worth, so that noting them cannot fail half-way. */
outrider_status logprobs_reserve(outrider_session *s, int32_t n);
/* Notes the next token of the answer; before it is committed. logits: [vocab] */
void logprobs_note(outrider_session *s, const float *logits, int32_t token);

/* -- ngram.c -- */
/* Proposes `limit` tokens after tokens[0..n), or 0 when its end has not occurred before; *length tokens of
 * the end had. */
int32_t ngram_propose(const int32_t *tokens, int32_t n, int32_t limit, int32_t *proposed, int32_t *length);
/* Finds this round's n-gram proposals, at most `limit`, and their class. */
void ngram_look(outrider_session *s, int32_t limit);
/* What was written in this round says how good they were, whether they were used or not. */
void ngram_learn(outrider_session *s, const int32_t *written, int32_t n);

/* -- room.c: who has pages and who waits -- */
/* Whether s may go on reading or writing in this round; `first`: it is the oldest of them. */
bool room_admit(outrider_session *s, bool first);
/* kv_reserve, which takes the pages of sessions that can wait; OUTRIDER_ENOMEM when s must wait itself. */
outrider_status room_reserve(outrider_session *s, outrider_which which, int32_t n);
/* outrider_engine_measure, with pages got like that; costs.known stays false when there are none. */
outrider_status room_measure(outrider_session *s);

/* -- draft.c -- */
/* Proposes s->k tokens for each session; they stand as the scheduler has sorted them, their rows uploaded. */
outrider_status draft_propose(outrider_engine *e, outrider_session *const *sessions, size_t n);
/* The way that the verifier takes through a session's tree becomes its proposals, and lies in order in the
 * cache; those behind its end are none that the verifier could write. */
void draft_follow_tree(outrider_engine *e, outrider_session *s);
/* Whether what the draft model has not read is worth its time, when it promises `gain`. It reads the first
 * tokens of a prompt before the rest, and is doubted when it would have guessed none of them. */
outrider_status draft_worth_reading(outrider_session *s, double gain, int32_t left, bool *worth);
/* Lets the draft read a chunk of what it has not read; true in *ready when it may propose. */
void draft_catch_up(outrider_session *s, bool *ready);

/* The distribution of the token after the session's tokens and the first `ahead` proposed ones, from the
 * verifier's or the draft's logits. */
outrider_status session_distribution(outrider_session *s, const float *logits, int32_t ahead,
                                     struct distribution *d);

#endif

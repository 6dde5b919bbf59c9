/* Outrider: speculative decoding of large language models. The public C API.
 *
 * An *engine* holds a verifier model, optionally a draft model, their tokenizer, and one paged cache of keys
 * and values that serves both. A *session* is one conversation: its tokens, settings and place in the cache.
 * A *round* advances any number of sessions together: prompts are read in chunks; then the draft proposes up
 * to K tokens a session, one batched pass of the verifier scores them all, and each session keeps the run
 * that the verifier itself would have written. The text is the verifier's own: at temperature 0 bit for bit,
 * when sampling in distribution (or per seed, see OUTRIDER_ACCEPT_COUPLED).
 *
 *     outrider_engine_options options = outrider_engine_defaults();
 *     options.model = "weights/tale/verifier";
 *     options.draft = "weights/tale/draft";
 *     outrider_engine *engine;
 *     outrider_session *session;
 *     if (outrider_engine_open(&options, &engine)) die(outrider_error());
 *     outrider_settings settings = outrider_settings_defaults(engine);
 *     if (outrider_session_open(engine, &settings, &session)) die(outrider_error());
 *     if (outrider_session_append_text(session, "Once upon a time", 16)) die(outrider_error());
 *     while (outrider_session_stop(session) == OUTRIDER_RUNNING) {
 *         if (outrider_round(&session, 1)) die(outrider_error());
 *         size_t bytes;
 *         const char *text = outrider_session_take_text(session, &bytes);
 *         fwrite(text, 1, bytes, stdout);
 *     }
 *
 * Threads: calls on one engine and its sessions must not overlap; different engines are independent.
 * Ownership: what a function returns through its last pointer is the caller's to close, in any order of
 * sessions, the engine last. Closing NULL is fine. Strings and arrays passed in are copied.
 */
#ifndef OUTRIDER_H
#define OUTRIDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Also the exit codes of the command line. */
typedef enum {
    OUTRIDER_OK = 0,
    OUTRIDER_EFAIL = 1,  /* run-time failure: a device, a file that cannot be written */
    OUTRIDER_EINVAL = 2, /* a wrong argument, or a prompt longer than the context */
    OUTRIDER_EMODEL = 3, /* a bad or missing model, tokenizer or template */
    OUTRIDER_ENOMEM = 4, /* no memory, no cache page, or no such device */
} outrider_status;

/* One line on the calling thread's last failure: names the file and field, the flag, or both counts. */
const char *outrider_error(void);
const char *outrider_version(void);

typedef struct outrider_engine outrider_engine;
typedef struct outrider_session outrider_session;

enum {
    OUTRIDER_MAX_DRAFT = 16,    /* most tokens proposed in one round */
    OUTRIDER_MAX_TREE = 15,     /* the same as a tree */
    OUTRIDER_MAX_LOGPROBS = 20, /* most alternatives reported for a token */
};

/* ---- engine ---- */

typedef struct {
    /* The verifier: a folder in Hugging Face's layout, a GGUF file (any one of a split model's), a folder
     * with one, or ORG/NAME[@REVISION][:PART OF A GGUF FILE'S NAME] in the local Hugging Face cache. */
    const char *model;
    const char *draft;        /* named likewise; NULL for none. Its vocabulary must equal the verifier's */
    int32_t self_layers;      /* the verifier's first so many layers draft too; 0: none, -1: half of them */
    const char *device;       /* "auto", "cpu", "cpu:avx2" (an instruction set by name), "cuda", "cuda:1" */
    int32_t threads;          /* 0: one a core */
    int32_t ctx_size;         /* tokens a session can hold; 0: the models' own limit, at most 8192 */
    int32_t max_sessions;     /* sessions that can be open at once */
    int32_t cache_tokens;     /* tokens that the cache holds for all of them; 0: ctx_size for each. With less
                                 (at least one ctx_size), the youngest sessions wait: see outrider_round */
    int32_t page_size;        /* tokens a cache page: a power of two, 16 to 256 */
    const char *cache_type;   /* keys and values as "f16", "f32" or "q8" (8 bits, each 32 of them a scale) */
    const char *cache_type_v; /* values, where they differ from keys; on a card they cannot. NULL: as keys */
    /* Matrices in fewer bits, quantised as they are loaded: "q8", "q4", "fp8" (8-bit floats; not on a
     * card), or "none" (as the files have them; on a card bf16 where those are 8-bit floats).
     * The draft's precision changes the speed only, never what the verifier writes. */
    const char *quant, *draft_quant;
    const char *chat_template; /* by name ("zephyr"), or a file with one (Jinja); NULL: the model's own */
    const char *cost_cache;    /* folder to keep the controller's measurements in between runs; NULL: none */
    /* Called while loading, with how many bytes of a model's files are done; may be NULL. */
    void (*progress)(void *user, const char *stage, double done, double total);
    void *progress_user;
} outrider_engine_options;

outrider_engine_options outrider_engine_defaults(void);
outrider_status outrider_engine_open(const outrider_engine_options *options, outrider_engine **out);
void outrider_engine_close(outrider_engine *engine);
/* Measures now, or reads from the cost cache, what an automatic number of proposals goes by; else the first
 * round that needs it does. OUTRIDER_ENOMEM when sessions leave the cache no room for it. */
outrider_status outrider_engine_measure(outrider_engine *engine);
/* Changes self_layers (as in the options) between rounds; what is to be measured is measured again. */
outrider_status outrider_engine_self_layers(outrider_engine *engine, int32_t layers);

enum { OUTRIDER_MAX_TYPES = 12 };

/* What a loaded model is. */
typedef struct {
    char model_type[32];
    char dtype[8], file_dtype[8]; /* of the layers' matrices: as computed with, and as the files have them */
    int32_t vocab_size, hidden_size, intermediate_size, num_hidden_layers;
    int32_t num_attention_heads, num_key_value_heads, head_dim, max_position_embeddings;
    uint64_t parameters;
    uint64_t weight_bytes;   /* in the files */
    uint64_t memory_bytes;   /* of the weights as they are held; what is used as the file has it is mapped */
    uint64_t streamed_bytes; /* read for one token: all but the gathered embedding */
    uint64_t cache_bytes_per_token;
    struct {
        char dtype[8];
        int32_t tensors;
        uint64_t bytes;
    } types[OUTRIDER_MAX_TYPES]; /* of the tensors in the files: those that occur, n_types of them */
    int32_t n_types;
} outrider_model_info;

typedef enum {
    OUTRIDER_CTX_ASKED,    /* the caller */
    OUTRIDER_CTX_VERIFIER, /* the verifier knows no more positions */
    OUTRIDER_CTX_DRAFT,    /* the draft knows no more positions, the verifier does */
    OUTRIDER_CTX_DEFAULT,  /* both know more; it was not asked for */
} outrider_ctx_origin;

typedef struct {
    outrider_model_info verifier, draft;
    bool has_draft;
    int32_t self_layers; /* 0: the verifier's own do not draft */
    char device[128];    /* "cpu, avx512bf16, 2 threads" */
    int32_t ctx_size, max_sessions, page_size, pages, pages_free;
    outrider_ctx_origin ctx_origin; /* what set ctx_size */
    uint64_t cache_bytes;           /* the page pools of both models */
    const char *chat_template;      /* its name; "none" */
} outrider_engine_info;

outrider_status outrider_engine_get_info(const outrider_engine *engine, outrider_engine_info *info);
/* The same of a model, named as in the options, without loading it. Cache types and quant as in the options.
 * Sizes are the processor's: on a card 8-bit floats take those of bf16. */
outrider_status outrider_inspect(const char *folder, const char *cache_type, const char *cache_type_v,
                                 const char *quant, outrider_model_info *info);
/* Calls `entry` for each entry of a GGUF model's metadata, in the order of keys: the value as text, long ones
 * cut with "...", arrays as their length. A folder has none. */
outrider_status outrider_inspect_metadata(const char *model,
                                          void (*entry)(void *user, const char *key, const char *value),
                                          void *user);

/* ---- conversion ---- */

typedef struct {
    const char *model;  /* a folder with safetensors, or a GGUF model; named as in outrider_engine_options */
    const char *output; /* NAME.gguf is made of a folder, a new folder of a GGUF model */
    /* Element type of the matrices: "f32", "f16", "bf16", and to GGUF "q8_0", "q4_0", "q4_1", "q5_0", "q5_1",
     * "q4_k", "q5_k", "q6_k". Embedding and head keep 8 bits under types of fewer; rows that are no whole
     * blocks of a K type become q8_0, or bf16. */
    const char *type;
    void (*progress)(void *user, const char *stage, double done, double total); /* as above */
    void *progress_user;
} outrider_convert_options;

/* Writes a model in the other form, with its tokenizer and chat template. What is written appears when it is
 * complete; an output that exists is refused. */
outrider_status outrider_convert(const outrider_convert_options *options);

/* ---- settings of a session ---- */

typedef enum {
    OUTRIDER_ACCEPT_REJECTION, /* Leviathan et al. 2023, Chen et al. 2023 */
    OUTRIDER_ACCEPT_BLOCK,     /* Sun et al. 2024: never accepts less */
    OUTRIDER_ACCEPT_COUPLED,   /* shared Gumbel noise (Daliri et al. 2025): one text per seed, whatever the
                                  draft and K */
} outrider_accept_rule;

enum {
    OUTRIDER_DRAFT_MODEL = 1, /* the engine's draft model */
    OUTRIDER_DRAFT_NGRAM = 2, /* what followed the same words earlier in the session; needs no model */
    OUTRIDER_DRAFT_SELF = 4,  /* the verifier's own first layers (self_layers) */
    OUTRIDER_DRAFT_TREE = 8,  /* the draft model may propose a tree of at most OUTRIDER_MAX_TREE tokens and K
                                 levels, when greedy and alone in its round */
};

typedef struct {
    int32_t token;
    float bias; /* added to the logit; -INFINITY forbids the token */
} outrider_logit_bias;

typedef struct {
    /* sampling; applied in this order: bias, penalties, temperature, top-k, top-p, min-p */
    float temperature;    /* 0: greedy */
    int32_t top_k;        /* 0: off */
    float top_p, min_p;   /* 1 and 0: off */
    float repeat_penalty; /* 1: off. Over the last repeat_last_n tokens; -1: the whole session */
    float presence_penalty, frequency_penalty; /* 0: off. Same window */
    int32_t repeat_last_n;
    uint64_t seed;
    const outrider_logit_bias *logit_bias; /* copied */
    size_t n_logit_bias;

    /* when to stop */
    int32_t n_predict; /* -1: until the end of the text or of the context */
    bool ignore_eos;
    const char *const *stop; /* strings that end the text and are not part of it; copied */
    size_t n_stop;

    int32_t n_logprobs; /* 0: none; else log-probabilities of each token written and of so many of the
                           likeliest at its place, at most OUTRIDER_MAX_LOGPROBS */

    /* speculation: changes the speed, never the text */
    uint32_t drafters; /* OUTRIDER_DRAFT_ bits of those that may propose, as far as the engine has them. An
                          automatic draft_n chooses in each round; a fixed one takes the draft model, else
                          the own layers, else n-grams */
    int32_t draft_n;   /* K, at most OUTRIDER_MAX_DRAFT; 0: plain decoding; -1: chosen by the engine */
    outrider_accept_rule accept;
    bool
        synthetic_accept; /* for timing only: a proposal is accepted when a drawn number is below
                             synthetic_rate, whatever the verifier says of it. The text is then NOT its own */
    float synthetic_rate;
} outrider_settings;

/* The model's generation_config.json over the built-in defaults (temperature 0.8, top-k 40, top-p 0.95,
 * min-p 0.05). `engine` may be NULL for the built-in ones. */
outrider_settings outrider_settings_defaults(const outrider_engine *engine);
/* The same of a model's folder, without loading it. */
outrider_status outrider_model_settings(const char *folder, outrider_settings *settings);

/* ---- session ---- */

typedef enum {
    OUTRIDER_RUNNING,
    OUTRIDER_STOP_EOS,     /* the model ended its text */
    OUTRIDER_STOP_STRING,  /* a stop string appeared */
    OUTRIDER_STOP_LENGTH,  /* n_predict tokens are written */
    OUTRIDER_STOP_CONTEXT, /* the context is full */
    OUTRIDER_STOP_CALLER,  /* outrider_session_end */
    OUTRIDER_STOP_FAILED,  /* no token was possible: all were forbidden, or the logits are not numbers */
} outrider_stop;
const char *outrider_stop_name(outrider_stop stop);

outrider_status outrider_session_open(outrider_engine *engine, const outrider_settings *settings,
                                      outrider_session **out);
void outrider_session_close(outrider_session *session);
outrider_status outrider_session_set(outrider_session *session, const outrider_settings *settings);

/* Appending begins a new answer: the stop reason, the text to take and the statistics start anew. More tokens
 * than the context holds are refused with both counts and nothing is appended; nothing is ever cut.
 * append_text puts the beginning-of-text token first where the model wants it and the session is empty.
 * append_message writes one turn of the model's chat template (after what it generated since), and after a
 * user turn the header of the answer; role is "system", "user" or "assistant". */
outrider_status outrider_session_append(outrider_session *session, const int32_t *tokens, size_t n);
outrider_status outrider_session_append_text(outrider_session *session, const char *text, size_t bytes);
outrider_status outrider_session_append_message(outrider_session *session, const char *role, const char *text,
                                                size_t bytes);

/* One round over n different sessions of one engine; those that have stopped are left alone. A session that
 * still has prompt to read reads one chunk of it, so that a long prompt takes several rounds and the caller
 * stays in control. On failure no session's tokens change (of more than 64, some may have had their round),
 * but for one case: where a session has no possible token, that session stops with OUTRIDER_STOP_FAILED, the
 * others have their round, and OUTRIDER_EFAIL is returned this once.
 *
 * When the cache has too few pages for all, the sessions whose answer began last wait: their pages are freed,
 * and what they held is read again when there is room. They are still OUTRIDER_RUNNING, and write the same
 * text as if they had not waited. Sessions that do not ride in the round give their pages first. The oldest
 * session of a round never waits. */
outrider_status outrider_round(outrider_session *const *sessions, size_t n);

outrider_stop outrider_session_stop(const outrider_session *session);
/* All tokens, prompt first. Borrowed until the next call on the session. */
const int32_t *outrider_session_tokens(const outrider_session *session, size_t *n);
/* Text of the answer that has become certain since the last call: whole UTF-8 characters, nothing that might
 * still turn out to be a stop string. Borrowed until the next call on the session. */
const char *outrider_session_take_text(outrider_session *session, size_t *bytes);

/* Who wrote a token. Whoever proposed it, it is what the verifier would have written. */
typedef enum {
    OUTRIDER_BY_CALLER,   /* appended */
    OUTRIDER_BY_VERIFIER, /* the verifier's own */
    OUTRIDER_BY_DRAFT,    /* proposed by the draft model or the own layers, and accepted */
    OUTRIDER_BY_NGRAM,    /* proposed from earlier text and accepted */
} outrider_source;
/* One outrider_source a token. Borrowed until the next call on the session. */
const uint8_t *outrider_session_sources(const outrider_session *session, size_t *n);
/* As take_text, but no more than one source wrote; *source says which. Call until there are 0 bytes. A
 * character belongs to the token that completed it. */
const char *outrider_session_take_span(outrider_session *session, size_t *bytes, outrider_source *source);

/* Ends a running answer where it is, as after Ctrl-C: text that was held back becomes certain. */
void outrider_session_end(outrider_session *session);

typedef struct {
    int32_t token;
    float logprob; /* natural logarithm, of the verifier's distribution before any sampling setting */
} outrider_logprob;
/* Of the i-th token of the answer: first the token itself, then the *n - 1 likeliest in falling order. NULL
 * when there are none. Borrowed until the next call on the session. */
const outrider_logprob *outrider_session_logprobs(const outrider_session *session, size_t i, size_t *n);

/* Drops all tokens from n on (and forgets them in the cache); a turn of a conversation goes with its first
 * token. A conversation goes on from where an answer begins or ends, not from within a message. */
outrider_status outrider_session_truncate(outrider_session *session, size_t n);
/* A second session with the same tokens and settings; shares the cache pages until they differ. */
outrider_status outrider_session_fork(const outrider_session *session, outrider_session **out);

/* A session in a file: tokens, turns and the cache of both models, bit for bit, so that a long conversation
 * goes on without being read again. Settings and the answer's text and statistics are not kept. save replaces
 * the file in one step, mode 0600; *id (may be NULL) is then a checksum of what it holds.
 * load wants an empty session of an engine with the same verifier, cache types, page size and kernels, and
 * otherwise refuses with OUTRIDER_EMODEL; with another draft, the draft reads anew. The file is untrusted: on
 * any failure the session is empty again. What was loaded is not shared with other sessions but by fork. */
outrider_status outrider_session_save(const outrider_session *session, const char *path, uint64_t *id);
outrider_status outrider_session_load(outrider_session *session, const char *path, uint64_t *id);

/* Statistics of the answer in progress. Times in milliseconds. */
typedef struct {
    int32_t n_prompt;  /* prompt tokens read; those found in the cache are not counted here */
    int32_t n_cached;  /* prompt tokens found in the cache */
    int32_t n_read;    /* of n_prompt, read so far */
    int32_t n_reread;  /* tokens read again after a wait for pages */
    int32_t n_predict; /* tokens written */
    double prompt_ms, predicted_ms;
    double plain_ms;            /* what plain decoding would have taken for n_predict, by the costs that the
                                   controller measured; 0: unknown, as with a fixed draft_n */
    double draft_ms, verify_ms; /* parts of predicted_ms */
    double busy_ms, idle_ms;    /* by the device's clock, where it has one: how long it worked on rounds, and
                                   waited for the host between them */
    int32_t n_verify;           /* verifier passes that wrote tokens */
    int32_t n_draft_steps;
    int32_t draft_n, draft_n_accepted;       /* tokens proposed and accepted */
    int32_t proposed_at[OUTRIDER_MAX_DRAFT]; /* passes that tested a proposal at this place */
    int32_t accepted_at[OUTRIDER_MAX_DRAFT]; /* passes that accepted it */
    int32_t runs[OUTRIDER_MAX_DRAFT + 1];    /* passes that accepted exactly so many */
} outrider_stats;
void outrider_session_stats(const outrider_session *session, outrider_stats *stats);

/* ---- tokens, scores, meters ---- */

/* Ids of plain text, without a beginning-of-text token; free() the array. */
outrider_status outrider_tokenize(const outrider_engine *engine, const char *text, size_t bytes,
                                  int32_t **ids, size_t *n);
/* Bytes of one token, borrowed from the engine; a control token has none. */
const char *outrider_token_bytes(const outrider_engine *engine, int32_t token, size_t *bytes);

/* Scores and meters use cache pages that no session holds; OUTRIDER_ENOMEM when there are too few.
 * Scores a text under the verifier: nll[i] = -ln p(tokens[i + 1] | tokens[0..i]) for i < n - 1, n at most the
 * context. For perplexity. */
outrider_status outrider_score(outrider_engine *engine, const int32_t *tokens, size_t n, float *nll);

/* The same piece by piece, with all logits: a scorer reads a text under the verifier, each call up to
 * OUTRIDER_SCORE_ROWS further tokens. *logits [n][vocab_size]: what may follow each of them, borrowed until
 * the next call on the engine. OUTRIDER_EFAIL where a model's logits are not numbers. Close it before the
 * engine. */
enum { OUTRIDER_SCORE_ROWS = 64 };
typedef struct outrider_scorer outrider_scorer;
outrider_status outrider_scorer_open(outrider_engine *engine, outrider_scorer **out);
outrider_status outrider_scorer_read(outrider_scorer *scorer, const int32_t *tokens, int32_t n,
                                     const float **logits);
void outrider_scorer_close(outrider_scorer *scorer);

typedef enum { OUTRIDER_VERIFIER, OUTRIDER_DRAFT, OUTRIDER_SELF } outrider_which;
/* Microseconds of one pass over `rows` rows at position `depth`, median of `repeats`. */
outrider_status outrider_time_pass(outrider_engine *engine, outrider_which which, int32_t rows, int32_t depth,
                                   int32_t repeats, double *us);
/* Gigabytes a second at which the device reads `bytes` bytes of memory. */
outrider_status outrider_read_bandwidth(outrider_engine *engine, size_t bytes, double *gb_per_s);

#ifdef __cplusplus
}
#endif
#endif

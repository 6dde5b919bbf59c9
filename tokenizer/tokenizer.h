/* Text to token ids and back.
 *
 * User text never yields a control token (<s>, </s>, added specials); only tokenizer_control and chat
 * templates name them. Files are untrusted: tokenizer.model is parsed and checked by precheck.c before the
 * sentencepiece library, whose packaged version has memory faults on hostile models, ever sees it. Byte-pair
 * models of tokenizer.json and GGUF files run in bpe.c.
 */
#ifndef OUTRIDER_TOKENIZER_H
#define OUTRIDER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"

struct tokenizer;

/* A growing list of ids; starts zeroed, freed by token_list_free. */
struct token_list {
    int32_t *ids;
    size_t n, capacity;
};
outrider_status token_list_push(struct token_list *list, int32_t id);
void token_list_free(struct token_list *list);

/* Opens the tokenizer of the model at `path`: what a GGUF file holds, or a folder's tokenizer.model, or else
 * its tokenizer.json, each with tokenizer_config.json and chat_template.jinja. OUTRIDER_EMODEL with file and
 * field. */
outrider_status tokenizer_open(const char *path, struct tokenizer **out);
void tokenizer_close(struct tokenizer *t);

int32_t tokenizer_size(const struct tokenizer *t); /* number of pieces */
int32_t tokenizer_bos(const struct tokenizer *t);  /* -1 when there is none */
int32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_add_bos(const struct tokenizer *t);              /* tokenizer_config.json: add_bos_token */
const char *tokenizer_chat_template(const struct tokenizer *t); /* NULL when the model has none */
/* Takes the template in a file, at most 1 MiB, instead of the model's. */
outrider_status tokenizer_read_template(struct tokenizer *t, const char *path);

/* The id of a control piece by its exact text ("</s>", "<|im_start|>"); -1 when there is none. */
int32_t tokenizer_control(const struct tokenizer *t, const char *piece);
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);

/* The id of a piece that a chat template may name by its exact text: a control or a user-defined one; else
 * -1. */
int32_t tokenizer_marker(const struct tokenizer *t, const char *piece, size_t bytes);

/* Appends the ids of `bytes` bytes of plain text, at most 256 MiB. Adds no BOS. For well-formed UTF-8 they
 * are those of spm_encode, or of the tokenizers library. Other bytes become byte pieces (merged where merges
 * are over bytes), or one <unk> a run where the model has no byte fallback; NUL is an ordinary character.
 * Decoding gives every byte back where the model works on bytes or has byte fallback and keeps white space,
 * but for U+2581 in models over characters, which comes back as a space, and what a normal form changes. On
 * failure nothing is appended. */
outrider_status tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes,
                                 struct token_list *out);
/* The same for text that goes on behind other tokens: without the dummy prefix of models that have one. */
outrider_status tokenizer_encode_next(const struct tokenizer *t, const char *text, size_t bytes,
                                      struct token_list *out);

/* How many tokens a text of so many bytes has at least, as far as that is known without reading it; 0: not at
 * all. The sentencepiece library takes some 190 bytes a byte of a text that is one word: whoever has no room
 * for so many tokens need not try. */
size_t tokenizer_least(const struct tokenizer *t, size_t bytes);

/* The bytes that token `id` adds to a text; *bytes of them (0 for control pieces). Borrowed from the
 * tokenizer. `first` says that it begins the text, where the dummy prefix's space is dropped. A byte piece
 * gives its one byte. An id past the vocabulary (a padded head) gives no bytes. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool first, size_t *bytes);

/* First id at which two tokenizers differ, -1 when a draft with `b` may serve a verifier with `a`. */
int32_t tokenizer_difference(const struct tokenizer *a, const struct tokenizer *b);
/* A piece for a message, in quotes and cut to what fits; returns `out`. */
const char *tokenizer_spell(const struct tokenizer *t, int32_t id, char out[80]);

/* Keeps an output stream valid UTF-8: bytes go in, whole characters come out; a sequence that can never
 * become valid comes out as U+FFFD (one for each maximal ill-formed part, Unicode 15 section 3.9). */
struct utf8_stream {
    unsigned char held[4]; /* an unfinished character */
    size_t n;
};
/* Writes at most 3 * (n + bytes) + 3 bytes to out, returns how many. `end` flushes the unfinished. */
size_t utf8_push(struct utf8_stream *s, const char *in, size_t bytes, bool end, char *out);

/* Chat templates, known by fingerprint. */
enum chat_kind {
    CHAT_NONE,
    CHAT_TALE,
    CHAT_ZEPHYR, /* also TinyLlama-Chat */
    CHAT_LLAMA2,
    CHAT_LLAMA3,
    CHAT_LLAMA31, /* and 3.2, 3.3: with the date in its system turn */
    CHAT_CHATML,
    CHAT_QWEN,        /* 2.5: ChatML with a system turn of its own */
    CHAT_QWEN3,       /* ChatML; drops the thoughts of all answers but those to the last question */
    CHAT_MISTRAL,     /* as published since system turns are allowed */
    CHAT_MISTRAL_V01, /* with a space behind the end token */
    CHAT_MISTRAL_V02, /* without; also Mixtral */
    CHAT_PHI3,
    CHAT_GEMMA,       /* 1 to 3 */
    CHAT_OWN,         /* the model's own template, interpreted */
};
enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };

const char *chat_name(enum chat_kind kind);
/* By the user's name for it (--chat-template zephyr); OUTRIDER_EINVAL lists the names. */
outrider_status chat_by_name(const char *name, enum chat_kind *kind);
/* By the template text; OUTRIDER_EINVAL with a line that names --chat-template when it is unknown, and
 * CHAT_OWN can interpret it. */
outrider_status chat_detect(const char *template_text, enum chat_kind *kind);

struct chat_message {
    enum chat_role role;
    const char *text;
    size_t bytes;
};
/* Appends the ids of messages[from..n) as the template writes them after messages[0..from), then, when
 * open_answer, the header after which the assistant's words follow. When from > 0 and messages[from - 1] is
 * an assistant turn whose words were generated in place, `close_answer` first writes what the template puts
 * after them (it may begin with the end token: pass ended = true when that one is in the text already).
 * Where the template begins with BOS and `out` ends with it, it is not written twice. Templates that merge
 * the system turn into the user's write nothing for a system turn alone, and refuse turns out of order. */
outrider_status chat_encode(const struct tokenizer *t, enum chat_kind kind,
                            const struct chat_message *messages, size_t n, size_t from, bool open_answer,
                            bool close_answer, bool ended, struct token_list *out);
/* Tokens that end an assistant turn in this template beside the model's own eos; -1 when none. */
int32_t chat_end_token(const struct tokenizer *t, enum chat_kind kind);

#endif

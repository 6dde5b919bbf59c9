/* What the files of this room share: a tokenizer, whatever file it came from.
 *
 * There are three engines behind one table of pieces: the sentencepiece library (tokenizer.model, and GGUF
 * files of its kind), and the merges of bpe.c over bytes (GPT-2's kind) or over characters (tokenizer.json
 * files that were made from a sentencepiece model). In the first and the last, pieces are written with U+2581
 * for a space; byte-level pieces are the bytes that they stand for. */
#ifndef OUTRIDER_TOKENIZER_INTERNAL_H
#define OUTRIDER_TOKENIZER_INTERNAL_H

#include <jansson.h>

#include "tokenizer/added.h"
#include "tokenizer/bpe.h"
#include "tokenizer/precheck.h"
#include "tokenizer/sentencepiece_shim.h"
#include "tokenizer/split.h"
#include "tokenizer/tokenizer.h"

/* Tokens that tokenizer_config.json adds behind the pieces of the model. */
enum { CONFIG_MAX_ADDED = 1 << 16 };

static const char SPACE[] = "\xE2\x96\x81"; /* U+2581, a space inside pieces */
enum { SPACE_BYTES = 3 };

/* Where a text gets a space in front, in models over characters. */
enum prefix {
    PREFIX_NONE,
    PREFIX_EVERY,      /* every run of text between two tokens */
    PREFIX_EVERY_WORD, /* the same, unless it begins with one */
    PREFIX_FIRST_WORD, /* only the very first, unless it begins with one */
};

/* What tokenizer.json asks of a text before the merges. */
struct text_rules {
    int form;            /* options of utf8proc_map for a normal form; 0: none */
    bool byte_level;     /* bytes, after the splitter; else characters */
    bool escapes;        /* normalizing writes U+2581 for a space; without it that is left to the lookup */
    enum prefix prefix;  /* over characters */
    bool byte_prefix;    /* over bytes: a space in front of a text, unless there is one */
    bool cuts_words;     /* over characters: no merge reaches over the start of a U+2581 */
    bool ignores_merges; /* a word that is a piece is that piece */
    bool fuses_unknown;
};

struct tokenizer {
    unsigned char *file;   /* tokenizer.model; the texts of pieces point into it */
    char *texts;           /* the texts of pieces of other files */
    json_t *config;        /* tokenizer_config.json; added tokens and the template point into it */
    char *template_file;   /* chat_template.jinja, or a GGUF file's */
    struct sp_model model; /* pieces[0..model.n) are the file's, those up to `n` added by the configuration */
    struct spm *library;
    struct bpe *bpe; /* instead of the library, with: */
    struct splitter *splitter;
    struct text_rules rules;
    struct added_table added[2]; /* looked for in the text, and in the normalized text */
    struct added_table controls; /* looked for in template text alone */
    char *text;                  /* what each piece adds to a text, one after the other */
    uint32_t *at;                /* [n + 1] where in `text` */
    int32_t n;
    int32_t bos, eos;
    bool add_bos;
    bool cut_at_spaces; /* a long text may be encoded word run by word run */
    const char *chat_template;
};

/* Reads a regular file of at most `max` bytes, and puts a NUL behind it. The caller frees it. */
outrider_status read_file(const char *path, size_t max, unsigned char **bytes, size_t *n);

/* Applies tokenizer_config.json and chat_template.jinja of folder `dir`, each where it exists, to a tokenizer
 * whose model is read: added tokens, special pieces, bos, eos, add_bos_token and the chat template. */
outrider_status tokenizer_config_read(struct tokenizer *t, const char *dir);

/* -- gguf_file.c -- */
/* The same from a GGUF file. */
outrider_status tokenizer_gguf_read(struct tokenizer *t, const char *path);
/* What the name of a pre-tokenizer in a GGUF file stands for. */
struct gguf_form {
    const char *pattern; /* that splits a text */
    bool composes;       /* to normal form C, before that */
    bool ignores_merges;
    bool adds_bos;
};
struct gguf;
outrider_status gguf_form_read(const struct gguf *g, struct gguf_form *out);

/* -- gguf_json.c -- */
/* The tokenizer.json that a GGUF model with merges over bytes amounts to; the caller's to json_decref. */
outrider_status tokenizer_gguf_json(const struct gguf *g, json_t **out);

/* The piece flags of an added token as JSON files write it. */
uint8_t added_flags(const json_t *token);

/* -- json_file.c -- */
/* Reads dir/tokenizer.json into a zeroed tokenizer: pieces, merges, and the rules of its text. */
outrider_status tokenizer_json_read(struct tokenizer *t, const char *dir);

/* Writes the bytes that a token in GPT-2's alphabet stands for, at most `bytes`; 0 when it is none of it. */
size_t byte_level_text(const char *token, size_t bytes, char *out);
/* Finds the piece of every byte, which models over bytes need. */
outrider_status find_bytes(struct tokenizer *t, const char *path);
/* Adds the merge of two tokens as the file spells them; *known: all three are tokens. */
outrider_status add_merge_of(struct tokenizer *t, const char *left, size_t left_bytes, const char *right,
                             size_t right_bytes, bool *known);

/* -- encode.c: text through bpe.c -- */
/* The ids of text without added tokens that are looked for before normalizing. */
outrider_status encode_bpe(const struct tokenizer *t, const char *text, size_t bytes, bool start,
                           struct token_list *out);
/* Normalizes well-formed UTF-8 as the model does; *out is freed by the caller. */
outrider_status normalize(const struct text_rules *rules, const char *text, size_t bytes, char **out,
                          size_t *n);
/* Length of the run at the start of the text that is all well-formed, or all not. */
size_t run_length(const char *text, size_t bytes, bool valid);
/* Whether a run of spaces, typed or written as U+2581, begins at text[i], i > 0. */
bool spaces_begin(const char *text, size_t i);
bool starts_with_space(const char *text, size_t bytes); /* that is, with U+2581 */

/* Id of the first token with this text, -1 when there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t bytes);

#endif

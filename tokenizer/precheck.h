/* The contents of a tokenizer.model, checked, and a model for the sentencepiece library made from them alone.
 */
#ifndef OUTRIDER_PRECHECK_H
#define OUTRIDER_PRECHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"

enum {
    PRECHECK_MAX_FILE = 64 << 20, /* bytes */
    PRECHECK_MAX_PIECES = 1 << 20,
    PRECHECK_MAX_PIECE = 512, /* bytes; the packaged library overruns its stack on pieces of 200 KB */
};

/* As in sentencepiece_model.proto. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER_DEFINED = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6,
};

struct piece {
    const char *text; /* as written in the file, U+2581 for a space; borrowed from the file's bytes */
    float score;
    uint16_t bytes;
    uint8_t type;
    uint8_t flags; /* enum piece_flag */
};

/* What a text is searched for before anything else, and how. */
enum piece_flag {
    PIECE_ADDED = 1,       /* not of the model itself */
    PIECE_LSTRIP = 2,      /* takes the white space in front of it */
    PIECE_RSTRIP = 4,      /* takes the white space behind it */
    PIECE_SINGLE_WORD = 8, /* only where no word goes on around it */
    PIECE_NORMALIZED = 16, /* looked for in normalized text */
    PIECE_LITERAL = 32,    /* byte-level models: not written in their alphabet, so no word */
};

struct sp_model {
    struct piece *pieces; /* [n] */
    int32_t *sorted;      /* [n] ids in the order of their texts */
    int32_t n;
    int32_t unk;           /* the one piece of that type */
    int32_t bos, eos;      /* of trainer_spec where that names a control piece, else -1 */
    int32_t byte_ids[256]; /* valid when byte_fallback */
    bool unigram;          /* else BPE */
    bool byte_fallback, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    const char *unk_surface; /* what an unknown piece decodes to; borrowed */
    size_t unk_surface_bytes;
};

/* Parses the n bytes of `file`, which must outlive the result. `path` is for messages. On failure nothing is
 * left to free. */
outrider_status precheck_read(const char *path, const unsigned char *file, size_t n, struct sp_model *out);
/* Checks and indexes pieces that came from elsewhere: m's pieces, n and byte_fallback are set. */
outrider_status precheck_index(const char *path, struct sp_model *m);
void precheck_free(struct sp_model *m);

/* Id of the piece with this text, -1 when there is none. */
int32_t precheck_find(const struct sp_model *m, const char *text, size_t bytes);

/* A serialized model for the library, to be freed by the caller. Only checked pieces, scores, types and the
 * flags that encoding needs are in it. Control pieces lose their names, so that no text can yield one, and
 * white space is left to the caller. */
outrider_status precheck_write(const struct sp_model *m, char **bytes, size_t *n);

#endif

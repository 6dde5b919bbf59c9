/* What tokenizer.c and config.c share. */
#ifndef OUTRIDER_TOKENIZER_INTERNAL_H
#define OUTRIDER_TOKENIZER_INTERNAL_H

#include <jansson.h>

#include "tokenizer/precheck.h"
#include "tokenizer/sentencepiece_shim.h"
#include "tokenizer/tokenizer.h"

/* Tokens that tokenizer_config.json adds behind the pieces of tokenizer.model. */
enum { CONFIG_MAX_ADDED = 1 << 16 };

struct tokenizer {
    unsigned char *file;   /* tokenizer.model; the texts of pieces point into it */
    json_t *config;        /* tokenizer_config.json; added tokens and the template point into it */
    char *template_file;   /* chat_template.jinja */
    struct sp_model model; /* pieces[0..model.n) are the file's, those up to `n` added by the configuration */
    struct spm *library;
    char *text;   /* what each piece adds to a text, one after the other */
    uint32_t *at; /* [n + 1] where in `text` */
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

/* Id of the first token with this text, -1 when there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t bytes);

#endif

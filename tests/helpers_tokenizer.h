/* Small tokenizers for tests: protobuf by hand, and a folder to put it in. */
#ifndef HELPERS_TOKENIZER_H
#define HELPERS_TOKENIZER_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "tokenizer/tokenizer.h"

static const char SHIPPED[] = "weights/tale/verifier";

/* Parts of a ModelProto. A piece is 0A, length, then 0A, length, text; 15, float score; 18, type. */
#define UNK "\x0a\x09\x0a\x05<unk>\x18\x02"
#define BOS "\x0a\x07\x0a\x03<s>\x18\x03"
#define EOS "\x0a\x08\x0a\x04</s>\x18\x03"
#define A                                                                                                    \
    "\x0a\x03\x0a\x01"                                                                                       \
    "a"
#define B                                                                                                    \
    "\x0a\x03\x0a\x01"                                                                                       \
    "b"
#define SPACE "\x0a\x05\x0a\x03\xE2\x96\x81"
#define AB                                                                                                   \
    "\x0a\x09\x0a\x02"                                                                                       \
    "ab"                                                                                                     \
    "\x15\x00\x00\x80\xBF"
#define PIECES UNK BOS EOS A B SPACE AB
enum { ID_UNK, ID_BOS, ID_EOS, ID_A, ID_B, ID_SPACE, ID_AB, N_PIECES };
#define BPE "\x12\x02\x18\x02"                   /* trainer_spec.model_type */
#define PLAIN "\x1a\x06\x18\x00\x20\x00\x28\x01" /* no dummy prefix, white space kept and escaped */
#define GOOD PIECES BPE PLAIN
#define FALLBACK "\x12\x05\x18\x02\x98\x02\x01" /* BPE with byte_fallback */
#define LITERAL(text) (text), sizeof(text) - 1

struct model_bytes {
    char *bytes;
    size_t n;
};

static inline void add(struct model_bytes *m, const char *bytes, size_t n) {
    m->bytes = realloc(m->bytes, m->n + n + 1);
    assert_non_null(m->bytes);
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

/* PIECES, then one piece for each byte, with byte fallback. */
static inline struct model_bytes model_with_bytes(const char *normalizer, size_t normalizer_bytes) {
    struct model_bytes m = {0};
    add(&m, LITERAL(PIECES));
    for (int byte = 0; byte < 256; byte++) {
        char piece[16];
        int n = snprintf(piece, sizeof piece, "\x0a\x0a\x0a\x06<0x%02X>\x18\x06", (unsigned)byte);
        add(&m, piece, (size_t)n);
    }
    add(&m, LITERAL(FALLBACK));
    add(&m, normalizer, normalizer_bytes);
    return m;
}

/* A folder of this test's own, made once. */
static inline const char *folder(void) {
    static char path[64];
    if (!path[0]) {
        strcpy(path, "/tmp/outrider_tokenizer_XXXXXX");
        assert_non_null(mkdtemp(path));
    }
    return path;
}

static inline void put_file(const char *name, const char *bytes, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder(), name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void drop_file(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder(), name);
    unlink(path);
}

static inline int remove_folder(void **state) {
    (void)state;
    drop_file("tokenizer.model");
    drop_file("tokenizer_config.json");
    drop_file("chat_template.jinja");
    return rmdir(folder());
}

/* Opens a model with this configuration (NULL: no file). */
static inline outrider_status open_model(const char *bytes, size_t n, const char *config,
                                         struct tokenizer **out) {
    put_file("tokenizer.model", bytes, n);
    if (config)
        put_file("tokenizer_config.json", config, strlen(config));
    else
        drop_file("tokenizer_config.json");
    return tokenizer_open(folder(), out);
}

/* A conversation of tests/golden/templates.json: a list of [role, text]. Returns how many messages. */
static inline size_t read_messages(const json_t *list, struct chat_message out[8]) {
    size_t i;
    const json_t *m;
    json_array_foreach(list, i, m) {
        const char *role = json_string_value(json_array_get(m, 0));
        const json_t *text = json_array_get(m, 1);
        enum chat_role r = role[0] == 's' ? CHAT_SYSTEM : role[0] == 'u' ? CHAT_USER : CHAT_ASSISTANT;
        out[i] = (struct chat_message){r, json_string_value(text), json_string_length(text)};
    }
    return i;
}

/* What a list of tokens reads as; the caller frees it. */
static inline char *decode(const struct tokenizer *t, const struct token_list *list, size_t *bytes) {
    char *text = malloc(list->n * 512 + 1);
    assert_non_null(text);
    *bytes = 0;
    for (size_t i = 0; i < list->n; i++) {
        size_t n;
        const char *piece = tokenizer_piece(t, list->ids[i], i == 0, &n);
        memcpy(text + *bytes, piece, n);
        *bytes += n;
    }
    return text;
}

#endif

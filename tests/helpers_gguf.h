/* GGUF files in memory, field by field, with the place of each field kept so that a test can spoil it. */
#ifndef OUTRIDER_HELPERS_GGUF_H
#define OUTRIDER_HELPERS_GGUF_H

#include "tests/helpers_weights.h"

struct gguf_image {
    unsigned char data[1 << 14];
    size_t n;
    struct {
        const char *name;
        size_t at, bytes;
    } fields[256];
    size_t n_fields;
};

static inline void gguf_put(struct gguf_image *g, const char *field, const void *data, size_t bytes) {
    if (g->n + bytes > sizeof g->data || g->n_fields == 256) folder_die("gguf image too long");
    if (field) {
        g->fields[g->n_fields].name = field;
        g->fields[g->n_fields].at = g->n;
        g->fields[g->n_fields++].bytes = bytes;
    }
    memcpy(g->data + g->n, data, bytes);
    g->n += bytes;
}

static inline void gguf_u32(struct gguf_image *g, const char *field, uint32_t value) {
    gguf_put(g, field, &value, sizeof value);
}
static inline void gguf_u64(struct gguf_image *g, const char *field, uint64_t value) {
    gguf_put(g, field, &value, sizeof value);
}
static inline void gguf_str(struct gguf_image *g, const char *length_field, const char *field,
                            const char *text) {
    gguf_u64(g, length_field, strlen(text));
    gguf_put(g, field, text, strlen(text));
}

static inline void gguf_head(struct gguf_image *g, uint64_t tensors, uint64_t values) {
    *g = (struct gguf_image){.n = 0};
    gguf_put(g, "magic", "GGUF", 4);
    gguf_u32(g, "version", 3);
    gguf_u64(g, "n tensors", tensors);
    gguf_u64(g, "n values", values);
}
static inline void gguf_kv_u32(struct gguf_image *g, const char *key, uint32_t value) {
    gguf_str(g, NULL, NULL, key);
    gguf_u32(g, NULL, 4);
    gguf_u32(g, key, value);
}
static inline void gguf_kv_str(struct gguf_image *g, const char *key, const char *value) {
    gguf_str(g, NULL, NULL, key);
    gguf_u32(g, NULL, 8);
    gguf_str(g, NULL, NULL, value);
}
static inline void gguf_array_head(struct gguf_image *g, const char *key, const char *type_field,
                                   uint32_t type, const char *n_field, uint64_t n) {
    gguf_str(g, NULL, NULL, key);
    gguf_u32(g, NULL, 9);
    gguf_u32(g, type_field, type);
    gguf_u64(g, n_field, n);
}
/* dims innermost first, 0 for none */
static inline void gguf_info(struct gguf_image *g, const char *name, uint64_t a, uint64_t b, uint32_t type,
                             uint64_t offset) {
    gguf_str(g, NULL, NULL, name);
    gguf_u32(g, NULL, b ? 2 : 1);
    gguf_u64(g, NULL, a);
    if (b) gguf_u64(g, NULL, b);
    gguf_u32(g, NULL, type);
    gguf_u64(g, NULL, offset);
}
static inline void gguf_data(struct gguf_image *g, size_t alignment, size_t bytes) {
    while (g->n % alignment) gguf_put(g, NULL, "", 1);
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)(i & 63);
        gguf_put(g, NULL, &byte, 1);
    }
}

static inline void gguf_spoil(struct gguf_image *g, const char *field, uint64_t value) {
    for (size_t i = 0; i < g->n_fields; i++)
        if (strcmp(g->fields[i].name, field) == 0) {
            memcpy(g->data + g->fields[i].at, &value, g->fields[i].bytes < 8 ? g->fields[i].bytes : 8);
            return;
        }
    fail_msg("no field %s", field);
}

#endif

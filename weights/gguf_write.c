/* Writer of GGUF files; see gguf_write.h. */
#include "weights/gguf_write.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"

enum { ALIGNMENT = 32 };

/* ---- header ---- */

void gguf_put_element(struct gguf_header *h, const void *value, size_t bytes) {
    if (h->failed) return;
    if (bytes > h->room - h->n) {
        size_t room = 2 * (h->n + bytes) + 1024;
        unsigned char *data = realloc(h->data, room);
        if (!data) {
            h->failed = true;
            return;
        }
        h->data = data;
        h->room = room;
    }
    if (bytes > 0) memcpy(h->data + h->n, value, bytes);
    h->n += bytes;
}

static void put_u32(struct gguf_header *h, uint32_t value) {
    gguf_put_element(h, &value, sizeof value);
}
static void put_u64(struct gguf_header *h, uint64_t value) {
    gguf_put_element(h, &value, sizeof value);
}

void gguf_put_string(struct gguf_header *h, const char *text, size_t bytes) {
    put_u64(h, bytes);
    gguf_put_element(h, text, bytes);
}

static void put_key(struct gguf_header *h, const char *key, enum gguf_type type) {
    gguf_put_string(h, key, strlen(key));
    put_u32(h, type);
    h->n_values++;
}

void gguf_put_int(struct gguf_header *h, const char *key, enum gguf_type type, int64_t value) {
    put_key(h, key, type);
    gguf_put_element(h, &value, type == GGUF_UINT16 ? 2 : type == GGUF_UINT64 ? 8 : 4);
}

void gguf_put_float(struct gguf_header *h, const char *key, float value) {
    put_key(h, key, GGUF_FLOAT32);
    gguf_put_element(h, &value, sizeof value);
}

void gguf_put_bool(struct gguf_header *h, const char *key, bool value) {
    put_key(h, key, GGUF_BOOL);
    gguf_put_element(h, value ? "\1" : "\0", 1);
}

void gguf_put_text(struct gguf_header *h, const char *key, const char *text, size_t bytes) {
    put_key(h, key, GGUF_STRING);
    gguf_put_string(h, text, bytes);
}

void gguf_put_array(struct gguf_header *h, const char *key, enum gguf_type type, size_t n) {
    put_key(h, key, GGUF_ARRAY);
    put_u32(h, type);
    put_u64(h, n);
}

static uint32_t file_type(enum dtype t) {
    static const uint32_t types[DTYPES] = {
        [DTYPE_F32] = 0,   [DTYPE_F16] = 1,   [DTYPE_BF16] = 30, [DTYPE_Q8_0] = 8,
        [DTYPE_Q4_0] = 2,  [DTYPE_Q4_1] = 3,  [DTYPE_Q5_0] = 6,  [DTYPE_Q5_1] = 7,
        [DTYPE_Q4_K] = 12, [DTYPE_Q5_K] = 13, [DTYPE_Q6_K] = 14};
    return types[t]; /* nothing is converted to the others */
}

void gguf_put_tensor(struct gguf_header *h, const char *name, enum dtype dtype, int32_t n_dims,
                     const int64_t *shape, size_t bytes) {
    gguf_put_string(h, name, strlen(name));
    put_u32(h, (uint32_t)n_dims);
    for (int32_t i = n_dims; i-- > 0;) put_u64(h, (uint64_t)shape[i]);
    put_u32(h, file_type(dtype));
    put_u64(h, h->offset);
    h->n_tensors++;
    h->offset += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

outrider_status gguf_write_header(const struct gguf_header *h, struct new_file *f) {
    const uint32_t version = 3;
    if (h->failed) return fail_memory("a GGUF header", h->n);
    TRY(new_file_write(f, "GGUF", 4));
    TRY(new_file_write(f, &version, sizeof version));
    TRY(new_file_write(f, &h->n_tensors, sizeof h->n_tensors));
    TRY(new_file_write(f, &h->n_values, sizeof h->n_values));
    TRY(new_file_write(f, h->data, h->n));
    return gguf_write_padding(f, 24 + h->n);
}

outrider_status gguf_write_padding(struct new_file *f, size_t bytes) {
    static const char zeros[ALIGNMENT];
    return new_file_write(f, zeros, (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT);
}

void gguf_header_free(struct gguf_header *h) {
    free(h->data);
    *h = (struct gguf_header){0};
}

/* Writer of GGUF files, version 3. */
#ifndef OUTRIDER_GGUF_WRITE_H
#define OUTRIDER_GGUF_WRITE_H

#include "runtime/new_file.h"
#include "weights/gguf.h"

/* The header in memory: metadata, then tensors, then gguf_write_header. Running out of memory is remembered,
 * and told there. */
struct gguf_header {
    unsigned char *data;
    size_t n, room;
    uint64_t n_values, n_tensors, offset;
    bool failed;
};
void gguf_put_int(struct gguf_header *h, const char *key, enum gguf_type type, int64_t value);
void gguf_put_float(struct gguf_header *h, const char *key, float value);
void gguf_put_bool(struct gguf_header *h, const char *key, bool value);
void gguf_put_text(struct gguf_header *h, const char *key, const char *text, size_t bytes);
/* Followed by exactly n calls of one of those below. */
void gguf_put_array(struct gguf_header *h, const char *key, enum gguf_type type, size_t n);
void gguf_put_element(struct gguf_header *h, const void *value, size_t bytes);
void gguf_put_string(struct gguf_header *h, const char *text, size_t bytes);

/* Shape outermost first; data will follow in the order of these calls. */
void gguf_put_tensor(struct gguf_header *h, const char *name, enum dtype dtype, int32_t n_dims,
                     const int64_t *shape, size_t bytes);
outrider_status gguf_write_header(const struct gguf_header *h, struct new_file *f);
/* Fills up what stands behind a tensor of so many bytes. */
outrider_status gguf_write_padding(struct new_file *f, size_t bytes);
void gguf_header_free(struct gguf_header *h); /* zeroed is fine */

#endif

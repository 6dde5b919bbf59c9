/* Reader of GGUF models, versions 2 and 3, in one file or split over several: typed metadata, and tensors by
 * their place in the mapping. Names, shapes and configuration in Hugging Face's spelling are made from it by
 * names.h, gguf_config.c and weights.c.
 *
 * Source: the specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
#ifndef OUTRIDER_GGUF_H
#define OUTRIDER_GGUF_H

#include "weights/safetensors.h"

struct gguf;

/* As in the file. */
enum gguf_type {
    GGUF_UINT8,
    GGUF_INT8,
    GGUF_UINT16,
    GGUF_INT16,
    GGUF_UINT32,
    GGUF_INT32,
    GGUF_FLOAT32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_UINT64,
    GGUF_INT64,
    GGUF_FLOAT64,
    GGUF_TYPES
};

/* Bytes in the mapping, without a NUL behind them, and not checked for UTF-8 (keys are printable ASCII). */
struct gguf_string {
    const char *at;
    size_t bytes;
};

/* One entry of the metadata, or zeroed for none. Elements lie in the mapping at any alignment. */
struct gguf_value {
    struct gguf_string key;
    enum gguf_type type; /* of the elements; never GGUF_ARRAY */
    bool is_array;       /* else n is 1 */
    size_t n;
    const unsigned char *at; /* the first element not yet taken by gguf_next_string */
};

/* Opens a model by its file, or by any file of a split one. Everything that the header says is checked here:
 * counts, lengths, types, alignment, offsets, overlaps and duplicates; what fails leaves OUTRIDER_EMODEL and
 * a line that names file and field. */
outrider_status gguf_open(const char *path, struct gguf **out);
void gguf_close(struct gguf *g); /* NULL is fine */

const char *gguf_path(const struct gguf *g); /* of the first file */
size_t gguf_files(const struct gguf *g);
/* Tensors under the file's own names, dims turned around (outermost first). Borrowed. */
const struct tensor_list *gguf_tensors(const struct gguf *g);
/* A tensor by its name in the file, NULL when there is none. */
const struct tensor *gguf_tensor(const struct gguf *g, const char *name);

/* Metadata of the first file, in the order of keys. */
size_t gguf_count(const struct gguf *g);
const struct gguf_value *gguf_at(const struct gguf *g, size_t i);
const struct gguf_value *gguf_find(const struct gguf *g, const char *key); /* NULL when absent */
const char *gguf_type_name(enum gguf_type type);

/* A value as one line of text for people, at most `size` bytes with its NUL: strings cut with "..." and
 * without control characters, arrays as "array of N strings". */
void gguf_show(const struct gguf_value *v, char *out, size_t size);

/* Single values with type and range checked. An absent key leaves *out as the caller set it. */
outrider_status gguf_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out);
outrider_status gguf_float(const struct gguf *g, const char *key, float min, float max, float *out);
outrider_status gguf_bool(const struct gguf *g, const char *key, bool *out);
outrider_status gguf_text(const struct gguf *g, const char *key, struct gguf_string *out);

/* Arrays: *out is a copy of the entry, zeroed when absent; of integers, float32, strings or
 * bools. */
enum gguf_kind { GGUF_INTS, GGUF_FLOATS, GGUF_STRINGS, GGUF_BOOLS };
outrider_status gguf_array(const struct gguf *g, const char *key, enum gguf_kind kind,
                           struct gguf_value *out);
int64_t gguf_int_at(const struct gguf_value *v, size_t i); /* of integers or bools; i < n */
float gguf_float_at(const struct gguf_value *v, size_t i); /* of float32; i < n */
/* Takes the next string off an array of strings; call at most n times. */
struct gguf_string gguf_next_string(struct gguf_value *v);

#endif

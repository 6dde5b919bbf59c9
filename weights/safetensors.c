/* Reader of one safetensors file.
 *
 * Invariant: no tensor leaves here unless its bytes lie inside the mapping, are exactly what its shape needs,
 * and belong to no other tensor. Types beyond those in dtype.h, more than TENSOR_MAX_DIMS dimensions, fields
 * that the format does not know, and data that is not aligned to its element are refused, not worked around.
 * Source: the format as its README states it, https://github.com/huggingface/safetensors
 */
#include "weights/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "weights/document.h"

enum { LENGTH_BYTES = 8, HEADER_MAX = 100 * 1000 * 1000 };

_Static_assert(sizeof(size_t) == 8, "file offsets are kept in size_t");

void tensor_list_free(struct tensor_list *list) {
    for (size_t i = 0; i < list->n; i++) free((char *)list->at[i].name);
    free(list->at);
    *list = (struct tensor_list){0};
}

outrider_status tensor_list_push(struct tensor_list *list, const struct tensor *tensor) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        struct tensor *at = realloc(list->at, capacity * sizeof *at);
        if (!at) return fail_memory("the list of tensors", capacity * sizeof *at);
        list->at = at;
        list->capacity = capacity;
    }
    char *name = strdup(tensor->name);
    if (!name) return fail_memory("a tensor's name", strlen(tensor->name) + 1);
    list->at[list->n] = *tensor;
    list->at[list->n++].name = name;
    return OUTRIDER_OK;
}

int tensor_by_name(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

const struct tensor *tensor_list_find(const struct tensor_list *list, const char *name) {
    struct tensor key = {.name = name};
    return bsearch(&key, list->at, list->n, sizeof key, tensor_by_name);
}

static outrider_status fail_tensor(const struct tensor *t, const char *field, const char *what) {
    return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\": %s %s", t->file, t->name, field, what);
}

static outrider_status read_dtype(const json_t *value, struct tensor *t) {
    static const char *const names[DTYPES] = {
        [DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16", [DTYPE_E4M3] = "F8_E4M3"};
    const char *name = json_string_value(value);
    if (!name) return fail_tensor(t, "dtype", "is not a string");
    for (size_t i = 0; i < DTYPES; i++)
        if (names[i] && !strcmp(name, names[i])) {
            t->dtype = (enum dtype)i;
            return OUTRIDER_OK;
        }
    return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\": dtype %.20s is none of F32, F16, BF16, F8_E4M3",
                t->file, t->name, name);
}

/* Also the bytes that dtype and shape ask for. */
static outrider_status read_shape(const json_t *value, struct tensor *t) {
    if (!json_is_array(value)) return fail_tensor(t, "shape", "is not an array");
    if (json_array_size(value) > TENSOR_MAX_DIMS)
        return fail_tensor(t, "shape", "has more than 4 dimensions");
    t->n_dims = (int32_t)json_array_size(value);
    t->bytes = dtype_bytes(t->dtype);
    for (int32_t i = 0; i < TENSOR_MAX_DIMS; i++) {
        t->shape[i] = 1;
        if (i >= t->n_dims) continue;
        const json_t *size = json_array_get(value, (size_t)i);
        if (!json_is_integer(size)) return fail_tensor(t, "shape", "holds something that is not an integer");
        t->shape[i] = json_integer_value(size);
        if (t->shape[i] < 0) return fail_tensor(t, "shape", "is negative");
        if (!mul_fits(t->bytes, (size_t)t->shape[i], &t->bytes)) return fail_tensor(t, "shape", "overflows");
    }
    return OUTRIDER_OK;
}

static outrider_status read_offsets(const json_t *value, const unsigned char *data, size_t data_bytes,
                                    struct tensor *t) {
    const json_t *first = json_array_get(value, 0), *last = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return fail_tensor(t, "data_offsets", "is not a pair of integers");
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin) return fail_tensor(t, "data_offsets", "is not an ascending range");
    if ((size_t)end > data_bytes)
        return fail_tensor(t, "data_offsets",
                           "reaches past the end of the file; if it was cut off, get it again");
    if ((size_t)(end - begin) != t->bytes)
        return fail_tensor(t, "data_offsets", "disagrees with dtype and shape");
    t->data = data + begin;
    if ((uintptr_t)t->data % dtype_bytes(t->dtype)) return fail_tensor(t, "data_offsets", "is not aligned");
    return OUTRIDER_OK;
}

static outrider_status read_tensor(const json_t *info, const unsigned char *data, size_t data_bytes,
                                   struct tensor *t) {
    if (!json_is_object(info)) return fail_tensor(t, "entry", "is not an object");
    if (json_object_size(info) != 3) return fail_tensor(t, "entry", "is not dtype, shape and data_offsets");
    TRY(read_dtype(json_object_get(info, "dtype"), t));
    TRY(read_shape(json_object_get(info, "shape"), t));
    return read_offsets(json_object_get(info, "data_offsets"), data, data_bytes, t);
}

static outrider_status check_metadata(const char *file, json_t *metadata) {
    if (!json_is_object(metadata)) return fail(OUTRIDER_EMODEL, "%s: __metadata__ is not an object", file);
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return fail(OUTRIDER_EMODEL, "%s: __metadata__ \"%.100s\" is not a string", file, key);
    }
    return OUTRIDER_OK;
}

static int by_place(const void *a, const void *b) {
    const struct tensor *s = a, *t = b;
    if (s->data != t->data) return s->data < t->data ? -1 : 1;
    return (s->bytes > t->bytes) - (s->bytes < t->bytes); /* an empty tensor ends where it begins */
}

/* No holes, no overlap, all covered: in order of place, each tensor begins where the one before ends. */
static outrider_status check_cover(const char *file, const struct tensor_list *list, size_t first,
                                   const unsigned char *data, size_t data_bytes) {
    size_t n = list->n - first;
    struct tensor *tensors = n > 0 ? list->at + first : NULL;
    if (n > 0) qsort(tensors, n, sizeof *tensors, by_place);
    const unsigned char *end = data;
    for (size_t i = 0; i < n; i++) {
        const unsigned char *begin = tensors[i].data;
        if (begin < end) return fail_tensor(&tensors[i], "data_offsets", "overlaps another tensor");
        if (begin > end) return fail_tensor(&tensors[i], "data_offsets", "leaves a hole before it");
        end = begin + tensors[i].bytes;
    }
    size_t covered = (size_t)(end - data);
    if (covered == data_bytes) return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL, "%s: data_offsets cover %zu of %zu bytes", file, covered, data_bytes);
}

static outrider_status read_tensors(const char *file, json_t *header, const unsigned char *data,
                                    size_t data_bytes, struct tensor_list *list) {
    size_t first = list->n;
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value) {
        if (!strcmp(name, "__metadata__")) {
            TRY(check_metadata(file, value));
            continue;
        }
        struct tensor t = {.name = name, .file = file};
        TRY(read_tensor(value, data, data_bytes, &t));
        TRY(tensor_list_push(list, &t));
    }
    return check_cover(file, list, first, data, data_bytes);
}

outrider_status safetensors_read(const struct mapping *file, struct tensor_list *list) {
    if (file->bytes < LENGTH_BYTES)
        return fail(OUTRIDER_EMODEL, "%s: header length: the file has only %zu bytes", file->path,
                    file->bytes);
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) length = length << 8 | file->data[i];
    if (length > HEADER_MAX)
        return fail(OUTRIDER_EMODEL, "%s: header length %llu exceeds %d", file->path,
                    (unsigned long long)length, HEADER_MAX);
    if (length > file->bytes - LENGTH_BYTES)
        return fail(OUTRIDER_EMODEL, "%s: header length %llu exceeds the file", file->path,
                    (unsigned long long)length);
    const unsigned char *text = file->data + LENGTH_BYTES, *data = text + length;
    if (length == 0 || *text != '{')
        return fail(OUTRIDER_EMODEL, "%s: header is not a JSON object", file->path);
    json_t *header;
    TRY(document_parse(file->path, text, length, &header));
    outrider_status status =
        read_tensors(file->path, header, data, file->bytes - LENGTH_BYTES - length, list);
    json_decref(header);
    return status;
}

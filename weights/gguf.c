/* Reader of GGUF models; see gguf.h.
 *
 * Invariants: nothing outside a mapping is read, whatever lengths and counts a file holds; what is allocated
 * is bounded by the file's size (a count is believed only when the bytes for so many entries are there); a
 * tensor leaves here only when its bytes lie inside its file, aligned, and belong to no other tensor. Arrays
 * of arrays, big-endian files and version 1 are refused. */
#include "weights/gguf.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"

enum {
    MAX_ENTRIES = 1 << 16, /* of metadata, and of tensors, in a file */
    MAX_KEY = 1 << 16,
    MAX_NAME = 64,
    MAX_SPLIT = 9999,
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 20,
};
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF numbers are read as they stand");

struct values {
    struct gguf_value *at; /* sorted by key once all are read */
    size_t n;
};

struct gguf {
    struct mapping *files;
    size_t n_files;
    struct values values; /* of the first file */
    struct tensor_list tensors;
};

/* ---- bytes ---- */

struct reader {
    const char *path;
    const unsigned char *start, *at, *end;
};

static size_t left(const struct reader *r) {
    return (size_t)(r->end - r->at);
}

static outrider_status cut(const struct reader *r, const char *what) {
    return fail(OUTRIDER_EMODEL, "%s: %s: the file ends at byte %zu; if it was cut off, get it again",
                r->path, what, (size_t)(r->end - r->start));
}

static bool take(struct reader *r, size_t n, const unsigned char **out) {
    if (n > left(r)) return false;
    *out = r->at;
    r->at += n;
    return true;
}

static bool take_u32(struct reader *r, uint32_t *out) {
    const unsigned char *p;
    if (!take(r, sizeof *out, &p)) return false;
    memcpy(out, p, sizeof *out);
    return true;
}

static bool take_u64(struct reader *r, uint64_t *out) {
    const unsigned char *p;
    if (!take(r, sizeof *out, &p)) return false;
    memcpy(out, p, sizeof *out);
    return true;
}

static bool take_string(struct reader *r, struct gguf_string *out) {
    uint64_t n;
    const unsigned char *p;
    if (!take_u64(r, &n) || n > left(r) || !take(r, (size_t)n, &p)) return false;
    *out = (struct gguf_string){(const char *)p, (size_t)n};
    return true;
}

/* ---- metadata ---- */

static const struct {
    const char *name;
    size_t bytes; /* 0: no fixed size */
} types[GGUF_TYPES] = {
    [GGUF_UINT8] = {"u8", 1},    [GGUF_INT8] = {"i8", 1},    [GGUF_UINT16] = {"u16", 2},
    [GGUF_INT16] = {"i16", 2},   [GGUF_UINT32] = {"u32", 4}, [GGUF_INT32] = {"i32", 4},
    [GGUF_FLOAT32] = {"f32", 4}, [GGUF_BOOL] = {"bool", 1},  [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_UINT64] = {"u64", 8}, [GGUF_INT64] = {"i64", 8},
    [GGUF_FLOAT64] = {"f64", 8},
};

const char *gguf_type_name(enum gguf_type type) {
    return types[type].name;
}

static outrider_status fail_value(const char *path, const struct gguf_value *v, const char *what) {
    return fail(OUTRIDER_EMODEL, "%s: metadata \"%.*s\" %s", path,
                (int)(v->key.bytes < 100 ? v->key.bytes : 100), v->key.at, what);
}

static outrider_status read_key(struct reader *r, struct gguf_value *v) {
    if (!take_string(r, &v->key)) return cut(r, "metadata key");
    if (v->key.bytes == 0 || v->key.bytes > MAX_KEY)
        return fail(OUTRIDER_EMODEL, "%s: metadata key of %zu bytes, must be 1 to %d", r->path, v->key.bytes,
                    MAX_KEY);
    for (size_t i = 0; i < v->key.bytes; i++)
        if (v->key.at[i] < ' ' || v->key.at[i] > '~')
            return fail(OUTRIDER_EMODEL, "%s: metadata key at byte %zu is not printable ASCII", r->path,
                        (size_t)((const unsigned char *)v->key.at - r->start));
    return OUTRIDER_OK;
}

static outrider_status read_type(struct reader *r, struct gguf_value *v, enum gguf_type *out) {
    uint32_t type;
    if (!take_u32(r, &type)) return fail_value(r->path, v, "type: the file ends here");
    if (type >= GGUF_TYPES) return fail_value(r->path, v, "type is none of the format's");
    *out = (enum gguf_type)type;
    return OUTRIDER_OK;
}

/* The length of an array is believed when the bytes for it are there: a string takes at least its length. */
static outrider_status read_array_head(struct reader *r, struct gguf_value *v) {
    uint64_t n;
    TRY(read_type(r, v, &v->type));
    if (v->type == GGUF_ARRAY) return fail_value(r->path, v, "is an array of arrays, which is not supported");
    size_t least = v->type == GGUF_STRING ? sizeof(uint64_t) : types[v->type].bytes;
    if (!take_u64(r, &n)) return fail_value(r->path, v, "array length: the file ends here");
    if (n > left(r) / least) return fail_value(r->path, v, "array length exceeds the file");
    v->is_array = true;
    v->n = (size_t)n;
    return OUTRIDER_OK;
}

static outrider_status check_bools(const struct reader *r, const struct gguf_value *v) {
    for (size_t i = 0; v->type == GGUF_BOOL && i < v->n; i++)
        if (v->at[i] > 1) return fail_value(r->path, v, "holds a bool that is neither 0 nor 1");
    return OUTRIDER_OK;
}

static outrider_status read_value(struct reader *r, struct gguf_value *v) {
    const unsigned char *p;
    struct gguf_string s;
    TRY(read_key(r, v));
    TRY(read_type(r, v, &v->type));
    v->n = 1;
    if (v->type == GGUF_ARRAY) TRY(read_array_head(r, v));
    v->at = r->at;
    if (v->type == GGUF_STRING) {
        for (size_t i = 0; i < v->n; i++)
            if (!take_string(r, &s)) return fail_value(r->path, v, "string length exceeds the file");
        return OUTRIDER_OK;
    }
    /* cannot wrap: of an array it was compared with the file */
    if (!take(r, v->n * types[v->type].bytes, &p)) return fail_value(r->path, v, "value: the file ends here");
    return check_bools(r, v);
}

static int compare(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int by_key(const void *a, const void *b) {
    const struct gguf_value *v = a, *w = b;
    return compare(v->key.at, v->key.bytes, w->key.at, w->key.bytes);
}

static outrider_status read_values(struct reader *r, uint64_t n, struct values *out) {
    enum { LEAST = 8 + 1 + 4 + 1 }; /* key length, key, type, value */
    if (n > MAX_ENTRIES || n > left(r) / LEAST)
        return fail(OUTRIDER_EMODEL, "%s: metadata count %llu exceeds %s", r->path, (unsigned long long)n,
                    n > MAX_ENTRIES ? "65536" : "the file");
    out->at = calloc(n ? (size_t)n : 1, sizeof *out->at);
    if (!out->at) return fail_memory("metadata", (size_t)n * sizeof *out->at);
    for (; out->n < n; out->n++) TRY(read_value(r, &out->at[out->n]));
    qsort(out->at, out->n, sizeof *out->at, by_key);
    for (size_t i = 1; i < out->n; i++)
        if (by_key(&out->at[i - 1], &out->at[i]) == 0)
            return fail_value(r->path, &out->at[i], "stands there twice");
    return OUTRIDER_OK;
}

static const struct gguf_value *find_value(const struct values *values, const char *key) {
    struct gguf_value wanted = {.key = {key, strlen(key)}};
    return values->n ? bsearch(&wanted, values->at, values->n, sizeof wanted, by_key) : NULL;
}

static int64_t int_of(enum gguf_type type, const unsigned char *at) {
    uint64_t bits = 0;
    memcpy(&bits, at, types[type].bytes);
    switch (type) {
    case GGUF_INT8:
        return (int8_t)bits;
    case GGUF_INT16:
        return (int16_t)bits;
    case GGUF_INT32:
        return (int32_t)bits;
    case GGUF_UINT64: /* none of what is read comes near it */
        return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    default:
        return (int64_t)bits;
    }
}

static bool is_integer(enum gguf_type type) {
    return type <= GGUF_INT32 || type == GGUF_UINT64 || type == GGUF_INT64;
}

static outrider_status value_int(const char *path, const struct gguf_value *v, int64_t min, int64_t max,
                                 int64_t *out) {
    if (!v) return OUTRIDER_OK;
    if (v->is_array || !is_integer(v->type)) return fail_value(path, v, "is not an integer");
    int64_t n = int_of(v->type, v->at);
    if (n < min || n > max)
        return fail(OUTRIDER_EMODEL, "%s: metadata \"%.*s\" is %lld, must be %lld to %lld", path,
                    (int)(v->key.bytes < 100 ? v->key.bytes : 100), v->key.at, (long long)n, (long long)min,
                    (long long)max);
    *out = n;
    return OUTRIDER_OK;
}

/* ---- tensors ---- */

/* Numbers of the types in a file. Those with a name but no dtype are told apart from nonsense. */
static const struct file_type {
    const char *name; /* NULL: none, or no longer one */
    int dtype;        /* -1: not supported */
} file_types[] = {
    {"F32", DTYPE_F32},   {"F16", DTYPE_F16},   {"Q4_0", DTYPE_Q4_0}, {"Q4_1", DTYPE_Q4_1},
    {NULL, -1},           {NULL, -1},           {"Q5_0", DTYPE_Q5_0}, {"Q5_1", DTYPE_Q5_1},
    {"Q8_0", DTYPE_Q8_0}, {"Q8_1", -1},         {"Q2_K", -1},         {"Q3_K", -1},
    {"Q4_K", DTYPE_Q4_K}, {"Q5_K", DTYPE_Q5_K}, {"Q6_K", DTYPE_Q6_K}, {"Q8_K", -1},
    {"IQ2_XXS", -1},      {"IQ2_XS", -1},       {"IQ3_XXS", -1},      {"IQ1_S", -1},
    {"IQ4_NL", -1},       {"IQ3_S", -1},        {"IQ2_S", -1},        {"IQ4_XS", -1},
    {"I8", -1},           {"I16", -1},          {"I32", -1},          {"I64", -1},
    {"F64", -1},          {"IQ1_M", -1},        {"BF16", DTYPE_BF16}, {NULL, -1},
    {NULL, -1},           {NULL, -1},           {"TQ1_0", -1},        {"TQ2_0", -1},
    {NULL, -1},           {NULL, -1},           {NULL, -1},           {"MXFP4", -1},
};

static outrider_status fail_tensor(const struct tensor *t, const char *what) {
    return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\": %s", t->file, t->name, what);
}

/* The name with a NUL; later owned by the list. */
static outrider_status read_name(struct reader *r, char name[MAX_NAME + 1]) {
    struct gguf_string s;
    if (!take_string(r, &s)) return cut(r, "tensor name");
    if (s.bytes == 0 || s.bytes > MAX_NAME)
        return fail(OUTRIDER_EMODEL, "%s: tensor name of %zu bytes, must be 1 to %d", r->path, s.bytes,
                    MAX_NAME);
    for (size_t i = 0; i < s.bytes; i++)
        if (s.at[i] < ' ' || s.at[i] > '~')
            return fail(OUTRIDER_EMODEL, "%s: tensor name at byte %zu is not printable ASCII", r->path,
                        (size_t)((const unsigned char *)s.at - r->start));
    memcpy(name, s.at, s.bytes);
    name[s.bytes] = '\0';
    return OUTRIDER_OK;
}

/* Dimensions are stored innermost first. */
static outrider_status read_dims(struct reader *r, struct tensor *t) {
    uint32_t n;
    uint64_t size;
    if (!take_u32(r, &n)) return fail_tensor(t, "dimensions: the file ends here");
    if (n < 1 || n > TENSOR_MAX_DIMS) return fail_tensor(t, "has not 1 to 4 dimensions");
    t->n_dims = (int32_t)n;
    for (uint32_t i = 0; i < TENSOR_MAX_DIMS; i++) t->shape[i] = 1;
    for (uint32_t i = 0; i < n; i++) {
        if (!take_u64(r, &size)) return fail_tensor(t, "dimensions: the file ends here");
        if (size < 1 || size > INT64_MAX) return fail_tensor(t, "a dimension is not 1 to 2^63 - 1");
        t->shape[n - 1 - i] = (int64_t)size;
    }
    return OUTRIDER_OK;
}

static outrider_status read_dtype(struct reader *r, struct tensor *t) {
    uint32_t type;
    if (!take_u32(r, &type)) return fail_tensor(t, "type: the file ends here");
    if (type >= sizeof file_types / sizeof *file_types || !file_types[type].name)
        return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\": type %u is none of the format's", t->file, t->name,
                    type);
    if (file_types[type].dtype < 0)
        return fail(
            OUTRIDER_EMODEL,
            "%s: tensor \"%s\": type %s is not supported (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, "
            "Q4_K, Q5_K, Q6_K)",
            t->file, t->name, file_types[type].name);
    t->dtype = (enum dtype)file_types[type].dtype;
    return OUTRIDER_OK;
}

static outrider_status size_tensor(struct tensor *t) {
    size_t row = (size_t)t->shape[t->n_dims - 1];
    if (row % dtype_block(t->dtype))
        return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\": rows of %zu elements are no whole blocks of %s",
                    t->file, t->name, row, dtype_name(t->dtype));
    if (!mul_fits(row / dtype_block(t->dtype), dtype_bytes(t->dtype), &t->bytes))
        return fail_tensor(t, "its size overflows");
    for (int32_t i = 0; i + 1 < t->n_dims; i++)
        if (!mul_fits(t->bytes, (size_t)t->shape[i], &t->bytes)) return fail_tensor(t, "its size overflows");
    return OUTRIDER_OK;
}

/* Leaves the offset in `data`, for where the data begin is known only behind the last tensor. */
static outrider_status read_tensor(struct reader *r, struct tensor_list *list) {
    char name[MAX_NAME + 1];
    uint64_t offset;
    TRY(read_name(r, name));
    struct tensor t = {.name = name, .file = r->path};
    TRY(read_dims(r, &t));
    TRY(read_dtype(r, &t));
    TRY(size_tensor(&t));
    if (!take_u64(r, &offset)) return fail_tensor(&t, "offset: the file ends here");
    t.data = (const void *)(uintptr_t)offset;
    return tensor_list_push(list, &t);
}

static outrider_status place_tensor(struct tensor *t, const unsigned char *data, size_t data_bytes,
                                    size_t alignment) {
    size_t offset = (size_t)(uintptr_t)t->data;
    if (offset % alignment) return fail_tensor(t, "offset is not a multiple of general.alignment");
    if (offset > data_bytes || t->bytes > data_bytes - offset)
        return fail(OUTRIDER_EMODEL,
                    "%s: tensor \"%s\": %zu bytes at offset %zu reach past the end of the file's "
                    "%zu bytes of data; if it was cut off, get it again",
                    t->file, t->name, t->bytes, offset, data_bytes);
    t->data = data + offset;
    return OUTRIDER_OK;
}

static int by_place(const void *a, const void *b) {
    const struct tensor *s = a, *t = b;
    return (s->data > t->data) - (s->data < t->data);
}

static outrider_status check_overlaps(struct tensor *at, size_t n) {
    if (n > 0) qsort(at, n, sizeof *at, by_place);
    for (size_t i = 1; i < n; i++)
        if ((const char *)at[i].data < (const char *)at[i - 1].data + at[i - 1].bytes)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\": its bytes overlap those of \"%s\"", at[i].file,
                        at[i].name, at[i - 1].name);
    return OUTRIDER_OK;
}

static outrider_status read_alignment(const char *path, const struct values *values, size_t *out) {
    int64_t alignment = DEFAULT_ALIGNMENT;
    const struct gguf_value *v = find_value(values, "general.alignment");
    TRY(value_int(path, v, 8, MAX_ALIGNMENT, &alignment));
    if (alignment & (alignment - 1)) return fail_value(path, v, "is not a power of two");
    *out = (size_t)alignment;
    return OUTRIDER_OK;
}

static outrider_status read_tensors(struct reader *r, uint64_t n, size_t alignment,
                                    struct tensor_list *list) {
    enum { LEAST = 8 + 1 + 4 + 8 + 4 + 8 }; /* name length, name, dims, a dim, type, offset */
    size_t first = list->n;
    if (n > MAX_ENTRIES || n > left(r) / LEAST)
        return fail(OUTRIDER_EMODEL, "%s: tensor count %llu exceeds %s", r->path, (unsigned long long)n,
                    n > MAX_ENTRIES ? "65536" : "the file");
    if (n == 0) return OUTRIDER_OK;
    for (uint64_t i = 0; i < n; i++) TRY(read_tensor(r, list));
    size_t header = (size_t)(r->at - r->start), total = (size_t)(r->end - r->start);
    size_t begin =
        (header + alignment - 1) & ~(alignment - 1); /* cannot wrap: a file is no 2^63 bytes long */
    if (begin > total) begin = total;
    for (size_t i = first; i < list->n; i++)
        TRY(place_tensor(&list->at[i], r->start + begin, total - begin, alignment));
    return check_overlaps(list->at + first, list->n - first);
}

/* ---- files ---- */

static outrider_status read_head(struct reader *r, uint64_t *n_tensors, uint64_t *n_values) {
    const unsigned char *magic;
    uint32_t version;
    if (!take(r, 4, &magic) || memcmp(magic, "GGUF", 4) != 0)
        return fail(OUTRIDER_EMODEL, "%s: magic: not a GGUF file; a safetensors model is named by its folder",
                    r->path);
    if (!take_u32(r, &version)) return cut(r, "version");
    if (version && (version & 0xffff) == 0)
        return fail(OUTRIDER_EMODEL, "%s: version: a big-endian file, which is not supported", r->path);
    if (version != 2 && version != 3)
        return fail(OUTRIDER_EMODEL, "%s: version %u is not supported (2, 3)", r->path, version);
    if (!take_u64(r, n_tensors)) return cut(r, "tensor count");
    if (!take_u64(r, n_values)) return cut(r, "metadata count");
    return OUTRIDER_OK;
}

/* Adds a file and its tensors to the model; its metadata go to *values, to free also on failure. */
static outrider_status add_file(struct gguf *g, const char *path, struct values *values) {
    struct mapping *files = realloc(g->files, (g->n_files + 1) * sizeof *files);
    if (!files) return fail_memory("the list of files", (g->n_files + 1) * sizeof *files);
    g->files = files;
    TRY(map_open_path(path, &g->files[g->n_files]));
    const struct mapping *file = &g->files[g->n_files++];
    struct reader r = {file->path, file->data, file->data, file->data + file->bytes};
    uint64_t n_tensors = 0, n_values = 0;
    size_t alignment = DEFAULT_ALIGNMENT;
    TRY(read_head(&r, &n_tensors, &n_values));
    TRY(read_values(&r, n_values, values));
    TRY(read_alignment(file->path, values, &alignment));
    return read_tensors(&r, n_tensors, alignment, &g->tensors);
}

static void clear(struct gguf *g) {
    tensor_list_free(&g->tensors);
    for (size_t i = 0; i < g->n_files; i++) map_close(&g->files[i]);
    free(g->files);
    free(g->values.at);
    *g = (struct gguf){0};
}

void gguf_close(struct gguf *g) {
    if (!g) return;
    clear(g);
    free(g);
}

/* ---- split models: NAME-00001-of-00003.gguf ---- */

enum { SUFFIX = sizeof "-00001-of-00003.gguf" - 1 };

/* The name of part `part` (from 1) of the model that `path` is a part of. */
static outrider_status part_path(const char *path, int64_t part, int64_t count, char out[PATH_MAX]) {
    size_t n = strlen(path);
    char of[40], number[24];
    snprintf(of, sizeof of, "-of-%05lld.gguf", (long long)count);
    snprintf(number, sizeof number, "-%05lld", (long long)part);
    if (n < SUFFIX || n >= PATH_MAX || strcmp(path + n - strlen(of), of) != 0 || path[n - SUFFIX] != '-')
        return fail(OUTRIDER_EMODEL,
                    "%s: metadata \"split.count\" is %lld, but the name does not end in -00001%s", path,
                    (long long)count, of);
    memcpy(out, path, n + 1);
    memcpy(out + n - SUFFIX, number, 6);
    return OUTRIDER_OK;
}

static outrider_status check_part(const char *path, const struct values *values, int64_t part,
                                  int64_t count) {
    int64_t number = -1, parts = -1;
    TRY(value_int(path, find_value(values, "split.no"), 0, MAX_SPLIT, &number));
    TRY(value_int(path, find_value(values, "split.count"), 0, MAX_SPLIT, &parts));
    if (number != part - 1 || parts != count)
        return fail(OUTRIDER_EMODEL,
                    "%s: metadata \"split.no\" and \"split.count\" say %lld of %lld, expected %lld of "
                    "%lld",
                    path, (long long)number, (long long)parts, (long long)part - 1, (long long)count);
    return OUTRIDER_OK;
}

static outrider_status add_parts(struct gguf *g, const char *path, int64_t count) {
    char name[PATH_MAX];
    for (int64_t part = 1; part <= count; part++) {
        struct values values = {0};
        TRY(part_path(path, part, count, name));
        outrider_status status = add_file(g, name, &values);
        if (status == OUTRIDER_OK) status = check_part(name, &values, part, count);
        if (status == OUTRIDER_OK && part == 1)
            g->values = values;
        else
            free(values.at);
        TRY(status);
    }
    int64_t total = (int64_t)g->tensors.n;
    TRY(gguf_int(g, "split.tensors.count", 0, INT32_MAX, &total));
    if (total != (int64_t)g->tensors.n)
        return fail(OUTRIDER_EMODEL, "%s: metadata \"split.tensors.count\" is %lld, the files have %zu",
                    gguf_path(g), (long long)total, g->tensors.n);
    return OUTRIDER_OK;
}

static outrider_status open_all(struct gguf *g, const char *path) {
    int64_t count = 1;
    TRY(add_file(g, path, &g->values));
    TRY(gguf_int(g, "split.count", 0, MAX_SPLIT, &count));
    if (count <= 1) return OUTRIDER_OK;
    clear(g); /* to have the parts in their order, whichever was named */
    return add_parts(g, path, count);
}

outrider_status gguf_open(const char *path, struct gguf **out) {
    *out = NULL;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) return fail_memory("a GGUF model", sizeof *g);
    outrider_status status = open_all(g, path);
    if (status == OUTRIDER_OK)
        *out = g;
    else
        gguf_close(g);
    return status;
}

/* ---- what it holds ---- */

const char *gguf_path(const struct gguf *g) {
    return g->files[0].path;
}
size_t gguf_files(const struct gguf *g) {
    return g->n_files;
}
const struct tensor_list *gguf_tensors(const struct gguf *g) {
    return &g->tensors;
}
const struct tensor *gguf_tensor(const struct gguf *g, const char *name) {
    for (size_t i = 0; i < g->tensors.n; i++)
        if (strcmp(g->tensors.at[i].name, name) == 0) return &g->tensors.at[i];
    return NULL;
}
size_t gguf_count(const struct gguf *g) {
    return g->values.n;
}
const struct gguf_value *gguf_at(const struct gguf *g, size_t i) {
    return &g->values.at[i];
}
const struct gguf_value *gguf_find(const struct gguf *g, const char *key) {
    return find_value(&g->values, key);
}

outrider_status gguf_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out) {
    return value_int(gguf_path(g), gguf_find(g, key), min, max, out);
}

outrider_status gguf_float(const struct gguf *g, const char *key, float min, float max, float *out) {
    const struct gguf_value *v = gguf_find(g, key);
    float f;
    if (!v) return OUTRIDER_OK;
    if (v->is_array || v->type != GGUF_FLOAT32) return fail_value(gguf_path(g), v, "is not a float32");
    memcpy(&f, v->at, sizeof f);
    if (!(f >= min && f <= max))
        return fail(OUTRIDER_EMODEL, "%s: metadata \"%s\" is %g, must be %g to %g", gguf_path(g), key, f, min,
                    max);
    *out = f;
    return OUTRIDER_OK;
}

outrider_status gguf_bool(const struct gguf *g, const char *key, bool *out) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return OUTRIDER_OK;
    if (v->is_array || v->type != GGUF_BOOL) return fail_value(gguf_path(g), v, "is not a bool");
    *out = *v->at;
    return OUTRIDER_OK;
}

outrider_status gguf_text(const struct gguf *g, const char *key, struct gguf_string *out) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return OUTRIDER_OK;
    if (v->is_array || v->type != GGUF_STRING) return fail_value(gguf_path(g), v, "is not a string");
    struct gguf_value copy = *v;
    *out = gguf_next_string(&copy);
    return OUTRIDER_OK;
}

outrider_status gguf_array(const struct gguf *g, const char *key, enum gguf_kind kind,
                           struct gguf_value *out) {
    static const char *const what[] = {"is not an array of integers", "is not an array of float32",
                                       "is not an array of strings", "is not an array of bools"};
    const struct gguf_value *v = gguf_find(g, key);
    *out = (struct gguf_value){0};
    if (!v) return OUTRIDER_OK;
    static const enum gguf_type wanted[] = {GGUF_INT32, GGUF_FLOAT32, GGUF_STRING, GGUF_BOOL};
    bool right = kind == GGUF_INTS ? is_integer(v->type) : v->type == wanted[kind];
    if (!v->is_array || !right) return fail_value(gguf_path(g), v, what[kind]);
    *out = *v;
    return OUTRIDER_OK;
}

int64_t gguf_int_at(const struct gguf_value *v, size_t i) {
    return int_of(v->type, v->at + i * types[v->type].bytes);
}

float gguf_float_at(const struct gguf_value *v, size_t i) {
    float f;
    memcpy(&f, v->at + i * sizeof f, sizeof f);
    return f;
}

struct gguf_string gguf_next_string(struct gguf_value *v) {
    uint64_t n; /* was checked when the file was read */
    memcpy(&n, v->at, sizeof n);
    struct gguf_string s = {(const char *)v->at + sizeof n, (size_t)n};
    v->at += sizeof n + (size_t)n;
    return s;
}

/* ---- for people ---- */

static void show_string(struct gguf_string s, char *out, size_t size) {
    size_t n = s.bytes < size ? s.bytes : size - 1;
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)s.at[i] < ' ' || s.at[i] == 0x7f ? ' ' : s.at[i];
    out[n] = '\0';
    if (n == s.bytes || size < 8) return;
    for (n -= 3; n > 0 && ((unsigned char)out[n] & 0xc0) == 0x80;) n--; /* not within a character */
    memcpy(out + n, "...", 4);
}

void gguf_show(const struct gguf_value *v, char *out, size_t size) {
    struct gguf_value copy = *v;
    float f;
    double d;
    if (v->is_array) {
        snprintf(out, size, "array of %zu %s", v->n,
                 v->type == GGUF_STRING ? "strings" : types[v->type].name);
    } else if (v->type == GGUF_STRING) {
        show_string(gguf_next_string(&copy), out, size);
    } else if (v->type == GGUF_FLOAT32) {
        memcpy(&f, v->at, sizeof f);
        snprintf(out, size, "%g", (double)f);
    } else if (v->type == GGUF_FLOAT64) {
        memcpy(&d, v->at, sizeof d);
        snprintf(out, size, "%g", d);
    } else if (v->type == GGUF_BOOL) {
        snprintf(out, size, "%s", *v->at ? "true" : "false");
    } else {
        snprintf(out, size, "%lld", (long long)int_of(v->type, v->at));
    }
}

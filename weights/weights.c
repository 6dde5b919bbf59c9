/* The tensors of a model as one sorted list: of one safetensors file, of the shards of an index, or of a
 * GGUF.
 *
 * Invariant: there is a tensor; names are unique and sorted. With an index, tensors and its weight_map agree
 * one to one. The index's total_size is not read: published files get it wrong, and the shards themselves are
 * the truth.
 */
#include "weights/weights.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "weights/document.h"
#include "weights/gguf.h"
#include "weights/names.h"
#include "weights/quants.h"
#include "weights/scales.h"
#include "weights/source.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

struct weights {
    struct mapping *files;
    size_t n_files;
    struct gguf *gguf; /* owns the mapping instead of `files` */
    struct tensor_list tensors;
    void **held; /* what weights_hold had to make */
    size_t n_held;
};

void weights_close(struct weights *w) {
    if (!w) return;
    tensor_list_free(&w->tensors);
    for (size_t i = 0; i < w->n_files; i++) map_close(&w->files[i]);
    for (size_t i = 0; i < w->n_held; i++) free(w->held[i]);
    gguf_close(w->gguf);
    free(w->held);
    free(w->files);
    free(w);
}

static outrider_status add_file(struct weights *w, const struct mapping *file) {
    w->files[w->n_files++] = *file;
    return safetensors_read(file, &w->tensors);
}

/* ---- with an index ---- */

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static json_t *weight_map(const struct document *index) {
    return document_get(index, "weight_map");
}

/* A shard is a plain name in the model's folder: a model must not be able to name files elsewhere. */
static outrider_status check_shard_name(const struct document *index, const char *tensor,
                                        const json_t *value) {
    const char *shard = json_string_value(value);
    if (!shard)
        return fail(OUTRIDER_EMODEL, "%s: weight_map \"%.100s\" is not a string", index->path, tensor);
    if (!*shard || strchr(shard, '/') || strstr(shard, ".."))
        return fail(OUTRIDER_EMODEL, "%s: weight_map \"%.100s\" names no file of this folder: \"%.100s\"",
                    index->path, tensor, shard);
    return OUTRIDER_OK;
}

/* The shard names, sorted, each once; borrowed from the index, the array to free. */
static outrider_status shard_names(const struct document *index, const char ***out, size_t *n) {
    size_t entries = json_object_size(weight_map(index));
    if (entries == 0) return fail(OUTRIDER_EMODEL, "%s: weight_map is not a filled object", index->path);
    const char **names = malloc(entries * sizeof *names);
    if (!names) return fail_memory("the list of shards", entries * sizeof *names);
    outrider_status status;
    size_t found = 0;
    const char *tensor;
    json_t *shard;
    json_object_foreach(weight_map(index), tensor, shard) {
        TRY_GOTO(failed, check_shard_name(index, tensor, shard));
        names[found++] = json_string_value(shard);
    }
    qsort(names, found, sizeof *names, by_text);
    *n = 0;
    for (size_t i = 0; i < found; i++)
        if (*n == 0 || strcmp(names[i], names[*n - 1]) != 0) names[(*n)++] = names[i];
    *out = names;
    return OUTRIDER_OK;
failed:
    free(names);
    return status;
}

static outrider_status open_shards(const char *dir, const char *const *names, size_t n, struct weights *w) {
    w->files = calloc(n, sizeof *w->files);
    if (!w->files) return fail_memory("the list of shards", n * sizeof *w->files);
    for (size_t i = 0; i < n; i++) {
        struct mapping file;
        TRY(map_open(dir, names[i], NULL, &file));
        TRY(add_file(w, &file));
    }
    return OUTRIDER_OK;
}

static outrider_status check_against_index(const struct document *index, const struct weights *w) {
    for (size_t i = 0; i < w->tensors.n; i++) {
        const struct tensor *t = &w->tensors.at[i];
        const char *named = json_string_value(json_object_get(weight_map(index), t->name));
        if (!named || strcmp(named, strrchr(t->file, '/') + 1) != 0)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\" is in %s, where weight_map does not put it",
                        index->path, t->name, t->file);
    }
    const char *name;
    json_t *shard;
    json_object_foreach(weight_map(index), name, shard) {
        if (!weights_find(w, name))
            return fail(OUTRIDER_EMODEL, "%s: weight_map \"%.100s\" is not in shard %s", index->path, name,
                        json_string_value(shard));
    }
    return OUTRIDER_OK;
}

/* ---- either way ---- */

static outrider_status sort_tensors(struct weights *w) {
    struct tensor *at = w->tensors.at;
    if (w->tensors.n == 0)
        return fail(OUTRIDER_EMODEL, "%s: header: no tensors",
                    w->gguf ? gguf_path(w->gguf) : w->files[0].path);
    qsort(at, w->tensors.n, sizeof *at, tensor_by_name);
    for (size_t i = 1; i < w->tensors.n; i++)
        if (tensor_by_name(&at[i - 1], &at[i]) == 0)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\" is in %s too", at[i].file, at[i].name,
                        at[i - 1].file);
    return OUTRIDER_OK;
}

static outrider_status open_indexed(const char *dir, struct weights *w) {
    struct document index;
    TRY(document_open(dir, INDEX, NULL, &index));
    const char **names = NULL;
    size_t n = 0;
    outrider_status status;
    TRY_GOTO(done, shard_names(&index, &names, &n));
    TRY_GOTO(done, open_shards(dir, names, n, w));
    TRY_GOTO(done, sort_tensors(w));
    status = check_against_index(&index, w);
done:
    free(names);
    document_close(&index);
    return status;
}

static outrider_status open_single(const char *dir, bool *found, struct weights *w) {
    struct mapping file;
    TRY(map_open(dir, SINGLE, found, &file));
    if (!*found) return OUTRIDER_OK;
    w->files = calloc(1, sizeof *w->files);
    if (!w->files) {
        map_close(&file);
        return fail_memory("the list of files", sizeof *w->files);
    }
    TRY(add_file(w, &file));
    return sort_tensors(w);
}

/* ---- GGUF ---- */

/* Heads whose rows are in pairs: how many rows each has. */
static outrider_status pair_rows(const struct gguf *g, bool keys, struct tensor *t) {
    int64_t heads = 0, rows = t->shape[0];
    if (t->n_dims > 2 || (t->n_dims == 1 && dtype_is_quantized(t->dtype)))
        return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\": neither a matrix nor a vector of single numbers",
                    t->file, t->name);
    TRY(gguf_int(g, "llama.attention.head_count", 1, INT32_MAX, &heads));
    if (keys) TRY(gguf_int(g, "llama.attention.head_count_kv", 1, INT32_MAX, &heads));
    if (heads == 0 || rows % heads != 0 || rows / heads % 2 != 0 || rows / heads > INT32_MAX)
        return fail(OUTRIDER_EMODEL,
                    "%s: tensor \"%s\": its %lld rows are no even number for each of %lld heads", t->file,
                    t->name, (long long)rows, (long long)heads);
    t->head_rows = (int32_t)(rows / heads);
    return OUTRIDER_OK;
}

static outrider_status add_renamed(struct weights *w, const struct naming *naming,
                                   const struct tensor *from) {
    char name[NAMES_MAX];
    bool keys;
    struct tensor t = *from;
    if (strncmp(from->name, "rope_", 5) == 0) return OUTRIDER_OK; /* gguf_config.c has made numbers of them */
    name_to_hf(naming, from->name, name);
    if (name_has_pairs(naming, name, &keys)) TRY(pair_rows(w->gguf, keys, &t));
    t.name = name;
    t.one_added = name_has_one_added(naming, name);
    return tensor_list_push(&w->tensors, &t);
}

static outrider_status open_gguf(const char *file, struct weights *w) {
    char architecture[32] = "";
    struct gguf_string s = {"", 0};
    TRY(gguf_open(file, &w->gguf));
    TRY(gguf_text(w->gguf, "general.architecture", &s));
    if (s.bytes < sizeof architecture) memcpy(architecture, s.at, s.bytes);
    const struct naming naming = naming_of(architecture);
    const struct tensor_list *list = gguf_tensors(w->gguf);
    for (size_t i = 0; i < list->n; i++) TRY(add_renamed(w, &naming, &list->at[i]));
    return sort_tensors(w);
}

static outrider_status open_folder(const char *dir, struct weights *w) {
    bool found;
    TRY(open_single(dir, &found, w));
    if (!found) TRY(open_indexed(dir, w));
    return scales_attach(&w->tensors);
}

outrider_status weights_open(const char *path, struct weights **out) {
    char *file;
    *out = NULL;
    TRY(source_gguf(path, &file));
    struct weights *w = calloc(1, sizeof *w);
    outrider_status status = !w     ? fail_memory("weights", sizeof *w)
                             : file ? open_gguf(file, w)
                                    : open_folder(path, w);
    free(file);
    if (status != OUTRIDER_OK) {
        weights_close(w);
        return status;
    }
    *out = w;
    return OUTRIDER_OK;
}

/* ---- elements ---- */

outrider_status weights_rows(const struct tensor *t, enum dtype type, int32_t threads, void *out) {
    return quants_convert(t->dtype, t->data, t->scales.data ? &t->scales : NULL, type, out,
                          (size_t)t->shape[0], (size_t)t->shape[1], (size_t)t->head_rows, threads);
}

outrider_status weights_hold(struct weights *w, const struct tensor *t, enum dtype type, int32_t threads,
                             const void **out) {
    if (type == t->dtype && t->head_rows == 0) {
        *out = t->data;
        return OUTRIDER_OK;
    }
    void **held = realloc(w->held, (w->n_held + 1) * sizeof *held);
    if (!held) return fail_memory("the list of tensors", (w->n_held + 1) * sizeof *held);
    w->held = held;
    size_t bytes = (size_t)t->shape[0] * dtype_row_bytes(type, (size_t)t->shape[1]);
    void *rows = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!rows) return fail_memory(t->name, bytes);
    held[w->n_held++] = rows;
    *out = rows;
    return weights_rows(t, type, threads, rows);
}

outrider_status weights_vector(const struct tensor *t, float *out) {
    size_t n = t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype);
    /* a row for each element, so that pairs fall apart as those of a matrix do */
    if (t->head_rows)
        return quants_convert(t->dtype, t->data, NULL, DTYPE_F32, out, n, 1, (size_t)t->head_rows, 1);
    quants_to_f32(t->dtype, t->data, n, out);
    for (size_t i = 0; t->one_added && i < n; i++) out[i] -= 1;
    return OUTRIDER_OK;
}

/* ---- the list ---- */

const struct tensor *weights_find(const struct weights *w, const char *name) {
    return tensor_list_find(&w->tensors, name);
}

size_t weights_count(const struct weights *w) {
    return w->tensors.n;
}

const struct tensor *weights_at(const struct weights *w, size_t i) {
    return &w->tensors.at[i];
}

size_t weights_bytes(const struct weights *w) {
    size_t sum = 0; /* cannot wrap: the tensors lie in disjoint mappings */
    for (size_t i = 0; i < w->tensors.n; i++) sum += w->tensors.at[i].bytes;
    return sum;
}

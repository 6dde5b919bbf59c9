/* A GGUF model to a folder in Hugging Face's layout: config.json, generation_config.json, model.safetensors,
 * and tokenizer.model or tokenizer.json with tokenizer_config.json. The folder is filled under another name
 * and renamed when it is complete. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/convert.h"
#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "weights/gguf_config.h"
#include "weights/quants.h"
#include "weights/source.h"

struct job {
    const struct conversion *c;
    struct gguf *g;
    struct weights *weights;
    char *folder; /* being filled */
};

static const char *const files[] = {"config.json",     "generation_config.json", "model.safetensors",
                                    "tokenizer.model", "tokenizer.json",         "tokenizer_config.json"};

/* ---- files ---- */

static outrider_status open_in(const struct job *j, const char *name, struct new_file *f) {
    char path[4096];
    *f = (struct new_file){0};
    if (snprintf(path, sizeof path, "%s/%s", j->folder, name) >= (int)sizeof path)
        return fail(OUTRIDER_EINVAL, "%s: the path is too long", j->folder);
    return new_file_open(path, NEW_FILE_SHARED, f);
}

static outrider_status write_bytes(const struct job *j, const char *name, const void *data, size_t bytes) {
    struct new_file f;
    outrider_status status = open_in(j, name, &f);
    if (status == OUTRIDER_OK) status = new_file_write(&f, data, bytes);
    if (status == OUTRIDER_OK) status = new_file_finish(&f);
    new_file_drop(&f);
    return status;
}

/* JSON as text with room for 7 more bytes, to free; NULL without memory. (json_dumps leaves bytes out when
 * its text cannot grow, and says nothing.) */
static char *dump(const json_t *value, size_t flags, size_t *bytes) {
    *bytes = json_dumpb(value, NULL, 0, flags);
    char *text = *bytes > 0 ? malloc(*bytes + 7) : NULL;
    if (text && json_dumpb(value, text, *bytes, flags) == *bytes) return text;
    free(text);
    return NULL;
}

static outrider_status write_json(const struct job *j, const char *name, const json_t *value) {
    size_t bytes;
    char *text = dump(value, JSON_INDENT(2) | JSON_REAL_PRECISION(17), &bytes);
    if (!text) return fail_memory(name, 1);
    outrider_status status = write_bytes(j, name, text, bytes);
    free(text);
    return status;
}

/* ---- tensors ---- */

static enum dtype type_of(const struct job *j, const struct tensor *t) {
    return t->n_dims == 2 ? j->c->type : DTYPE_F32;
}

static size_t bytes_of(const struct job *j, const struct tensor *t) {
    return t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype) * dtype_bytes(type_of(j, t));
}

/* What the header says of a tensor whose data end at `end`; NULL without memory. */
static json_t *tensor_entry(const struct job *j, const struct tensor *t, size_t end) {
    static const char *const names[] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16"};
    json_t *shape = json_array();
    int failed = 0;
    for (int32_t d = 0; d < t->n_dims; d++) failed |= json_array_append_new(shape, json_integer(t->shape[d]));
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", names[type_of(j, t)], "shape", shape,
                              "data_offsets", (json_int_t)(end - bytes_of(j, t)), (json_int_t)end);
    if (!failed) return entry;
    json_decref(entry);
    return NULL;
}

/* The JSON header, with spaces behind it so that the data are aligned; to free. */
static outrider_status make_header(const struct job *j, char **out, size_t *bytes) {
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    size_t end = 0, n;
    int failed = 0;
    for (size_t i = 0; i < weights_count(j->weights); i++) {
        const struct tensor *t = weights_at(j->weights, i);
        end += bytes_of(j, t);
        failed |= json_object_set_new(header, t->name, tensor_entry(j, t, end));
    }
    *out = failed ? NULL : dump(header, JSON_COMPACT, &n);
    json_decref(header);
    if (!*out) return fail_memory("a header", end);
    *bytes = (n + 7) / 8 * 8;
    memset(*out + n, ' ', *bytes - n);
    return OUTRIDER_OK;
}

static outrider_status write_tensor(const struct job *j, struct new_file *f, const struct tensor *t) {
    const size_t bytes = bytes_of(j, t);
    void *values = malloc(bytes ? bytes : 1);
    if (!values) return fail_memory(t->name, bytes);
    outrider_status status =
        t->n_dims == 2 ? weights_rows(t, type_of(j, t), 0, values) : weights_vector(t, values);
    if (status == OUTRIDER_OK) status = new_file_write(f, values, bytes);
    free(values);
    return status;
}

static outrider_status write_tensors(const struct job *j, struct new_file *f) {
    char *header;
    size_t bytes, done = 0;
    TRY(make_header(j, &header, &bytes));
    uint64_t length = bytes;
    outrider_status status = new_file_write(f, &length, sizeof length);
    if (status == OUTRIDER_OK) status = new_file_write(f, header, bytes);
    free(header);
    for (size_t i = 0; status == OUTRIDER_OK && i < weights_count(j->weights); i++) {
        const struct tensor *t = weights_at(j->weights, i);
        status = write_tensor(j, f, t);
        done += t->bytes;
        conversion_report(j->c, done, weights_bytes(j->weights));
    }
    return status == OUTRIDER_OK ? new_file_finish(f) : status;
}

/* A larger element first, so that each is aligned to its size: those of four bytes are the vectors. */
static outrider_status write_weights(const struct job *j) {
    struct new_file f;
    for (size_t i = 0; i < weights_count(j->weights); i++)
        if (weights_at(j->weights, i)->n_dims > 2 || bytes_of(j, weights_at(j->weights, i)) % 4)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\": a form that is not supported", j->c->from,
                        weights_at(j->weights, i)->name);
    outrider_status status = open_in(j, "model.safetensors", &f);
    if (status == OUTRIDER_OK) status = write_tensors(j, &f);
    new_file_drop(&f);
    return status;
}

/* ---- the folder ---- */

static outrider_status write_configs(const struct job *j) {
    json_t *config, *generation;
    TRY(gguf_config(j->g, &config, &generation));
    outrider_status status = write_json(j, "config.json", config);
    if (status == OUTRIDER_OK) status = write_json(j, "generation_config.json", generation);
    json_decref(config);
    json_decref(generation);
    return status;
}

static outrider_status write_tokenizer(const struct job *j) {
    struct tokenizer_files t;
    TRY(gguf_tokenizer(j->g, &t));
    outrider_status status = t.model ? OUTRIDER_OK : tokenizer_gguf_json(j->g, &t.json);
    if (status == OUTRIDER_OK) status = write_json(j, "tokenizer_config.json", t.config);
    if (status == OUTRIDER_OK && t.model) status = write_bytes(j, "tokenizer.model", t.model, t.model_bytes);
    if (status == OUTRIDER_OK && t.json) status = write_json(j, "tokenizer.json", t.json);
    tokenizer_files_free(&t);
    return status;
}

static void remove_folder(const struct job *j) {
    char path[4096];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (snprintf(path, sizeof path, "%s/%s", j->folder, files[i]) < (int)sizeof path) unlink(path);
    rmdir(j->folder);
}

static outrider_status fill_folder(const struct job *j) {
    if (mkdir(j->folder, 0777)) return fail_errno(OUTRIDER_EFAIL, j->c->options->output);
    outrider_status status = write_configs(j);
    if (status == OUTRIDER_OK) status = write_tokenizer(j);
    if (status == OUTRIDER_OK) status = write_weights(j);
    if (status == OUTRIDER_OK) status = conversion_verify(j->c, j->folder);
    if (status == OUTRIDER_OK && rename(j->folder, j->c->options->output))
        status = fail_errno(OUTRIDER_EFAIL, j->c->options->output);
    if (status != OUTRIDER_OK) return remove_folder(j), status;
    sync_folder(j->c->options->output);
    return OUTRIDER_OK;
}

outrider_status convert_to_folder(const struct conversion *c) {
    struct job j = {.c = c};
    struct model_config config;
    struct generation_config generation;
    char *file = NULL;
    outrider_status status;
    TRY(config_read(c->from, &config, &generation));
    TRY(source_gguf(c->from, &file));
    TRY_GOTO(done, gguf_open(file, &j.g));
    TRY_GOTO(done, weights_open(c->from, &j.weights));
    TRY_GOTO(done, conversion_check(c->from, &config, j.weights));
    if (asprintf(&j.folder, "%s.%ld.tmp", c->options->output, (long)getpid()) < 0) {
        j.folder = NULL;
        status = fail_memory("a path", strlen(c->options->output));
        goto done;
    }
    status = fill_folder(&j);
done:
    free(j.folder);
    weights_close(j.weights);
    gguf_close(j.g);
    free(file);
    return status;
}

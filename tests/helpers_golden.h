/* Golden tests: small models written to a folder by a recipe, run on a backend, compared with recorded
 * logits. For test_golden.c and test_families.c. */
#ifndef OUTRIDER_HELPERS_GOLDEN_H
#define OUTRIDER_HELPERS_GOLDEN_H

#include "tests/helpers_weights.h"

#include <math.h>

#include "kernels/ops.h"
#include "runtime/model.h"

enum { GOLDEN_PAGE = 16, GOLDEN_PAGES = 80, GOLDEN_ROWS = 512 };

/* ---- models written to a folder ---- */

struct spec {
    const char *name;
    int64_t n, k; /* k 0: a vector */
};

static size_t spec_elements(const struct spec *s) {
    return (size_t)(s->n * (s->k ? s->k : 1));
}

/* Exact for the values that come here, of at most eight bits and of normal size in every type. */
static uint32_t encode(float value, enum dtype dtype) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (dtype == DTYPE_F32) return bits;
    if (dtype == DTYPE_BF16) return bits >> 16;
    uint32_t sign = bits >> 16 & 0x8000;
    return value == 0 ? sign : sign | ((bits >> 23 & 255) - 127 + 15) << 10 | (bits >> 13 & 1023);
}

static void write_header(FILE *f, const struct spec *specs, size_t n, enum dtype dtype) {
    static const char *const names[] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16"};
    char *text;
    size_t bytes, end = 0;
    FILE *header = open_memstream(&text, &bytes);
    for (size_t i = 0; i < n; i++) {
        size_t begin = end;
        end += spec_elements(&specs[i]) * dtype_bytes(dtype);
        fprintf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", i ? "," : "{", specs[i].name,
                names[dtype], (long long)specs[i].n);
        if (specs[i].k) fprintf(header, ",%lld", (long long)specs[i].k);
        fprintf(header, "],\"data_offsets\":[%zu,%zu]}", begin, end);
    }
    fputc('}', header);
    while (ftell(header) % 8) fputc(' ', header);
    fclose(header);
    for (int i = 0; i < 8; i++) fputc((int)(bytes >> 8 * i & 255), f);
    fwrite(text, 1, bytes, f);
    free(text);
}

/* model.safetensors of the tensors named, element i of each given by value(user, tensor, i). */
static void write_model(const struct folder *folder, const struct spec *specs, size_t n, enum dtype dtype,
                        float (*value)(const void *user, size_t tensor, size_t i), const void *user) {
    FILE *f = fopen(folder_file(folder, "model.safetensors"), "wb");
    if (!f) folder_die("model.safetensors");
    write_header(f, specs, n, dtype);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < spec_elements(&specs[t]); i++) {
            uint32_t bits = encode(value(user, t, i), dtype);
            fwrite(&bits, dtype_bytes(dtype), 1, f); /* the low bytes: little-endian, as the format is */
        }
    if (fclose(f)) folder_die("model.safetensors");
}

static uint32_t fnv1a(const char *text) {
    uint32_t h = 2166136261u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 16777619u;
    return h;
}

static uint32_t mix(uint32_t h) {
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

/* The i-th number of a tensor's recipe, as the tools/golden*.py compute it: -128 to 127. */
static int32_t golden_number(const char *tensor, size_t i) {
    return (int32_t)(mix((uint32_t)i + fnv1a(tensor)) >> 24) - 128;
}

/* ---- running a model ---- */

struct runner {
    const struct ops *ops;
    struct backend *be;
    struct model *model;
    int32_t *token, *position, *slot, *table; /* backend memory */
    float *logits;                            /* host, [max_logits][vocab] */
    int32_t pages;
};

static void must(outrider_status status) {
    if (status) fail_msg("%s", outrider_error());
}

static void *device_ints(struct runner *r, size_t n) {
    void *p;
    must(r->ops->alloc(r->be, n * sizeof(int32_t), &p));
    return p;
}

/* For texts of at most `context` tokens, in passes of at most `max_rows`, of which `max_logits` are looked
 * at. Pages lie backwards, so that none is where its number says. */
static void runner_open(struct runner *r, const char *device, const char *folder, enum dtype cache_type,
                        int32_t context, int32_t max_rows, int32_t max_logits) {
    r->pages = (context + GOLDEN_PAGE - 1) / GOLDEN_PAGE;
    must(ops_open(device, 0, &r->ops, &r->be));
    struct model_options o = {.folder = folder,
                              .id = OUTRIDER_VERIFIER,
                              .ops = r->ops,
                              .be = r->be,
                              .cache_type = cache_type,
                              .page_size = GOLDEN_PAGE,
                              .pages = r->pages,
                              .ctx_size = context,
                              .max_rows = max_rows,
                              .max_logits = max_logits};
    must(model_open(&o, &r->model));
    r->token = device_ints(r, (size_t)max_rows);
    r->position = device_ints(r, (size_t)max_rows);
    r->slot = device_ints(r, (size_t)max_rows);
    r->table = device_ints(r, (size_t)r->pages);
    r->logits = malloc(sizeof(float) * (size_t)max_logits * (size_t)r->model->config.vocab_size);
    if (!r->logits) folder_die("malloc");
    int32_t zero[GOLDEN_ROWS] = {0}, backwards[GOLDEN_PAGES];
    assert_in_range(max_rows, 1, GOLDEN_ROWS);
    assert_in_range(r->pages, 1, GOLDEN_PAGES);
    for (int32_t i = 0; i < r->pages; i++) backwards[i] = r->pages - 1 - i;
    r->ops->upload(r->be, r->slot, zero, sizeof *zero * (size_t)max_rows);
    r->ops->upload(r->be, r->table, backwards, sizeof *backwards * (size_t)r->pages);
}

static void runner_close(struct runner *r) {
    free(r->logits);
    r->ops->release(r->be, r->token);
    r->ops->release(r->be, r->position);
    r->ops->release(r->be, r->slot);
    r->ops->release(r->be, r->table);
    model_close(r->model);
    r->ops->close(r->be);
}

/* One pass over tokens [begin, begin + n) of a text; logits of the rows in `pick` (NULL: of the last n_pick)
 * come to the host. */
static void run_pass(struct runner *r, const int32_t *tokens, int32_t begin, int32_t n, bool prefill,
                     const int32_t *pick, int32_t n_pick) {
    int32_t position[GOLDEN_ROWS];
    for (int32_t i = 0; i < n; i++) position[i] = begin + i;
    r->ops->upload(r->be, r->token, tokens + begin, sizeof *tokens * (size_t)n);
    r->ops->upload(r->be, r->position, position, sizeof *position * (size_t)n);
    struct rows rows = {.n = n,
                        .token = r->token,
                        .position = r->position,
                        .slot = r->slot,
                        .table = r->table,
                        .table_stride = r->pages,
                        .max_position = begin + n - 1,
                        .prefill = prefill};
    model_forward(r->model, &rows, 0, pick, n_pick);
    size_t bytes = sizeof(float) * (size_t)n_pick * (size_t)r->model->config.vocab_size;
    if (n_pick) must(r->ops->download(r->be, r->logits, r->model->logits, bytes));
    must(r->ops->sync(r->be));
}

/* ---- comparing ---- */

static double log_sum_exp(const float *logits, int32_t n) {
    double max = logits[0], sum = 0;
    for (int32_t i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (int32_t i = 0; i < n; i++) sum += exp(logits[i] - max);
    return max + log(sum);
}

/* Unlike fmax, keeps a NaN. */
static double worse(double a, double b) {
    return isnan(a) || b <= a ? a : b;
}

#endif

/* A model on a backend without an engine: passes over rows of one text. */
#ifndef OUTRIDER_HELPERS_RUNNER_H
#define OUTRIDER_HELPERS_RUNNER_H

#include "tests/helpers_weights.h"

#include "kernels/ops.h"
#include "runtime/model.h"

enum { GOLDEN_PAGE = 16, GOLDEN_PAGES = 80, GOLDEN_ROWS = 512 };

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
                              .cache_k = cache_type,
                              .cache_v = cache_type,
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

/* One pass over n rows whose positions never fall, as a tree's when there is a path; logits of the rows in
 * `pick` (NULL: of the last n_pick) come to the host. */
static void run_rows(struct runner *r, const int32_t *token, const int32_t *position, int32_t n, bool prefill,
                     const int32_t *path, const int32_t *pick, int32_t n_pick) {
    r->ops->upload(r->be, r->token, token, sizeof *token * (size_t)n);
    r->ops->upload(r->be, r->position, position, sizeof *position * (size_t)n);
    struct rows rows = {.n = n,
                        .token = r->token,
                        .position = r->position,
                        .slot = r->slot,
                        .table = r->table,
                        .table_stride = r->pages,
                        .max_position = position[n - 1],
                        .prefill = prefill,
                        .path = path};
    model_forward(r->model, &rows, 0, pick, n_pick);
    size_t bytes = sizeof(float) * (size_t)n_pick * (size_t)r->model->config.vocab_size;
    if (n_pick) must(r->ops->download(r->be, r->logits, r->model->logits, bytes));
    must(r->ops->sync(r->be));
}

/* The same over tokens [begin, begin + n) of a text. */
static void run_pass(struct runner *r, const int32_t *tokens, int32_t begin, int32_t n, bool prefill,
                     const int32_t *pick, int32_t n_pick) {
    int32_t position[GOLDEN_ROWS];
    for (int32_t i = 0; i < n; i++) position[i] = begin + i;
    run_rows(r, tokens + begin, position, n, prefill, NULL, pick, n_pick);
}

#endif

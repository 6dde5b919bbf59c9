/* The rows of a round on the device, and the passes over them. The only file that moves data between host and
 * device while text is written.
 *
 * All rows of a round are laid out and uploaded before its first pass, the proposals' tokens still unknown:
 *
 *     [ lag ][ block 0 ][ block 1 ] ... [ block K ]
 *
 * Block 0 holds each session's last token, block i the i-th proposal of the sessions that want so many
 * (sessions stand by drafter, and each drafter's in order of falling K, so that its rows of a block lie
 * together, and those of block i are the first of those of block i - 1). The lag holds tokens that the draft
 * model, whose sessions come first, has not read. A draft step i runs over its rows of block i (step 0 over
 * the lag too) and its argmax writes the tokens of block i + 1; the verifier runs over blocks 0 to K. So a
 * greedy round queues all its passes without waiting for any, and one download brings tokens and picks; so
 * does one that samples where the device can do it (trial.c), and brings verdicts in place of picks. */
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/status.h"

/* Backend memory: position, slot and token of every row, one place each, and as much room again for the picks
 * of the verifier, which begin right behind the last row's token: tokens and picks come back together. Before
 * them stands what a tree has besides: of each row the way to it, as in struct rows, and the rows behind it.
 */
enum { POSITION, SLOT, TOKEN, PICK, COLUMNS };
enum { PATHS = TREE_ROWS * TREE_ROWS, TREE_INTS = PATHS + TREE_ROWS * TREE_WIDTH };

static size_t column(const struct batch *b, int32_t which) {
    return (size_t)which * (size_t)b->capacity + (which >= TOKEN ? TREE_INTS : 0);
}
static size_t tree_at(const struct batch *b) {
    return (size_t)TOKEN * (size_t)b->capacity;
}

outrider_status batch_create(outrider_engine *e, int32_t max_rows) {
    struct batch *b = &e->batch;
    const struct model *v = e->model[OUTRIDER_VERIFIER];
    int32_t stride,
        batched = e->options.max_sessions < MAX_BATCH_SESSIONS ? e->options.max_sessions : MAX_BATCH_SESSIONS;
    kv_tables(e->kv, &stride);
    b->base = batched * MAX_LAG;
    b->capacity = b->base + max_rows;
    b->version = UINT64_MAX;
    size_t bytes = column(b, COLUMNS) * sizeof(int32_t);
    size_t logits_bytes = (size_t)v->max_logits * (size_t)v->config.vocab_size * sizeof(float);

    b->host = calloc(1, bytes);
    e->logits = malloc(logits_bytes);
    e->dense = calloc((size_t)v->config.vocab_size, sizeof(float));
    if (!b->host || !e->logits || !e->dense) return fail_memory("the rows of a round", bytes + logits_bytes);
    TRY(trials_create(e, max_rows));
    TRY(e->ops->alloc(e->be, bytes, (void **)&b->device));
    return e->ops->alloc(e->be, (size_t)slots_of(e) * (size_t)stride * sizeof(int32_t), (void **)&b->tables);
}

void batch_destroy(outrider_engine *e) {
    free(e->batch.host);
    free(e->logits);
    free(e->dense);
    if (!e->be) return;
    trials_destroy(e);
    e->ops->release(e->be, e->batch.device);
    e->ops->release(e->be, e->batch.tables);
}

void batch_clear(outrider_engine *e) {
    e->batch.n = e->batch.n_lag = e->batch.max_position = 0;
    e->batch.on_device = e->batch.tree = false;
}

static void set_row(struct batch *b, int32_t i, int32_t slot, int32_t position, int32_t token) {
    b->host[column(b, TOKEN) + (size_t)i] = token;
    b->host[column(b, POSITION) + (size_t)i] = position;
    b->host[column(b, SLOT) + (size_t)i] = slot;
    if (position > b->max_position) b->max_position = position;
}

void batch_add(outrider_engine *e, int32_t slot, int32_t position, int32_t token) {
    struct batch *b = &e->batch;
    set_row(b, b->base + b->n++, slot, position, token);
}

void batch_add_lag(outrider_engine *e, int32_t slot, int32_t position, int32_t token) {
    struct batch *b = &e->batch;
    set_row(b, b->base - ++b->n_lag, slot, position, token);
}

void batch_add_tree(outrider_engine *e, int32_t slot, int32_t root, int32_t token, const struct tree *t) {
    struct batch *b = &e->batch;
    b->tree = true;
    for (int32_t i = 0; i < t->n; i++) batch_add(e, slot, root + t->level[i], i == 0 ? token : 0);
    tree_places(t, root, b->host + tree_at(b));
    memcpy(b->host + tree_at(b) + PATHS, t->child, sizeof t->child);
}

static void send(outrider_engine *e, size_t from, size_t n) {
    struct batch *b = &e->batch;
    e->ops->upload(e->be, b->device + from, b->host + from, n * sizeof *b->host);
}

void batch_upload(outrider_engine *e) {
    struct batch *b = &e->batch;
    int32_t stride;
    const int32_t *tables = kv_tables(e->kv, &stride);
    if (b->version != kv_version(e->kv))
        e->ops->upload(e->be, b->tables, tables, (size_t)slots_of(e) * (size_t)stride * sizeof *tables);
    b->version = kv_version(e->kv);
    const size_t first = (size_t)(b->base - b->n_lag), n = (size_t)(b->n_lag + b->n);
    for (int32_t which = POSITION; which <= TOKEN; which++) send(e, column(b, which) + first, n);
    if (b->tree) send(e, tree_at(b), TREE_INTS);
}

void batch_pass(outrider_engine *e, outrider_which which, int32_t first, int32_t n, int32_t n_logits,
                bool prefill) {
    struct batch *b = &e->batch;
    const int32_t *at = b->device + b->base + first;
    int32_t stride;
    kv_tables(e->kv, &stride);
    const bool in_tree = b->tree && first + n > 1; /* the root alone, and the lag, are a chain's */
    struct rows rows = {.n = n,
                        .token = at + column(b, TOKEN),
                        .position = at + column(b, POSITION),
                        .slot = at + column(b, SLOT),
                        .table = b->tables,
                        .table_stride = stride,
                        .max_position = b->max_position,
                        .prefill = prefill,
                        .path = in_tree ? b->device + tree_at(b) + first * TREE_ROWS : NULL};
    model_forward(e->model[which], &rows, (uint32_t)(b->base + first), NULL, n_logits);
}

void batch_propose(outrider_engine *e, outrider_which which, int32_t n, int32_t first) {
    const struct model *m = e->model[which];
    e->ops->argmax(e->be, m->logits, n, m->config.vocab_size, batch_tokens(e) + first);
}

void batch_propose_level(outrider_engine *e, const struct tree *t, int32_t level) {
    const struct batch *b = &e->batch;
    const struct model *m = e->model[OUTRIDER_DRAFT];
    const int32_t from = t->begin[level - 1], n = t->begin[level] - from;
    e->ops->top(e->be, m->logits, n, m->config.vocab_size, b->device + tree_at(b) + PATHS + from * TREE_WIDTH,
                batch_tokens(e));
}

void batch_set_token(outrider_engine *e, int32_t row, int32_t token) {
    int32_t *host = e->batch.host + column(&e->batch, TOKEN) + e->batch.base + row;
    *host = token;
    e->ops->upload(e->be, batch_tokens(e) + row, host, sizeof *host);
}

/* A download that failed may have lost the uploads before it: the page tables are sent anew. */
static outrider_status fetch(outrider_engine *e, void *to, const void *from, size_t bytes) {
    const outrider_status status = e->ops->download(e->be, to, from, bytes);
    if (status != OUTRIDER_OK) e->batch.version = UINT64_MAX;
    return status;
}

outrider_status batch_logits(outrider_engine *e, outrider_which which, int32_t n) {
    const struct model *m = e->model[which];
    return fetch(e, e->logits, m->logits, (size_t)n * (size_t)m->config.vocab_size * sizeof(float));
}

outrider_status batch_argmax(outrider_engine *e, outrider_which which, int32_t n) {
    struct batch *b = &e->batch;
    const struct model *m = e->model[which];
    size_t from = column(b, TOKEN) + (size_t)(b->base + b->n);
    e->ops->argmax(e->be, m->logits, n, m->config.vocab_size, batch_picks(e));
    return fetch(e, b->host + from, b->device + from, (size_t)n * sizeof *b->host);
}

outrider_status batch_fetch(outrider_engine *e) {
    struct batch *b = &e->batch;
    const struct model *m = e->model[OUTRIDER_VERIFIER];
    if (b->on_device)
        trials_judge(e);
    else
        e->ops->argmax(e->be, m->logits, b->n, m->config.vocab_size, batch_picks(e));
    int32_t results = b->on_device ? 2 * b->n_trials : b->n; /* verdicts or picks */
    size_t from = column(b, TOKEN) + (size_t)b->base, n = (size_t)(b->n + results);
    return fetch(e, b->host + from, b->device + from, n * sizeof *b->host);
}

int32_t *batch_tokens(const outrider_engine *e) {
    return e->batch.device + column(&e->batch, TOKEN) + e->batch.base;
}
int32_t *batch_picks(const outrider_engine *e) {
    return batch_tokens(e) + e->batch.n;
}
int32_t batch_token(const outrider_engine *e, int32_t row) {
    return e->batch.host[column(&e->batch, TOKEN) + (size_t)(e->batch.base + row)];
}
int32_t batch_pick(const outrider_engine *e, int32_t row) {
    return batch_token(e, e->batch.n + row);
}

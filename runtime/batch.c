/* One pass of one model: rows gathered on the host, uploaded in one piece, run, and what is wanted of the
 * result brought back. The only file that moves data between host and device while text is written. */
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/status.h"

enum { SMALL_PASS = 64 }; /* rows of a pass that model_forward records */

outrider_status batch_create(outrider_engine *e, int32_t max_rows) {
    struct batch *b = &e->batch;
    int32_t stride;
    kv_tables(e->kv, &stride);
    b->capacity = max_rows;
    b->version = UINT64_MAX;
    size_t rows_bytes = (size_t)max_rows * 3 * sizeof(int32_t);
    size_t table_bytes = (size_t)slots_of(e) * (size_t)stride * sizeof(int32_t);
    int32_t max_logits = e->model[OUTRIDER_VERIFIER]->max_logits,
            vocab = e->model[OUTRIDER_VERIFIER]->config.vocab_size;
    if (e->model[OUTRIDER_DRAFT] && e->model[OUTRIDER_DRAFT]->config.vocab_size > vocab)
        vocab = e->model[OUTRIDER_DRAFT]->config.vocab_size;
    size_t logits_bytes = (size_t)max_logits * (size_t)vocab * sizeof(float);

    b->token = malloc(2 * rows_bytes);
    e->scratch.logits = malloc(logits_bytes);
    e->scratch.picks = malloc((size_t)max_logits * sizeof(int32_t));
    e->scratch.dense = calloc((size_t)vocab, sizeof(float));
    if (!b->token || !e->scratch.logits || !e->scratch.picks || !e->scratch.dense)
        return fail_memory("the rows of a pass", rows_bytes + logits_bytes);
    b->position = b->token + max_rows;
    b->slot = b->position + max_rows;
    b->staged = b->slot + max_rows;
    TRY(e->ops->alloc(e->be, rows_bytes, (void **)&b->device));
    TRY(e->ops->alloc(e->be, table_bytes, (void **)&b->tables));
    return e->ops->alloc(e->be, (size_t)max_logits * sizeof(int32_t), (void **)&e->scratch.device_picks);
}

void batch_destroy(outrider_engine *e) {
    free(e->batch.token);
    free(e->scratch.logits);
    free(e->scratch.picks);
    free(e->scratch.dense);
    if (!e->be) return;
    e->ops->release(e->be, e->batch.device);
    e->ops->release(e->be, e->batch.tables);
    e->ops->release(e->be, e->scratch.device_picks);
}

void batch_clear(outrider_engine *e) {
    e->batch.n = e->batch.max_position = 0;
}

void batch_add(outrider_engine *e, int32_t slot, int32_t position, int32_t token) {
    struct batch *b = &e->batch;
    int32_t i = b->n++;
    b->token[i] = token;
    b->position[i] = position;
    b->slot[i] = slot;
    if (position > b->max_position) b->max_position = position;
}

void batch_run(outrider_engine *e, outrider_which which, bool prefill, const int32_t *pick, int32_t n_pick) {
    struct batch *b = &e->batch;
    int32_t stride;
    const int32_t *tables = kv_tables(e->kv, &stride);
    if (b->version != kv_version(e->kv)) {
        e->ops->upload(e->be, b->tables, tables, (size_t)slots_of(e) * (size_t)stride * sizeof *tables);
        b->version = kv_version(e->kv);
    }
    /* Small passes are recorded, so theirs is one fixed layout. */
    int32_t width = b->n <= SMALL_PASS && SMALL_PASS <= b->capacity ? SMALL_PASS : b->capacity;
    size_t bytes = (size_t)b->n * sizeof *b->staged;
    memcpy(b->staged, b->token, bytes);
    memcpy(b->staged + width, b->position, bytes);
    memcpy(b->staged + 2 * width, b->slot, bytes);
    e->ops->upload(e->be, b->device, b->staged, ((size_t)width * 2 + (size_t)b->n) * sizeof *b->staged);
    struct rows rows = {.n = b->n,
                        .token = b->device,
                        .position = b->device + width,
                        .slot = b->device + 2 * width,
                        .table = b->tables,
                        .table_stride = stride,
                        .max_position = b->max_position,
                        .prefill = prefill};
    model_forward(e->model[which], &rows, pick, n_pick);
}

outrider_status batch_logits(outrider_engine *e, outrider_which which, int32_t n) {
    const struct model *m = e->model[which];
    return e->ops->download(e->be, e->scratch.logits, m->logits,
                            (size_t)n * (size_t)m->config.vocab_size * sizeof(float));
}

outrider_status batch_argmax(outrider_engine *e, outrider_which which, int32_t n) {
    const struct model *m = e->model[which];
    e->ops->argmax(e->be, m->logits, n, m->config.vocab_size, e->scratch.device_picks);
    return e->ops->download(e->be, e->scratch.picks, e->scratch.device_picks, (size_t)n * sizeof(int32_t));
}

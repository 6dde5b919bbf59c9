/* A model on a device, and the layer loop.
 *
 * model_forward is the whole forward pass, for prefill, draft step and verify alike, and for every family:
 * what a family has more or less is data that bind.c has put into the blocks. Invariant: after model_open
 * every shape that an operation relies on has been checked against the configuration, so operations need no
 * checks of their own. */
#include "runtime/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/bind.h"
#include "runtime/rope.h"
#include "runtime/status.h"

/* ---- RoPE tables ---- */

enum { ROPE_CHUNK = 4096 }; /* positions */

static size_t rope_row(const struct model *m) {
    return (size_t)m->config.head_dim * sizeof *m->rope;
}

static void fill_table(struct model *m, const struct rope_config *rope, int32_t from, int32_t n,
                       float *table) {
    const int32_t head_dim = m->config.head_dim;
    float frequency[CONFIG_MAX_HEAD_DIM / 2];
    rope_frequencies(rope, head_dim, m->ctx_size, frequency);
    rope_rows(rope, head_dim, frequency, from, n, m->rope_host);
    m->ops->upload(m->be, (char *)table + (size_t)from * rope_row(m), m->rope_host, (size_t)n * rope_row(m));
}

/* The next chunk of positions: a context of millions is paid for only as far as it is used. */
static void fill_rope(struct model *m) {
    const struct model_config *c = &m->config;
    int32_t from = m->rope_filled, n = m->ctx_size - from < ROPE_CHUNK ? m->ctx_size - from : ROPE_CHUNK;
    fill_table(m, &c->rope, from, n, m->rope);
    if (m->rope_local) fill_table(m, &c->rope_local, from, n, m->rope_local);
    m->rope_filled += n;
}

static outrider_status make_rope(struct model *m) {
    m->rope_host = malloc(ROPE_CHUNK * rope_row(m));
    if (!m->rope_host) return fail_memory("the RoPE table", ROPE_CHUNK * rope_row(m));
    TRY(m->ops->alloc(m->be, (size_t)m->ctx_size * rope_row(m), (void **)&m->rope));
    if (m->config.sliding_window && m->config.family.local_theta != 0)
        TRY(m->ops->alloc(m->be, (size_t)m->ctx_size * rope_row(m), (void **)&m->rope_local));
    fill_rope(m);
    return OUTRIDER_OK;
}

/* ---- opening and closing ---- */

static outrider_status alloc_pool(struct model *m, enum dtype k, enum dtype v) {
    size_t k_bytes, v_bytes;
    if (!mul_fits(model_page_bytes(m, k), (size_t)m->pages, &k_bytes) ||
        !mul_fits(model_page_bytes(m, v), (size_t)m->pages, &v_bytes))
        return fail_memory("the cache", SIZE_MAX);
    for (int32_t i = 0; i < m->config.num_hidden_layers; i++) {
        struct kv_layer *kv = &m->layers[i].kv;
        kv->k_dtype = k;
        kv->v_dtype = v;
        kv->page_size = m->page_size;
        TRY(m->ops->alloc(m->be, k_bytes, &kv->k));
        TRY(m->ops->alloc(m->be, v_bytes, &kv->v));
    }
    return OUTRIDER_OK;
}

static outrider_status alloc_activations(struct model *m) {
    const struct model_config *c = &m->config;
    size_t rows = (size_t)m->max_rows, q = (size_t)c->num_attention_heads * (size_t)c->head_dim;
    int32_t widest = c->hidden_size > c->intermediate_size ? c->hidden_size : c->intermediate_size;
    if ((size_t)widest < q) widest = (int32_t)q;
    TRY(m->ops->alloc(m->be, rows * (size_t)c->hidden_size * sizeof(float), (void **)&m->x));
    TRY(m->ops->alloc(m->be, rows * q * sizeof(float), &m->q));
    TRY(m->ops->alloc(m->be, rows * q * sizeof(float), &m->attended));
    TRY(m->ops->alloc(m->be, rows * (size_t)c->intermediate_size * sizeof(float), &m->hidden));
    TRY(m->ops->alloc(m->be, (size_t)m->max_logits * (size_t)c->vocab_size * sizeof(float),
                      (void **)&m->logits));
    return m->ops->reserve(m->be, m->max_rows, widest);
}

outrider_status model_open(const struct model_options *o, struct model **out) {
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m) return fail_memory("a model", sizeof *m);
    m->ops = o->ops;
    m->be = o->be;
    m->id = o->id;
    m->quant = o->quant;
    m->threads = o->threads;
    m->page_size = o->page_size;
    m->pages = o->pages;
    m->ctx_size = o->ctx_size;
    m->max_rows = o->max_rows;
    m->max_logits = o->max_logits;
    outrider_status status;
    TRY_GOTO(cleanup, config_read(o->folder, &m->config, &m->generation));
    TRY_GOTO(cleanup, weights_open(o->folder, &m->weights));
    TRY_GOTO(cleanup, bind_check(&m->config, m->weights));
    m->layers = calloc((size_t)m->config.num_hidden_layers, sizeof *m->layers);
    if (!m->layers) {
        status = fail_memory("layers", (size_t)m->config.num_hidden_layers * sizeof *m->layers);
        goto cleanup;
    }
    TRY_GOTO(cleanup, make_rope(m));
    TRY_GOTO(cleanup, bind_weights(m, o->progress, o->user));
    TRY_GOTO(cleanup, alloc_pool(m, o->cache_k, o->cache_v));
    TRY_GOTO(cleanup, alloc_activations(m));
    TRY_GOTO(cleanup, m->ops->sync(m->be));
    *out = m;
    return OUTRIDER_OK;
cleanup:
    model_close(m);
    return status;
}

outrider_status model_prefix(const struct model *m, outrider_which id, int32_t n, struct model **out) {
    struct model *p = *out = malloc(sizeof *p);
    if (!p) return fail_memory("a model", sizeof *p);
    *p = *m; /* each fills the shared table of rotations where it comes first, with the same numbers */
    p->config.num_hidden_layers = n;
    p->id = id;
    p->prefix = true;
    return OUTRIDER_OK;
}

void model_close(struct model *m) {
    if (!m) return;
    if (m->prefix) {
        free(m);
        return;
    }
    const struct ops *ops = m->ops;
    bind_release(m);
    for (int32_t i = 0; m->layers && i < m->config.num_hidden_layers; i++) {
        ops->release(m->be, m->layers[i].kv.k);
        ops->release(m->be, m->layers[i].kv.v);
    }
    void *plain[] = {m->rope, m->rope_local, m->x, m->q, m->attended, m->hidden, m->logits};
    for (size_t j = 0; j < sizeof plain / sizeof *plain; j++) ops->release(m->be, plain[j]);
    weights_close(m->weights);
    free(m->rope_host);
    free(m->layers);
    free(m);
}

/* ---- running ---- */

enum { RECORDED_ROWS = 64 }; /* passes of more are rare and long */

static void run_layers(struct model *m, const struct rows *rows, const int32_t *pick, int32_t n_pick) {
    const struct ops *ops = m->ops;
    struct backend *be = m->be;

    ops->embed(be, rows, &m->embedding, m->config.embedding_scale, m->x);
    for (int32_t i = 0; i < m->config.num_hidden_layers; i++) {
        const struct layer *l = &m->layers[i];
        ops->qkv(be, rows, &l->attention, m->x, m->q, &l->kv);
        ops->attention(be, rows, &l->attention, m->q, &l->kv, m->attended);
        ops->project(be, rows, &l->output, m->attended, m->x);
        ops->gate_up(be, rows, &l->mlp, m->x, m->hidden);
        ops->project(be, rows, &l->down, m->hidden, m->x);
    }
    if (n_pick == 0) return;
    const float *last = m->x + (size_t)(pick ? 0 : rows->n - n_pick) * (size_t)m->config.hidden_size;
    ops->logits(be, &m->head, last, pick, n_pick, m->logits);
}

/* Positions of a recorded pass are bounded in powers of two, so that few are recorded; where many rows fill
 * the card and none is far in, in steps of 128, because a bound too high takes blocks of attention from
 * others. Each bound has a number. */
static int32_t position_bound(const struct rows *rows, int32_t *last) {
    enum { MANY = 9, STEP = 128, FAR = 1024 };
    int32_t bits = 8;
    while (rows->max_position >> bits) bits++;
    *last = (int32_t)((1u << bits) - 1);
    if (rows->n < MANY || rows->max_position >= FAR) return bits;
    *last = rows->max_position / STEP * STEP + STEP - 1;
    return 32 + rows->max_position / STEP;
}

void model_forward(struct model *m, const struct rows *rows, uint32_t place, const int32_t *pick,
                   int32_t n_pick) {
    while (rows->max_position >= m->rope_filled && m->rope_filled < m->ctx_size) fill_rope(m);
    struct rows bounded = *rows;
    const int32_t bound = position_bound(rows, &bounded.max_position);
    bool once = rows->prefill || pick || rows->n > RECORDED_ROWS || place > UINT16_MAX;
    uint64_t key = (uint64_t)place | (uint64_t)rows->n << 16 | (uint64_t)n_pick << 24 |
                   (uint64_t)bound << 32 | (uint64_t)m->id << 40 |
                   (uint64_t)m->config.num_hidden_layers << 42 | (uint64_t)(rows->path != NULL) << 63;
    if (once) {
        run_layers(m, rows, pick, n_pick);
    } else if (!m->ops->replay(m->be, key)) {
        m->ops->record_begin(m->be, key);
        run_layers(m, &bounded, pick, n_pick);
        m->ops->record_end(m->be);
    }
}

size_t model_page_bytes(const struct model *m, enum dtype type) {
    return (size_t)m->config.num_key_value_heads * kv_head_bytes(type, m->page_size, m->config.head_dim);
}

static void copy_page(const struct model *m, void *pool, enum dtype type, int32_t to, int32_t from) {
    const size_t page = model_page_bytes(m, type);
    m->ops->copy(m->be, (char *)pool + (size_t)to * page, (char *)pool + (size_t)from * page, page);
}

void model_copy_page(struct model *m, int32_t to, int32_t from) {
    for (int32_t i = 0; i < m->config.num_hidden_layers; i++) {
        const struct kv_layer *kv = &m->layers[i].kv;
        copy_page(m, kv->k, kv->k_dtype, to, from);
        copy_page(m, kv->v, kv->v_dtype, to, from);
    }
}

void model_move(struct model *m, int32_t n, const struct kv_place *from, const struct kv_place *to) {
    const struct model_config *c = &m->config;
    struct kv_layer layers[MOVE_LAYERS];
    for (int32_t i = 0, count = 0; i < c->num_hidden_layers; i++) {
        layers[count++] = m->layers[i].kv;
        if (count < MOVE_LAYERS && i + 1 < c->num_hidden_layers) continue;
        m->ops->move(m->be, layers, count, c->num_key_value_heads, c->head_dim, n, from, to);
        count = 0;
    }
}

/* ---- description ---- */

static uint64_t held_bytes(const struct tensor *t, enum use use, enum quant quant, bool f8) {
    const enum dtype type = t->n_dims == 2 ? bind_type(use, quant, t->dtype, t->shape[1], f8) : t->dtype;
    return (uint64_t)t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype) / dtype_block(type) *
           dtype_bytes(type);
}

static void count_type(const struct tensor *t, outrider_model_info *info) {
    int32_t i = 0;
    while (i < info->n_types && strcmp(info->types[i].dtype, dtype_name(t->dtype)) != 0) i++;
    if (i == info->n_types) snprintf(info->types[info->n_types++].dtype, 8, "%s", dtype_name(t->dtype));
    info->types[i].tensors++;
    info->types[i].bytes += t->bytes;
}

/* Sizes in memory and of what a token reads. */
static void describe_sizes(const struct model_config *c, const struct weights *w, enum quant quant, bool f8,
                           outrider_model_info *info) {
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        const enum use use = bind_use(t);
        const uint64_t bytes = held_bytes(t, use, quant, f8);
        count_type(t, info);
        info->parameters += t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype);
        info->memory_bytes += bytes;
        if (use != EMBEDDING) info->streamed_bytes += bytes;
        if (use != EMBEDDING || !c->tie_word_embeddings) continue;
        const uint64_t head = held_bytes(t, HEAD, quant, f8);
        info->streamed_bytes += head;
        if (head != bytes) info->memory_bytes += head;
    }
}

static void describe(const struct model_config *c, const struct weights *w, enum dtype cache_k,
                     enum dtype cache_v, enum quant quant, bool f8, outrider_model_info *info) {
    const struct tensor *sample = weights_find(w, "model.layers.0.self_attn.o_proj.weight");
    *info = (outrider_model_info){
        .vocab_size = c->vocab_size,
        .hidden_size = c->hidden_size,
        .intermediate_size = c->intermediate_size,
        .num_hidden_layers = c->num_hidden_layers,
        .num_attention_heads = c->num_attention_heads,
        .num_key_value_heads = c->num_key_value_heads,
        .head_dim = c->head_dim,
        .max_position_embeddings = c->max_position_embeddings,
        .weight_bytes = weights_bytes(w),
        .cache_bytes_per_token =
            (uint64_t)c->num_hidden_layers * (uint64_t)c->num_key_value_heads *
            (kv_head_bytes(cache_k, 1, c->head_dim) + kv_head_bytes(cache_v, 1, c->head_dim))};
    snprintf(info->model_type, sizeof info->model_type, "%s", c->model_type);
    const enum dtype file = sample ? sample->dtype : DTYPE_F32;
    snprintf(info->file_dtype, sizeof info->file_dtype, "%s", sample ? dtype_name(file) : "none");
    snprintf(info->dtype, sizeof info->dtype, "%s",
             sample ? dtype_name(bind_type(LAYER, quant, file, sample->shape[1], f8)) : "none");
    describe_sizes(c, w, quant, f8, info);
}

void model_info(const struct model *m, outrider_model_info *info) {
    const struct kv_layer *kv = &m->layers[0].kv;
    describe(&m->config, m->weights, kv->k_dtype, kv->v_dtype, m->quant, m->ops->f8_weights, info);
}

outrider_status model_inspect(const char *folder, enum dtype cache_k, enum dtype cache_v, enum quant quant,
                              outrider_model_info *info) {
    struct model_config config;
    struct generation_config generation;
    struct weights *w;
    TRY(config_read(folder, &config, &generation));
    TRY(weights_open(folder, &w));
    outrider_status status = bind_check(&config, w);
    if (status == OUTRIDER_OK) describe(&config, w, cache_k, cache_v, quant, true, info);
    weights_close(w);
    return status;
}

/* Rows of a quantised head may lie in an order that depends on their number. */
outrider_status model_limit_vocabulary(struct model *m, int32_t n) {
    if (n == m->config.vocab_size) return OUTRIDER_OK;
    if (dtype_is_quantized(m->head.w.dtype))
        return fail(OUTRIDER_EMODEL, "a quantised head of %d tokens cannot be limited to the pair's %d",
                    m->config.vocab_size, n);
    m->head.w.n = m->config.vocab_size = n;
    return OUTRIDER_OK;
}

/* The Llama architecture: configuration to bound weights, and the layer loop.
 *
 * model_forward is the whole forward pass, for prefill, draft step and verify alike. A model family that
 * differs in its names or blocks adds a row here, not another pass. Invariant: after model_open every shape
 * that an operation relies on has been checked against the configuration, so operations need no checks of
 * their own. */
#include "runtime/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/rope.h"
#include "runtime/status.h"

/* ---- binding ---- */

/* What a matrix is for decides how it is held. The embedding is gathered, a row a token: nothing is gained by
 * making it smaller. */
enum part { EMBEDDING, LAYER, HEAD };

static enum dtype type_of(enum part part, enum quant quant, enum dtype file, int64_t k) {
    if (part == EMBEDDING) return dtype_is_quantized(file) ? DTYPE_BF16 : file;
    return quant_choose(quant, file, k, part == HEAD);
}

static outrider_status find_tensor(const struct weights *w, const char *name, int64_t n, int64_t k,
                                   const struct tensor **out) {
    const struct tensor *t = weights_find(w, name);
    if (!t) return fail(OUTRIDER_EMODEL, "%s: tensor %s is missing", weights_at(w, 0)->file, name);
    int32_t dims = k ? 2 : 1;
    if (t->n_dims != dims || t->shape[0] != n || (k && t->shape[1] != k)) {
        if (t->n_dims != dims)
            return fail(OUTRIDER_EMODEL, "%s: tensor %s has %d dimensions, expected %d", t->file, name,
                        t->n_dims, dims);
        if (k)
            return fail(OUTRIDER_EMODEL, "%s: tensor %s is [%lld, %lld], config.json says [%lld, %lld]",
                        t->file, name, (long long)t->shape[0], (long long)t->shape[1], (long long)n,
                        (long long)k);
        return fail(OUTRIDER_EMODEL, "%s: tensor %s is [%lld], config.json says [%lld]", t->file, name,
                    (long long)t->shape[0], (long long)n);
    }
    *out = t;
    return OUTRIDER_OK;
}

/* Block types are laid out anew by the backend, so that nothing of the rows is kept here. */
static outrider_status bind_quantized(struct model *m, const struct tensor *t, enum dtype type, int32_t n,
                                      int32_t k, struct matrix *out) {
    const size_t bytes = (size_t)n * dtype_row_bytes(type, (size_t)k);
    void *rows = malloc(bytes);
    if (!rows) return fail_memory(t->name, bytes);
    outrider_status status = weights_rows(t, type, rows);
    if (status == OUTRIDER_OK) status = m->ops->weight(m->be, rows, type, n, k, out);
    free(rows);
    return status;
}

static outrider_status bind_matrix(struct model *m, const char *name, enum part part, int32_t n, int32_t k,
                                   struct matrix *out) {
    const struct tensor *t;
    const void *rows;
    TRY(find_tensor(m->weights, name, n, k, &t));
    const enum dtype type = type_of(part, m->quant, t->dtype, k);
    if (dtype_is_quantized(type) && (type != t->dtype || t->head_rows))
        return bind_quantized(m, t, type, n, k, out);
    TRY(weights_hold(m->weights, t, type, &rows));
    return m->ops->weight(m->be, rows, type, n, k, out);
}

/* Vectors are few and small: they are kept in f32 whatever the file has. */
static outrider_status bind_vector(struct model *m, const char *name, int32_t n, const float **out) {
    const struct tensor *t;
    TRY(find_tensor(m->weights, name, n, 0, &t));
    float *host = malloc((size_t)n * sizeof *host);
    if (!host) return fail_memory(name, (size_t)n * sizeof *host);
    void *device = NULL;
    outrider_status status = weights_vector(t, host);
    if (status == OUTRIDER_OK) status = m->ops->alloc(m->be, (size_t)n * sizeof *host, &device);
    if (status == OUTRIDER_OK) m->ops->upload(m->be, device, host, (size_t)n * sizeof *host);
    free(host);
    *out = device;
    return status;
}

static outrider_status bind_layer(struct model *m, int32_t index) {
    const struct model_config *c = &m->config;
    struct layer *l = &m->layers[index];
    int32_t q = c->num_attention_heads * c->head_dim, kv = c->num_key_value_heads * c->head_dim;
    char name[96];
#define NAME(suffix) (snprintf(name, sizeof name, "model.layers.%d." suffix ".weight", index), name)
    l->attention = (struct attention_block){.norm_eps = c->rms_norm_eps,
                                            .rope = m->rope,
                                            .heads = c->num_attention_heads,
                                            .kv_heads = c->num_key_value_heads,
                                            .head_dim = c->head_dim};
    l->mlp.norm_eps = c->rms_norm_eps;
    TRY(bind_vector(m, NAME("input_layernorm"), c->hidden_size, &l->attention.norm));
    TRY(bind_matrix(m, NAME("self_attn.q_proj"), LAYER, q, c->hidden_size, &l->attention.q));
    TRY(bind_matrix(m, NAME("self_attn.k_proj"), LAYER, kv, c->hidden_size, &l->attention.k));
    TRY(bind_matrix(m, NAME("self_attn.v_proj"), LAYER, kv, c->hidden_size, &l->attention.v));
    TRY(bind_matrix(m, NAME("self_attn.o_proj"), LAYER, c->hidden_size, q, &l->output));
    TRY(bind_vector(m, NAME("post_attention_layernorm"), c->hidden_size, &l->mlp.norm));
    TRY(bind_matrix(m, NAME("mlp.gate_proj"), LAYER, c->intermediate_size, c->hidden_size, &l->mlp.gate));
    TRY(bind_matrix(m, NAME("mlp.up_proj"), LAYER, c->intermediate_size, c->hidden_size, &l->mlp.up));
    TRY(bind_matrix(m, NAME("mlp.down_proj"), LAYER, c->hidden_size, c->intermediate_size, &l->down));
#undef NAME
    if (l->attention.q.dtype != l->attention.k.dtype || l->attention.q.dtype != l->attention.v.dtype ||
        l->mlp.gate.dtype != l->mlp.up.dtype || l->attention.q.dtype != l->output.dtype ||
        l->mlp.gate.dtype != l->down.dtype)
        return fail(OUTRIDER_EMODEL, "%s: layer %d mixes element types", weights_at(m->weights, 0)->file,
                    index);
    return OUTRIDER_OK;
}

enum { ROPE_CHUNK = 4096 }; /* positions */

static size_t rope_row(const struct model *m) {
    return (size_t)m->config.head_dim * sizeof *m->rope;
}

/* The next chunk of positions: a context of millions is paid for only as far as it is used. */
static void fill_rope(struct model *m) {
    const struct model_config *c = &m->config;
    int32_t from = m->rope_filled, n = m->ctx_size - from < ROPE_CHUNK ? m->ctx_size - from : ROPE_CHUNK;
    float frequency[CONFIG_MAX_HEAD_DIM / 2];
    rope_frequencies(&c->rope, c->head_dim, m->ctx_size, frequency);
    rope_rows(&c->rope, c->head_dim, frequency, from, n, m->rope_host);
    m->ops->upload(m->be, (char *)m->rope + (size_t)from * rope_row(m), m->rope_host,
                   (size_t)n * rope_row(m));
    m->rope_filled += n;
}

static outrider_status make_rope(struct model *m) {
    m->rope_host = malloc(ROPE_CHUNK * rope_row(m));
    if (!m->rope_host) return fail_memory("the RoPE table", ROPE_CHUNK * rope_row(m));
    TRY(m->ops->alloc(m->be, (size_t)m->ctx_size * rope_row(m), (void **)&m->rope));
    fill_rope(m);
    return OUTRIDER_OK;
}

static outrider_status alloc_pool(struct model *m, enum dtype type) {
    const struct model_config *c = &m->config;
    size_t page =
        (size_t)m->page_size * (size_t)c->num_key_value_heads * (size_t)c->head_dim * dtype_bytes(type);
    size_t bytes;
    if (!mul_fits(page, (size_t)m->pages, &bytes)) return fail_memory("the cache", SIZE_MAX);
    for (int32_t i = 0; i < c->num_hidden_layers; i++) {
        struct kv_layer *kv = &m->layers[i].kv;
        kv->dtype = type;
        kv->page_size = m->page_size;
        TRY(m->ops->alloc(m->be, bytes, &kv->k));
        TRY(m->ops->alloc(m->be, bytes, &kv->v));
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

/* A tied head is the embedding itself, unless it is quantised. */
static outrider_status bind_head(struct model *m) {
    const struct model_config *c = &m->config;
    const char *name = c->tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    const struct tensor *t;
    TRY(find_tensor(m->weights, name, c->vocab_size, c->hidden_size, &t));
    const enum dtype type = type_of(HEAD, m->quant, t->dtype, c->hidden_size);
    if (c->tie_word_embeddings && type == m->embedding.dtype) {
        m->head = m->embedding;
        return OUTRIDER_OK;
    }
    return bind_matrix(m, name, HEAD, c->vocab_size, c->hidden_size, &m->head);
}

static outrider_status bind(struct model *m, const struct model_options *o) {
    struct model_config *c = &m->config;
    TRY(make_rope(m));
    TRY(bind_matrix(m, "model.embed_tokens.weight", EMBEDDING, c->vocab_size, c->hidden_size, &m->embedding));
    TRY(bind_head(m));
    TRY(bind_vector(m, "model.norm.weight", c->hidden_size, (const float **)&m->final_norm));
    for (int32_t i = 0; i < c->num_hidden_layers; i++) {
        TRY(bind_layer(m, i));
        if (o->progress) o->progress(o->user, (double)(i + 1) / c->num_hidden_layers);
    }
    TRY(alloc_pool(m, o->cache_type));
    return alloc_activations(m);
}

/* Within a layer every tensor must be one that is computed with: a bias, another norm or a layer more than
 * config.json counts would make it another model, one that writes worse in silence. */
static outrider_status refuse_unknown_parts(const struct model *m) {
    static const char *const parts[] = {
        "input_layernorm.weight",       "self_attn.q_proj.weight", "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",      "self_attn.o_proj.weight", "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",         "mlp.up_proj.weight",      "mlp.down_proj.weight",
        "self_attn.rotary_emb.inv_freq" /* older files keep what rope_theta says */};
    for (size_t i = 0; i < weights_count(m->weights); i++) {
        const struct tensor *t = weights_at(m->weights, i);
        if (strncmp(t->name, "model.layers.", 13) != 0) continue;
        char *part;
        long index = strtol(t->name + 13, &part, 10);
        bool known = false;
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++)
            known |= *part == '.' && strcmp(part + 1, parts[j]) == 0;
        if (index < 0 || index >= m->config.num_hidden_layers)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\", but config.json has %d layers", t->file,
                        t->name, m->config.num_hidden_layers);
        if (!known)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\" is not supported yet", t->file, t->name);
    }
    return OUTRIDER_OK;
}

/* Of what config.json may ask for, this is not computed yet. */
static outrider_status refuse_uncomputed(const struct model *m) {
    const struct family *f = &m->config.family;
    if (m->config.sliding_window == 0 && !f->qkv_bias && !f->mlp_bias && !f->qk_norm && !f->post_norms &&
        !f->norm_plus_one && !f->fused && !f->gelu && !f->scaled_embedding)
        return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL, "%s: this %s is not supported yet", weights_at(m->weights, 0)->file,
                m->config.model_type);
}

outrider_status model_open(const struct model_options *o, struct model **out) {
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m) return fail_memory("a model", sizeof *m);
    m->ops = o->ops;
    m->be = o->be;
    m->id = o->id;
    m->quant = o->quant;
    m->page_size = o->page_size;
    m->pages = o->pages;
    m->ctx_size = o->ctx_size;
    m->max_rows = o->max_rows;
    m->max_logits = o->max_logits;
    outrider_status status;
    TRY_GOTO(cleanup, config_read(o->folder, &m->config, &m->generation));
    TRY_GOTO(cleanup, weights_open(o->folder, &m->weights));
    TRY_GOTO(cleanup, refuse_uncomputed(m));
    TRY_GOTO(cleanup, refuse_unknown_parts(m));
    m->layers = calloc((size_t)m->config.num_hidden_layers, sizeof *m->layers);
    if (!m->layers) {
        status = fail_memory("layers", (size_t)m->config.num_hidden_layers * sizeof *m->layers);
        goto cleanup;
    }
    TRY_GOTO(cleanup, bind(m, o));
    TRY_GOTO(cleanup, m->ops->sync(m->be));
    *out = m;
    return OUTRIDER_OK;
cleanup:
    model_close(m);
    return status;
}

void model_close(struct model *m) {
    if (!m) return;
    const struct ops *ops = m->ops;
    for (int32_t i = 0; m->layers && i < m->config.num_hidden_layers; i++) {
        struct layer *l = &m->layers[i];
        const struct matrix *owned[] = {&l->attention.q, &l->attention.k, &l->attention.v, &l->output,
                                        &l->mlp.gate,    &l->mlp.up,      &l->down};
        for (size_t j = 0; j < sizeof owned / sizeof *owned; j++) ops->weight_release(m->be, owned[j]);
        void *plain[] = {(void *)l->attention.norm, (void *)l->mlp.norm, l->kv.k, l->kv.v};
        for (size_t j = 0; j < sizeof plain / sizeof *plain; j++) ops->release(m->be, plain[j]);
    }
    ops->weight_release(m->be, &m->embedding);
    if (m->head.data != m->embedding.data) ops->weight_release(m->be, &m->head);
    void *plain[] = {m->final_norm, m->rope, m->x, m->q, m->attended, m->hidden, m->logits};
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

    ops->embed(be, rows, &m->embedding, m->x);
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
    ops->logits(be, m->final_norm, m->config.rms_norm_eps, &m->head, last, pick, n_pick, m->logits);
}

void model_forward(struct model *m, const struct rows *rows, uint32_t place, const int32_t *pick,
                   int32_t n_pick) {
    while (rows->max_position >= m->rope_filled && m->rope_filled < m->ctx_size) fill_rope(m);
    /* Positions are bounded in powers of two, so that few passes are recorded. */
    struct rows bounded = *rows;
    int bits = 8;
    while (rows->max_position >> bits) bits++;
    bounded.max_position = (int32_t)((1u << bits) - 1);
    bool once = rows->prefill || pick || rows->n > RECORDED_ROWS || place > UINT16_MAX;
    uint64_t key = (uint64_t)place | (uint64_t)rows->n << 16 | (uint64_t)n_pick << 24 | (uint64_t)bits << 32 |
                   (uint64_t)m->id << 40;
    if (once) {
        run_layers(m, rows, pick, n_pick);
    } else if (!m->ops->replay(m->be, key)) {
        m->ops->record_begin(m->be, key);
        run_layers(m, &bounded, pick, n_pick);
        m->ops->record_end(m->be);
    }
}

void model_copy_page(struct model *m, int32_t to, int32_t from) {
    const struct model_config *c = &m->config;
    for (int32_t i = 0; i < c->num_hidden_layers; i++) {
        struct kv_layer *kv = &m->layers[i].kv;
        size_t page = (size_t)m->page_size * (size_t)c->num_key_value_heads * (size_t)c->head_dim *
                      dtype_bytes(kv->dtype);
        m->ops->copy(m->be, (char *)kv->k + (size_t)to * page, (char *)kv->k + (size_t)from * page, page);
        m->ops->copy(m->be, (char *)kv->v + (size_t)to * page, (char *)kv->v + (size_t)from * page, page);
    }
}

/* ---- description ---- */

static enum part part_of(const struct tensor *t) {
    if (strcmp(t->name, "lm_head.weight") == 0) return HEAD;
    return strcmp(t->name, "model.embed_tokens.weight") == 0 ? EMBEDDING : LAYER;
}

static uint64_t held_bytes(const struct tensor *t, enum part part, enum quant quant) {
    const enum dtype type = t->n_dims == 2 ? type_of(part, quant, t->dtype, t->shape[1]) : t->dtype;
    return (uint64_t)t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype) / dtype_block(type) *
           dtype_bytes(type);
}

/* Sizes in memory and of what a token reads. */
static void describe_sizes(const struct model_config *c, const struct weights *w, enum quant quant,
                           outrider_model_info *info) {
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        const enum part part = part_of(t);
        const uint64_t bytes = held_bytes(t, part, quant);
        info->parameters += t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype);
        info->memory_bytes += bytes;
        if (part != EMBEDDING) info->streamed_bytes += bytes;
        if (part != EMBEDDING || !c->tie_word_embeddings) continue;
        const uint64_t head = held_bytes(t, HEAD, quant);
        info->streamed_bytes += head;
        if (head != bytes) info->memory_bytes += head;
    }
}

static void describe(const struct model_config *c, const struct weights *w, enum dtype cache_type,
                     enum quant quant, outrider_model_info *info) {
    const struct tensor *sample = weights_find(w, "model.layers.0.self_attn.q_proj.weight");
    *info = (outrider_model_info){.vocab_size = c->vocab_size,
                                  .hidden_size = c->hidden_size,
                                  .intermediate_size = c->intermediate_size,
                                  .num_hidden_layers = c->num_hidden_layers,
                                  .num_attention_heads = c->num_attention_heads,
                                  .num_key_value_heads = c->num_key_value_heads,
                                  .head_dim = c->head_dim,
                                  .max_position_embeddings = c->max_position_embeddings,
                                  .weight_bytes = weights_bytes(w),
                                  .cache_bytes_per_token = (uint64_t)2 * (uint64_t)c->num_hidden_layers *
                                                           (uint64_t)c->num_key_value_heads *
                                                           (uint64_t)c->head_dim * dtype_bytes(cache_type)};
    snprintf(info->model_type, sizeof info->model_type, "%s", c->model_type);
    const enum dtype file = sample ? sample->dtype : DTYPE_F32;
    snprintf(info->file_dtype, sizeof info->file_dtype, "%s", sample ? dtype_name(file) : "none");
    snprintf(info->dtype, sizeof info->dtype, "%s",
             sample ? dtype_name(type_of(LAYER, quant, file, sample->shape[1])) : "none");
    describe_sizes(c, w, quant, info);
}

void model_info(const struct model *m, outrider_model_info *info) {
    describe(&m->config, m->weights, m->layers[0].kv.dtype, m->quant, info);
}

outrider_status model_inspect(const char *folder, enum dtype cache_type, enum quant quant,
                              outrider_model_info *info) {
    struct model_config config;
    struct generation_config generation;
    struct weights *w;
    TRY(config_read(folder, &config, &generation));
    TRY(weights_open(folder, &w));
    describe(&config, w, cache_type, quant, info);
    weights_close(w);
    return OUTRIDER_OK;
}

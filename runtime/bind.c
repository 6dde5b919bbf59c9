/* Binding: which tensor is what, for every family.
 *
 * A layer's tensors are rows of one table: name, which families have it, its place in struct layer, and its
 * shape in terms of the configuration's sizes. A family whose tensors have other names is more rows here. A
 * matrix may be a stretch of rows of a larger tensor, and is then a view into the mapping; a vector may be a
 * stretch of a larger vector, of which each tensor fills its part. Invariant: every shape that an operation
 * relies on has been checked against the configuration. */
#include "runtime/bind.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"

/* ---- the table ---- */

enum has { ALL, SPLIT, FUSED, QKV_BIAS, OUTPUT_BIAS, MLP_BIAS, QK_NORM, PRE_NORMS, POST_NORMS };
enum kind { MATRIX, NORM, BIAS };
enum size { ZERO, HIDDEN, Q, KV, Q_KV, QKV, FFN, GATE_UP, HEAD_DIM };

static const struct part {
    const char *name; /* behind "model.layers.N." */
    enum has has;
    enum kind kind;
    enum size of, from;   /* rows `from`.. of a tensor or vector with `of` rows: */
    enum size rows, cols; /* so many, of so many elements each; ZERO: it is a vector */
    size_t at;            /* in struct layer */
} parts[] = {
#define AT(field) offsetof(struct layer, field)
    {"input_layernorm.weight", ALL, NORM, HIDDEN, ZERO, HIDDEN, ZERO, AT(attention.norm)},
    {"self_attn.q_proj.weight", SPLIT, MATRIX, Q, ZERO, Q, HIDDEN, AT(attention.q)},
    {"self_attn.k_proj.weight", SPLIT, MATRIX, KV, ZERO, KV, HIDDEN, AT(attention.k)},
    {"self_attn.v_proj.weight", SPLIT, MATRIX, KV, ZERO, KV, HIDDEN, AT(attention.v)},
    {"self_attn.qkv_proj.weight", FUSED, MATRIX, QKV, ZERO, Q, HIDDEN, AT(attention.q)},
    {"self_attn.qkv_proj.weight", FUSED, MATRIX, QKV, Q, KV, HIDDEN, AT(attention.k)},
    {"self_attn.qkv_proj.weight", FUSED, MATRIX, QKV, Q_KV, KV, HIDDEN, AT(attention.v)},
    {"self_attn.q_proj.bias", QKV_BIAS, BIAS, QKV, ZERO, Q, ZERO, AT(attention.bias)},
    {"self_attn.k_proj.bias", QKV_BIAS, BIAS, QKV, Q, KV, ZERO, AT(attention.bias)},
    {"self_attn.v_proj.bias", QKV_BIAS, BIAS, QKV, Q_KV, KV, ZERO, AT(attention.bias)},
    {"self_attn.q_norm.weight", QK_NORM, NORM, HEAD_DIM, ZERO, HEAD_DIM, ZERO, AT(attention.q_norm)},
    {"self_attn.k_norm.weight", QK_NORM, NORM, HEAD_DIM, ZERO, HEAD_DIM, ZERO, AT(attention.k_norm)},
    {"self_attn.o_proj.weight", ALL, MATRIX, HIDDEN, ZERO, HIDDEN, Q, AT(output.w)},
    {"self_attn.o_proj.bias", OUTPUT_BIAS, BIAS, HIDDEN, ZERO, HIDDEN, ZERO, AT(output.bias)},
    {"post_attention_layernorm.weight", PRE_NORMS, NORM, HIDDEN, ZERO, HIDDEN, ZERO, AT(mlp.norm)},
    {"post_attention_layernorm.weight", POST_NORMS, NORM, HIDDEN, ZERO, HIDDEN, ZERO, AT(output.norm)},
    {"pre_feedforward_layernorm.weight", POST_NORMS, NORM, HIDDEN, ZERO, HIDDEN, ZERO, AT(mlp.norm)},
    {"post_feedforward_layernorm.weight", POST_NORMS, NORM, HIDDEN, ZERO, HIDDEN, ZERO, AT(down.norm)},
    {"mlp.gate_proj.weight", SPLIT, MATRIX, FFN, ZERO, FFN, HIDDEN, AT(mlp.gate)},
    {"mlp.up_proj.weight", SPLIT, MATRIX, FFN, ZERO, FFN, HIDDEN, AT(mlp.up)},
    {"mlp.gate_up_proj.weight", FUSED, MATRIX, GATE_UP, ZERO, FFN, HIDDEN, AT(mlp.gate)},
    {"mlp.gate_up_proj.weight", FUSED, MATRIX, GATE_UP, FFN, FFN, HIDDEN, AT(mlp.up)},
    {"mlp.gate_proj.bias", MLP_BIAS, BIAS, GATE_UP, ZERO, FFN, ZERO, AT(mlp.bias)},
    {"mlp.up_proj.bias", MLP_BIAS, BIAS, GATE_UP, FFN, FFN, ZERO, AT(mlp.bias)},
    {"mlp.down_proj.weight", ALL, MATRIX, HIDDEN, ZERO, HIDDEN, FFN, AT(down.w)},
    {"mlp.down_proj.bias", MLP_BIAS, BIAS, HIDDEN, ZERO, HIDDEN, ZERO, AT(down.bias)},
};
enum { PARTS = sizeof parts / sizeof *parts };

static bool family_has(const struct family *f, enum has has) {
    const bool yes[] = {[ALL] = true,
                        [SPLIT] = !f->fused,
                        [FUSED] = f->fused,
                        [QKV_BIAS] = f->qkv_bias,
                        [OUTPUT_BIAS] = f->output_bias,
                        [MLP_BIAS] = f->mlp_bias,
                        [QK_NORM] = f->qk_norm,
                        [PRE_NORMS] = !f->post_norms,
                        [POST_NORMS] = f->post_norms};
    return yes[has];
}

static int32_t size_of(const struct model_config *c, enum size size) {
    const int32_t q = c->num_attention_heads * c->head_dim, kv = c->num_key_value_heads * c->head_dim;
    const int32_t sizes[] = {[ZERO] = 0,
                             [HIDDEN] = c->hidden_size,
                             [Q] = q,
                             [KV] = kv,
                             [Q_KV] = q + kv,
                             [QKV] = q + 2 * kv,
                             [FFN] = c->intermediate_size,
                             [GATE_UP] = 2 * c->intermediate_size,
                             [HEAD_DIM] = c->head_dim};
    return sizes[size];
}

struct name {
    char text[96];
};

static struct name name_of(const struct part *p, int32_t index) {
    struct name name;
    snprintf(name.text, sizeof name.text, "model.layers.%d.%s", index, p->name);
    return name;
}

static outrider_status fail_missing(const struct weights *w, const char *name) {
    return fail(OUTRIDER_EMODEL, "%s: tensor %s is missing", weights_at(w, 0)->file, name);
}

/* Older files keep what rope_theta says: not computed with, and no harm. */
static const char *const ignored = "self_attn.rotary_emb.inv_freq";

static bool is_known(const struct family *f, const char *part) {
    for (size_t i = 0; i < PARTS; i++)
        if (strcmp(part, parts[i].name) == 0 && family_has(f, parts[i].has)) return true;
    return strcmp(part, ignored) == 0;
}

/* Every tensor must be one that is computed with: a bias, another norm or a layer more than config.json
 * counts would make it another model, one that writes worse in silence. */
static outrider_status refuse_unknown(const struct model_config *c, const struct weights *w) {
    static const char layers[] = "model.layers.";
    static const char *const others[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
    for (size_t i = 0; i < 2; i++) /* a name that is wrong is also one that is missing, which says more */
        if (!weights_find(w, others[i])) return fail_missing(w, others[i]);
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        bool known = false;
        for (size_t j = 0; j < sizeof others / sizeof *others; j++) known |= strcmp(t->name, others[j]) == 0;
        if (strncmp(t->name, layers, sizeof layers - 1) == 0) {
            char *part;
            long index = strtol(t->name + sizeof layers - 1, &part, 10);
            if (index < 0 || index >= c->num_hidden_layers)
                return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\", but config.json has %d layers", t->file,
                            t->name, c->num_hidden_layers);
            known = *part == '.' && is_known(&c->family, part + 1);
        }
        if (!known)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\" is not supported in a %s", t->file, t->name,
                        c->model_type);
    }
    return OUTRIDER_OK;
}

/* ---- one tensor ---- */

enum dtype bind_type(enum use use, enum quant quant, enum dtype file, int64_t k, bool f8) {
    if (use == EMBEDDING) return dtype_is_quantized(file) || !dtype_is_computed(file) ? DTYPE_BF16 : file;
    return quant_choose(quant, file, k, use == HEAD, f8);
}

enum use bind_use(const struct tensor *t) {
    if (strcmp(t->name, "lm_head.weight") == 0) return HEAD;
    return strcmp(t->name, "model.embed_tokens.weight") == 0 ? EMBEDDING : LAYER;
}

static outrider_status find_tensor(const struct weights *w, const char *name, int64_t n, int64_t k,
                                   const struct tensor **out) {
    const struct tensor *t = weights_find(w, name);
    if (!t) return fail_missing(w, name);
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

static const char *head_name(const struct model_config *c) {
    return c->tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
}

outrider_status bind_check(const struct model_config *c, const struct weights *w) {
    const struct tensor *t;
    TRY(refuse_unknown(c, w));
    TRY(find_tensor(w, "model.embed_tokens.weight", c->vocab_size, c->hidden_size, &t));
    TRY(find_tensor(w, head_name(c), c->vocab_size, c->hidden_size, &t));
    TRY(find_tensor(w, "model.norm.weight", c->hidden_size, 0, &t));
    for (int32_t i = 0; i < c->num_hidden_layers; i++) {
        for (const struct part *p = parts; p < parts + PARTS; p++) {
            const bool matrix = p->kind == MATRIX;
            if (family_has(&c->family, p->has))
                TRY(find_tensor(w, name_of(p, i).text, size_of(c, matrix ? p->of : p->rows),
                                size_of(c, p->cols), &t));
        }
    }
    return OUTRIDER_OK;
}

/* Block types are laid out anew by the backend, so that nothing of the rows is kept here. */
static outrider_status bind_quantized(struct model *m, const struct tensor *t, enum dtype type, int32_t n,
                                      int32_t k, struct matrix *out) {
    const size_t bytes = (size_t)n * dtype_row_bytes(type, (size_t)k);
    void *rows = malloc(bytes);
    if (!rows) return fail_memory(t->name, bytes);
    outrider_status status = weights_rows(t, type, m->threads, rows);
    if (status == OUTRIDER_OK) status = m->ops->weight(m->be, rows, type, n, k, out);
    free(rows);
    return status;
}

/* Rows `first`.. of a tensor with `all` rows, as if they were a tensor of their own. */
static outrider_status bind_rows(struct model *m, const char *name, enum dtype type, int32_t all,
                                 int32_t first, int32_t n, int32_t k, struct matrix *out) {
    const struct tensor *t;
    const void *rows;
    TRY(find_tensor(m->weights, name, all, k, &t));
    struct tensor view = *t;
    view.scales.first += (size_t)first;
    view.data = (const char *)t->data + (size_t)first * dtype_row_bytes(t->dtype, (size_t)k);
    view.shape[0] = n;
    view.bytes = (size_t)n * dtype_row_bytes(t->dtype, (size_t)k);
    m->bound_bytes += view.bytes;
    if (dtype_is_quantized(type) && (type != t->dtype || t->head_rows))
        return bind_quantized(m, &view, type, n, k, out);
    TRY(weights_hold(m->weights, &view, type, m->threads, &rows));
    return m->ops->weight(m->be, rows, type, n, k, out);
}

static outrider_status bind_matrix(struct model *m, const char *name, enum use use, int32_t n, int32_t k,
                                   struct matrix *out) {
    const struct tensor *t;
    TRY(find_tensor(m->weights, name, n, k, &t));
    return bind_rows(m, name, bind_type(use, m->quant, t->dtype, k, m->ops->f8_weights), n, 0, n, k, out);
}

/* Elements first.. of a vector of `all`, which the first to come makes. Vectors are few and small: they are
 * kept in f32 whatever the file has. */
static outrider_status bind_vector(struct model *m, const char *name, float plus, int32_t all, int32_t first,
                                   int32_t n, const float **out) {
    const struct tensor *t;
    TRY(find_tensor(m->weights, name, n, 0, &t));
    m->bound_bytes += t->bytes;
    if (!*out) TRY(m->ops->alloc(m->be, (size_t)all * sizeof(float), (void **)out));
    float *host = malloc((size_t)n * sizeof *host);
    if (!host) return fail_memory(name, (size_t)n * sizeof *host);
    outrider_status status = weights_vector(t, host);
    for (int32_t i = 0; i < n && status == OUTRIDER_OK; i++) host[i] += plus;
    if (status == OUTRIDER_OK) m->ops->upload(m->be, (float *)*out + first, host, (size_t)n * sizeof *host);
    free(host);
    return status;
}

static float norm_plus(const struct model *m) {
    return m->config.family.norm_plus_one ? 1 : 0;
}

/* ---- a layer ---- */

static bool is_mlp(const struct part *p) {
    return strncmp(p->name, "mlp.", 4) == 0;
}

/* The type of p's matrix. The products of a block hand their rows on to each other and compute in one type:
 * where block types are mixed, as files of 4 and 5 bits do, all of them are held in bf16. */
static enum dtype type_of_part(const struct model *m, int32_t index, const struct part *p) {
    enum dtype own = DTYPE_BF16;
    bool mixed = false, blocks = false;
    for (size_t i = 0, n = 0; i < PARTS; i++) {
        if (parts[i].kind != MATRIX || is_mlp(&parts[i]) != is_mlp(p)) continue;
        const struct tensor *t = weights_find(m->weights, name_of(&parts[i], index).text);
        if (!t || t->n_dims != 2) continue; /* of another family, or about to be refused */
        const enum dtype type = bind_type(LAYER, m->quant, t->dtype, t->shape[1], m->ops->f8_weights);
        mixed |= n++ > 0 && type != own;
        blocks |= dtype_is_quantized(type) || dtype_is_quantized(t->dtype) || t->dtype == DTYPE_E4M3;
        if (!mixed || strcmp(parts[i].name, p->name) == 0) own = type;
    }
    return mixed && blocks ? DTYPE_BF16 : own;
}

static outrider_status bind_part(struct model *m, int32_t index, const struct part *p) {
    const struct model_config *c = &m->config;
    void *to = (char *)&m->layers[index] + p->at;
    const struct name name = name_of(p, index);
    const int32_t all = size_of(c, p->of), first = size_of(c, p->from), n = size_of(c, p->rows);
    if (p->kind == MATRIX)
        return bind_rows(m, name.text, type_of_part(m, index, p), all, first, n, size_of(c, p->cols), to);
    return bind_vector(m, name.text, p->kind == NORM ? norm_plus(m) : 0, all, first, n, to);
}

static outrider_status bind_layer(struct model *m, int32_t index) {
    const struct model_config *c = &m->config;
    struct layer *l = &m->layers[index];
    l->attention.norm_eps = l->mlp.norm_eps = l->output.norm_eps = l->down.norm_eps = c->rms_norm_eps;
    l->attention.rope = c->local[index] && m->rope_local ? m->rope_local : m->rope;
    l->attention.heads = c->num_attention_heads;
    l->attention.kv_heads = c->num_key_value_heads;
    l->attention.head_dim = c->head_dim;
    l->attention.scale = c->attention_scale;
    l->attention.softcap = c->attn_logit_softcapping;
    l->attention.window = c->local[index] ? c->sliding_window : 0;
    l->mlp.gelu = c->family.gelu;
    for (size_t i = 0; i < PARTS; i++)
        if (family_has(&c->family, parts[i].has)) TRY(bind_part(m, index, &parts[i]));
    const struct attention_block *a = &l->attention;
    if (a->q.dtype != a->k.dtype || a->q.dtype != a->v.dtype || l->mlp.gate.dtype != l->mlp.up.dtype ||
        a->q.dtype != l->output.w.dtype || l->mlp.gate.dtype != l->down.w.dtype)
        return fail(OUTRIDER_EMODEL, "%s: layer %d mixes element types", weights_at(m->weights, 0)->file,
                    index);
    return OUTRIDER_OK;
}

/* ---- the rest ---- */

/* A tied head is the embedding itself, unless it is quantised. */
static outrider_status bind_head(struct model *m) {
    const struct model_config *c = &m->config;
    const char *name = head_name(c);
    const struct tensor *t;
    TRY(find_tensor(m->weights, name, c->vocab_size, c->hidden_size, &t));
    const enum dtype type = bind_type(HEAD, m->quant, t->dtype, c->hidden_size, m->ops->f8_weights);
    if (c->tie_word_embeddings && type == m->embedding.dtype) {
        m->head.w = m->embedding;
        return OUTRIDER_OK;
    }
    return bind_matrix(m, name, HEAD, c->vocab_size, c->hidden_size, &m->head.w);
}

outrider_status bind_weights(struct model *m, void (*progress)(void *user, double done, double total),
                             void *user) {
    const struct model_config *c = &m->config;
    const double all = (double)weights_bytes(m->weights);
    if (progress) progress(user, 0, all);
    TRY(bind_matrix(m, "model.embed_tokens.weight", EMBEDDING, c->vocab_size, c->hidden_size, &m->embedding));
    TRY(bind_head(m));
    m->head.norm_eps = c->rms_norm_eps;
    m->head.softcap = c->final_logit_softcapping;
    TRY(bind_vector(m, "model.norm.weight", norm_plus(m), c->hidden_size, 0, c->hidden_size, &m->head.norm));
    for (int32_t i = 0; i < c->num_hidden_layers; i++) {
        TRY(bind_layer(m, i));
        if (progress) progress(user, (double)m->bound_bytes, all);
    }
    return OUTRIDER_OK;
}

static void release_part(struct model *m, struct layer *l, const struct part *p) {
    void *at = (char *)l + p->at;
    if (p->kind == MATRIX) {
        m->ops->weight_release(m->be, at);
        return;
    }
    m->ops->release(m->be, *(void **)at);
    *(void **)at = NULL; /* several parts may share it */
}

void bind_release(struct model *m) {
    for (int32_t i = 0; m->layers && i < m->config.num_hidden_layers; i++)
        for (size_t j = 0; j < PARTS; j++)
            if (family_has(&m->config.family, parts[j].has)) release_part(m, &m->layers[i], &parts[j]);
    if (m->head.w.data != m->embedding.data) m->ops->weight_release(m->be, &m->head.w);
    m->ops->weight_release(m->be, &m->embedding);
    m->ops->release(m->be, (void *)m->head.norm);
}

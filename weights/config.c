/* config.json and generation_config.json of a model folder.
 *
 * What is read here is either right or refused: a setting that would change the model's function and that
 * this runtime does not compute (scaled RoPE, a sliding window, biases, quantized weights) is an error, never
 * ignored. torch_dtype is ignored on purpose: the tensors carry their own types.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/status.h"
#include "weights/document.h"
#include "weights/weights.h"

enum { MAX_SIZE = 1 << 24, MAX_LAYERS = 1024, MAX_HEAD_DIM = 512 };

/* ---- sizes ---- */

static outrider_status read_sizes(const struct document *doc, struct model_config *m) {
    const struct {
        const char *key;
        int32_t *out, max;
        bool required;
    } sizes[] = {
        {"vocab_size", &m->vocab_size, MAX_SIZE, true},
        {"hidden_size", &m->hidden_size, MAX_SIZE, true},
        {"intermediate_size", &m->intermediate_size, MAX_SIZE, true},
        {"num_hidden_layers", &m->num_hidden_layers, MAX_LAYERS, true},
        {"num_attention_heads", &m->num_attention_heads, MAX_SIZE, true},
        {"num_key_value_heads", &m->num_key_value_heads, MAX_SIZE, false},
        {"head_dim", &m->head_dim, MAX_SIZE, false},
        {"max_position_embeddings", &m->max_position_embeddings, MAX_SIZE, true},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        TRY(document_int(doc, sizes[i].key, 1, sizes[i].max, sizes[i].out));
        if (sizes[i].required && *sizes[i].out == 0)
            return fail(OUTRIDER_EMODEL, "%s: %s is missing", doc->path, sizes[i].key);
    }
    return OUTRIDER_OK;
}

/* Fills in what upstream derives, then checks the sizes against each other. */
static outrider_status check_heads(const struct document *doc, struct model_config *m) {
    int32_t heads = m->num_attention_heads;
    if (m->num_key_value_heads == 0) m->num_key_value_heads = heads;
    if (m->head_dim == 0 && m->hidden_size % heads != 0)
        return fail(OUTRIDER_EMODEL, "%s: num_attention_heads %d does not divide hidden_size %d", doc->path,
                    heads, m->hidden_size);
    if (m->head_dim == 0) m->head_dim = m->hidden_size / heads;
    if (heads % m->num_key_value_heads != 0)
        return fail(OUTRIDER_EMODEL, "%s: num_key_value_heads %d does not divide num_attention_heads %d",
                    doc->path, m->num_key_value_heads, heads);
    if (m->head_dim > MAX_HEAD_DIM)
        return fail(OUTRIDER_EMODEL, "%s: head_dim %d exceeds %d", doc->path, m->head_dim, MAX_HEAD_DIM);
    if (m->head_dim % 2 != 0)
        return fail(OUTRIDER_EMODEL, "%s: head_dim %d is odd, RoPE needs pairs", doc->path, m->head_dim);
    if ((int64_t)heads * m->head_dim > MAX_SIZE)
        return fail(OUTRIDER_EMODEL, "%s: num_attention_heads times head_dim exceeds %d", doc->path,
                    MAX_SIZE);
    return OUTRIDER_OK;
}

/* ---- what kind of model ---- */

static outrider_status read_type(const struct document *doc, struct model_config *m) {
    const char *type = NULL;
    TRY(document_text(doc, "model_type", &type));
    if (!type) return fail(OUTRIDER_EMODEL, "%s: model_type is missing", doc->path);
    if (strcmp(type, "llama") != 0 && strcmp(type, "mistral") != 0)
        return fail(OUTRIDER_EMODEL, "%s: model_type \"%.40s\" is not supported (llama, mistral)", doc->path,
                    type);
    snprintf(m->model_type, sizeof m->model_type, "%s", type);
    return OUTRIDER_OK;
}

static outrider_status refuse_unsupported(const struct document *doc) {
    static const char *const unset[] = {"rope_scaling", "sliding_window", "quantization_config"};
    static const char *const untrue[] = {"attention_bias", "mlp_bias"};
    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++)
        if (document_get(doc, unset[i]))
            return fail(OUTRIDER_EMODEL, "%s: %s is not supported yet", doc->path, unset[i]);
    for (size_t i = 0; i < sizeof untrue / sizeof *untrue; i++) {
        bool set = false;
        TRY(document_bool(doc, untrue[i], &set));
        if (set) return fail(OUTRIDER_EMODEL, "%s: %s is not supported yet", doc->path, untrue[i]);
    }
    const char *act = "silu";
    TRY(document_text(doc, "hidden_act", &act));
    if (strcmp(act, "silu") != 0)
        return fail(OUTRIDER_EMODEL, "%s: hidden_act \"%.40s\" is not supported yet (silu)", doc->path, act);
    return OUTRIDER_OK;
}

/* Newer files put rope_theta into an object, rope_parameters, beside a kind that must be the plain one. */
static outrider_status read_rope(const struct document *doc, float *theta) {
    *theta = 10000;
    TRY(document_float(doc, "rope_theta", 1, FLT_MAX, theta));
    struct document inner = {doc->path, document_get(doc, "rope_parameters")};
    if (!inner.root) return OUTRIDER_OK;
    if (!json_is_object(inner.root))
        return fail(OUTRIDER_EMODEL, "%s: rope_parameters is not an object", doc->path);
    const char *type = "default";
    float part = 1;
    TRY(document_text(&inner, "rope_type", &type));
    TRY(document_float(&inner, "partial_rotary_factor", 0, 1, &part));
    if (strcmp(type, "default") != 0 || part != 1)
        return fail(OUTRIDER_EMODEL, "%s: rope_parameters \"%.40s\" is not supported yet", doc->path, type);
    return document_float(&inner, "rope_theta", 1, FLT_MAX, theta);
}

/* ---- tokens ---- */

static outrider_status add_eos(const struct document *doc, const json_t *value, struct model_config *m) {
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= m->vocab_size)
        return fail(OUTRIDER_EMODEL, "%s: eos_token_id is not a token (0 to %d)", doc->path,
                    m->vocab_size - 1);
    for (int32_t i = 0; i < m->n_eos; i++)
        if (m->eos_token_id[i] == id) return OUTRIDER_OK;
    if (m->n_eos == CONFIG_MAX_EOS)
        return fail(OUTRIDER_EMODEL, "%s: eos_token_id: more than %d tokens", doc->path, CONFIG_MAX_EOS);
    m->eos_token_id[m->n_eos++] = (int32_t)id;
    return OUTRIDER_OK;
}

static outrider_status read_eos(const struct document *doc, struct model_config *m) {
    json_t *value = document_get(doc, "eos_token_id");
    if (!value) return OUTRIDER_OK;
    if (!json_is_array(value)) return add_eos(doc, value, m);
    for (size_t i = 0; i < json_array_size(value); i++) TRY(add_eos(doc, json_array_get(value, i), m));
    return OUTRIDER_OK;
}

/* ---- the two files ---- */

static outrider_status read_model(const struct document *doc, struct model_config *m) {
    TRY(read_type(doc, m));
    TRY(refuse_unsupported(doc));
    TRY(read_sizes(doc, m));
    TRY(check_heads(doc, m));
    TRY(read_rope(doc, &m->rope_theta));
    m->rms_norm_eps = 1e-6f;
    TRY(document_float(doc, "rms_norm_eps", FLT_MIN, 1, &m->rms_norm_eps));
    TRY(document_bool(doc, "tie_word_embeddings", &m->tie_word_embeddings));
    m->bos_token_id = -1;
    TRY(document_int(doc, "bos_token_id", 0, m->vocab_size - 1, &m->bos_token_id));
    return read_eos(doc, m);
}

static outrider_status read_generation(const struct document *doc, struct generation_config *g) {
    TRY(document_float(doc, "temperature", 0, 100, &g->temperature));
    TRY(document_float(doc, "top_p", FLT_MIN, 1, &g->top_p));
    TRY(document_float(doc, "min_p", 0, 1, &g->min_p));
    TRY(document_float(doc, "repetition_penalty", FLT_MIN, 100, &g->repetition_penalty));
    TRY(document_int(doc, "top_k", 0, MAX_SIZE, &g->top_k));
    bool sample = false;
    TRY(document_bool(doc, "do_sample", &sample));
    if (document_get(doc, "do_sample")) g->do_sample = sample;
    return OUTRIDER_OK;
}

outrider_status config_read(const char *dir, struct model_config *model,
                            struct generation_config *generation) {
    *model = (struct model_config){0};
    *generation = (struct generation_config){NAN, NAN, NAN, NAN, -1, -1};
    struct document doc;
    TRY(document_open(dir, "config.json", NULL, &doc));
    outrider_status status = read_model(&doc, model);
    document_close(&doc);
    if (status != OUTRIDER_OK) return status;

    bool found;
    TRY(document_open(dir, "generation_config.json", &found, &doc));
    if (!found) return OUTRIDER_OK;
    status = read_generation(&doc, generation);
    if (status == OUTRIDER_OK) status = read_eos(&doc, model);
    document_close(&doc);
    return status;
}

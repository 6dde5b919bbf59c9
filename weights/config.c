/* config.json and generation_config.json of a model folder.
 *
 * What is read here is either right or refused: a setting that would change the model's function and that
 * this runtime does not compute is an error, never ignored. torch_dtype is ignored on purpose: the tensors
 * carry their own types.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "weights/document.h"
#include "weights/gguf_config.h"
#include "weights/rope.h"
#include "weights/source.h"
#include "weights/weights.h"

enum { MAX_SIZE = 1 << 24 };

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
        {"num_hidden_layers", &m->num_hidden_layers, CONFIG_MAX_LAYERS, true},
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
    if (m->head_dim > CONFIG_MAX_HEAD_DIM)
        return fail(OUTRIDER_EMODEL, "%s: head_dim %d exceeds %d", doc->path, m->head_dim,
                    CONFIG_MAX_HEAD_DIM);
    if (m->head_dim % 2 != 0)
        return fail(OUTRIDER_EMODEL, "%s: head_dim %d is odd, RoPE needs pairs", doc->path, m->head_dim);
    if ((int64_t)heads * m->head_dim > MAX_SIZE)
        return fail(OUTRIDER_EMODEL, "%s: num_attention_heads times head_dim exceeds %d", doc->path,
                    MAX_SIZE);
    return OUTRIDER_OK;
}

/* ---- what kind of model ---- */

/* Floats of 8 bits are read; what they are called differs with who wrote them. Other quantisations have
 * tensors of other names and types. */
static outrider_status read_quantization(const struct document *doc) {
    static const char *const methods[] = {"fp8", "fbgemm_fp8", "compressed-tensors"};
    const json_t *q = document_get(doc, "quantization_config");
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    if (!q) return OUTRIDER_OK;
    for (size_t i = 0; method && i < sizeof methods / sizeof *methods; i++)
        if (strcmp(method, methods[i]) == 0) return OUTRIDER_OK;
    return fail(
        OUTRIDER_EMODEL,
        "%s: quantization_config: quant_method %.40s is not supported (fp8 is); use a bf16 or GGUF file",
        doc->path, method ? method : "unsaid");
}

static outrider_status read_type(const struct document *doc, struct model_config *m) {
    const char *type = NULL;
    TRY(document_text(doc, "model_type", &type));
    if (!type) return fail(OUTRIDER_EMODEL, "%s: model_type is missing", doc->path);
    const struct family *family = family_find(type);
    if (!family)
        return fail(OUTRIDER_EMODEL, "%s: model_type \"%.40s\" is not supported (%s)", doc->path, type,
                    family_names());
    const char *architecture = json_string_value(json_array_get(document_get(doc, "architectures"), 0));
    if (architecture && !strstr(architecture, "ForCausalLM"))
        return fail(OUTRIDER_EMODEL, "%s: architectures \"%.60s\" does not write text", doc->path,
                    architecture);
    m->family = *family;
    snprintf(m->model_type, sizeof m->model_type, "%s", type);
    return read_quantization(doc);
}

static outrider_status read_biases(const struct document *doc, struct family *f) {
    bool attention = false;
    TRY(document_bool(doc, "attention_bias", &attention));
    f->qkv_bias |= attention, f->output_bias |= attention;
    return document_bool(doc, "mlp_bias", &f->mlp_bias);
}

static outrider_status read_activation(const struct document *doc, struct family *f) {
    const char *act = f->gelu ? "gelu_pytorch_tanh" : "silu";
    TRY(document_text(doc, "hidden_act", &act));
    TRY(document_text(doc, "hidden_activation", &act));
    f->gelu = strcmp(act, "gelu_pytorch_tanh") == 0;
    if (!f->gelu && strcmp(act, "silu") != 0)
        return fail(OUTRIDER_EMODEL, "%s: hidden_act \"%.40s\" is not supported (silu, gelu_pytorch_tanh)",
                    doc->path, act);
    return OUTRIDER_OK;
}

/* Unlike other fields, a cap that is null is none, and one that is absent the family's own. */
static outrider_status read_cap(const struct document *doc, const char *key, float usual, float *out) {
    *out = json_object_get(doc->root, key) ? 0 : usual;
    return document_float(doc, key, FLT_MIN, 1e6f, out);
}

static outrider_status read_scales(const struct document *doc, struct model_config *m) {
    const struct family *f = &m->family;
    float scalar = f->query_pre_attn_scalar;
    if (scalar != 0) TRY(document_float(doc, "query_pre_attn_scalar", FLT_MIN, 1e6f, &scalar));
    m->attention_scale = 1 / sqrtf(scalar != 0 ? scalar : (float)m->head_dim);
    m->embedding_scale = f->scaled_embedding ? sqrtf((float)m->hidden_size) : 1;
    TRY(read_cap(doc, "attn_logit_softcapping", f->attn_logit_softcapping, &m->attn_logit_softcapping));
    return read_cap(doc, "final_logit_softcapping", f->final_logit_softcapping, &m->final_logit_softcapping);
}

/* ---- windows ---- */

static outrider_status read_layer_types(const struct document *doc, const json_t *list,
                                        struct model_config *m) {
    if (json_array_size(list) != (size_t)m->num_hidden_layers)
        return fail(OUTRIDER_EMODEL, "%s: layer_types is not a list of %d layers", doc->path,
                    m->num_hidden_layers);
    for (int32_t i = 0; i < m->num_hidden_layers; i++) {
        const char *type = json_string_value(json_array_get(list, (size_t)i));
        m->local[i] = type && strcmp(type, "sliding_attention") == 0;
        if (!m->local[i] && (!type || strcmp(type, "full_attention") != 0))
            return fail(OUTRIDER_EMODEL, "%s: layer_types[%d] \"%.40s\" is not supported", doc->path, i,
                        type ? type : "?");
    }
    return OUTRIDER_OK;
}

/* Which layers are local by the family's rule. */
static outrider_status apply_rule(const struct document *doc, struct model_config *m) {
    int32_t first = 0, cycle = m->family.cycle;
    if (m->family.windowed == WINDOW_UPPER) {
        first = 28; /* what upstream takes for granted */
        TRY(document_int(doc, "max_window_layers", 0, CONFIG_MAX_LAYERS, &first));
    }
    if (m->family.windowed == WINDOW_CYCLE)
        TRY(document_int(doc, "sliding_window_pattern", 1, CONFIG_MAX_LAYERS, &cycle));
    for (int32_t i = first; i < m->num_hidden_layers; i++)
        m->local[i] = m->family.windowed != WINDOW_CYCLE || (i + 1) % cycle != 0;
    return OUTRIDER_OK;
}

static outrider_status read_windows(const struct document *doc, struct model_config *m) {
    bool use = m->family.windowed != WINDOW_UPPER;
    if (m->family.windowed == WINDOW_UPPER) TRY(document_bool(doc, "use_sliding_window", &use));
    m->sliding_window = m->family.window;
    TRY(document_int(doc, "sliding_window", 1, INT32_MAX, &m->sliding_window));
    if (!use) m->sliding_window = 0;
    if (m->sliding_window == 0) return OUTRIDER_OK;
    if (m->family.windowed == WINDOW_NEVER)
        return fail(OUTRIDER_EMODEL, "%s: sliding_window is not supported in a %s", doc->path, m->model_type);
    const json_t *types = document_get(doc, "layer_types");
    return types ? read_layer_types(doc, types, m) : apply_rule(doc, m);
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
    TRY(read_biases(doc, &m->family));
    TRY(read_activation(doc, &m->family));
    TRY(read_sizes(doc, m));
    TRY(check_heads(doc, m));
    TRY(rope_config_read(doc, m));
    TRY(read_windows(doc, m));
    TRY(read_scales(doc, m));
    m->tie_word_embeddings = m->family.tied;
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

static outrider_status read_folder(const char *dir, struct model_config *model,
                                   struct generation_config *generation) {
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

static outrider_status read_gguf(char *file, struct model_config *model,
                                 struct generation_config *generation) {
    struct gguf *g;
    TRY(gguf_open(file, &g));
    struct document config = {file, NULL}, extra = {file, NULL};
    outrider_status status;
    TRY_GOTO(done, gguf_config(g, &config.root, &extra.root));
    TRY_GOTO(done, read_model(&config, model));
    TRY_GOTO(done, read_generation(&extra, generation));
    status = read_eos(&extra, model);
done:
    json_decref(config.root);
    json_decref(extra.root);
    gguf_close(g);
    return status;
}

outrider_status config_read(const char *path, struct model_config *model,
                            struct generation_config *generation) {
    char *file;
    *model = (struct model_config){0};
    *generation = (struct generation_config){NAN, NAN, NAN, NAN, -1, -1};
    TRY(source_gguf(path, &file));
    if (!file) return read_folder(path, model, generation);
    outrider_status status = read_gguf(file, model, generation);
    free(file);
    return status;
}

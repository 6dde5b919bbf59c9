/* config.json out of GGUF metadata; see gguf_config.h.
 *
 * One reader (config.c) then judges the numbers of both kinds of files, and a family needs nothing here but
 * its name. What a GGUF leaves out is put in: tied embeddings from the missing head, Llama 3's RoPE scaling
 * from the factors it comes to, the scale of Gemma's attention from the model's size, tokens that end a text
 * from their names. */
#include "weights/gguf_config.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/status.h"

static const struct {
    const char *architecture, *model_type;
} families[] = {
    {"llama", "llama"},   {"llama", "mistral"},      {"qwen2", "qwen2"}, {"qwen3", "qwen3"},
    {"gemma2", "gemma2"}, {"gemma3", "gemma3_text"}, {"phi3", "phi3"},
};
enum { FAMILIES = sizeof families / sizeof *families };

const char *gguf_model_type(struct gguf_string architecture) {
    for (size_t i = 0; i < FAMILIES; i++)
        if (strlen(families[i].architecture) == architecture.bytes &&
            memcmp(families[i].architecture, architecture.at, architecture.bytes) == 0)
            return families[i].model_type;
    return NULL;
}

const char *gguf_architecture(const char *model_type) {
    for (size_t i = 0; i < FAMILIES; i++)
        if (strcmp(families[i].model_type, model_type) == 0) return families[i].architecture;
    return NULL;
}

/* ---- single entries ---- */

struct translation {
    const struct gguf *g;
    const char *architecture;
    json_t *config, *generation;
};

struct key {
    char text[96];
};

/* "llama.context_length" */
static struct key key_of(const struct translation *t, const char *name) {
    struct key key;
    snprintf(key.text, sizeof key.text, "%s.%s", t->architecture, name);
    return key;
}

static outrider_status put(json_t *object, const char *name, json_t *value) {
    if (value && json_object_set_new(object, name, value) == 0) return OUTRIDER_OK;
    return fail_memory(name, sizeof(json_t *));
}

static outrider_status append(json_t *list, json_t *value) {
    if (value && json_array_append_new(list, value) == 0) return OUTRIDER_OK;
    return fail_memory("a configuration", sizeof(json_t *));
}

outrider_status gguf_json_text(const struct gguf *g, struct gguf_string s, const char *what, json_t **out) {
    errno = 0; /* which tells apart the two reasons there are */
    *out = json_stringn(s.at, s.bytes);
    if (*out) return OUTRIDER_OK;
    if (errno == ENOMEM) return fail_memory(what, s.bytes);
    return fail(OUTRIDER_EMODEL, "%s: %s is not UTF-8", gguf_path(g), what);
}

static outrider_status copy_int(const struct translation *t, const char *key, json_t *object,
                                const char *name) {
    int64_t value = -1;
    TRY(gguf_int(t->g, key, 0, INT32_MAX, &value));
    return value < 0 ? OUTRIDER_OK : put(object, name, json_integer(value));
}

static outrider_status copy_float(const struct translation *t, const char *key, json_t *object,
                                  const char *name) {
    float value = NAN;
    TRY(gguf_float(t->g, key, -FLT_MAX, FLT_MAX, &value));
    return isnan(value) ? OUTRIDER_OK : put(object, name, json_real((double)value));
}

static int64_t put_int(const struct translation *t, const char *name) {
    return json_integer_value(json_object_get(t->config, name));
}

/* ---- sizes ---- */

static outrider_status translate_sizes(const struct translation *t) {
    static const struct {
        const char *key, *name;
        bool required;
    } sizes[] = {
        {"embedding_length", "hidden_size", true},
        {"feed_forward_length", "intermediate_size", true},
        {"block_count", "num_hidden_layers", true},
        {"attention.head_count", "num_attention_heads", true},
        {"context_length", "max_position_embeddings", true},
        {"attention.head_count_kv", "num_key_value_heads", false},
        {"attention.key_length", "head_dim", false},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct key key = key_of(t, sizes[i].key);
        TRY(copy_int(t, key.text, t->config, sizes[i].name));
        if (sizes[i].required && !json_object_get(t->config, sizes[i].name))
            return fail(OUTRIDER_EMODEL, "%s: metadata \"%s\" is missing", gguf_path(t->g), key.text);
    }
    const struct tensor *embedding = gguf_tensor(t->g, "token_embd.weight");
    if (!embedding) return fail(OUTRIDER_EMODEL, "%s: tensor token_embd.weight is missing", gguf_path(t->g));
    TRY(put(t->config, "vocab_size", json_integer(embedding->shape[0])));
    TRY(put(t->config, "tie_word_embeddings", json_boolean(!gguf_tensor(t->g, "output.weight"))));
    return copy_float(t, key_of(t, "attention.layer_norm_rms_epsilon").text, t->config, "rms_norm_eps");
}

static int64_t head_dim(const struct translation *t) {
    int64_t heads = put_int(t, "num_attention_heads"), own = put_int(t, "head_dim");
    return own ? own : heads ? put_int(t, "hidden_size") / heads : 0;
}

/* Heads whose values are of another length, or that rotate in part, are none of ours. */
static outrider_status check_head_dims(const struct translation *t) {
    static const char *const keys[] = {"attention.value_length", "rope.dimension_count"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct key key = key_of(t, keys[i]);
        int64_t dim = head_dim(t);
        TRY(gguf_int(t->g, key.text, 0, INT32_MAX, &dim));
        if (dim != head_dim(t))
            return fail(OUTRIDER_EMODEL, "%s: metadata \"%s\" is %lld, only the head's %lld is supported",
                        gguf_path(t->g), key.text, (long long)dim, (long long)head_dim(t));
    }
    return OUTRIDER_OK;
}

/* ---- attention ---- */

/* Newer files list for each layer whether it is local. */
static outrider_status translate_pattern(const struct translation *t) {
    struct key key = key_of(t, "attention.sliding_window_pattern");
    const struct gguf_value *v = gguf_find(t->g, key.text);
    if (!v || !v->is_array) return copy_int(t, key.text, t->config, "sliding_window_pattern");
    struct gguf_value local;
    TRY(gguf_array(t->g, key.text, GGUF_BOOLS, &local));
    if (local.n > 4096)
        return fail(OUTRIDER_EMODEL, "%s: metadata \"%s\" is too long", gguf_path(t->g), key.text);
    json_t *types = json_array();
    TRY(put(t->config, "layer_types", types));
    for (size_t i = 0; i < local.n; i++)
        TRY(append(types, json_string(gguf_int_at(&local, i) ? "sliding_attention" : "full_attention")));
    return OUTRIDER_OK;
}

static outrider_status translate_attention(const struct translation *t) {
    int64_t window = 0, layers = put_int(t, "num_hidden_layers"), heads = put_int(t, "num_attention_heads");
    TRY(gguf_int(t->g, key_of(t, "attention.sliding_window").text, 0, INT32_MAX, &window));
    if (window > 0) TRY(put(t->config, "sliding_window", json_integer(window)));
    TRY(translate_pattern(t));
    TRY(copy_float(t, key_of(t, "attn_logit_softcapping").text, t->config, "attn_logit_softcapping"));
    TRY(copy_float(t, key_of(t, "final_logit_softcapping").text, t->config, "final_logit_softcapping"));
    if (strcmp(t->architecture, "llama") == 0) {
        if (window > 0) TRY(put(t->config, "model_type", json_string("mistral")));
        if (gguf_tensor(t->g, "blk.0.attn_q.bias")) TRY(put(t->config, "attention_bias", json_true()));
        return OUTRIDER_OK;
    }
    if (strncmp(t->architecture, "gemma", 5) != 0) return OUTRIDER_OK;
    /* Files do not say it: the head's length, but for the 27B models (46 layers in Gemma 2, 62 in 3). */
    bool largest = layers == (strcmp(t->architecture, "gemma2") == 0 ? 46 : 62);
    int64_t scalar = largest && heads ? put_int(t, "hidden_size") / heads : head_dim(t);
    return put(t->config, "query_pre_attn_scalar", json_integer(scalar));
}

/* ---- RoPE ---- */

static outrider_status put_factors(const struct translation *t, const char *tensor, json_t *object,
                                   const char *name) {
    const struct tensor *factors = gguf_tensor(t->g, tensor);
    if (!factors) return OUTRIDER_OK;
    if (factors->dtype != DTYPE_F32 || factors->n_dims != 1 || factors->shape[0] != head_dim(t) / 2)
        return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\" is not half the head's length in F32", factors->file,
                    tensor);
    json_t *list = json_array();
    TRY(put(object, name, list));
    for (int64_t i = 0; i < factors->shape[0]; i++) {
        float f;
        memcpy(&f, (const char *)factors->data + 4 * i, sizeof f);
        if (!isfinite(f))
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%s\" holds what is no number", factors->file, tensor);
        TRY(append(list, json_real((double)f)));
    }
    return OUTRIDER_OK;
}

/* The factor of Llama 3's rule for a frequency of rope_theta, with the published numbers for all but `most`.
 */
static double llama3_factor(double theta, double share, double most) {
    enum { ORIGINAL = 8192, LOW = 1, HIGH = 4 };
    double turns = ORIGINAL / (2 * acos(-1) * pow(theta, share)), kept = (turns - LOW) / (HIGH - LOW);
    return 1 / ((1 - fmax(0, fmin(1, kept))) / most + fmax(0, fmin(1, kept)));
}

/* Llama 3's scaling stands in files as the factor of each frequency. Only the numbers that Llama 3.1 to 3.3
 * share give these factors; others are refused. */
static outrider_status recover_llama3(const struct translation *t) {
    json_t *object = json_object(), *list;
    TRY(put(t->config, "rope_scaling", object));
    TRY(put_factors(t, "rope_freqs.weight", object, "factors"));
    list = json_object_get(object, "factors");
    size_t n = json_array_size(list);
    double theta = json_number_value(json_object_get(t->config, "rope_theta")), most = 1;
    for (size_t i = 0; i < n; i++) most = fmax(most, json_number_value(json_array_get(list, i)));
    bool known = n > 0;
    for (size_t i = 0; i < n; i++) {
        double factor = json_number_value(json_array_get(list, i));
        known &= fabs(factor / llama3_factor(theta, (double)i / (double)n, most) - 1) < 1e-3;
    }
    if (!known)
        return fail(OUTRIDER_EMODEL, "%s: tensor \"rope_freqs.weight\" is no RoPE scaling of Llama 3",
                    gguf_path(t->g));
    json_object_clear(object);
    TRY(put(object, "rope_type", json_string("llama3")));
    TRY(put(object, "factor", json_real(most)));
    TRY(put(object, "low_freq_factor", json_integer(1)));
    TRY(put(object, "high_freq_factor", json_integer(4)));
    return put(object, "original_max_position_embeddings", json_integer(8192));
}

static outrider_status translate_scaling(const struct translation *t) {
    struct gguf_string type = {"none", 4};
    TRY(gguf_text(t->g, key_of(t, "rope.scaling.type").text, &type));
    const bool factors = gguf_tensor(t->g, "rope_factors_long.weight");
    if (factors) type = (struct gguf_string){"longrope", 8}; /* older files leave it out */
    if (type.bytes == 4 && memcmp(type.at, "none", 4) == 0) return OUTRIDER_OK;
    json_t *object = json_object();
    TRY(put(t->config, "rope_scaling", object));
    json_t *name;
    TRY(gguf_json_text(t->g, type, "metadata \"rope.scaling.type\"", &name));
    TRY(put(object, "rope_type", name));
    if (!factors) TRY(copy_float(t, key_of(t, "rope.scaling.factor").text, object, "factor"));
    TRY(copy_float(t, key_of(t, "rope.scaling.attn_factor").text, object, "attention_factor"));
    TRY(copy_float(t, key_of(t, "rope.scaling.yarn_beta_fast").text, object, "beta_fast"));
    TRY(copy_float(t, key_of(t, "rope.scaling.yarn_beta_slow").text, object, "beta_slow"));
    TRY(put_factors(t, "rope_factors_short.weight", object, "short_factor"));
    TRY(put_factors(t, "rope_factors_long.weight", object, "long_factor"));
    return copy_int(t, key_of(t, "rope.scaling.original_context_length").text, object,
                    "original_max_position_embeddings");
}

static outrider_status translate_rope(const struct translation *t) {
    float theta = strcmp(t->architecture, "gemma3") == 0 ? 1e6f : 1e4f;
    TRY(gguf_float(t->g, key_of(t, "rope.freq_base").text, 1, FLT_MAX, &theta));
    TRY(put(t->config, "rope_theta", json_real((double)theta)));
    TRY(copy_float(t, key_of(t, "rope.freq_base_swa").text, t->config, "rope_local_base_freq"));
    return gguf_tensor(t->g, "rope_freqs.weight") ? recover_llama3(t) : translate_scaling(t);
}

/* ---- tokens ---- */

/* Tokens that end an answer in the templates of these families, whatever else a file names. */
static bool ends_a_text(struct gguf_string s) {
    static const char *const names[] = {"<|eot_id|>",    "<|eom_id|>", "<|end_of_text|>", "<|im_end|>",
                                        "<|endoftext|>", "<|end|>",    "<end_of_turn>",   "</s>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == s.bytes && memcmp(names[i], s.at, s.bytes) == 0) return true;
    return false;
}

static outrider_status add_ends(const struct translation *t, json_t *ends) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    enum { CONTROL = 3, USER_DEFINED = 4, MOST = 8 };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t id = -1;
        TRY(gguf_int(t->g, keys[i], 0, INT32_MAX, &id));
        if (id >= 0) TRY(append(ends, json_integer(id)));
    }
    struct gguf_value tokens, kinds;
    TRY(gguf_array(t->g, "tokenizer.ggml.tokens", GGUF_STRINGS, &tokens));
    TRY(gguf_array(t->g, "tokenizer.ggml.token_type", GGUF_INTS, &kinds));
    for (size_t i = 0; i < tokens.n && i < kinds.n && json_array_size(ends) < MOST; i++) {
        struct gguf_string text = gguf_next_string(&tokens);
        int64_t kind = gguf_int_at(&kinds, i);
        if ((kind == CONTROL || kind == USER_DEFINED) && ends_a_text(text))
            TRY(append(ends, json_integer((json_int_t)i)));
    }
    return OUTRIDER_OK;
}

static outrider_status translate_tokens(const struct translation *t) {
    static const struct {
        const char *key, *name;
    } knobs[] = {{"general.sampling.temp", "temperature"},
                 {"general.sampling.top_p", "top_p"},
                 {"general.sampling.min_p", "min_p"},
                 {"general.sampling.penalty_repeat", "repetition_penalty"}};
    TRY(copy_int(t, "tokenizer.ggml.bos_token_id", t->config, "bos_token_id"));
    TRY(copy_int(t, "tokenizer.ggml.eos_token_id", t->config, "eos_token_id"));
    json_t *ends = json_array();
    TRY(put(t->generation, "eos_token_id", ends));
    TRY(add_ends(t, ends));
    if (json_array_size(ends) == 0) json_object_del(t->generation, "eos_token_id");
    for (size_t i = 0; i < sizeof knobs / sizeof *knobs; i++)
        TRY(copy_float(t, knobs[i].key, t->generation, knobs[i].name));
    return copy_int(t, "general.sampling.top_k", t->generation, "top_k");
}

/* ---- all ---- */

static outrider_status find_architecture(const struct gguf *g, char out[32], const char **model_type) {
    struct gguf_string name = {NULL, 0};
    TRY(gguf_text(g, "general.architecture", &name));
    if (!name.at)
        return fail(OUTRIDER_EMODEL, "%s: metadata \"general.architecture\" is missing", gguf_path(g));
    *model_type = gguf_model_type(name);
    if (!*model_type)
        return fail(
            OUTRIDER_EMODEL,
            "%s: metadata \"general.architecture\" \"%.*s\" is not supported (llama, qwen2, qwen3, gemma2, "
            "gemma3, phi3)",
            gguf_path(g), (int)(name.bytes < 40 ? name.bytes : 40), name.at);
    snprintf(out, 32, "%.*s", (int)name.bytes, name.at);
    return OUTRIDER_OK;
}

static outrider_status translate(const struct translation *t, const char *model_type) {
    TRY(put(t->config, "model_type", json_string(model_type)));
    TRY(translate_sizes(t));
    TRY(check_head_dims(t));
    TRY(translate_attention(t));
    TRY(translate_rope(t));
    return translate_tokens(t);
}

outrider_status gguf_config(const struct gguf *g, json_t **config, json_t **generation) {
    char architecture[32];
    const char *model_type;
    *config = *generation = NULL;
    TRY(find_architecture(g, architecture, &model_type));
    struct translation t = {g, architecture, json_object(), json_object()};
    outrider_status status = t.config && t.generation ? translate(&t, model_type)
                                                      : fail_memory("a configuration", sizeof(json_t *));
    if (status == OUTRIDER_OK) {
        *config = t.config;
        *generation = t.generation;
        return OUTRIDER_OK;
    }
    json_decref(t.config);
    json_decref(t.generation);
    return status;
}

/* config.json and generation_config.json, good and bad: each bad field must be refused with a line that names
 * file and field, and damage without a plan must be refused or read, cleanly. */
#include "tests/helpers_weights.h"

#include <math.h>

#include "weights/document.h"
#include "weights/weights.h"

static struct folder folder;

static int clear(void **state) {
    (void)state;
    folder_clear(&folder);
    return 0;
}

static const char *const base_config[][2] = {
    {"model_type", "\"llama\""},      {"vocab_size", "100"},      {"hidden_size", "64"},
    {"intermediate_size", "200"},     {"num_hidden_layers", "2"}, {"num_attention_heads", "4"},
    {"num_key_value_heads", "2"},     {"head_dim", "16"},         {"max_position_embeddings", "512"},
    {"rope_theta", "10000.0"},        {"rms_norm_eps", "1e-05"},  {"hidden_act", "\"silu\""},
    {"tie_word_embeddings", "false"}, {"bos_token_id", "1"},      {"eos_token_id", "2"},
    {"torch_dtype", "\"float99\""},
};

/* The base config with one field replaced, added (when it is not in it) or left out (value NULL). */
static void write_config(const char *key, const char *value) {
    char text[4096] = "{";
    size_t n = 1;
    bool known = false;
    for (size_t i = 0; i < sizeof base_config / sizeof *base_config; i++) {
        bool this = key && !strcmp(key, base_config[i][0]);
        known |= this;
        const char *v = this ? value : base_config[i][1];
        if (v) n += (size_t)snprintf(text + n, sizeof text - n, "\"%s\": %s,\n", base_config[i][0], v);
    }
    if (key && !known && value) n += (size_t)snprintf(text + n, sizeof text - n, "\"%s\": %s,\n", key, value);
    text[n - 2] = '}';
    folder_write(&folder, "config.json", text, n);
}

static outrider_status read_config(struct model_config *m, struct generation_config *g) {
    return config_read(folder.path, m, g);
}

#define LLAMA3(low, high)                                                                                    \
    "{\"rope_type\":\"llama3\",\"factor\":8,\"original_max_position_embeddings\":64,\"low_freq_"             \
    "factor\":" low ",\"high_freq_factor\":" high "}"
#define LONG(factors)                                                                                        \
    "{\"type\":\"longrope\",\"original_max_position_embeddings\":64,\"short_factor\":" factors "}"

static const struct bad_config {
    const char *key, *value, *says; /* says NULL: the key */
} bad_configs[] = {
    {"model_type", NULL, NULL},
    {"model_type", "\"gemma\"", NULL},
    {"model_type", "7", NULL},
    {"vocab_size", NULL, NULL},
    {"vocab_size", "0", NULL},
    {"vocab_size", "-1", NULL},
    {"vocab_size", "2147483648", NULL},
    {"vocab_size", "16777217", NULL},
    {"vocab_size", "9223372036854775807", NULL},
    {"vocab_size", "9223372036854775808", "9223372036854775808"},
    {"vocab_size", "100.0", NULL},
    {"vocab_size", "\"100\"", NULL},
    {"vocab_size", "NaN", "NaN"},
    {"vocab_size", "null", NULL},
    {"vocab_size", "[100]", NULL},
    {"vocab_size", "true", NULL},
    {"hidden_size", "0", NULL},
    {"hidden_size", NULL, NULL},
    {"intermediate_size", "-200", NULL},
    {"intermediate_size", NULL, NULL},
    {"num_hidden_layers", "1025", NULL},
    {"num_hidden_layers", "0", NULL},
    {"num_attention_heads", "0", NULL},
    {"num_attention_heads", "3", "num_key_value_heads"},
    {"num_key_value_heads", "3", NULL},
    {"num_key_value_heads", "8", NULL},
    {"num_key_value_heads", "0", NULL},
    {"head_dim", "15", NULL},
    {"head_dim", "0", NULL},
    {"head_dim", "514", NULL},
    {"head_dim", "16777216", NULL},
    {"num_attention_heads", "2097152", "head_dim exceeds"},
    {"max_position_embeddings", "0", NULL},
    {"max_position_embeddings", "1e3", NULL},
    {"rope_theta", "0", NULL},
    {"rope_theta", "-10000", NULL},
    {"rope_theta", "1e39", NULL},
    {"rope_theta", "1e999", "1e999"},
    {"rope_theta", "Infinity", "Infinity"},
    {"rope_theta", "\"10000\"", NULL},
    {"rope_parameters", "{\"rope_type\":\"dynamic\",\"factor\":2}", NULL},
    {"rope_parameters", "{\"rope_type\":\"linear\"}", "factor"},
    {"rope_parameters", "{\"rope_type\":\"linear\",\"factor\":0.5}", "factor"},
    {"rope_parameters", "{\"full_attention\":{\"rope_type\":\"linear\"}}", "factor"},
    {"rope_parameters", "{\"full_attention\":3}", "rope_parameters"},
    {"rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}", "partial_rotary_factor"},
    {"rope_parameters", "{\"rope_theta\":-1}", "rope_theta"},
    {"rope_parameters", "[]", NULL},
    {"rope_scaling", "{\"type\":\"dynamic\",\"factor\":2.0}", NULL},
    {"rope_scaling", "{\"type\":\"linear\",\"factor\":\"2\"}", "factor"},
    {"rope_scaling", "{\"type\":\"llama3\",\"factor\":8}", "original_max_position_embeddings"},
    {"rope_scaling", LLAMA3("1", "1"), "low_freq_factor"},
    {"rope_scaling", LLAMA3("0", "4"), "low_freq_factor"},
    {"rope_scaling", LLAMA3("1", "-4"), "high_freq_factor"},
    {"rope_scaling", "{\"type\":\"yarn\"}", "factor"},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":0}", "beta_fast"},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"rope_theta\":1}", "rope_theta"},
    {"rope_scaling", LONG("[1,1,1,1,1,1,1]"), "short_factor"},
    {"rope_scaling", LONG("[1,1,1,1,1,1,1,0]"), "short_factor"},
    {"rope_scaling", LONG("[1,1,1,1,1,1,1,\"1\"]"), "short_factor"},
    {"rope_scaling", LONG("[1,1,1,1,1,1,1,1]"), "long_factor"},
    {"rope_scaling", "7", NULL},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"beta_slow\":0}", "beta_slow"},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"truncate\":1}", "truncate"},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"mscale\":-1}", "mscale"},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"mscale_all_dim\":2000}", "mscale_all_dim"},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":0}", "attention_factor"},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":1}",
     "original_max_position_embeddings"},
    {"rope_scaling", "{\"type\":3}", "type"},
    {"rope_scaling", "{\"rope_type\":[]}", "rope_type"},
    {"rope_scaling", "{\"type\":\"linear\",\"factor\":2,\"partial_rotary_factor\":\"1\"}",
     "partial_rotary_factor"},
    {"rope_scaling", "{\"type\":\"longrope\",\"original_max_position_embeddings\":64,\"long_mscale\":1.2}",
     "long_mscale"},
    {"partial_rotary_factor", "\"0.5\"", NULL},
    {"original_max_position_embeddings", "0", NULL},
    {"hidden_activation", "3", NULL},
    {"partial_rotary_factor", "0.5", NULL},
    {"rms_norm_eps", "0", NULL},
    {"rms_norm_eps", "-1e-5", NULL},
    {"rms_norm_eps", "1e-60", NULL},
    {"rms_norm_eps", "2", NULL},
    {"hidden_act", "\"gelu\"", NULL},
    {"hidden_act", "1", NULL},
    {"hidden_activation", "\"relu\"", "hidden_act"},
    {"architectures", "[\"LlamaForSequenceClassification\"]", NULL},
    {"attention_bias", "\"no\"", NULL},
    {"attn_logit_softcapping", "0", NULL},
    {"final_logit_softcapping", "\"30\"", NULL},
    {"mlp_bias", "1", NULL},
    {"sliding_window", "4096", NULL},
    {"quantization_config", "{\"bits\":4}", NULL},
    {"tie_word_embeddings", "1", NULL},
    {"tie_word_embeddings", "\"false\"", NULL},
    {"bos_token_id", "100", NULL},
    {"bos_token_id", "-1", NULL},
    {"bos_token_id", "[1]", NULL},
    {"eos_token_id", "100", NULL},
    {"eos_token_id", "-2", NULL},
    {"eos_token_id", "4294967298", NULL},
    {"eos_token_id", "[2, 100]", NULL},
    {"eos_token_id", "[2, null]", NULL},
    {"eos_token_id", "[[2]]", NULL},
    {"eos_token_id", "\"</s>\"", NULL},
    {"eos_token_id", "[1,2,3,4,5,6,7,8,9]", NULL},
};

static void bad_config(void **state) {
    const struct bad_config *bad = *state;
    write_config(bad->key, bad->value);
    struct model_config m;
    struct generation_config g;
    assert_refused(read_config(&m, &g), "config.json", bad->says ? bad->says : bad->key);
}

static const struct bad_config bad_generations[] = {
    {"temperature", "-0.1", NULL},
    {"temperature", "1e40", NULL},
    {"temperature", "\"hot\"", NULL},
    {"temperature", "NaN", "NaN"},
    {"top_p", "1.5", NULL},
    {"top_p", "-0.5", NULL},
    {"top_p", "0", NULL},
    {"min_p", "2", NULL},
    {"min_p", "[]", NULL},
    {"top_k", "-1", NULL},
    {"top_k", "2147483648", NULL},
    {"top_k", "40.5", NULL},
    {"repetition_penalty", "0", NULL},
    {"repetition_penalty", "-1", NULL},
    {"do_sample", "1", NULL},
    {"do_sample", "\"yes\"", NULL},
    {"eos_token_id", "100", NULL},
    {"eos_token_id", "{}", NULL},
};

static void bad_generation(void **state) {
    const struct bad_config *bad = *state;
    write_config(NULL, NULL);
    char text[256];
    snprintf(text, sizeof text, "{\"%s\": %s}", bad->key, bad->value);
    folder_write_text(&folder, "generation_config.json", text);
    struct model_config m;
    struct generation_config g;
    assert_refused(read_config(&m, &g), "generation_config.json", bad->says ? bad->says : bad->key);
}

static const struct bad_text {
    const char *name, *text, *says;
} bad_texts[] = {
    {"blank", " ", "JSON line"},
    {"cut", "{\"vocab_size\": 1", "JSON line"},
    {"an array", "[{}]", "not an object"},
    {"empty object", "{}", "model_type"},
    {"a key twice", "{\"vocab_size\": 1, \"vocab_size\": 2}", "vocab_size"},
    {"a tail", "{} x", "JSON line"},
    {"not UTF-8", "{\"a\": \"\xc3\x28\"}", "JSON line"},
    {"a comment", "{\n// no\n}", "JSON line 2"},
};

static void bad_text(void **state) {
    const struct bad_text *bad = *state;
    folder_write_text(&folder, "config.json", bad->text);
    struct model_config m;
    struct generation_config g;
    assert_refused(read_config(&m, &g), "config.json", bad->says);
}

static void config_defaults(void **state) {
    (void)state;
    folder_write_text(
        &folder, "config.json",
        "{\"model_type\":\"mistral\",\"vocab_size\":32000,\"hidden_size\":96,\"intermediate_size\":256,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":6,\"num_key_value_heads\":null,"
        "\"max_position_embeddings\":4096,\"sliding_window\":null,\"rope_scaling\":null}");
    struct model_config m;
    struct generation_config g;
    assert_int_equal(read_config(&m, &g), OUTRIDER_OK);
    assert_string_equal(m.model_type, "mistral");
    assert_int_equal(m.head_dim, 16);
    assert_int_equal(m.num_key_value_heads, 6);
    assert_true(m.rope.theta == 10000 && m.rms_norm_eps == 1e-6f && !m.tie_word_embeddings);
    assert_int_equal(m.bos_token_id, -1);
    assert_int_equal(m.n_eos, 0);
    assert_true(isnan(g.temperature) && isnan(g.top_p) && isnan(g.min_p) && isnan(g.repetition_penalty));
    assert_true(g.top_k == -1 && g.do_sample == -1);
}

static void head_dim_without_divisor(void **state) {
    (void)state;
    folder_write_text(
        &folder, "config.json",
        "{\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":10,\"intermediate_size\":9,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":3,\"max_position_embeddings\":64}");
    struct model_config m;
    struct generation_config g;
    assert_refused(read_config(&m, &g), "config.json",
                   "num_attention_heads 3 does not divide hidden_size 10");
}

static void head_dim_derived_too_wide(void **state) {
    (void)state;
    folder_write_text(
        &folder, "config.json",
        "{\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":4096,\"intermediate_size\":9,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"max_position_embeddings\":64}");
    struct model_config m;
    struct generation_config g;
    assert_refused(read_config(&m, &g), "config.json", "head_dim 1024 exceeds 512");
}

static void newer_rope_field(void **state) {
    (void)state;
    write_config("rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":500000.0}");
    struct model_config m;
    struct generation_config g;
    assert_int_equal(read_config(&m, &g), OUTRIDER_OK);
    assert_true(m.rope.theta == 500000);
}

/* A config of some family with the fields that only it has. */
static void write_family(const char *type, const char *fields) {
    char text[2048];
    snprintf(text, sizeof text,
             "{\"model_type\":\"%s\",\"vocab_size\":100,\"hidden_size\":64,\"intermediate_size\":200,"
             "\"num_hidden_layers\":6,\"num_attention_heads\":4,\"head_dim\":16,"
             "\"max_position_embeddings\":512%s}",
             type, fields);
    folder_write_text(&folder, "config.json", text);
}

static struct model_config family_config(const char *type, const char *fields) {
    struct model_config m;
    struct generation_config g;
    write_family(type, fields);
    if (read_config(&m, &g) != OUTRIDER_OK) fail_msg("%s: %s", type, outrider_error());
    return m;
}

/* Which layers are local, as digits. */
static void assert_local(const struct model_config *m, const char *want) {
    for (int32_t i = 0; i < m->num_hidden_layers; i++) assert_int_equal(m->local[i], want[i] == '1');
}

static void families_windows(void **state) {
    (void)state;
    struct model_config m = family_config("mistral", ",\"sliding_window\":32");
    assert_int_equal(m.sliding_window, 32);
    assert_local(&m, "111111");
    m = family_config("qwen2", ",\"sliding_window\":32,\"max_window_layers\":2");
    assert_int_equal(m.sliding_window, 0);
    m = family_config("qwen2", ",\"sliding_window\":32,\"use_sliding_window\":true,\"max_window_layers\":2");
    assert_int_equal(m.sliding_window, 32);
    assert_local(&m, "001111");
    m = family_config("gemma2", "");
    assert_int_equal(m.sliding_window, 4096);
    assert_local(&m, "101010");
    m = family_config("gemma3_text", ",\"sliding_window\":512,\"sliding_window_pattern\":3");
    assert_local(&m, "110110");
    m = family_config("gemma3_text", ",\"layer_types\":[\"full_attention\",\"sliding_attention\","
                                     "\"full_attention\",\"full_attention\",\"full_attention\","
                                     "\"full_attention\"]");
    assert_local(&m, "010000");
}

static void families_numbers(void **state) {
    (void)state;
    struct model_config m = family_config("gemma2", ",\"query_pre_attn_scalar\":144");
    assert_true(m.attention_scale == 1.f / 12 && m.embedding_scale == 8 && m.tie_word_embeddings);
    assert_true(m.attn_logit_softcapping == 50 && m.final_logit_softcapping == 30);
    m = family_config("gemma2", ",\"attn_logit_softcapping\":null,\"final_logit_softcapping\":20.5");
    assert_true(m.attn_logit_softcapping == 0 && m.final_logit_softcapping == 20.5f);
    m = family_config("gemma3_text", ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}");
    assert_true(m.rope.theta == 1e6f && m.rope.type == ROPE_LINEAR && m.rope.factor == 8);
    assert_true(m.rope_local.theta == 1e4f && m.rope_local.type == ROPE_DEFAULT);
    m = family_config("gemma3_text",
                      ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4.0,"
                      "\"rope_theta\":2e6},\"sliding_attention\":{\"rope_theta\":2e4}}");
    assert_true(m.rope.theta == 2e6f && m.rope.factor == 4 && m.rope_local.theta == 2e4f);
    m = family_config("llama", ",\"attention_bias\":true,\"mlp_bias\":true");
    assert_true(m.family.qkv_bias && m.family.output_bias && m.family.mlp_bias);
    m = family_config("qwen2", "");
    assert_true(m.family.qkv_bias && !m.family.output_bias && m.attention_scale == 0.25f);
    m = family_config("qwen3", ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                               "\"original_max_position_embeddings\":128}");
    assert_true(m.rope.type == ROPE_YARN && m.rope.original_max_position_embeddings == 128);
    assert_true(fabs(m.rope.attention_factor - 1.138629) < 1e-5);
}

/* Fields that some families alone have. */
static void bad_families(void **state) {
    (void)state;
    static const struct {
        const char *type, *fields, *says;
    } rows[] = {
        {"llama", ",\"sliding_window\":64", "sliding_window is not supported in a llama"},
        {"mistral", ",\"sliding_window\":0", "sliding_window"},
        {"mistral", ",\"sliding_window\":64,\"layer_types\":[]", "layer_types is not a list of 6 layers"},
        {"mistral", ",\"sliding_window\":64,\"layer_types\":6", "layer_types is not a list of 6 layers"},
        {"qwen2", ",\"use_sliding_window\":1", "use_sliding_window"},
        {"qwen2", ",\"sliding_window\":8,\"use_sliding_window\":true,\"max_window_layers\":-1",
         "max_window_layers"},
        {"gemma2", ",\"query_pre_attn_scalar\":0", "query_pre_attn_scalar"},
        {"gemma2", ",\"hidden_activation\":[]", "hidden_activation"},
        {"gemma3_text", ",\"sliding_window_pattern\":0", "sliding_window_pattern"},
        {"gemma3_text", ",\"rope_local_base_freq\":0", "rope_local_base_freq"},
        {"gemma3_text", ",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":[]}",
         "rope_parameters"},
        {"gemma2",
         ",\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\","
         "\"full_attention\",\"chunked_attention\",\"full_attention\"]",
         "layer_types[4] \"chunked_attention\" is not supported"},
        {"gemma2",
         ",\"layer_types\":[\"full_attention\",null,\"full_attention\",\"full_attention\","
         "\"full_attention\",\"full_attention\"]",
         "layer_types[1]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_config m;
        struct generation_config g;
        write_family(rows[i].type, rows[i].fields);
        assert_refused(read_config(&m, &g), "config.json", rows[i].says);
    }
}

/* Scales of attention that scaled positions bring along, against the reference's formulas. */
static void families_scales(void **state) {
    (void)state;
    struct model_config m = family_config("qwen3", ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                                                   "\"mscale\":1.0,\"mscale_all_dim\":0.5}");
    assert_true(fabs(m.rope.attention_factor - (0.1 * log(4) + 1) / (0.05 * log(4) + 1)) < 1e-6);
    m = family_config("qwen3", ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":1.0,\"mscale\":0.7}");
    assert_true(m.rope.attention_factor == 1 && m.rope.factor == 1);
    m = family_config("qwen3", ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                               "\"attention_factor\":1.5,\"truncate\":false}");
    assert_true(m.rope.attention_factor == 1.5f && !m.rope.truncate);
    m = family_config("phi3", ",\"original_max_position_embeddings\":512,\"rope_scaling\":{\"type\":\"su\","
                              "\"short_factor\":[1,1,1,1,1,1,1,1],\"long_factor\":[2,2,2,2,2,2,2,2]}");
    assert_true(m.rope.type == ROPE_LONG && m.rope.attention_factor == 1 && m.rope.long_factor[7] == 2);
    m = family_config("qwen3", ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6},"
                               "\"sliding_attention\":{\"rope_theta\":2e4}}");
    assert_true(m.rope.theta == 1e6f && m.rope_local.theta == 2e4f);
    m = family_config("llama", ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6}}");
    assert_true(m.rope.theta == 1e6f && m.rope_local.theta == 1e6f);
}

static void eos_of_both_files(void **state) {
    (void)state;
    write_config("eos_token_id", "[2, 5, 2]");
    folder_write_text(&folder, "generation_config.json",
                      "{\"eos_token_id\":[5,7],\"top_k\":0,\"min_p\":0.05,\"repetition_penalty\":1.1,"
                      "\"do_sample\":false,\"temperature\":null,\"transformers_version\":\"x\"}");
    struct model_config m;
    struct generation_config g;
    assert_int_equal(read_config(&m, &g), OUTRIDER_OK);
    assert_int_equal(m.n_eos, 3);
    assert_true(m.eos_token_id[0] == 2 && m.eos_token_id[1] == 5 && m.eos_token_id[2] == 7);
    assert_true(g.top_k == 0 && g.do_sample == 0 && g.min_p == 0.05f && g.repetition_penalty == 1.1f);
    assert_true(isnan(g.temperature));
}

static void odd_files(void **state) {
    (void)state;
    struct model_config m;
    struct generation_config g;
    for (enum odd_kind kind = 0; kind < ODD_KINDS; kind++) {
        folder_clear(&folder);
        const char *says = make_odd(&folder, kind, "config.json");
        assert_refused(read_config(&m, &g), "config.json", says);
        folder_clear(&folder);
        write_config(NULL, NULL);
        says = make_odd(&folder, kind, "generation_config.json");
        assert_refused(read_config(&m, &g), "generation_config.json", says);
    }
}

static void nothing_there(void **state) {
    (void)state;
    struct model_config m;
    struct generation_config g;
    assert_refused(read_config(&m, &g), "config.json", "no such file; a model is a folder with");
    assert_refused(config_read("/nonexistent/folder", &m, &g), "/nonexistent/folder",
                   "a model is a folder with");
    assert_refused(config_read("", &m, &g), "No such file", "a model is a folder with");
    folder_write_text(&folder, "file", "x");
    assert_refused(config_read(folder_file(&folder, "file"), &m, &g), "file", "not a GGUF file");
}

static void flipped_config(void **state) {
    (void)state;
    write_config(NULL, NULL);
    struct document doc;
    assert_int_equal(document_open(folder.path, "config.json", NULL, &doc), OUTRIDER_OK);
    char *text = json_dumps(doc.root, 0);
    document_close(&doc);
    size_t bytes = strlen(text), loaded = 0;
    uint32_t seed = 2;
    struct model_config m;
    struct generation_config g;
    for (int i = 0; i < 2000; i++) {
        uint32_t bit = next_random(&seed) % (uint32_t)(bytes * 8);
        text[bit / 8] ^= (char)(1 << bit % 8);
        folder_write(&folder, "config.json", text, bytes);
        outrider_status status = read_config(&m, &g);
        loaded += status == OUTRIDER_OK;
        if (status != OUTRIDER_OK) assert_refused(status, "config.json", "");
        text[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(loaded > 50 && loaded < 1500);
    for (size_t n = 0; n < bytes; n++) {
        folder_write(&folder, "config.json", text, n);
        assert_refused(read_config(&m, &g), "config.json", "");
    }
    free(text);
}

int main(void) {
    static struct test_list tests;
    folder = folder_make();
    ADD_ROWS(&tests, bad_configs, bad_config, "config: %s = %s", bad_configs[i].key,
             bad_configs[i].value ? bad_configs[i].value : "(absent)");
    ADD_ROWS(&tests, bad_generations, bad_generation, "generation: %s = %s", bad_generations[i].key,
             bad_generations[i].value);
    ADD_ROWS(&tests, bad_texts, bad_text, "text: %s", bad_texts[i].name);
    ADD(&tests, config_defaults);
    ADD(&tests, head_dim_without_divisor);
    ADD(&tests, head_dim_derived_too_wide);
    ADD(&tests, newer_rope_field);
    ADD(&tests, families_windows);
    ADD(&tests, families_numbers);
    ADD(&tests, families_scales);
    ADD(&tests, bad_families);
    ADD(&tests, eos_of_both_files);
    ADD(&tests, odd_files);
    ADD(&tests, nothing_there);
    ADD(&tests, flipped_config);
    int failed = test_run(&tests, "config");
    folder_remove(&folder);
    return failed;
}

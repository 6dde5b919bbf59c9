/* The configuration that a GGUF file comes to, where it leaves to its reader what a config.json would say;
 * and the reader of its tokenizer for a folder. */
#include "tests/helpers_gguf.h"

#include "weights/gguf_config.h"

#define FILE_NAME "m.gguf"

static struct folder folder;

static int clear(void **state) {
    (void)state;
    folder_clear(&folder);
    return 0;
}

static void configure(struct gguf_image *g, const char *architecture, uint32_t layers, uint64_t more,
                      uint64_t tensors) {
    static const char *const sizes[] = {"embedding_length", "feed_forward_length", "attention.head_count",
                                        "context_length"};
    char key[64];
    gguf_head(g, tensors, 6 + more);
    gguf_kv_str(g, "general.architecture", architecture);
    snprintf(key, sizeof key, "%s.block_count", architecture);
    gguf_kv_u32(g, key, layers);
    for (size_t i = 0; i < 4; i++) {
        snprintf(key, sizeof key, "%s.%s", architecture, sizes[i]);
        gguf_kv_u32(g, key, 4);
    }
}

static json_t *configuration_of(const struct gguf_image *image, json_t **generation) {
    struct gguf *g;
    json_t *config;
    folder_write(&folder, FILE_NAME, image->data, image->n);
    assert_int_equal(gguf_open(folder_file(&folder, FILE_NAME), &g), 0);
    if (gguf_config(g, &config, generation)) fail_msg("%s", outrider_error());
    gguf_close(g);
    return config;
}

static json_int_t number_of(const json_t *config, const char *key) {
    return json_integer_value(json_object_get(config, key));
}

static void unsaid_fields(void **state) {
    (void)state;
    static struct gguf_image g;
    json_t *config, *generation;
    /* the largest models of these families scale by the mean head, the others by the head as it is */
    static const struct {
        const char *architecture;
        uint32_t layers;
        json_int_t scalar;
    } gemmas[] = {{"gemma2", 46, 1}, {"gemma2", 42, 2}, {"gemma3", 62, 1}, {"gemma3", 46, 2}};
    for (size_t i = 0; i < 4; i++) {
        char key[64];
        configure(&g, gemmas[i].architecture, gemmas[i].layers, 1, 1);
        snprintf(key, sizeof key, "%s.attention.key_length", gemmas[i].architecture);
        gguf_kv_u32(&g, key, 2);
        gguf_info(&g, "token_embd.weight", 4, 2, 0, 0);
        gguf_data(&g, 32, 32);
        config = configuration_of(&g, &generation);
        assert_int_equal(number_of(config, "query_pre_attn_scalar"), gemmas[i].scalar);
        assert_true(json_is_true(json_object_get(config, "tie_word_embeddings")));
        assert_null(json_object_get(generation, "eos_token_id"));
        json_decref(config);
        json_decref(generation);
    }
    /* a window makes a Llama a Mistral; biases are seen by their tensors, a head of its own too */
    configure(&g, "llama", 1, 1, 3);
    gguf_kv_u32(&g, "llama.attention.sliding_window", 8);
    gguf_info(&g, "token_embd.weight", 4, 2, 0, 0);
    gguf_info(&g, "output.weight", 4, 2, 0, 32);
    gguf_info(&g, "blk.0.attn_q.bias", 4, 0, 0, 64);
    gguf_data(&g, 32, 80);
    config = configuration_of(&g, &generation);
    assert_string_equal(json_string_value(json_object_get(config, "model_type")), "mistral");
    assert_true(json_is_true(json_object_get(config, "attention_bias")));
    assert_true(json_is_false(json_object_get(config, "tie_word_embeddings")));
    assert_int_equal(number_of(config, "sliding_window"), 8);
    json_decref(config);
    json_decref(generation);
}

/* Every token that ends a text counts, up to the eight that a model may have. */
static void ends_of_texts(void **state) {
    (void)state;
    static struct gguf_image g;
    json_t *generation;
    enum { TOKENS = 12 };
    configure(&g, "llama", 1, 3, 1);
    gguf_array_head(&g, "tokenizer.ggml.tokens", NULL, 8, NULL, TOKENS);
    for (int i = 0; i < TOKENS; i++) gguf_str(&g, NULL, NULL, i % 2 ? "<|eot_id|>" : "</s>");
    gguf_array_head(&g, "tokenizer.ggml.token_type", NULL, 5, NULL, TOKENS);
    for (uint32_t i = 0; i < TOKENS; i++) gguf_u32(&g, NULL, i == 0 ? 1 : 3 + i % 2);
    gguf_kv_u32(&g, "tokenizer.ggml.eos_token_id", 5);
    gguf_info(&g, "token_embd.weight", 4, TOKENS, 0, 0);
    gguf_data(&g, 32, 16 * TOKENS);
    json_decref(configuration_of(&g, &generation));
    const json_t *ends = json_object_get(generation, "eos_token_id");
    assert_int_equal(json_array_size(ends), 8);
    assert_int_equal(json_integer_value(json_array_get(ends, 0)), 5);
    assert_int_equal(json_integer_value(json_array_get(ends, 1)), 1); /* 0 is an ordinary token there */
    json_decref(generation);
}

/* The readers of a tokenizer for a folder and for use are two; each checks what it takes. */
static void tokenizers_of_files(void **state) {
    (void)state;
    static const struct {
        const char *key, *says;
    } rows[] = {{"tokenizer.ggml.model", "tokenizer.ggml.model"},
                {"tokenizer.ggml.tokens", "tokenizer.ggml.tokens"},
                {"tokenizer.ggml.token_type", "tokenizer.ggml.token_type"},
                {"tokenizer.ggml.scores", "tokenizer.ggml.scores"},
                {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.bos_token_id"},
                {"tokenizer.ggml.add_space_prefix", "tokenizer.ggml.add_space_prefix"},
                {"tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.remove_extra_whitespaces"},
                {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_bos_token"},
                {"tokenizer.chat_template", "tokenizer.chat_template"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static struct gguf_image g;
        struct gguf *file;
        struct tokenizer_files files;
        bool model = strcmp(rows[i].key, "tokenizer.ggml.model") == 0, good_arrays = i == 0 || i > 3;
        gguf_head(&g, 0, 1 + (uint64_t)!model + 2 * (uint64_t)good_arrays + (i == 3 ? 2 : 0));
        gguf_str(&g, NULL, NULL,
                 rows[i].key); /* 32 bits, which no one of them is but the id, and that one is none */
        gguf_u32(&g, NULL, i == 4 ? 5 : 4);
        gguf_u32(&g, NULL, UINT32_MAX);
        if (!model) gguf_kv_str(&g, "tokenizer.ggml.model", "llama");
        if (good_arrays || i == 3) {
            gguf_array_head(&g, "tokenizer.ggml.tokens", NULL, 8, NULL, 1);
            gguf_str(&g, NULL, NULL, "a");
            gguf_array_head(&g, "tokenizer.ggml.token_type", NULL, 5, NULL, 1);
            gguf_u32(&g, NULL, 1);
        }
        folder_write(&folder, FILE_NAME, g.data, g.n);
        assert_int_equal(gguf_open(folder_file(&folder, FILE_NAME), &file), 0);
        assert_refused(gguf_tokenizer(file, &files), FILE_NAME, rows[i].says);
        assert_true(!files.config && !files.model && !files.json);
        gguf_close(file);
    }
}

int main(void) {
    static struct test_list tests;
    folder = folder_make();
    ADD(&tests, unsaid_fields);
    ADD(&tests, ends_of_texts);
    ADD(&tests, tokenizers_of_files);
    int failed = test_run(&tests, "gguf_config");
    folder_remove(&folder);
    return failed;
}

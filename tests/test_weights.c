/* Model folders, good and bad. Every bad file is made by hand here, must be refused with OUTRIDER_EMODEL, and
 * the line must name the file and the field. Damage without a plan (every prefix, 10,000 flipped bits) may
 * load or fail, but cleanly; after a load every byte of every tensor is read, so that a sanitizer sees it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

#include "runtime/outrider.h"
#include "tests/helpers_weights.h"
#include "weights/document.h"
#include "weights/safetensors.h"
#include "weights/weights.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define T(dtype, shape, begin, end)                                                                          \
    "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #begin "," #end "]}"

static struct folder folder;

static int clear(void **state) {
    (void)state;
    json_set_alloc_funcs(malloc, free);
    folder_clear(&folder);
    return 0;
}

/* What every refusal owes: its code, and one line with the file's name and the field. */
static void assert_refused(outrider_status status, const char *file, const char *says) {
    if (status != OUTRIDER_EMODEL) fail_msg("status %d instead of EMODEL", status);
    const char *line = outrider_error();
    if (!strstr(line, file)) fail_msg("no \"%s\" in: %s", file, line);
    if (!strstr(line, says)) fail_msg("no \"%s\" in: %s", says, line);
    assert_null(strchr(line, '\n'));
}

static void assert_opens(struct weights **w) {
    if (weights_open(folder.path, w)) fail_msg("%s", outrider_error());
}

static unsigned touch(const struct tensor *t) {
    unsigned sum = 0;
    for (size_t i = 0; i < t->bytes; i++) sum += ((const unsigned char *)t->data)[i];
    return sum;
}

/* ---- good files ---- */

#define GOOD                                                                                                 \
    "{\"__metadata__\":{\"format\":\"pt\"},\"w\":" T("F32", "2,3", 0, 24) ",\"half\":" T(                    \
        "F16", "5", 24, 34) ",\"brain\":" T("BF16", "1,1,2,2", 34,                                           \
                                            42) ",\"empty\":" T("F32", "4,0", 24,                            \
                                                                24) ",\"scalar\":" T("BF16", "", 42,         \
                                                                                     44) "}       "
enum { GOOD_DATA = 44 };

static void single_file(void **state) {
    (void)state;
    folder_write_safetensors(&folder, SINGLE, GOOD, GOOD_DATA);
    struct weights *w;
    assert_opens(&w);
    assert_int_equal(weights_count(w), 5);
    assert_int_equal(weights_bytes(w), GOOD_DATA);
    static const char *const sorted[] = {"brain", "empty", "half", "scalar", "w"};
    for (size_t i = 0; i < 5; i++) assert_string_equal(weights_at(w, i)->name, sorted[i]);

    const struct tensor *t = weights_find(w, "w");
    assert_int_equal(t->dtype, DTYPE_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->shape[2], 1);
    assert_int_equal(touch(t), 23 * 24 / 2);
    assert_non_null(strstr(t->file, SINGLE));
    assert_int_equal(*(const unsigned char *)weights_find(w, "half")->data, 24);
    assert_int_equal(weights_find(w, "half")->dtype, DTYPE_F16);
    assert_int_equal(weights_find(w, "brain")->dtype, DTYPE_BF16);
    assert_int_equal(weights_find(w, "scalar")->n_dims, 0);
    assert_int_equal(weights_find(w, "scalar")->bytes, 2);
    assert_int_equal(weights_find(w, "empty")->bytes, 0);
    assert_null(weights_find(w, "absent"));
    weights_close(w);
}

static void no_tensors(void **state) {
    (void)state;
    folder_write_safetensors(&folder, SINGLE, "{}", 0);
    struct weights *w;
    assert_opens(&w);
    assert_int_equal(weights_count(w), 0);
    assert_null(weights_find(w, "x"));
    weights_close(w);
    weights_close(NULL);
}

#define SHARD_A "{\"x\":" T("F32", "1", 0, 4) ",\"y\":" T("F32", "1", 4, 8) "}"
#define SHARD_B "{\"z\":" T("BF16", "2", 0, 4) "} "
#define WEIGHT_MAP(map) "{\"metadata\":{\"total_size\":12},\"weight_map\":{" map "}}"
#define GOOD_MAP "\"x\":\"a.safetensors\",\"y\":\"a.safetensors\",\"z\":\"b.safetensors\""

static void write_shards(const char *index) {
    folder_write_safetensors(&folder, "a.safetensors", SHARD_A, 8);
    folder_write_safetensors(&folder, "b.safetensors", SHARD_B, 4);
    folder_write_text(&folder, INDEX, index);
}

static void sharded(void **state) {
    (void)state;
    write_shards(WEIGHT_MAP(GOOD_MAP));
    struct weights *w;
    assert_opens(&w);
    assert_int_equal(weights_count(w), 3);
    assert_int_equal(weights_bytes(w), 12);
    assert_non_null(strstr(weights_find(w, "y")->file, "a.safetensors"));
    assert_non_null(strstr(weights_find(w, "z")->file, "b.safetensors"));
    assert_int_equal(touch(weights_find(w, "y")), 4 + 5 + 6 + 7);
    weights_close(w);
}

/* The layout of a hub cache: every file a link to a blob elsewhere. */
static void linked_shards(void **state) {
    (void)state;
    struct folder blobs = folder_make();
    folder_write_safetensors(&blobs, "0a", SHARD_A, 8);
    folder_write_safetensors(&blobs, "0b", SHARD_B, 4);
    char blob[512];
    snprintf(blob, sizeof blob, "%s", folder_file(&blobs, "0a"));
    assert_int_equal(symlink(blob, folder_file(&folder, "a.safetensors")), 0);
    snprintf(blob, sizeof blob, "%s", folder_file(&blobs, "0b"));
    assert_int_equal(symlink(blob, folder_file(&folder, "b.safetensors")), 0);
    folder_write_text(&folder, INDEX, WEIGHT_MAP(GOOD_MAP));
    struct weights *w;
    assert_opens(&w);
    assert_int_equal(weights_count(w), 3);
    weights_close(w);
    folder_remove(&blobs);
}

static void shipped_pair(void **state) {
    (void)state;
    static const struct {
        const char *dir;
        int32_t hidden, layers, heads;
        size_t tensors;
    } pair[] = {{"weights/tale/verifier", 384, 8, 6, 74}, {"weights/tale/draft", 128, 4, 2, 38}};
    for (int i = 0; i < 2; i++) {
        struct weights *w;
        struct model_config m;
        struct generation_config g;
        assert_int_equal(weights_open(pair[i].dir, &w), OUTRIDER_OK);
        assert_int_equal(config_read(pair[i].dir, &m, &g), OUTRIDER_OK);
        assert_int_equal(weights_count(w), pair[i].tensors);
        assert_string_equal(m.model_type, "llama");
        assert_int_equal(m.vocab_size, 8192);
        assert_int_equal(m.hidden_size, pair[i].hidden);
        assert_int_equal(m.num_hidden_layers, pair[i].layers);
        assert_int_equal(m.num_attention_heads, pair[i].heads);
        assert_int_equal(m.head_dim, 64);
        assert_true(m.tie_word_embeddings);
        assert_int_equal(m.bos_token_id, 1);
        assert_int_equal(m.n_eos, 1); /* both files name the same one */
        assert_int_equal(m.eos_token_id[0], 2);
        assert_int_equal(g.do_sample, 1);
        assert_int_equal(g.top_k, -1);
        assert_true(g.temperature == 0.8f && g.top_p == 0.95f && isnan(g.min_p));
        weights_close(w);
    }
}

/* ---- bad safetensors ---- */

static const struct bad_file {
    const char *name, *header;
    size_t data_bytes;
    uint64_t length; /* 0: the header's true length */
    const char *says;
} bad_files[] = {
    {"length beyond the file", "{}", 0, 9, "header length"},
    {"length over 100 MB", "{}", 0, 100000001, "header length"},
    {"length 2^63", "{}", 0, 1ull << 63, "header length"},
    {"length 2^64 - 1", "{}", 0, UINT64_MAX, "header length"},
    {"length 2^64 - 8", "{}", 0, UINT64_MAX - 7, "header length"},
    {"header empty", "", 4, 0, "header"},
    {"header starts with space", " {}", 0, 0, "header"},
    {"header is an array", "[]", 0, 0, "header"},
    {"header is a string", "\"{}\"", 0, 0, "header"},
    {"header cut", "{\"a\":" T("F32", "1", 0, 4), 4, 0, "JSON line 1"},
    {"header with a tail", "{}{}", 0, 0, "JSON line 1"},
    {"header not UTF-8", "{\"\xff\":1}", 0, 0, "JSON line 1"},
    {"duplicate tensor", "{\"a\":" T("F32", "1", 0, 4) ",\"a\":" T("F32", "1", 0, 4) "}", 4, 0, "duplicate"},
    {"duplicate field", "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4, 0, "duplicate"},
    {"NUL in a name", "{\"a\\u0000b\":" T("F32", "1", 0, 4) "}", 4, 0, "JSON line 1"},
    {"metadata is an array", "{\"__metadata__\":[]}", 0, 0, "__metadata__"},
    {"metadata holds a number", "{\"__metadata__\":{\"a\":1}}", 0, 0, "__metadata__ \"a\""},
    {"metadata holds an object", "{\"__metadata__\":{\"a\":{}}}", 0, 0, "__metadata__ \"a\""},
    {"tensor is a number", "{\"a\":1}", 0, 0, "\"a\": entry"},
    {"tensor is null", "{\"a\":null}", 0, 0, "\"a\": entry"},
    {"unknown field", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"q\":0}}", 4, 0,
     "\"a\": entry"},
    {"no dtype", "{\"a\":{\"x\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, 0, "dtype"},
    {"dtype is a number", "{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, 0, "dtype"},
    {"unknown dtype", "{\"a\":" T("F33", "1", 0, 4) "}", 4, 0, "dtype"},
    {"dtype in lower case", "{\"a\":" T("f32", "1", 0, 4) "}", 4, 0, "dtype"},
    {"integer dtype", "{\"a\":" T("I64", "1", 0, 8) "}", 8, 0, "dtype"},
    {"no shape", "{\"a\":{\"dtype\":\"F32\",\"x\":[1],\"data_offsets\":[0,4]}}", 4, 0, "shape"},
    {"shape is a number", "{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, 0, "shape"},
    {"shape holds a string", "{\"a\":" T("F32", "\"1\"", 0, 4) "}", 4, 0, "shape"},
    {"shape holds a fraction", "{\"a\":" T("F32", "1.0", 0, 4) "}", 4, 0, "shape"},
    {"shape negative", "{\"a\":" T("F32", "-1", 0, 4) "}", 4, 0, "shape"},
    {"shape twice negative", "{\"a\":" T("F32", "-1,-1", 0, 4) "}", 4, 0, "shape"},
    {"shape of 5 dimensions", "{\"a\":" T("F32", "1,1,1,1,1", 0, 4) "}", 4, 0, "shape"},
    {"shape 2^63 - 1", "{\"a\":" T("F32", "9223372036854775807", 0, 4) "}", 4, 0, "shape"},
    {"shape 2^63", "{\"a\":" T("F32", "9223372036854775808", 0, 4) "}", 4, 0, "JSON line 1"},
    {"shape wraps to 0", "{\"a\":" T("F32", "4294967296,4294967296", 0, 0) "}", 0, 0, "shape"},
    {"shape wraps to 4 bytes", "{\"a\":" T("F32", "4611686018427387905", 0, 4) "}", 4, 0, "shape"},
    {"shape overflows before a 0", "{\"a\":" T("F16", "4294967296,4294967296,0", 0, 0) "}", 0, 0, "shape"},
    {"no offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"x\":[0,4]}}", 4, 0, "data_offsets"},
    {"offsets are an object", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{}}}", 4, 0,
     "data_offsets"},
    {"one offset", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4]}}", 4, 0, "data_offsets"},
    {"three offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8, 0,
     "data_offsets"},
    {"offset is a fraction", "{\"a\":" T("F32", "1", 0, 4.0) "}", 4, 0, "data_offsets"},
    {"offset negative", "{\"a\":" T("F32", "1", -4, 0) "}", 4, 0, "data_offsets"},
    {"offsets descend", "{\"a\":" T("F32", "1", 4, 0) "}", 4, 0, "data_offsets"},
    {"offset past the end", "{\"a\":" T("F32", "1", 4, 8) "}", 4, 0, "data_offsets"},
    {"offsets at 2^63 - 1", "{\"a\":" T("F32", "1", 9223372036854775803, 9223372036854775807) "}", 4, 0,
     "data_offsets"},
    {"range too short", "{\"a\":" T("F32", "2", 0, 4) "}", 4, 0, "data_offsets"},
    {"range too long", "{\"a\":" T("F16", "1", 0, 4) "}", 4, 0, "data_offsets"},
    {"scalar without bytes", "{\"a\":" T("F32", "", 0, 0) "}", 0, 0, "data_offsets"},
    {"not aligned to the element", "{\"a\":" T("F16", "1", 0, 2) ",\"b\":" T("F32", "1", 2, 6) "} ", 6, 0,
     "data_offsets"},
    {"hole at the start", "{\"a\":" T("F32", "1", 4, 8) "}   ", 8, 0, "data_offsets leaves a hole"},
    {"hole between", "{\"a\":" T("BF16", "1", 0, 2) ",\"b\":" T("BF16", "1", 4, 6) "}", 6, 0,
     "data_offsets leaves"},
    {"hole at the end", "{\"a\":" T("BF16", "1", 0, 2) "}", 3, 0, "data_offsets cover"},
    {"data without tensors", "{}", 8, 0, "data_offsets cover"},
    {"the same range twice", "{\"a\":" T("BF16", "2", 0, 4) ",\"b\":" T("BF16", "2", 0, 4) "}", 4, 0,
     "data_offsets overlaps"},
    {"ranges overlap", "{\"a\":" T("BF16", "2", 0, 4) ",\"b\":" T("BF16", "2", 2, 6) "}", 6, 0,
     "data_offsets overlaps"},
    {"one inside another", "{\"a\":" T("BF16", "4", 0, 8) ",\"b\":" T("BF16", "1", 2, 4) "}", 8, 0,
     "data_offsets overlaps"},
    {"empty tensor inside another", "{\"a\":" T("BF16", "4", 0, 8) ",\"b\":" T("BF16", "0", 2, 2) "}", 8, 0,
     "data_offsets overlaps"},
};

static void bad_file(void **state) {
    const struct bad_file *bad = *state;
    char *header = safetensors_padded(bad->header);
    size_t bytes;
    uint64_t length = bad->length ? bad->length : strlen(header);
    unsigned char *file = safetensors_bytes(header, length, bad->data_bytes, &bytes);
    folder_write(&folder, SINGLE, file, bytes);
    struct weights *w;
    assert_refused(weights_open(folder.path, &w), SINGLE, bad->says);
    assert_null(w);
    free(file);
    free(header);
}

/* A header that puts the data on no multiple of the element is refused, wherever the mapping may lie. */
static void odd_header(void **state) {
    (void)state;
    for (int spaces = 0; spaces < 8; spaces++) {
        char header[128];
        snprintf(header, sizeof header, "{\"a\":" T("F32", "1", 0, 4) "}%*s", spaces, "");
        size_t bytes;
        unsigned char *file = safetensors_bytes(header, strlen(header), 4, &bytes);
        folder_write(&folder, SINGLE, file, bytes);
        free(file);
        struct weights *w;
        if (strlen(header) % 4 == 0)
            assert_opens(&w);
        else
            assert_refused(weights_open(folder.path, &w), SINGLE, "data_offsets is not aligned");
        weights_close(w);
    }
}

/* ---- bad indexes ---- */

static const struct bad_index {
    const char *name, *text, *says;
} bad_indexes[] = {
    {"not JSON", "{", "JSON line 1"},
    {"an array", "[]", "not an object"},
    {"no weight_map", "{}", "weight_map"},
    {"weight_map is null", "{\"weight_map\":null}", "weight_map"},
    {"weight_map is an array", "{\"weight_map\":[]}", "weight_map"},
    {"weight_map is empty", WEIGHT_MAP(""), "weight_map"},
    {"shard is a number", WEIGHT_MAP("\"x\":1"), "weight_map \"x\""},
    {"shard without a name", WEIGHT_MAP("\"x\":\"\""), "weight_map \"x\""},
    {"shard climbs out", WEIGHT_MAP("\"x\":\"../a.safetensors\""), "weight_map \"x\""},
    {"shard is absolute", WEIGHT_MAP("\"x\":\"/etc/passwd\""), "weight_map \"x\""},
    {"shard in a folder", WEIGHT_MAP("\"x\":\"sub/a.safetensors\""), "weight_map \"x\""},
    {"shard is ..", WEIGHT_MAP("\"x\":\"..\""), "weight_map \"x\""},
    {"shard is the folder", WEIGHT_MAP("\"x\":\".\""), "not a regular file"},
    {"shard is missing", WEIGHT_MAP(GOOD_MAP ",\"q\":\"c.safetensors\""), "c.safetensors: no such file"},
    {"shard is no safetensors", WEIGHT_MAP("\"x\":\"" INDEX "\""), "header length"},
    {"tensor in another shard",
     WEIGHT_MAP("\"x\":\"a.safetensors\",\"y\":\"b.safetensors\",\"z\":\"b.safetensors\""), "weight_map"},
    {"tensor not listed", WEIGHT_MAP("\"x\":\"a.safetensors\",\"z\":\"b.safetensors\""), "weight_map"},
    {"tensor lost", WEIGHT_MAP(GOOD_MAP ",\"q\":\"a.safetensors\""), "weight_map \"q\""},
    {"tensor named twice", WEIGHT_MAP(GOOD_MAP ",\"x\":\"b.safetensors\""), "duplicate"},
};

static void bad_index(void **state) {
    const struct bad_index *bad = *state;
    write_shards(bad->text);
    struct weights *w;
    assert_refused(weights_open(folder.path, &w), folder.path, bad->says);
}

static void tensor_in_two_shards(void **state) {
    (void)state;
    write_shards(WEIGHT_MAP(GOOD_MAP));
    folder_write_safetensors(&folder, "b.safetensors", SHARD_A, 8);
    folder_write_text(&folder, INDEX, WEIGHT_MAP("\"x\":\"a.safetensors\",\"y\":\"b.safetensors\""));
    struct weights *w;
    assert_refused(weights_open(folder.path, &w), "b.safetensors", "tensor \"x\" is in");
}

/* ---- configs ---- */

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
    {"head_dim", "16777216", NULL},
    {"max_position_embeddings", "0", NULL},
    {"max_position_embeddings", "1e3", NULL},
    {"rope_theta", "0", NULL},
    {"rope_theta", "-10000", NULL},
    {"rope_theta", "1e39", NULL},
    {"rope_theta", "1e999", "1e999"},
    {"rope_theta", "Infinity", "Infinity"},
    {"rope_theta", "\"10000\"", NULL},
    {"rope_parameters", "{\"rope_type\":\"llama3\",\"rope_theta\":500000}", NULL},
    {"rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}", NULL},
    {"rope_parameters", "{\"rope_theta\":-1}", "rope_theta"},
    {"rope_parameters", "[]", NULL},
    {"rope_scaling", "{\"type\":\"linear\",\"factor\":2.0}", NULL},
    {"rms_norm_eps", "0", NULL},
    {"rms_norm_eps", "-1e-5", NULL},
    {"rms_norm_eps", "1e-60", NULL},
    {"rms_norm_eps", "2", NULL},
    {"hidden_act", "\"gelu\"", NULL},
    {"hidden_act", "1", NULL},
    {"attention_bias", "true", NULL},
    {"mlp_bias", "true", NULL},
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
    assert_true(m.rope_theta == 10000 && m.rms_norm_eps == 1e-6f && !m.tie_word_embeddings);
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

static void newer_rope_field(void **state) {
    (void)state;
    write_config("rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":500000.0}");
    struct model_config m;
    struct generation_config g;
    assert_int_equal(read_config(&m, &g), OUTRIDER_OK);
    assert_true(m.rope_theta == 500000);
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

/* ---- files that are not files ---- */

static void nothing_there(void **state) {
    (void)state;
    struct weights *w;
    struct model_config m;
    struct generation_config g;
    assert_refused(weights_open(folder.path, &w), folder.path, "no such file; a model is a folder with");
    assert_refused(config_read(folder.path, &m, &g), "config.json", "no such file; a model is a folder with");
    assert_refused(weights_open("/nonexistent/folder", &w), "/nonexistent/folder",
                   "a model is a folder with");
    assert_refused(config_read("/nonexistent/folder", &m, &g), "/nonexistent/folder",
                   "a model is a folder with");
    folder_write_text(&folder, "file", "x");
    assert_refused(config_read(folder_file(&folder, "file"), &m, &g), "file", "not a folder");
    assert_refused(weights_open(folder_file(&folder, "file"), &w), "file", "not a folder");
    assert_refused(config_read("", &m, &g), "", "a model is a folder with");
}

enum odd_kind { ODD_EMPTY, ODD_FOLDER, ODD_FIFO, ODD_DEVICE, ODD_LOOP, ODD_KINDS };

static const char *make_odd(enum odd_kind kind, const char *name) {
    const char *path = folder_file(&folder, name);
    switch (kind) {
    case ODD_EMPTY:
        folder_write(&folder, name, "", 0);
        return "empty";
    case ODD_FOLDER:
        assert_int_equal(mkdir(path, 0700), 0);
        return "not a regular file";
    case ODD_FIFO:
        assert_int_equal(mkfifo(path, 0600), 0);
        return "not a regular file";
    case ODD_DEVICE:
        assert_int_equal(symlink("/dev/zero", path), 0);
        return "not a regular file";
    default:
        assert_int_equal(symlink(name, path), 0);
        return "symbolic links";
    }
}

static void odd_files(void **state) {
    (void)state;
    struct weights *w;
    struct model_config m;
    struct generation_config g;
    for (enum odd_kind kind = 0; kind < ODD_KINDS; kind++) {
        folder_clear(&folder);
        assert_refused(weights_open(folder.path, &w), folder.path, "no such file");
        const char *says = make_odd(kind, SINGLE);
        assert_refused(weights_open(folder.path, &w), SINGLE, says);
        folder_clear(&folder);
        says = make_odd(kind, INDEX);
        assert_refused(weights_open(folder.path, &w), INDEX, says);
        folder_clear(&folder);
        write_shards(WEIGHT_MAP(GOOD_MAP));
        remove(folder_file(&folder, "b.safetensors"));
        says = make_odd(kind, "b.safetensors");
        assert_refused(weights_open(folder.path, &w), "b.safetensors", says);
        says = make_odd(kind, "config.json");
        assert_refused(config_read(folder.path, &m, &g), "config.json", says);
        remove(folder_file(&folder, "config.json"));
        write_config(NULL, NULL);
        says = make_odd(kind, "generation_config.json");
        assert_refused(config_read(folder.path, &m, &g), "generation_config.json", says);
    }
}

static void short_files(void **state) {
    (void)state;
    struct weights *w;
    for (size_t n = 1; n < 8; n++) {
        folder_write(&folder, SINGLE, "\2\0\0\0\0\0\0\0", n);
        assert_refused(weights_open(folder.path, &w), SINGLE, "header length");
    }
    folder_write(&folder, SINGLE, "\0\0\0\0\0\0\0\0", 8);
    assert_refused(weights_open(folder.path, &w), SINGLE, "header");
}

/* ---- JSON made to cost memory ---- */

static void hostile_json(void **state) {
    (void)state;
    enum { N = 4 << 20 };
    char *text = malloc(N);
    json_t *root;
    memset(text, '[', N);
    assert_refused(document_parse("deep.json", text, N, &root), "deep.json", "levels");
    memcpy(text, "{\"a\":[", 6);
    for (size_t i = 6; i + 3 <= N; i += 3) memcpy(text + i, "[],", 3);
    assert_refused(document_parse("wide.json", text, N, &root), "wide.json", "values");
    memset(text, ',', N);
    memcpy(text, "{\"a\\\\\\\"[[[", 10); /* brackets and commas within a string cost nothing */
    memcpy(text + N - 5, "\":1} ", 5);
    assert_int_equal(document_parse("string.json", text, N, &root), OUTRIDER_OK);
    json_decref(root);
    free(text);
}

static size_t allocations_left;
static void *scarce_malloc(size_t n) {
    return allocations_left-- > 0 ? malloc(n) : (allocations_left = 0, NULL);
}

/* The parser's k-th allocation fails, and all after it, for every k until it succeeds. */
static void json_without_memory(void **state) {
    (void)state;
    folder_write_safetensors(&folder, SINGLE, GOOD, GOOD_DATA);
    struct weights *w = NULL;
    size_t k = 0, denied = 0;
    json_set_alloc_funcs(scarce_malloc, free);
    for (; !w && k < 10000; k++) {
        allocations_left = k;
        outrider_status status = weights_open(folder.path, &w);
        denied += status == OUTRIDER_ENOMEM;
        if (status != OUTRIDER_OK && status != OUTRIDER_ENOMEM) assert_refused(status, SINGLE, "");
    }
    assert_non_null(w);
    assert_true(denied > k / 2); /* of the rest, the parser says that the text is wrong */
    weights_close(w);
}

/* ---- damage without a plan ---- */

/* Loads a file image of exactly `bytes` bytes on the heap, where a sanitizer sees a read past its end. */
static bool loads(const unsigned char *image, size_t bytes) {
    unsigned char *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, image, bytes);
    struct mapping file = {"image", copy, bytes};
    struct tensor_list list = {0};
    outrider_status status = safetensors_read(&file, &list);
    if (status == OUTRIDER_OK) {
        size_t sum = 0;
        for (size_t i = 0; i < list.n; i++) {
            touch(&list.at[i]);
            sum += list.at[i].bytes;
        }
        assert_true(sum < bytes);
    } else {
        assert_refused(status, "image", "");
    }
    tensor_list_free(&list);
    free(copy);
    return status == OUTRIDER_OK;
}

static void every_prefix(void **state) {
    (void)state;
    size_t bytes;
    unsigned char *image = safetensors_bytes(GOOD, strlen(GOOD), GOOD_DATA, &bytes);
    for (size_t n = 0; n < bytes; n++) {
        assert_false(loads(image, n));
        folder_write(&folder, SINGLE, image, n);
        struct weights *w;
        assert_refused(weights_open(folder.path, &w), SINGLE, "");
    }
    assert_true(loads(image, bytes));
    free(image);
}

static uint32_t next_random(uint32_t *seed) { /* xorshift, Marsaglia 2003 */
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    return *seed ^= *seed << 5;
}

static void flipped_bits(void **state) {
    (void)state;
    size_t bytes;
    unsigned char *image = safetensors_bytes(GOOD, strlen(GOOD), GOOD_DATA, &bytes);
    uint32_t seed = 1;
    size_t loaded = 0;
    for (int i = 0; i < 10000; i++) {
        uint32_t bit = next_random(&seed) % (uint32_t)(bytes * 8);
        image[bit / 8] ^= (unsigned char)(1 << bit % 8);
        loaded += loads(image, bytes);
        image[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_true(loads(image, bytes));
    assert_true(loaded > 500 &&
                loaded < 5000); /* those in data and names load; those in the structure do not */
    free(image);
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

/* ---- */

static struct CMUnitTest tests[400];
static size_t n_tests;

static void add(const char *name, CMUnitTestFunction run, const void *state) {
    tests[n_tests++] = (struct CMUnitTest){name, run, clear, NULL, (void *)state};
}

static const char *label(const char *what, const char *key, const char *value) {
    char *text;
    if (asprintf(&text, "%s %s%s%s", what, key, value ? " = " : "", value ? value : "") < 0) exit(1);
    return text;
}

#define ADD(f) add(#f, f, NULL)
#define ADD_ROWS(what, rows, f, ...)                                                                         \
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) add(label(what, __VA_ARGS__), f, &rows[i])

int main(void) {
    folder = folder_make();
    ADD(single_file);
    ADD(no_tensors);
    ADD(sharded);
    ADD(linked_shards);
    ADD(shipped_pair);
    ADD_ROWS("safetensors:", bad_files, bad_file, bad_files[i].name, NULL);
    ADD(odd_header);
    ADD_ROWS("index:", bad_indexes, bad_index, bad_indexes[i].name, NULL);
    ADD(tensor_in_two_shards);
    ADD_ROWS("config:", bad_configs, bad_config, bad_configs[i].key,
             bad_configs[i].value ? bad_configs[i].value : "(absent)");
    ADD_ROWS("generation:", bad_generations, bad_generation, bad_generations[i].key,
             bad_generations[i].value);
    ADD_ROWS("config:", bad_texts, bad_text, bad_texts[i].name, NULL);
    ADD(config_defaults);
    ADD(head_dim_without_divisor);
    ADD(newer_rope_field);
    ADD(eos_of_both_files);
    ADD(nothing_there);
    ADD(odd_files);
    ADD(short_files);
    ADD(hostile_json);
    ADD(json_without_memory);
    ADD(every_prefix);
    ADD(flipped_bits);
    ADD(flipped_config);
    int failed = _cmocka_run_group_tests("weights", tests, n_tests, NULL, NULL);
    for (size_t i = 0; i < n_tests; i++)
        if (tests[i].initial_state) free((char *)tests[i].name);
    folder_remove(&folder);
    return failed;
}

/* Model folders, good and bad. Every bad file is made by hand here, must be refused with OUTRIDER_EMODEL, and
 * the line must name the file and the field. Damage without a plan (every prefix, 10,000 flipped bits) may
 * load or fail, but cleanly; after a load every byte of every tensor is read, so that a sanitizer sees it. */
#include "tests/helpers_weights.h"

#include <math.h>

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
    folder_clear(&folder);
    return 0;
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

#define ENTRY(name, dtype, shape, begin, end) "\"" name "\":" T(dtype, shape, begin, end) ","
static const char good[] = "{" /* one an element type, an empty one and a scalar */
    ENTRY("w", "F32", "2,3", 0, 24) ENTRY("half", "F16", "5", 24, 34)
        ENTRY("brain", "BF16", "1,1,2,2", 34, 42) ENTRY("empty", "F32", "4,0", 24, 24)
            ENTRY("scalar", "BF16", "", 42, 44) "\"__metadata__\":{\"format\":\"pt\"}}       ";
enum { GOOD_DATA = 44 };

static void single_file(void **state) {
    (void)state;
    folder_write_safetensors(&folder, SINGLE, good, GOOD_DATA);
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

/* Legal as a file, but no model. */
static void no_tensors(void **state) {
    (void)state;
    folder_write_safetensors(&folder, SINGLE, "{}", 0);
    struct weights *w;
    assert_refused(weights_open(folder.path, &w), SINGLE, "no tensors");
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

/* ---- files that are not files ---- */

static void nothing_there(void **state) {
    (void)state;
    struct weights *w;
    assert_refused(weights_open(folder.path, &w), folder.path, "no such file; a model is a folder with");
    assert_refused(weights_open("/nonexistent/folder", &w), "/nonexistent/folder",
                   "a model is a folder with");
    folder_write_text(&folder, "file", "x");
    assert_refused(weights_open(folder_file(&folder, "file"), &w), "file", "not a GGUF file");
}

static void odd_files(void **state) {
    (void)state;
    struct weights *w;
    for (enum odd_kind kind = 0; kind < ODD_KINDS; kind++) {
        folder_clear(&folder);
        assert_refused(weights_open(folder.path, &w), folder.path, "no such file");
        const char *says = make_odd(&folder, kind, SINGLE);
        assert_refused(weights_open(folder.path, &w), SINGLE, says);
        folder_clear(&folder);
        says = make_odd(&folder, kind, INDEX);
        assert_refused(weights_open(folder.path, &w), INDEX, says);
        folder_clear(&folder);
        write_shards(WEIGHT_MAP(GOOD_MAP));
        remove(folder_file(&folder, "b.safetensors"));
        says = make_odd(&folder, kind, "b.safetensors");
        assert_refused(weights_open(folder.path, &w), "b.safetensors", says);
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
    unsigned char *image = safetensors_bytes(good, strlen(good), GOOD_DATA, &bytes);
    for (size_t n = 0; n < bytes; n++) {
        assert_false(loads(image, n));
        folder_write(&folder, SINGLE, image, n);
        struct weights *w;
        assert_refused(weights_open(folder.path, &w), SINGLE, "");
    }
    assert_true(loads(image, bytes));
    free(image);
}

static void flipped_bits(void **state) {
    (void)state;
    size_t bytes;
    unsigned char *image = safetensors_bytes(good, strlen(good), GOOD_DATA, &bytes);
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

/* ---- */

int main(void) {
    static struct test_list tests;
    folder = folder_make();
    ADD(&tests, single_file);
    ADD(&tests, no_tensors);
    ADD(&tests, sharded);
    ADD(&tests, linked_shards);
    ADD(&tests, shipped_pair);
    ADD_ROWS(&tests, bad_files, bad_file, "safetensors: %s", bad_files[i].name);
    ADD(&tests, odd_header);
    ADD_ROWS(&tests, bad_indexes, bad_index, "index: %s", bad_indexes[i].name);
    ADD(&tests, tensor_in_two_shards);
    ADD(&tests, nothing_there);
    ADD(&tests, odd_files);
    ADD(&tests, short_files);
    ADD(&tests, hostile_json);
    ADD(&tests, every_prefix);
    ADD(&tests, flipped_bits);
    int failed = test_run(&tests, "weights");
    folder_remove(&folder);
    return failed;
}

/* GGUF files, good and bad. Bad ones are a good one with a field spoiled, or made from the start; each must
 * be refused with OUTRIDER_EMODEL and a line that names file and field. Every prefix and 6,000 flipped bits
 * may load or fail, but cleanly; after a load every element is read. */
#include "tests/helpers_gguf.h"

#include <math.h>

#include "weights/floats.h"
#include "weights/gguf.h"
#include "weights/names.h"
#include "weights/source.h"
#include "weights/quants.h"
#include "weights/weights.h"

#define FILE_NAME "m.gguf"

static struct folder folder;

static int clear(void **state) {
    (void)state;
    folder_clear(&folder);
    return 0;
}

/* ---- a good file: every kind of value, tensors of single numbers and of blocks ---- */

enum { DATA_BYTES = 192 + 210 };

static void put_values(struct gguf_image *g) {
    gguf_str(g, "key length", "key", "general.architecture");
    gguf_u32(g, "value type", 8);
    gguf_str(g, "value length", "value", "llama");
    gguf_kv_u32(g, "general.alignment", 32);
    gguf_kv_u32(g, "llama.attention.head_count", 2);
    gguf_array_head(g, "a.ints", "ints type", 5, "ints length", 3);
    for (uint32_t i = 0; i < 3; i++) gguf_u32(g, NULL, i - 1);
    gguf_array_head(g, "a.texts", "texts type", 8, "texts length", 2);
    gguf_str(g, "text length", NULL, "one");
    gguf_str(g, "last text length", NULL, "three");
    gguf_array_head(g, "a.floats", "floats type", 6, "floats length", 2);
    gguf_put(g, NULL, (float[]){0.5f, -2}, 8);
    gguf_str(g, NULL, NULL, "a.bool");
    gguf_u32(g, "bool type", 7);
    gguf_put(g, "bool", "\1", 1);
    gguf_array_head(g, "a.bools", "bools type", 7, "bools length", 2);
    gguf_put(g, "bools", "\1\0", 2);
}

static void put_tensors(struct gguf_image *g) {
    gguf_str(g, "name length", "name", "token_embd.weight");
    gguf_u32(g, "dims", 2);
    gguf_u64(g, "inner", 4);
    gguf_u64(g, "outer", 2);
    gguf_u32(g, "type", 0);
    gguf_u64(g, "offset", 0);
    gguf_info(g, "blk.0.attn_q.weight", 4, 8, 30, 32);
    gguf_str(g, NULL, NULL, "q");
    gguf_u32(g, NULL, 2);
    gguf_u64(g, "block inner", 32);
    gguf_u64(g, NULL, 2);
    gguf_u32(g, "block type", 8);
    gguf_u64(g, "block offset", 96);
    gguf_str(g, NULL, NULL, "k");
    gguf_u32(g, NULL, 1);
    gguf_u64(g, "last inner", 256);
    gguf_u32(g, NULL, 14);
    gguf_u64(g, "last offset", 192);
}

static void make_good(struct gguf_image *g) {
    gguf_head(g, 4, 8);
    put_values(g);
    put_tensors(g);
    gguf_data(g, 32, DATA_BYTES);
}

static void save(const struct gguf_image *g) {
    folder_write(&folder, FILE_NAME, g->data, g->n);
}

static void assert_bad(const char *says) {
    struct weights *w;
    assert_refused(weights_open(folder_file(&folder, FILE_NAME), &w), FILE_NAME, says);
    assert_null(w);
}

static void good_file(void **state) {
    (void)state;
    static struct gguf_image g;
    for (uint32_t version = 2; version <= 3; version++) {
        make_good(&g);
        gguf_spoil(&g, "version", version);
        save(&g);
        struct weights *w; /* by the file, and by the folder that holds it */
        assert_int_equal(weights_open(version == 2 ? folder_file(&folder, FILE_NAME) : folder.path, &w), 0);
        assert_int_equal(weights_count(w), 4);
        const struct tensor *t = weights_find(w, "model.embed_tokens.weight");
        assert_non_null(t);
        assert_int_equal(t->shape[0], 2);
        assert_int_equal(t->shape[1], 4);
        assert_int_equal(((const unsigned char *)t->data)[5], 5);
        assert_int_equal(weights_find(w, "q")->bytes, 68);
        assert_int_equal(weights_find(w, "k")->n_dims, 1);
        weights_close(w);
    }
}

static void good_metadata(void **state) {
    (void)state;
    static struct gguf_image image;
    struct gguf *g;
    struct gguf_value v;
    struct gguf_string s = {NULL, 0};
    int64_t n = -1;
    bool b = false;
    float f = 0;
    make_good(&image);
    save(&image);
    assert_int_equal(gguf_open(folder_file(&folder, FILE_NAME), &g), 0);
    assert_int_equal(gguf_count(g), 8);
    assert_int_equal(gguf_text(g, "general.architecture", &s), 0);
    assert_memory_equal(s.at, "llama", 5);
    assert_int_equal(gguf_int(g, "llama.attention.head_count", 0, 10, &n), 0);
    assert_int_equal(n, 2);
    assert_int_equal(gguf_bool(g, "a.bool", &b), 0);
    assert_true(b);
    assert_int_equal(gguf_array(g, "a.ints", GGUF_INTS, &v), 0);
    assert_true(v.n == 3 && gguf_int_at(&v, 0) == -1 && gguf_int_at(&v, 2) == 1);
    assert_int_equal(gguf_array(g, "a.floats", GGUF_FLOATS, &v), 0);
    assert_true(v.n == 2 && gguf_float_at(&v, 1) == -2);
    assert_int_equal(gguf_array(g, "a.bools", GGUF_BOOLS, &v), 0);
    assert_true(v.n == 2 && gguf_int_at(&v, 0) == 1 && gguf_int_at(&v, 1) == 0);
    assert_int_equal(gguf_array(g, "a.texts", GGUF_STRINGS, &v), 0);
    assert_int_equal(v.n, 2);
    assert_int_equal(gguf_next_string(&v).bytes, 3);
    s = gguf_next_string(&v);
    assert_true(s.bytes == 5 && memcmp(s.at, "three", 5) == 0);
    assert_int_equal(gguf_array(g, "absent", GGUF_STRINGS, &v), 0);
    assert_int_equal(v.n, 0);
    assert_int_equal(gguf_int(g, "absent", 0, 1, &n), 0);
    assert_int_equal(n, 2);
    assert_refused(gguf_int(g, "llama.attention.head_count", 3, 10, &n), FILE_NAME,
                   "head_count\" is 2, must be 3");
    assert_refused(gguf_int(g, "a.bool", 0, 1, &n), FILE_NAME, "is not an integer");
    assert_refused(gguf_int(g, "a.ints", 0, 1, &n), FILE_NAME, "is not an integer");
    assert_refused(gguf_float(g, "a.bool", 0, 1, &f), FILE_NAME, "is not a float32");
    assert_refused(gguf_bool(g, "a.ints", &b), FILE_NAME, "is not a bool");
    assert_refused(gguf_text(g, "a.texts", &s), FILE_NAME, "is not a string");
    assert_refused(gguf_array(g, "a.bool", GGUF_BOOLS, &v), FILE_NAME, "is not an array of bools");
    assert_refused(gguf_array(g, "a.ints", GGUF_STRINGS, &v), FILE_NAME, "is not an array of strings");
    assert_refused(gguf_array(g, "a.texts", GGUF_INTS, &v), FILE_NAME, "is not an array of integers");
    gguf_close(g);
}

/* Rows of a head alternate in the file: 0 2 1 3 of the first head here, then of the second. */
static void rows_in_pairs(void **state) {
    (void)state;
    static struct gguf_image g;
    struct weights *w;
    uint16_t rows[8][4];
    make_good(&g);
    save(&g);
    assert_int_equal(weights_open(folder.path, &w), 0);
    const struct tensor *t = weights_find(w, "model.layers.0.self_attn.q_proj.weight");
    assert_non_null(t);
    assert_int_equal(weights_rows(t, DTYPE_BF16, 1, rows), 0);
    static const int from[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    for (int i = 0; i < 8; i++) assert_memory_equal(rows[i], (const char *)t->data + 8 * from[i], 8);
    weights_close(w);
}

/* A bias stands in the same order as its matrix. */
static void vectors_in_pairs(void **state) {
    (void)state;
    static struct gguf_image g;
    static const float from[8] = {0, 1, 2, 3, 4, 5, 6, 7}, to[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    struct weights *w;
    float out[8];
    gguf_head(&g, 1, 2);
    gguf_kv_str(&g, "general.architecture", "llama");
    gguf_kv_u32(&g, "llama.attention.head_count", 2);
    gguf_info(&g, "blk.0.attn_q.bias", 8, 0, 0, 0);
    gguf_data(&g, 32, 0);
    gguf_put(&g, NULL, from, sizeof from);
    save(&g);
    assert_int_equal(weights_open(folder.path, &w), 0);
    assert_int_equal(weights_vector(weights_find(w, "model.layers.0.self_attn.q_proj.bias"), out), 0);
    assert_memory_equal(out, to, sizeof to);
    weights_close(w);
}

/* Names cross only in one spelling. */
static void names_of_tensors(void **state) {
    (void)state;
    static const struct {
        const char *gguf, *hf; /* NULL: none, the name stays */
    } rows[] = {{"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
                {"blk.99999.ffn_up.weight", "model.layers.99999.mlp.up_proj.weight"},
                {"blk.100000.ffn_up.weight", NULL},
                {"blk.00.attn_q.weight", NULL},
                {"blk.x.attn_q.weight", NULL},
                {"blk.0attn_q.weight", NULL},
                {"blk.0.attn_q", NULL},
                {"output_norm.weight", "model.norm.weight"},
                {"other", NULL}};
    const struct naming naming = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[NAMES_MAX];
        bool known = name_to_hf(&naming, rows[i].gguf, out);
        if (known != (rows[i].hf != NULL) || strcmp(out, known ? rows[i].hf : rows[i].gguf) != 0)
            fail_msg("%s is %s", rows[i].gguf, out);
        if (known) assert_true(name_to_gguf(&naming, rows[i].hf, out));
        if (known) assert_string_equal(out, rows[i].gguf);
    }
}

/* ---- bad: one field ---- */

#define MAX63 0x7fffffffffffffffu
static const struct bad_field {
    const char *field;
    uint64_t value;
    const char *says;
} bad_fields[] = {
    {"magic", 0x46554748, "magic"},
    {"magic", 0x464c457f, "magic"},
    {"version", 0, "version"},
    {"version", 1, "version"},
    {"version", 4, "version"},
    {"version", 0x03000000, "big-endian"},
    {"n tensors", 5, "tensor"},
    {"n tensors", 65537, "tensor count"},
    {"n tensors", 1ull << 63, "tensor count"},
    {"n tensors", UINT64_MAX, "tensor count"},
    {"n values", 9, "tensor name"},
    {"n values", 65537, "metadata count"},
    {"n values", 1ull << 63, "metadata count"},
    {"n values", UINT64_MAX, "metadata count"},
    {"key length", 0, "metadata key"},
    {"key length", 100000, "metadata key"},
    {"key length", 1ull << 63, "metadata key"},
    {"key length", UINT64_MAX - 7, "metadata key"},
    {"key", 0x0a61726c61000000, "metadata key"},
    {"key", 0xff61726c616e6567, "metadata key"},
    {"value type", 13, "\"general.architecture\" type"},
    {"value type", UINT32_MAX, "\"general.architecture\" type"},
    {"value length", 1ull << 63, "\"general.architecture\" string length"},
    {"value length", UINT64_MAX, "\"general.architecture\" string length"},
    {"value length", UINT64_MAX - 100, "\"general.architecture\" string length"},
    {"general.alignment", 0, "\"general.alignment\""},
    {"general.alignment", 1, "\"general.alignment\""},
    {"general.alignment", 7, "\"general.alignment\""},
    {"general.alignment", 24, "\"general.alignment\" is not a power of two"},
    {"general.alignment", 1u << 31, "\"general.alignment\""},
    {"general.alignment", UINT32_MAX, "\"general.alignment\""},
    {"general.alignment", 1u << 20, "tensor \"token_embd.weight\""},
    {"llama.attention.head_count", 0, "head_count"},
    {"llama.attention.head_count", 3, "attn_q"},
    {"llama.attention.head_count", 8, "attn_q"},
    {"ints type", 9, "\"a.ints\" is an array of arrays"},
    {"ints type", 13, "\"a.ints\" type"},
    {"ints type", 0x80000000, "\"a.ints\" type"},
    {"ints length", 1ull << 63, "\"a.ints\" array length"},
    {"ints length", (1ull << 62) + 3, "\"a.ints\" array length"},
    {"ints length", UINT64_MAX, "\"a.ints\" array length"},
    {"ints length", 100000, "\"a.ints\" array length"},
    {"texts type", 9, "\"a.texts\" is an array of arrays"},
    {"texts length", 1ull << 61, "\"a.texts\" array length"},
    {"texts length", UINT64_MAX / 8, "\"a.texts\" array length"},
    {"texts length", 60, "\"a.texts\" string length"},
    {"text length", UINT64_MAX, "\"a.texts\" string length"},
    {"last text length", 1ull << 63, "\"a.texts\" string length"},
    {"last text length", 100000, "\"a.texts\" string length"},
    {"floats length", 1ull << 62, "\"a.floats\" array length"},
    {"bool type", 9, "\"a.bool\""},
    {"bool", 2, "\"a.bool\" holds a bool"},
    {"bools", 0x0100ff, "\"a.bools\" holds a bool"},
    {"bools length", UINT64_MAX, "\"a.bools\" array length"},
    {"name length", 0, "tensor name"},
    {"name length", 65, "tensor name"},
    {"name length", 1ull << 63, "tensor name"},
    {"name length", UINT64_MAX, "tensor name"},
    {"name", 0x6f740000656b6f74, "tensor name"},
    {"dims", 0, "dimensions"},
    {"dims", 5, "dimensions"},
    {"dims", UINT32_MAX, "dimensions"},
    {"inner", 0, "dimension"},
    {"inner", 1ull << 63, "dimension"},
    {"inner", UINT64_MAX, "dimension"},
    {"inner", MAX63, "overflows"},
    {"inner", 1ull << 62, "overflows"},
    {"inner", (1ull << 61) + 1, "overflows"},
    {"inner", 1ull << 40, "reach past the end"},
    {"inner", 5, "overlap"},
    {"outer", 1ull << 62, "overflows"},
    {"outer", (1ull << 60) + 2, "overflows"},
    {"outer", 3, "overlap"},
    {"outer", 26, "reach past the end"},
    {"type", 4, "type 4 is none"},
    {"type", 40, "type 40 is none"},
    {"type", UINT32_MAX, "type 4294967295 is none"},
    {"type", 16, "type IQ2_XXS is not supported"},
    {"type", 26, "type I32 is not supported"},
    {"type", 28, "type F64 is not supported"},
    {"type", 8, "no whole blocks of q8_0"},
    {"offset", 1, "general.alignment"},
    {"offset", 16, "general.alignment"},
    {"offset", 32, "overlap"},
    {"offset", 416, "reach past the end"},
    {"offset", 1ull << 63, "reach past the end"},
    {"offset", UINT64_MAX - 31, "reach past the end"},
    {"block inner", 33, "no whole blocks of q8_0"},
    {"block inner", 96, "overlap"},
    {"block type", 14, "no whole blocks of q6_k"},
    {"block offset", 0, "overlap"},
    {"block offset", 384, "reach past the end"},
    {"last inner", 512, "reach past the end"},
    {"last offset", 224, "reach past the end"},
};

static void bad_field(void **state) {
    const struct bad_field *bad = *state;
    static struct gguf_image g;
    make_good(&g);
    gguf_spoil(&g, bad->field, bad->value);
    save(&g);
    assert_bad(bad->says);
}

/* ---- bad: otherwise ---- */

static void duplicates(void **state) {
    (void)state;
    static struct gguf_image g;
    gguf_head(&g, 1, 2);
    gguf_kv_u32(&g, "a", 1);
    gguf_kv_str(&g, "a", "b");
    gguf_info(&g, "t", 4, 0, 0, 0);
    gguf_data(&g, 32, 16);
    save(&g);
    assert_bad("metadata \"a\" stands there twice");
    gguf_head(&g, 2, 0);
    gguf_info(&g, "t", 4, 0, 0, 0);
    gguf_info(&g, "t", 4, 0, 0, 32);
    gguf_data(&g, 32, 48);
    save(&g);
    assert_bad("tensor \"t\" is in");
}

/* Reports against other readers: 43 bytes with an array of 2^63, and lengths that claim the address space. */
static void short_files(void **state) {
    (void)state;
    static struct gguf_image g;
    static const uint64_t lengths[] = {1ull << 63, UINT64_MAX, 1ull << 60, 1ull << 32};
    for (size_t i = 0; i < 4; i++) {
        for (uint32_t type = 0; type < 13; type++) {
            gguf_head(&g, 0, 1);
            gguf_str(&g, NULL, NULL, "abc");
            gguf_u32(&g, NULL, 9);
            gguf_u32(&g, NULL, type);
            gguf_u64(&g, NULL, lengths[i]);
            if (type == 0) assert_int_equal(g.n, 51);
            save(&g);
            assert_bad("\"abc\"");
        }
    }
    gguf_head(&g, 0, 0);
    save(&g);
    assert_bad("no tensors");
    folder_write(&folder, FILE_NAME, "GGUF", 4);
    assert_bad("version");
    folder_write(&folder, FILE_NAME, "", 0);
    assert_bad("empty");
}

static void alignment_of_another_type(void **state) {
    (void)state;
    static struct gguf_image g;
    gguf_head(&g, 1, 1);
    gguf_kv_str(&g, "general.alignment", "32");
    gguf_info(&g, "t", 4, 0, 0, 0);
    gguf_data(&g, 32, 16);
    save(&g);
    assert_bad("\"general.alignment\" is not an integer");
}

/* A table of heads on a tensor of another form. */
static void odd_heads(void **state) {
    (void)state;
    static struct gguf_image g;
    static const uint32_t types[] = {8, 0};
    for (size_t i = 0; i < 2; i++) {
        gguf_head(&g, 1, 2 - (uint64_t)i);
        gguf_kv_str(&g, "general.architecture", "llama");
        if (i == 0) gguf_kv_u32(&g, "llama.attention.head_count", 2);
        gguf_info(&g, i == 0 ? "blk.0.attn_q.bias" : "blk.0.attn_q.weight", 64, i, types[i], 0);
        gguf_data(&g, 32, 256);
        save(&g);
        assert_bad(i == 0 ? "neither a matrix nor a vector" : "no even number for each of 0 heads");
    }
}

static void odd_files(void **state) {
    (void)state;
    for (enum odd_kind kind = 0; kind < ODD_KINDS; kind++) {
        folder_clear(&folder);
        const char *says = make_odd(&folder, kind, FILE_NAME);
        struct weights *w;
        outrider_status status =
            weights_open(kind == ODD_FOLDER ? folder.path : folder_file(&folder, FILE_NAME), &w);
        assert_refused(status, kind == ODD_LOOP ? "" FILE_NAME : FILE_NAME, kind == ODD_LOOP ? "" : says);
    }
}

/* ---- several files ---- */

static void make_part(struct gguf_image *g, uint32_t number, uint32_t count, uint32_t total,
                      const char *tensor) {
    gguf_head(g, 1, 3);
    gguf_kv_u32(g, "split.no", number);
    gguf_kv_u32(g, "split.count", count);
    gguf_kv_u32(g, "split.tensors.count", total);
    gguf_info(g, tensor, 4, 0, 0, 0);
    gguf_data(g, 32, 16);
}

static void save_part(uint32_t number, uint32_t count, uint32_t total, const char *tensor, const char *name) {
    static struct gguf_image g;
    make_part(&g, number, count, total, tensor);
    folder_write(&folder, name, g.data, g.n);
}

static void save_split(void) {
    save_part(0, 3, 3, "a", "m-00001-of-00003.gguf");
    save_part(1, 3, 3, "b", "m-00002-of-00003.gguf");
    save_part(2, 3, 3, "c", "m-00003-of-00003.gguf");
}

static void split_model(void **state) {
    (void)state;
    static const char *const names[] = {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"};
    struct weights *w;
    save_split();
    for (int i = 0; i < 3; i++) { /* by a part, or by the folder */
        if (weights_open(i < 2 ? folder_file(&folder, names[i]) : folder.path, &w))
            fail_msg("%s", outrider_error());
        assert_int_equal(weights_count(w), 3);
        assert_non_null(strstr(weights_find(w, "b")->file, "m-00002-of-00003.gguf"));
        weights_close(w);
    }
}

static const struct bad_split {
    const char *name;
    uint32_t number, count, total; /* of the part written over */
    const char *tensor, *part, *says;
} bad_splits[] = {
    {"number of another", 2, 3, 3, "b", "m-00002-of-00003.gguf", "split.no"},
    {"another count", 1, 4, 3, "b", "m-00002-of-00003.gguf", "split.no"},
    {"count of the first unlike its name", 0, 2, 3, "a", "m-00001-of-00003.gguf", "split.count"},
    {"huge count", 0, 65535, 3, "a", "m-00001-of-00003.gguf", "split.count"},
    {"tensors lost", 0, 3, 4, "a", "m-00001-of-00003.gguf", "split.tensors.count"},
    {"a tensor in two parts", 1, 3, 3, "c", "m-00002-of-00003.gguf", "tensor \"c\" is in"},
    {"a part is missing", 0, 4, 4, "a", "m-00001-of-00004.gguf", "no such file"},
};

static void bad_split(void **state) {
    const struct bad_split *bad = *state;
    struct weights *w;
    save_split();
    save_part(bad->number, bad->count, bad->total, bad->tensor, bad->part);
    const char *open = bad->count == 4 && bad->number == 0 ? bad->part : "m-00001-of-00003.gguf";
    assert_refused(weights_open(folder_file(&folder, open), &w), "m-0000", bad->says);
}

static void several_models(void **state) {
    (void)state;
    struct weights *w;
    save_split();
    save_part(0, 1, 1, "a", "other.gguf");
    assert_refused(weights_open(folder.path, &w), folder.path, "name one of them");
    assert_int_equal(weights_open(folder_file(&folder, "other.gguf"), &w), 0);
    weights_close(w);
}

static void parts_are_known_by_their_names(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool opens; /* a model: a file of its own, or the first part of one */
    } rows[] = {{"m.gguf", true},
                {"m-00001-of-00003.gguf", true},
                {"m-00002-of-00003.gguf", false},
                {"best-of-8.gguf", true},
                {"best-of-8-00001-of-00003.gguf", true},
                {"best-of-8-00003-of-00003.gguf", false},
                {"m-0002-of-0003.gguf", true},
                {"m-00002-of-0000x.gguf", true},
                {"m_00002-of-00003.gguf", true},
                {"m-0000:-of-00003.gguf", true},
                {"-00002-of-00003.gguf", false},
                {"mmproj-m.gguf", false},
                {".gguf", false},
                {"m.gguf.part", false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (source_is_gguf(rows[i].name) != rows[i].opens) fail_msg("%s", rows[i].name);
}

/* A part whose own numbers are of another type, or that has no numbers. */
static void parts_without_numbers(void **state) {
    (void)state;
    static const char *const keys[] = {"split.no", "split.count", "split.tensors.count"};
    struct weights *w;
    for (size_t wrong = 0; wrong < 3; wrong++) {
        static struct gguf_image g;
        save_split();
        gguf_head(&g, 1, 3);
        for (uint32_t i = 0; i < 3; i++)
            if (i == wrong)
                gguf_kv_str(&g, keys[i], "1");
            else
                gguf_kv_u32(&g, keys[i], i == 0 ? 0 : 3);
        gguf_info(&g, "a", 4, 0, 0, 0);
        gguf_data(&g, 32, 16);
        folder_write(&folder, "m-00001-of-00003.gguf", g.data, g.n);
        assert_refused(weights_open(folder_file(&folder, "m-00001-of-00003.gguf"), &w), "m-00001",
                       keys[wrong]);
        if (wrong == 2) continue;
        gguf_spoil(&g, "n values", 0); /* the same file as a later part says that its numbers are missing */
        folder_write(&folder, "m-00002-of-00003.gguf", g.data, g.n);
        save_part(0, 3, 3, "a", "m-00001-of-00003.gguf");
        assert_refused(weights_open(folder_file(&folder, "m-00001-of-00003.gguf"), &w), "m-00002", "");
    }
    save_split();
    save_part(0, 3, 3, "a", "m.gguf"); /* renamed */
    assert_refused(weights_open(folder_file(&folder, "m.gguf"), &w), "m.gguf", "the name does not end in");
    save_part(0, 3, 3, "a", "m_00001-of-00003.gguf");
    assert_refused(weights_open(folder_file(&folder, "m_00001-of-00003.gguf"), &w), "m_00001",
                   "the name does not end in");
}

static void assert_shown(const struct gguf *g, const char *key, size_t size, const char *text) {
    char out[64];
    const struct gguf_value *v = gguf_find(g, key);
    assert_non_null(v);
    memset(out, 'x', sizeof out);
    gguf_show(v, out, size);
    assert_string_equal(out, text);
}

/* As people see it: any number, and texts without control characters, cut between characters. */
static void values_are_shown(void **state) {
    (void)state;
    static struct gguf_image image;
    static const struct {
        const char *key;
        uint32_t type;
        size_t bytes;
        int64_t bits;
        const char *shown;
    } numbers[] = {{"u8", 0, 1, 200, "200"},
                   {"i8", 1, 1, -100, "-100"},
                   {"u16", 2, 2, 60000, "60000"},
                   {"i16", 3, 2, -30000, "-30000"},
                   {"u32", 4, 4, 4000000000, "4000000000"},
                   {"i32", 5, 4, -2000000000, "-2000000000"},
                   {"u64", 10, 8, -1, "9223372036854775807"},
                   {"i64", 11, 8, -5, "-5"},
                   {"f64", 12, 8, 0x3FE0000000000000, "0.5"}};
    enum { NUMBERS = sizeof numbers / sizeof *numbers };
    struct gguf *g;
    gguf_head(&image, 1, NUMBERS + 3);
    for (size_t i = 0; i < NUMBERS; i++) {
        gguf_str(&image, NULL, NULL, numbers[i].key);
        gguf_u32(&image, NULL, numbers[i].type);
        gguf_put(&image, NULL, &numbers[i].bits, numbers[i].bytes);
    }
    gguf_kv_str(&image, "odd", "a\n\x1b[2J\x7f");
    gguf_kv_str(&image, "long", "0123456789abcdefghijklmnopqrstuvwxyz");
    gguf_kv_str(&image, "accents", "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9");
    gguf_info(&image, "t", 4, 0, 0, 0);
    gguf_data(&image, 32, 16);
    save(&image);
    assert_int_equal(gguf_open(folder_file(&folder, FILE_NAME), &g), 0);
    for (size_t i = 0; i < NUMBERS; i++) {
        int64_t n = 7;
        assert_shown(g, numbers[i].key, 64, numbers[i].shown);
        if (strcmp(numbers[i].key, "f64") != 0)
            assert_int_equal(gguf_int(g, numbers[i].key, INT64_MIN, INT64_MAX, &n), 0);
    }
    assert_shown(g, "odd", 64, "a  [2J ");
    assert_shown(g, "long", 37, "0123456789abcdefghijklmnopqrstuvwxyz");
    assert_shown(g, "long", 12, "01234567...");
    assert_shown(g, "long", 7, "012345");
    assert_shown(g, "accents", 14, "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9...");
    assert_shown(g, "accents", 13, "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9...");
    gguf_close(g);
}

/* ---- damage without a plan ---- */

static bool loads(const unsigned char *image, size_t bytes) {
    static float values[4096];
    struct weights *w;
    folder_write(&folder, FILE_NAME, image, bytes);
    outrider_status status = weights_open(folder_file(&folder, FILE_NAME), &w);
    if (status != OUTRIDER_OK) {
        assert_refused(status, FILE_NAME, "");
        return false;
    }
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        const size_t n = t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype);
        assert_true(t->bytes <= bytes && n <= 4096);
        if (t->n_dims == 1) assert_int_equal(weights_vector(t, values), 0);
        if (t->n_dims == 2) assert_int_equal(weights_rows(t, DTYPE_F32, 2, values), 0);
    }
    weights_close(w);
    return true;
}

static void every_prefix(void **state) {
    (void)state;
    static struct gguf_image g;
    make_good(&g);
    for (size_t n = 1; n < g.n; n++) assert_false(loads(g.data, n));
    assert_true(loads(g.data, g.n));
}

static void flipped_bits(void **state) {
    (void)state;
    static struct gguf_image g;
    make_good(&g);
    uint32_t seed = 1;
    size_t loaded = 0;
    enum { FLIPS = 6000 };
    for (int i = 0; i < FLIPS; i++) {
        uint32_t bit = next_random(&seed) % (uint32_t)(g.n * 8);
        g.data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        loaded += loads(g.data, g.n);
        g.data[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_true(loaded > FLIPS / 10 && loaded < FLIPS * 9 / 10);
}

int main(void) {
    static struct test_list tests;
    folder = folder_make();
    ADD(&tests, good_file);
    ADD(&tests, good_metadata);
    ADD(&tests, rows_in_pairs);
    ADD(&tests, vectors_in_pairs);
    ADD(&tests, names_of_tensors);
    ADD_ROWS(&tests, bad_fields, bad_field, "%s %llx", bad_fields[i].field,
             (unsigned long long)bad_fields[i].value);
    ADD(&tests, duplicates);
    ADD(&tests, short_files);
    ADD(&tests, alignment_of_another_type);
    ADD(&tests, odd_heads);
    ADD(&tests, odd_files);
    ADD(&tests, split_model);
    ADD_ROWS(&tests, bad_splits, bad_split, "split: %s", bad_splits[i].name);
    ADD(&tests, several_models);
    ADD(&tests, parts_are_known_by_their_names);
    ADD(&tests, parts_without_numbers);
    ADD(&tests, values_are_shown);
    ADD(&tests, every_prefix);
    ADD(&tests, flipped_bits);
    int failed = test_run(&tests, "gguf");
    folder_remove(&folder);
    return failed;
}

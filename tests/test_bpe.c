/* tokenizer.json against the reference library's ids: small tokenizers with the structure of published
 * families and some two thousand lines each, made by tools/golden_tokenizers.py; damaged files; and what
 * every tokenizer promises: text comes back byte for byte and never yields a control token. */
#include "tests/helpers_tokenizer.h"

#include <jansson.h>
#include <time.h>

#include "tokenizer/precheck.h"

#define GOLDEN "tests/golden/tokenizers"

static const struct family {
    const char *name;
    bool bytes_return; /* decoding gives every text back: no normal form, no marker for spaces */
} FAMILIES[] = {{"gpt2", true},   {"llama3", true}, {"qwen2", false},   {"tekken", true}, {"o200k", true},
                {"other", false}, {"phi3", false},  {"mistral", false}, {"gemma", false}, {"words", false}};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

static struct tokenizer *open_family(const char *name) {
    char path[128];
    struct tokenizer *t;
    snprintf(path, sizeof path, GOLDEN "/%s", name);
    if (tokenizer_open(path, &t) != OUTRIDER_OK) fail_msg("%s", outrider_error());
    return t;
}

/* A line of lines.txt in place: \xHH is a byte, a backslash one too. Returns its length. */
static size_t unescape(char *line) {
    size_t n = 0;
    for (const char *c = line; *c; n++) {
        unsigned byte;
        if (sscanf(c, "\\x%2x", &byte) == 1)
            line[n] = (char)byte, c += 4;
        else
            line[n] = *c++;
    }
    return n;
}

static unsigned hash_ids(const struct token_list *list) {
    unsigned h = 0x811C9DC5;
    for (size_t i = 0; i < list->n; i++)
        for (int shift = 0; shift < 32; shift += 8)
            h = (h ^ ((uint32_t)list->ids[i] >> shift & 0xFF)) * 0x01000193u;
    return h & 0xFFFFFF;
}

static void expect_ids(const struct tokenizer *t, const char *name, const char *text, size_t n, FILE *ids,
                       bool returns, int number) {
    unsigned expected;
    struct token_list list = {0};
    assert_int_equal(fscanf(ids, "%x", &expected), 1);
    assert_int_equal(tokenizer_encode(t, text, n, &list), OUTRIDER_OK);
    if (hash_ids(&list) != expected) {
        fprintf(stderr, "%s, line %d: %.*s\n ", name, number, (int)(n < 200 ? n : 200), text);
        for (size_t i = 0; i < list.n && i < 60; i++) fprintf(stderr, " %d", list.ids[i]);
        fail_msg("%s, line %d: other ids than the reference's", name, number);
    }
    if (returns) {
        size_t bytes;
        char *back = decode(t, &list, &bytes);
        assert_int_equal(bytes, n);
        assert_memory_equal(back, text, n);
        free(back);
    }
    for (size_t i = 0; i < list.n; i++) assert_false(tokenizer_is_control(t, list.ids[i]));
    token_list_free(&list);
}

static void compare_ids(struct tokenizer *t, const struct family *f) {
    static const char *const repeated[] = {"a", " ", "\n", "1", "\xC3\xA9", "\xE4\xB8\xAD"};
    char path[128], *line = NULL;
    snprintf(path, sizeof path, GOLDEN "/%s/ids.txt", f->name);
    FILE *lines = fopen(GOLDEN "/lines.txt", "r"), *ids = fopen(path, "r");
    assert_non_null(lines);
    assert_non_null(ids);
    size_t capacity = 0;
    int number = 0;
    while (getline(&line, &capacity, lines) > 0) {
        line[strcspn(line, "\n")] = 0;
        expect_ids(t, f->name, line, unescape(line), ids, f->bytes_return, ++number);
    }
    assert_true(number > 2000);
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++) {
        size_t step = strlen(repeated[i]), n = (1 << 20) / step * step;
        char *text = malloc(n);
        for (size_t at = 0; at < n; at += step) memcpy(text + at, repeated[i], step);
        clock_t began = clock();
        expect_ids(t, f->name, text, n, ids, f->bytes_return, ++number);
        assert_true((double)(clock() - began) / CLOCKS_PER_SEC < 10);
        free(text);
    }
    fclose(lines);
    fclose(ids);
    free(line);
    tokenizer_close(t);
}

static void ids_are_those_of_the_reference(void **state) {
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++) compare_ids(open_family(FAMILIES[i].name), &FAMILIES[i]);
}

/* Two tokenizers give two texts the same ids. */
static void same_ids(struct tokenizer *t, const char *text, size_t bytes, struct tokenizer *other,
                     const char *other_text, size_t other_bytes) {
    struct token_list got = {0}, expected = {0};
    assert_int_equal(tokenizer_encode(t, text, bytes, &got), OUTRIDER_OK);
    assert_int_equal(tokenizer_encode(other, other_text, other_bytes, &expected), OUTRIDER_OK);
    assert_int_equal(got.n, expected.n);
    assert_memory_equal(got.ids, expected.ids, got.n * sizeof *got.ids);
    token_list_free(&got);
    token_list_free(&expected);
}

/* ---- the same tokenizers inside GGUF files ---- */

static void put_u32(struct model_bytes *m, uint32_t x) {
    add(m, (const char *)&x, 4);
}
static void put_u64(struct model_bytes *m, uint64_t x) {
    add(m, (const char *)&x, 8);
}
static void put_string(struct model_bytes *m, const char *s, size_t n) {
    put_u64(m, n);
    add(m, s, n);
}
static void put_key(struct model_bytes *m, const char *key, uint32_t type) {
    put_string(m, key, strlen(key));
    put_u32(m, type);
}
static void put_text_key(struct model_bytes *m, const char *key, const char *value) {
    put_key(m, key, 8);
    put_string(m, value, strlen(value));
}
static void put_array_key(struct model_bytes *m, const char *key, uint32_t type, size_t n) {
    put_key(m, key, 9);
    put_u32(m, type);
    put_u64(m, n);
}
static struct model_bytes gguf_head(uint64_t keys) {
    struct model_bytes m = {0};
    add(&m, LITERAL("GGUF\3\0\0\0"));
    put_u64(&m, 0);
    put_u64(&m, keys);
    return m;
}

static struct tokenizer *open_gguf(struct model_bytes m) {
    char path[128];
    struct tokenizer *t;
    put_file("model.gguf", m.bytes, m.n);
    free(m.bytes);
    snprintf(path, sizeof path, "%s/model.gguf", folder());
    outrider_status status = tokenizer_open(path, &t);
    if (status != OUTRIDER_OK) fail_msg("%s", outrider_error());
    drop_file("model.gguf");
    return t;
}

static void put_merges(struct model_bytes *m, const json_t *merges) {
    const json_t *merge;
    size_t i;
    put_array_key(m, "tokenizer.ggml.merges", 8, json_array_size(merges));
    json_array_foreach(merges, i, merge) {
        char text[2048];
        if (json_is_string(merge))
            strcpy(text, json_string_value(merge));
        else
            sprintf(text, "%s %s", json_string_value(json_array_get(merge, 0)),
                    json_string_value(json_array_get(merge, 1)));
        put_string(m, text, strlen(text));
    }
}

static struct tokenizer *as_gguf(const char *name, const char *pre) {
    char path[128];
    snprintf(path, sizeof path, GOLDEN "/%s/tokenizer.json", name);
    json_t *root = json_load_file(path, 0, NULL), *id, *token;
    json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab"),
           *added = json_object_get(root, "added_tokens");
    const char *texts[2048] = {0}, *key;
    int32_t types[2048];
    size_t n = 0, i;
    json_object_foreach(vocab, key, id) texts[json_integer_value(id)] = key;
    for (; texts[n]; n++) types[n] = PIECE_NORMAL;
    json_array_foreach(added, i, token) {
        n = (size_t)json_integer_value(json_object_get(token, "id"));
        texts[n] = json_string_value(json_object_get(token, "content"));
        types[n++] = json_is_true(json_object_get(token, "special")) ? PIECE_CONTROL : PIECE_USER_DEFINED;
    }
    struct model_bytes m = gguf_head(6);
    put_text_key(&m, "general.architecture", "llama");
    put_text_key(&m, "tokenizer.ggml.model", "gpt2");
    put_text_key(&m, "tokenizer.ggml.pre", pre);
    put_array_key(&m, "tokenizer.ggml.tokens", 8, n);
    for (i = 0; i < n; i++) put_string(&m, texts[i], strlen(texts[i]));
    put_array_key(&m, "tokenizer.ggml.token_type", 5, n);
    for (i = 0; i < n; i++) put_u32(&m, (uint32_t)types[i]);
    put_merges(&m, json_object_get(json_object_get(root, "model"), "merges"));
    json_decref(root);
    return open_gguf(m);
}

static void gguf_files_give_the_same_ids(void **state) {
    (void)state;
    static const struct {
        struct family f;
        const char *pre;
    } cases[] = {{{"gpt2", true}, "gpt-2"}, {{"llama3", true}, "llama-bpe"}, {{"o200k", true}, "gpt-4o"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer *t = as_gguf(cases[i].f.name, cases[i].pre), *json = open_family(cases[i].f.name);
        assert_int_equal(tokenizer_difference(t, json), -1);
        tokenizer_close(json);
        compare_ids(t, &cases[i].f);
    }
}

/* The shipped sentencepiece model as the scores, types and pieces of a GGUF file. */
static void gguf_files_of_scores_are_sentencepiece_models(void **state) {
    (void)state;
    FILE *f = fopen("weights/tale/verifier/tokenizer.model", "rb");
    static unsigned char file[1 << 20];
    struct sp_model sp;
    assert_non_null(f);
    size_t n = fread(file, 1, sizeof file, f), held;
    fclose(f);
    assert_int_equal(precheck_read("tokenizer.model", file, n, &sp), OUTRIDER_OK);
    struct model_bytes m = gguf_head(8);
    put_text_key(&m, "general.architecture", "llama");
    put_text_key(&m, "tokenizer.ggml.model", "llama");
    put_text_key(&m, "tokenizer.chat_template", "{{ messages }}");
    put_key(&m, "tokenizer.ggml.bos_token_id", 4);
    put_u32(&m, (uint32_t)sp.bos);
    put_key(&m, "tokenizer.ggml.add_space_prefix", 7);
    add(&m, sp.add_dummy_prefix ? "\1" : "\0", 1);
    put_array_key(&m, "tokenizer.ggml.tokens", 8, (size_t)sp.n);
    for (int32_t i = 0; i < sp.n; i++) put_string(&m, sp.pieces[i].text, sp.pieces[i].bytes);
    put_array_key(&m, "tokenizer.ggml.scores", 6, (size_t)sp.n);
    for (int32_t i = 0; i < sp.n; i++) add(&m, (const char *)&sp.pieces[i].score, 4);
    put_array_key(&m, "tokenizer.ggml.token_type", 5, (size_t)sp.n);
    for (int32_t i = 0; i < sp.n; i++) put_u32(&m, sp.pieces[i].type);
    struct tokenizer *t = open_gguf(m), *shipped;
    precheck_free(&sp);
    assert_int_equal(tokenizer_open(SHIPPED, &shipped), OUTRIDER_OK);
    assert_string_equal(tokenizer_chat_template(t), "{{ messages }}");
    assert_int_equal(tokenizer_bos(t), tokenizer_bos(shipped));
    assert_true(tokenizer_add_bos(t));
    f = fopen("tests/data/held-out.txt", "rb");
    held = fread(file, 1, sizeof file, f);
    fclose(f);
    same_ids(t, (char *)file, held, shipped, (char *)file, held);
    tokenizer_close(t);
    tokenizer_close(shipped);
}

/* add_prefix_space: a text has the ids that it has behind a space, unless it begins with one. */
static void prefixes_of_bytes(void **state) {
    (void)state;
    json_t *root = json_load_file(GOLDEN "/gpt2/tokenizer.json", 0, NULL);
    struct tokenizer *plain = open_family("gpt2"), *prefixed;
    static const char *const texts[] = {"Hello", " Hello", "\xC3\xA9t\xC3\xA9", "1 a", " "};
    assert_non_null(root);
    json_object_set_new(json_object_get(root, "pre_tokenizer"), "add_prefix_space", json_true());
    char *text = json_dumps(root, 0);
    put_file("tokenizer.json", text, strlen(text));
    assert_int_equal(tokenizer_open(folder(), &prefixed), OUTRIDER_OK);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char spaced[32];
        snprintf(spaced, sizeof spaced, "%s%s", texts[i][0] == ' ' ? "" : " ", texts[i]);
        same_ids(prefixed, texts[i], strlen(texts[i]), plain, spaced, strlen(spaced));
    }
    free(text);
    json_decref(root);
    tokenizer_close(plain);
    tokenizer_close(prefixed);
    drop_file("tokenizer.json");
}

/* ---- bad files ---- */

/* tokenizer.json of the smallest model with one thing wrong: the line names file and field. */
#define SMALL(vocab, merges, rest)                                                                           \
    "{\"model\": {\"type\": \"BPE\", \"byte_fallback\": false, \"unk_token\": \"u\", \"vocab\": " vocab      \
    ", \"merges\": " merges "}" rest "}"
#define VOCAB "{\"u\": 0, \"a\": 1, \"b\": 2, \"ab\": 3}"
static const struct {
    const char *says, *text;
} BAD[] = {
    {"JSON", "{"},
    {"duplicate", SMALL("{\"a\": 0, \"a\": 1}", "[]", "")},
    {"model: not an object", "{}"},
    {"model.type WordPiece", "{\"model\": {\"type\": \"WordPiece\"}}"},
    {"model.vocab: not an object", SMALL("[]", "[]", "")},
    {"model.vocab: no tokens", SMALL("{}", "[]", "")},
    {"model.vocab[\"a\"]", SMALL("{\"a\": -1}", "[]", "")},
    {"model.vocab[\"a\"]", SMALL("{\"a\": 1048576}", "[]", "")},
    {"model.vocab[\"a\"]", SMALL("{\"a\": \"1\"}", "[]", "")},
    {"another token", SMALL("{\"u\": 0, \"b\": 0}", "[]", "")},
    {"model.unk_token", SMALL("{\"a\": 0}", "[]", "")},
    {"model.merges: not an array", SMALL(VOCAB, "{}", "")},
    {"model.merges[0]", SMALL(VOCAB, "[\"ab\"]", "")},
    {"model.merges[0]", SMALL(VOCAB, "[\"a b c\"]", "")},
    {"model.merges[1]", SMALL(VOCAB, "[\"a b\", [\"a\"]]", "")},
    {"model.merges[0]", SMALL(VOCAB, "[[\"b\", \"a\"]]", "")},
    {"added_tokens[0]", SMALL(VOCAB, "[]", ", \"added_tokens\": [{\"id\": 1, \"content\": \"x\"}]")},
    {"added_tokens[0]", SMALL(VOCAB, "[]", ", \"added_tokens\": [{\"id\": 1e9, \"content\": \"x\"}]")},
    {"normalizer: step 0, Lowercase", SMALL(VOCAB, "[]", ", \"normalizer\": {\"type\": \"Lowercase\"}")},
    {"pre_tokenizer: step 0, Whitespace",
     SMALL(VOCAB, "[]", ", \"pre_tokenizer\": {\"type\": \"Whitespace\"}")},
    {"no regular expression",
     SMALL(VOCAB, "[]",
           ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"},"
           " \"behavior\": \"Isolated\"}")},
    {"model: not an object", "{\"model\": []}"},
    {"model.continuing_subword_prefix",
     "{\"model\": {\"unk_token\": \"u\", \"continuing_subword_prefix\": \"##\", \"vocab\": {\"u\": 0, \"a\": "
     "1, \"b\": 2, \"ab\": 3}, \"merges\": []}}"},
    {"model.end_of_word_suffix", "{\"model\": {\"unk_token\": \"u\", \"end_of_word_suffix\": 3, \"vocab\": "
                                 "{\"u\": 0, \"a\": 1, \"b\": 2, \"ab\": 3}, \"merges\": []}}"},
    {"model.dropout", "{\"model\": {\"unk_token\": \"u\", \"dropout\": 0.1, \"vocab\": {\"u\": 0, \"a\": 1, "
                      "\"b\": 2, \"ab\": 3}, \"merges\": []}}"},
    {"model.ignore_merges", "{\"model\": {\"unk_token\": \"u\", \"ignore_merges\": true, \"vocab\": {\"u\": "
                            "0, \"a\": 1, \"b\": 2, \"ab\": 3}, \"merges\": []}}"},
    {"text would be lost",
     "{\"model\": {\"vocab\": {\"u\": 0, \"a\": 1, \"b\": 2, \"ab\": 3}, \"merges\": []}}"},
    {"model.unk_token",
     "{\"model\": {\"unk_token\": 3, \"vocab\": {\"u\": 0, \"a\": 1, \"b\": 2, \"ab\": 3}, \"merges\": []}}"},
    {"model.vocab[\"<0x00>\"]", "{\"model\": {\"byte_fallback\": true, \"vocab\": {\"u\": 0, \"a\": 1, "
                                "\"b\": 2, \"ab\": 3}, \"merges\": []}}"},
    {"added_tokens: not an array", SMALL(VOCAB, "[]", ", \"added_tokens\": {}")},
    {"added_tokens[0]: a token of no bytes",
     SMALL(VOCAB, "[]", ", \"added_tokens\": [{\"id\": 4, \"content\": 5}]")},
    {"added_tokens[0]: a token of no bytes",
     SMALL(VOCAB, "[]", ", \"added_tokens\": [{\"id\": 4, \"content\": \"\"}]")},
    {"added_tokens[0]: the id", SMALL(VOCAB, "[]", ", \"added_tokens\": [{\"content\": \"x\"}]")},
    {"added_tokens[0]: content differs",
     SMALL(VOCAB, "[]", ", \"added_tokens\": [{\"id\": 1, \"content\": \"b\"}]")},
    {"normalizer: not an object", SMALL(VOCAB, "[]", ", \"normalizer\": []")},
    {"normalizer: step 0, without a type", SMALL(VOCAB, "[]", ", \"normalizer\": {}")},
    {"normalizer.normalizers: not an array",
     SMALL(VOCAB, "[]", ", \"normalizer\": {\"type\": \"Sequence\"}")},
    {"normalizer.normalizers[0]: not an object",
     SMALL(VOCAB, "[]", ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [1]}")},
    {"normalizer.normalizers: too many steps",
     SMALL(VOCAB, "[]",
           ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}]}")},
    {"normalizer: step 1, NFD", SMALL(VOCAB, "[]",
                                      ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": "
                                      "[{\"type\": \"NFC\"}, {\"type\": \"NFD\"}]}")},
    {"normalizer: step 1, NFC",
     SMALL(VOCAB, "[]",
           ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", "
           "\"prepend\": \"\xE2\x96\x81\"}, {\"type\": \"NFC\"}]}")},
    {"normalizer: step 1, NFC",
     SMALL(VOCAB, "[]",
           ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Replace\", "
           "\"pattern\": {\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}, {\"type\": \"NFC\"}]}")},
    {"normalizer: step 0, Prepend",
     SMALL(VOCAB, "[]", ", \"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"x\"}")},
    {"normalizer: step 1, Prepend",
     SMALL(VOCAB, "[]",
           ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", "
           "\"prepend\": \"\xE2\x96\x81\"}, {\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"}]}")},
    {"normalizer: step 0, Replace", SMALL(VOCAB, "[]",
                                          ", \"normalizer\": {\"type\": \"Replace\", \"pattern\": "
                                          "{\"String\": \"a\"}, \"content\": \"\xE2\x96\x81\"}")},
    {"normalizer: step 0, Replace",
     SMALL(
         VOCAB, "[]",
         ", \"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"_\"}")},
    {"pre_tokenizer: not an object", SMALL(VOCAB, "[]", ", \"pre_tokenizer\": 3")},
    {"step 0.behavior", SMALL(VOCAB, "[]",
                              ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, "
                              "\"behavior\": \"MergedWithNext\"}")},
    {"step 0.pattern",
     SMALL(VOCAB, "[]",
           ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {}, \"behavior\": \"Isolated\"}")},
    {"step 0.pattern", SMALL(VOCAB, "[]",
                             ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": "
                             "\"a\\\\Eb\"}, \"behavior\": \"Isolated\"}")},
    {"step 0.pattern",
     SMALL(
         VOCAB, "[]",
         ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": "
         "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}, \"behavior\": \"Isolated\"}")},
    {"a pattern of 0 bytes", SMALL(VOCAB, "[]",
                                   ", \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": "
                                   "\"\"}, \"behavior\": \"Isolated\"}")},
    {"step 0.replacement",
     SMALL(VOCAB, "[]", ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\"}")},
    {"step 0.prepend_scheme", SMALL(VOCAB, "[]",
                                    ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": "
                                    "\"\xE2\x96\x81\", \"prepend_scheme\": \"some\"}")},
    {"behind the last step",
     SMALL(VOCAB, "[]",
           ", \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Metaspace\", "
           "\"replacement\": \"\xE2\x96\x81\"}, {\"type\": \"Digits\"}]}")},
    {"behind the last step",
     SMALL(VOCAB, "[]",
           ", \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\", "
           "\"add_prefix_space\": false}, {\"type\": \"Digits\"}]}")},
    {"add_prefix_space", SMALL(VOCAB, "[]",
                               ", \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
                               "\"Digits\"}, {\"type\": \"ByteLevel\"}]}")},
    {"are mixed", SMALL(VOCAB, "[]", ", \"pre_tokenizer\": {\"type\": \"Digits\"}")},
    {"are mixed",
     SMALL(VOCAB, "[]", ", \"pre_tokenizer\": {\"type\": \"Digits\", \"individual_digits\": true}")},
    {"more than",
     SMALL(VOCAB, "[]",
           ", \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\"}, "
           "{\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, "
           "{\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, "
           "{\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, "
           "{\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}]}")},
    {"a second prefix",
     SMALL(VOCAB, "[]",
           ", \"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"}, \"pre_tokenizer\": "
           "{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\"}")},
    {"are mixed", SMALL(VOCAB, "[]",
                        ", \"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"}, "
                        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}")},
    {"are mixed",
     SMALL(VOCAB, "[]",
           ", \"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
           "\"\xE2\x96\x81\"}, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}")},
    {"decoder: not an object", SMALL(VOCAB, "[]", ", \"decoder\": []")},
    {"decoder.decoders: not an array", SMALL(VOCAB, "[]", ", \"decoder\": {\"type\": \"Sequence\"}")},
    {"post_processor: not an object", SMALL(VOCAB, "[]", ", \"post_processor\": \"x\"")},
    {"post_processor: zz", SMALL(VOCAB, "[]",
                                 ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
                                 "[{\"SpecialToken\": {\"id\": \"zz\"}}]}")},
    {"post_processor: a", SMALL(VOCAB, "[]",
                                ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
                                "[{\"SpecialToken\": {\"id\": \"a\"}}]}")},
    {"model.merges[0]", SMALL(VOCAB, "[[1, \"a\"]]", "")},
    {"model.merges[0]", SMALL(VOCAB, "[[\"a\", 1]]", "")},
    {"model.merges[0]", SMALL(VOCAB, "[5]", "")},
    {"model.merges[0]", SMALL(VOCAB, "[\" a\"]", "")},
    {"model.merges[0]", SMALL(VOCAB, "[\"a \"]", "")},
    {"model.merges[0]", SMALL(VOCAB, "[[\"a\", \"\"]]", "")},
    {"model.merges[0]",
     SMALL(VOCAB,
           "[\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx a\"]",
           "")},
    {"model.vocab[\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"]",
     SMALL("{\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\": 0}",
           "[]", "")},
    {"longer than 512",
     SMALL("{\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\": 0}",
           "[]", "")},
    {"a token of no bytes", SMALL("{\"\": 0}", "[]", "")},
    {"added_tokens[0]: longer than 512",
     SMALL(VOCAB, "[]",
           ", \"added_tokens\": [{\"id\": 4, \"content\": "
           "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}]")},
    {"byte 0x00",
     SMALL(VOCAB, "[]", ", \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}")},
};

/* What may be missing, or be there without a meaning: how many tokens the text then has. */
static const struct {
    const char *text;
    size_t n;
    const char *file;
} GOOD_FILES[] = {
    {"abab a", 4, SMALL(VOCAB, "[\"a b\"]", "")},
    {"ab", 1,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"normalizer\": null, \"pre_tokenizer\": null, \"post_processor\": null, \"decoder\": null, "
           "\"added_tokens\": null")},
    {"ab", 1,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": "
           "\"A\"}}]}")},
    {"ab", 1, SMALL(VOCAB, "[\"a b\"]", ", \"post_processor\": {\"type\": \"TemplateProcessing\"}")},
    {"ab", 1,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"post_processor\": {\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\"}]}")},
    {"ab", 1,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []}, \"decoder\": {\"type\": "
           "\"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}]}")},
    {"ab", 1,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", "
           "\"prepend_scheme\": \"never\"}")},
    {"ab", 1,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", "
           "\"add_prefix_space\": false}")},
    {"ab", 2,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\"}")},
    {"ab", 2,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", "
           "\"prepend_scheme\": \"first\", \"split\": false}")},
    {"ab", 2,
     SMALL(VOCAB, "[\"a b\"]", ", \"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"}")},
    {"a<x>b", 3,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"added_tokens\": [{\"id\": 4, \"content\": \"<x>\", \"special\": false}]")},
    {"ab", 2,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"added_tokens\": [{\"id\": 1, \"content\": \"a\", \"special\": true}]")}, /* no merge of */
    {"ab", 2,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"added_tokens\": [{\"id\": 2, \"content\": \"b\", \"special\": true}]")}, /* or with */
    {"ab", 2,
     SMALL(VOCAB, "[\"a b\"]",
           ", \"added_tokens\": [{\"id\": 3, \"content\": \"ab\", \"special\": true}]")}, /* or to a control
                                                                                             token */
};

static void unusual_files_are_read(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof GOOD_FILES / sizeof *GOOD_FILES; i++) {
        struct tokenizer *t;
        struct token_list list = {0};
        put_file("tokenizer.json", GOOD_FILES[i].file, strlen(GOOD_FILES[i].file));
        if (tokenizer_open(folder(), &t) != OUTRIDER_OK)
            fail_msg("%s: %s", GOOD_FILES[i].file, outrider_error());
        assert_int_equal(tokenizer_encode(t, GOOD_FILES[i].text, strlen(GOOD_FILES[i].text), &list),
                         OUTRIDER_OK);
        if (list.n != GOOD_FILES[i].n) fail_msg("%s: %zu tokens", GOOD_FILES[i].file, list.n);
        token_list_free(&list);
        tokenizer_close(t);
    }
    drop_file("tokenizer.json");
}

static void bad_files_are_refused(void **state) {
    (void)state;
    struct tokenizer *t;
    put_file("tokenizer.json", LITERAL(SMALL(VOCAB, "[\"a b\"]", "")));
    assert_int_equal(tokenizer_open(folder(), &t), OUTRIDER_OK);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, "abca", 4, &list), OUTRIDER_OK);
    assert_int_equal(list.n, 3);
    assert_int_equal(list.ids[0], 3);
    assert_int_equal(list.ids[1], 0);
    token_list_free(&list);
    tokenizer_close(t);
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        put_file("tokenizer.json", BAD[i].text, strlen(BAD[i].text));
        if (tokenizer_open(folder(), &t) != OUTRIDER_EMODEL) fail_msg("accepted: %s", BAD[i].text);
        if (!strstr(outrider_error(), BAD[i].says) || !strstr(outrider_error(), "tokenizer.json"))
            fail_msg("says \"%s\" of %s", outrider_error(), BAD[i].text);
    }
    drop_file("tokenizer.json");
}

/* A family's file cut short, or with bytes changed: an error, or a tokenizer that can be used. */
static void damaged_files_are_an_error_or_a_tokenizer(void **state) {
    (void)state;
    static char file[1 << 16];
    FILE *f = fopen(GOLDEN "/qwen2/tokenizer.json", "rb");
    assert_non_null(f);
    size_t n = fread(file, 1, sizeof file, f);
    fclose(f);
    uint64_t seed = 1;
    for (int round = 0; round < 400; round++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t at = (seed >> 33) % n;
        char old = file[at];
        file[at] = (char)(seed >> 25);
        put_file("tokenizer.json", file, round % 4 ? n : at);
        struct tokenizer *t;
        struct token_list list = {0};
        if (tokenizer_open(folder(), &t) == OUTRIDER_OK) {
            assert_int_equal(tokenizer_encode(t, LITERAL("It's 42 <tool>\n\n e\xCC\x81\xFF"), &list),
                             OUTRIDER_OK);
            tokenizer_close(t);
        }
        token_list_free(&list);
        file[at] = old;
    }
    drop_file("tokenizer.json");
}

/* Patterns of strangers may take no longer than is reasonable, and end in one line. */
static void hostile_patterns_are_stopped(void **state) {
    (void)state;
    char path[] = GOLDEN "/other/tokenizer.json";
    json_t *root = json_load_file(path, 0, NULL);
    json_t *split =
        json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 1);
    json_object_set_new(json_object_get(split, "pattern"), "Regex", json_string("(a+)+b"));
    char *text = json_dumps(root, 0), many[64];
    put_file("tokenizer.json", text, strlen(text));
    struct tokenizer *t;
    struct token_list list = {0};
    assert_int_equal(tokenizer_open(folder(), &t), OUTRIDER_OK);
    memset(many, 'a', sizeof many);
    memcpy(many + sizeof many - 2, "cb", 2); /* or the search would see at once that there is no b */
    assert_int_equal(tokenizer_encode(t, many, sizeof many, &list), OUTRIDER_EMODEL);
    assert_non_null(strstr(outrider_error(), "pattern"));
    assert_int_equal(list.n, 0);
    free(text);
    json_decref(root);
    tokenizer_close(t);
    drop_file("tokenizer.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_the_reference),
        cmocka_unit_test(gguf_files_give_the_same_ids),
        cmocka_unit_test(gguf_files_of_scores_are_sentencepiece_models),
        cmocka_unit_test(prefixes_of_bytes),
        cmocka_unit_test(unusual_files_are_read),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(damaged_files_are_an_error_or_a_tokenizer),
        cmocka_unit_test(hostile_patterns_are_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}

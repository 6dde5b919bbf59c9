/* A GGUF model's merges over bytes as the tokenizer.json that they were made from, as the tokenizers library
 * reads it: vocabulary, merges in their order, added tokens, and the steps that the pre-tokenizer's name
 * stands for. Placeholders for unused ids are left out, as the original has none. */
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "weights/gguf_config.h"
#include "tokenizer/internal.h"
#include "weights/gguf.h"

#define KEY "tokenizer.ggml."

static outrider_status bad(const struct gguf *g, const char *key, size_t i, const char *what) {
    return fail(OUTRIDER_EMODEL, "%s: %s[%zu]: %s", gguf_path(g), key, i, what);
}

static json_t *added_token(size_t id, json_t *content, bool special) {
    return json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", content,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special);
}

static outrider_status put_tokens(const struct gguf *g, json_t *vocab, json_t *added) {
    struct gguf_value tokens, types;
    TRY(gguf_array(g, KEY "tokens", GGUF_STRINGS, &tokens));
    TRY(gguf_array(g, KEY "token_type", GGUF_INTS, &types));
    for (size_t i = 0, n = tokens.n; i < n; i++) {
        struct gguf_string s = gguf_next_string(&tokens);
        int64_t type = types.n == n ? gguf_int_at(&types, i) : PIECE_NORMAL;
        if (type == PIECE_UNUSED) continue;
        if (s.bytes == 0 || memchr(s.at, 0, s.bytes))
            return bad(g, KEY "tokens", i, "empty, or with a NUL byte");
        json_t *content;
        TRY(gguf_json_text(g, s, KEY "tokens", &content));
        if (type == PIECE_CONTROL || type == PIECE_USER_DEFINED) {
            if (json_array_append_new(added, added_token(i, content, type == PIECE_CONTROL)))
                return fail_memory("tokenizer.json", s.bytes);
            continue;
        }
        const char *key = json_string_value(content);
        bool twice = json_object_get(vocab, key);
        int failed = twice ? 0 : json_object_set_new(vocab, key, json_integer((json_int_t)i));
        json_decref(content);
        if (twice) return bad(g, KEY "tokens", i, "the text of another token too");
        if (failed) return fail_memory("tokenizer.json", s.bytes);
    }
    return OUTRIDER_OK;
}

static outrider_status put_merges(const struct gguf *g, json_t *merges) {
    struct gguf_value all;
    TRY(gguf_array(g, KEY "merges", GGUF_STRINGS, &all));
    for (size_t i = 0, n = all.n; i < n; i++) {
        json_t *merge;
        TRY(gguf_json_text(g, gguf_next_string(&all), KEY "merges", &merge));
        if (json_array_append_new(merges, merge)) return fail_memory("tokenizer.json", n);
    }
    return OUTRIDER_OK;
}

/* What puts the beginning-of-text token in front; else what keeps offsets, which nothing here needs. */
static json_t *post_processor(const json_t *added, int64_t bos) {
    json_t *token;
    size_t i;
    json_array_foreach(added, i, token) {
        if (json_integer_value(json_object_get(token, "id")) != bos) continue;
        const char *name = json_string_value(json_object_get(token, "content"));
        return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                         " s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}],"
                         " s:{s:{s:s, s:[I], s:[s]}}}",
                         "type", "TemplateProcessing", "single", "SpecialToken", "id", name, "type_id", 0,
                         "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", name, "type_id",
                         0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", name, "type_id", 1,
                         "Sequence", "id", "B", "type_id", 1, "special_tokens", name, "id", name, "ids",
                         (json_int_t)bos, "tokens", name);
    }
    return json_null();
}

static json_t *byte_level(void) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                     "use_regex", 0);
}

static json_t *root_of(const struct gguf_form *form, json_t *added, json_t *vocab, json_t *merges,
                       int64_t bos) {
    json_t *split = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", form->pattern,
                              "behavior", "Isolated", "invert", 0);
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE", "dropout", "unk_token",
                  "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                  "ignore_merges", (int)form->ignores_merges, "vocab", vocab, "merges", merges);
    json_t *normalizer = form->composes ? json_pack("{s:s}", "type", "NFC") : json_null();
    return json_pack("{s:s, s:n, s:n, s:O, s:o, s:{s:s, s:[o, o]}, s:o, s:o, s:o}", "version", "1.0",
                     "truncation", "padding", "added_tokens", added, "normalizer", normalizer,
                     "pre_tokenizer", "type", "Sequence", "pretokenizers", split, byte_level(),
                     "post_processor", form->adds_bos ? post_processor(added, bos) : byte_level(), "decoder",
                     byte_level(), "model", model);
}

outrider_status tokenizer_gguf_json(const struct gguf *g, json_t **out) {
    struct gguf_form form;
    int64_t bos = -1;
    *out = NULL;
    TRY(gguf_form_read(g, &form));
    TRY(gguf_int(g, KEY "bos_token_id", 0, INT32_MAX, &bos));
    json_t *added = json_array(), *vocab = json_object(), *merges = json_array();
    outrider_status status = added && vocab && merges ? OUTRIDER_OK : fail_memory("tokenizer.json", 1);
    if (status == OUTRIDER_OK) status = put_tokens(g, vocab, added);
    if (status == OUTRIDER_OK) status = put_merges(g, merges);
    if (status == OUTRIDER_OK && !(*out = root_of(&form, added, vocab, merges, bos)))
        status = fail_memory("tokenizer.json", 1);
    json_decref(added);
    json_decref(vocab);
    json_decref(merges);
    return status;
}

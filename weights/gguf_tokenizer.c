/* The tokenizer in a GGUF model as the files of a folder; see gguf_config.h. A sentencepiece model is written
 * as the protocol buffer it was; of one with merges, tokenizer/gguf_json.c makes the tokenizer.json. */
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "weights/gguf_config.h"

#define KEY "tokenizer.ggml."
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, BYTE = 6 };

struct vocabulary {
    const struct gguf *g;
    struct gguf_value tokens, types, scores;
};

static outrider_status read_vocabulary(const struct gguf *g, struct vocabulary *v) {
    v->g = g;
    TRY(gguf_array(g, KEY "tokens", GGUF_STRINGS, &v->tokens));
    TRY(gguf_array(g, KEY "token_type", GGUF_INTS, &v->types));
    TRY(gguf_array(g, KEY "scores", GGUF_FLOATS, &v->scores));
    if (v->tokens.n > 0 && v->types.n == v->tokens.n && (v->scores.n == 0 || v->scores.n == v->tokens.n))
        return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL,
                "%s: metadata \"" KEY "tokens\" is empty, or its types or scores are not as many",
                gguf_path(g));
}

static outrider_status id_of(const struct gguf *g, const char *key, int64_t *id) {
    *id = -1;
    return gguf_int(g, key, 0, INT32_MAX, id);
}

/* ---- tokenizer.model: fields of sentencepiece_model.proto ---- */

struct buffer {
    unsigned char *data;
    size_t n, room;
    bool failed;
};

static void put(struct buffer *b, const void *data, size_t n) {
    if (!b->failed && n > b->room - b->n) {
        size_t room = 2 * (b->n + n) + 1024;
        unsigned char *grown = realloc(b->data, room);
        b->failed = !grown;
        if (grown) b->data = grown, b->room = room;
    }
    if (b->failed) return;
    if (n > 0) memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_varint(struct buffer *b, uint64_t value) {
    for (; value >= 128; value >>= 7) put(b, &(unsigned char){(unsigned char)(value | 128)}, 1);
    put(b, &(unsigned char){(unsigned char)value}, 1);
}

static void put_field(struct buffer *b, unsigned number, uint64_t value) {
    put_varint(b, number << 3);
    put_varint(b, value);
}

static void put_bytes(struct buffer *b, unsigned number, const void *data, size_t n) {
    put_varint(b, number << 3 | 2);
    put_varint(b, n);
    put(b, data, n);
}

static void put_piece(struct buffer *b, struct buffer *piece, struct gguf_string text, float score,
                      int64_t type) {
    piece->n = 0;
    put_bytes(piece, 1, text.at, text.bytes);
    put_varint(piece, 2 << 3 | 5);
    put(piece, &score, sizeof score);
    put_field(piece, 3, (uint64_t)type);
    put_bytes(b, 1, piece->data, piece->n);
}

static outrider_status put_specs(const struct vocabulary *v, struct buffer *b, struct buffer *spec,
                                 bool bytes) {
    static const struct {
        const char *key;
        unsigned field;
    } ids[] = {{KEY "unknown_token_id", 40}, {KEY "bos_token_id", 41}, {KEY "eos_token_id", 42}};
    enum { BPE = 2 };
    bool prefix = true, squeeze = false;
    spec->n = 0;
    put_field(spec, 3, BPE);
    put_field(spec, 35, bytes);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        int64_t id;
        TRY(id_of(v->g, ids[i].key, &id));
        put_field(spec, ids[i].field, (uint64_t)id); /* -1 is ten bytes there, for none */
    }
    put_bytes(b, 2, spec->data, spec->n);
    TRY(gguf_bool(v->g, KEY "add_space_prefix", &prefix));
    TRY(gguf_bool(v->g, KEY "remove_extra_whitespaces", &squeeze));
    spec->n = 0;
    put_bytes(spec, 1, "identity", 8);
    put_field(spec, 3, prefix);
    put_field(spec, 4, squeeze);
    put_field(spec, 5, 1);
    put_bytes(b, 3, spec->data, spec->n);
    return OUTRIDER_OK;
}

static outrider_status write_model(const struct vocabulary *v, struct tokenizer_files *out) {
    struct buffer b = {0}, part = {0};
    struct gguf_value tokens = v->tokens;
    bool bytes = false;
    for (size_t i = 0; i < tokens.n; i++) {
        int64_t type = gguf_int_at(&v->types, i);
        put_piece(&b, &part, gguf_next_string(&tokens), v->scores.n ? gguf_float_at(&v->scores, i) : 0, type);
        bytes |= type == BYTE;
    }
    outrider_status status = put_specs(v, &b, &part, bytes);
    free(part.data);
    if (status == OUTRIDER_OK && (b.failed || part.failed)) status = fail_memory("tokenizer.model", b.n);
    if (status != OUTRIDER_OK) {
        free(b.data);
        return status;
    }
    out->model = b.data;
    out->model_bytes = b.n;
    return OUTRIDER_OK;
}

/* ---- tokenizer_config.json ---- */

static outrider_status text_of(const struct vocabulary *v, int64_t id, json_t **out) {
    struct gguf_value tokens = v->tokens;
    struct gguf_string s = {"", 0};
    if (id >= (int64_t)tokens.n)
        return fail(OUTRIDER_EMODEL, "%s: a special token is %lld of %zu", gguf_path(v->g), (long long)id,
                    tokens.n);
    for (int64_t i = 0; i <= id; i++) s = gguf_next_string(&tokens);
    if (id >= 0) return gguf_json_text(v->g, s, "a special token", out);
    *out = json_null();
    return OUTRIDER_OK;
}

static outrider_status put_entry(json_t *config, const char *name, json_t *value) {
    if (value && json_object_set_new(config, name, value) == 0) return OUTRIDER_OK;
    return fail_memory(name, sizeof(json_t *));
}

static outrider_status write_config(const struct vocabulary *v, bool merged, json_t *config) {
    static const char *const keys[][2] = {{KEY "bos_token_id", "bos_token"},
                                          {KEY "eos_token_id", "eos_token"}};
    struct gguf_string template = {NULL, 0};
    for (int i = 0; i < 2; i++) {
        int64_t id;
        json_t *text;
        TRY(id_of(v->g, keys[i][0], &id));
        TRY(text_of(v, id, &text));
        TRY(put_entry(config, keys[i][1], text));
    }
    bool add_bos = true; /* where nothing is said; of merges the name says it */
    TRY(gguf_bool(v->g, KEY "add_bos_token", &add_bos));
    if (!merged || gguf_find(v->g, KEY "add_bos_token"))
        TRY(put_entry(config, "add_bos_token", json_boolean(add_bos)));
    if (merged) TRY(put_entry(config, "tokenizer_class", json_string("PreTrainedTokenizerFast")));
    TRY(gguf_text(v->g, "tokenizer.chat_template", &template));
    if (!template.at) return OUTRIDER_OK;
    json_t *text;
    TRY(gguf_json_text(v->g, template, "metadata \"tokenizer.chat_template\"", &text));
    return put_entry(config, "chat_template", text);
}

/* ---- all ---- */

static outrider_status read_kind(const struct gguf *g, bool *merged) {
    struct gguf_string kind = {"", 0};
    TRY(gguf_text(g, KEY "model", &kind));
    *merged = kind.bytes == 4 && memcmp(kind.at, "gpt2", 4) == 0;
    if (*merged || (kind.bytes == 5 && memcmp(kind.at, "llama", 5) == 0)) return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL, "%s: metadata \"" KEY "model\" is not supported; llama and gpt2 are",
                gguf_path(g));
}

outrider_status gguf_tokenizer(const struct gguf *g, struct tokenizer_files *out) {
    struct vocabulary v;
    bool merged = false;
    *out = (struct tokenizer_files){.config = json_object()};
    outrider_status status = out->config ? read_kind(g, &merged) : fail_memory("a configuration", 1);
    if (status == OUTRIDER_OK) status = read_vocabulary(g, &v);
    if (status == OUTRIDER_OK && !merged) status = write_model(&v, out);
    if (status == OUTRIDER_OK) status = write_config(&v, merged, out->config);
    if (status != OUTRIDER_OK) tokenizer_files_free(out);
    return status;
}

void tokenizer_files_free(struct tokenizer_files *files) {
    json_decref(files->config);
    json_decref(files->json);
    free(files->model);
    *files = (struct tokenizer_files){0};
}

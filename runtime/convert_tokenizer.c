/* The tokenizer of a folder as GGUF metadata: sentencepiece models with their scores ("llama"), byte-level
 * merges
 * ("gpt2") with the name of their pre-tokenizer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert.h"
#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "weights/document.h"
#include "weights/map.h"

#define KEY "tokenizer.ggml."

struct vocabulary {
    const struct tokenizer *t;
    int32_t n; /* with the padding up to the model's */
    struct gguf_header *h;
};

/* ---- pieces ---- */

/* GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 on in order. */
static size_t put_byte(unsigned char byte, char *out) {
    static const unsigned ranges[][2] = {{0x21, 0x7E}, {0xA1, 0xAC}, {0xAE, 0xFF}};
    unsigned code = 0x100;
    for (unsigned i = 0; i <= byte; i++) {
        bool printable = false;
        for (int r = 0; r < 3; r++) printable |= i >= ranges[r][0] && i <= ranges[r][1];
        if (i == byte && printable) code = byte;
        if (i < byte && !printable) code++;
    }
    if (code < 0x80) return out[0] = (char)code, 1;
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
}

static void put_piece(const struct vocabulary *v, int32_t id) {
    char text[2 * PRECHECK_MAX_PIECE];
    size_t n = 0;
    if (id >= v->t->n || v->t->model.pieces[id].bytes == 0) {
        n = (size_t)snprintf(text, sizeof text, "[PAD%d]", id);
        gguf_put_string(v->h, text, n);
        return;
    }
    const struct piece *p = &v->t->model.pieces[id];
    if (!v->t->rules.byte_level || p->type != PIECE_NORMAL || p->flags & PIECE_LITERAL) {
        gguf_put_string(v->h, p->text, p->bytes);
        return;
    }
    for (size_t i = 0; i < p->bytes; i++) n += put_byte((unsigned char)p->text[i], text + n);
    gguf_put_string(v->h, text, n);
}

static void put_pieces(const struct vocabulary *v) {
    gguf_put_array(v->h, KEY "tokens", GGUF_STRING, (size_t)v->n);
    for (int32_t id = 0; id < v->n; id++) put_piece(v, id);
    gguf_put_array(v->h, KEY "token_type", GGUF_INT32, (size_t)v->n);
    for (int32_t id = 0; id < v->n; id++) {
        int32_t type = id < v->t->n ? v->t->model.pieces[id].type : PIECE_UNUSED;
        gguf_put_element(v->h, &type, sizeof type);
    }
    if (v->t->bpe) return;
    gguf_put_array(v->h, KEY "scores", GGUF_FLOAT32, (size_t)v->n);
    for (int32_t id = 0; id < v->n; id++) {
        float score = id < v->t->n ? v->t->model.pieces[id].score : -1e4f;
        gguf_put_element(v->h, &score, sizeof score);
    }
}

/* ---- byte-level merges ---- */

/* The name by which readers know a pre-tokenizer's pattern; NULL for none. */
static const char *name_of_pattern(const json_t *pre_tokenizer) {
    static const char *const names[] = {"llama-bpe", "qwen2", "gpt-2", "tekken", "gpt-4o"};
    const json_t *list = json_object_get(pre_tokenizer, "pretokenizers"), *step;
    const char *pattern = SPLIT_GPT2; /* what ByteLevel implies */
    size_t i;
    json_array_foreach(list, i, step) {
        const char *regex = json_string_value(json_object_get(json_object_get(step, "pattern"), "Regex"));
        if (regex) pattern = regex;
    }
    for (i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(split_pattern_of(names[i]), pattern) == 0) return names[i];
    return NULL;
}

static outrider_status put_merges(const struct vocabulary *v, const struct document *doc,
                                  const json_t *merges) {
    const json_t *merge;
    size_t i;
    gguf_put_array(v->h, KEY "merges", GGUF_STRING, json_array_size(merges));
    json_array_foreach(merges, i, merge) {
        char text[4 * PRECHECK_MAX_PIECE + 2];
        const char *left = json_string_value(json_array_get(merge, 0));
        const char *right = json_string_value(json_array_get(merge, 1)), *one = json_string_value(merge);
        int n =
            one ? snprintf(text, sizeof text, "%s", one) : snprintf(text, sizeof text, "%s %s", left, right);
        if (n < 0 || n >= (int)sizeof text || strchr(text, ' ') != strrchr(text, ' '))
            return fail(OUTRIDER_EMODEL, "%s: model.merges[%zu]: has no place in a GGUF file", doc->path, i);
        gguf_put_string(v->h, text, (size_t)n);
    }
    return OUTRIDER_OK;
}

static outrider_status put_merged(const struct vocabulary *v, const struct document *doc) {
    const char *pre = name_of_pattern(document_get(doc, "pre_tokenizer"));
    if (!pre)
        return fail(OUTRIDER_EMODEL, "%s: pre_tokenizer: a pattern that has no name in GGUF files",
                    doc->path);
    gguf_put_text(v->h, KEY "model", "gpt2", 4);
    gguf_put_text(v->h, KEY "pre", pre, strlen(pre));
    put_pieces(v);
    return put_merges(v, doc, json_object_get(document_get(doc, "model"), "merges"));
}

/* ---- all ---- */

static outrider_status put_scored(const struct vocabulary *v, const char *dir) {
    const struct sp_model *m = &v->t->model;
    if (v->t->bpe || m->unigram)
        return fail(OUTRIDER_EMODEL, "%s: %s", dir,
                    m->unigram
                        ? "tokenizer.model: a Unigram model, which GGUF files of this kind do not hold"
                        : "tokenizer.json: merges over characters need the tokenizer.model they come from");
    gguf_put_text(v->h, KEY "model", "llama", 5);
    gguf_put_text(v->h, KEY "pre", "default", 7);
    put_pieces(v);
    gguf_put_int(v->h, KEY "unknown_token_id", GGUF_UINT32, m->unk);
    gguf_put_bool(v->h, KEY "add_space_prefix", m->add_dummy_prefix);
    gguf_put_bool(v->h, KEY "remove_extra_whitespaces", m->remove_extra_whitespaces);
    return OUTRIDER_OK;
}

static outrider_status put_kind(const struct vocabulary *v, const char *dir) {
    enum { MAX_VALUES = 1 << 22 };
    struct mapping map;
    json_t *root = NULL;
    if (!v->t->bpe || !v->t->rules.byte_level) return put_scored(v, dir);
    TRY(map_open(dir, "tokenizer.json", NULL, &map));
    outrider_status status = document_parse_large(map.path, map.data, map.bytes, MAX_VALUES, &root);
    const struct document doc = {map.path, root};
    if (status == OUTRIDER_OK) status = put_merged(v, &doc);
    json_decref(root);
    map_close(&map);
    return status;
}

outrider_status convert_tokenizer(const char *dir, const struct model_config *config, struct gguf_header *h) {
    struct tokenizer *t;
    TRY(tokenizer_open(dir, &t));
    const struct vocabulary v = {t, config->vocab_size, h}; /* no fewer than t->n: conversion_check */
    const int32_t eos = t->eos >= 0 ? t->eos : config->n_eos ? config->eos_token_id[0] : -1;
    outrider_status status = put_kind(&v, dir);
    if (t->bos >= 0) gguf_put_int(h, KEY "bos_token_id", GGUF_UINT32, t->bos);
    if (eos >= 0) gguf_put_int(h, KEY "eos_token_id", GGUF_UINT32, eos);
    /* the other tokens that end an answer: readers know one more by a key of its own */
    for (int32_t i = 0, put = 0; i < config->n_eos && !put; i++)
        if (config->eos_token_id[i] != eos) {
            gguf_put_int(h, KEY "eot_token_id", GGUF_UINT32, config->eos_token_id[i]);
            put = 1;
        }
    gguf_put_bool(h, KEY "add_bos_token", t->add_bos);
    if (t->chat_template)
        gguf_put_text(h, "tokenizer.chat_template", t->chat_template, strlen(t->chat_template));
    tokenizer_close(t);
    return status;
}

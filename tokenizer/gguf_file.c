/* The tokenizer inside a GGUF file: tokenizer.ggml.model "llama" (sentencepiece's BPE by scores) or "gpt2"
 * (merges over bytes, with a pre-tokenizer known by name), and the chat template.
 *
 * Invariant: what is kept is copied, for the mapping is closed again. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "weights/gguf.h"

enum { TEMPLATE_MAX = 1 << 20 };
#define KEY "tokenizer.ggml."

struct source {
    struct tokenizer *t;
    const struct gguf *g;
    const char *path;
};

static outrider_status bad(const struct source *s, const char *key, size_t i, const char *what) {
    return fail(OUTRIDER_EMODEL, "%s: %s[%zu]: %s", s->path, key, i, what);
}

static bool is(struct gguf_string s, const char *text) {
    return s.bytes == strlen(text) && memcmp(s.at, text, s.bytes) == 0;
}

/* ---- pieces ---- */

/* The text of a piece as this room keeps it, written to `out`; how many bytes. */
static outrider_status put_text(const struct source *s, size_t i, struct gguf_string text, struct piece *p,
                                char *out) {
    bool byte_level = s->t->rules.byte_level;
    size_t n = 0;
    if (text.bytes == 0 || text.bytes > 2 * PRECHECK_MAX_PIECE)
        return bad(s, KEY "tokens", i, "a token of no bytes, or of more than 1024");
    if (byte_level && p->type == PIECE_NORMAL && (n = byte_level_text(text.at, text.bytes, out)) == 0)
        p->flags |= PIECE_LITERAL;
    if (n == 0) memcpy(out, text.at, n = text.bytes);
    if (n > PRECHECK_MAX_PIECE) return bad(s, KEY "tokens", i, "longer than 512 bytes");
    if (!byte_level && (memchr(out, 0, n) || run_length(out, n, true) < n))
        return bad(s, KEY "tokens", i, "not UTF-8, or with a NUL byte");
    p->text = out;
    p->bytes = (uint16_t)n;
    return OUTRIDER_OK;
}

static outrider_status put_score(const struct source *s, size_t i, float score, struct piece *p) {
    if (isfinite(score) && fabsf(score) <= 1e9F) return p->score = score, OUTRIDER_OK;
    return p->type == PIECE_NORMAL ? bad(s, KEY "scores", i, "not a finite number within 1e9") : OUTRIDER_OK;
}

static outrider_status put_pieces(const struct source *s, struct gguf_value tokens,
                                  const struct gguf_value *types, const struct gguf_value *scores) {
    struct piece *pieces = s->t->model.pieces;
    char *at = s->t->texts;
    for (size_t i = 0; i < tokens.n; i++) {
        int64_t type = types->n ? gguf_int_at(types, i) : PIECE_NORMAL;
        if (type < PIECE_NORMAL || type > PIECE_BYTE) return bad(s, KEY "token_type", i, "unknown type");
        pieces[i] = (struct piece){.type = (uint8_t)type};
        TRY(put_text(s, i, gguf_next_string(&tokens), &pieces[i], at));
        at += pieces[i].bytes;
        if (scores->n) TRY(put_score(s, i, gguf_float_at(scores, i), &pieces[i]));
        if (s->t->rules.byte_level && type == PIECE_USER_DEFINED) pieces[i].flags |= PIECE_ADDED;
    }
    s->t->n = s->t->model.n = (int32_t)tokens.n;
    return OUTRIDER_OK;
}

static outrider_status check_length(const struct source *s, const char *key, const struct gguf_value *v,
                                    size_t n) {
    if (v->n == 0 || v->n == n) return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL, "%s: %s: %zu entries for %zu tokens", s->path, key, v->n, n);
}

static outrider_status read_pieces(const struct source *s) {
    struct gguf_value tokens, types, scores;
    size_t bytes = 1;
    TRY(gguf_array(s->g, KEY "tokens", GGUF_STRINGS, &tokens));
    TRY(gguf_array(s->g, KEY "token_type", GGUF_INTS, &types));
    TRY(gguf_array(s->g, KEY "scores", GGUF_FLOATS, &scores));
    if (tokens.n == 0 || tokens.n > PRECHECK_MAX_PIECES)
        return fail(OUTRIDER_EMODEL, "%s: " KEY "tokens: %zu of them; must be 1 to %d", s->path, tokens.n,
                    PRECHECK_MAX_PIECES);
    TRY(check_length(s, KEY "token_type", &types, tokens.n));
    TRY(check_length(s, KEY "scores", &scores, tokens.n));
    struct gguf_value counted = tokens;
    for (size_t i = 0; i < tokens.n; i++) bytes += gguf_next_string(&counted).bytes; /* within the file */
    s->t->model.pieces = calloc(tokens.n, sizeof *s->t->model.pieces);
    s->t->texts = malloc(bytes);
    if (!s->t->model.pieces || !s->t->texts) return fail_memory(s->path, bytes);
    return put_pieces(s, tokens, &types, &scores);
}

/* ---- special tokens ---- */

/* A special token by its key; it becomes a control piece. */
static outrider_status read_special(const struct source *s, const char *key, int32_t *out) {
    int64_t id = -1;
    *out = -1;
    TRY(gguf_int(s->g, key, 0, INT32_MAX, &id));
    if (id < 0) return OUTRIDER_OK;
    if (id >= s->t->n)
        return fail(OUTRIDER_EMODEL, "%s: %s: %lld of %d tokens", s->path, key, (long long)id, s->t->n);
    struct piece *p = &s->t->model.pieces[id];
    if (p->type == PIECE_NORMAL || p->type == PIECE_USER_DEFINED) p->type = PIECE_CONTROL;
    if (p->type == PIECE_CONTROL) *out = (int32_t)id;
    return OUTRIDER_OK;
}

static outrider_status read_specials(const struct source *s, bool add_bos) {
    int32_t ignored;
    TRY(read_special(s, KEY "bos_token_id", &s->t->bos));
    TRY(read_special(s, KEY "eos_token_id", &s->t->eos));
    TRY(read_special(s, KEY "eot_token_id", &ignored));
    TRY(gguf_bool(s->g, KEY "add_bos_token", &add_bos));
    s->t->add_bos = add_bos && s->t->bos >= 0;
    return OUTRIDER_OK;
}

/* Phi-3's control tokens take the white space behind them, which this format has no field for. */
static outrider_status apply_family(const struct source *s) {
    static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
    struct gguf_string architecture = {0};
    TRY(gguf_text(s->g, "general.architecture", &architecture));
    if (!is(architecture, "phi3") || s->t->rules.byte_level) return OUTRIDER_OK;
    for (int32_t id = 0; id < s->t->n; id++) {
        struct piece *p = &s->t->model.pieces[id];
        bool strips = p->type == PIECE_CONTROL || is((struct gguf_string){p->text, p->bytes}, "</s>");
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            strips &= !is((struct gguf_string){p->text, p->bytes}, plain[i]);
        if (strips) p->flags |= PIECE_RSTRIP;
    }
    return OUTRIDER_OK;
}

static outrider_status read_template(const struct source *s) {
    struct gguf_string text = {0};
    TRY(gguf_text(s->g, "tokenizer.chat_template", &text));
    if (text.bytes == 0) return OUTRIDER_OK;
    if (text.bytes > TEMPLATE_MAX || memchr(text.at, 0, text.bytes) ||
        run_length(text.at, text.bytes, true) < text.bytes)
        return fail(OUTRIDER_EMODEL, "%s: tokenizer.chat_template: longer than 1 MiB, or no UTF-8 text",
                    s->path);
    if (!(s->t->template_file = strndup(text.at, text.bytes))) return fail_memory("a template", text.bytes);
    s->t->chat_template = s->t->template_file;
    return OUTRIDER_OK;
}

/* ---- the two kinds ---- */

static outrider_status read_scored(const struct source *s) {
    struct sp_model *m = &s->t->model;
    m->escape_whitespaces = m->add_dummy_prefix = true;
    TRY(gguf_bool(s->g, KEY "add_space_prefix", &m->add_dummy_prefix));
    TRY(gguf_bool(s->g, KEY "remove_extra_whitespaces", &m->remove_extra_whitespaces));
    TRY(read_pieces(s));
    TRY(read_specials(s, true));
    for (int32_t id = 0; id < m->n; id++) m->byte_fallback |= m->pieces[id].type == PIECE_BYTE;
    return precheck_index(s->path, m);
}

static outrider_status read_merges(const struct source *s) {
    struct gguf_value merges;
    TRY(gguf_array(s->g, KEY "merges", GGUF_STRINGS, &merges));
    TRY(bpe_reserve(s->t->bpe, merges.n));
    for (size_t i = 0; i < merges.n; i++) {
        struct gguf_string m = gguf_next_string(&merges);
        const char *space = m.bytes > 1 ? memchr(m.at + 1, ' ', m.bytes - 1) : NULL;
        if (!space) return bad(s, KEY "merges", i, "not two tokens");
        size_t left = (size_t)(space - m.at);
        bool known;
        TRY(add_merge_of(s->t, m.at, left, space + 1, m.bytes - left - 1, &known));
        if (!known) return bad(s, KEY "merges", i, "of or to what is no token");
    }
    return OUTRIDER_OK;
}

/* What llama.cpp's readers of these files take from the name alone. */
outrider_status gguf_form_read(const struct gguf *g, struct gguf_form *out) {
    struct gguf_string name = {"default", 7};
    char pre[64];
    TRY(gguf_text(g, KEY "pre", &name));
    snprintf(pre, sizeof pre, "%.*s", (int)(name.bytes < 63 ? name.bytes : 63), name.at);
    const bool llama3 = strncmp(pre, "llama", 5) == 0 || strcmp(pre, "tekken") == 0;
    *out = (struct gguf_form){.pattern = split_pattern_of(pre),
                              .composes = strcmp(pre, "qwen2") == 0 || strcmp(pre, "deepseek-r1-qwen") == 0,
                              .ignores_merges = llama3,
                              .adds_bos = llama3};
    if (!out->pattern)
        return fail(OUTRIDER_EMODEL, "%s: " KEY "pre: \"%s\" is not a known pre-tokenizer", gguf_path(g),
                    pre);
    return gguf_bool(g, KEY "add_bos_token", &out->adds_bos);
}

static outrider_status read_merged(const struct source *s) {
    struct text_rules *rules = &s->t->rules;
    struct gguf_form form;
    TRY(gguf_form_read(s->g, &form));
    TRY(splitter_create(&s->t->splitter));
    TRY(splitter_add(s->t->splitter, s->path, form.pattern, strlen(form.pattern), SPLIT_KEEP_BOTH));
    rules->byte_level = true;
    rules->ignores_merges = form.ignores_merges;
    rules->form = form.composes ? UTF8PROC_STABLE | UTF8PROC_COMPOSE : 0;
    s->t->model.unk = -1;
    TRY(read_pieces(s));
    TRY(read_specials(s, form.adds_bos));
    TRY(bpe_create(s->path, &s->t->model.pieces, s->t->n, &s->t->bpe));
    TRY(find_bytes(s->t, s->path));
    return read_merges(s);
}

outrider_status tokenizer_gguf_read(struct tokenizer *t, const char *path) {
    struct gguf *g;
    struct gguf_string kind = {0};
    TRY(gguf_open(path, &g));
    const struct source s = {t, g, path};
    t->bos = t->eos = -1;
    t->model.unk_surface = " \xE2\x81\x87 ";
    t->model.unk_surface_bytes = 5;
    outrider_status status;
    TRY_GOTO(cleanup, gguf_text(g, KEY "model", &kind));
    if (is(kind, "llama"))
        status = read_scored(&s);
    else if (is(kind, "gpt2"))
        status = read_merged(&s);
    else
        status = fail(OUTRIDER_EMODEL, "%s: " KEY "model: \"%.*s\" is not supported; llama and gpt2 are",
                      path, (int)(kind.bytes < 64 ? kind.bytes : 64), kind.bytes ? kind.at : "");
    if (status == OUTRIDER_OK) status = apply_family(&s);
    if (status == OUTRIDER_OK) status = read_template(&s);
cleanup:
    gguf_close(g);
    return status;
}

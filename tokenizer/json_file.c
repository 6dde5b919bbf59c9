/* tokenizer.json of a model's folder: byte-pair models as the tokenizers library writes them.
 *
 * What is not understood is refused by name: a step that were skipped would give other ids in silence.
 * Truncation and padding are left out, and of the post-processor all but a BOS in front. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "tokenizer/utf8.h"
#include "weights/document.h"

enum { JSON_MAX_FILE = 64 << 20, JSON_MAX_VALUES = 1 << 22, MAX_STEPS = 16 };

/* The file being read. */
struct source {
    struct tokenizer *t;
    const char *path;
    const json_t *root;
};

static outrider_status bad(const struct source *s, const char *what, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static outrider_status bad(const struct source *s, const char *what, const char *format, ...) {
    char field[128];
    va_list args;
    va_start(args, format);
    vsnprintf(field, sizeof field, format, args);
    va_end(args);
    return fail(OUTRIDER_EMODEL, "%s: %s: %s", s->path, field, what);
}

static const json_t *get(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static const char *type_of(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "without a type";
}

static bool is_type(const json_t *object, const char *type) {
    return strcmp(type_of(object), type) == 0;
}

/* A boolean of an object, `otherwise` where it is missing. */
static bool flag(const json_t *object, const char *key, bool otherwise) {
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static bool is_text(const json_t *value, const char *text) {
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

/* The steps of a component that may be a Sequence (whose list is at `key`), or missing. */
static outrider_status steps_of(const struct source *s, const char *name, const char *key,
                                const json_t *steps[MAX_STEPS], size_t *n) {
    const json_t *component = get(s->root, name), *step;
    *n = 0;
    if (!component) return OUTRIDER_OK;
    if (!json_is_object(component)) return bad(s, "not an object", "%s", name);
    if (!is_type(component, "Sequence")) return steps[(*n)++] = component, OUTRIDER_OK;
    const json_t *list = json_object_get(component, key);
    size_t i;
    if (!json_is_array(list)) return bad(s, "not an array", "%s.%s", name, key);
    json_array_foreach(list, i, step) {
        if (i == MAX_STEPS) return bad(s, "too many steps", "%s.%s", name, key);
        if (!json_is_object(step)) return bad(s, "not an object", "%s.%s[%zu]", name, key, i);
        steps[(*n)++] = step;
    }
    return OUTRIDER_OK;
}

/* ---- rules of the text ---- */

static outrider_status read_normalizer(const struct source *s) {
    static const struct {
        const char *type;
        int form;
    } forms[] = {{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
                 {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
                 {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                 {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
    const json_t *steps[MAX_STEPS];
    struct text_rules *rules = &s->t->rules;
    size_t n;
    TRY(steps_of(s, "normalizer", "normalizers", steps, &n));
    for (size_t i = 0; i < n; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof forms / sizeof *forms; k++)
            if (is_type(steps[i], forms[k].type) && !rules->form && !rules->escapes && !rules->prefix)
                rules->form = forms[k].form, known = true;
        if (is_type(steps[i], "Prepend") && is_text(json_object_get(steps[i], "prepend"), SPACE) &&
            !rules->prefix)
            rules->prefix = PREFIX_EVERY, known = true;
        if (is_type(steps[i], "Replace") && is_text(json_object_get(steps[i], "content"), SPACE) &&
            is_text(json_object_get(json_object_get(steps[i], "pattern"), "String"), " "))
            rules->escapes = known = true;
        if (!known) return bad(s, "not supported here", "normalizer: step %zu, %.32s", i, type_of(steps[i]));
    }
    return OUTRIDER_OK;
}

static outrider_status add_split(const struct source *s, const json_t *step, const char *field) {
    const json_t *pattern = json_object_get(step, "pattern"), *behavior = json_object_get(step, "behavior");
    const json_t *regex = json_object_get(pattern, "Regex"), *string = json_object_get(pattern, "String");
    bool invert = flag(step, "invert", false);
    enum split_keep keep = SPLIT_KEEP_BOTH;
    if (is_text(string, " ") && s->t->rules.escapes) return OUTRIDER_OK; /* there are none left */
    if (is_text(behavior, "Removed"))
        keep = invert ? SPLIT_KEEP_MATCHES : SPLIT_KEEP_GAPS;
    else if (!is_text(behavior, "Isolated"))
        return bad(s, "only Isolated and Removed are supported", "%s.behavior", field);
    if (json_is_string(regex))
        return splitter_add(s->t->splitter, field, json_string_value(regex), json_string_length(regex), keep);
    if (!json_is_string(string) || strstr(json_string_value(string), "\\E") ||
        json_string_length(string) > 256)
        return bad(s, "neither a Regex nor a short String", "%s.pattern", field);
    char quoted[300];
    int n = snprintf(quoted, sizeof quoted, "\\Q%s\\E", json_string_value(string));
    return splitter_add(s->t->splitter, field, quoted, (size_t)n, keep);
}

static outrider_status add_pattern(const struct source *s, const char *field, const char *pattern) {
    return splitter_add(s->t->splitter, field, pattern, strlen(pattern), SPLIT_KEEP_BOTH);
}

static outrider_status add_byte_level(const struct source *s, const json_t *step, const char *field,
                                      bool only) {
    struct text_rules *rules = &s->t->rules;
    rules->byte_level = true;
    rules->byte_prefix = flag(step, "add_prefix_space", true);
    if (rules->byte_prefix && !only)
        return bad(s, "not supported behind other steps", "%s.add_prefix_space", field);
    return flag(step, "use_regex", true) ? add_pattern(s, field, SPLIT_GPT2) : OUTRIDER_OK;
}

static outrider_status add_metaspace(const struct source *s, const json_t *step, const char *field) {
    struct text_rules *rules = &s->t->rules;
    const json_t *scheme = get(step, "prepend_scheme");
    if (!is_text(json_object_get(step, "replacement"), SPACE))
        return bad(s, "not U+2581", "%s.replacement", field);
    if (rules->prefix) return bad(s, "a second prefix", "%s", field);
    bool always = scheme ? is_text(scheme, "always") : flag(step, "add_prefix_space", true);
    if (always)
        rules->prefix = PREFIX_EVERY_WORD;
    else if (is_text(scheme, "first"))
        rules->prefix = PREFIX_FIRST_WORD;
    else if (scheme && !is_text(scheme, "never"))
        return bad(s, "not always, first or never", "%s.prepend_scheme", field);
    rules->cuts_words = flag(step, "split", true);
    s->t->model.escape_whitespaces = true;
    return OUTRIDER_OK;
}

static outrider_status read_pre_tokenizer(const struct source *s) {
    const json_t *steps[MAX_STEPS];
    struct text_rules *rules = &s->t->rules;
    size_t n;
    TRY(splitter_create(&s->t->splitter));
    TRY(steps_of(s, "pre_tokenizer", "pretokenizers", steps, &n));
    bool metaspace = false;
    for (size_t i = 0; i < n; i++) {
        const json_t *step = steps[i];
        char field[160];
        snprintf(field, sizeof field, "%.100s: pre_tokenizer: step %zu", s->path, i);
        if (rules->byte_level || metaspace)
            return bad(s, "behind the last step", "pre_tokenizer: step %zu", i);
        if (is_type(step, "Split"))
            TRY(add_split(s, step, field));
        else if (is_type(step, "Digits"))
            TRY(add_pattern(s, field, flag(step, "individual_digits", false) ? "\\p{N}" : "\\p{N}+"));
        else if (is_type(step, "ByteLevel"))
            TRY(add_byte_level(s, step, field, n == 1));
        else if ((metaspace = is_type(step, "Metaspace")))
            TRY(add_metaspace(s, step, field));
        else
            return bad(s, "not supported", "pre_tokenizer: step %zu, %.32s", i, type_of(step));
    }
    s->t->model.escape_whitespaces |= rules->escapes;
    if (rules->byte_level ? rules->escapes || rules->prefix : splitter_stages(s->t->splitter) > 0)
        return bad(s, "steps over bytes and over characters are mixed", "pre_tokenizer");
    return OUTRIDER_OK;
}

/* Whether decoding takes the first space away. */
static outrider_status read_decoder(const struct source *s) {
    const json_t *steps[MAX_STEPS];
    size_t n;
    s->t->model.add_dummy_prefix = !get(s->root, "decoder") && s->t->rules.prefix;
    TRY(steps_of(s, "decoder", "decoders", steps, &n));
    for (size_t i = 0; i < n; i++) {
        const json_t *start = json_object_get(steps[i], "start");
        if (is_type(steps[i], "Strip") && is_text(json_object_get(steps[i], "content"), " "))
            s->t->model.add_dummy_prefix |= json_integer_value(start) == 1;
        if (is_type(steps[i], "Metaspace"))
            s->t->model.add_dummy_prefix |= !is_text(json_object_get(steps[i], "prepend_scheme"), "never") &&
                                            flag(steps[i], "add_prefix_space", true);
    }
    return OUTRIDER_OK;
}

/* ---- pieces ---- */

/* GPT-2's alphabet: printable characters stand for their own byte, U+0100 on for the others in order. */
static int byte_of(uint32_t c) {
    bool printable = (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
    if (printable) return (int)c;
    if (c < 0x100 || c > 0x143) return -1;
    if (c <= 0x120) return (int)c - 0x100;            /* 00 to 20 */
    return c <= 0x142 ? (int)c - 0x121 + 0x7F : 0xAD; /* 7F to A0, and AD */
}

size_t byte_level_text(const char *token, size_t bytes, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        int length = utf8_check((const unsigned char *)token + i, bytes - i);
        int byte = length > 0 ? byte_of(utf8_code_point((const unsigned char *)token + i, length)) : -1;
        if (byte < 0) return 0;
        out[n++] = (char)byte;
        i += (size_t)length;
    }
    return n;
}

static outrider_status check_token(const struct source *s, const char *field, const json_t *id,
                                   size_t bytes) {
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= PRECHECK_MAX_PIECES)
        return bad(s, "the id is not a number from 0 to 1048575", "%s", field);
    if (bytes == 0 || bytes > 2 * PRECHECK_MAX_PIECE)
        return bad(s, "a token of no bytes, or of more than 1024", "%s", field);
    return OUTRIDER_OK;
}

/* Checks every id and length, and makes room for the pieces and their texts. */
static outrider_status make_room(const struct source *s, const json_t *vocab, const json_t *added) {
    const char *key;
    const json_t *value;
    json_t *entry;
    size_t i, bytes = 1;
    int32_t n = 0;
    char field[64];
    json_object_foreach((json_t *)vocab, key, entry) {
        snprintf(field, sizeof field, "model.vocab[\"%.32s\"]", key);
        TRY(check_token(s, field, entry, strlen(key)));
        if (json_integer_value(entry) >= n) n = (int32_t)json_integer_value(entry) + 1;
        bytes += strlen(key);
    }
    json_array_foreach(added, i, value) {
        const json_t *id = json_object_get(value, "id"), *content = json_object_get(value, "content");
        snprintf(field, sizeof field, "added_tokens[%zu]", i);
        TRY(check_token(s, field, id, json_string_length(content)));
        if (json_integer_value(id) >= n) n = (int32_t)json_integer_value(id) + 1;
        bytes += json_string_length(content);
    }
    if (n == 0) return bad(s, "no tokens", "model.vocab");
    s->t->model.pieces = calloc((size_t)n, sizeof *s->t->model.pieces);
    s->t->texts = malloc(bytes);
    if (!s->t->model.pieces || !s->t->texts) return fail_memory(s->path, bytes);
    for (int32_t id = 0; id < n; id++)
        s->t->model.pieces[id] = (struct piece){.text = "", .type = PIECE_UNUSED};
    s->t->n = s->t->model.n = n;
    return OUTRIDER_OK;
}

static outrider_status put_vocab(const struct source *s, const json_t *vocab, char **at) {
    const char *key;
    json_t *id;
    json_object_foreach((json_t *)vocab, key, id) {
        struct piece *p = &s->t->model.pieces[json_integer_value(id)];
        size_t bytes = strlen(key), n = 0;
        if (p->bytes > 0) return bad(s, "the id is another token's too", "model.vocab[\"%.32s\"]", key);
        bool literal = s->t->rules.byte_level && (n = byte_level_text(key, bytes, *at)) == 0;
        if (n == 0) memcpy(*at, key, n = bytes);
        if (n > PRECHECK_MAX_PIECE) return bad(s, "longer than 512 bytes", "model.vocab[\"%.32s\"]", key);
        *p = (struct piece){*at, 0, (uint16_t)n, PIECE_NORMAL, literal ? PIECE_LITERAL : 0};
        *at += n;
    }
    return OUTRIDER_OK;
}

static outrider_status put_added(const struct source *s, const json_t *added, char **at) {
    const json_t *token;
    size_t i;
    json_array_foreach(added, i, token) {
        struct piece *p = &s->t->model.pieces[json_integer_value(json_object_get(token, "id"))];
        const json_t *content = json_object_get(token, "content");
        size_t bytes = json_string_length(content);
        const char *text = json_string_value(content);
        if (p->bytes > 0 && (p->bytes != bytes || memcmp(p->text, text, bytes) != 0))
            return bad(s, "content differs from the token in model.vocab", "added_tokens[%zu]", i);
        if (bytes > PRECHECK_MAX_PIECE) return bad(s, "longer than 512 bytes", "added_tokens[%zu]", i);
        bool special = flag(token, "special", false);
        memcpy(*at, text, bytes);
        *p = (struct piece){*at, 0, (uint16_t)bytes, special ? PIECE_CONTROL : PIECE_USER_DEFINED,
                            p->flags | added_flags(token)};
        *at += bytes;
    }
    return OUTRIDER_OK;
}

static outrider_status read_pieces(const struct source *s, const json_t *model) {
    const json_t *vocab = get(model, "vocab"), *added = get(s->root, "added_tokens");
    if (!json_is_object(vocab)) return bad(s, "not an object", "model.vocab");
    if (added && !json_is_array(added)) return bad(s, "not an array", "added_tokens");
    TRY(make_room(s, vocab, added));
    char *at = s->t->texts;
    TRY(put_vocab(s, vocab, &at));
    return put_added(s, added, &at);
}

/* ---- the model ---- */

static outrider_status check_model(const struct source *s, const json_t *model) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (!json_is_object(model)) return bad(s, "not an object", "model");
    if (json_object_get(model, "type") && !is_type(model, "BPE"))
        return bad(s, "only BPE is supported", "model.type %.32s", type_of(model));
    for (int i = 0; i < 2; i++) {
        const json_t *affix = get(model, affixes[i]);
        if (affix && !is_text(affix, "")) return bad(s, "not supported", "model.%s", affixes[i]);
    }
    if (json_number_value(get(model, "dropout")) != 0) return bad(s, "not supported", "model.dropout");
    return OUTRIDER_OK;
}

/* The unknown piece and the pieces of bytes, in models over characters. */
static outrider_status find_fallbacks(const struct source *s, const json_t *model) {
    struct sp_model *m = &s->t->model;
    const json_t *unknown = get(model, "unk_token");
    m->unk = json_is_string(unknown)
                 ? tokenizer_find(s->t, json_string_value(unknown), json_string_length(unknown))
                 : -1;
    if (unknown && m->unk < 0) return bad(s, "not a token", "model.unk_token");
    s->t->rules.fuses_unknown = flag(model, "fuse_unk", false);
    if (s->t->rules.byte_level) return OUTRIDER_OK;
    m->byte_fallback = flag(model, "byte_fallback", false);
    if (m->unk >= 0) m->pieces[m->unk].type = PIECE_UNKNOWN;
    if (m->unk < 0 && !m->byte_fallback)
        return bad(s, "neither unk_token nor byte_fallback, so that text would be lost", "model");
    for (int byte = 0; byte < 256 && m->byte_fallback; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        int32_t id = m->byte_ids[byte] = tokenizer_find(s->t, name, 6);
        if (id < 0) return bad(s, "no such token, which byte_fallback needs", "model.vocab[\"%s\"]", name);
        m->pieces[id].type = PIECE_BYTE;
    }
    return OUTRIDER_OK;
}

outrider_status find_bytes(struct tokenizer *t, const char *path) {
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        if ((t->model.byte_ids[byte] = bpe_find(t->bpe, &c, 1, true)) < 0)
            return fail(OUTRIDER_EMODEL, "%s: vocabulary: no token for the byte 0x%02X", path,
                        (unsigned)byte);
    }
    return OUTRIDER_OK;
}

/* One side of a merge: its id and, in `out`, its text. */
static int32_t find_side(const struct tokenizer *t, const char *token, size_t bytes, char *out, size_t *n) {
    if (bytes > 2 * PRECHECK_MAX_PIECE) return -1;
    *n = t->rules.byte_level ? byte_level_text(token, bytes, out) : bytes;
    if (!t->rules.byte_level) memcpy(out, token, bytes);
    return *n > 0 ? bpe_find(t->bpe, out, *n, false) : -1;
}

outrider_status add_merge_of(struct tokenizer *t, const char *left, size_t left_bytes, const char *right,
                             size_t right_bytes, bool *known) {
    char text[4 * PRECHECK_MAX_PIECE];
    size_t n, m = 0;
    int32_t a = find_side(t, left, left_bytes, text, &n);
    int32_t b = a < 0 ? -1 : find_side(t, right, right_bytes, text + n, &m);
    int32_t merged = b < 0 ? -1 : bpe_find(t->bpe, text, n + m, false);
    *known = merged >= 0;
    return *known ? bpe_add_merge(t->bpe, a, b, merged) : OUTRIDER_OK;
}

/* A merge is "left right", or in newer files ["left", "right"]. */
static outrider_status add_merge(const struct source *s, size_t i, const json_t *merge) {
    bool known = false;
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' ')) return bad(s, "not two tokens", "model.merges[%zu]", i);
        size_t left = (size_t)(space - text);
        TRY(add_merge_of(s->t, text, left, space + 1, json_string_length(merge) - left - 1, &known));
    } else {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
            return bad(s, "not two tokens", "model.merges[%zu]", i);
        TRY(add_merge_of(s->t, json_string_value(left), json_string_length(left), json_string_value(right),
                         json_string_length(right), &known));
    }
    return known ? OUTRIDER_OK : bad(s, "of or to what is no token", "model.merges[%zu]", i);
}

static outrider_status read_merges(const struct source *s, const json_t *model) {
    const json_t *merges = get(model, "merges"), *merge;
    size_t i;
    if (!json_is_array(merges)) return bad(s, "not an array", "model.merges");
    TRY(bpe_reserve(s->t->bpe, json_array_size(merges)));
    json_array_foreach(merges, i, merge) TRY(add_merge(s, i, merge));
    return OUTRIDER_OK;
}

/* The token that the post-processor's template puts in front of a text. */
static outrider_status read_bos(const struct source *s) {
    const json_t *steps[MAX_STEPS];
    size_t n;
    TRY(steps_of(s, "post_processor", "processors", steps, &n));
    for (size_t i = 0; i < n; i++) {
        if (!is_type(steps[i], "TemplateProcessing")) continue;
        const json_t *first = json_array_get(json_object_get(steps[i], "single"), 0);
        const json_t *id = json_object_get(json_object_get(first, "SpecialToken"), "id");
        if (!json_is_string(id)) continue;
        int32_t bos = tokenizer_find(s->t, json_string_value(id), json_string_length(id));
        if (!tokenizer_is_control(s->t, bos))
            return bad(s, "not a special token", "post_processor: %.32s", json_string_value(id));
        s->t->bos = bos;
        s->t->add_bos = true;
    }
    return OUTRIDER_OK;
}

static outrider_status read_root(const struct source *s, const char *dir) {
    const json_t *model = get(s->root, "model");
    struct tokenizer *t = s->t;
    t->bos = t->eos = -1;
    t->model.unk_surface = " \xE2\x81\x87 ";
    t->model.unk_surface_bytes = 5;
    TRY(check_model(s, model));
    TRY(read_normalizer(s));
    TRY(read_pre_tokenizer(s));
    TRY(read_decoder(s));
    t->rules.ignores_merges = flag(model, "ignore_merges", false);
    if (t->rules.ignores_merges && !t->rules.byte_level)
        return bad(s, "only supported over bytes", "model.ignore_merges");
    TRY(read_pieces(s, model));
    TRY(bpe_create(s->path, &t->model.pieces, t->n, &t->bpe));
    TRY(find_fallbacks(s, model));
    TRY(read_bos(s));
    TRY(tokenizer_config_read(t, dir)); /* before the merges, which leave control pieces out */
    if (t->rules.byte_level) TRY(find_bytes(t, s->path));
    return read_merges(s, model);
}

outrider_status tokenizer_json_read(struct tokenizer *t, const char *dir) {
    char path[PATH_MAX];
    unsigned char *bytes;
    size_t n;
    json_t *root;
    if (snprintf(path, sizeof path, "%s/tokenizer.json", dir) >= (int)sizeof path)
        return fail(OUTRIDER_EINVAL, "%s: the path is too long", dir);
    TRY(read_file(path, JSON_MAX_FILE, &bytes, &n));
    outrider_status status = document_parse_large(path, bytes, n, JSON_MAX_VALUES, &root);
    free(bytes);
    TRY(status);
    status = read_root(&(struct source){t, path, root}, dir);
    json_decref(root);
    return status;
}

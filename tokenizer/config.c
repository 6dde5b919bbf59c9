/* tokenizer_config.json and chat_template.jinja of a model's folder. Both may be missing.
 *
 * A token that the configuration calls special becomes a control piece, whatever type the model's file gives
 * it, so that no text can yield it. Tokens behind the last piece are added; gaps between them stay empty.
 * Does not read added_tokens.json and special_tokens_map.json: what this program needs of them stands in
 * tokenizer_config.json too. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "weights/document.h"

enum { CONFIG_MAX_FILE = 16 << 20, TEMPLATE_MAX_FILE = 1 << 20 };
static const char FILE_NAME[] = "tokenizer_config.json";

/* Reads a file of the folder; *bytes stays NULL when it does not exist. */
static outrider_status read_optional(const char *dir, const char *name, size_t max, unsigned char **bytes,
                                     size_t *n) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return fail(OUTRIDER_EINVAL, "%s: the path is too long", dir);
    *bytes = NULL;
    struct stat st; /* of a link itself: one to a file that is gone is damage, which read_file reports */
    if (lstat(path, &st) != 0 && errno == ENOENT) return OUTRIDER_OK;
    return read_file(path, max, bytes, n);
}

static outrider_status parse_config(struct tokenizer *t, const char *dir) {
    unsigned char *bytes;
    size_t n;
    TRY(read_optional(dir, FILE_NAME, CONFIG_MAX_FILE, &bytes, &n));
    if (!bytes) return OUTRIDER_OK;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, FILE_NAME); /* fitted before */
    outrider_status status = document_parse(path, bytes, n, &t->config);
    free(bytes);
    return status;
}

/* ---- added_tokens_decoder: {"32000": {"content": "<|im_end|>", "special": true}, ...} ---- */

static outrider_status bad_added(const char *id, const char *what) {
    return fail(OUTRIDER_EMODEL, "%s: added_tokens_decoder[\"%.16s\"]: %s", FILE_NAME, id, what);
}

static outrider_status parse_id(const struct tokenizer *t, const char *text, int32_t *out) {
    char *end;
    errno = 0;
    long id = strtol(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno) return bad_added(text, "not a token id");
    if (id >= t->model.n + CONFIG_MAX_ADDED) return bad_added(text, "too far past the last piece");
    *out = (int32_t)id;
    return OUTRIDER_OK;
}

static outrider_status grow_pieces(struct tokenizer *t, int32_t n) {
    if (n <= t->n) return OUTRIDER_OK;
    size_t bytes = (size_t)n * sizeof *t->model.pieces;
    struct piece *grown = realloc(t->model.pieces, bytes);
    if (!grown) return fail_memory("the table of pieces", bytes);
    t->model.pieces = grown;
    while (t->n < n) grown[t->n++] = (struct piece){.text = "", .type = PIECE_UNUSED};
    return OUTRIDER_OK;
}

uint8_t added_flags(const json_t *token) {
    static const struct {
        const char *key;
        uint8_t flag;
    } keys[] = {{"lstrip", PIECE_LSTRIP},
                {"rstrip", PIECE_RSTRIP},
                {"single_word", PIECE_SINGLE_WORD},
                {"normalized", PIECE_NORMALIZED}};
    uint8_t flags = PIECE_ADDED;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_is_true(json_object_get(token, keys[i].key))) flags |= keys[i].flag;
    return flags;
}

static outrider_status apply_added_token(struct tokenizer *t, const char *key, const json_t *token) {
    int32_t id;
    TRY(parse_id(t, key, &id));
    const json_t *content = json_object_get(token, "content");
    size_t bytes = json_string_length(content);
    if (!json_is_string(content) || bytes == 0 || bytes > PRECHECK_MAX_PIECE)
        return bad_added(key, "content is not a string of 1 to 512 bytes");
    bool special = json_is_true(json_object_get(token, "special"));
    TRY(grow_pieces(t, id + 1));
    struct piece *p = &t->model.pieces[id];
    const char *text = json_string_value(content);
    if (id >= t->model.n) {
        *p = (struct piece){text, 0, (uint16_t)bytes, special ? PIECE_CONTROL : PIECE_USER_DEFINED,
                            added_flags(token)};
    } else if (special && (p->bytes != bytes || memcmp(p->text, text, bytes) != 0)) {
        return bad_added(key, "content differs from the piece in the model's file");
    } else if (special && (p->type == PIECE_NORMAL || p->type == PIECE_USER_DEFINED)) {
        p->type = PIECE_CONTROL;
        p->flags |= added_flags(token);
    }
    return OUTRIDER_OK;
}

static outrider_status apply_added_tokens(struct tokenizer *t) {
    json_t *added = json_object_get(t->config, "added_tokens_decoder");
    const char *key;
    json_t *token;
    if (!added || json_is_null(added)) return OUTRIDER_OK;
    if (!json_is_object(added))
        return fail(OUTRIDER_EMODEL, "%s: added_tokens_decoder: not an object", FILE_NAME);
    json_object_foreach(added, key, token) TRY(apply_added_token(t, key, token));
    return OUTRIDER_OK;
}

/* ---- single fields ---- */

/* bos_token and eos_token: a string, an object with "content", or null for none. Missing: *id stays. */
static outrider_status apply_special(struct tokenizer *t, const char *field, int32_t *id) {
    const json_t *value = json_object_get(t->config, field);
    if (!value) return OUTRIDER_OK;
    *id = -1;
    if (json_is_null(value)) return OUTRIDER_OK;
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value))
        return fail(OUTRIDER_EMODEL, "%s: %s: neither a string nor an object with content", FILE_NAME, field);
    *id = tokenizer_find(t, json_string_value(value), json_string_length(value));
    if (*id < 0)
        return fail(OUTRIDER_EMODEL, "%s: %s: \"%.64s\" is not a token", FILE_NAME, field,
                    json_string_value(value));
    struct piece *p = &t->model.pieces[*id];
    if (p->type == PIECE_USER_DEFINED || (t->bpe && p->type == PIECE_NORMAL)) p->type = PIECE_CONTROL;
    if (p->type != PIECE_CONTROL)
        return fail(OUTRIDER_EMODEL, "%s: %s: \"%.64s\" is not a control piece", FILE_NAME, field,
                    json_string_value(value));
    return OUTRIDER_OK;
}

static outrider_status apply_add_bos(struct tokenizer *t) {
    const json_t *value = json_object_get(t->config, "add_bos_token");
    t->add_bos = t->bos >= 0 && (!t->bpe || t->add_bos); /* as LlamaTokenizer does by default */
    if (!value || json_is_null(value)) return OUTRIDER_OK;
    if (!json_is_boolean(value)) return fail(OUTRIDER_EMODEL, "%s: add_bos_token: not a boolean", FILE_NAME);
    t->add_bos = json_is_true(value) && t->bos >= 0;
    return OUTRIDER_OK;
}

/* A string, or a list of {"name", "template"} of which "default" counts. */
static outrider_status apply_template(struct tokenizer *t) {
    const json_t *value = json_object_get(t->config, "chat_template"), *entry;
    size_t i;
    if (!value || json_is_null(value)) return OUTRIDER_OK;
    if (json_is_array(value)) {
        const json_t *list = value;
        value = NULL;
        json_array_foreach(list, i, entry) {
            const char *name = json_string_value(json_object_get(entry, "name"));
            if (name && strcmp(name, "default") == 0) value = json_object_get(entry, "template");
        }
    }
    if (!json_is_string(value))
        return fail(OUTRIDER_EMODEL, "%s: chat_template: neither a string nor a list with a default",
                    FILE_NAME);
    t->chat_template = json_string_value(value);
    return OUTRIDER_OK;
}

/* Newer folders keep the template in a file of its own, which then counts. */
static outrider_status read_template_file(struct tokenizer *t, const char *dir) {
    unsigned char *bytes;
    size_t n;
    TRY(read_optional(dir, "chat_template.jinja", TEMPLATE_MAX_FILE, &bytes, &n));
    if (!bytes) return OUTRIDER_OK;
    t->template_file = (char *)bytes;
    t->chat_template = t->template_file;
    return OUTRIDER_OK;
}

outrider_status tokenizer_read_template(struct tokenizer *t, const char *path) {
    unsigned char *bytes;
    size_t n;
    TRY(read_file(path, TEMPLATE_MAX_FILE, &bytes, &n));
    free(t->template_file);
    t->template_file = (char *)bytes;
    t->chat_template = t->template_file;
    return OUTRIDER_OK;
}

outrider_status tokenizer_config_read(struct tokenizer *t, const char *dir) {
    TRY(parse_config(t, dir));
    TRY(apply_added_tokens(t));
    TRY(apply_special(t, "bos_token", &t->bos));
    TRY(apply_special(t, "eos_token", &t->eos));
    TRY(apply_add_bos(t));
    TRY(apply_template(t));
    return read_template_file(t, dir);
}

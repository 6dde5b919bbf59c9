/* Text to ids and back over one tokenizer.model.
 *
 * Encoding is the sentencepiece library's, fed with well-formed UTF-8 only: this file writes the dummy
 * prefix, removes extra white space, and turns the bytes that are no UTF-8 into byte pieces itself, because
 * the library would replace each by U+FFFD. Decoding is a table made at open. Invariant: text never yields a
 * control piece, and (where the model has byte fallback and keeps white space) decoding what was encoded
 * gives the text back, but for U+2581, which this vocabulary takes for a space. Does not match added tokens
 * in a text; only chat.c and tokenizer_control name them. */
#include "tokenizer/tokenizer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "tokenizer/utf8.h"
#include "weights/source.h"

/* ---- lists ---- */

outrider_status token_list_push(struct token_list *list, int32_t id) {
    if (list->n == list->capacity) {
        size_t bytes, capacity = list->capacity ? list->capacity * 2 : 64;
        if (!mul_fits(capacity, sizeof *list->ids, &bytes)) return fail_memory("token ids", SIZE_MAX);
        int32_t *grown = realloc(list->ids, bytes);
        if (!grown) return fail_memory("token ids", bytes);
        list->ids = grown;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return OUTRIDER_OK;
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

/* ---- open ---- */

static outrider_status read_all(int fd, const char *path, unsigned char *bytes, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t got = read(fd, bytes + done, n - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(OUTRIDER_EMODEL, path);
        if (got == 0) return fail(OUTRIDER_EMODEL, "%s: became shorter while it was read", path);
        done += (size_t)got;
    }
    return OUTRIDER_OK;
}

outrider_status read_file(const char *path, size_t max, unsigned char **bytes, size_t *n) {
    struct stat info;
    outrider_status status = OUTRIDER_OK;
    unsigned char *read_bytes = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make it wait */
    if (fd < 0 || fstat(fd, &info) != 0) {
        status = fail_errno(OUTRIDER_EMODEL, path);
    } else if (!S_ISREG(info.st_mode)) {
        status = fail(OUTRIDER_EMODEL, "%s: not a regular file", path);
    } else if ((uint64_t)info.st_size > max) {
        status = fail(OUTRIDER_EMODEL, "%s: %lld bytes; at most %zu", path, (long long)info.st_size, max);
    } else if (!(read_bytes = malloc((size_t)info.st_size + 1))) {
        status = fail_memory(path, (size_t)info.st_size + 1);
    } else {
        status = read_all(fd, path, read_bytes, (size_t)info.st_size);
    }
    if (fd >= 0) close(fd);
    if (status != OUTRIDER_OK) {
        free(read_bytes);
        return status;
    }
    read_bytes[info.st_size] = 0;
    *bytes = read_bytes;
    *n = (size_t)info.st_size;
    return OUTRIDER_OK;
}

/* Writes what piece `id` adds to a text, at most its own bytes or the unknown surface; returns how many. */
static size_t decode_piece(const struct sp_model *m, const struct piece *p, char *out) {
    size_t n = 0;
    if (p->type == PIECE_CONTROL) return 0;
    if (p->type == PIECE_UNKNOWN) {
        memcpy(out, m->unk_surface, m->unk_surface_bytes);
        return m->unk_surface_bytes;
    }
    if (p->type == PIECE_BYTE) {
        sscanf(p->text, "<0x%2hhx>", (unsigned char *)out);
        return 1;
    }
    for (size_t i = 0; i < p->bytes;) {
        bool space = starts_with_space(p->text + i, p->bytes - i);
        out[n++] = space ? ' ' : p->text[i];
        i += space ? SPACE_BYTES : 1;
    }
    return n;
}

static outrider_status build_decoder(struct tokenizer *t) {
    size_t bytes = t->model.unk_surface_bytes + 1;
    for (int32_t id = 0; id < t->n; id++) bytes += t->model.pieces[id].bytes;
    t->text = malloc(bytes);
    t->at = malloc(((size_t)t->n + 1) * sizeof *t->at);
    if (!t->text || !t->at) return fail_memory("the texts of pieces", bytes);
    uint32_t end = 0;
    for (int32_t id = 0; id < t->n; id++) {
        t->at[id] = end;
        const struct piece *p = &t->model.pieces[id];
        size_t n = p->bytes;
        if (!t->rules.byte_level)
            n = decode_piece(&t->model, p, t->text + end);
        else if (p->type == PIECE_CONTROL)
            n = 0;
        else
            memcpy(t->text + end, p->text, n);
        end += (uint32_t)n;
    }
    t->at[t->n] = end;
    return OUTRIDER_OK;
}

/* True when no piece holds a space behind anything else than a space, so that none reaches over the start of
 * a run of spaces. BPE merges on the two sides of such a place then never meet, and the ids are the same
 * whether the library reads them together or apart. (For a Unigram model so too but for the rounding of its
 * sums.) */
static bool words_are_apart(const struct sp_model *m) {
    for (int32_t id = 0; id < m->n; id++) {
        const struct piece *p = &m->pieces[id];
        bool after_other = false;
        for (size_t i = 0; i < p->bytes;) {
            bool space = starts_with_space(p->text + i, p->bytes - i);
            if (space && after_other) return false;
            after_other = !space;
            i += space ? SPACE_BYTES : 1;
        }
    }
    return !m->unigram && m->escape_whitespaces;
}

/* Bytes of memory that the library takes for a byte of model. It does not survive it when they run out. */
enum { OPEN_BYTES = 32 };

static outrider_status open_library(struct tokenizer *t) {
    char *bytes;
    size_t n;
    TRY(precheck_write(&t->model, &bytes, &n));
    outrider_status status = memory_probe("the sentencepiece model", n * OPEN_BYTES);
    if (status == OUTRIDER_OK) status = spm_open(bytes, n, t->model.n, &t->library);
    free(bytes);
    return status;
}

static outrider_status open_sentencepiece(struct tokenizer *t, const char *dir) {
    char path[PATH_MAX];
    size_t n;
    snprintf(path, sizeof path, "%s/tokenizer.model", dir); /* fitted before */
    TRY(read_file(path, PRECHECK_MAX_FILE, &t->file, &n));
    TRY(precheck_read(path, t->file, n, &t->model));
    t->n = t->model.n;
    t->bos = t->model.bos;
    t->eos = t->model.eos;
    TRY(tokenizer_config_read(t, dir));
    return open_library(t); /* after the configuration, which makes control pieces */
}

/* What is looked for in a text: added pieces that are no control pieces; those only in templates. Those of
 * tokenizer.model itself are the library's business. */
static outrider_status build_added(struct tokenizer *t) {
    for (int32_t id = 0; id < t->n; id++) {
        const struct piece *p = &t->model.pieces[id];
        if (p->type == PIECE_CONTROL && p->bytes > 0)
            TRY(added_push(&t->controls, (struct added){p->text, p->bytes, p->flags, false, id}));
        if (!(p->flags & PIECE_ADDED) || p->type != PIECE_USER_DEFINED) continue;
        struct added a = {p->text, p->bytes, p->flags, false, id};
        bool normalized = t->bpe && (p->flags & PIECE_NORMALIZED);
        if (normalized && run_length(p->text, p->bytes, true) == p->bytes) {
            char *text;
            TRY(normalize(&t->rules, p->text, p->bytes, &text, &a.bytes));
            a.text = text;
            a.owned = true;
        }
        if (a.bytes == 0) continue;
        TRY(added_push(&t->added[normalized], a));
    }
    for (int i = 0; i < 2; i++) added_sort(&t->added[i]);
    added_sort(&t->controls);
    return OUTRIDER_OK;
}

/* tokenizer.model where the folder has one, else tokenizer.json. */
static outrider_status choose_file(const char *dir, bool *json) {
    char path[PATH_MAX];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/tokenizer.model", dir) >= (int)sizeof path)
        return fail(OUTRIDER_EINVAL, "%s: the path is too long", dir);
    bool has_model = lstat(path, &st) == 0 || errno != ENOENT;
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    *json = !has_model && lstat(path, &st) == 0;
    if (has_model || *json) return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL,
                "%s: neither tokenizer.model nor tokenizer.json is in it: get one of them from "
                "where the model came from",
                dir);
}

static outrider_status open_files(struct tokenizer *t, const char *dir) {
    char *gguf;
    bool json = false;
    TRY(source_gguf(dir, &gguf));
    outrider_status status = gguf ? tokenizer_gguf_read(t, gguf) : choose_file(dir, &json);
    bool from_gguf = gguf != NULL;
    free(gguf);
    TRY(status);
    if (!from_gguf) TRY(json ? tokenizer_json_read(t, dir) : open_sentencepiece(t, dir));
    if (from_gguf && !t->bpe) TRY(open_library(t));
    t->cut_at_spaces = words_are_apart(&t->model);
    TRY(build_added(t));
    return build_decoder(t);
}

outrider_status tokenizer_open(const char *dir, struct tokenizer **out) {
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return fail_memory("a tokenizer", sizeof *t);
    outrider_status status = open_files(t, dir);
    if (status == OUTRIDER_OK)
        *out = t;
    else
        tokenizer_close(t);
    return status;
}

void tokenizer_close(struct tokenizer *t) {
    if (!t) return;
    spm_close(t->library);
    bpe_destroy(t->bpe);
    splitter_destroy(t->splitter);
    for (int i = 0; i < 2; i++) added_free(&t->added[i]);
    added_free(&t->controls);
    precheck_free(&t->model);
    json_decref(t->config);
    free(t->template_file);
    free(t->file);
    free(t->texts);
    free(t->text);
    free(t->at);
    free(t);
}

/* ---- what it is ---- */

int32_t tokenizer_size(const struct tokenizer *t) {
    return t->n;
}
int32_t tokenizer_bos(const struct tokenizer *t) {
    return t->bos;
}
int32_t tokenizer_eos(const struct tokenizer *t) {
    return t->eos;
}
bool tokenizer_add_bos(const struct tokenizer *t) {
    return t->add_bos;
}
const char *tokenizer_chat_template(const struct tokenizer *t) {
    return t->chat_template;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t bytes) {
    int32_t id = t->bpe ? bpe_find(t->bpe, text, bytes, false) : precheck_find(&t->model, text, bytes);
    if (id >= 0) return id;
    for (id = t->model.n; id < t->n; id++) {
        const struct piece *p = &t->model.pieces[id];
        if (p->bytes == bytes && memcmp(p->text, text, bytes) == 0) return id;
    }
    return -1;
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n && t->model.pieces[id].type == PIECE_CONTROL;
}

int32_t tokenizer_control(const struct tokenizer *t, const char *piece) {
    int32_t id = tokenizer_find(t, piece, strlen(piece));
    return tokenizer_is_control(t, id) ? id : -1;
}

int32_t tokenizer_marker(const struct tokenizer *t, const char *piece, size_t bytes) {
    int32_t id = tokenizer_find(t, piece, bytes);
    if (id < 0) return -1;
    uint8_t type = t->model.pieces[id].type;
    return type == PIECE_CONTROL || type == PIECE_USER_DEFINED ? id : -1;
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool first, size_t *bytes) {
    *bytes = 0;
    if (id < 0 || id >= t->n) return "";
    const struct piece *p = &t->model.pieces[id];
    const char *text = t->text + t->at[id];
    *bytes = t->at[id + 1] - t->at[id];
    bool drops = t->model.add_dummy_prefix || t->model.remove_extra_whitespaces;
    bool ordinary = p->type == PIECE_NORMAL || p->type == PIECE_USER_DEFINED || p->type == PIECE_UNUSED;
    if (first && drops && ordinary && starts_with_space(p->text, p->bytes)) text++, --*bytes;
    return text;
}

int32_t tokenizer_difference(const struct tokenizer *a, const struct tokenizer *b) {
    int32_t shared = a->n < b->n ? a->n : b->n;
    for (int32_t id = 0; id < shared; id++) {
        const struct piece *p = &a->model.pieces[id], *q = &b->model.pieces[id];
        if (p->type != q->type || p->bytes != q->bytes || memcmp(p->text, q->text, p->bytes) != 0) return id;
    }
    return a->n == b->n ? -1 : shared;
}

const char *tokenizer_spell(const struct tokenizer *t, int32_t id, char out[80]) {
    if (id < 0 || id >= t->n) return strcpy(out, "none");
    const struct piece *p = &t->model.pieces[id];
    snprintf(out, 80, "%s\"%.*s\"", p->type == PIECE_CONTROL ? "control " : "", p->bytes < 60 ? p->bytes : 60,
             p->text);
    return out;
}

/* ---- encode ---- */

/* The library's memory is some 100 bytes a byte, so a long text goes in parts where that changes nothing. */
enum { PART_BYTES = 1 << 16, TEXT_MAX_BYTES = 1 << 28, ENCODE_BYTES = 128 };

static outrider_status encode_part(const struct tokenizer *t, const char *text, size_t bytes,
                                   struct token_list *out) {
    TRY(memory_probe("encoding a text", bytes * ENCODE_BYTES));
    return spm_encode(t->library, text, bytes, out);
}

static outrider_status encode_valid(const struct tokenizer *t, const char *text, size_t bytes,
                                    struct token_list *out) {
    while (t->cut_at_spaces && bytes > PART_BYTES) {
        size_t cut = PART_BYTES;
        while (cut < bytes && !spaces_begin(text, cut)) cut++;
        TRY(encode_part(t, text, cut, out));
        text += cut;
        bytes -= cut;
    }
    return bytes > 0 ? encode_part(t, text, bytes, out) : OUTRIDER_OK;
}

/* Ids of bytes that are no UTF-8: one byte piece each, or one unknown piece for all of them. */
static outrider_status encode_invalid(const struct tokenizer *t, const char *text, size_t bytes,
                                      struct token_list *out) {
    if (!t->model.byte_fallback) return token_list_push(out, t->model.unk);
    for (size_t i = 0; i < bytes; i++) TRY(token_list_push(out, t->model.byte_ids[(unsigned char)text[i]]));
    return OUTRIDER_OK;
}

static outrider_status encode_runs(const struct tokenizer *t, const char *text, size_t bytes,
                                   struct token_list *out) {
    for (size_t i = 0; i < bytes;) {
        size_t valid = run_length(text + i, bytes - i, true);
        TRY(encode_valid(t, text + i, valid, out));
        i += valid;
        size_t invalid = run_length(text + i, bytes - i, false);
        if (invalid > 0) TRY(encode_invalid(t, text + i, invalid, out));
        i += invalid;
    }
    return OUTRIDER_OK;
}

/* Copies the text with white space as the model wants it; returns the new length. `out` holds bytes + 1. */
static size_t normalize_spaces(const struct sp_model *m, const char *text, size_t bytes, bool start,
                               char *out) {
    size_t n = 0, i = 0;
    bool squeeze = m->remove_extra_whitespaces;
    while (squeeze && start && i < bytes && text[i] == ' ') i++;
    if (start && m->add_dummy_prefix) out[n++] = ' ';
    for (bool after_space = false; i < bytes; i++) {
        if (squeeze && text[i] == ' ' && after_space) continue;
        after_space = text[i] == ' ';
        out[n++] = text[i];
    }
    while (squeeze && n > 0) { /* the library takes a trailing U+2581 for a space here */
        if (out[n - 1] == ' ')
            n--;
        else if (m->escape_whitespaces && n >= SPACE_BYTES &&
                 starts_with_space(out + n - SPACE_BYTES, SPACE_BYTES))
            n -= SPACE_BYTES;
        else
            break;
    }
    return n;
}

static outrider_status encode_library(const struct tokenizer *t, const char *text, size_t bytes, bool start,
                                      struct token_list *out) {
    char *copy = malloc(bytes + 1);
    if (!copy) return fail_memory("a text", bytes + 1);
    size_t n = normalize_spaces(&t->model, text, bytes, start, copy);
    outrider_status status = encode_runs(t, copy, n, out);
    free(copy);
    return status;
}

/* The text between added tokens is the engine's. */
static outrider_status encode_parts(const struct tokenizer *t, const char *text, size_t bytes, bool start,
                                    struct token_list *out) {
    const struct added *token;
    for (size_t i = 0, begin, end; i < bytes; i = end) {
        bool found = added_next(&t->added[0], text, bytes, i, &token, &begin, &end);
        if (!found) begin = end = bytes;
        if (begin > i)
            TRY((t->bpe ? encode_bpe : encode_library)(t, text + i, begin - i, start && i == 0, out));
        if (found) TRY(token_list_push(out, token->id));
    }
    return OUTRIDER_OK;
}

size_t tokenizer_least(const struct tokenizer *t, size_t bytes) {
    const struct sp_model *m = &t->model;
    size_t longest = 1;
    if (bytes <= PART_BYTES || t->bpe || !m->byte_fallback || m->remove_extra_whitespaces) return 0;
    for (int32_t i = 0; i < t->n; i++) {
        if (m->pieces[i].flags & (PIECE_LSTRIP | PIECE_RSTRIP)) return 0;
        if (m->pieces[i].bytes > longest) longest = m->pieces[i].bytes;
    }
    return bytes / longest;
}

static outrider_status encode(const struct tokenizer *t, const char *text, size_t bytes, bool start,
                              struct token_list *out) {
    if (bytes > TEXT_MAX_BYTES)
        return fail(OUTRIDER_EINVAL, "a text of %zu bytes is too long to encode; at most %d", bytes,
                    TEXT_MAX_BYTES);
    size_t before = out->n;
    outrider_status status = encode_parts(t, text, bytes, start, out);
    if (status != OUTRIDER_OK) out->n = before;
    return status;
}

outrider_status tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes,
                                 struct token_list *out) {
    return encode(t, text, bytes, true, out);
}

outrider_status tokenizer_encode_next(const struct tokenizer *t, const char *text, size_t bytes,
                                      struct token_list *out) {
    return encode(t, text, bytes, false, out);
}

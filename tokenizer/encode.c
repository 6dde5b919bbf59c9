/* Text to ids through byte-pair merges, with what tokenizer.json files ask for around them: a normal form,
 * prefixes, added tokens, and the cutting into words. The order of the steps is the reference's. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "tokenizer/utf8.h"

bool starts_with_space(const char *text, size_t bytes) {
    return bytes >= SPACE_BYTES && memcmp(text, SPACE, SPACE_BYTES) == 0;
}

bool spaces_begin(const char *text, size_t i) {
    if (text[i] != ' ' || text[i - 1] == ' ') return false;
    return i < SPACE_BYTES || !starts_with_space(text + i - SPACE_BYTES, SPACE_BYTES);
}

size_t run_length(const char *text, size_t bytes, bool valid) {
    size_t i = 0;
    while (i < bytes) {
        int length = utf8_check((const unsigned char *)text + i, bytes - i);
        if ((length > 0) != valid) break;
        i += length > 0 ? (size_t)length : 1;
    }
    return i;
}

/* ---- normal forms ---- */

/* A mark as it is sorted: by class, and in the order that it came in. */
struct mark {
    size_t at;
    uint8_t class, bytes;
};

static int by_class(const void *a, const void *b) {
    const struct mark *m = a, *n = b;
    if (m->class != n->class) return m->class < n->class ? -1 : 1;
    return (m->at > n->at) - (m->at < n->at);
}

static int class_at(const char *text, size_t bytes, int *length) {
    *length = utf8_check((const unsigned char *)text, bytes);
    uint32_t c = utf8_code_point((const unsigned char *)text, *length);
    return c < 0x300 ? 0 : utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
}

/* Writes a run of marks in canonical order, which changes no normal form. */
static outrider_status sort_marks(const char *text, size_t bytes, char *out) {
    struct mark *marks = malloc(bytes * sizeof *marks);
    size_t n = 0, written = 0;
    if (!marks) return fail_memory("combining marks", bytes * sizeof *marks);
    for (size_t i = 0; i < bytes; n++) {
        int length, class = class_at(text + i, bytes - i, &length);
        marks[n] = (struct mark){i, (uint8_t) class, (uint8_t)length};
        i += (size_t)length;
    }
    qsort(marks, n, sizeof *marks, by_class);
    for (size_t i = 0; i < n; written += marks[i++].bytes)
        memcpy(out + written, text + marks[i].at, marks[i].bytes);
    free(marks);
    return OUTRIDER_OK;
}

/* The library sorts the marks behind a letter by exchanging neighbours, which takes for ever when there are
 * very many of them; so long runs come to it sorted. */
static outrider_status sort_long_runs(const char *text, size_t bytes, char *out) {
    enum { LONG_BYTES = 64 };
    memcpy(out, text, bytes);
    for (size_t i = 0, run = 0; i <= bytes;) {
        int length = 0, class = i < bytes ? class_at(text + i, bytes - i, &length) : 0;
        if (class == 0 && i - run > LONG_BYTES) TRY(sort_marks(text + run, i - run, out + run));
        if (i == bytes) break;
        i += (size_t)length;
        if (class == 0) run = i;
    }
    return OUTRIDER_OK;
}

static bool is_plain(const char *text, size_t bytes) {
    unsigned char seen = 0;
    for (size_t i = 0; i < bytes; i++) seen |= (unsigned char)text[i];
    return seen < 0x80;
}

static outrider_status compose(int form, const char *text, size_t bytes, char **out, size_t *n) {
    if (!form || is_plain(text, bytes)) {
        if (!(*out = malloc(bytes + 1))) return fail_memory("a text", bytes);
        memcpy(*out, text, bytes);
        *n = bytes;
        return OUTRIDER_OK;
    }
    char *sorted = malloc(bytes + 1);
    if (!sorted) return fail_memory("a text", bytes);
    outrider_status status = sort_long_runs(text, bytes, sorted);
    if (status == OUTRIDER_OK) {
        utf8proc_uint8_t *composed = NULL;
        utf8proc_ssize_t got = utf8proc_map((const utf8proc_uint8_t *)sorted, (utf8proc_ssize_t)bytes,
                                            &composed, (utf8proc_option_t)form);
        if (got == UTF8PROC_ERROR_NOMEM)
            status = fail_memory("a text", bytes);
        else if (got < 0)
            status = fail(OUTRIDER_EFAIL, "cannot normalize a text: %s", utf8proc_errmsg(got));
        *out = (char *)composed;
        *n = got < 0 ? 0 : (size_t)got;
    }
    free(sorted);
    return status;
}

outrider_status normalize(const struct text_rules *rules, const char *text, size_t bytes, char **out,
                          size_t *n) {
    char *composed;
    size_t length, at = 0, spaces = 0;
    TRY(compose(rules->form, text, bytes, &composed, &length));
    bool prefix = rules->prefix == PREFIX_EVERY && length > 0;
    if (!prefix && !rules->escapes) {
        *out = composed;
        *n = length;
        return OUTRIDER_OK;
    }
    for (size_t i = 0; i < length; i++) spaces += composed[i] == ' ';
    char *written = malloc(length + 2 * spaces + SPACE_BYTES + 1);
    if (written) {
        if (prefix) memcpy(written, SPACE, SPACE_BYTES), at = SPACE_BYTES;
        for (size_t i = 0; i < length; i++) {
            if (rules->escapes && composed[i] == ' ')
                memcpy(written + at, SPACE, SPACE_BYTES), at += SPACE_BYTES;
            else
                written[at++] = composed[i];
        }
    }
    free(composed);
    if (!written) return fail_memory("a text", length);
    *out = written;
    *n = at;
    return OUTRIDER_OK;
}

/* ---- words ---- */

struct work {
    const struct tokenizer *t;
    struct bpe_scratch scratch;
    struct token_list *out;
};

static outrider_status push_bytes(struct work *w, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        TRY(bpe_push(&w->scratch, w->t->model.byte_ids[(unsigned char)text[i]]));
    return OUTRIDER_OK;
}

static outrider_status encode_byte_word(void *user, const char *text, size_t bytes) {
    struct work *w = user;
    if (w->t->rules.ignores_merges && bytes <= PRECHECK_MAX_PIECE) {
        int32_t id = bpe_find(w->t->bpe, text, bytes, true);
        if (id >= 0) return token_list_push(w->out, id);
    }
    TRY(push_bytes(w, text, bytes));
    return bpe_merge(w->t->bpe, &w->scratch, w->out);
}

static outrider_status encode_bytes(struct work *w, const char *text, size_t bytes) {
    if (!w->t->rules.byte_prefix || text[0] == ' ')
        return splitter_run(w->t->splitter, text, bytes, encode_byte_word, w);
    char *copy = malloc(bytes + 1);
    if (!copy) return fail_memory("a text", bytes + 1);
    copy[0] = ' ';
    memcpy(copy + 1, text, bytes);
    outrider_status status = splitter_run(w->t->splitter, copy, bytes + 1, encode_byte_word, w);
    free(copy);
    return status;
}

/* One character: its piece, the pieces of its bytes, or the unknown one. */
static outrider_status push_character(struct work *w, const char *text, size_t bytes) {
    const struct sp_model *m = &w->t->model;
    if (text[0] == ' ' && m->escape_whitespaces) text = SPACE, bytes = SPACE_BYTES;
    int32_t id = bpe_find(w->t->bpe, text, bytes, true);
    if (id >= 0) return bpe_push(&w->scratch, id);
    if (m->byte_fallback) return push_bytes(w, text, bytes);
    return bpe_push(&w->scratch, m->unk);
}

static outrider_status encode_character_word(struct work *w, const char *text, size_t bytes) {
    const int32_t unk = w->t->model.byte_fallback ? -1 : w->t->model.unk;
    bool after_unknown = false;
    for (size_t i = 0; i < bytes;) {
        int length = utf8_check((const unsigned char *)text + i, bytes - i);
        size_t before = w->scratch.n;
        TRY(push_character(w, text + i, (size_t)length));
        bool unknown = w->scratch.n == before + 1 && bpe_is_last(&w->scratch, unk);
        if (unknown && after_unknown && w->t->rules.fuses_unknown) w->scratch.n--;
        after_unknown = unknown;
        i += (size_t)length;
    }
    return bpe_merge(w->t->bpe, &w->scratch, w->out);
}

enum { PART_BYTES = 1 << 16 };

/* Where a word that begins at text[from] ends: before the next U+2581 where words are cut; else the text is
 * one, of which long parts are cut off where that changes nothing. */
static size_t word_end(const struct tokenizer *t, const char *text, size_t bytes, size_t from) {
    if (!t->rules.cuts_words && !t->cut_at_spaces) return bytes;
    size_t i = from + (t->rules.cuts_words ? 1 : PART_BYTES);
    for (; i < bytes; i++) {
        bool space = text[i] == ' ' || starts_with_space(text + i, bytes - i);
        if (!space) continue;
        if (t->rules.cuts_words) break;
        bool goes_on = text[i - 1] == ' ' ||
                       (i >= SPACE_BYTES && starts_with_space(text + i - SPACE_BYTES, SPACE_BYTES));
        if (!goes_on) break;
    }
    return i < bytes ? i : bytes;
}

static outrider_status encode_characters(struct work *w, const char *text, size_t bytes, bool start) {
    const struct tokenizer *t = w->t;
    bool prefix = t->rules.prefix == PREFIX_EVERY_WORD || (t->rules.prefix == PREFIX_FIRST_WORD && start);
    if (text[0] == ' ' || starts_with_space(text, bytes)) prefix = false;
    if (prefix) {
        TRY(push_character(w, SPACE, SPACE_BYTES));
    }
    for (size_t i = 0; i < bytes;) {
        size_t end = word_end(t, text, bytes, i);
        TRY(encode_character_word(w, text + i, end - i));
        i = end;
    }
    return OUTRIDER_OK;
}

/* ---- runs ---- */

static outrider_status encode_normalized(struct work *w, const char *text, size_t bytes, bool start) {
    const struct added *token;
    for (size_t i = 0, begin, end; i < bytes; i = end) {
        bool found = added_next(&w->t->added[1], text, bytes, i, &token, &begin, &end);
        if (!found) begin = end = bytes;
        if (begin > i)
            TRY(w->t->rules.byte_level ? encode_bytes(w, text + i, begin - i)
                                       : encode_characters(w, text + i, begin - i, start && i == 0));
        if (found) TRY(token_list_push(w->out, token->id));
    }
    return OUTRIDER_OK;
}

static outrider_status encode_valid(struct work *w, const char *text, size_t bytes, bool start) {
    char *normal;
    size_t n;
    TRY(normalize(&w->t->rules, text, bytes, &normal, &n));
    outrider_status status = encode_normalized(w, normal, n, start);
    free(normal);
    return status;
}

/* Bytes that are no UTF-8: merged as one word where merges are over bytes; else one piece each, or one
 * unknown piece for all of them. */
static outrider_status encode_invalid(struct work *w, const char *text, size_t bytes) {
    const struct sp_model *m = &w->t->model;
    if (!w->t->rules.byte_level && !m->byte_fallback) return token_list_push(w->out, m->unk);
    TRY(push_bytes(w, text, bytes));
    return bpe_merge(w->t->bpe, &w->scratch, w->out);
}

static outrider_status encode_runs(struct work *w, const char *text, size_t bytes, bool start) {
    for (size_t i = 0; i < bytes;) {
        size_t valid = run_length(text + i, bytes - i, true);
        if (valid > 0) TRY(encode_valid(w, text + i, valid, start && i == 0));
        i += valid;
        size_t invalid = run_length(text + i, bytes - i, false);
        if (invalid > 0) TRY(encode_invalid(w, text + i, invalid));
        i += invalid;
    }
    return OUTRIDER_OK;
}

outrider_status encode_bpe(const struct tokenizer *t, const char *text, size_t bytes, bool start,
                           struct token_list *out) {
    struct work w = {.t = t, .out = out};
    outrider_status status = encode_runs(&w, text, bytes, start);
    bpe_scratch_free(&w.scratch);
    return status;
}

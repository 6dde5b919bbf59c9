/* Looks for added tokens; see added.h. Leftmost first, and of those that begin at one place the longest. */
#include "tokenizer/added.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/status.h"
#include "tokenizer/precheck.h"
#include "tokenizer/utf8.h"

outrider_status added_push(struct added_table *t, struct added token) {
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? t->capacity * 2 : 64;
        struct added *grown = realloc(t->tokens, capacity * sizeof *grown);
        if (!grown) {
            if (token.owned) free((char *)token.text);
            return fail_memory("added tokens", capacity * sizeof *grown);
        }
        t->tokens = grown;
        t->capacity = capacity;
    }
    t->tokens[t->n++] = token;
    t->begins[(unsigned char)token.text[0]] = true;
    return OUTRIDER_OK;
}

static int by_text(const void *a, const void *b) {
    const struct added *p = a, *q = b;
    size_t shared = p->bytes < q->bytes ? p->bytes : q->bytes;
    int order = memcmp(p->text, q->text, shared);
    return order ? order : (p->bytes > q->bytes) - (p->bytes < q->bytes);
}

void added_sort(struct added_table *t) {
    if (t->n > 0) qsort(t->tokens, t->n, sizeof *t->tokens, by_text);
}

void added_free(struct added_table *t) {
    for (size_t i = 0; i < t->n; i++)
        if (t->tokens[i].owned) free((char *)t->tokens[i].text);
    free(t->tokens);
    *t = (struct added_table){0};
}

/* First of tokens[low..high), which agree in their first `depth` bytes, whose next byte is at least c. */
static size_t first_from(const struct added_table *t, size_t low, size_t high, size_t depth, int c) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct added *a = &t->tokens[middle];
        int next = a->bytes > depth ? (unsigned char)a->text[depth] : -1;
        if (next < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct added *added_at(const struct added_table *t, const char *text, size_t bytes) {
    const struct added *longest = NULL;
    if (bytes == 0 || !t->begins[(unsigned char)text[0]]) return NULL;
    for (size_t low = 0, high = t->n, depth = 0; depth < bytes && low < high; depth++) {
        int c = (unsigned char)text[depth];
        low = first_from(t, low, high, depth, c);
        high = first_from(t, low, high, depth, c + 1);
        if (low < high && t->tokens[low].bytes == depth + 1) longest = &t->tokens[low];
    }
    return longest;
}

static bool is_white_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

/* The character that begins or ends a text, and its length; 0 when that is none. */
static uint32_t first_character(const char *text, size_t bytes, size_t *length) {
    int n = bytes > 0 ? utf8_check((const unsigned char *)text, bytes) : 0;
    *length = n > 0 ? (size_t)n : 0;
    return n > 0 ? utf8_code_point((const unsigned char *)text, n) : 0;
}

static uint32_t last_character(const char *text, size_t bytes, size_t *length) {
    for (size_t n = 1; n <= 4 && n <= bytes; n++) {
        uint32_t c = first_character(text + bytes - n, n, length);
        if (*length == n) return c;
    }
    return *length = 0;
}

size_t spaces_at_end(const char *text, size_t bytes) {
    size_t n = bytes, length;
    while (is_white_space(last_character(text, n, &length)) && length > 0) n -= length;
    return bytes - n;
}

size_t spaces_at_start(const char *text, size_t bytes) {
    size_t n = 0, length;
    while (is_white_space(first_character(text + n, bytes - n, &length)) && length > 0) n += length;
    return n;
}

/* What \w of the reference's expressions matches. */
static bool is_word(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return c == 0x200C || c == 0x200D;
    }
}

static bool goes_on(const char *text, size_t bytes, size_t begin, size_t end) {
    size_t length;
    uint32_t before = last_character(text, begin, &length);
    if (length > 0 && is_word(before)) return true;
    uint32_t after = first_character(text + end, bytes - end, &length);
    return length > 0 && is_word(after);
}

bool added_next(const struct added_table *t, const char *text, size_t bytes, size_t from,
                const struct added **token, size_t *begin, size_t *end) {
    for (size_t i = from; t->n > 0 && i < bytes;) {
        const struct added *a = added_at(t, text + i, bytes - i);
        if (!a) {
            i++;
            continue;
        }
        *token = a;
        *begin = i;
        *end = i + a->bytes;
        if ((a->flags & PIECE_SINGLE_WORD) && goes_on(text, bytes, *begin, *end)) {
            i = *end;
            continue;
        }
        if (a->flags & PIECE_LSTRIP) *begin -= spaces_at_end(text + from, *begin - from);
        if (a->flags & PIECE_RSTRIP) *end += spaces_at_start(text + *end, bytes - *end);
        return true;
    }
    return false;
}

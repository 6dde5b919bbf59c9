/* Tokens that are looked for in a text before it is cut into words: those that a model's file adds and does
 * not call special. Control tokens are not among them. */
#ifndef OUTRIDER_ADDED_H
#define OUTRIDER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"

struct added {
    const char *text; /* borrowed, or a copy that is the table's */
    size_t bytes;
    uint8_t flags; /* enum piece_flag */
    bool owned;
    int32_t id;
};

struct added_table {
    struct added *tokens; /* [n] sorted by text */
    size_t n, capacity;
    bool begins[256]; /* first bytes */
};

/* Takes an owned text over, on failure too. */
outrider_status added_push(struct added_table *t, struct added token);
void added_sort(struct added_table *t); /* once, after the last push */
void added_free(struct added_table *t);

/* The longest token that stands at the beginning of a text, NULL when none does. */
const struct added *added_at(const struct added_table *t, const char *text, size_t bytes);

/* The first token in text[from..bytes), and its place with the white space that it takes along: white space
 * before `from` is taken already. False when there is none. */
bool added_next(const struct added_table *t, const char *text, size_t bytes, size_t from,
                const struct added **token, size_t *begin, size_t *end);

/* How many bytes of white space (Unicode's White_Space) end a text, or begin it. */
size_t spaces_at_end(const char *text, size_t bytes);
size_t spaces_at_start(const char *text, size_t bytes);

#endif

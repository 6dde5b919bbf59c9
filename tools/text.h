/* Bytes: growing buffers, whole files, checked output, and JSON strings of text that may be no UTF-8. */
#ifndef OUTRIDER_TOOLS_TEXT_H
#define OUTRIDER_TOOLS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <jansson.h>

/* `data` always ends in a NUL that `bytes` does not count; NULL while nothing was ever added. */
struct text {
    char *data;
    size_t bytes, room;
};

int text_append(struct text *t, const char *data, size_t bytes);
void text_clear(struct text *t);

/* A terminal that edits lines itself holds so many bytes of one, its end included, and cuts off the rest
 * without a word; so a line that is as long may have lost its end, and is refused. */
enum { TERMINAL_LINE_BYTES = 4096 };

/* Appends a whole file; "-" is standard input. */
int text_read_file(struct text *t, const char *path);

/* The longest valid UTF-8 prefix in bytes; stops at the first byte that is none. */
size_t utf8_prefix(const char *data, size_t bytes);
/* A JSON string; bytes that are no UTF-8 become U+FFFD. NULL without memory. */
json_t *json_text(const char *data, size_t bytes);

/* Calls `each` with every line of a file of JSON lines, numbered from 1; blank ones are left out. The value
 * is borrowed. Ends at the first failure; a file without a line is one. */
int json_lines(const char *path, int (*each)(void *user, size_t number, json_t *value), void *user);

/* Writes and flushes, so that a full disk is told at once. On a terminal control characters but newline and
 * tab are shown as '?': a model's text must not drive the terminal. */
int write_text(FILE *out, const char *data, size_t bytes);
/* Control characters, newline and tab among them, and bytes that are no UTF-8 become '?', in place. */
void make_printable(char *line);
/* Prints and frees `object`, then a newline. */
int write_json(FILE *out, json_t *object, size_t flags);
/* Told at the end of every command: what the C library could not write. */
int flush_output(FILE *out);

#endif

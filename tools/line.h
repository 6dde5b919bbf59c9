/* Reads lines from a person (editing and history through libedit) or from a script (plainly). */
#ifndef OUTRIDER_LINE_H
#define OUTRIDER_LINE_H

#include <stdbool.h>
#include <stddef.h>

struct line_reader;

enum line_result {
    LINE_READ,
    LINE_END,         /* end of input, or Ctrl-D on an empty line */
    LINE_DROPPED,     /* Ctrl-C after keys were typed, or too long for its terminal: the text is gone */
    LINE_INTERRUPTED, /* Ctrl-C on an untouched line */
};

/* What may stand where the cursor is: words in place of the text from `from` on. Owned by the reader. */
struct completions {
    size_t from;
    char **words;
    size_t n;
};
/* Adds a word; no memory means no word. */
void completions_add(struct completions *c, const char *word);

/* Fills *out for the line up to the cursor. */
typedef void line_completer(void *user, const char *text, struct completions *out);

/* `editing`: standard input and standard error are terminals and may be driven. Otherwise lines are read as
 * they come, with the prompt on standard error only when `prompting`. What is typed between two calls waits
 * (terminal.h). `history`: a file, created with mode 0600, or NULL. `complete` answers Tab; NULL for nothing.
 * Ctrl-G opens $VISUAL or $EDITOR. Returns NULL without memory. */
struct line_reader *line_open(bool editing, bool prompting, const char *history, line_completer *complete,
                              void *user);
/* The line without its newline; it may hold NUL, and when pasted newlines. Borrowed until the next call. */
enum line_result line_read(struct line_reader *r, const char *prompt, const char **line, size_t *bytes);
void line_close(struct line_reader *r);

#endif

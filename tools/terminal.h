/* The terminal: colour, the progress bar, Ctrl-C. Line editing is in line.h. */
#ifndef OUTRIDER_TERMINAL_H
#define OUTRIDER_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

#include "tools/options.h"

/* Whether it is a terminal that TERM gives more than plain lines. */
bool terminal_obeys(FILE *out);

/* Escape sequences, all empty where colour is off. */
struct palette {
    const char *prompt, *dim, *plain;
    const char *draft, *ngram; /* tokens that they proposed */
};
struct palette palette_for(const struct options *o, FILE *out);

/* A bar on standard error, only on a terminal: "reading [####  ]  45%  1200 tokens/s, 3 s left", with rate
 * and time left once they can be told. For any long work: begin, count as often as you like (it draws ten
 * times a second at most), end. When the share falls, a new clock starts. */
struct progress {
    bool live, drawn;
    char stage[40];
    double began, shown; /* seconds */
    double from, share;  /* at the first call and at the last: when it falls, other work began */
};
struct progress progress_begin(const struct options *o);
void progress_count(struct progress *p, const char *stage, double done, double total, const char *unit);
/* The same of bytes; fits outrider_engine_options.progress. */
void progress_bytes(void *progress, const char *stage, double done, double total);
void progress_end(struct progress *p);

/* The mode of the terminal on standard input. Between lines, while a model loads or writes, what is typed
 * waits: not shown in the midst of the answer, and no line cut off at 4095 bytes, as the terminal's own line
 * mode would. Restoring does nothing where nothing was remembered; a signal handler may do it. */
void terminal_remember(void);
void terminal_wait(void);
void terminal_restore(void);

/* Counts Ctrl-C from 0 on; the `leave_at`-th ends the process at once with 130. What it interrupts is not
 * restarted, so that reads return. */
void interrupts_watch(int leave_at);
int interrupts_seen(void);

/* lost_file.c: a model file that shrinks while it is in use ends the program with a line and OUTRIDER_EMODEL.
 */
void lost_files_watch(void);

#endif

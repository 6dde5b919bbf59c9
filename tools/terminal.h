/* The terminal: colour, the progress bar, Ctrl-C. Line editing is in line.h. */
#ifndef OUTRIDER_TERMINAL_H
#define OUTRIDER_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

#include "tools/options.h"

/* Escape sequences, all empty where colour is off. */
struct palette {
    const char *prompt, *dim, *plain;
};
struct palette palette_for(const struct options *o, FILE *out);

/* A bar on standard error, only on a terminal. progress_show fits outrider_engine_options.progress. */
struct progress {
    bool live;
    int percent; /* as drawn; -1 for not at all */
};
struct progress progress_begin(const struct options *o);
void progress_show(void *progress, const char *stage, double share);
void progress_end(struct progress *p);

/* Counts Ctrl-C from 0 on; the `leave_at`-th ends the process at once with 130. What it interrupts is not
 * restarted, so that reads return. */
void interrupts_watch(int leave_at);
int interrupts_seen(void);

#endif

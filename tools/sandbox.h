/* What the kernel lets the process do once models are loaded and memory is taken.
 *
 * Whoever takes the process over through a file it has read finds no way out of it: what is not allowed fails
 * with EPERM, for all threads and for good. Not in builds with sanitizers, which need more themselves. */
#ifndef OUTRIDER_SANDBOX_H
#define OUTRIDER_SANDBOX_H

#include <stdbool.h>

enum sandbox_level {
    /* Computing, and reading and writing what is open: no file is opened, no program started, no process or
     * other machine spoken to, no memory made executable. */
    SANDBOX_COMPUTE,
    /* The same, with models still to be read: files may be opened, not written, made or removed. */
    SANDBOX_READ,
    /* For a conversation, which opens the files and the editor its user names, for a conversion, which writes
     * files, and for a card's driver: all but the network, other processes' memory, and what administers the
     * system. */
    SANDBOX_FILES,
};

/* Whether this build has one; enter fails otherwise. */
bool sandbox_built(void);
/* False when the kernel does not do it; nothing has changed then. */
bool sandbox_enter(enum sandbox_level level);

#endif

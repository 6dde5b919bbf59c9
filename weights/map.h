/* A file of a model folder, mapped read-only.
 *
 * Only regular files are mapped, through symlinks if need be; a directory, FIFO or device in a file's place
 * is refused without waiting on it. A file that shrinks while it is mapped is a SIGBUS to who reads it: a
 * library has no business with signal handlers, so the command line installs one (tools/lost_file.c).
 */
#ifndef OUTRIDER_MAP_H
#define OUTRIDER_MAP_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/outrider.h"

struct mapping {
    char *path; /* owned; for messages */
    const unsigned char *data;
    size_t bytes; /* never 0 */
};

/* Maps dir/name. Where `found` is given, absence is no failure but *found = false and a zeroed *out. */
outrider_status map_open(const char *dir, const char *name, bool *found, struct mapping *out);
/* The same by path alone; absence is a failure. */
outrider_status map_open_path(const char *path, struct mapping *out);
void map_close(struct mapping *map); /* zeroed is fine */

#endif

/* Files that appear whole under their names, or not at all, whatever happens: written beside their place,
 * brought to the disk, renamed, and their folder brought to the disk. For sessions, saved conversations and
 * converted models. */
#ifndef OUTRIDER_NEW_FILE_H
#define OUTRIDER_NEW_FILE_H

#include <sys/types.h>

#include "runtime/outrider.h"

enum { NEW_FILE_PRIVATE = 0600, NEW_FILE_SHARED = 0666 };

struct new_file {
    int file;
    char *path, *temporary; /* temporary: while there is one */
};

/* OUTRIDER_EFAIL where the file cannot be made, or something that is no regular file has the name. To be
 * dropped, also after a failure of this call. */
outrider_status new_file_open(const char *path, mode_t mode, struct new_file *f);
outrider_status new_file_write(struct new_file *f, const void *data, size_t bytes);
/* Gives it its name; what had the name is gone. */
outrider_status new_file_finish(struct new_file *f);
void new_file_drop(struct new_file *f); /* after finish too; removes what is unfinished; zeroed is fine */

/* Brings the folder of `path`, and so a new name in it, to the disk. Some file systems cannot, which costs no
 * more than what was written last. */
void sync_folder(const char *path);

#endif

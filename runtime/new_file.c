/* Files that appear whole or not at all; see new_file.h. */
#include "runtime/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/status.h"

enum { TRIES = 100 }; /* of names that killed programs may have left */

static outrider_status fail_file(const struct new_file *f) {
    return fail_errno(OUTRIDER_EFAIL, f->path);
}

/* path.PID-N, the first that is free. */
static outrider_status open_beside(mode_t mode, struct new_file *f) {
    for (int i = 0; i < TRIES; i++) {
        if (asprintf(&f->temporary, "%s.%ld-%d", f->path, (long)getpid(), i) < 0) {
            f->temporary = NULL;
            return fail_memory("a path", strlen(f->path));
        }
        f->file = open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (f->file >= 0) return OUTRIDER_OK;
        free(f->temporary);
        f->temporary = NULL;
        if (errno != EEXIST) break;
    }
    return fail_file(f);
}

outrider_status new_file_open(const char *path, mode_t mode, struct new_file *f) {
    struct stat st;
    *f = (struct new_file){.file = -1, .path = strdup(path)};
    if (!f->path) return fail_memory("a path", strlen(path));
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fail(OUTRIDER_EFAIL, "%s: not a regular file", path);
    return open_beside(mode, f);
}

outrider_status new_file_write(struct new_file *f, const void *data, size_t bytes) {
    while (bytes > 0) {
        ssize_t n = write(f->file, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_file(f);
        data = (const char *)data + n;
        bytes -= (size_t)n;
    }
    return OUTRIDER_OK;
}

void sync_folder(const char *path) {
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = '\0';
    int file = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) return;
    fsync(file);
    close(file);
}

static int sync_file(int file) {
    int code;
    do code = fsync(file);
    while (code != 0 && errno == EINTR);
    return code;
}

outrider_status new_file_finish(struct new_file *f) {
    int file = f->file, code = sync_file(file);
    f->file = -1;
    if (close(file) != 0 || code != 0 || rename(f->temporary, f->path) != 0) return fail_file(f);
    free(f->temporary);
    f->temporary = NULL;
    sync_folder(f->path);
    return OUTRIDER_OK;
}

void new_file_drop(struct new_file *f) {
    if (f->temporary) {
        if (f->file >= 0) close(f->file);
        unlink(f->temporary);
    }
    free(f->temporary);
    free(f->path);
    *f = (struct new_file){.file = -1};
}

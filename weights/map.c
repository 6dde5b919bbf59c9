/* Mapping of model files; see map.h. */
#include "weights/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/status.h"

#define MODEL_FOLDER                                                                                         \
    "a model is a folder with config.json, model.safetensors (or shards and index) and tokenizer.model"

static outrider_status fail_absent(const char *dir, const char *path) {
    struct stat st;
    if (stat(dir, &st)) return fail(OUTRIDER_EMODEL, "%s: %s; " MODEL_FOLDER, dir, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return fail(OUTRIDER_EMODEL, "%s: not a folder; " MODEL_FOLDER, dir);
    return fail(OUTRIDER_EMODEL, "%s: no such file; " MODEL_FOLDER, path);
}

static outrider_status map_descriptor(int fd, struct mapping *out) {
    struct stat st;
    if (fstat(fd, &st)) return fail(OUTRIDER_EMODEL, "%s: %s", out->path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return fail(OUTRIDER_EMODEL, "%s: not a regular file", out->path);
    if (st.st_size == 0) return fail(OUTRIDER_EMODEL, "%s: the file is empty", out->path);
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return fail(errno == ENOMEM ? OUTRIDER_ENOMEM : OUTRIDER_EMODEL, "%s: cannot map %lld bytes: %s",
                    out->path, (long long)st.st_size, strerror(errno));
    out->data = data;
    out->bytes = (size_t)st.st_size;
    return OUTRIDER_OK;
}

outrider_status map_open(const char *dir, const char *name, bool *found, struct mapping *out) {
    *out = (struct mapping){0};
    if (asprintf(&out->path, "%s/%s", dir, name) < 0) {
        out->path = NULL;
        return fail_memory("a file name", strlen(dir) + strlen(name) + 2);
    }
    outrider_status status = OUTRIDER_OK;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing to a regular file. */
    int fd = open(out->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool absent = fd < 0 && errno == ENOENT;
    /* A link whose file is gone is a damaged folder, not one without an optional file. */
    struct stat st;
    if (absent && lstat(out->path, &st) == 0) {
        status = fail(OUTRIDER_EMODEL, "%s: a link to a file that is not there", out->path);
        map_close(out);
        return status;
    }
    if (found) *found = !absent;
    if (fd >= 0)
        status = map_descriptor(fd, out);
    else if (!absent && errno != ENOTDIR)
        status = fail(OUTRIDER_EMODEL, "%s: %s", out->path, strerror(errno));
    else if (!absent || !found)
        status = fail_absent(dir, out->path);
    if (fd >= 0) close(fd);
    if (status != OUTRIDER_OK || absent) map_close(out);
    return status;
}

void map_close(struct mapping *map) {
    if (map->data) munmap((void *)map->data, map->bytes);
    free(map->path);
    *map = (struct mapping){0};
}

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
    "a model is a folder with config.json, model.safetensors (or shards and index) and a tokenizer, or a "   \
    "GGUF file"

static outrider_status fail_absent(const char *dir, const char *path) {
    struct stat st;
    if (stat(dir, &st)) return fail(OUTRIDER_EMODEL, "%s: %s; " MODEL_FOLDER, dir, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return fail(OUTRIDER_EMODEL, "%s: not a folder; " MODEL_FOLDER, dir);
    return fail(OUTRIDER_EMODEL, "%s: no such file; " MODEL_FOLDER, path);
}

static outrider_status map_descriptor(int fd, struct mapping *out) {
    struct stat st;
    if (fstat(fd, &st)) return fail_errno(OUTRIDER_EMODEL, out->path);
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

/* Opens out->path; *absent says that there is nothing by that name, which is no failure here. */
static outrider_status map_path(struct mapping *out, bool *absent) {
    outrider_status status = OUTRIDER_OK;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing to a regular file. */
    int fd = open(out->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    *absent = fd < 0 && (errno == ENOENT || errno == ENOTDIR);
    /* A link whose file is gone is a damaged folder, not one without an optional file. */
    struct stat st;
    if (*absent && errno == ENOENT && lstat(out->path, &st) == 0)
        return fail(OUTRIDER_EMODEL, "%s: a link to a file that is not there", out->path);
    if (fd >= 0)
        status = map_descriptor(fd, out);
    else if (!*absent)
        status = fail_errno(OUTRIDER_EMODEL, out->path);
    if (fd >= 0) close(fd);
    return status;
}

outrider_status map_open(const char *dir, const char *name, bool *found, struct mapping *out) {
    *out = (struct mapping){0};
    if (asprintf(&out->path, "%s/%s", dir, name) < 0) {
        out->path = NULL;
        return fail_memory("a file name", strlen(dir) + strlen(name) + 2);
    }
    bool absent;
    struct stat st;
    outrider_status status = map_path(out, &absent);
    if (status == OUTRIDER_OK && absent && (!found || (stat(dir, &st) == 0 && !S_ISDIR(st.st_mode))))
        status = fail_absent(dir, out->path);
    if (found) *found = !absent;
    if (status != OUTRIDER_OK || absent) map_close(out);
    return status;
}

outrider_status map_open_path(const char *path, struct mapping *out) {
    *out = (struct mapping){.path = strdup(path)};
    if (!out->path) return fail_memory("a file name", strlen(path) + 1);
    bool absent;
    outrider_status status = map_path(out, &absent);
    if (status == OUTRIDER_OK && absent) status = fail(OUTRIDER_EMODEL, "%s: no such file", path);
    if (status != OUTRIDER_OK) map_close(out);
    return status;
}

void map_close(struct mapping *map) {
    if (map->data) munmap((void *)map->data, map->bytes);
    free(map->path);
    *map = (struct mapping){0};
}

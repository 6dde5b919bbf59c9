/* See source.h. */
#include "weights/source.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/status.h"

static bool is_there(const char *dir, const char *name) {
    char path[4096];
    struct stat st;
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path && lstat(path, &st) == 0;
}

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* Whether the name ends as a part of a split model's does; *first tells the first part. */
static bool is_part(const char *name, bool *first) {
    static const char form[] = "-00001-of-00003.gguf";
    if (strlen(name) < sizeof form - 1) return false;
    const char *end = name + strlen(name) - (sizeof form - 1);
    *first = strncmp(end, form, 6) == 0;
    for (size_t i = 0; form[i]; i++)
        if (form[i] >= '0' && form[i] <= '9' ? end[i] < '0' || end[i] > '9' : end[i] != form[i]) return false;
    return true;
}

bool source_is_gguf(const char *name) {
    bool first;
    if (!ends_with(name, ".gguf") || strncmp(name, "mmproj", 6) == 0) return false;
    return !is_part(name, &first) || first;
}

static outrider_status find_in_folder(const char *dir, DIR *folder, char **file) {
    for (struct dirent *e; (e = readdir(folder));) {
        if (!source_is_gguf(e->d_name)) continue;
        if (*file)
            return fail(OUTRIDER_EMODEL, "%s: holds several GGUF models (%.100s, %.100s): name one of them",
                        dir, strrchr(*file, '/') + 1, e->d_name);
        if (asprintf(file, "%s/%s", dir, e->d_name) < 0) {
            *file = NULL;
            return fail_memory("a path", strlen(dir) + strlen(e->d_name) + 2);
        }
    }
    return OUTRIDER_OK;
}

outrider_status source_gguf(const char *path, char **file) {
    static const char *const marks[] = {"config.json", "model.safetensors", "model.safetensors.index.json"};
    struct stat st;
    *file = NULL;
    if (stat(path, &st)) return OUTRIDER_OK;
    if (!S_ISDIR(st.st_mode)) {
        *file = strdup(path);
        return *file ? OUTRIDER_OK : fail_memory("a path", strlen(path) + 1);
    }
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (is_there(path, marks[i])) return OUTRIDER_OK;
    DIR *folder = opendir(path);
    if (!folder) return fail_errno(OUTRIDER_EMODEL, path);
    outrider_status status = find_in_folder(path, folder, file);
    closedir(folder);
    if (status == OUTRIDER_OK) return status;
    free(*file);
    *file = NULL;
    return status;
}

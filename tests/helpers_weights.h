/* Temporary model folders for tests, and safetensors files written by hand. */
#ifndef OUTRIDER_HELPERS_WEIGHTS_H
#define OUTRIDER_HELPERS_WEIGHTS_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER_TEMPLATE "/tmp/outrider-test-XXXXXX"

struct folder {
    char path[sizeof FOLDER_TEMPLATE];
};

static inline void folder_die(const char *what) {
    perror(what);
    exit(1);
}

static inline struct folder folder_make(void) {
    struct folder f = {FOLDER_TEMPLATE};
    if (!mkdtemp(f.path)) folder_die(f.path);
    return f;
}

static inline const char *folder_file(const struct folder *f, const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    return path;
}

static inline void folder_write(const struct folder *f, const char *name, const void *data, size_t bytes) {
    FILE *file = fopen(folder_file(f, name), "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file)) folder_die(name);
}

static inline void folder_write_text(const struct folder *f, const char *name, const char *text) {
    folder_write(f, name, text, strlen(text));
}

/* Files, links, FIFOs and empty folders in it; not what links point to. */
static inline void folder_clear(const struct folder *f) {
    DIR *dir = opendir(f->path);
    if (!dir) folder_die(f->path);
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) remove(folder_file(f, e->d_name));
    closedir(dir);
}

static inline void folder_remove(const struct folder *f) {
    folder_clear(f);
    rmdir(f->path);
}

/* A safetensors file in memory: the length, the header, then data bytes 0, 1, 2 ... To free. */
static inline unsigned char *safetensors_bytes(const char *header, uint64_t length, size_t data_bytes,
                                               size_t *bytes) {
    size_t header_bytes = strlen(header);
    *bytes = 8 + header_bytes + data_bytes;
    unsigned char *file = malloc(*bytes);
    if (!file) folder_die("malloc");
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)(length >> 8 * i);
    memcpy(file + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) file[8 + header_bytes + i] = (unsigned char)i;
    return file;
}

/* The header padded to a multiple of eight, as the official writer does; to free. */
static inline char *safetensors_padded(const char *header) {
    char *out;
    if (asprintf(&out, "%s%*s", header, (int)(-strlen(header) & 7), "") < 0) folder_die("asprintf");
    return out;
}

static inline void folder_write_safetensors(const struct folder *f, const char *name, const char *header,
                                            size_t data_bytes) {
    char *padded = safetensors_padded(header);
    size_t bytes;
    unsigned char *file = safetensors_bytes(padded, strlen(padded), data_bytes, &bytes);
    folder_write(f, name, file, bytes);
    free(file);
    free(padded);
}

#endif

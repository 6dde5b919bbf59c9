/* Temporary model folders for tests, safetensors files written by hand, and what a refusal owes. */
#ifndef OUTRIDER_HELPERS_WEIGHTS_H
#define OUTRIDER_HELPERS_WEIGHTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/outrider.h"

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

/* What every refusal owes: its code, and one line with the file's name and the field. */
static inline void assert_refused(outrider_status status, const char *file, const char *says) {
    if (status != OUTRIDER_EMODEL) fail_msg("status %d instead of EMODEL", status);
    const char *line = outrider_error();
    if (!strstr(line, file)) fail_msg("no \"%s\" in: %s", file, line);
    if (!strstr(line, says)) fail_msg("no \"%s\" in: %s", says, line);
    assert_null(strchr(line, '\n'));
}

enum odd_kind { ODD_EMPTY, ODD_FOLDER, ODD_FIFO, ODD_DEVICE, ODD_LOOP, ODD_KINDS };

static inline const char *make_odd(const struct folder *f, enum odd_kind kind, const char *name) {
    const char *path = folder_file(f, name);
    switch (kind) {
    case ODD_EMPTY:
        folder_write(f, name, "", 0);
        return "empty";
    case ODD_FOLDER:
        assert_int_equal(mkdir(path, 0700), 0);
        return "not a regular file";
    case ODD_FIFO:
        assert_int_equal(mkfifo(path, 0600), 0);
        return "not a regular file";
    case ODD_DEVICE:
        assert_int_equal(symlink("/dev/zero", path), 0);
        return "not a regular file";
    default:
        assert_int_equal(symlink(name, path), 0);
        return "symbolic links";
    }
}

static inline uint32_t next_random(uint32_t *seed) { /* xorshift, Marsaglia 2003 */
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    return *seed ^= *seed << 5;
}

/* Tests are added one by one, those of a table a row each, and named so that a failure tells the row. */
struct test_list {
    struct CMUnitTest at[256];
    size_t n;
};

static inline void __attribute__((format(printf, 5, 6)))
test_add(struct test_list *list, CMUnitTestFunction run, CMFixtureFunction setup, const void *row,
         const char *format, ...) {
    char *name;
    va_list args;
    va_start(args, format);
    if (vasprintf(&name, format, args) < 0) folder_die("vasprintf");
    va_end(args);
    if (list->n == sizeof list->at / sizeof *list->at) folder_die("too many tests");
    list->at[list->n++] = (struct CMUnitTest){name, run, setup, NULL, (void *)row};
}

static inline int test_run(struct test_list *list, const char *group) {
    int failed = _cmocka_run_group_tests(group, list->at, list->n, NULL, NULL);
    for (size_t i = 0; i < list->n; i++) free((char *)list->at[i].name);
    return failed;
}

#define ADD(list, f) test_add(list, f, clear, NULL, #f)
#define ADD_ROWS(list, rows, f, ...)                                                                         \
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) test_add(list, f, clear, &rows[i], __VA_ARGS__)

#endif

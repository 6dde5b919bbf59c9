/* What every fuzz target shares. A target is a function of bytes: fuzz_one, which must end without a crash, a
 * leak or undefined behaviour whatever it is given, and checks what a refusal owes. tests/replay.c runs it
 * over files; with clang's -fsanitize=fuzzer it is driven by libFuzzer (make fuzz).
 *
 * Every input has a budget: one second of processor time, and under AddressSanitizer 64 MB of live
 * allocations and twice the input's own size.
 */
#ifndef OUTRIDER_HELPERS_FUZZ_H
#define OUTRIDER_HELPERS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/outrider.h"
#include "tokenizer/utf8.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_COUNTS_MEMORY 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define FUZZ_COUNTS_MEMORY 1
#endif
#ifdef FUZZ_COUNTS_MEMORY
/* Of sanitizer/allocator_interface.h, which gcc does without. */
size_t __sanitizer_get_allocated_size(const volatile void *p);
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));
#endif

void fuzz_one(const uint8_t *data, size_t bytes);

static inline void fuzz_die(const char *what) {
    fprintf(stderr, "fuzz: %s: %s\n", what, outrider_error());
    abort();
}

/* What a refusal owes: the status, and one printable line that begins with the file's name. */
static inline void fuzz_refused(outrider_status status, const char *name) {
    const char *line = outrider_error();
    size_t n = strlen(line);
    if (status != OUTRIDER_EMODEL) fuzz_die("another status than OUTRIDER_EMODEL");
    if (!strstr(line, name)) fuzz_die("the line does not name the file");
    for (size_t i = 0; i < n;) {
        int length = utf8_check((const unsigned char *)line + i, n - i);
        if (length <= 0) fuzz_die("the line is no UTF-8");
        uint32_t c = utf8_code_point((const unsigned char *)line + i, length);
        if (c < 0x20 || (c >= 0x7F && c < 0xA0)) fuzz_die("the line holds a control character");
        i += (size_t)length;
    }
}

/* ---- a folder for targets that read files ---- */

static inline void fuzz_remove_folder(void);
static inline char *fuzz_folder(void) {
    static char path[64];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s/outrider-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(path)) abort();
    atexit(fuzz_remove_folder);
    return path;
}

static inline void fuzz_write(const char *name, const void *data, size_t bytes) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    FILE *f = fopen(path, "wb");
    if (!f || (bytes && fwrite(data, 1, bytes, f) != bytes) || fclose(f)) abort();
}

static inline void fuzz_remove(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    unlink(path);
}

static inline void fuzz_remove_folder(void) {
    static const char *const names[] = {"config.json",         "generation_config.json",
                                        "tokenizer.model",     "tokenizer_config.json",
                                        "chat_template.jinja", "model.safetensors",
                                        "a.safetensors",       "b.safetensors",
                                        "tokenizer.json",      "model.gguf",
                                        "chat.json",           "model.safetensors.index.json",
                                        "saved.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) fuzz_remove(names[i]);
    rmdir(fuzz_folder());
}

/* The folder that tests/tiny_model.py wrote, for targets that start from a good model. */
static inline const char *fuzz_tiny(void) {
    const char *folder = getenv("TINY");
    return folder ? folder : "build/tests/tiny";
}

static inline void fuzz_copy_tiny(const char *name) {
    char path[512], data[1 << 16];
    snprintf(path, sizeof path, "%s/%s", fuzz_tiny(), name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "fuzz: %s is missing; TINY names the folder that tests/tiny_model.py wrote\n", path);
        abort();
    }
    fuzz_write(name, data, fread(data, 1, sizeof data, f));
    fclose(f);
}

/* A model folder in one input: a byte that names a file, its length in four (little-endian), its bytes, and
 * so on; what is not there is taken from the tiny model. */
static inline void fuzz_write_model(const uint8_t *data, size_t bytes) {
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.model",
                                        "tokenizer_config.json", "model.safetensors"};
    enum { FILES = sizeof names / sizeof *names };
    bool written[FILES] = {false};
    while (bytes >= 5) {
        size_t which = data[0] % FILES, n = (size_t)data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16;
        data += 5, bytes -= 5;
        if (n > bytes) n = bytes;
        fuzz_write(names[which], data, n);
        written[which] = true;
        data += n, bytes -= n;
    }
    for (int i = 0; i < FILES; i++)
        if (!written[i]) fuzz_copy_tiny(names[i]);
}

/* Two tokens of a model, which was asked for with options of `fuzz_engine_options`. Numbers that are no
 * logits, and no token for the text, are failures of a round, not of the program. */
static inline outrider_engine_options fuzz_engine_options(const char *model) {
    outrider_engine_options o = outrider_engine_defaults();
    o.model = model, o.device = "cpu", o.threads = 1, o.ctx_size = 64, o.page_size = 16;
    return o;
}

static inline void fuzz_generate(outrider_engine *e) {
    outrider_settings settings = outrider_settings_defaults(e);
    outrider_session *s;
    settings.n_predict = 2, settings.seed = 1, settings.draft_n = 2;
    if (outrider_session_open(e, &settings, &s) != OUTRIDER_OK) fuzz_die("a session");
    outrider_status status = outrider_session_append_text(s, "the ab", 6);
    while (status == OUTRIDER_OK && outrider_session_stop(s) == OUTRIDER_RUNNING)
        status = outrider_round(&s, 1);
    outrider_session_close(s);
}

/* The next NUL-terminated part of the input; what is left moves on. The last may lack its NUL. */
static inline const uint8_t *fuzz_part(const uint8_t **data, size_t *left, size_t *bytes) {
    const uint8_t *part = *data, *end = *left ? memchr(part, 0, *left) : NULL;
    *bytes = end ? (size_t)(end - part) : *left;
    size_t taken = *bytes + (end != NULL);
    *data += taken;
    *left -= taken;
    return part;
}

/* ---- the budget ---- */

#ifdef FUZZ_COUNTS_MEMORY
static size_t fuzz_live, fuzz_peak;
static inline void fuzz_on_malloc(const volatile void *p, size_t bytes) {
    (void)p;
    fuzz_live += bytes;
    if (fuzz_live > fuzz_peak) fuzz_peak = fuzz_live;
}
static inline void fuzz_on_free(const volatile void *p) {
    if (p) fuzz_live -= __sanitizer_get_allocated_size(p);
}
#endif

static inline double fuzz_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
#ifdef FUZZ_COUNTS_MEMORY
    static bool hooked;
    if (!hooked) __sanitizer_install_malloc_and_free_hooks(fuzz_on_malloc, fuzz_on_free);
    hooked = true;
    size_t before = fuzz_live;
    fuzz_peak = before;
#endif
    double start = fuzz_seconds();
    fuzz_one(data, bytes);
    if (fuzz_seconds() - start > 1) fuzz_die("more than a second for one input");
#ifdef FUZZ_COUNTS_MEMORY
    if (fuzz_peak - before > ((size_t)64 << 20) + 2 * bytes) fuzz_die("more than 64 MB and twice the input");
#endif
    return 0;
}

#endif

/* Reads and writes that do not go as asked, and a process that is killed, while a session is saved and loaded
 * and a model converted. Interrupted and short ones change nothing; one that fails, whichever it is, is told
 * in a line, and leaves the file that was there, and nothing beside it; killed at any moment, there is the
 * old file or the new one.
 *
 * This program's own read, write, fsync and rename stand in front of the C library's. (Its streams do not
 * pass by here; the models' files are mapped.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/helpers_tiny.h"
#include "tokenizer/tokenizer.h"

/* ---- the calls ---- */

static size_t most;     /* bytes of one read or write; 0: as asked */
static bool interrupts; /* every other call */
static long until_fault = -1, calls;
static int fault; /* what the call then fails with; 0: a read that finds the end */

static bool must_fail(void) {
    calls++;
    if (interrupts && calls % 2) return errno = EINTR, true;
    if (until_fault < 0 || until_fault-- > 0) return false;
    return errno = fault, true;
}

static size_t shortened(size_t bytes) {
    return most && bytes > most ? most : bytes;
}

#define REAL(name, type)                                                                                     \
    static __typeof__(type) real;                                                                            \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

ssize_t read(int file, void *data, size_t bytes) {
    REAL(read, ssize_t(*)(int, void *, size_t));
    if (must_fail()) return errno ? -1 : 0;
    return real(file, data, shortened(bytes));
}
ssize_t write(int file, const void *data, size_t bytes) {
    REAL(write, ssize_t(*)(int, const void *, size_t));
    if (file <= STDERR_FILENO) return real(file, data, bytes);
    return must_fail() ? -1 : real(file, data, shortened(bytes));
}
int fsync(int file) {
    REAL(fsync, int (*)(int));
    return must_fail() ? -1 : real(file);
}
int rename(const char *from, const char *to) {
    REAL(rename, int (*)(const char *, const char *));
    if (until_fault >= 0 && must_fail()) return -1; /* no one interrupts it */
    return real(from, to);
}

/* ---- a folder, an engine, two conversations ---- */

static char folder[] = "/tmp/outrider-disk-XXXXXX", path[64];
static outrider_engine *engine;
static outrider_session *sessions[2];

struct bytes {
    char *data;
    size_t n;
};

static struct bytes contents(const char *name) {
    struct bytes b = {0};
    size_t room;
    FILE *f = fopen(name, "rb");
    if (!f) fail_msg("%s is missing", name);
    b.n = (size_t)getdelim(&b.data, &room, EOF, f);
    fclose(f);
    return b;
}

static bool same(struct bytes a, struct bytes b) {
    return a.n == b.n && memcmp(a.data, b.data, a.n) == 0;
}

/* What is in the folder beside one file. */
static int count_beside(void) {
    int n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n - 1;
}

static void remove_beside(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char name[512];
        snprintf(name, sizeof name, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.' && strcmp(name, path)) remove(name);
    }
    closedir(d);
}

static void remove_conversion(const char *out) {
    static const char *const names[] = {"config.json", "generation_config.json", "model.safetensors",
                                        "tokenizer.model", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s/%s", out, names[i]);
        remove(name);
    }
    rmdir(out);
}

static outrider_session *converse(const char *text) {
    outrider_settings set = outrider_settings_defaults(engine);
    outrider_session *s;
    set.n_predict = 20, set.draft_n = 2, set.temperature = 0, set.ignore_eos = true;
    assert_int_equal(outrider_session_open(engine, &set, &s), OUTRIDER_OK);
    assert_int_equal(outrider_session_append_message(s, "user", text, strlen(text)), OUTRIDER_OK);
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) assert_int_equal(outrider_round(&s, 1), OUTRIDER_OK);
    return s;
}

static void save(int which) {
    if (outrider_session_save(sessions[which], path, NULL)) fail_msg("%s", outrider_error());
}

static outrider_status load(void) {
    outrider_settings set = outrider_settings_defaults(engine);
    outrider_session *s;
    assert_int_equal(outrider_session_open(engine, &set, &s), OUTRIDER_OK);
    outrider_status status = outrider_session_load(s, path, NULL);
    size_t n, m;
    outrider_session_tokens(s, &n);
    outrider_session_tokens(sessions[0], &m);
    assert_int_equal(n, status == OUTRIDER_OK ? m : 0);
    outrider_session_close(s);
    return status;
}

static int set_up(void **state) {
    (void)state;
    outrider_engine_options o = tiny_options(4);
    if (!mkdtemp(folder) || outrider_engine_open(&o, &engine)) return -1;
    snprintf(path, sizeof path, "%s/session", folder);
    sessions[0] = converse("the a the b");
    sessions[1] = converse("e the the the the the ab ab");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) outrider_session_close(sessions[i]);
    outrider_engine_close(engine);
    remove(path);
    return rmdir(folder);
}

/* ---- the tests ---- */

static void convert_to(struct bytes *b) {
    char gguf[80];
    outrider_convert_options o = {.model = tiny_folder(), .output = gguf, .type = "bf16"};
    snprintf(gguf, sizeof gguf, "%s.gguf", path);
    if (outrider_convert(&o)) fail_msg("%s", outrider_error());
    *b = contents(gguf);
    remove(gguf);
}

static void interrupted_and_short_calls_change_nothing(void **state) {
    (void)state;
    struct bytes want, got, model, again;
    save(0);
    want = contents(path);
    convert_to(&model);
    for (most = 1; most <= 4096; most *= 8) {
        interrupts = true;
        save(0);
        assert_int_equal(load(), OUTRIDER_OK);
        convert_to(&again);
        interrupts = false;
        got = contents(path);
        assert_true(same(want, got));
        assert_true(same(model, again));
        assert_int_equal(count_beside(), 0);
        free(got.data);
        free(again.data);
    }
    most = 0;
    free(want.data);
    free(model.data);
}

static void a_call_that_fails_leaves_the_old_file(void **state) {
    (void)state;
    static const int faults[] = {EIO, ENOSPC};
    save(0);
    struct bytes old = contents(path);
    for (int i = 0; i < 2; i++) {
        long k = 0;
        for (fault = faults[i];; k++) {
            until_fault = k;
            outrider_status status = outrider_session_save(sessions[1], path, NULL);
            bool came = until_fault < 0;
            until_fault = -1;
            struct bytes now = contents(path);
            assert_int_equal(count_beside(), 0);
            if (status == OUTRIDER_OK) { /* the last that may fail brings the folder to the disk */
                free(now.data);
                if (!came) break;
                save(0);
                continue;
            }
            assert_int_equal(status, OUTRIDER_EFAIL);
            assert_non_null(strstr(outrider_error(), path));
            assert_non_null(strstr(outrider_error(), strerror(fault)));
            assert_true(same(old, now));
            free(now.data);
        }
        assert_true(k > 8);
        save(0);
    }
    free(old.data);
}

static void a_read_that_fails_leaves_the_session_empty(void **state) {
    (void)state;
    save(0);
    fault = EIO;
    for (long k = 0;; k++) {
        until_fault = k;
        outrider_status status = load();
        bool came = until_fault < 0;
        until_fault = -1;
        if (!came) {
            assert_int_equal(status, OUTRIDER_OK);
            assert_true(k > 8);
            return;
        }
        assert_int_equal(status, OUTRIDER_EFAIL);
        assert_non_null(strstr(outrider_error(), strerror(EIO)));
    }
}

/* To a GGUF file and from it, whichever call fails: a line, and nothing is left but what was there. */
static void a_conversion_that_fails_leaves_nothing(void **state) {
    (void)state;
    char gguf[80], out[80];
    snprintf(gguf, sizeof gguf, "%s/m.gguf", folder);
    snprintf(out, sizeof out, "%s/out", folder);
    const outrider_convert_options ways[] = {{.model = tiny_folder(), .output = gguf, .type = "q8_0"},
                                             {.model = gguf, .output = out, .type = "bf16"}};
    save(0);
    fault = EIO;
    for (int way = 0; way < 2; way++) {
        const int there = count_beside();
        for (long k = 0;; k++) {
            until_fault = k;
            outrider_status status = outrider_convert(&ways[way]);
            bool came = until_fault < 0;
            until_fault = -1;
            if (status == OUTRIDER_OK && !came) break;
            if (status == OUTRIDER_OK) { /* the last that may fail brings the folder to the disk */
                remove_conversion(out);
                if (way == 0) remove(gguf);
                continue;
            }
            assert_true(status == OUTRIDER_EFAIL || status == OUTRIDER_EMODEL);
            assert_non_null(strstr(outrider_error(), strerror(EIO)));
            assert_int_equal(count_beside(), there);
        }
    }
    remove_conversion(out);
    remove(gguf);
}

/* Files that are read, not mapped: piecemeal they are the same, and one that ends early or fails is told. */
static void a_tokenizer_that_cannot_be_read_is_told(void **state) {
    (void)state;
    struct tokenizer *t;
    most = 5, interrupts = true;
    assert_int_equal(tokenizer_open(tiny_folder(), &t), OUTRIDER_OK);
    most = 0, interrupts = false;
    tokenizer_close(t);
    for (int how = 0; how < 2; how++)
        for (long k = 0;; k++) {
            fault = how ? EIO : 0;
            until_fault = k;
            outrider_status status = tokenizer_open(tiny_folder(), &t);
            bool came = until_fault < 0;
            until_fault = -1;
            if (!came) {
                assert_int_equal(status, OUTRIDER_OK);
                assert_true(k > 1);
                tokenizer_close(t);
                break;
            }
            assert_int_equal(status, OUTRIDER_EMODEL);
            assert_non_null(
                strstr(outrider_error(), how ? strerror(EIO) : "became shorter while it was read"));
        }
}

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Saves the two conversations in turn until it is killed. */
static pid_t start_saving(void) {
    pid_t child = fork();
    if (child == 0)
        for (int i = 1;; i++)
            if (outrider_session_save(sessions[i % 2], path, NULL)) _exit(1);
    return child;
}

static void killed_there_is_the_old_file_or_the_new(void **state) {
    (void)state;
    enum { KILLS = 200 };
    struct bytes versions[2];
    uint32_t seed = 1;
    int seen[2] = {0};
    for (int i = 2; i-- > 0;) {
        save(i);
        versions[i] = contents(path);
    }
    assert_false(same(versions[0], versions[1]));
    double start = now_seconds(), a_save;
    for (int i = 0; i < 8; i++) save(i % 2);
    a_save = (now_seconds() - start) / 8;
    for (int k = 0; k < KILLS; k++) {
        pid_t child = start_saving();
        assert_true(child > 0);
        seed = seed * 1664525u + 1013904223u;
        usleep((useconds_t)(4e6 * a_save * (seed >> 8) / (1 << 24))); /* within the first saves */
        kill(child, SIGKILL);
        int how;
        waitpid(child, &how, 0);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
        struct bytes now = contents(path);
        if (!same(now, versions[0]) && !same(now, versions[1]))
            fail_msg("kill %d left a mixture of %zu bytes", k, now.n);
        seen[same(now, versions[1])]++;
        free(now.data);
        remove_beside(); /* what a killed process had not finished */
    }
    assert_true(seen[0] > 0 && seen[1] > 0);
    for (int i = 0; i < 2; i++) free(versions[i].data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interrupted_and_short_calls_change_nothing),
        cmocka_unit_test(a_call_that_fails_leaves_the_old_file),
        cmocka_unit_test(a_read_that_fails_leaves_the_session_empty),
        cmocka_unit_test(a_conversion_that_fails_leaves_nothing),
        cmocka_unit_test(a_tokenizer_that_cannot_be_read_is_told),
        cmocka_unit_test(killed_there_is_the_old_file_or_the_new),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

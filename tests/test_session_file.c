/* Saved sessions: what was saved goes on with the same tokens, and no file, whatever is in it, does more than
 * give one line and leave the session empty and fit for use. On the shipped pair. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/outrider.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != OUTRIDER_OK) fail_msg(#call ": %s", outrider_error());                                 \
    } while (0)

enum { CONTEXT = 512, HEADER = 88 };
static char folder[] = "/tmp/outrider-sessions-XXXXXX", path[64];

static const char *values_type; /* of the cache; NULL: as keys */

static outrider_engine *open_engine(const char *draft, int32_t page_size, const char *cache_type) {
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.draft = draft, o.device = "cpu", o.threads = 2;
    o.max_sessions = 2, o.ctx_size = CONTEXT, o.page_size = page_size, o.cache_type = cache_type,
    o.cache_type_v = values_type;
    OK(outrider_engine_open(&o, &e));
    return e;
}

static outrider_session *open_session(outrider_engine *e, float temperature, int32_t n_predict) {
    outrider_settings s = outrider_settings_defaults(e);
    outrider_session *session;
    s.temperature = temperature, s.n_predict = n_predict, s.ignore_eos = true, s.draft_n = 3, s.seed = 7;
    s.accept = OUTRIDER_ACCEPT_COUPLED;
    OK(outrider_session_open(e, &s, &session));
    return session;
}

static void say(outrider_session *s, const char *text) {
    OK(outrider_session_append_message(s, "user", text, strlen(text)));
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) OK(outrider_round(&s, 1));
}

static void assert_same_tokens(const outrider_session *a, const outrider_session *b) {
    size_t n, m;
    const int32_t *x = outrider_session_tokens(a, &n), *y = outrider_session_tokens(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n * sizeof *x);
    assert_memory_equal(outrider_session_sources(a, &n), outrider_session_sources(b, &m), n);
}

/* Across 0 to some pages, in another engine as in another run of the program. */
static void a_loaded_session_goes_on(void **state) {
    (void)state;
    static const float temperatures[] = {0, 1};
    uint64_t before = 0;
    for (int i = 0; i < 6; i++) {
        outrider_engine *e = open_engine("weights/tale/draft", 16, "f16"), *other;
        outrider_session *s = open_session(e, temperatures[i % 2], 1 + i * 20), *t;
        outrider_stats stats;
        uint64_t id, same;
        say(s, "Tell me of a king.");
        if (i > 2) say(s, "And of his daughter?");
        OK(outrider_session_save(s, path, &id));
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);

        other = open_engine(i < 4 ? "weights/tale/draft" : NULL, 16, "f16");
        t = open_session(other, temperatures[i % 2], 1 + i * 20);
        OK(outrider_session_load(t, path, &same));
        assert_int_equal(id, same);
        assert_true(id != before);
        before = id;
        assert_same_tokens(s, t);
        say(s, "Go on.");
        say(t, "Go on.");
        size_t n, m;
        const int32_t *x = outrider_session_tokens(s, &n), *y = outrider_session_tokens(t, &m);
        assert_int_equal(n, m);
        assert_memory_equal(x, y, n * sizeof *x);
        outrider_session_stats(t, &stats);
        assert_true(stats.n_prompt < 20); /* the new turn alone was read */
        outrider_session_close(s);
        outrider_session_close(t);
        outrider_engine_close(e);
        outrider_engine_close(other);
    }
}

/* Saved again without a token more, the file is the same byte for byte: the cache came back whole, and
 * nothing of other conversations is in it. */
static void comes_back_whole(const char *cache_type) {
    outrider_engine *e = open_engine("weights/tale/draft", 64, cache_type);
    outrider_session *other = open_session(e, 0, 100), *s = open_session(e, 0, 30);
    uint64_t id, again;
    say(other, "What is a whale?");
    outrider_session_close(other); /* its pages are handed on as they are */
    say(s, "Tell me of a king.");
    OK(outrider_session_save(s, path, &id));
    outrider_session *t = open_session(e, 0, 30);
    OK(outrider_session_load(t, path, NULL));
    OK(outrider_session_save(t, path, &again));
    assert_int_equal(id, again);
    assert_int_equal(outrider_session_load(t, path, NULL), OUTRIDER_EINVAL); /* not empty */
    outrider_session_close(s);
    outrider_session_close(t);
    outrider_engine_close(e);
}

static void what_was_loaded_is_what_was_saved(void **state) {
    (void)state;
    comes_back_whole("f32");
    comes_back_whole("q8");
    values_type = "q8";
    comes_back_whole("f32");
    values_type = NULL;
}

static char *read_file(size_t *bytes) {
    FILE *f = fopen(path, "rb");
    struct stat st;
    assert_non_null(f);
    assert_int_equal(fstat(fileno(f), &st), 0);
    *bytes = (size_t)st.st_size;
    char *data = malloc(*bytes + 1);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    fclose(f);
    return data;
}

static void write_file(const char *data, size_t bytes) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}

static void assert_refused(outrider_session *s, int32_t pages_free, outrider_engine *e) {
    outrider_engine_info info;
    size_t n;
    outrider_status status = outrider_session_load(s, path, NULL);
    assert_true(status == OUTRIDER_EFAIL || status == OUTRIDER_EMODEL || status == OUTRIDER_EINVAL);
    outrider_session_tokens(s, &n);
    assert_int_equal(n, 0);
    OK(outrider_engine_get_info(e, &info));
    assert_int_equal(info.pages_free, pages_free);
}

/* Every byte of the header, some of everything behind it, and every kind of length. */
static void a_damaged_file_is_refused(void **state) {
    (void)state;
    outrider_engine *e = open_engine("weights/tale/draft", 16, "f16");
    outrider_session *s = open_session(e, 0, 20), *t = open_session(e, 0, 20);
    outrider_engine_info info;
    size_t bytes;
    say(s, "Tell me of a king.");
    OK(outrider_session_save(s, path, NULL));
    char *data = read_file(&bytes);
    OK(outrider_engine_get_info(e, &info));
    for (size_t at = 0; at < bytes; at += at < 400 ? 1 : bytes / 60)
        for (int bit = 0; bit < 8; bit += at < HEADER ? 1 : 5) {
            data[at] ^= (char)(1 << bit);
            write_file(data, bytes);
            assert_refused(t, info.pages_free, e);
            data[at] ^= (char)(1 << bit);
        }
    for (size_t length = 0; length < bytes; length += length < 400 ? 7 : bytes / 40) {
        write_file(data, length);
        assert_refused(t, info.pages_free, e);
    }
    write_file(data, bytes);
    FILE *f = fopen(path, "ab");
    fputc(0, f);
    fclose(f);
    assert_refused(t, info.pages_free, e);
    remove(path);
    assert_refused(t, info.pages_free, e);
    write_file(data, bytes);
    OK(outrider_session_load(t, path, NULL)); /* still fit for use */
    assert_same_tokens(s, t);
    say(s, "Go on.");
    say(t, "Go on.");
    assert_same_tokens(s, t);
    free(data);
    outrider_session_close(s);
    outrider_session_close(t);
    outrider_engine_close(e);
}

static void another_engine_is_refused(void **state) {
    (void)state;
    outrider_engine *e = open_engine("weights/tale/draft", 16, "f16");
    outrider_session *s = open_session(e, 0, 20);
    say(s, "Tell me of a king.");
    OK(outrider_session_save(s, path, NULL));
    outrider_session_close(s);
    outrider_engine_close(e);
    for (int which = 0; which < 3; which++) {
        e = open_engine("weights/tale/draft", which == 1 ? 32 : 16,
                        which == 1 ? "f16"
                        : which    ? "q8"
                                   : "f32");
        s = open_session(e, 0, 20);
        assert_int_equal(outrider_session_load(s, path, NULL), OUTRIDER_EMODEL);
        outrider_session_close(s);
        outrider_engine_close(e);
    }
}

static void places_that_are_no_file_are_refused(void **state) {
    (void)state;
    outrider_engine *e = open_engine(NULL, 16, "f16");
    outrider_session *s = open_session(e, 0, 4);
    say(s, "Hello.");
    assert_int_equal(outrider_session_save(s, "/dev/null", NULL), OUTRIDER_EFAIL);
    assert_int_equal(outrider_session_save(s, "/no/such/folder/file", NULL), OUTRIDER_EFAIL);
    OK(outrider_session_truncate(s, 0));
    assert_int_equal(outrider_session_load(s, "/dev/zero", NULL), OUTRIDER_EFAIL);
    assert_int_equal(outrider_session_load(s, "/tmp", NULL), OUTRIDER_EFAIL);
    outrider_session_close(s);
    outrider_engine_close(e);
}

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/session", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    remove(path);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loaded_session_goes_on),
        cmocka_unit_test(what_was_loaded_is_what_was_saved),
        cmocka_unit_test(a_damaged_file_is_refused),
        cmocka_unit_test(another_engine_is_refused),
        cmocka_unit_test(places_that_are_no_file_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}

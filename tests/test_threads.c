/* What outrider.h says of threads: different engines are independent, and calls on one engine may come from
 * any thread as long as they do not overlap. Texts are those of one thread alone. `make tsan` looks on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "tests/helpers_tiny.h"

enum { TURNS = 6, TEXT = 4096 };

struct writer {
    outrider_engine_options options; /* made before any thread: the folder's path is the tests' own static */
    outrider_engine *engine;
    pthread_mutex_t *lock; /* of a shared engine; NULL for one of its own */
    uint64_t seed;
    char text[TEXT];
    size_t n;
    outrider_status status;
    char error[512];
};

static void lock(struct writer *w) {
    if (w->lock) pthread_mutex_lock(w->lock);
}
static void unlock(struct writer *w) {
    if (w->lock) pthread_mutex_unlock(w->lock);
}

/* One call on the engine at a time; between two, the other thread has its turn. */
static outrider_status write_turn(struct writer *w, outrider_session *s) {
    lock(w);
    outrider_status status = outrider_session_append_text(s, "the a ", 6);
    unlock(w);
    while (status == OUTRIDER_OK && outrider_session_stop(s) == OUTRIDER_RUNNING) {
        size_t bytes;
        lock(w);
        status = outrider_round(&s, 1);
        const char *text = outrider_session_take_text(s, &bytes);
        if (bytes > TEXT - w->n) bytes = TEXT - w->n;
        memcpy(w->text + w->n, text, bytes);
        w->n += bytes;
        unlock(w);
    }
    return status;
}

static void *write_all(void *user) {
    struct writer *w = user;
    outrider_session *s = NULL;
    w->n = 0;
    bool own = !w->engine;
    if (own) w->status = outrider_engine_open(&w->options, &w->engine);
    lock(w);
    outrider_settings set = outrider_settings_defaults(own && w->status ? NULL : w->engine);
    set.seed = w->seed, set.n_predict = 8, set.ignore_eos = true, set.accept = OUTRIDER_ACCEPT_COUPLED;
    set.draft_n = 3;
    if (!w->status) w->status = outrider_session_open(w->engine, &set, &s);
    unlock(w);
    for (int i = 0; i < TURNS && !w->status; i++) w->status = write_turn(w, s);
    snprintf(w->error, sizeof w->error, "%s", outrider_error());
    lock(w);
    outrider_session_close(s);
    unlock(w);
    if (own) outrider_engine_close(w->engine), w->engine = NULL;
    return NULL;
}

static outrider_engine_options two_threads(void) {
    outrider_engine_options o = tiny_options(2);
    o.threads = 2;
    return o;
}

static void alone(struct writer *w, uint64_t seed) {
    *w = (struct writer){.options = two_threads(), .seed = seed};
    write_all(w);
    if (w->status) fail_msg("%s", w->error);
    assert_true(w->n > 0);
}

static void together(outrider_engine *engine, pthread_mutex_t *mutex) {
    static struct writer want[2], got[2];
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) alone(&want[i], (uint64_t)i + 1);
    for (int i = 0; i < 2; i++) {
        got[i] = (struct writer){
            .options = want[i].options, .engine = engine, .lock = mutex, .seed = (uint64_t)i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, write_all, &got[i]), 0);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++) {
        if (got[i].status) fail_msg("%s", got[i].error);
        assert_int_equal(got[i].n, want[i].n);
        assert_memory_equal(got[i].text, want[i].text, want[i].n);
    }
}

static void two_engines_in_two_threads(void **state) {
    (void)state;
    together(NULL, NULL);
}

static void one_engine_in_turn(void **state) {
    (void)state;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    outrider_engine_options o = two_threads();
    outrider_engine *e;
    if (outrider_engine_open(&o, &e)) fail_msg("%s", outrider_error());
    together(e, &mutex);
    outrider_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_engines_in_two_threads),
        cmocka_unit_test(one_engine_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

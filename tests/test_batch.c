/* Many sessions on one engine: a pool too small for all of them, sessions that join, leave and wait, one that
 * fails among others. Whatever happens around it, a session writes what it writes alone, and no page is lost.
 */
#include "tests/helpers_batch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
enum { SESSIONS = 24, POOL = 3, TOKENS = 48 }; /* ten times slower there; the paths are the same */
#else
enum { SESSIONS = 64, POOL = 8, TOKENS = 48 };
#endif
enum { CONTEXT = 128, PAGE = 16, PROMPTS = 40 };

static char *prompts[PROMPTS];

struct text {
    int32_t tokens[CONTEXT];
    size_t n;
};

static outrider_engine *open_engine(int32_t sessions, int32_t pool) {
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.draft = "weights/tale/draft", o.device = "cpu", o.threads = 2;
    o.max_sessions = sessions, o.ctx_size = CONTEXT, o.page_size = PAGE, o.cache_tokens = pool * CONTEXT;
    OK(outrider_engine_open(&o, &e));
    return e;
}

static outrider_settings settings_of(int i, bool sampling) {
    outrider_settings s = outrider_settings_defaults(NULL);
    s.temperature = sampling ? 0.9f : 0, s.accept = OUTRIDER_ACCEPT_COUPLED, s.seed = (uint64_t)i;
    s.n_predict = TOKENS - i % 7, s.ignore_eos = true;
    s.draft_n = i % 5 == 4 ? -1 : i % 5;
    return s;
}

/* Every third prompt begins with the same words, so that pages are shared too. */
static void append_prompt(outrider_session *s, int i) {
    char text[1000];
    snprintf(text, sizeof text, "%s%.100s",
             i % 3 ? "" : "There are few pleasures so simple as that of sitting before a good fire; ",
             prompts[i % PROMPTS]);
    OK(outrider_session_append_text(s, text, strlen(text)));
}

static outrider_session *open_session(outrider_engine *e, int i, bool sampling) {
    outrider_settings s = settings_of(i, sampling);
    outrider_session *session;
    OK(outrider_session_open(e, &s, &session));
    append_prompt(session, i);
    return session;
}

static void keep(const outrider_session *s, struct text *out) {
    const int32_t *tokens = outrider_session_tokens(s, &out->n);
    memcpy(out->tokens, tokens, out->n * sizeof *tokens);
}

static void write_alone(int n, bool sampling, struct text *out) {
    outrider_engine *e = open_engine(1, 0);
    for (int i = 0; i < n; i++) {
        outrider_session *s = open_session(e, i, sampling);
        while (outrider_session_stop(s) == OUTRIDER_RUNNING) OK(outrider_round(&s, 1));
        keep(s, &out[i]);
        outrider_session_close(s);
    }
    outrider_engine_close(e);
}

static void expect(const struct text *got, const struct text *want, int i) {
    if (got->n != want->n || memcmp(got->tokens, want->tokens, got->n * sizeof *got->tokens))
        fail_msg("session %d wrote other text than alone", i);
}

static void many_share_a_small_pool(void **state) {
    (void)state;
    static struct text alone[SESSIONS];
    for (int sampling = 0; sampling < 2; sampling++) {
        int32_t reread = 0;
        size_t n = sampling ? SESSIONS / 4 : SESSIONS;
        write_alone((int)n, sampling, alone);
        outrider_engine *e = open_engine((int32_t)n, sampling ? POOL / 4 + 1 : POOL);
        outrider_session *s[SESSIONS];
        for (size_t i = 0; i < n; i++) s[i] = open_session(e, (int)i, sampling);
        write_to_the_end(s, n);
        for (size_t i = 0; i < n; i++) {
            struct text got;
            outrider_stats stats;
            keep(s[i], &got);
            expect(&got, &alone[i], (int)i);
            outrider_session_stats(s[i], &stats);
            assert_int_equal(stats.n_predict, TOKENS - (int)i % 7);
            reread += stats.n_reread;
            outrider_session_close(s[i]);
        }
        assert_true(reread > 0); /* some had to wait in the middle of their text */
        expect_no_page_leaked(e);
        outrider_engine_close(e);
    }
}

/* Sessions join whenever one leaves; each rides in a random part of the rounds. */
static void sessions_come_and_go(void **state) {
    (void)state;
    enum { AT_ONCE = 6, ALL = 18 };
    static struct text alone[ALL];
    uint32_t rng = 7;
    write_alone(ALL, false, alone);
    outrider_engine *e = open_engine(AT_ONCE, 2);
    outrider_session *s[AT_ONCE] = {0}, *riding[AT_ONCE];
    int index[AT_ONCE], next = 0, done = 0;
    while (done < ALL) {
        size_t n = 0;
        for (int i = 0; i < AT_ONCE; i++) {
            if (!s[i] && next < ALL) index[i] = next, s[i] = open_session(e, next++, false);
            rng = rng * 1664525u + 1013904223u;
            if (s[i] && rng >> 30) riding[n++] = s[i];
        }
        if (n) OK(outrider_round(riding, n));
        for (int i = 0; i < AT_ONCE; i++) {
            if (!s[i] || outrider_session_stop(s[i]) == OUTRIDER_RUNNING) continue;
            struct text got;
            keep(s[i], &got);
            expect(&got, &alone[index[i]], index[i]);
            outrider_session_close(s[i]);
            s[i] = NULL;
            done++;
        }
    }
    expect_no_page_leaked(e);
    outrider_engine_close(e);
}

/* A conversation whose pages another took while it was idle goes on as if nothing had been. */
static void an_idle_session_may_lose_its_pages(void **state) {
    (void)state;
    struct text want, got;
    for (int crowded = 0; crowded < 2; crowded++) {
        outrider_engine *e = open_engine(2, 1);
        outrider_settings set = settings_of(2, false);
        set.n_predict = 24;
        outrider_session *s, *other;
        outrider_stats stats;
        OK(outrider_session_open(e, &set, &s));
        for (int turn = 0; turn < 2; turn++) {
            append_prompt(s, turn + 1);
            while (outrider_session_stop(s) == OUTRIDER_RUNNING) OK(outrider_round(&s, 1));
            if (!crowded) continue;
            set.n_predict = -1; /* the whole pool */
            OK(outrider_session_open(e, &set, &other));
            append_prompt(other, 5);
            while (outrider_session_stop(other) == OUTRIDER_RUNNING) OK(outrider_round(&other, 1));
            outrider_session_close(other);
        }
        keep(s, crowded ? &got : &want);
        outrider_session_stats(s, &stats);
        assert_true((stats.n_reread > 0) == crowded);
        outrider_session_close(s);
        expect_no_page_leaked(e);
        outrider_engine_close(e);
    }
    expect(&got, &want, 0);
}

/* Prompts with one long beginning read it once, whoever reads it, also while none has read it whole. */
static void a_shared_beginning_is_read_once(void **state) {
    (void)state;
    enum { N = 4, LONG = 1600, PROMPT = LONG + 8 };
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.device = "cpu", o.threads = 2, o.max_sessions = N;
    OK(outrider_engine_open(&o, &e));
    outrider_session *s[N];
    int32_t prompt[PROMPT], read = 0;
    for (int32_t i = 0; i < PROMPT; i++) prompt[i] = 100 + i * 37 % 3000;
    for (int i = 0; i < N; i++) {
        outrider_settings set = settings_of(0, false);
        set.n_predict = 4;
        OK(outrider_session_open(e, &set, &s[i]));
        prompt[LONG] = 200 + i;
        OK(outrider_session_append(s[i], prompt, PROMPT));
    }
    write_to_the_end(s, N);
    for (int i = 0; i < N; i++) {
        outrider_stats stats;
        outrider_session_stats(s[i], &stats);
        assert_int_equal(stats.n_prompt + stats.n_cached, PROMPT);
        read += stats.n_prompt;
        outrider_session_close(s[i]);
    }
    assert_true(read < LONG + N * 64 + N * 8);
    expect_no_page_leaked(e);
    outrider_engine_close(e);
}

/* One session without a possible token stops; its neighbours write on, and the caller hears of it once. */
static void one_failure_is_one_sessions(void **state) {
    (void)state;
    enum { N = 5 };
    static struct text alone[N];
    struct text got;
    for (int sampling = 0; sampling < 2; sampling++) {
        write_alone(N, sampling, alone);
        outrider_engine *e = open_engine(N, 0);
        outrider_engine_info info;
        OK(outrider_engine_get_info(e, &info));
        outrider_logit_bias *forbid = calloc((size_t)info.verifier.vocab_size, sizeof *forbid);
        for (int32_t t = 0; t < info.verifier.vocab_size; t++)
            forbid[t] = (outrider_logit_bias){t, -INFINITY};
        outrider_session *s[N];
        for (int i = 0; i < N; i++) s[i] = open_session(e, i, sampling);
        int failures = 0;
        for (int round = 0; round < 100; round++) {
            if (round == 6) {
                outrider_settings set = settings_of(2, sampling);
                set.logit_bias = forbid, set.n_logit_bias = (size_t)info.verifier.vocab_size;
                OK(outrider_session_set(s[2], &set));
            }
            outrider_status status = outrider_round(s, N);
            if (status == OUTRIDER_OK) continue;
            assert_int_equal(status, OUTRIDER_EFAIL);
            assert_non_null(strstr(outrider_error(), "no token is possible"));
            assert_int_equal(outrider_session_stop(s[2]), OUTRIDER_STOP_FAILED);
            failures++;
        }
        assert_int_equal(failures, 1);
        for (int i = 0; i < N; i++) {
            keep(s[i], &got);
            if (i != 2) expect(&got, &alone[i], i);
            outrider_session_close(s[i]);
        }
        expect_no_page_leaked(e);
        free(forbid);
        outrider_engine_close(e);
    }
}

static int set_up(void **state) {
    (void)state;
    return read_prompts(prompts, PROMPTS) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < PROMPTS; i++) free(prompts[i]);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_share_a_small_pool),
        cmocka_unit_test(sessions_come_and_go),
        cmocka_unit_test(an_idle_session_may_lose_its_pages),
        cmocka_unit_test(a_shared_beginning_is_read_once),
        cmocka_unit_test(one_failure_is_one_sessions),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* What an answer tells of itself beside its text: who wrote what, log-probabilities, and where it was ended.
 * On the shipped pair. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/outrider.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != OUTRIDER_OK) fail_msg(#call ": %s", outrider_error());                                 \
    } while (0)

static const char STORY[] = "Once upon a time there was a young prince who lived in a castle by the sea, and";

static outrider_engine *open_engine(int32_t sessions, int32_t cache_tokens) {
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.draft = "weights/tale/draft", o.device = "cpu", o.threads = 2;
    o.max_sessions = sessions, o.ctx_size = 512, o.page_size = 16, o.cache_tokens = cache_tokens;
    OK(outrider_engine_open(&o, &e));
    return e;
}

static outrider_settings greedy(const outrider_engine *e, int32_t n_predict) {
    outrider_settings s = outrider_settings_defaults(e);
    s.temperature = 0, s.n_predict = n_predict, s.ignore_eos = true, s.draft_n = 4;
    return s;
}

static void round_of(outrider_session *s) {
    OK(outrider_round(&s, 1));
}

/* The spans are the text; the draft's tokens are those that the statistics count as accepted. */
static void spans_make_the_text(void **state) {
    (void)state;
    outrider_engine *e = open_engine(2, 0);
    outrider_settings set = greedy(e, 200);
    static const char *const stop[] = {"zebra"};
    set.stop = stop, set.n_stop = 1;
    outrider_session *s, *t;
    OK(outrider_session_open(e, &set, &s));
    OK(outrider_session_open(e, &set, &t));
    OK(outrider_session_append_text(s, STORY, strlen(STORY)));
    OK(outrider_session_append_text(t, STORY, strlen(STORY)));
    char spans[4096] = "", text[4096] = "", by_draft[4096] = "", own[4096] = "";
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) {
        round_of(s);
        round_of(t);
        size_t bytes;
        outrider_source source;
        const char *span;
        while (span = outrider_session_take_span(s, &bytes, &source), bytes > 0) {
            strncat(spans, span, bytes);
            strncat(source == OUTRIDER_BY_DRAFT ? by_draft : own, span, bytes);
            assert_true(source == OUTRIDER_BY_DRAFT || source == OUTRIDER_BY_VERIFIER);
        }
        const char *part = outrider_session_take_text(t, &bytes);
        strncat(text, part, bytes);
    }
    assert_string_equal(spans, text);
    size_t n, counted = 0;
    outrider_stats stats;
    const uint8_t *sources = outrider_session_sources(s, &n);
    outrider_session_stats(s, &stats);
    size_t begin = n - (size_t)stats.n_predict;
    for (size_t i = 0; i < n; i++) {
        counted += sources[i] == OUTRIDER_BY_DRAFT;
        assert_int_equal(sources[i] == OUTRIDER_BY_CALLER, i < begin);
    }
    assert_int_equal(counted, stats.draft_n_accepted);
    assert_true(by_draft[0] && own[0]);
    outrider_session_close(s);
    outrider_session_close(t);
    outrider_engine_close(e);
}

/* They are those of the verifier alone, whoever proposed, and change nothing about the text. */
static void logprobs_are_the_verifiers(void **state) {
    (void)state;
    outrider_engine *e = open_engine(1, 1024); /* room for the scoring beside the session */
    int32_t want[64];
    for (int32_t k = 0; k <= 4; k += 4) {
        outrider_settings set = greedy(e, 48);
        outrider_session *s;
        size_t n, width;
        float nll[512];
        set.draft_n = k, set.n_logprobs = 5;
        OK(outrider_session_open(e, &set, &s));
        OK(outrider_session_append_text(s, STORY, strlen(STORY)));
        while (outrider_session_stop(s) == OUTRIDER_RUNNING) round_of(s);
        const int32_t *tokens = outrider_session_tokens(s, &n);
        if (k == 0) memcpy(want, tokens + n - 48, sizeof *want * 48);
        assert_memory_equal(want, tokens + n - 48, sizeof *want * 48);
        OK(outrider_score(e, tokens, n, nll));
        for (size_t i = 0; i < 48; i++) {
            const outrider_logprob *p = outrider_session_logprobs(s, i, &width);
            double sum = 0;
            assert_int_equal(width, 6);
            assert_int_equal(p[0].token, tokens[n - 48 + i]);
            assert_int_equal(p[1].token, p[0].token); /* greedy */
            assert_float_equal(-p[0].logprob, nll[n - 48 + i - 1], 1e-4);
            for (size_t j = 1; j < width; j++) sum += exp(p[j].logprob);
            for (size_t j = 2; j < width; j++) assert_true(p[j].logprob <= p[j - 1].logprob);
            assert_true(sum > 0 && sum <= 1.0001);
        }
        assert_null(outrider_session_logprobs(s, 48, &width));
        set.n_logprobs = OUTRIDER_MAX_LOGPROBS + 1;
        assert_int_equal(outrider_session_set(s, &set), OUTRIDER_EINVAL);
        outrider_session_close(s);
    }
    outrider_engine_close(e);
}

/* A stop string that begins but does not end holds its first bytes back; ended there, they are text. */
static void an_ended_answer_keeps_what_was_held_back(void **state) {
    (void)state;
    outrider_engine *e = open_engine(1, 0);
    outrider_settings set = greedy(e, 40);
    outrider_session *s;
    char text[1024] = "", stop[1100];
    size_t bytes;
    OK(outrider_session_open(e, &set, &s));
    OK(outrider_session_append_text(s, STORY, strlen(STORY)));
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) round_of(s);
    const char *whole = outrider_session_take_text(s, &bytes);
    strncat(text, whole, bytes);

    snprintf(stop, sizeof stop, "%sNOT THIS", text); /* so all of the text may be its beginning */
    set.stop = (const char *const[]){stop}, set.n_stop = 1, set.n_predict = -1;
    OK(outrider_session_set(s, &set));
    OK(outrider_session_truncate(s, 0));
    OK(outrider_session_append_text(s, STORY, strlen(STORY)));
    outrider_stats stats = {0};
    while (stats.n_predict < 20) {
        round_of(s);
        outrider_session_stats(s, &stats);
    }
    outrider_session_take_text(s, &bytes);
    assert_int_equal(bytes, 0);
    outrider_session_end(s);
    assert_int_equal(outrider_session_stop(s), OUTRIDER_STOP_CALLER);
    assert_string_equal(outrider_stop_name(OUTRIDER_STOP_CALLER), "interrupt");
    const char *held = outrider_session_take_text(s, &bytes);
    assert_true(bytes > 20);
    assert_memory_equal(held, text, bytes);
    outrider_session_end(s); /* again: nothing */
    outrider_session_take_text(s, &bytes);
    assert_int_equal(bytes, 0);
    outrider_session_close(s);
    outrider_engine_close(e);
}

/* A small cache under several sessions: one that rests gives its pages to one that writes, and loses no
 * token. */
static void a_limited_cache_serves_all(void **state) {
    (void)state;
    outrider_engine *e = open_engine(3, 512);
    outrider_engine_info info;
    outrider_settings set = greedy(e, 400);
    outrider_session *s, *t;
    OK(outrider_engine_get_info(e, &info));
    assert_true(info.pages >= 32 && info.pages < 40);
    OK(outrider_session_open(e, &set, &s));
    OK(outrider_session_append_text(s, STORY, strlen(STORY)));
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) round_of(s);
    OK(outrider_session_fork(s, &t)); /* shares all pages */
    OK(outrider_session_truncate(t, 64));
    OK(outrider_session_append_text(t, STORY, strlen(STORY)));
    while (outrider_session_stop(t) == OUTRIDER_RUNNING) round_of(t);
    outrider_stats stats;
    OK(outrider_session_append_text(s, " So", 3));
    round_of(s);
    outrider_session_stats(s, &stats);
    assert_true(stats.n_reread > 0);
    outrider_session_close(s);
    outrider_session_close(t);
    OK(outrider_engine_get_info(e, &info));
    assert_int_equal(info.pages_free, info.pages);
    outrider_engine_close(e);
}

/* Text first and then a turn: the template's beginning-of-text token is not written into the middle. */
static void a_turn_behind_text_begins_no_new_text(void **state) {
    (void)state;
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.device = "cpu", o.threads = 1, o.ctx_size = 256;
    for (int i = 0; i < 3; i++) {
        o.chat_template = (const char *[]){"llama3", "mistral", "tale"}[i];
        OK(outrider_engine_open(&o, &e));
        outrider_settings set = greedy(e, 8);
        outrider_session *s;
        size_t n, turns;
        OK(outrider_session_open(e, &set, &s));
        OK(outrider_session_append_message(s, "user", "Hello.", 6));
        const int32_t *tokens = outrider_session_tokens(s, &turns);
        int32_t first = tokens[0];
        OK(outrider_session_truncate(s, 0));
        OK(outrider_session_append_text(s, STORY, strlen(STORY)));
        outrider_session_tokens(s, &n);
        OK(outrider_session_append_message(s, "user", "Hello.", 6));
        size_t all, bytes;
        tokens = outrider_session_tokens(s, &all);
        assert_true(all > n && all - n <= turns);
        outrider_token_bytes(e, first, &bytes);
        if (i < 2)
            for (size_t j = 1; j < all; j++) assert_int_not_equal(tokens[j], first);
        outrider_session_close(s);
        outrider_engine_close(e);
    }
}

/* A file's template instead of the model's: interpreted, or known by its passages as a model's would be. */
static void a_template_may_come_from_a_file(void **state) {
    (void)state;
    static const struct {
        const char *text, *name, *expected;
    } cases[] = {
        {"{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}"
         "{% if add_generation_prompt %}[it]{% endif %}",
         NULL, "[user] Hello.\n[it]"},
        {"{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}", "chatml",
         "<|im_start|>user\nHello. <|im_end|>\n<|im_start|>assistant\n"},
    };
    char path[] = "/tmp/outrider-template-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    outrider_engine_options o = outrider_engine_defaults();
    o.model = "weights/tale/verifier", o.device = "cpu", o.threads = 1, o.ctx_size = 256;
    o.chat_template = path;
    for (int i = 0; i < 2; i++) {
        outrider_engine *e;
        outrider_session *s;
        outrider_engine_info info;
        size_t n, bytes, length = strlen(cases[i].text);
        char text[512] = "";
        assert_int_equal(ftruncate(file, 0), 0);
        assert_int_equal(pwrite(file, cases[i].text, length, 0), length);
        OK(outrider_engine_open(&o, &e));
        OK(outrider_engine_get_info(e, &info));
        if (cases[i].name) assert_string_equal(info.chat_template, cases[i].name);
        outrider_settings set = greedy(e, 8);
        OK(outrider_session_open(e, &set, &s));
        OK(outrider_session_append_message(s, "user", "Hello. ", 7));
        const int32_t *tokens = outrider_session_tokens(s, &n);
        for (size_t k = 0; k < n; k++) {
            const char *piece = outrider_token_bytes(e, tokens[k], &bytes);
            strncat(text, piece, bytes);
        }
        assert_string_equal(text, cases[i].expected);
        outrider_session_close(s);
        outrider_engine_close(e);
    }
    close(file);
    unlink(path);
    outrider_engine *none;
    assert_int_equal(outrider_engine_open(&o, &none), OUTRIDER_EINVAL);
    assert_non_null(strstr(outrider_error(), "no such file"));
    o.chat_template = "/tmp";
    assert_int_equal(outrider_engine_open(&o, &none), OUTRIDER_EMODEL);
}

static void the_context_says_where_it_comes_from(void **state) {
    (void)state;
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    outrider_engine_info info;
    o.model = "weights/tale/verifier", o.device = "cpu", o.threads = 1;
    OK(outrider_engine_open(&o, &e));
    OK(outrider_engine_get_info(e, &info));
    assert_int_equal(info.ctx_origin, OUTRIDER_CTX_VERIFIER);
    outrider_engine_close(e);
    o.ctx_size = 64;
    OK(outrider_engine_open(&o, &e));
    OK(outrider_engine_get_info(e, &info));
    assert_int_equal(info.ctx_origin, OUTRIDER_CTX_ASKED);
    outrider_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_make_the_text),
        cmocka_unit_test(logprobs_are_the_verifiers),
        cmocka_unit_test(an_ended_answer_keeps_what_was_held_back),
        cmocka_unit_test(a_limited_cache_serves_all),
        cmocka_unit_test(a_turn_behind_text_begins_no_new_text),
        cmocka_unit_test(a_template_may_come_from_a_file),
        cmocka_unit_test(the_context_says_where_it_comes_from),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

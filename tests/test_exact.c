/* The first promise, on the shipped pair: speculative text is plain text, token for token, whatever K,
 * threads, batch and neighbours. The quick form varies all of them together; EXACT=full crosses them (make
 * exact). */
#include "tests/helpers_batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERIFIER "weights/tale/verifier"
#define DRAFT "weights/tale/draft"
#ifdef __SANITIZE_ADDRESS__
enum { PROMPTS = 8, TOKENS = 48 }; /* ten times slower there; the paths are the same */
#else
enum { PROMPTS = 40, TOKENS = 256 };
#endif
enum { MAX_BATCH = 16, CONTEXT = 512 };

static char *prompts[PROMPTS];
static int32_t plain[PROMPTS][CONTEXT];
static size_t plain_n[PROMPTS];

static const char *cache_type = "f16", *cache_type_v;
static int32_t self_layers; /* not 0: they draft in place of any draft, or beside it */
static bool trees;          /* the draft may propose them */
static bool beside;

static void choose_draft(outrider_engine_options *o, const char *draft) {
    o->draft = self_layers && !beside ? NULL : draft;
    o->self_layers = draft ? self_layers : 0;
}

static outrider_engine *open_engine(const char *draft, int32_t threads, int32_t sessions) {
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = VERIFIER, o.device = "cpu", o.threads = threads;
    o.max_sessions = sessions, o.ctx_size = CONTEXT;
    o.cache_type = cache_type, o.cache_type_v = cache_type_v;
    choose_draft(&o, draft);
    OK(outrider_engine_open(&o, &e));
    return e;
}

static outrider_settings greedy(int32_t k) {
    outrider_settings s = outrider_settings_defaults(NULL);
    s.temperature = 0, s.n_predict = TOKENS, s.ignore_eos = true, s.draft_n = k;
    if (trees) s.drafters |= OUTRIDER_DRAFT_TREE;
    return s;
}

/* Writes n prompts from `first` on in one batch; K differs from session to session when k < 0. */
static void write_batch(outrider_engine *e, int first, int n, const outrider_settings *settings, int32_t k,
                        int32_t (*out)[CONTEXT], size_t *out_n) {
    outrider_session *s[MAX_BATCH];
    for (int i = 0; i < n; i++) {
        outrider_settings own = *settings;
        own.draft_n = k < 0 ? (first + i) % 9 : k;
        OK(outrider_session_open(e, &own, &s[i]));
        OK(outrider_session_append_text(s[i], prompts[first + i], strlen(prompts[first + i])));
    }
    write_to_the_end(s, (size_t)n);
    for (int i = 0; i < n; i++) {
        const int32_t *tokens = outrider_session_tokens(s[i], &out_n[i]);
        memcpy(out[i], tokens, out_n[i] * sizeof *tokens);
        outrider_session_close(s[i]);
    }
    expect_no_page_leaked(e);
}

/* Of the first n prompts. */
static void expect_plain_of(int n_prompts, int32_t k, int32_t threads, int batch) {
    static int32_t got[MAX_BATCH][CONTEXT];
    size_t got_n[MAX_BATCH];
    outrider_engine *e = open_engine(DRAFT, threads, batch);
    outrider_settings s = greedy(k);
    for (int first = 0; first < n_prompts; first += batch) {
        int n = first + batch <= n_prompts ? batch : n_prompts - first;
        write_batch(e, first, n, &s, k, got, got_n);
        for (int i = 0; i < n; i++)
            if (got_n[i] != plain_n[first + i] ||
                memcmp(got[i], plain[first + i], got_n[i] * sizeof(int32_t)) != 0)
                fail_msg("prompt %d with K %d, %d threads, batch %d differs from plain", first + i, k,
                         threads, batch);
    }
    outrider_engine_close(e);
}

static void expect_plain(int32_t k, int32_t threads, int batch) {
    expect_plain_of(PROMPTS, k, threads, batch);
}

static void greedy_text_is_plain_text(void **state) {
    (void)state;
    if (getenv("EXACT") && strcmp(getenv("EXACT"), "full") == 0) {
        for (int32_t k = 0; k <= 8; k++)
            for (int32_t threads = 1; threads <= 4; threads++)
                for (int batch = 1; batch <= 9; batch++) {
                    fprintf(stderr, "\rK %d of 8, %d of 4 threads, batch %d ", k, threads, batch);
                    expect_plain(k, threads, batch < 9 ? batch : MAX_BATCH);
                }
        fputc('\n', stderr);
        return;
    }
    for (int32_t k = 1; k <= 8; k++) expect_plain(k, 1 + (k + 1) % 2, 9 - k);
    expect_plain(-1, 4, 16);
    expect_plain(0, 3, 5);
}

/* A draft equal to the verifier: every proposal is accepted, greedy and by each rule above temperature 0. */
static void equal_draft_is_accepted(void **state) {
    (void)state;
    outrider_engine *e = open_engine(VERIFIER, 2, 1);
    for (int32_t i = 0; i < 8; i++) {
        outrider_settings s = greedy(i % 2 ? 8 : 1);
        if (i >= 2) s.temperature = 0.8f, s.accept = (outrider_accept_rule)(i / 2 - 1), s.seed = 7;
        outrider_session *session;
        OK(outrider_session_open(e, &s, &session));
        OK(outrider_session_append_text(session, prompts[3], strlen(prompts[3])));
        while (outrider_session_stop(session) == OUTRIDER_RUNNING) OK(outrider_round(&session, 1));
        outrider_stats stats;
        outrider_session_stats(session, &stats);
        assert_true(stats.draft_n > TOKENS * 2 / 5);
        assert_int_equal(stats.draft_n, stats.draft_n_accepted);
        outrider_session_close(session);
    }
    outrider_engine_close(e);
}

/* Penalties and biases at temperature 0, and the coupled rule above it: one text whatever K. */
static void knobs_do_not_break_it(void **state) {
    (void)state;
    static const outrider_logit_bias bias[] = {{100, 3}, {300, -2}};
    static int32_t want[MAX_BATCH][CONTEXT], got[MAX_BATCH][CONTEXT];
    size_t want_n[MAX_BATCH], got_n[MAX_BATCH];
    outrider_engine *e = open_engine(DRAFT, 2, 4);
    for (int kind = 0; kind < 3; kind++) {
        outrider_settings s = greedy(0);
        s.n_predict = TOKENS < 96 ? TOKENS : 96;
        s.repeat_penalty = 1.2f, s.presence_penalty = 0.3f, s.frequency_penalty = 0.1f, s.repeat_last_n = 32;
        s.logit_bias = bias, s.n_logit_bias = 2;
        if (kind > 0)
            s.temperature = 0.9f, s.accept = OUTRIDER_ACCEPT_COUPLED, s.seed = 42, s.top_k = 0, s.min_p = 0;
        if (kind > 1) s.top_k = 30, s.top_p = 0.9f, s.min_p = 0.02f;
        write_batch(e, 0, 4, &s, 0, want, want_n);
        for (int32_t k = 1; k <= 9; k += TOKENS < 96 ? 4 : 1) {
            write_batch(e, 0, 4, &s, k == 9 ? -1 : k, got, got_n);
            for (int i = 0; i < 4; i++) {
                assert_int_equal(got_n[i], want_n[i]);
                assert_memory_equal(got[i], want[i], want_n[i] * sizeof(int32_t));
            }
        }
    }
    outrider_engine_close(e);
}

/* Prompts that share a prefix share its pages, and write what they write alone. */
static void shared_prefixes_change_nothing(void **state) {
    (void)state;
    char text[2][2000];
    strcpy(text[0], "");
    for (int i = 0; i < 4; i++) strcat(strcat(text[0], prompts[i]), " ");
    strcat(strcpy(text[1], text[0]), "And then they went home.");
    outrider_engine *e = open_engine(DRAFT, 2, 2);
    outrider_settings s = greedy(4);
    s.n_predict = 64;
    int32_t alone[CONTEXT];
    size_t alone_n = 0;
    for (int together = 0; together < 2; together++) {
        outrider_session *a = NULL, *b;
        if (together) {
            OK(outrider_session_open(e, &s, &a));
            OK(outrider_session_append_text(a, text[0], strlen(text[0])));
            for (int i = 0; i < 6; i++) OK(outrider_round(&a, 1));
        }
        OK(outrider_session_open(e, &s, &b));
        OK(outrider_session_append_text(b, text[1], strlen(text[1])));
        while (outrider_session_stop(b) == OUTRIDER_RUNNING) OK(outrider_round(&b, 1));
        outrider_stats stats;
        outrider_session_stats(b, &stats);
        size_t n;
        const int32_t *tokens = outrider_session_tokens(b, &n);
        if (!together) {
            alone_n = n;
            memcpy(alone, tokens, n * sizeof *tokens);
            assert_int_equal(stats.n_cached, 0);
        } else {
            assert_true(stats.n_cached >= 64);
            assert_int_equal(n, alone_n);
            assert_memory_equal(tokens, alone, n * sizeof *tokens);
        }
        outrider_session_close(b);
        outrider_session_close(a);
    }
    outrider_engine_close(e);
}

/* The end of the context, at every distance from it, and a fork that goes its own way. */
static void context_end_and_forks(void **state) {
    (void)state;
    enum { SMALL = 96 };
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = VERIFIER, o.device = "cpu", o.ctx_size = SMALL, o.page_size = 16, o.max_sessions = 2,
    o.cache_type = cache_type, o.cache_type_v = cache_type_v;
    choose_draft(&o, DRAFT);
    OK(outrider_engine_open(&o, &e));
    int32_t *ids, want[SMALL];
    size_t n_ids, n;
    OK(outrider_tokenize(e, prompts[2], strlen(prompts[2]), &ids, &n_ids));
    for (int32_t k = 0; k <= 16; k += TOKENS < 96 ? 4 : 1) {
        outrider_settings s = greedy(k);
        s.n_predict = -1;
        outrider_session *a, *b;
        OK(outrider_session_open(e, &s, &a));
        OK(outrider_session_append(a, ids, n_ids));
        for (int i = 0; i < 4; i++) OK(outrider_round(&a, 1));
        OK(outrider_session_fork(a, &b));
        while (outrider_session_stop(a) == OUTRIDER_RUNNING) OK(outrider_round(&a, 1));
        while (outrider_session_stop(b) == OUTRIDER_RUNNING) OK(outrider_round(&b, 1));
        assert_int_equal(outrider_session_stop(a), OUTRIDER_STOP_CONTEXT);
        const int32_t *tokens = outrider_session_tokens(a, &n);
        assert_int_equal(n, SMALL);
        if (k == 0) memcpy(want, tokens, sizeof want);
        assert_memory_equal(tokens, want, sizeof want);
        tokens = outrider_session_tokens(b, &n);
        assert_int_equal(n, SMALL);
        assert_memory_equal(tokens, want, sizeof want);
        outrider_session_close(a);
        outrider_session_close(b);
    }
    outrider_settings s = greedy(4);
    outrider_session *a;
    OK(outrider_session_open(e, &s, &a));
    int32_t many[SMALL + 1] = {1};
    assert_int_equal(outrider_session_append(a, many, SMALL + 1), OUTRIDER_EINVAL);
    assert_non_null(strstr(outrider_error(), "97"));
    assert_non_null(strstr(outrider_error(), "96"));
    OK(outrider_session_append(a, many, SMALL));
    assert_int_equal(outrider_session_stop(a), OUTRIDER_STOP_CONTEXT);
    outrider_session_close(a);
    free(ids);
    outrider_engine_close(e);
}

/* The same of a cache in 8 bits, whose text is its own. */
static void eight_bits_are_as_exact(void **state) {
    static int32_t want[MAX_BATCH][CONTEXT], got[MAX_BATCH][CONTEXT];
    size_t want_n[MAX_BATCH], got_n[MAX_BATCH];
    cache_type = "q8";
    outrider_engine *e = open_engine(DRAFT, 2, 4);
    outrider_settings s = greedy(0);
    for (int i = 0; i < 4; i++) write_batch(e, i, 1, &s, 0, want + i, want_n + i);
    for (int32_t k = 0; k <= 9; k += TOKENS < 96 ? 3 : 1) {
        write_batch(e, 0, 4, &s, k == 9 ? -1 : k, got, got_n);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(got_n[i], want_n[i]);
            assert_memory_equal(got[i], want[i], want_n[i] * sizeof(int32_t));
        }
    }
    outrider_engine_close(e);
    shared_prefixes_change_nothing(state);
    context_end_and_forks(state);
    cache_type_v = "f16"; /* of values alone */
    context_end_and_forks(state);
    cache_type = "f16", cache_type_v = NULL;
}

/* Stop strings and the end token inside a run: the text and the tokens are plain's. */
static void stops_inside_a_run(void **state) {
    (void)state;
    outrider_engine *e = open_engine(DRAFT, 2, 1);
    char plain_text[4000] = "";
    size_t plain_tokens = 0;
    for (int32_t k = 0; k <= 8; k++) {
        static const char *const stops[] = {" and the", ".\n", "?"};
        outrider_settings s = greedy(k);
        s.stop = stops, s.n_stop = 3, s.ignore_eos = false;
        outrider_session *a;
        OK(outrider_session_open(e, &s, &a));
        OK(outrider_session_append_text(a, prompts[5], strlen(prompts[5])));
        char text[4000] = "";
        size_t bytes, n;
        while (outrider_session_stop(a) == OUTRIDER_RUNNING) {
            OK(outrider_round(&a, 1));
            const char *part = outrider_session_take_text(a, &bytes);
            strncat(text, part, bytes);
        }
        outrider_session_tokens(a, &n);
        if (k == 0) strcpy(plain_text, text), plain_tokens = n;
        assert_int_equal(outrider_session_stop(a), OUTRIDER_STOP_STRING);
        for (int i = 0; i < 3; i++) assert_null(strstr(text, stops[i]));
        assert_string_equal(text, plain_text);
        assert_int_equal(n, plain_tokens);
        outrider_session_close(a);
    }
    outrider_engine_close(e);
}

/* Of the plain session its tokens are kept; those of the others must be the same. */
static void keep_or_compare(const outrider_session *session, bool is_plain, int32_t *want, size_t *want_n) {
    size_t n;
    const int32_t *tokens = outrider_session_tokens(session, &n);
    if (is_plain) memcpy(want, tokens, n * sizeof *tokens), *want_n = n;
    assert_int_equal(n, *want_n);
    assert_memory_equal(tokens, want, n * sizeof *tokens);
}

/* Proposals from the text itself, alone and beside the draft model's, in one batch with sessions that have
 * none. */
static void ngrams_change_nothing(void **state) {
    (void)state;
    enum { N = 4 };
    static int32_t want[N][CONTEXT];
    size_t want_n[N];
    outrider_engine *e = open_engine(DRAFT, 2, N);
    for (int kind = 0; kind < 3; kind++) {
        outrider_stats stats;
        int32_t by_ngram = 0;
        for (int spec = 0; spec < 2; spec++) {
            outrider_session *s[N];
            for (int i = 0; i < N; i++) {
                outrider_settings own = greedy(spec ? (kind == 2 ? -1 : 3 + i) : 0);
                if (kind == 1) own.temperature = 0.7f, own.accept = OUTRIDER_ACCEPT_COUPLED, own.seed = 5;
                own.drafters = i == 3   ? 0
                               : i == 2 ? OUTRIDER_DRAFT_MODEL | OUTRIDER_DRAFT_NGRAM
                                        : OUTRIDER_DRAFT_NGRAM;
                char text[1000];
                snprintf(text, sizeof text, "%s. %s. %s", prompts[i], prompts[i], prompts[i]);
                OK(outrider_session_open(e, &own, &s[i]));
                OK(outrider_session_append_text(s[i], text, strlen(text)));
            }
            write_to_the_end(s, N);
            for (int i = 0; i < N; i++) {
                keep_or_compare(s[i], !spec, want[i], &want_n[i]);
                outrider_session_stats(s[i], &stats);
                if (i < 2) assert_int_equal(stats.n_draft_steps, 0), by_ngram += stats.draft_n_accepted;
                outrider_session_close(s[i]);
            }
        }
        /* Greedy text repeats itself; sampled text need not, and an automatic K may find that none pays. */
        if (kind == 0 && by_ngram < TOKENS / 16) fail_msg("%d proposals of n-grams accepted", by_ngram);
    }
    outrider_engine_close(e);
}

/* Sessions of one batch with other drafters each: the draft model, the own layers, n-grams, whichever
 * promises most, none. */
static void drafters_in_one_batch(void **state) {
    (void)state;
    enum { N = 8 };
    static const uint32_t drafters[N] = {OUTRIDER_DRAFT_MODEL,
                                         OUTRIDER_DRAFT_SELF,
                                         OUTRIDER_DRAFT_MODEL | OUTRIDER_DRAFT_SELF | OUTRIDER_DRAFT_NGRAM,
                                         OUTRIDER_DRAFT_NGRAM,
                                         OUTRIDER_DRAFT_SELF,
                                         0,
                                         OUTRIDER_DRAFT_MODEL | OUTRIDER_DRAFT_SELF,
                                         OUTRIDER_DRAFT_MODEL};
    static int32_t want[N][CONTEXT];
    size_t want_n[N];
    beside = true, self_layers = 2;
    outrider_engine *e = open_engine(DRAFT, 2, N);
    for (int sampling = 0; sampling < 2; sampling++)
        for (int spec = 0; spec < 2; spec++) {
            outrider_session *s[N];
            outrider_stats stats;
            for (int i = 0; i < N; i++) {
                outrider_settings own = greedy(!spec ? 0 : i == 2 || i == 6 ? -1 : 8 - i);
                if (sampling) own.temperature = 0.8f, own.accept = OUTRIDER_ACCEPT_COUPLED, own.seed = 9;
                own.drafters = drafters[i];
                OK(outrider_session_open(e, &own, &s[i]));
                OK(outrider_session_append_text(s[i], prompts[i], strlen(prompts[i])));
            }
            write_to_the_end(s, N);
            for (int i = 0; i < N; i++) {
                keep_or_compare(s[i], !spec, want[i], &want_n[i]);
                outrider_session_stats(s[i], &stats);
                if (spec && drafters[i] % 4 == 0 && drafters[i]) assert_true(stats.n_draft_steps > 8);
                outrider_session_close(s[i]);
            }
        }
    expect_no_page_leaked(e);
    outrider_engine_close(e);
    beside = false, self_layers = 0;
}

/* The verifier's own first layers as the draft, few and all of them. */
static void own_layers_change_nothing(void **state) {
    static int32_t want[4][CONTEXT], got[4][CONTEXT];
    size_t want_n[4], got_n[4];
    outrider_engine *e = open_engine(NULL, 2, 1);
    outrider_engine_info info;
    OK(outrider_engine_get_info(e, &info));
    const int32_t all = info.verifier.num_hidden_layers;
    outrider_settings s = greedy(0);
    s.temperature = 0.9f, s.accept = OUTRIDER_ACCEPT_COUPLED, s.seed = 11, s.n_predict = 48;
    for (int i = 0; i < 4; i++) write_batch(e, i, 1, &s, 0, want + i, want_n + i);
    outrider_engine_close(e);

    for (self_layers = 1; self_layers <= all; self_layers += all > 2 ? all / 2 : 1) {
        expect_plain_of(4, 1 + self_layers % 8, 2, 4);
        e = open_engine(DRAFT, 2, 4);
        OK(outrider_engine_get_info(e, &info));
        assert_int_equal(info.self_layers, self_layers);
        assert_false(info.has_draft);
        for (int32_t k = -1; k <= 8; k += 3) {
            write_batch(e, 0, 4, &s, k, got, got_n);
            for (int i = 0; i < 4; i++) {
                assert_int_equal(got_n[i], want_n[i]);
                assert_memory_equal(got[i], want[i], want_n[i] * sizeof(int32_t));
            }
        }
        outrider_engine_close(e);
    }
    self_layers = -1; /* half of them */
    expect_plain_of(4, -1, 2, 4);
    shared_prefixes_change_nothing(state);
    context_end_and_forks(state);
    self_layers = all;
    equal_draft_is_accepted(state);
    self_layers = 0;
}

/* Tokens that stay of the draft's, over the first prompts, three levels at a time. */
static int32_t accepted_of_three_levels(outrider_engine *e) {
    int32_t accepted = 0;
    for (int i = 0; i < 4; i++) {
        outrider_settings s = greedy(3);
        outrider_session *session;
        outrider_stats stats;
        OK(outrider_session_open(e, &s, &session));
        OK(outrider_session_append_text(session, prompts[i], strlen(prompts[i])));
        while (outrider_session_stop(session) == OUTRIDER_RUNNING) OK(outrider_round(&session, 1));
        outrider_session_stats(session, &stats);
        accepted += stats.draft_n_accepted;
        outrider_session_close(session);
    }
    return accepted;
}

/* Trees of proposals, which more stays of than of chains. */
static void trees_change_nothing(void **state) {
    outrider_engine *e = open_engine(DRAFT, 2, 1);
    const int32_t of_chains = accepted_of_three_levels(e);
    trees = true;
    assert_true(accepted_of_three_levels(e) > of_chains + of_chains / 50);
    outrider_engine_close(e);
    for (int32_t k = 1; k <= 7; k += 2) expect_plain_of(TOKENS < 96 ? 2 : 6, k, 1 + k % 2, 1);
    equal_draft_is_accepted(state);
    context_end_and_forks(state);
    stops_inside_a_run(state);
    cache_type = "q8";
    context_end_and_forks(state);
    cache_type = "f16", cache_type_v = "q8";
    context_end_and_forks(state);
    cache_type_v = NULL;
    trees = false;
}

static int set_up(void **state) {
    (void)state;
    if (!read_prompts(prompts, PROMPTS)) return -1;
    outrider_engine *e = open_engine(NULL, 2, MAX_BATCH);
    outrider_settings s = greedy(0);
    for (int i = 0; i < PROMPTS; i++) write_batch(e, i, 1, &s, 0, &plain[i], &plain_n[i]);
    outrider_engine_close(e);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < PROMPTS; i++) free(prompts[i]);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_text_is_plain_text), cmocka_unit_test(equal_draft_is_accepted),
        cmocka_unit_test(knobs_do_not_break_it),     cmocka_unit_test(shared_prefixes_change_nothing),
        cmocka_unit_test(eight_bits_are_as_exact),   cmocka_unit_test(context_end_and_forks),
        cmocka_unit_test(stops_inside_a_run),        cmocka_unit_test(ngrams_change_nothing),
        cmocka_unit_test(own_layers_change_nothing), cmocka_unit_test(drafters_in_one_batch),
        cmocka_unit_test(trees_change_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

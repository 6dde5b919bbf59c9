/* What proposals are worth, counted in tokens and not in time: n-grams on text that repeats its prompt (lists
 * and refrains as the shipped verifier writes them; edits and summaries as a person wrote them), and that the
 * first token waits for no draft. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "runtime/engine.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != OUTRIDER_OK) fail_msg(#call ": %s", outrider_error());                                 \
    } while (0)

static outrider_engine *open_engine(bool draft, int32_t sessions) {
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.draft = draft ? "weights/tale/draft" : NULL, o.device = "cpu";
    o.threads = 2, o.max_sessions = sessions, o.ctx_size = 1024;
    OK(outrider_engine_open(&o, &e));
    return e;
}

/* ---- n-grams ---- */

static void the_longest_match_is_followed(void **state) {
    (void)state;
    int32_t out[8], length;
    /* "1 2 3" occurs twice, the longer "9 1 2 3" once, earlier. */
    static const int32_t text[] = {9, 1, 2, 3, 70, 71, 8, 1, 2, 3, 80, 81, 9, 1, 2, 3};
    assert_int_equal(ngram_propose(text, 16, 2, out, &length), 2);
    assert_int_equal(length, 4);
    assert_int_equal(out[0], 70);
    assert_int_equal(out[1], 71);
    /* The later of equals. */
    assert_int_equal(ngram_propose(text + 1, 9, 2, out, &length), 2);
    assert_int_equal(length, 3);
    assert_int_equal(out[0], 70);
    /* Two tokens alone are chance. */
    static const int32_t two[] = {1, 2, 5, 1, 2};
    assert_int_equal(ngram_propose(two, 5, 2, out, &length), 0);
    /* A repetition goes round. */
    static const int32_t round[] = {4, 5, 6, 4, 5, 6};
    assert_int_equal(ngram_propose(round, 6, 8, out, &length), 8);
    for (int i = 0; i < 8; i++) assert_int_equal(out[i], 4 + i % 3);
}

static const char *text_of(const json_t *row, const char *field) {
    const char *text = json_string_value(json_object_get(row, field));
    if (!text) fail_msg("no %s", field);
    return text;
}

static json_t *next_row(FILE *f) {
    json_error_t error;
    return json_loadf(f, JSON_DISABLE_EOF_CHECK, &error);
}

/* Two cores, by README's times of a pass. */
static const int32_t played_rows[] = {1, 2, 4, 8, 16};
static const double played_us[] = {710, 800, 940, 1400, 2600};

/* Plain rounds that a verifier takes that writes exactly this answer, over what its rounds with n-grams take.
 */
static double replay(const outrider_engine *e, const char *prompt, const char *answer) {
    struct costs costs = {0};
    int32_t *ids, *answer_ids;
    size_t n, n_answer;
    costs_set(&costs, 5, played_rows, played_us, 0, 0);
    OK(outrider_tokenize(e, prompt, strlen(prompt), &ids, &n));
    OK(outrider_tokenize(e, answer, strlen(answer), &answer_ids, &n_answer));
    outrider_session *s = calloc(1, sizeof *s);
    s->tokens = calloc(n + n_answer, sizeof *s->tokens);
    memcpy(s->tokens, ids, n * sizeof *ids);
    memcpy(s->tokens + n, answer_ids, n_answer * sizeof *ids);
    s->n = (int32_t)n;
    double took = 0, gain;
    int32_t end = (int32_t)(n + n_answer);
    while (s->n < end) {
        int32_t limit = end - s->n - 1, k = 0, same = 0;
        ngram_look(s, limit < OUTRIDER_MAX_DRAFT ? limit : OUTRIDER_MAX_DRAFT);
        if (s->n_ngram > 0)
            k = controller_choose(&s->ngram_controller[s->ngram_class], &costs, 1, s->n_ngram, DRAFTER_NGRAM,
                                  false, &gain);
        while (same < k && s->ngram[same] == s->tokens[s->n + same]) same++;
        ngram_learn(s, s->tokens + s->n, same + 1);
        took += costs_verify(&costs, k + 1);
        s->n += same + 1;
    }
    free(s->tokens);
    free(s);
    free(ids);
    free(answer_ids);
    return (double)n_answer * played_us[0] / took;
}

static void edits_and_summaries_at_twice_the_speed(void **state) {
    (void)state;
    outrider_engine *e = open_engine(false, 1);
    FILE *f = fopen("tests/data/edits.jsonl", "r");
    json_t *row;
    double sum = 0;
    int n = 0;
    while ((row = next_row(f))) {
        double speed = replay(e, text_of(row, "prompt"), text_of(row, "answer"));
        print_message("%-12s %.2f times plain\n", text_of(row, "name"), speed);
        if (speed < 1) fail_msg("%s: %.2f", text_of(row, "name"), speed);
        sum += speed;
        n++;
        json_decref(row);
    }
    fclose(f);
    assert_true(n > 0 && sum / n >= 2);
    outrider_engine_close(e);
}

enum { ANSWER = 96 };

/* Greedy, K proposals; the answer's tokens, and in *passes the verifier's passes. */
static void write_answer(outrider_engine *e, const char *prompt, int32_t k, int32_t *out, int32_t *passes) {
    outrider_settings set = outrider_settings_defaults(e);
    outrider_session *s;
    outrider_stats stats;
    size_t n;
    set.temperature = 0, set.n_predict = ANSWER, set.ignore_eos = true, set.draft_n = k;
    OK(outrider_session_open(e, &set, &s));
    OK(outrider_session_append_text(s, prompt, strlen(prompt)));
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) OK(outrider_round(&s, 1));
    outrider_session_stats(s, &stats);
    const int32_t *tokens = outrider_session_tokens(s, &n);
    memcpy(out, tokens + n - ANSWER, ANSWER * sizeof *out);
    *passes = stats.n_verify;
    outrider_session_close(s);
}

static void text_that_repeats_its_prompt(void **state) {
    (void)state;
    outrider_engine *e = open_engine(false, 1);
    FILE *f = fopen("tests/data/repeat.jsonl", "r");
    json_t *row;
    int32_t plain[ANSWER], fast[ANSWER], passes, all = 0, n = 0;
    while ((row = next_row(f))) {
        write_answer(e, text_of(row, "prompt"), 0, plain, &passes);
        assert_int_equal(passes, ANSWER);
        write_answer(e, text_of(row, "prompt"), 8, fast, &passes);
        assert_memory_equal(plain, fast, sizeof plain);
        all += passes;
        n++;
        json_decref(row);
    }
    fclose(f);
    print_message("%d answers of %d tokens: %.2f tokens a pass\n", n, ANSWER, (double)n * ANSWER / all);
    assert_true(n > 0 && n * ANSWER >= 4 * all);
    outrider_engine_close(e);
}

/* ---- the first token ---- */

static const char SENTENCE[] = "The old man went down to the sea, and the boat was gone. ";

/* `first` keeps it from sharing what another session has read. */
static outrider_session *open_prompt(outrider_engine *e, const char *first, int sentences, int32_t k) {
    outrider_settings set = outrider_settings_defaults(e);
    outrider_session *s;
    set.temperature = 0, set.n_predict = 24, set.ignore_eos = true, set.draft_n = k;
    set.drafters = OUTRIDER_DRAFT_MODEL;
    OK(outrider_session_open(e, &set, &s));
    OK(outrider_session_append_text(s, first, strlen(first)));
    for (int i = 0; i < sentences; i++) OK(outrider_session_append_text(s, SENTENCE, strlen(SENTENCE)));
    return s;
}

static outrider_stats stats_of(const outrider_session *s) {
    outrider_stats stats;
    outrider_session_stats(s, &stats);
    return stats;
}

/* Until its first token is written the draft has read nothing for it, alone or beside one that has long
 * begun. */
static void the_first_token_waits_for_no_draft(void **state) {
    (void)state;
    for (int32_t k = -1; k <= 3; k += 4) {
        outrider_engine *e = open_engine(true, 2);
        outrider_session *s[2] = {open_prompt(e, "One. ", 40, k), NULL};
        for (int i = 0; i < 2; i++) {
            if (i == 1) s[1] = open_prompt(e, "Two. ", 40, k);
            while (stats_of(s[i]).n_predict == 0) {
                assert_int_equal(kv_len(e->kv, s[i]->slot, OUTRIDER_DRAFT), 0);
                OK(outrider_round(s, (size_t)i + 1));
            }
            assert_int_equal(stats_of(s[i]).n_draft_steps, 0);
            assert_int_equal(kv_len(e->kv, s[i]->slot, OUTRIDER_DRAFT), 0);
            OK(outrider_round(s, (size_t)i + 1));
            if (k > 0)
                assert_true(kv_len(e->kv, s[i]->slot, OUTRIDER_DRAFT) > 256); /* and then it does read */
        }
        outrider_session_close(s[0]);
        outrider_session_close(s[1]);
        outrider_engine_close(e);
    }
}

/* Nor has it proposed for it, however short the prompt. */
static void not_even_for_a_short_prompt(void **state) {
    (void)state;
    outrider_engine *e = open_engine(true, 1);
    outrider_session *s = open_prompt(e, "The king", 0, 4);
    OK(outrider_round(&s, 1));
    assert_int_equal(stats_of(s).n_predict, 1);
    assert_int_equal(stats_of(s).n_draft_steps, 0);
    OK(outrider_round(&s, 1));
    assert_int_equal(stats_of(s).n_draft_steps, 4);
    outrider_session_close(s);
    outrider_engine_close(e);
}

/* A draft is not made to read a long prompt for a few tokens; for many it is. */
static void reading_a_long_prompt_must_pay(void **state) {
    (void)state;
    outrider_engine *e = open_engine(true, 1);
    for (int many = 0; many < 2; many++) {
        outrider_session *s = open_prompt(e, "Long. ", 40, -1);
        outrider_settings set = outrider_settings_defaults(e);
        set.temperature = 0, set.n_predict = many ? 400 : 8, set.ignore_eos = true;
        set.drafters = OUTRIDER_DRAFT_MODEL;
        OK(outrider_session_set(s, &set));
        for (int i = 0; i < 8 && outrider_session_stop(s) == OUTRIDER_RUNNING; i++) {
            costs_set(&e->costs, 5, played_rows, played_us, 100, 0); /* whatever machine this is */
            e->costs.draft_read = 20;
            OK(outrider_round(&s, 1));
        }
        assert_int_equal(kv_len(e->kv, s->slot, OUTRIDER_DRAFT) > 256, many);
        outrider_session_close(s);
    }
    outrider_engine_close(e);
}

/* A draft that guesses none of the first tokens of a prompt, however short, is not asked to propose. */
static void a_short_prompt_shows_a_useless_draft(void **state) {
    (void)state;
    outrider_engine *e = open_engine(true, 1);
    for (int nonsense = 0; nonsense < 2; nonsense++) {
        outrider_settings set = outrider_settings_defaults(e);
        outrider_session *s;
        set.temperature = 0, set.n_predict = 16, set.ignore_eos = true, set.drafters = OUTRIDER_DRAFT_MODEL;
        OK(outrider_session_open(e, &set, &s));
        int32_t words[40];
        for (int32_t i = 0; i < 40; i++) words[i] = 300 + i * 37 % 1000;
        if (nonsense) OK(outrider_session_append(s, words, 40));
        for (int i = 0; i < 3 && !nonsense; i++)
            OK(outrider_session_append_text(s, SENTENCE, strlen(SENTENCE)));
        while (outrider_session_stop(s) == OUTRIDER_RUNNING) {
            costs_set(&e->costs, 5, played_rows, played_us, 100, 0);
            e->costs.draft_read = 20;
            OK(outrider_round(&s, 1));
        }
        if (nonsense)
            assert_int_equal(stats_of(s).n_draft_steps, 0);
        else
            assert_true(stats_of(s).n_draft_steps > 3);
        outrider_session_close(s);
    }
    outrider_engine_close(e);
}

/* ---- who proposes ---- */

/* Rounds that each drafter served in a greedy answer on a played machine, and in *last who served the last
 * that had proposals. The shipped draft stands beside the first `layers` of the verifier. */
static void count_rounds(int32_t layers, double draft_us, double self_us, int32_t *rounds,
                         enum drafter *last) {
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    outrider_session *s;
    o.model = "weights/tale/verifier", o.draft = "weights/tale/draft", o.device = "cpu",
    o.self_layers = layers;
    o.threads = 2, o.ctx_size = 1024;
    OK(outrider_engine_open(&o, &e));
    outrider_settings set = outrider_settings_defaults(e);
    set.temperature = 0, set.n_predict = 900, set.ignore_eos = true, set.draft_n = -1;
    set.drafters = OUTRIDER_DRAFT_MODEL | OUTRIDER_DRAFT_SELF;
    OK(outrider_session_open(e, &set, &s));
    OK(outrider_session_append_text(s, SENTENCE, strlen(SENTENCE)));
    memset(rounds, 0, DRAFTERS * sizeof *rounds);
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) {
        costs_set(&e->costs, 5, played_rows, played_us, draft_us, self_us);
        OK(outrider_round(&s, 1));
        if (s->k > 0) rounds[s->by]++, *last = s->by;
    }
    outrider_session_close(s);
    outrider_engine_close(e);
}

/* All layers accept all that they propose, one hardly any. */
static void the_better_drafter_serves(void **state) {
    (void)state;
    int32_t rounds[DRAFTERS];
    enum drafter last = DRAFTER_NGRAM;
    count_rounds(8, 100, 100, rounds, &last);
    print_message("all layers: %d rounds, draft %d\n", rounds[DRAFTER_SELF], rounds[DRAFTER_MODEL]);
    assert_int_equal(last, DRAFTER_SELF);
    count_rounds(1, 100, 100, rounds, &last);
    print_message("one layer: %d rounds, draft %d\n", rounds[DRAFTER_SELF], rounds[DRAFTER_MODEL]);
    assert_int_equal(last, DRAFTER_MODEL);
    assert_true(rounds[DRAFTER_MODEL] > 10 * rounds[DRAFTER_SELF]);
    assert_true(rounds[DRAFTER_SELF] > 0); /* it had its try */
    /* By its cost the draft is thought better at first; tries show that it is not. */
    count_rounds(8, 20, 60, rounds, &last);
    print_message("all layers, dear: %d rounds, draft %d\n", rounds[DRAFTER_SELF], rounds[DRAFTER_MODEL]);
    assert_int_equal(last, DRAFTER_SELF);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_longest_match_is_followed),
                                       cmocka_unit_test(edits_and_summaries_at_twice_the_speed),
                                       cmocka_unit_test(text_that_repeats_its_prompt),
                                       cmocka_unit_test(the_first_token_waits_for_no_draft),
                                       cmocka_unit_test(not_even_for_a_short_prompt),
                                       cmocka_unit_test(reading_a_long_prompt_must_pay),
                                       cmocka_unit_test(a_short_prompt_shows_a_useless_draft),
                                       cmocka_unit_test(the_better_drafter_serves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

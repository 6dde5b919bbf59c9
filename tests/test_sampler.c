/* The sampler's knobs against plain definitions, and its random numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sampler.h"

enum { VOCAB = 1000 };

static outrider_settings off(void) {
    return (outrider_settings){.temperature = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64};
}

static void make_logits(float *l, uint32_t seed) {
    for (uint32_t i = 0; i < VOCAB; i++) {
        seed = seed * 1664525u + 1013904223u;
        l[i] = (float)(seed >> 8) / 16777216.0f * 12 - 6;
    }
    l[17] = l[23]; /* ties */
    l[500] = l[501] = l[502];
}

static int by_falling(const void *a, const void *b) {
    const double *x = a, *y = b;
    return x[0] != y[0] ? (x[0] < y[0] ? 1 : -1) : (x[1] > y[1]) - (x[1] < y[1]);
}

/* The definition, in double, by full sorting. */
static void reference(const outrider_settings *s, const float *logits, const int32_t *history, int n_history,
                      double *p) {
    double l[VOCAB], sorted[VOCAB][2], total = 0;
    for (int i = 0; i < VOCAB; i++) l[i] = logits[i];
    for (size_t i = 0; i < s->n_logit_bias; i++) l[s->logit_bias[i].token] += s->logit_bias[i].bias;
    int window = s->repeat_last_n < 0 || s->repeat_last_n > n_history ? n_history : s->repeat_last_n;
    for (int t = 0; t < VOCAB; t++) {
        int count = 0;
        for (int i = n_history - window; i < n_history; i++) count += history[i] == t;
        if (!count) continue;
        l[t] = l[t] > 0 ? l[t] / s->repeat_penalty : l[t] * s->repeat_penalty;
        l[t] -= s->presence_penalty + s->frequency_penalty * count;
    }
    for (int i = 0; i < VOCAB; i++) sorted[i][0] = l[i], sorted[i][1] = i;
    qsort(sorted, VOCAB, sizeof *sorted, by_falling);
    int n = s->top_k > 0 && s->top_k < VOCAB ? s->top_k : VOCAB;
    double top = sorted[0][0], part = 0;
    for (int i = 0; i < n; i++) total += sorted[i][0] = exp((sorted[i][0] - top) / s->temperature);
    int keep = 0;
    while (keep < n && (keep == 0 || s->top_p >= 1 || part < s->top_p * total)) part += sorted[keep++][0];
    while (keep > 1 && sorted[keep - 1][0] < s->min_p) keep--;
    memset(p, 0, VOCAB * sizeof *p);
    total = 0;
    for (int i = 0; i < keep; i++) total += sorted[i][0];
    for (int i = 0; i < keep; i++) p[(int)sorted[i][1]] = sorted[i][0] / total;
}

static void compare(const outrider_settings *s, uint32_t seed) {
    float logits[VOCAB];
    make_logits(logits, seed);
    int32_t history[] = {17, 23, 23, 900, 17, 5, 5, 5, 42}, n_history = 9, ids[VOCAB];
    float probabilities[VOCAB];
    double expected[VOCAB], sum = 0;
    struct distribution d = {0, ids, probabilities};
    struct sampler sampler;
    assert_int_equal(sampler_create(s, VOCAB, &sampler), OUTRIDER_OK);
    reference(s, logits, history, n_history, expected);
    for (int again = 0; again < 2; again++) { /* no state is carried over */
        assert_int_equal(sampler_distribution(&sampler, logits, history, (size_t)n_history, &d), OUTRIDER_OK);
        assert_true(d.n <= sampler_support(&sampler));
    }
    int support = 0;
    for (int i = 0; i < VOCAB; i++) support += expected[i] > 0;
    assert_int_equal(d.n, support);
    for (int i = 0; i < d.n; i++) {
        sum += d.p[i];
        if (fabs(d.p[i] - expected[d.id[i]]) > 2e-6 * expected[d.id[i]] + 1e-9)
            fail_msg("token %d: %g, expected %g", d.id[i], d.p[i], expected[d.id[i]]);
    }
    assert_true(fabs(sum - 1) < 1e-5);
    sampler_destroy(&sampler);
}

static void knobs_follow_their_definition(void **state) {
    (void)state;
    static const outrider_logit_bias bias[] = {{3, 4}, {17, -INFINITY}, {900, 2.5f}};
    static const float temperatures[] = {0.1f, 0.7f, 1, 2}, top_ps[] = {1, 0.95f, 0.5f, 0.01f},
                       min_ps[] = {0, 0.05f, 0.5f, 1};
    static const int32_t top_ks[] = {0, 1, 2, 40, VOCAB - 1, VOCAB, 5 * VOCAB};
    uint32_t seed = 1;
    for (size_t t = 0; t < 4; t++)
        for (size_t k = 0; k < 7; k++)
            for (size_t p = 0; p < 4; p++)
                for (size_t m = 0; m < 4; m++)
                    for (int more = 0; more < 2; more++) {
                        outrider_settings s = off();
                        s.temperature = temperatures[t], s.top_k = top_ks[k], s.top_p = top_ps[p],
                        s.min_p = min_ps[m];
                        if (more) {
                            s.repeat_penalty = 1.3f, s.presence_penalty = 0.4f, s.frequency_penalty = 0.2f;
                            s.repeat_last_n = 5, s.logit_bias = bias, s.n_logit_bias = 3;
                        }
                        compare(&s, seed++);
                    }
}

static void greedy_takes_the_first_of_the_greatest(void **state) {
    (void)state;
    outrider_settings s = off();
    s.temperature = 0;
    float logits[VOCAB] = {0}, p;
    int32_t id;
    struct distribution d = {0, &id, &p};
    struct sampler sampler;
    assert_int_equal(sampler_create(&s, VOCAB, &sampler), OUTRIDER_OK);
    assert_true(sampler_is_argmax(&sampler));
    logits[7] = logits[9] = 3, logits[2] = NAN;
    assert_int_equal(sampler_distribution(&sampler, logits, NULL, 0, &d), OUTRIDER_OK);
    assert_true(d.n == 1 && d.id[0] == 7 && d.p[0] == 1);
    for (int i = 0; i < VOCAB; i++) logits[i] = -INFINITY;
    assert_int_equal(sampler_distribution(&sampler, logits, NULL, 0, &d), OUTRIDER_EFAIL);
    sampler_destroy(&sampler);
}

static void wrong_settings_are_named(void **state) {
    (void)state;
    outrider_logit_bias bad = {VOCAB, 1}, nan_bias = {1, NAN}, negative = {-1, 1}, infinite = {1, INFINITY};
    enum { ROWS = 19 };
    outrider_settings s[ROWS];
    const char *word[ROWS] = {"temperature",    "temperature", "top-k",         "top-p",      "min-p",
                              "repeat penalty", "presence",    "repeat-last-n", "logit bias", "logit bias",
                              "temperature",    "top-p",       "top-p",         "min-p",      "min-p",
                              "repeat penalty", "frequency",   "logit bias",    "logit bias"};
    for (int i = 0; i < ROWS; i++) s[i] = off();
    s[10].temperature = INFINITY, s[11].top_p = 1.5f, s[12].top_p = NAN, s[13].min_p = -0.5f,
    s[14].min_p = NAN;
    s[15].repeat_penalty = INFINITY, s[16].frequency_penalty = NAN;
    s[17].logit_bias = &negative, s[17].n_logit_bias = 1, s[18].logit_bias = &infinite,
    s[18].n_logit_bias = 1;
    s[0].temperature = -1, s[1].temperature = NAN, s[2].top_k = -1, s[3].top_p = 0, s[4].min_p = 1.5f;
    s[5].repeat_penalty = 0, s[6].presence_penalty = INFINITY, s[7].repeat_last_n = -2;
    s[8].logit_bias = &bad, s[8].n_logit_bias = 1, s[9].logit_bias = &nan_bias, s[9].n_logit_bias = 1;
    for (int i = 0; i < ROWS; i++) {
        struct sampler sampler;
        assert_int_equal(sampler_create(&s[i], VOCAB, &sampler), OUTRIDER_EINVAL);
        if (!strstr(outrider_error(), word[i])) fail_msg("%s: not named in: %s", word[i], outrider_error());
    }
}

/* Biases of one token add up; penalties look as far back as they say; each alone rules out a plain argmax. */
static void settings_as_they_are_kept(void **state) {
    (void)state;
    static const outrider_logit_bias twice[] = {{5, 1}, {3, 2}, {5, -4}};
    struct sampler sampler;
    outrider_settings s = off();
    s.logit_bias = twice, s.n_logit_bias = 3, s.temperature = 0;
    assert_int_equal(sampler_create(&s, VOCAB, &sampler), OUTRIDER_OK);
    assert_int_equal(sampler.s.n_logit_bias, 2);
    assert_true(sampler.s.logit_bias[0].token == 3 && sampler.s.logit_bias[1].bias == -3);
    assert_false(sampler_is_argmax(&sampler));
    assert_int_equal(sampler_window(&sampler), 0);
    sampler_destroy(&sampler);
    for (int which = 0; which < 4; which++) {
        s = off(), s.temperature = 0, s.repeat_last_n = which == 3 ? -1 : 7;
        if (which == 0) s.repeat_penalty = 1.1f;
        if (which == 1) s.presence_penalty = 0.1f;
        if (which >= 2) s.frequency_penalty = 0.1f;
        assert_int_equal(sampler_create(&s, VOCAB, &sampler), OUTRIDER_OK);
        assert_int_equal(sampler_window(&sampler), which == 3 ? INT32_MAX : 7);
        assert_false(sampler_is_argmax(&sampler));
        sampler_destroy(&sampler);
        s.repeat_last_n = 0; /* looks at nothing */
        assert_int_equal(sampler_create(&s, VOCAB, &sampler), OUTRIDER_OK);
        assert_true(sampler_is_argmax(&sampler) && sampler_window(&sampler) == 0);
        sampler_destroy(&sampler);
    }
}

/* A token of no probability is never drawn, wherever it stands and however often it is asked. */
static void gumbel_draws_stay_inside_the_support(void **state) {
    (void)state;
    int32_t ids[] = {4, 9, 2};
    float p[] = {0, 1e-30f, 0};
    const struct distribution d = {3, ids, p};
    for (uint64_t seed = 0; seed < 1000; seed++) assert_int_equal(sampler_gumbel_pick(seed, 3, &d), 9);
}

/* Uniform by chi-square over 100 bins, and independent of neighbours in each argument. */
static void numbers_are_uniform(void **state) {
    (void)state;
    enum { N = 200000, BINS = 100 };
    for (int by = 0; by < 4; by++) {
        int counts[BINS] = {0};
        double previous = 0, product = 0;
        for (int i = 0; i < N; i++) {
            double u =
                rng_uniform(by == 0 ? (uint64_t)i << 20 : 7, by == 1 ? (enum rng_purpose)(i % 3) : RNG_ACCEPT,
                            by == 1   ? i / 3
                            : by == 2 ? i
                                      : 5,
                            by == 3 ? i : 2);
            assert_true(u >= 0 && u < 1);
            counts[(int)(u * BINS)]++;
            product += (u - 0.5) * (previous - 0.5);
            previous = u;
        }
        double chi2 = 0;
        for (int i = 0; i < BINS; i++)
            chi2 += (counts[i] - N / BINS) * (double)(counts[i] - N / BINS) / (N / BINS);
        assert_true(chi2 > 50 && chi2 < 170);
        assert_true(fabs(product / N) < 0.002);
    }
    assert_true(rng_uniform(1, RNG_ACCEPT, 2, 3) == rng_uniform(1, RNG_ACCEPT, 2, 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(knobs_follow_their_definition),
                                       cmocka_unit_test(greedy_takes_the_first_of_the_greatest),
                                       cmocka_unit_test(wrong_settings_are_named),
                                       cmocka_unit_test(settings_as_they_are_kept),
                                       cmocka_unit_test(gumbel_draws_stay_inside_the_support),
                                       cmocka_unit_test(numbers_are_uniform)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

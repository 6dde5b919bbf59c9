/* The acceptance rules keep the verifier's distribution: a toy pair of language models over four tokens
 * writes three-token texts by speculation a million times, and the joint counts are held against the exact
 * probabilities by chi-square. Then the same with bugs planted, which the test must see.
 *
 * The toy models are tables: logits by hash of the prefix, made into distributions by the real sampler with
 * its knobs. The loop below is the scheduler's in small: same rules, same random numbers, rounds that
 * overlap. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sampler.h"

#ifdef COUNTED /* branches are counted, which takes time; the planted bugs show in fewer texts too */
enum { TRIALS = 100000 };
#else
enum { TRIALS = 1000000 };
#endif
enum { VOCAB = 4, TEXT = 3, MAX_K = 3, DEPTH = TEXT + MAX_K + 1 };
enum { PREFIXES = (1 << (2 * DEPTH)) / 3 + 1 }; /* 1 + 4 + 16 + ... */

enum bug {
    NO_BUG,
    NO_RESIDUAL,
    REUSED_NUMBER,
    WRONG_TEMPERATURE,
    GREEDY_ACCEPTANCE,
    NUMBERS_BY_PLACE_ONLY,
    BUGS
};

struct toy {
    struct distribution p[PREFIXES], q[PREFIXES], q_scored[PREFIXES];
    int32_t ids[3][PREFIXES][VOCAB];
    float probabilities[3][PREFIXES][VOCAB];
};

/* Prefixes are numbered level by level: the empty one is 0, the children of i are 4 i + 1 .. 4 i + 4. */
static int child(int prefix, int32_t token) {
    return 4 * prefix + 1 + token;
}

static float hash_logit(uint32_t prefix, uint32_t token, uint32_t salt) {
    uint32_t h = prefix * 2654435761u ^ (token + 1) * 2246822519u ^ salt * 3266489917u;
    h ^= h >> 15, h *= 2246822519u, h ^= h >> 13, h *= 3266489917u, h ^= h >> 16;
    return (float)(h % 10000) / 10000.0f * 3.0f - 1.5f;
}

static void fill(struct toy *toy, int which, const outrider_settings *settings, uint32_t salt, float mix) {
    struct sampler sampler;
    assert_int_equal(sampler_create(settings, VOCAB, &sampler), OUTRIDER_OK);
    int32_t history[DEPTH];
    for (int level = 0, first = 0, n = 1; level < DEPTH; level++, first = 4 * first + 1, n *= 4)
        for (int i = first; i < first + n; i++) {
            int at = i;
            for (int j = level - 1; j >= 0; j--) history[j] = (at - 1) % 4, at = (at - 1) / 4;
            float logits[VOCAB];
            for (uint32_t t = 0; t < VOCAB; t++)
                logits[t] =
                    hash_logit((uint32_t)i, t, 1) * (1 - mix) + hash_logit((uint32_t)i, t, salt) * mix;
            struct distribution *d = (which == 0 ? toy->p : which == 1 ? toy->q : toy->q_scored) + i;
            *d = (struct distribution){0, toy->ids[which][i], toy->probabilities[which][i]};
            assert_int_equal(sampler_distribution(&sampler, logits, history, (size_t)level, d), OUTRIDER_OK);
        }
    sampler_destroy(&sampler);
}

static struct accepted judge(outrider_accept_rule rule, enum bug bug, uint64_t seed, int32_t n, int32_t k,
                             const int32_t *proposed, const struct distribution *q,
                             const struct distribution *p, float *scratch) {
    if (rule == OUTRIDER_ACCEPT_COUPLED) {
        int32_t picks[MAX_K + 1];
        for (int32_t i = 0; i <= k; i++) picks[i] = sampler_gumbel_pick(seed, n + i, &p[i]);
        return accept_equal(k, proposed, picks);
    }
    double u[MAX_K], last = rng_uniform(seed, RNG_FINAL, n, bug == NUMBERS_BY_PLACE_ONLY ? 0 : n);
    for (int32_t i = 0; i < k; i++) {
        u[i] = rng_uniform(seed, RNG_ACCEPT, n + i, bug == NUMBERS_BY_PLACE_ONLY ? 0 : n);
        if (bug == REUSED_NUMBER) u[i] = rng_uniform(seed, RNG_PROPOSE, n + i, n);
        if (bug == GREEDY_ACCEPTANCE) u[i] = 0.5;
    }
    struct accepted a = (rule == OUTRIDER_ACCEPT_BLOCK ? accept_block : accept_rejection)(k, proposed, q, p,
                                                                                          u, last, scratch);
    if (bug == NO_RESIDUAL && a.n < k) a.token = distribution_draw(&p[a.n], last);
    return a;
}

/* Writes one text by rounds of K proposals; returns the number of proposals kept. */
static int write_text(const struct toy *toy, outrider_accept_rule rule, enum bug bug, uint64_t seed,
                      int32_t k, int32_t *text, float *scratch) {
    int prefix = 0, kept = 0;
    int32_t n = 0;
    while (n < TEXT) {
        struct distribution p[MAX_K + 1], q[MAX_K];
        int32_t proposed[MAX_K];
        int at = prefix;
        for (int32_t i = 0; i < k; i++) {
            p[i] = toy->p[at];
            q[i] = bug == WRONG_TEMPERATURE ? toy->q_scored[at] : toy->q[at];
            if (rule == OUTRIDER_ACCEPT_COUPLED)
                proposed[i] = sampler_gumbel_pick(seed, n + i, &toy->q[at]);
            else
                proposed[i] = distribution_draw(
                    &toy->q[at], rng_uniform(seed, RNG_PROPOSE, n + i, bug == NUMBERS_BY_PLACE_ONLY ? 0 : n));
            at = child(at, proposed[i]);
        }
        p[k] = toy->p[at];
        struct accepted a = judge(rule, bug, seed, n, k, proposed, q, p, scratch);
        kept += a.n;
        for (int32_t i = 0; i <= a.n; i++, n++) {
            int32_t token = i < a.n ? proposed[i] : a.token;
            if (n < TEXT) text[n] = token;
            prefix = child(prefix, token);
        }
    }
    return kept;
}

/* Normal deviate of a chi-square value (Wilson and Hilferty 1931). */
static double deviate(double chi2, int freedom) {
    double v = 2.0 / (9.0 * freedom);
    return (cbrt(chi2 / freedom) - (1 - v)) / sqrt(v);
}

static double test_rule(const struct toy *toy, outrider_accept_rule rule, enum bug bug, int32_t k, int trials,
                        double *kept) {
    enum { CELLS = VOCAB * VOCAB * VOCAB };
    static int64_t counts[CELLS];
    memset(counts, 0, sizeof counts);
    float scratch[VOCAB] = {0};
    int64_t sum_kept = 0;
    for (int t = 0; t < trials; t++) {
        int32_t text[TEXT];
        sum_kept += write_text(toy, rule, bug, 0x9E3779B97F4A7C15u * (uint64_t)(t + 1), k, text, scratch);
        counts[(text[0] * VOCAB + text[1]) * VOCAB + text[2]]++;
    }
    *kept = (double)sum_kept / trials;
    double chi2 = 0, rest_expected = 0;
    int64_t rest = 0;
    int freedom = -1;
    for (int32_t a = 0; a < VOCAB; a++)
        for (int32_t b = 0; b < VOCAB; b++)
            for (int32_t c = 0; c < VOCAB; c++) {
                int one = child(0, a), two = child(one, b);
                double e = (double)trials * distribution_p(&toy->p[0], a) * distribution_p(&toy->p[one], b) *
                           distribution_p(&toy->p[two], c);
                int64_t o = counts[(a * VOCAB + b) * VOCAB + c];
                if (e == 0 && o > 0) return INFINITY; /* a text that the verifier never writes */
                if (e < 10) {
                    rest_expected += e, rest += o;
                    continue;
                }
                chi2 += ((double)o - e) * ((double)o - e) / e;
                freedom++;
            }
    if (rest_expected >= 10)
        chi2 += ((double)rest - rest_expected) * ((double)rest - rest_expected) / rest_expected, freedom++;
    return deviate(chi2, freedom);
}

static outrider_settings plain_settings(void) {
    outrider_settings s = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = -1};
    return s;
}

/* Settings with each knob on, alone and together. */
static int all_settings(outrider_settings *s) {
    static const outrider_logit_bias bias[] = {{1, 0.7f}, {3, -0.4f}};
    int n = 0;
    s[n++] = plain_settings();
    s[n] = plain_settings(), s[n++].temperature = 0.6f;
    s[n] = plain_settings(), s[n++].top_k = 3;
    s[n] = plain_settings(), s[n++].top_p = 0.8f;
    s[n] = plain_settings(), s[n++].min_p = 0.3f;
    s[n] = plain_settings(), s[n++].repeat_penalty = 1.5f;
    s[n] = plain_settings(), s[n].presence_penalty = 0.5f, s[n++].frequency_penalty = 0.3f;
    s[n] = plain_settings(), s[n].logit_bias = bias, s[n++].n_logit_bias = 2;
    s[n] = (outrider_settings){.temperature = 0.8f,
                               .top_k = 3,
                               .top_p = 0.95f,
                               .min_p = 0.05f,
                               .repeat_penalty = 1.1f,
                               .presence_penalty = 0.2f,
                               .frequency_penalty = 0.1f,
                               .repeat_last_n = 2,
                               .logit_bias = bias,
                               .n_logit_bias = 2};
    return n + 1;
}

enum { LIMIT = 5 }; /* deviates: one false alarm in 3.5 million tests */

static void rule_keeps_distribution(outrider_accept_rule rule) {
    static struct toy toy;
    outrider_settings settings[16];
    int n = all_settings(settings);
    for (int i = 0; i < n; i++) {
        fill(&toy, 0, &settings[i], 1, 0);
        fill(&toy, 1, &settings[i], 2, 0.5f);
        /* A million texts for no knobs and all knobs at K = 3, fewer for what lies between. */
        for (int32_t k = 1; k <= MAX_K; k++) {
            double kept, z = test_rule(&toy, rule, NO_BUG, k,
                                       k == MAX_K && (i == 0 || i == n - 1) ? TRIALS : TRIALS / 10, &kept);
            if (z > LIMIT) fail_msg("settings %d, K %d: deviate %.1f", i, (int)k, z);
            assert_true(kept > 0.2);
        }
    }
}

static void rejection_keeps_distribution(void **state) {
    (void)state;
    rule_keeps_distribution(OUTRIDER_ACCEPT_REJECTION);
}
static void block_keeps_distribution(void **state) {
    (void)state;
    rule_keeps_distribution(OUTRIDER_ACCEPT_BLOCK);
}
static void coupled_keeps_distribution(void **state) {
    (void)state;
    rule_keeps_distribution(OUTRIDER_ACCEPT_COUPLED);
}

static void bug_is_seen(outrider_accept_rule rule, enum bug bug) {
    static struct toy toy;
    outrider_settings s = plain_settings(), warm = plain_settings();
    warm.temperature = 0.9f;
    fill(&toy, 0, &s, 1, 0);
    fill(&toy, 1, &s, 2, 0.5f);
    fill(&toy, 2, &warm, 2, 0.5f);
    double kept, z = test_rule(&toy, rule, bug, MAX_K, TRIALS, &kept);
    if (!(z > LIMIT)) fail_msg("bug %d under rule %d went unseen: deviate %.1f", (int)bug, (int)rule, z);
}

static void planted_bugs_are_seen(void **state) {
    (void)state;
    for (int rule = OUTRIDER_ACCEPT_REJECTION; rule <= OUTRIDER_ACCEPT_BLOCK; rule++)
        for (int bug = NO_RESIDUAL; bug <= GREEDY_ACCEPTANCE; bug++)
            bug_is_seen((outrider_accept_rule)rule, (enum bug)bug);
    /* Rejection throws numbers away unseen, block verification has looked at them. */
    bug_is_seen(OUTRIDER_ACCEPT_BLOCK, NUMBERS_BY_PLACE_ONLY);
}

static void block_never_keeps_fewer(void **state) {
    (void)state;
    static struct toy toy;
    outrider_settings s = plain_settings();
    fill(&toy, 0, &s, 1, 0);
    for (uint32_t salt = 2; salt < 6; salt++) {
        fill(&toy, 1, &s, salt, 0.6f);
        double rejection, block;
        test_rule(&toy, OUTRIDER_ACCEPT_REJECTION, NO_BUG, MAX_K, TRIALS / 10, &rejection);
        test_rule(&toy, OUTRIDER_ACCEPT_BLOCK, NO_BUG, MAX_K, TRIALS / 10, &block);
        assert_true(block > rejection * 0.995);
    }
}

/* A draft equal to the verifier is accepted always, under every rule. */
static void equal_draft_is_accepted(void **state) {
    (void)state;
    static struct toy toy;
    float scratch[VOCAB] = {0};
    outrider_settings s = plain_settings();
    fill(&toy, 0, &s, 1, 0);
    fill(&toy, 1, &s, 1, 0);
    for (int rule = 0; rule <= OUTRIDER_ACCEPT_COUPLED; rule++)
        for (uint64_t seed = 0; seed < 10000; seed++) {
            int32_t text[TEXT];
            assert_int_equal(write_text(&toy, (outrider_accept_rule)rule, NO_BUG, seed, 2, text, scratch), 2);
        }
}

/* The coupled rule: one text a seed, whatever the draft and K. */
static void coupled_text_is_the_seeds(void **state) {
    (void)state;
    static struct toy toy, other;
    float scratch[VOCAB] = {0};
    outrider_settings s = plain_settings();
    fill(&toy, 0, &s, 1, 0), fill(&toy, 1, &s, 2, 0.5f);
    fill(&other, 0, &s, 1, 0), fill(&other, 1, &s, 7, 1);
    for (uint64_t seed = 0; seed < 20000; seed++) {
        int32_t plain[TEXT], text[TEXT];
        write_text(&toy, OUTRIDER_ACCEPT_COUPLED, NO_BUG, seed, 0, plain, scratch);
        for (int32_t k = 1; k <= MAX_K; k++) {
            write_text(&toy, OUTRIDER_ACCEPT_COUPLED, NO_BUG, seed, k, text, scratch);
            assert_memory_equal(plain, text, sizeof plain);
            write_text(&other, OUTRIDER_ACCEPT_COUPLED, NO_BUG, seed, k, text, scratch);
            assert_memory_equal(plain, text, sizeof plain);
        }
    }
}

static void equal_counts(void **state) {
    (void)state;
    const int32_t proposed[] = {5, 6, 7}, all[] = {5, 6, 7, 8}, none[] = {4, 6, 7, 8}, some[] = {5, 6, 9, 8};
    struct accepted a = accept_equal(3, proposed, all), b = accept_equal(3, proposed, none),
                    c = accept_equal(3, proposed, some);
    assert_true(a.n == 3 && a.token == 8);
    assert_true(b.n == 0 && b.token == 4);
    assert_true(c.n == 2 && c.token == 9);
    assert_int_equal(accept_equal(0, NULL, all).token, 5);
}

/* u at the very end, a sum that rounding left short, and zero-probability tails. */
static void draw_stays_inside_the_support(void **state) {
    (void)state;
    int32_t ids[] = {3, 1, 2};
    float p[] = {0.5f, 0.4999999f, 0};
    struct distribution d = {3, ids, p};
    assert_int_equal(distribution_draw(&d, 0), 3);
    assert_int_equal(distribution_draw(&d, 0.4999), 3);
    assert_int_equal(distribution_draw(&d, 0.5), 1);
    assert_int_equal(distribution_draw(&d, 1 - 0x1p-53), 1);
}

/* A proposal of no probability is refused though nothing would be left of p - q: then p itself is drawn from.
 */
static void equal_distributions_leave_nothing(void **state) {
    (void)state;
    int32_t ids[] = {0, 1}, proposed[] = {2};
    float p[] = {0.5f, 0.5f}, scratch[VOCAB] = {0};
    const double u[] = {0.9}, last = 0.7;
    const struct distribution verifier[] = {{2, ids, p}, {2, ids, p}}, draft[] = {{2, ids, p}};
    struct accepted a = accept_rejection(1, proposed, draft, verifier, u, last, scratch);
    assert_true(a.n == 0 && a.token == 1);
    for (int i = 0; i < VOCAB; i++) assert_true(scratch[i] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rejection_keeps_distribution),  cmocka_unit_test(block_keeps_distribution),
        cmocka_unit_test(coupled_keeps_distribution),    cmocka_unit_test(planted_bugs_are_seen),
        cmocka_unit_test(block_never_keeps_fewer),       cmocka_unit_test(equal_draft_is_accepted),
        cmocka_unit_test(coupled_text_is_the_seeds),     cmocka_unit_test(equal_counts),
        cmocka_unit_test(draw_stays_inside_the_support), cmocka_unit_test(equal_distributions_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

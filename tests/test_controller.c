/* The controller against played machines and drafts: it finds the best K, gives up on a useless draft at
 * little cost, comes back when the draft becomes good, and never uses K beyond its limit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "runtime/controller.h"

struct machine {
    const char *name;
    double draft, verify[5]; /* us of 1, 2, 4, 8, 17 rows */
};
static const int32_t rows[5] = {1, 2, 4, 8, 17};
static const struct machine machines[] = {
    {"card, flat verify", 600, {3500, 3520, 3560, 3640, 3900}},
    {"card, small draft", 150, {3500, 3520, 3560, 3640, 3900}},
    {"two cores", 120, {1000, 1050, 1250, 1600, 2600}},
    {"no gain in rows", 120, {1000, 2000, 4000, 8000, 17000}},
    {"draft as slow as verifier", 1000, {1000, 1010, 1020, 1040, 1100}},
};

static uint64_t rng = 88172645463325252u;
static double uniform(void) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (double)(rng >> 11) * 0x1p-53;
}

/* Tokens a microsecond over `rounds` rounds with acceptance `a` at each place; K < 0: the controller's. */
static double play(const struct machine *m, struct controller *c, double a, int32_t k, int rounds) {
    struct costs costs = {0};
    costs_set(&costs, 5, rows, m->verify, m->draft);
    double tokens = 0, us = 0, gain;
    for (int i = 0; i < rounds; i++) {
        bool idle = k < 0 && c->idle > 0;
        int32_t use = k < 0 ? controller_choose(c, &costs, 1, 16, false, &gain) : k, accepted = 0;
        assert_in_range(use, 0, 16);
        while (accepted < use && uniform() < a) accepted++;
        if (k < 0) controller_observe(c, use, accepted);
        double catch_up = idle && use > 0 ? m->draft : 0; /* what it did not read while idle */
        tokens += accepted + 1;
        us += use * m->draft + costs_verify(&costs, use + 1) + catch_up;
    }
    return tokens / us;
}

static void near_the_best_fixed_k(void **state) {
    (void)state;
    static const double acceptances[] = {0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97};
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++)
        for (size_t i = 0; i < sizeof acceptances / sizeof *acceptances; i++) {
            double best = 0, plain = 0;
            for (int32_t k = 0; k <= 16; k++) {
                double rate = play(&machines[m], NULL, acceptances[i], k, 20000);
                if (k == 0) plain = rate;
                if (rate > best) best = rate;
            }
            struct controller c = {0};
            double rate = play(&machines[m], &c, acceptances[i], -1, 20000);
            if (rate < 0.95 * best || rate < 0.98 * plain)
                fail_msg("%s, acceptance %.2f: %.3f of the best, %.3f of plain", machines[m].name,
                         acceptances[i], rate / best, rate / plain);
        }
}

static void short_answers_lose_little(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++) {
        double worst = 0, tries = 200;
        for (int i = 0; i < (int)tries; i++) { /* a useless draft, from cold */
            struct controller c = {0};
            worst += play(&machines[m], &c, 0.02, -1, 256) / play(&machines[m], NULL, 0.02, 0, 256);
        }
        if (worst / tries < 0.95) fail_msg("%s: %.3f of plain", machines[m].name, worst / tries);
    }
}

static void comes_back(void **state) {
    (void)state;
    struct controller c = {0};
    play(&machines[1], &c, 0.02, -1, 3000);
    double again = play(&machines[1], &c, 0.9, -1, 3000), fixed = play(&machines[1], NULL, 0.9, 8, 3000);
    if (again < 0.8 * fixed) fail_msg("%.3f of K = 8", again / fixed);
}

static void censored_runs_say_nothing_more(void **state) {
    (void)state;
    struct controller c = {0};
    for (int i = 0; i < 100; i++) controller_observe(&c, 2, 2);
    assert_true(c.tested[2] == 0);
    for (int i = 0; i < 100; i++) controller_observe(&c, 4, 1);
    assert_true(c.tested[1] > 1 && c.tested[2] == 0);
    assert_true(controller_acceptance(&c, 0) > 0.9);
    assert_true(controller_acceptance(&c, 1) < 0.3);
}

static void costs_follow_real_rounds(void **state) {
    (void)state;
    struct costs c = {0};
    costs_set(&c, 5, rows, machines[2].verify, machines[2].draft);
    assert_true(fabs(costs_verify(&c, 3) - 1150) < 1e-9);
    assert_true(costs_verify(&c, 200) > costs_verify(&c, 64));
    /* All rounds slower: nothing to choose by. One K slower than thought: that K loses. */
    double three = costs_round(&c, 1, 3, false), five = costs_round(&c, 1, 5, false);
    for (int i = 0; i < 300; i++) costs_observe(&c, 1, 3 + i % 2 * 2, false, 1.7 * (i % 2 ? five : three));
    assert_true(fabs(costs_round(&c, 1, 3, false) / costs_round(&c, 1, 5, false) - three / five) <
                0.02 * three / five);
    for (int i = 0; i < 300; i++) costs_observe(&c, 1, 3 + i % 2 * 2, false, i % 2 ? 2 * five : three);
    assert_true(costs_round(&c, 1, 5, false) > 1.8 * costs_round(&c, 1, 3, false) * five / three);
    double before = costs_round(&c, 1, 3, false);
    costs_observe(&c, 1, 3, false, 1e9); /* one hiccup */
    assert_true(costs_round(&c, 1, 3, false) < 1.1 * before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_the_best_fixed_k), cmocka_unit_test(short_answers_lose_little),
        cmocka_unit_test(comes_back), cmocka_unit_test(censored_runs_say_nothing_more),
        cmocka_unit_test(costs_follow_real_rounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

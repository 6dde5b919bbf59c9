/* What kernels/ops.h promises of single operations at particular values, by every instruction set of this
 * machine: how values are stored and read, ties and NaN in argmax, the activation functions' whole range,
 * memory, and how a backend opens. test_ops.c has the operations over whole shapes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/helpers_machines.h"

static const struct shape small = {SHAPE("small", 64, 96, 4, 2, 16, 100, 16, DTYPE_BF16, DTYPE_F16)};

typedef void machine_fn(struct machine *m);

static void each_isa(machine_fn *check) {
    struct machines all = machines_open(&small);
    for (int i = 0; i < all.n; i++) check(&all.m[i]);
    machines_close(&all);
}

static void check_argmax(struct machine *m) {
    enum { VOCAB = 1000, CASES = 9 };
    uint64_t seed = 5;
    float *logits = random_floats(&seed, CASES * VOCAB, 0, 1);
    float(*row)[VOCAB] = (float(*)[VOCAB])logits;
    row[0][999] = 2;
    row[1][0] = 2, row[1][1] = 2;
    row[2][500] = row[2][501] = row[2][37] = row[2][998] = 3; /* a tie: the lowest */
    for (int i = 0; i < VOCAB; i++) row[3][i] = NAN, row[4][i] = i == 700 ? -1e30f : NAN;
    for (int i = 0; i < VOCAB; i++) row[5][i] = i == 0 ? NAN : -INFINITY; /* NaN is -infinity: a tie at 0 */
    row[6][3] = NAN, row[6][4] = INFINITY, row[6][990] = NAN;
    for (int i = 0; i < VOCAB; i++) row[7][i] = i < 300 ? NAN : -INFINITY;
    row[8][255] = NAN, row[8][256] = 4, row[8][257] = NAN;
    const int32_t want[CASES] = {999, 0, 37, 0, 700, 0, 4, 0, 256};
    int32_t got[CASES] = {-1, -1, -1, -1, -1, -1, -1, -1, -1};
    m->ops->argmax(m->be, logits, CASES, VOCAB, got);
    for (int i = 0; i < CASES; i++)
        if (got[i] != want[i]) fail_msg("%s: argmax of case %d is %d, not %d", m->isa, i, got[i], want[i]);
    for (int32_t vocab = 1; vocab < 70; vocab++) { /* every tail */
        int32_t best = 0, token = -1;
        for (int32_t i = 1; i < vocab; i++)
            if (logits[i] > logits[best]) best = i;
        m->ops->argmax(m->be, logits, 1, vocab, &token);
        assert_int_equal(token, best);
    }
    free(logits);
}

static void test_argmax(void **state) {
    (void)state;
    each_isa(check_argmax);
}

/* Values through a diagonal matrix into an f16 cache: rounded to nearest even, saturated, NaN kept. */
static void check_f16_store(struct machine *m) {
    static const double samples[] = {
        0,           -0.0,      1,          -1.5,        65504,         65519.9,   65520,
        1e9,         -1e30,     -INFINITY,  INFINITY,    NAN,           6.1e-5,    0x1p-14,
        0x1.ffcp-15, 0x1p-24,   0x1.8p-25,  0x1p-25,     0x1.002p0,     0x1.006p0, 0x1.0021p0,
        -0x1.006p0,  0x1.ffep0, 0x1.fffp15, 0x1.5557p-3, 0x1.00000ap-7, 3.14159274};
    enum { N = sizeof samples / sizeof *samples, DIM = 2 * ((N + 1) / 2), PAGE = 16 };
    float x[1] = {1}, norm[1] = {1}, rope[DIM] = {0}, w[DIM] = {0}, q[DIM];
    uint16_t k[PAGE * DIM], v[PAGE * DIM];
    for (int i = 0; i < N; i++) w[i] = (float)samples[i];
    int32_t zero = 0;
    struct matrix weights = {w, DTYPE_F32, DIM, 1};
    struct attention_block b = {norm, 0, weights, weights, weights, rope, 1, 1, DIM, .scale = 1};
    struct rows rows = {1, &zero, &zero, &zero, &zero, 1, 0, false, NULL};
    struct kv_layer kv = {k, v, DTYPE_F16, DTYPE_F16, PAGE};
    m->ops->qkv(m->be, &rows, &b, x, q, &kv);
    for (int i = 0; i < N; i++) {
        double got = f16_value(v[i]), want = isnan(w[i]) ? NAN : to_f16(w[i]);
        if (!(isnan(want) ? isnan(got) : got == want))
            fail_msg("%s: %g is stored as %g", m->isa, samples[i], got);
    }
}

/* The rule of the 8-bit cache: what a scale and integers are made of, one group after another, and that one
 * vector's bits are its own. Odd values go through a diagonal matrix; halves of 20 leave a short group. */
static void check_q8_store(struct machine *m) {
    enum { DIM = 40, HALF = DIM / 2, PAGE = 16, TOKENS = 3 };
    static const float cases[TOKENS][DIM] = {
        {1, -127, 126.4f, 0.5f, 1.5f, 2.5f, -0.5f, [HALF] = -3.49f,
         [HALF + 1] = 127, [16] = 4e-9f, [37] = -3e-9f},
        {INFINITY, 1, -1e30f, [16] = NAN, [17] = 5},
        {[3] = 1e6f, [HALF + 2] = -4100, [HALF + 18] = 1e-3f},
    };
    static const int8_t want[TOKENS][DIM] = {
        {1, -127, 126, 0, 2, 2, 0, [HALF] = -3, [HALF + 1] = 127},
        {127, 0, -127},
        {[3] = 127, [HALF + 2] = -8, [HALF + 18] = 127},
    };
    static const double scales[TOKENS][2] = {{1, 0}, {512, NAN}, {512, 7.8678131e-06}};
    float norm[1] = {1}, rope[TOKENS * DIM], q[DIM];
    char k[PAGE * (DIM + 4)], v[sizeof k];
    for (int i = 0; i < TOKENS * HALF; i++) rope[2 * i] = 1, rope[2 * i + 1] = 0;
    memset(k, 0x55, sizeof k), memset(v, 0x55, sizeof v);
    for (int32_t t = 0; t < TOKENS; t++) {
        float x[1] = {1};
        int32_t zero = 0;
        struct matrix w = {cases[t], DTYPE_F32, DIM, 1};
        struct attention_block b = {norm, 0, w, w, w, rope, 1, 1, DIM, .scale = 1};
        struct rows rows = {1, &zero, &t, &zero, &zero, 1, t, false, NULL};
        struct kv_layer kv = {k, v, DTYPE_Q8_0, DTYPE_Q8_0, PAGE};
        m->ops->qkv(m->be, &rows, &b, x, q, &kv);
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int d = 0; d < DIM; d++)
            if (v[t * DIM + d] != want[t][d])
                fail_msg("%s: %g is stored as %d, not %d", m->isa, cases[t][d], v[t * DIM + d], want[t][d]);
        for (int g = 0; g < 2; g++) {
            uint16_t bits;
            memcpy(&bits, v + PAGE * DIM + (t * 2 + g) * 2, 2);
            const double got = f16_value(bits), is = scales[t][g];
            if (!(isnan(is) ? isnan(got) : fabs(got - is) <= is * 0x1p-11 + 0x1p-25))
                fail_msg("%s: scale %d of vector %d is %g, not %g", m->isa, g, t, got, is);
        }
    }
    for (int i = TOKENS * DIM; i < PAGE * DIM; i++) assert_int_equal(v[i], 0x55);
}

static void test_q8_store(void **state) {
    (void)state;
    each_isa(check_q8_store);
}

static void test_f16_store(void **state) {
    (void)state;
    each_isa(check_f16_store);
}

/* Every f16 read as a weight must be its exact value; every bf16 too. */
static void check_widening(struct machine *m) {
    static uint16_t all[65536];
    static float x[65536];
    static int32_t token[4096], zero[4096];
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    for (int i = 0; i < 4096; i++) token[i] = i;
    struct rows rows = {4096, token, zero, zero, zero, 1, 0, false, NULL};
    for (int type = DTYPE_F16; type <= DTYPE_BF16; type++) {
        struct matrix table = {all, (enum dtype)type, 4096, 16};
        m->ops->embed(m->be, &rows, &table, 1, x);
        for (int i = 0; i < 65536; i++) {
            double want = get(table.dtype, all, (size_t)i);
            if (!(isnan(want) ? isnan(x[i]) : x[i] == want))
                fail_msg("%s: %04x reads as %g, not %g", m->isa, i, x[i], want);
        }
    }
}

static void test_widening(void **state) {
    (void)state;
    each_isa(check_widening);
}

/* silu and gelu over the whole range of exp. */
static void check_silu(struct machine *m) {
    enum { N = 4000 };
    static float gate[N], up[N], hidden[N], gelus[N];
    float x[1] = {1}, norm[1] = {1};
    int32_t zero = 0;
    for (int i = 0; i < N; i++) gate[i] = (float)(i - N / 2) * 0.043f, up[i] = 1;
    struct mlp_block b = {.norm = norm, .gate = {gate, DTYPE_F32, N, 1}, .up = {up, DTYPE_F32, N, 1}};
    struct rows rows = {1, &zero, &zero, &zero, &zero, 1, 0, false, NULL};
    m->ops->gate_up(m->be, &rows, &b, x, hidden);
    b.gelu = true;
    m->ops->gate_up(m->be, &rows, &b, x, gelus);
    for (int i = 0; i < N; i++) {
        double want = gelu(gate[i]), slack = gate[i] < 0 ? 3e-7 * fabs(gate[i]) : 3e-7 * want;
        if (!(fabs(gelus[i] - want) <= slack + 1e-36))
            fail_msg("%s: gelu(%g) is %g, not %g", m->isa, gate[i], gelus[i], want);
        want = silu(gate[i]);
        if (!(fabs(hidden[i] - want) <= 3e-7 * fabs(want) + 1e-36))
            fail_msg("%s: silu(%g) is %g, not %g", m->isa, gate[i], hidden[i], want);
    }
}

static void test_silu(void **state) {
    (void)state;
    each_isa(check_silu);
}

static void test_open(void **state) {
    (void)state;
    const struct ops *ops = NULL;
    struct backend *be = NULL;
    char line[64];
    assert_int_equal(cpu_open("abacus", 1, &ops, &be), OUTRIDER_EINVAL);
    assert_non_null(strstr(outrider_error(), "abacus"));
    assert_non_null(strstr(outrider_error(), "portable"));
    assert_int_equal(cpu_open("", -1, &ops, &be), OUTRIDER_EINVAL);
    assert_int_equal(cpu_open("", 100000, &ops, &be), OUTRIDER_EINVAL);
    assert_int_equal(cpu_open("portable", 3, &ops, &be), OUTRIDER_OK);
    ops->describe(be, line, sizeof line);
    assert_string_equal(line, "cpu, portable, 3 threads");
    ops->close(be);
    ops->close(NULL);
}

static void check_memory(struct machine *m) {
    void *p;
    const void *host = &small;
    struct matrix weight;
    char back[5];
    assert_int_equal(m->ops->alloc(m->be, 1000, &p), OUTRIDER_OK);
    assert_int_equal((uintptr_t)p % 64, 0);
    m->ops->upload(m->be, p, "abcde", 5);
    m->ops->copy(m->be, (char *)p + 2, p, 5); /* moves: the ranges may meet */
    assert_int_equal(m->ops->download(m->be, back, p, 5), OUTRIDER_OK);
    assert_memory_equal(back, "ababc", 5);
    m->ops->release(m->be, p);
    m->ops->release(m->be, NULL);
    assert_int_equal(m->ops->alloc(m->be, 0, &p), OUTRIDER_OK);
    m->ops->release(m->be, p);
    assert_int_equal(m->ops->alloc(m->be, SIZE_MAX - 3, &p), OUTRIDER_ENOMEM);
    assert_int_equal(m->ops->weight(m->be, host, DTYPE_F16, 3, 5, &weight), OUTRIDER_OK);
    assert_ptr_equal(weight.data, host);
    assert_true(weight.dtype == DTYPE_F16 && weight.n == 3 && weight.k == 5);
    m->ops->weight_release(m->be, &weight);
    assert_false(m->ops->replay(m->be, 1));
    assert_int_equal(m->ops->sync(m->be), OUTRIDER_OK);
    double rate = -1;
    assert_int_equal(m->ops->read_bandwidth(m->be, 3000000, &rate), OUTRIDER_OK);
    if (!(rate > 0.1 && rate < 1e5)) fail_msg("%s: read_bandwidth is %g GB/s", m->isa, rate);
}

static void test_memory(void **state) {
    (void)state;
    each_isa(check_memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),      cmocka_unit_test(test_memory),   cmocka_unit_test(test_widening),
        cmocka_unit_test(test_f16_store), cmocka_unit_test(test_q8_store), cmocka_unit_test(test_silu),
        cmocka_unit_test(test_argmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

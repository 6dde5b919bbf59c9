/* Element types against the reference: recorded blocks and values of the `gguf` package
 * (tests/golden/quants.txt, made by tools/golden_quants.py) and of PyTorch (fp8.txt, golden_fp8.py), bit for
 * bit. The K types, which it does not
 * encode, by the error that is left.
 */
#include "tests/helpers_weights.h"

#include <ctype.h>
#include <math.h>

#include "weights/floats.h"
#include "weights/quants.h"

static const char *const records[] = {"tests/golden/quants.txt", "tests/golden/fp8.txt"};

static int clear(void **state) {
    (void)state;
    return 0;
}

static enum dtype dtype_by_name(const char *name) {
    for (int t = 0; t < DTYPES; t++)
        if (strcmp(dtype_name((enum dtype)t), name) == 0) return (enum dtype)t;
    fail_msg("no type %s", name);
    return DTYPES;
}

static size_t unhex(const char *text, unsigned char *out) {
    size_t n = 0;
    for (unsigned byte; sscanf(text + 2 * n, "%2x", &byte) == 1; n++) out[n] = (unsigned char)byte;
    return n;
}

static void check_record(const char *what, enum dtype t, const unsigned char *blocks, size_t bytes,
                         const float *values, size_t n) {
    unsigned char encoded[4096];
    float decoded[4096];
    assert_true(n % dtype_block(t) == 0 && dtype_row_bytes(t, n) == bytes && n <= 4096);
    if (strcmp(what, "decode") == 0) {
        quants_to_f32(t, blocks, n, decoded);
        for (size_t i = 0; i < n; i++)
            if (f32_bits(decoded[i]) != f32_bits(values[i]))
                fail_msg("%s element %zu: %a, not %a", dtype_name(t), i, decoded[i], values[i]);
        return;
    }
    quants_from_f32(t, values, n, encoded);
    for (size_t i = 0; i < bytes; i++)
        if (encoded[i] != blocks[i])
            fail_msg("%s byte %zu of %zu values: %02x, not %02x", dtype_name(t), i, n, encoded[i], blocks[i]);
}

static void read_records(const char *path, int decoded[DTYPES], int encoded[DTYPES]) {
    static char line[1 << 16];
    static unsigned char blocks[1 << 14];
    static float values[1 << 12];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        char *rest, *what = strtok_r(line, " ", &rest), *type = strtok_r(NULL, " ", &rest);
        char *left = strtok_r(NULL, " ", &rest), *right = strtok_r(NULL, " \n", &rest);
        assert_non_null(right);
        enum dtype t = dtype_by_name(type);
        size_t bytes = unhex(left, blocks), n = unhex(right, (unsigned char *)values) / sizeof *values;
        check_record(what, t, blocks, bytes, values, n);
        ++*(strcmp(what, "decode") == 0 ? &decoded[t] : &encoded[t]);
    }
    fclose(file);
}

static void equals_reference(void **state) {
    (void)state;
    int decoded[DTYPES] = {0}, encoded[DTYPES] = {0};
    for (size_t i = 0; i < sizeof records / sizeof *records; i++) read_records(records[i], decoded, encoded);
    for (int t = DTYPE_F16; t < DTYPES; t++) {
        const bool ours = t == DTYPE_Q4_0 || t == DTYPE_F8 || (t >= DTYPE_Q4_K && t <= DTYPE_Q6_K);
        assert_true(decoded[t] > 0);
        assert_true(encoded[t] > 0 || ours);
    }
}

/* The group's greatest becomes 448, and each element the nearest of what e4m3 can say. */
static void floats_of_8_bits_lose_half_a_step(void **state) {
    (void)state;
    float x[128], back[128], most = 0, scale;
    unsigned char block[132];
    uint32_t random = 1;
    for (int trial = 0; trial < 200; trial++) {
        for (int i = 0; i < 128; i++) {
            random = random * 1664525 + 1013904223;
            x[i] = (float)((int32_t)random) * 0x1p-31f * (i % 3 ? 1 : 0.01f);
            most = i && most > fabsf(x[i]) ? most : fabsf(x[i]);
        }
        quants_from_f32(DTYPE_F8, x, 128, block);
        quants_to_f32(DTYPE_F8, block, 128, back);
        memcpy(&scale, block, sizeof scale);
        assert_true(scale == most / 448);
        for (int i = 0; i < 128; i++)
            for (int code = 0; code < 256; code++)
                if ((code & 0x7f) != 0x7f)
                    assert_true(fabsf(back[i] - x[i]) <=
                                fabsf(scale * e4m3_to_f32((uint8_t)code) - x[i]) + most * 1e-7f);
    }
}

static void halves_round_trip(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(f16_to_f32(f16_from_f32(f))));
        else
            assert_int_equal(f16_from_f32(f), h);
        if (isnan(b))
            assert_true(isnan(bf16_to_f32(bf16_from_f32(b))));
        else
            assert_int_equal(bf16_from_f32(b), h);
    }
}

/* Half way between two neighbours it is the even one, a little off it the nearer. */
static void halves_round_to_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float a = f16_to_f32((uint16_t)h), b = f16_to_f32((uint16_t)(h + 1)), middle = (a + b) / 2;
        assert_int_equal(f16_from_f32(middle), h % 2 ? h + 1 : h);
        assert_int_equal(f16_from_f32(nextafterf(middle, 0)), h);
        assert_int_equal(f16_from_f32(-nextafterf(middle, INFINITY)), 0x8000 | (h + 1));
    }
    assert_int_equal(f16_from_f32(65519.99f), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_int_equal(f16_from_f32(-INFINITY), 0xfc00);
}

static float uniform(uint32_t *seed) {
    return (float)next_random(seed) * 0x1p-32f;
}

/* Root of the mean squared error over that of the values. */
static double error_left(enum dtype t, const float *x, size_t n) {
    static unsigned char blocks[1 << 14];
    static float back[4096];
    double lost = 0, all = 0;
    quants_from_f32(t, x, n, blocks);
    quants_to_f32(t, blocks, n, back);
    for (size_t i = 0; i < n; i++) {
        lost += ((double)x[i] - back[i]) * ((double)x[i] - back[i]);
        all += (double)x[i] * x[i];
    }
    return sqrt(lost / all);
}

/* For values as weights have them the searched scales must leave less error than the plain ones of their
 * size. */
static void k_types_lose_little(void **state) {
    (void)state;
    static float x[4096];
    uint32_t seed = 7;
    for (size_t i = 0; i < 4096; i++) { /* nearly normal: the sum of 4 uniform ones */
        float sum = 0;
        for (int j = 0; j < 4; j++) sum += uniform(&seed) - 0.5f;
        x[i] = sum * 0.03f;
    }
    double q4_0 = error_left(DTYPE_Q4_0, x, 4096), q5_0 = error_left(DTYPE_Q5_0, x, 4096);
    double q4_k = error_left(DTYPE_Q4_K, x, 4096), q5_k = error_left(DTYPE_Q5_K, x, 4096);
    double q6_k = error_left(DTYPE_Q6_K, x, 4096), q8_0 = error_left(DTYPE_Q8_0, x, 4096);
    if (!(q4_k < 0.95 * q4_0 && q4_0 < 0.081 && q5_k < 0.9 * q5_0 && q6_k < 0.6 * q5_k && q8_0 < 0.5 * q6_k))
        fail_msg("q4_0 %g q4_k %g q5_0 %g q5_k %g q6_k %g q8_0 %g", q4_0, q4_k, q5_0, q5_k, q6_k, q8_0);
    if (getenv("VERBOSE"))
        printf("q4_0 %g q4_k %g q5_0 %g q5_k %g q6_k %g q8_0 %g\n", q4_0, q4_k, q5_0, q5_k, q6_k, q8_0);
}

/* All zero, all equal, one huge, tiny, not finite: never a fault, and zeros stay zeros. */
static void odd_values(void **state) {
    (void)state;
    static float x[256], back[256];
    static unsigned char blocks[1024];
    const float odd[] = {0, 1, -1, 65504, 1e-30f, -1e-8f, INFINITY, -INFINITY, NAN};
    for (int t = 0; t < DTYPE_E4M3; t++) /* which alone has no scale */
        for (size_t o = 0; o < sizeof odd / sizeof *odd; o++)
            for (int many = 0; many < 2; many++) {
                for (int i = 0; i < 256; i++) x[i] = many || i == 77 ? odd[o] : 0;
                quants_from_f32((enum dtype)t, x, 256, blocks);
                quants_to_f32((enum dtype)t, blocks, 256, back);
                if (!isfinite(odd[o])) assert_false(isfinite(back[77]));
                for (int i = 0; i < 256 && isfinite(odd[o]); i++)
                    if (!(fabsf(back[i] - x[i]) <= fabsf(odd[o]) * 0.07f + 1e-6f))
                        fail_msg("%s: %g came back as %g", dtype_name((enum dtype)t), x[i], back[i]);
            }
}

/* Of each matrix the smaller of what the file has and what is asked, the head in q8 at least, rows of whole
 * blocks alone; fp8 where the backend knows it. */
static void types_are_chosen(void **state) {
    (void)state;
    static const struct {
        enum quant asked;
        enum dtype file, want;
        int64_t k;
        bool head, f8;
    } rows[] = {{QUANT_NONE, DTYPE_BF16, DTYPE_BF16, 64, false, false},
                {QUANT_NONE, DTYPE_Q5_0, DTYPE_BF16, 64, false, false},
                {QUANT_Q8, DTYPE_BF16, DTYPE_Q8_0, 64, false, false},
                {QUANT_Q4, DTYPE_BF16, DTYPE_Q4_0, 64, false, false},
                {QUANT_Q4, DTYPE_BF16, DTYPE_Q8_0, 64, true, false},
                {QUANT_Q8, DTYPE_Q4_0, DTYPE_Q4_0, 64, false, false},
                {QUANT_Q8, DTYPE_BF16, DTYPE_BF16, 40, false, false},
                {QUANT_Q4, DTYPE_Q4_0, DTYPE_Q4_0, 64, true, false},
                {QUANT_NONE, DTYPE_E4M3, DTYPE_BF16, 256, false, false},
                {QUANT_NONE, DTYPE_E4M3, DTYPE_F8, 256, false, true},
                {QUANT_NONE, DTYPE_E4M3, DTYPE_BF16, 32, false, true},
                {QUANT_F8, DTYPE_BF16, DTYPE_F8, 256, false, true},
                {QUANT_F8, DTYPE_BF16, DTYPE_BF16, 32, false, true},
                {QUANT_F8, DTYPE_BF16, DTYPE_Q8_0, 256, true, true}};
    enum quant q;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        enum dtype got = quant_choose(rows[i].asked, rows[i].file, rows[i].k, rows[i].head, rows[i].f8);
        if (got != rows[i].want)
            fail_msg("row %zu: %s, not %s", i, dtype_name(got), dtype_name(rows[i].want));
    }
    assert_true(quant_by_name(NULL, &q) == OUTRIDER_OK && q == QUANT_NONE);
    assert_true(quant_by_name("q4", &q) == OUTRIDER_OK && q == QUANT_Q4);
    assert_int_equal(quant_by_name("q5", &q), OUTRIDER_EINVAL);
    assert_non_null(strstr(outrider_error(), "quantisation q5: there are none, "));
}

int main(void) {
    static struct test_list tests;
    ADD(&tests, equals_reference);
    ADD(&tests, halves_round_trip);
    ADD(&tests, halves_round_to_even);
    ADD(&tests, k_types_lose_little);
    ADD(&tests, floats_of_8_bits_lose_half_a_step);
    ADD(&tests, odd_values);
    ADD(&tests, types_are_chosen);
    return test_run(&tests, "quants");
}

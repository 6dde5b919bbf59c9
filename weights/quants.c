/* See quants.h. Nothing here depends on the machine: a model quantised twice has the same bits. */
#include "weights/quants.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/status.h"

enum { GROUP = 32 };

/* ---- which ---- */

outrider_status quant_by_name(const char *name, enum quant *out) {
    static const char *const names[] = {"none", "q8", "q4"};
    for (int i = 0; i < 3; i++)
        if (!name || strcmp(name, names[i]) == 0) return *out = (enum quant)i, OUTRIDER_OK;
    return fail(OUTRIDER_EINVAL, "quantisation %s: there are none, q8 and q4", name);
}

static double bytes_per_element(enum dtype t) {
    return (double)dtype_bytes(t) / (double)dtype_block(t);
}

enum dtype quant_choose(enum quant asked, enum dtype file, int64_t k, bool head) {
    if (asked == QUANT_NONE || k % GROUP) return file;
    const enum dtype want = asked == QUANT_Q4 && !head ? DTYPE_Q4_0 : DTYPE_Q8_0;
    return bytes_per_element(want) < bytes_per_element(file) ? want : file;
}

/* ---- f16 and bf16 ---- */

static float f16_to_f32(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const float f = exponent == 31  ? (mantissa ? NAN : INFINITY)
                    : exponent == 0 ? ldexpf((float)mantissa, -24)
                                    : ldexpf((float)(mantissa + 1024), exponent - 25);
    return h & 0x8000 ? -f : f;
}

/* To nearest even; too large becomes infinite. Adding a power of two whose last bit has the weight of the
 * result's lets the addition do the rounding. */
static uint16_t f16_from_f32(float x) {
    uint32_t bits, sum_bits;
    memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 16 & 0x8000, exponent = bits >> 23 & 255;
    if (x != x) return (uint16_t)(sign | 0x7e00);
    if (fabsf(x) >= 65520) return (uint16_t)(sign | 0x7c00);
    const uint32_t from = exponent > 113 ? exponent : 113, anchor_bits = (from + 13) << 23;
    float anchor;
    memcpy(&anchor, &anchor_bits, 4);
    const float sum = fabsf(x) + anchor;
    memcpy(&sum_bits, &sum, 4);
    return (uint16_t)(sign | (((from - 113) << 10) + (sum_bits - anchor_bits)));
}

static float bf16_to_f32(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint16_t bf16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- blocks: f16 scale, then the integers ---- */

/* NaN when an element is none or infinite, else 0: such a group must stay visible, not become a number. */
static float not_finite(const float *x) {
    float sum = 0;
    for (int i = 0; i < GROUP; i++) sum += x[i] * 0;
    return sum;
}

/* For NaN the least. */
static float between(float least, float x, float most) {
    const float low = x > least ? x : least;
    return low < most ? low : most;
}

static void q8_0_from_f32(const float *x, uint8_t *block) {
    float most = 0;
    for (int i = 0; i < GROUP; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    const float scale = most / 127, inverse = scale ? 1 / scale : 0;
    const uint16_t half = f16_from_f32(scale + not_finite(x));
    memcpy(block, &half, 2);
    for (int i = 0; i < GROUP; i++)
        block[2 + i] = (uint8_t)(int8_t)roundf(between(-127, x[i] * inverse, 127));
}

static void q8_0_to_f32(const uint8_t *block, float *x) {
    uint16_t half;
    memcpy(&half, block, 2);
    const float scale = f16_to_f32(half);
    for (int i = 0; i < GROUP; i++) x[i] = (float)(int8_t)block[2 + i] * scale;
}

/* x / scale to the nearest of -8..7, as floats: adding 1.5 * 2^23 leaves an integer. */
static void q4_round(const float *x, float inverse, float *q) {
    for (int i = 0; i < GROUP; i++) q[i] = (between(-8, x[i] * inverse, 7) + 0x1.8p23f) - 0x1.8p23f;
}

/* The scale with the least squared error among some that place the largest element at 8, or 7, and inward of
 * that; each is fitted once more to the integers it gave: sum xq / sum qq. */
static float q4_scale(const float *x) {
    float largest = 0, best = 0, gain = 0;
    for (int i = 0; i < GROUP; i++)
        if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
    for (int step = 0; step <= 18; step++) {
        float q[GROUP], xq = 0, qq = 0;
        q4_round(x, largest ? -(6.2f + 0.15f * (float)step) / largest : 0, q);
        for (int i = 0; i < GROUP; i++) xq += x[i] * q[i], qq += q[i] * q[i];
        if (qq > 0 && xq * xq > gain * qq) gain = xq * xq / qq, best = xq / qq;
    }
    return best;
}

static void q4_0_from_f32(const float *x, uint8_t *block) {
    const uint16_t half = f16_from_f32(q4_scale(x) + not_finite(x));
    const float scale = f16_to_f32(half);
    float q[GROUP];
    memcpy(block, &half, 2);
    q4_round(x, scale ? 1 / scale : 0, q);
    for (int i = 0; i < GROUP / 2; i++)
        block[2 + i] = (uint8_t)((int)q[i] + 8) | (uint8_t)(((int)q[i + GROUP / 2] + 8) << 4);
}

static void q4_0_to_f32(const uint8_t *block, float *x) {
    uint16_t half;
    memcpy(&half, block, 2);
    const float scale = f16_to_f32(half);
    for (int i = 0; i < GROUP / 2; i++) {
        x[i] = (float)((block[2 + i] & 15) - 8) * scale;
        x[i + GROUP / 2] = (float)((block[2 + i] >> 4) - 8) * scale;
    }
}

/* ---- rows ---- */

void quants_to_f32(enum dtype type, const void *row, size_t k, float *out) {
    const uint8_t *from = row;
    uint16_t half;
    for (size_t i = 0; i < k; i += dtype_block(type), from += dtype_bytes(type), out += dtype_block(type)) {
        memcpy(&half, from, 2);
        switch (type) {
        case DTYPE_F32:
            memcpy(out, from, 4);
            break;
        case DTYPE_F16:
            *out = f16_to_f32(half);
            break;
        case DTYPE_BF16:
            *out = bf16_to_f32(half);
            break;
        case DTYPE_Q8_0:
            q8_0_to_f32(from, out);
            break;
        case DTYPE_Q4_0:
            q4_0_to_f32(from, out);
            break;
        }
    }
}

void quants_from_f32(enum dtype type, const float *x, size_t k, void *row) {
    uint8_t *to = row;
    uint16_t half;
    for (size_t i = 0; i < k; i += dtype_block(type), to += dtype_bytes(type), x += dtype_block(type)) {
        switch (type) {
        case DTYPE_F32:
            memcpy(to, x, 4);
            break;
        case DTYPE_F16:
            half = f16_from_f32(*x);
            memcpy(to, &half, 2);
            break;
        case DTYPE_BF16:
            half = bf16_from_f32(*x);
            memcpy(to, &half, 2);
            break;
        case DTYPE_Q8_0:
            q8_0_from_f32(x, to);
            break;
        case DTYPE_Q4_0:
            q4_0_from_f32(x, to);
            break;
        }
    }
}

/* ---- matrices ---- */

enum { THREADS_MAX = 16 };

struct part {
    enum dtype from_type, to_type;
    const char *from;
    char *to;
    size_t n, k;
    float *row; /* [k] */
};

static void *convert_part(void *job) {
    const struct part *p = job;
    for (size_t i = 0; i < p->n; i++) {
        quants_to_f32(p->from_type, p->from + i * dtype_row_bytes(p->from_type, p->k), p->k, p->row);
        quants_from_f32(p->to_type, p->row, p->k, p->to + i * dtype_row_bytes(p->to_type, p->k));
    }
    return NULL;
}

/* A thread that does not start leaves its part to the caller. */
outrider_status quants_convert(enum dtype from_type, const void *from, enum dtype to_type, void *to, size_t n,
                               size_t k) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const size_t parts = cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : (size_t)cores;
    struct part part[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    bool started[THREADS_MAX];
    float *rows = malloc(parts * k * sizeof *rows);
    if (!rows) return fail_memory("a row", parts * k * sizeof *rows);
    for (size_t i = 0, first = 0; i < parts; i++) {
        const size_t last = n * (i + 1) / parts;
        part[i] = (struct part){from_type,
                                to_type,
                                (const char *)from + first * dtype_row_bytes(from_type, k),
                                (char *)to + first * dtype_row_bytes(to_type, k),
                                last - first,
                                k,
                                rows + i * k};
        first = last;
        started[i] = i > 0 && pthread_create(&thread[i], NULL, convert_part, &part[i]) == 0;
    }
    for (size_t i = 0; i < parts; i++)
        if (!started[i]) convert_part(&part[i]);
    for (size_t i = 0; i < parts; i++)
        if (started[i]) pthread_join(thread[i], NULL);
    free(rows);
    return OUTRIDER_OK;
}

/* Elements of every type to f32 and back; see quants.h.
 *
 * The layouts are GGUF's, which are those of ggml (https://github.com/ggml-org/ggml, ggml-common.h). d and m
 * are f16, q the elements as unsigned integers, low bits first; "halves" means that byte j of a group of 16
 * bytes holds elements j and j + 16:
 *
 *   Q8_0  d, q[32] signed                                 d * q
 *   Q4_0  d, 16 bytes of halves                           d * (q - 8)
 *   Q4_1  d, m, 16 bytes of halves                        d * q + m
 *   Q5_0  d, 32 fifth bits, 16 bytes of halves            d * (q - 16)
 *   Q5_1  d, m, 32 fifth bits, 16 bytes of halves         d * q + m
 *   Q4_K  d, m, 12 bytes of 8 scales s and 8 minima t of 6 bits, 128 bytes      (d * s) * q - (m * t)
 *   Q5_K  the same with 32 bytes of fifth bits before the 128                   (d * s) * q - (m * t)
 *   F8    a scale s in f32, 128 e4m3 q (not GGUF's, but our own)        s * q
 *   Q6_K  128 bytes of low, 64 of high bits, 16 signed scales s of 8 bits, d    (d * s) * (q - 32)
 *
 * Invariant: the order of operations above is the reference's, and nothing is contracted; so are the bits. */
#include "weights/quants.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "weights/floats.h"

enum { SMALL = 32, SUPER = 256, F8_GROUP = 128 };

/* ---- decoding ---- */

static void decode_q8_0(const uint8_t *b, float *out) {
    float d = f16_load(b);
    for (int i = 0; i < SMALL; i++) out[i] = (float)(int8_t)b[2 + i] * d;
}

/* Q4 and Q5, with a minimum or centred on zero: they differ in where things stand. */
static void decode_small(const uint8_t *b, bool has_min, bool five, float *out) {
    float d = f16_load(b), m = has_min ? f16_load(b + 2) : 0;
    const uint8_t *q = b + (has_min ? 4 : 2);
    uint32_t high = 0;
    if (five) {
        memcpy(&high, q, sizeof high);
        q += 4;
    }
    int centre = has_min ? 0 : five ? 16 : 8;
    for (int i = 0; i < SMALL; i++) {
        int low = i < 16 ? q[i] & 15 : q[i - 16] >> 4;
        float value = d * (float)((low | (int)(high >> i & 1) << 4) - centre);
        out[i] = has_min ? value + m : value;
    }
}

/* Scale and minimum of group g of 8: 6 bits each, the upper four's high bits in the lower four's bytes. */
static void unpack_scale(const uint8_t *packed, int g, int *scale, int *min) {
    if (g < 4) {
        *scale = packed[g] & 63;
        *min = packed[g + 4] & 63;
    } else {
        *scale = (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
        *min = packed[g + 4] >> 4 | packed[g] >> 6 << 4;
    }
}

/* Groups of 32: byte i of 32 holds element i of group 2p (low) and 2p + 1 (high); bit g of fifth[i] is group
 * g's. */
static void decode_k45(const uint8_t *b, bool five, float *out) {
    float d = f16_load(b), m = f16_load(b + 2);
    const uint8_t *fifth = b + 16, *q = fifth + (five ? 32 : 0);
    for (int g = 0; g < 8; g++) {
        int scale, min;
        unpack_scale(b + 4, g, &scale, &min);
        float s = d * (float)scale, t = m * (float)min;
        for (int i = 0; i < SMALL; i++) {
            int low = q[g / 2 * 32 + i] >> 4 * (g % 2) & 15, high = five ? fifth[i] >> g & 1 : 0;
            out[g * SMALL + i] = s * (float)(low | high << 4) - t;
        }
    }
}

/* Two halves of 128, each four quarters of 32: low bits of quarters 0, 1 (low nibbles) and 2, 3 (high) in 64
 * bytes, high bits of quarter r at 2r in 32. A scale for 16 elements. */
static void decode_q6_k(const uint8_t *b, float *out) {
    const int8_t *scales = (const int8_t *)b + 192;
    float d = f16_load(b + 208);
    for (int e = 0; e < SUPER; e++) {
        int half = e / 128, quarter = e / 32 % 4, i = e % 32;
        int low = b[half * 64 + quarter % 2 * 32 + i] >> quarter / 2 * 4 & 15;
        int high = b[128 + half * 32 + i] >> 2 * quarter & 3;
        out[e] = d * (float)scales[e / 16] * (float)((low | high << 4) - 32);
    }
}

static void decode_f8(const uint8_t *b, float *out) {
    float scale;
    memcpy(&scale, b, sizeof scale);
    for (int i = 0; i < F8_GROUP; i++) out[i] = scale * e4m3_to_f32(b[4 + i]);
}

static void decode_block(enum dtype t, const uint8_t *b, float *out) {
    switch (t) {
    case DTYPE_F32:
        memcpy(out, b, sizeof *out);
        break;
    case DTYPE_F16:
        *out = f16_load(b);
        break;
    case DTYPE_BF16:
        *out = bf16_to_f32((uint16_t)(b[0] | b[1] << 8));
        break;
    case DTYPE_Q8_0:
        decode_q8_0(b, out);
        break;
    case DTYPE_Q4_0:
    case DTYPE_Q4_1:
        decode_small(b, t == DTYPE_Q4_1, false, out);
        break;
    case DTYPE_F8:
        decode_f8(b, out);
        break;
    case DTYPE_E4M3:
        *out = e4m3_to_f32(*b);
        break;
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
        decode_small(b, t == DTYPE_Q5_1, true, out);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        decode_k45(b, t == DTYPE_Q5_K, out);
        break;
    case DTYPE_Q6_K:
    case DTYPES:
        decode_q6_k(b, out);
        break;
    }
}

void quants_to_f32(enum dtype type, const void *row, size_t k, float *out) {
    const uint8_t *b = row;
    size_t block = dtype_block(type), bytes = dtype_bytes(type);
    for (size_t i = 0; i < k; i += block, b += bytes) decode_block(type, b, out + i);
}

/* ---- encoding: groups of 32 ---- */

/* Towards zero, within [0, max]; NaN to 0. */
static uint8_t truncated(float x, int max) {
    return (uint8_t)(x >= (float)max ? max : x > 0 ? (int)x : 0);
}

/* The scale, or NaN when an element is none or infinite: such a group must stay visible, not become a number.
 */
static float visible(float scale, const float *x, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * 0;
    return sum == 0 ? scale : NAN;
}

/* For NaN the least. */
static float between(float least, float x, float most) {
    const float low = x > least ? x : least;
    return low < most ? low : most;
}

/* The greatest element becomes 448. Scales of less than the least normal would lose bits of their own. */
static void encode_f8(const float *x, uint8_t *b) {
    float most = 0;
    for (int i = 0; i < F8_GROUP; i++) most = fmaxf(most, fabsf(x[i]));
    const float scale = visible(most / 448 >= 0x1p-126f ? most / 448 : 0, x, F8_GROUP);
    memcpy(b, &scale, sizeof scale);
    for (int i = 0; i < F8_GROUP; i++) b[4 + i] = scale > 0 ? e4m3_from_f32(x[i] / scale) : 0;
}

static void encode_q8_0(const float *x, uint8_t *b) {
    float most = 0;
    for (int i = 0; i < SMALL; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    const float scale = most / 127, inverse = scale ? 1 / scale : 0;
    f16_store(b, visible(scale, x, SMALL));
    for (int i = 0; i < SMALL; i++) b[2 + i] = (uint8_t)(int8_t)roundf(between(-127, x[i] * inverse, 127));
}

/* x / scale to the nearest of -8..7, as floats: adding 1.5 * 2^23 leaves an integer. */
static void q4_round(const float *x, float inverse, float *q) {
    for (int i = 0; i < SMALL; i++) q[i] = (between(-8, x[i] * inverse, 7) + 0x1.8p23f) - 0x1.8p23f;
}

/* The scale with the least squared error among some that place the largest element at 8, or 7, and inward of
 * that; each is fitted once more to the integers it gave: sum xq / sum qq. */
static float q4_scale(const float *x) {
    float largest = 0, best = 0, gain = 0;
    for (int i = 0; i < SMALL; i++)
        if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
    for (int step = 0; step <= 18; step++) {
        float q[SMALL], xq = 0, qq = 0;
        q4_round(x, largest ? -(6.2f + 0.15f * (float)step) / largest : 0, q);
        for (int i = 0; i < SMALL; i++) xq += x[i] * q[i], qq += q[i] * q[i];
        if (qq > 0 && xq * xq > gain * qq) gain = xq * xq / qq, best = xq / qq;
    }
    return best;
}

static void encode_q4_0(const float *x, uint8_t *b) {
    f16_store(b, visible(q4_scale(x), x, SMALL));
    const float scale = f16_load(b);
    float q[SMALL];
    q4_round(x, scale ? 1 / scale : 0, q);
    for (int i = 0; i < SMALL / 2; i++)
        b[2 + i] = (uint8_t)((int)q[i] + 8) | (uint8_t)(((int)q[i + SMALL / 2] + 8) << 4);
}

/* The scale gives the value farthest from zero the lowest integer, for there is one more below than above. */
static void encode_centred(const float *x, uint8_t *q, float *scale) {
    float farthest = x[0];
    for (int i = 1; i < SMALL; i++)
        if (fabsf(x[i]) > fabsf(farthest)) farthest = x[i];
    float d = farthest / -16, inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < SMALL; i++) q[i] = truncated(x[i] * inverse + 16.5f, 31);
    *scale = d;
}

static void encode_from_min(const float *x, bool five, uint8_t *q, float *scale, float *min) {
    int top = five ? 31 : 15;
    float least = x[0], most = x[0];
    for (int i = 1; i < SMALL; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    float d = (most - least) / (float)top, inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < SMALL; i++) q[i] = truncated((x[i] - least) * inverse + 0.5f, top);
    *scale = d;
    *min = least;
}

static void encode_small(const float *x, bool has_min, bool five, uint8_t *b) {
    uint8_t q[SMALL];
    float d, m;
    if (has_min) {
        encode_from_min(x, five, q, &d, &m);
        f16_store(b + 2, m);
    } else {
        encode_centred(x, q, &d);
    }
    f16_store(b, visible(d, x, SMALL));
    b += has_min ? 4 : 2;
    uint32_t high = 0;
    for (int i = 0; i < SMALL; i++) high |= (uint32_t)(q[i] >> 4) << i;
    if (five) memcpy(b, &high, sizeof high);
    if (five) b += 4;
    for (int i = 0; i < 16; i++) b[i] = (uint8_t)((q[i] & 15) | q[i + 16] << 4);
}

/* ---- encoding: K types ---- */

/* Integers from 0 to `top` for x - min over scale; NaN to 0. */
static void place(const float *x, int n, float scale, float min, int top, uint8_t *q) {
    float inverse = scale > 0 ? 1 / scale : 0;
    for (int i = 0; i < n; i++) q[i] = truncated((x[i] - min) * inverse + 0.5f, top);
}

/* The line scale * q + min of least squared error through x; a minimum above zero cannot be stored and counts
 * as zero. False where all q are equal. */
static bool fit_line(const float *x, const uint8_t *q, int n, float *scale, float *min) {
    double sum_q = 0, sum_qq = 0, sum_x = 0, sum_qx = 0;
    for (int i = 0; i < n; i++) {
        sum_q += q[i];
        sum_qq += (double)q[i] * q[i];
        sum_x += x[i];
        sum_qx += (double)q[i] * x[i];
    }
    double spread = n * sum_qq - sum_q * sum_q;
    if (spread <= 0) return false;
    double slope = (n * sum_qx - sum_q * sum_x) / spread, offset = (sum_x - slope * sum_q) / n;
    if (offset > 0) {
        offset = 0;
        slope = sum_qx / sum_qq;
    }
    *scale = (float)slope;
    *min = (float)offset;
    return slope > 0;
}

static double line_error(const float *x, const uint8_t *q, int n, float scale, float min) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double e = (double)scale * q[i] + min - x[i];
        sum += e * e;
    }
    return sum;
}

/* Scale and minimum (<= 0) for a group: from the range, then some steps narrower and wider, each refined by
 * the line through what it gives. */
static void search_line(const float *x, int n, int top, float *scale, float *min) {
    float least = 0, most = 0;
    for (int i = 0; i < n; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    uint8_t q[SMALL];
    double best = INFINITY;
    *scale = 0, *min = least;
    for (int step = -6; step <= 6 && most > least; step++) {
        float s = (most - least) / ((float)top + 0.15f * (float)step), m = least;
        for (int refinement = 0; refinement < 3; refinement++) {
            place(x, n, s, m, top, q);
            double error = line_error(x, q, n, s, m);
            if (error < best) best = error, *scale = s, *min = m;
            if (!fit_line(x, q, n, &s, &m)) break;
        }
    }
}

static void pack_scale(uint8_t *packed, int g, uint8_t scale, uint8_t min) {
    if (g < 4) {
        packed[g] |= scale;
        packed[g + 4] |= min;
    } else {
        packed[g + 4] |= (uint8_t)((scale & 15) | min << 4);
        packed[g - 4] |= (uint8_t)(scale >> 4 << 6);
        packed[g] |= (uint8_t)(min >> 4 << 6);
    }
}

static void encode_k45(const float *x, bool five, uint8_t *b) {
    int top = five ? 31 : 15;
    float scale[8], min[8], most = 0, least = 0;
    for (int g = 0; g < 8; g++) {
        search_line(x + g * SMALL, SMALL, top, &scale[g], &min[g]);
        most = fmaxf(most, scale[g]);
        least = fminf(least, min[g]);
    }
    memset(b, 0, dtype_bytes(five ? DTYPE_Q5_K : DTYPE_Q4_K));
    f16_store(b, visible(most / 63, x, SUPER));
    f16_store(b + 2, -least / 63);
    float d = f16_load(b), m = f16_load(b + 2);
    uint8_t *fifth = b + 16, *packed = fifth + (five ? 32 : 0);
    for (int g = 0; g < 8; g++) {
        uint8_t q[SMALL], s = truncated(d > 0 ? scale[g] / d + 0.5f : 0, 63),
                          t = truncated(m > 0 ? -min[g] / m + 0.5f : 0, 63);
        pack_scale(b + 4, g, s, t);
        place(x + g * SMALL, SMALL, d * (float)s, -(m * (float)t), top, q);
        for (int i = 0; i < SMALL; i++) {
            packed[g / 2 * 32 + i] |= (uint8_t)((q[i] & 15) << 4 * (g % 2));
            if (five) fifth[i] |= (uint8_t)(q[i] >> 4 << g);
        }
    }
}

/* The scale of either sign for 16 values and integers from -32 to 31. */
static float search_scale(const float *x, int n) {
    float farthest = 0, best_scale = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(farthest)) farthest = x[i];
    double best = INFINITY;
    for (int step = -9; step <= 9 && farthest != 0; step++) {
        float inverse = (-32 + 0.1f * (float)step) / farthest;
        double sum_qx = 0, sum_qq = 0, sum_xx = 0;
        for (int i = 0; i < n; i++) {
            double q = truncated(x[i] * inverse + 32.5f, 63) - 32;
            sum_qx += q * x[i];
            sum_qq += q * q;
            sum_xx += (double)x[i] * x[i];
        }
        double error = sum_qq > 0 ? sum_xx - sum_qx * sum_qx / sum_qq : INFINITY;
        if (error < best) best = error, best_scale = (float)(sum_qx / sum_qq);
    }
    return best_scale;
}

static void encode_q6_k(const float *x, uint8_t *b) {
    float scale[16], farthest = 0;
    for (int g = 0; g < 16; g++) {
        scale[g] = search_scale(x + 16 * g, 16);
        if (fabsf(scale[g]) > fabsf(farthest)) farthest = scale[g];
    }
    memset(b, 0, dtype_bytes(DTYPE_Q6_K));
    f16_store(b + 208, visible(farthest / -128, x, SUPER));
    float d = f16_load(b + 208);
    for (int g = 0; g < 16; g++)
        b[192 + g] = (uint8_t)(truncated(d != 0 ? scale[g] / d + 128.5f : 128, 255) - 128);
    for (int e = 0; e < SUPER; e++) {
        float s = d * (float)(int8_t)b[192 + e / 16];
        uint8_t q = truncated(s != 0 ? x[e] / s + 32.5f : 32, 63);
        int half = e / 128, quarter = e / 32 % 4, i = e % 32;
        b[half * 64 + quarter % 2 * 32 + i] |= (uint8_t)((q & 15) << quarter / 2 * 4);
        b[128 + half * 32 + i] |= (uint8_t)(q >> 4 << 2 * quarter);
    }
}

static void encode_block(enum dtype t, const float *x, uint8_t *b) {
    uint16_t h;
    switch (t) {
    case DTYPE_F32:
        memcpy(b, x, sizeof *x);
        break;
    case DTYPE_F16:
        f16_store(b, *x);
        break;
    case DTYPE_BF16:
        h = bf16_from_f32(*x);
        memcpy(b, &h, sizeof h);
        break;
    case DTYPE_Q8_0:
        encode_q8_0(x, b);
        break;
    case DTYPE_Q4_0:
        encode_q4_0(x, b);
        break;
    case DTYPE_F8:
        encode_f8(x, b);
        break;
    case DTYPE_E4M3:
        *b = e4m3_from_f32(*x);
        break;
    case DTYPE_Q4_1:
        encode_small(x, true, false, b);
        break;
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
        encode_small(x, t == DTYPE_Q5_1, true, b);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        encode_k45(x, t == DTYPE_Q5_K, b);
        break;
    case DTYPE_Q6_K:
    case DTYPES:
        encode_q6_k(x, b);
        break;
    }
}

void quants_from_f32(enum dtype type, const float *x, size_t k, void *row) {
    uint8_t *b = row;
    size_t block = dtype_block(type), bytes = dtype_bytes(type);
    for (size_t i = 0; i < k; i += block, b += bytes) encode_block(type, x + i, b);
}

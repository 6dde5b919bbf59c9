/* Vectors of the 8-bit cache: to integers and scales as they are appended, and back where attention reads
 * them. Layout and rule are in ops.h. A group's two parts, elements i and i + half, are taken one after the
 * other; the last group of a head may be short. */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

typedef int8_t vb __attribute__((vector_size(LANES)));

static float clamp(float x) {
    return x > KV_MOST ? KV_MOST : x < -KV_MOST ? -KV_MOST : x; /* a NaN stays */
}

static float greatest(const float *x, int32_t n, float most) {
    for (int32_t i = 0; i < n && !isnan(most); i++) {
        const float size = fabsf(clamp(x[i]));
        if (!(size <= most)) most = size; /* a NaN wins and stays */
    }
    return most;
}

static float half_precision(float x, char *to) {
    vf_store_f16(to, vf_all(x), 1);
    return vf_load_f16_n(to, 1)[0];
}

static void round_part(const float *x, int32_t n, float inverse, int8_t *to) {
    for (int32_t i = 0; i < n; i++) {
        const float q = rintf(clamp(x[i]) * inverse);
        to[i] = (int8_t)(q >= 127 ? 127 : q <= -127 ? -127 : q == q ? q : 0);
    }
}

void cache_quantize(const float *low, const float *high, int32_t half, char *integers, char *scales) {
    int8_t *to = (int8_t *)integers;
    for (int32_t i = 0; i < half; i += KV_GROUP, scales += 2) {
        const int32_t n = min_i32(KV_GROUP, half - i);
        const float scale = half_precision(greatest(high + i, n, greatest(low + i, n, 0)) / 127, scales);
        const float inverse = scale > 0 ? 1 / scale : 0;
        round_part(low + i, n, inverse, to + i);
        round_part(high + i, n, inverse, to + half + i);
    }
}

INLINE void widen_part(const char *from, float scale, int32_t n, float *to) {
    for (int32_t i = 0; i < n; i += LANES) {
        vb bytes = {0};
        memcpy(&bytes, from + i, (size_t)min_i32(LANES, n - i));
        const vf wide = __builtin_convertvector(bytes, vf) * scale;
        if (n - i < LANES)
            vf_store_n(to + i, wide, n - i);
        else
            vf_store(to + i, wide);
    }
}

void cache_widen(const char *integers, const char *scales, int32_t tokens, int32_t head_dim, float *to) {
    const int32_t half = head_dim / 2, groups = kv_groups(head_dim);
    for (int32_t t = 0; t < tokens; t++, integers += head_dim, scales += 2 * groups, to += head_dim) {
        float scale[HEAD_MAX / 2 / KV_GROUP];
        for (int32_t g = 0; g < groups; g += LANES)
            vf_store_n(scale + g, vf_load_f16_n(scales + 2 * g, min_i32(LANES, groups - g)),
                       min_i32(LANES, groups - g));
        int32_t i = 0;
        for (; i + KV_GROUP <= half; i += KV_GROUP) {
            widen_part(integers + i, scale[i / KV_GROUP], KV_GROUP, to + i);
            widen_part(integers + half + i, scale[i / KV_GROUP], KV_GROUP, to + half + i);
        }
        if (i == half) continue;
        widen_part(integers + i, scale[i / KV_GROUP], half - i, to + i);
        widen_part(integers + half + i, scale[i / KV_GROUP], half - i, to + half + i);
    }
}

/* Products with quantised weights, in integers.
 *
 * Activations are quantised too, each row by itself, in groups of 32: 8 bits from -127 to 127 and a scale in
 * f32. A group's sum of products is exact in 32 bits; only then it is scaled and added up in f32, group after
 * group. So a row's bits depend on nothing but the row, and the instruction sets differ only where they fuse.
 *
 * Weights are read once for all rows of a tile, in the order of memory. They are biased to be unsigned
 * (panel.h): sum (w + bias) a - bias sum a, with the last part made beforehand once a row and group.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/vec.h"

typedef int32_t vi __attribute__((vector_size(4 * LANES)));

enum {
    SLICES = PANEL / LANES, /* registers abreast of a line */
#ifdef VEC_512
    ROWS_ABREAST = 8,
#else
    ROWS_ABREAST = 4,
#endif
    AHEAD = 4096, /* bytes asked for before they are needed */
};

/* ---- activations: [k] int8, [groups] scale, [groups] -bias * sum ---- */

struct quants {
    const int8_t *q;
    const float *scale;
    const int32_t *begin;
};

size_t quant_row_bytes(int32_t k) {
    return (size_t)k + (size_t)(k / GROUP) * 8;
}

INLINE struct quants quants_at(const char *row, int32_t k) {
    const float *scale = (const float *)(row + k);
    return (struct quants){(const int8_t *)row, scale, (const int32_t *)(scale + k / GROUP)};
}

/* A group with a value that is not finite gets the scale NaN: nothing may look sound that is not. */
static float quantize_group(const float *x, int8_t *q, int32_t *sum) {
    vf most = vf_zero(), odd = vf_zero();
    vi all = {0};
    for (int32_t i = 0; i < GROUP; i += LANES) {
        const vf v = vf_load(x + i);
        most = vf_max(vf_max(v, -v), most);
        odd = odd + v * 0;
    }
    const float range = vf_max_lane(most), inverse = range > 1e-30f ? 127 / range : 0;
    for (int32_t i = 0; i < GROUP; i += LANES) {
        const vi n = (vi)(vf_load(x + i) * inverse + 0x1.8p23f) - 0x4b400000; /* to nearest, even */
        all += n;
        for (int32_t j = 0; j < LANES; j++) q[i + j] = (int8_t)n[j];
    }
    *sum = 0;
    for (int32_t j = 0; j < LANES; j++) *sum += all[j];
    return inverse ? range / 127 + vf_sum(odd) : vf_sum(odd);
}

void quant_store(enum dtype t, const float *x, int32_t group, int32_t k, char *row) {
    const struct quants a = quants_at(row, k);
    int32_t sum;
    ((float *)a.scale)[group] = quantize_group(x, (int8_t *)a.q + group * GROUP, &sum);
    ((int32_t *)a.begin)[group] = -panel_bias(t) * sum;
}

/* ---- four products a lane ---- */

INLINE vi vi_load(const char *p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE vi vi_all(int32_t x) {
    return x - (vi){0};
}

INLINE vi four_at(const int8_t *a) {
    int32_t four;
    memcpy(&four, a, 4);
    return vi_all(four);
}

/* sum += four unsigned bytes of w times four signed ones of a, in each lane. Q8_0 on AVX2: the products of
 * two bytes would not fit 16 bits unsigned, so there the weights are signed again and lend their sign to a.
 */
#if defined(VEC_512)
INLINE vi dot_four(enum dtype t, vi w, vi a, vi sum) {
    (void)t;
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)a);
}
#elif defined(VEC_256)
INLINE vi dot_four(enum dtype t, vi w, vi a, vi sum) {
    __m256i of_w = (__m256i)w, of_a = (__m256i)a;
    if (t == DTYPE_Q8_0) {
        const __m256i is = _mm256_xor_si256(of_w, _mm256_set1_epi8((char)0x80));
        of_w = _mm256_abs_epi8(is), of_a = _mm256_sign_epi8(of_a, is);
    }
    const __m256i pairs = _mm256_maddubs_epi16(of_w, of_a);
    return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
INLINE vi dot_four(enum dtype t, vi w, vi a, vi sum) {
    (void)t;
    for (int byte = 0; byte < 4; byte++)
        sum += (vi)((vu)w >> (8 * byte) & 0xff) * (a << (24 - 8 * byte) >> 24);
    return sum;
}
#endif

#ifdef VEC_256
enum { SIGNED_Q8 = 1 };
#else
enum { SIGNED_Q8 = 0 };
#endif

/* A group's weights of LANES outputs: w[i] holds elements 4i..4i+3. */
INLINE void group_load(enum dtype t, const char *lines, vi *w) {
    UNROLL for (int32_t i = 0; i < panel_lines(t); i++) {
        const vi line = vi_load(lines + i * LINE);
        if (t == DTYPE_Q8_0) {
            w[i] = line;
        } else {
            w[i] = line & 0x0f0f0f0f;
            w[i + 4] = (vi)((vu)line >> 4) & 0x0f0f0f0f;
        }
    }
}

/* ---- panels ---- */

/* y[r][0..LANES) for rows <= ROWS_ABREAST, which is a constant at each call. */
INLINE void walk(enum dtype t, int32_t rows, const char *scales, const char *quants, int32_t groups,
                 const char *a, size_t a_row, float *y) {
    struct quants row[ROWS_ABREAST];
    vf sum[ROWS_ABREAST];
    UNROLL for (int32_t r = 0; r < rows; r++) row[r] = quants_at(a + r * a_row, groups * GROUP),
                                              sum[r] = vf_zero();
    for (int32_t g = 0; g < groups; g++, scales += PANEL * 2, quants += panel_lines(t) * LINE) {
        vi w[8];
        UNROLL for (int32_t i = 0; i < panel_lines(t); i++)
            __builtin_prefetch(quants + AHEAD + i * LINE, 0, 2);
        group_load(t, quants, w);
        const vf scale = vf_load_f16(scales);
        UNROLL for (int32_t r = 0; r < rows; r++) {
            vi dot = vi_all(SIGNED_Q8 && t == DTYPE_Q8_0 ? 0 : row[r].begin[g]);
            UNROLL for (int32_t i = 0; i < 8; i++) dot =
                dot_four(t, w[i], four_at(row[r].q + g * GROUP + 4 * i), dot);
            sum[r] = vf_fma(__builtin_convertvector(dot, vf), scale * row[r].scale[g], sum[r]);
        }
    }
    UNROLL for (int32_t r = 0; r < rows; r++) vf_store(y + r * PANEL, sum[r]);
}

INLINE void panel_rows(enum dtype t, int32_t rows, const char *panel, int32_t groups, const char *a,
                       size_t a_row, float *y) {
    const char *quants = panel + panel_scale_bytes(groups);
    UNROLL for (int32_t s = 0; s < SLICES; s++)
        walk(t, rows, panel + s * LANES * 2, quants + s * LANES * 4, groups, a, a_row, y + s * LANES);
}

INLINE void panel_of(enum dtype t, int32_t rows, const char *panel, int32_t groups, const char *a,
                     size_t a_row, float *y) {
    for (; rows >= ROWS_ABREAST; rows -= ROWS_ABREAST, a += ROWS_ABREAST * a_row, y += ROWS_ABREAST * PANEL)
        panel_rows(t, ROWS_ABREAST, panel, groups, a, a_row, y);
    switch (rows) {
    case 1:
        panel_rows(t, 1, panel, groups, a, a_row, y);
        break;
    case 2:
        panel_rows(t, 2, panel, groups, a, a_row, y);
        break;
    case 3:
        panel_rows(t, 3, panel, groups, a, a_row, y);
        break;
#ifdef VEC_512
    case 4:
        panel_rows(t, 4, panel, groups, a, a_row, y);
        break;
    case 5:
        panel_rows(t, 5, panel, groups, a, a_row, y);
        break;
    case 6:
        panel_rows(t, 6, panel, groups, a, a_row, y);
        break;
    case 7:
        panel_rows(t, 7, panel, groups, a, a_row, y);
        break;
#endif
    }
}

/* As tile, of block types; a block that begins or ends within a panel takes its part of it. */
void quant_tile(const struct matrix *w, int32_t first, int32_t count, const char *a, size_t a_row,
                int32_t rows, float (*y)[BLOCK_MAX]) {
    const int32_t groups = w->k / GROUP, last = first + count;
    const char *panels = w->data;
    for (int32_t panel = first / PANEL; panel * PANEL < last; panel++) {
        const char *from = panels + (size_t)panel * panel_bytes(w->dtype, groups);
        float all[ROWS_MAX][PANEL];
        if (w->dtype == DTYPE_Q8_0)
            panel_of(DTYPE_Q8_0, rows, from, groups, a, a_row, *all);
        else
            panel_of(DTYPE_Q4_0, rows, from, groups, a, a_row, *all);
        const int32_t begin = panel * PANEL < first ? first : panel * PANEL,
                      end = min_i32(last, (panel + 1) * PANEL);
        for (int32_t r = 0; r < rows; r++)
            memcpy(y[r] + begin - first, all[r] + begin % PANEL, (size_t)(end - begin) * sizeof(float));
    }
}

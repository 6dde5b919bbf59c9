/* How a dot product reads weights and activations, for each element type of weights.
 *
 * A product walks k in steps of dot_step elements. A step's elements are taken up in parts of one register of
 * weights and one of activations each:
 *  - f32 and f16 weights: LANES elements, activations in f32; F8 likewise, in groups with a scale between
 *    them (matmul.c);
 *  - bf16 weights where the machine multiplies bf16: a register of 32 elements of both;
 *  - bf16 weights elsewhere: a register of 2 LANES elements, whose even ones become floats by a shift and
 * whose odd ones by a mask. Activations are rounded to bf16, held in f32, and lie in that order: the even
 * ones of a step, then the odd ones, zeros behind the last. The type is a constant wherever these are called.
 */
#ifndef OUTRIDER_CPU_ACTS_H
#define OUTRIDER_CPU_ACTS_H

#include "kernels/cpu/vec.h"
#include "weights/dtype.h"

#ifdef ISA_avx512bf16
enum { NATIVE_BF16 = 1 };
#else
enum { NATIVE_BF16 = 0 };
#endif

/* Parts of a step. */
INLINE int32_t dot_parts(enum dtype t) {
    return t == DTYPE_BF16 && !NATIVE_BF16 ? 2 : 1;
}
INLINE int32_t dot_step(enum dtype t) {
    return t == DTYPE_BF16 ? 2 * LANES : LANES;
}
INLINE size_t acts_bytes(enum dtype t) {
    return NATIVE_BF16 && t == DTYPE_BF16 ? 2 : 4;
}
/* Quantised activations, in panels (panel.h). */
INLINE bool acts_are_integers(enum dtype t) {
    return t == DTYPE_Q8_0 || t == DTYPE_Q4_0;
}
/* Of one row of k elements. */
INLINE size_t acts_row_bytes(enum dtype t, int32_t k) {
    const int32_t step = dot_step(t);
    return (size_t)(dot_parts(t) == 2 ? (k + step - 1) / step * step : k) * acts_bytes(t);
}

/* ---- weights ---- */

/* Whole registers of halfwords, as they lie. */
INLINE vu halves_load(const char *p) {
    return (vu)vf_load(p);
}
INLINE vu halves_load_n(const char *p, int32_t n) {
#ifdef VEC_512
    return (vu)_mm512_maskz_loadu_epi16(n < 32 ? (1u << n) - 1 : 0xffffffffu, p);
#else
    vu v = {0};
    memcpy(&v, p, 2 * (size_t)n);
    return v;
#endif
}

/* Part `part` of a step's weights, or of its first n with zeros behind. */
INLINE vf weights_part(enum dtype t, const char *p, int32_t part) {
    if (t == DTYPE_F32) return vf_load(p);
    if (t == DTYPE_F16) return vf_load_f16(p);
    if (t == DTYPE_F8) return vf_load_e4m3(p);
    const vu both = halves_load(p);
    return NATIVE_BF16 ? (vf)both : part == 0 ? (vf)(both << 16) : (vf)(both & 0xffff0000);
}
INLINE vf weights_part_n(enum dtype t, const char *p, int32_t part, int32_t n) {
    if (t == DTYPE_F32) return vf_load_n(p, n);
    if (t == DTYPE_F16) return vf_load_f16_n(p, n);
    const vu both = halves_load_n(p, n);
    return NATIVE_BF16 ? (vf)both : part == 0 ? (vf)(both << 16) : (vf)(both & 0xffff0000);
}

/* ---- activations ---- */

INLINE vf acts_part(enum dtype t, const char *p, int32_t part) {
    (void)t;
    return vf_load(p + (size_t)part * sizeof(vf));
}
INLINE vf acts_part_n(enum dtype t, const char *p, int32_t part, int32_t n) {
    if (t != DTYPE_BF16) return vf_load_n(p, n);
    return NATIVE_BF16 ? (vf)halves_load_n(p, n) : acts_part(t, p, part);
}

INLINE vf dot(enum dtype t, vf w, vf a, vf sum) {
#ifdef ISA_avx512bf16
    if (t == DTYPE_BF16) return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)a);
#endif
    (void)t;
    return vf_fma(w, a, sum);
}

/* Writes a step of activations, v[0] and v[1] (zeros from n on), for weights of type t. */
INLINE void acts_store_bf16(char *p, vf low, vf high, int32_t n) {
#ifdef ISA_avx512bf16
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    _mm512_mask_storeu_epi16(p, n < 32 ? (1u << n) - 1 : 0xffffffffu, both);
#else
    vf even, odd;
    (void)n;
    vf_unzip(vf_round_bf16(low), vf_round_bf16(high), &even, &odd);
    vf_store((float *)p, even);
    vf_store((float *)p + LANES, odd);
#endif
}

#endif

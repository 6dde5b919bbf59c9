/* How a dot product reads weights and activations, for each element type of weights.
 *
 * An *operand* is one register of dot_step elements. With native bf16 products it holds 32 bf16, of weights
 * and of activations; otherwise weights are widened as they are read and activations lie in memory as floats
 * (rounded to bf16 when the weights are bf16). The type is a constant wherever these are called.
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

INLINE int32_t dot_step(enum dtype t) {
    return NATIVE_BF16 && t == DTYPE_BF16 ? 32 : LANES;
}
INLINE size_t acts_bytes(enum dtype t) {
    return NATIVE_BF16 && t == DTYPE_BF16 ? 2 : 4;
}

#ifdef ISA_avx512bf16
INLINE __mmask32 halves_mask(int32_t n) {
    return n < 32 ? (1u << n) - 1 : 0xffffffffu;
}
INLINE vf load_bf16x32(const char *p) {
    return (vf)_mm512_loadu_si512(p);
}
INLINE vf load_bf16x32_n(const char *p, int32_t n) {
    return (vf)_mm512_maskz_loadu_epi16(halves_mask(n), p);
}
INLINE vf dot_bf16x32(vf w, vf a, vf sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)a);
}
INLINE void store_bf16(char *p, vf v, int32_t n) {
    __mmask16 mask = n < LANES ? lanes_mask(n) : 0xffff;
    _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh(v));
}
#else
INLINE vf load_bf16x32(const char *p) {
    return vf_load_bf16(p);
}
INLINE vf load_bf16x32_n(const char *p, int32_t n) {
    return vf_load_bf16_n(p, n);
}
INLINE vf dot_bf16x32(vf w, vf a, vf sum) {
    return vf_fma(w, a, sum);
}
#endif

/* dot_step elements, or the first n of them with zeros behind. */
INLINE vf weights_load(enum dtype t, const char *p) {
    if (t == DTYPE_F32) return vf_load(p);
    return t == DTYPE_F16 ? vf_load_f16(p) : load_bf16x32(p);
}
INLINE vf weights_load_n(enum dtype t, const char *p, int32_t n) {
    if (t == DTYPE_F32) return vf_load_n(p, n);
    return t == DTYPE_F16 ? vf_load_f16_n(p, n) : load_bf16x32_n(p, n);
}
INLINE vf acts_load(enum dtype t, const char *p) {
    return NATIVE_BF16 && t == DTYPE_BF16 ? load_bf16x32(p) : vf_load(p);
}
INLINE vf acts_load_n(enum dtype t, const char *p, int32_t n) {
    return NATIVE_BF16 && t == DTYPE_BF16 ? load_bf16x32_n(p, n) : vf_load_n(p, n);
}
INLINE vf dot(enum dtype t, vf w, vf a, vf sum) {
    return t == DTYPE_BF16 ? dot_bf16x32(w, a, sum) : vf_fma(w, a, sum);
}

/* Rounds LANES activations (the first n when fewer) for weights of type t. */
INLINE void acts_store(enum dtype t, char *p, vf v, int32_t n) {
#ifdef ISA_avx512bf16
    if (t == DTYPE_BF16) {
        store_bf16(p, v, n);
        return;
    }
#endif
    if (t == DTYPE_BF16) v = vf_round_bf16(v);
    if (n < LANES)
        vf_store_n((float *)p, v, n);
    else
        vf_store((float *)p, v);
}

#endif

/* A tiny vector vocabulary, so that each kernel is written once and compiled for every instruction set.
 *
 * vf is LANES floats; + - * / work on it directly. A function ending in _n touches only the first n < LANES
 * elements of memory and fills the rest of the register with zeros: tails read nothing they should not.
 * A loop over vectors must have the same tail every time, or the bits of a row would depend on where it lay.
 *
 * vf_min and vf_max return the second operand when one is NaN, so clamps written limit-first keep NaN.
 * The sets differ in their last bits from one another (lane counts, fused multiply-add); that is fine, a run
 * uses one.
 */
#ifndef OUTRIDER_CPU_VEC_H
#define OUTRIDER_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#if defined(ISA_avx512) || defined(ISA_avx512bf16)
#define VEC_512
#elif defined(ISA_avx2)
#define VEC_256
#endif

#if defined(VEC_512) || defined(VEC_256)
#include <immintrin.h>
#endif

#ifdef VEC_512
enum { LANES = 16 };
#elif defined(VEC_256)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

/* ---- what every set shares ---- */

#define INLINE static inline __attribute__((always_inline))

/* Before a loop of constant length whose arrays must become registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

/* Holds a value that was loaded for several uses: compilers would else load it anew for each, and the loads
 * become what the loop waits for. */
INLINE void vf_hold(vf *v) {
#if defined(VEC_512)
    __asm__("" : "+v"(*v));
#elif defined(VEC_256)
    __asm__("" : "+x"(*v));
#else
    (void)v;
#endif
}

INLINE vf vf_zero(void) {
    return (vf){0};
}
INLINE vf vf_all(float x) {
    return x - vf_zero();
}

INLINE vf vf_load(const void *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vf_store(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}

INLINE vf vf_select(vu mask, vf yes, vf no) {
    return (vf)((mask & (vu)yes) | (~mask & (vu)no));
}

/* Rounded to the nearest bf16, ties to even, and back; a NaN stays one. */
INLINE vf vf_round_bf16(vf x) {
    vu bits = (vu)x;
    vu rounded = bits + 0x7fff + ((bits >> 16) & 1);
    vu nan = (vu)(x != x);
    return (vf)(((nan & (bits | 0x400000)) | (~nan & rounded)) & 0xffff0000);
}

/* The elements of a and b at even places, and those at odd ones. */
INLINE void vf_unzip(vf a, vf b, vf *even, vf *odd) {
#if defined(VEC_512)
    const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, places, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(places, _mm512_set1_epi32(1)), b);
#else
    for (int i = 0; i < LANES / 2; i++) {
        (*even)[i] = a[2 * i], (*even)[i + LANES / 2] = b[2 * i];
        (*odd)[i] = a[2 * i + 1], (*odd)[i + LANES / 2] = b[2 * i + 1];
    }
#endif
}

/* ---- AVX-512 ---- */
#ifdef VEC_512

INLINE __mmask16 lanes_mask(int32_t n) {
    return (__mmask16)((1u << n) - 1);
}
INLINE vf vf_load_n(const void *p, int32_t n) {
    return _mm512_maskz_loadu_ps(lanes_mask(n), p);
}
INLINE void vf_store_n(float *p, vf v, int32_t n) {
    _mm512_mask_storeu_ps(p, lanes_mask(n), v);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf vf_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
INLINE vf vf_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}

INLINE vf vf_widen_bf16(__m256i h) {
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
}
INLINE vf vf_load_bf16(const void *p) {
    return vf_widen_bf16(_mm256_loadu_si256(p));
}
INLINE vf vf_load_bf16_n(const void *p, int32_t n) {
    return vf_widen_bf16(_mm256_maskz_loadu_epi16(lanes_mask(n), p));
}
INLINE vf vf_load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
INLINE vf vf_load_f16_n(const void *p, int32_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_mask(n), p));
}
/* Bytes of e4m3, as f16 of 1/256 of their value: the sign is extended over the bit that f16 has more. */
INLINE vf vf_load_e4m3(const void *p) {
    const __m256i q = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(p)), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(q, _mm256_set1_epi16((short)0xbfff)));
}
INLINE void vf_put_f16(void *p, vf v, int32_t n) {
    __mmask16 mask = n < LANES ? lanes_mask(n) : 0xffff;
    _mm256_mask_storeu_epi16(p, mask, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

INLINE __m256 vf_fold(vf v) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}
INLINE __m256 vf_fold_max(vf v) {
    return _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

/* ---- AVX2, FMA, F16C ---- */
#elif defined(VEC_256)

INLINE __m256i lanes_mask(int32_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf vf_load_n(const void *p, int32_t n) {
    return _mm256_maskload_ps(p, lanes_mask(n));
}
INLINE void vf_store_n(float *p, vf v, int32_t n) {
    _mm256_maskstore_ps(p, lanes_mask(n), v);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
INLINE vf vf_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}

INLINE __m128i halves_n(const void *p, int32_t n) {
    __m128i h = _mm_setzero_si128();
    memcpy(&h, p, 2 * (size_t)n);
    return h;
}
INLINE vf vf_widen_bf16(__m128i h) {
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
}
INLINE vf vf_load_bf16(const void *p) {
    return vf_widen_bf16(_mm_loadu_si128(p));
}
INLINE vf vf_load_bf16_n(const void *p, int32_t n) {
    return vf_widen_bf16(halves_n(p, n));
}
INLINE vf vf_load_f16(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
INLINE vf vf_load_f16_n(const void *p, int32_t n) {
    return _mm256_cvtph_ps(halves_n(p, n));
}
INLINE vf vf_load_e4m3(const void *p) {
    const __m128i q = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(p)), 7);
    return _mm256_cvtph_ps(_mm_and_si128(q, _mm_set1_epi16((short)0xbfff)));
}
INLINE void vf_put_f16(void *p, vf v, int32_t n) {
    __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    memcpy(p, &h, 2 * (size_t)(n < LANES ? n : LANES));
}

INLINE __m256 vf_fold(vf v) {
    return v;
}
INLINE __m256 vf_fold_max(vf v) {
    return v;
}

/* ---- any machine, through the compiler's own vectors ---- */
#else

typedef uint16_t vh __attribute__((vector_size(2 * LANES)));

INLINE vf vf_load_n(const void *p, int32_t n) {
    vf v = {0};
    memcpy(&v, p, 4 * (size_t)n);
    return v;
}
INLINE void vf_store_n(float *p, vf v, int32_t n) {
    memcpy(p, &v, 4 * (size_t)n);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return a * b + c;
}
INLINE vf vf_min(vf a, vf b) {
    return vf_select((vu)(a < b), a, b);
}
INLINE vf vf_max(vf a, vf b) {
    return vf_select((vu)(a > b), a, b);
}

INLINE vu halves_n(const void *p, int32_t n) {
    vh h = {0};
    memcpy(&h, p, 2 * (size_t)n);
    return __builtin_convertvector(h, vu);
}
INLINE vf vf_load_bf16_n(const void *p, int32_t n) {
    return (vf)(halves_n(p, n) << 16);
}
INLINE vf vf_load_bf16(const void *p) {
    return vf_load_bf16_n(p, LANES);
}

/* Moving the fields into place and multiplying by 2^112 mends the exponent bias, subnormals included. */
INLINE vf vf_load_f16_n(const void *p, int32_t n) {
    vu h = halves_n(p, n);
    vf magnitude = (vf)((h & 0x7fff) << 13) * 0x1p112f;
    vu infinite = (vu)((h & 0x7c00) == 0x7c00) & 0x7f800000;
    return (vf)((vu)magnitude | infinite | (h & 0x8000) << 16);
}
INLINE vf vf_load_e4m3(const void *p) {
    vu h = {0};
    for (int32_t i = 0; i < LANES; i++) {
        const uint32_t q = ((const uint8_t *)p)[i];
        h[i] = (q & 0x80) << 24 | (q & 0x7f) << 20;
    }
    return (vf)h * 0x1p112f;
}
INLINE vf vf_load_f16(const void *p) {
    return vf_load_f16_n(p, LANES);
}

/* One finite |x| <= 65504 or NaN, to nearest even. Adding a power of two whose last bit has the weight of the
 * result's lets the addition do the rounding. */
static inline uint16_t f16_from_f32(float x) {
    uint32_t bits, sign;
    memcpy(&bits, &x, 4);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    uint32_t exponent = bits >> 23 > 113 ? bits >> 23 : 113; /* 113: 2^-14, the least normal */
    uint32_t anchor_bits = (exponent + 13) << 23, sum_bits;
    float magnitude, anchor, sum;
    memcpy(&magnitude, &bits, 4);
    memcpy(&anchor, &anchor_bits, 4);
    sum = magnitude + anchor;
    memcpy(&sum_bits, &sum, 4);
    return (uint16_t)(sign | (((exponent - 113) << 10) + (sum_bits - anchor_bits)));
}
INLINE void vf_put_f16(void *p, vf v, int32_t n) {
    for (int32_t i = 0; i < LANES && i < n; i++) {
        uint16_t h = f16_from_f32(v[i]);
        memcpy((char *)p + 2 * i, &h, 2);
    }
}

#endif

/* ---- on top of those ---- */

/* The first n elements (all when n >= LANES), saturated to +-65504: an infinity in the cache would turn every
 * later row of its sequence into NaN. A NaN stays one. */
INLINE void vf_store_f16(void *p, vf v, int32_t n) {
    vf_put_f16(p, vf_max(vf_all(-65504), vf_min(vf_all(65504), v)), n);
}

/* Sums over lanes by one fixed tree (halves onto halves), of one vector or of SUMS at once, which costs a
 * third: out[i] has the bits of vf_sum(v[i]). */
#if defined(VEC_512) || defined(VEC_256)
INLINE float vf_sum(vf v) {
    __m256 eight = vf_fold(v);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#endif

#ifdef VEC_512
enum { SUMS = 8 };
INLINE vf vf_fold_two(vf a, vf b) { /* [a b], eight lanes each */
    return _mm512_insertf32x8(a, _mm512_castps512_ps256(b), 1) + (vf)_mm512_shuffle_f32x4(a, b, 0xee);
}
INLINE vf vf_fold_four(vf ab, vf cd) { /* [a b c d], four lanes each */
    return (vf)_mm512_shuffle_f32x4(ab, cd, 0x88) + (vf)_mm512_shuffle_f32x4(ab, cd, 0xdd);
}
INLINE void vf_sums(const vf *v, float *out) {
    vf abcd = vf_fold_four(vf_fold_two(v[0], v[1]), vf_fold_two(v[2], v[3]));
    vf efgh = vf_fold_four(vf_fold_two(v[4], v[5]), vf_fold_two(v[6], v[7]));
    vf twos = (vf)_mm512_shuffle_ps(abcd, efgh, 0x44) + (vf)_mm512_shuffle_ps(abcd, efgh, 0xee);
    vf sums = twos + (vf)_mm512_permute_ps(twos, 0xb1); /* a a e e, b b f f, ... */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums)));
}
#elif defined(VEC_256)
enum { SUMS = 4 };
INLINE void vf_sums(const vf *v, float *out) {
    __m256 ab = _mm256_permute2f128_ps(v[0], v[1], 0x20) + _mm256_permute2f128_ps(v[0], v[1], 0x31);
    __m256 cd = _mm256_permute2f128_ps(v[2], v[3], 0x20) + _mm256_permute2f128_ps(v[2], v[3], 0x31);
    __m256 twos = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
    __m256 sums = twos + _mm256_permute_ps(twos, 0xb1); /* a a c c, b b d d */
    __m128 low = _mm256_castps256_ps128(sums), high = _mm256_extractf128_ps(sums, 1);
    _mm_storeu_ps(out, _mm_unpacklo_ps(_mm_shuffle_ps(low, low, 0x08), _mm_shuffle_ps(high, high, 0x08)));
}
#else
enum { SUMS = 4 };
INLINE float vf_sum(vf v) {
    return (v[0] + v[2]) + (v[1] + v[3]);
}
INLINE void vf_sums(const vf *v, float *out) {
    for (int i = 0; i < SUMS; i++) out[i] = vf_sum(v[i]);
}
#endif

/* The greatest lane; lanes that are NaN may be passed over. */
INLINE float vf_max_lane(vf v) {
#if defined(VEC_512) || defined(VEC_256)
    __m256 eight = vf_fold_max(v);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float low = v[0] > v[1] ? v[0] : v[1], high = v[2] > v[3] ? v[2] : v[3];
    return low > high ? low : high;
#endif
}

/* e^x for x in [-87, 88], clamped outside, NaN kept; within 1.1e-7 of the result (40 million points tried).
 * x = n ln 2 + r with |r| <= ln 2 / 2, Taylor to r^7, times 2^n put together from its bits. Adding 1.5 * 2^23
 * rounds to an integer and leaves it in the low bits. */
INLINE vf vf_exp(vf x) {
    const vf magic = vf_all(0x1.8p23f);
    x = vf_max(vf_all(-87), vf_min(vf_all(88), x));
    vf shifted = vf_fma(x, vf_all(0x1.715476p0f), magic);
    vf n = shifted - magic;
    vf r = vf_fma(n, vf_all(-0x1.62e4p-1f), x); /* the head has few bits: exact times n */
    r = vf_fma(n, vf_all(-0x1.7f7d1cp-20f), r);
    vf p = vf_all(1.0f / 5040);
    p = vf_fma(p, r, vf_all(1.0f / 720));
    p = vf_fma(p, r, vf_all(1.0f / 120));
    p = vf_fma(p, r, vf_all(1.0f / 24));
    p = vf_fma(p, r, vf_all(1.0f / 6));
    p = vf_fma(p, r, vf_all(0.5f));
    p = vf_fma(p, r, vf_all(1));
    p = vf_fma(p, r, vf_all(1));
    return p * (vf)(((vu)shifted + 127) << 23);
}

/* cap tanh(x / cap); NaN kept. By Taylor where the sum of e^2z and 1 would round z away. */
INLINE vf vf_softcap(vf x, float cap) {
    const vf z = x / cap, far = 1 - 2 / (vf_exp(z + z) + 1), s = z * z;
    vf p = vf_fma(s, vf_all(62.0f / 2835), vf_all(-17.0f / 315));
    p = vf_fma(p, s, vf_all(2.0f / 15));
    p = vf_fma(p, s, vf_all(-1.0f / 3));
    const vf near = vf_fma(p * s, z, z);
    return cap * vf_select((vu)(s < 0.0625f), near, far);
}

#endif

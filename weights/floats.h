/* Conversions between f32 and the two 16-bit floats, bit for bit what IEEE 754 asks for (to nearest, ties to
 * even), on any machine. A NaN stays one. */
#ifndef OUTRIDER_FLOATS_H
#define OUTRIDER_FLOATS_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}
static inline float f32_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float bf16_to_f32(uint16_t h) {
    return f32_from_bits((uint32_t)h << 16);
}
static inline uint16_t bf16_from_f32(float f) {
    uint32_t bits = f32_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) return f32_from_bits(sign | f32_bits((float)mantissa * 0x1p-24f));
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}
static inline uint16_t f16_from_f32(float f) {
    uint32_t bits = f32_bits(f), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 1023));
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and more */
    if (bits < 0x38800000) /* no normal f16: the sum's last place is that of the least f16 */
        return (uint16_t)(sign | (f32_bits(f32_from_bits(bits) + 0.5f) - f32_bits(0.5f)));
    return (uint16_t)(sign | (((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10)));
}

/* OCP's e4m3: no infinity, NaN where all bits but the sign's are set. As f16 it is shifted in exponent by 8.
 */
static inline float e4m3_to_f32(uint8_t q) {
    if ((q & 0x7f) == 0x7f) return f32_from_bits(0x7fc00000 | (uint32_t)(q & 0x80) << 24);
    return f16_to_f32((uint16_t)((q & 0x80) << 8 | (q & 0x7f) << 7)) * 256;
}
/* What is beyond 448 counts as that. */
static inline uint8_t e4m3_from_f32(float f) {
    uint32_t bits = f32_bits(f), sign = bits >> 24 & 0x80;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint8_t)(sign | 0x7f);
    if (bits > 0x43e00000) bits = 0x43e00000;
    if (bits < 0x3c800000) /* below 2^-6: the sum's last place is that of the least e4m3, 2^-9 */
        return (uint8_t)(sign | (f32_bits(f32_from_bits(bits) + 0x1p14f) - f32_bits(0x1p14f)));
    return (uint8_t)(sign | (((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3)));
}

/* At any address. */
static inline float f16_load(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}
static inline void f16_store(void *p, float f) {
    uint16_t h = f16_from_f32(f);
    memcpy(p, &h, sizeof h);
}

#endif

/* Element types of tensors, as files store them and kernels read them.
 *
 * The block types are GGUF's: a row is cut into groups of 32 elements (K types: 256), each a scale (f16) and
 * the elements as integers. Q8_0: value = scale * integer, 8 bits from -127 to 127; Q4_0: the same with 4
 * bits from -8 to 7. The layout of each is in blocks.c. E4M3 are floats of 8 bits (OCP's e4m3: 4 of exponent,
 * 3 of mantissa, 448 the greatest, no infinity) as safetensors have them, their scales in another tensor; F8
 * are the same in groups of 128 with their scale. Kernels compute with the types up to F8; the others exist
 * in files only. */
#ifndef OUTRIDER_DTYPE_H
#define OUTRIDER_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_Q8_0,
    DTYPE_Q4_0,
    DTYPE_F8,
    DTYPE_Q4_1,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPE_E4M3,
    DTYPES
};

/* Elements of a block, 1 where every element stands alone, and bytes of a block. */
static inline size_t dtype_block(enum dtype t) {
    static const unsigned short elements[DTYPES] = {1, 1, 1, 32, 32, 128, 32, 32, 32, 256, 256, 256, 1};
    return elements[t];
}
static inline size_t dtype_bytes(enum dtype t) {
    static const unsigned short bytes[DTYPES] = {4, 2, 2, 34, 18, 132, 20, 22, 24, 144, 176, 210, 1};
    return bytes[t];
}
static inline bool dtype_is_quantized(enum dtype t) {
    return dtype_block(t) > 1;
}
/* Kernels read it. */
static inline bool dtype_is_computed(enum dtype t) {
    return t <= DTYPE_F8;
}
/* Bytes of k elements, a multiple of dtype_block. */
static inline size_t dtype_row_bytes(enum dtype t, size_t k) {
    return k / dtype_block(t) * dtype_bytes(t);
}
static inline const char *dtype_name(enum dtype t) {
    static const char *const names[DTYPES] = {"f32",  "f16",  "bf16", "q8_0", "q4_0", "f8",  "q4_1",
                                              "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "e4m3"};
    return names[t];
}

#endif

/* Element types of tensors, as files store them and kernels read them.
 *
 * The block types are GGUF's: a row is cut into groups of 32 elements, each a scale (f16) and the elements as
 * integers, value = scale * integer. Q8_0: 8 bits from -127 to 127; Q4_0: 4 bits from -8 to 7. */
#ifndef OUTRIDER_DTYPE_H
#define OUTRIDER_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0 };

/* Elements of a block, 1 where every element stands alone, and bytes of a block. */
static inline size_t dtype_block(enum dtype t) {
    return t == DTYPE_Q8_0 || t == DTYPE_Q4_0 ? 32 : 1;
}
static inline size_t dtype_bytes(enum dtype t) {
    switch (t) {
    case DTYPE_F32:
        return 4;
    case DTYPE_Q8_0:
        return 2 + 32;
    case DTYPE_Q4_0:
        return 2 + 16;
    default:
        return 2;
    }
}
static inline bool dtype_is_quantized(enum dtype t) {
    return dtype_block(t) > 1;
}
/* Bytes of k elements, a multiple of dtype_block. */
static inline size_t dtype_row_bytes(enum dtype t, size_t k) {
    return k / dtype_block(t) * dtype_bytes(t);
}
static inline const char *dtype_name(enum dtype t) {
    static const char *const names[] = {"f32", "f16", "bf16", "q8_0", "q4_0"};
    return names[t];
}

#endif

/* Element types of tensors, as files store them and kernels read them. */
#ifndef OUTRIDER_DTYPE_H
#define OUTRIDER_DTYPE_H

#include <stddef.h>

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

static inline size_t dtype_bytes(enum dtype t) { return t == DTYPE_F32 ? 4 : 2; }
static inline const char *dtype_name(enum dtype t) {
    return t == DTYPE_F32 ? "f32" : t == DTYPE_F16 ? "f16" : "bf16";
}

#endif

/* How the CPU holds quantised matrices: in panels, so that a register holds the same few elements of 16
 * outputs and no sum over lanes is ever needed.
 *
 * A panel is 16 outputs (the last one filled up with zeros), for all of k, in groups of 32 elements:
 *
 *     scales  [groups][16] f16, padded to a whole line of 64 bytes
 *     quants  [groups][lines][16 outputs][4 bytes]
 *
 * Q8_0: 8 lines a group, line i holds elements 4i..4i+3 of each output, as integer + 128.
 * Q4_0: 4 lines a group, line i holds elements 4i..4i+3 in the low halves and 16 + 4i.. in the high halves of
 * its bytes, as integer + 8: the bytes of the file's blocks, in another order.
 * Unsigned, because that is what the multipliers of bytes take on one side.
 */
#ifndef OUTRIDER_CPU_PANEL_H
#define OUTRIDER_CPU_PANEL_H

#include <stddef.h>
#include <stdint.h>

#include "weights/dtype.h"

enum { PANEL = 16, GROUP = 32, LINE = 64 };

static inline int32_t panel_lines(enum dtype t) {
    return t == DTYPE_Q8_0 ? 8 : 4;
}
/* What is added to each integer to make it unsigned. */
static inline int32_t panel_bias(enum dtype t) {
    return t == DTYPE_Q8_0 ? 128 : 8;
}
static inline size_t panel_scale_bytes(int32_t groups) {
    return ((size_t)groups * PANEL * 2 + LINE - 1) / LINE * LINE;
}
static inline size_t panel_bytes(enum dtype t, int32_t groups) {
    return panel_scale_bytes(groups) + (size_t)groups * (size_t)panel_lines(t) * LINE;
}

/* Of a matrix [n][k]. */
size_t panels_bytes(enum dtype t, int32_t n, int32_t k);
/* Rows of GGUF blocks into panels. */
void panels_pack(enum dtype t, const void *rows, int32_t n, int32_t k, void *panels);

#endif

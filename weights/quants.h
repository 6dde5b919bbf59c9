/* Quantised element types: their arithmetic, and which tensor is held in which type.
 *
 * Source of the block formats: GGUF (ggml). Reading gives the bits that the `gguf` Python package gives, and
 * so does writing Q8_0, Q4_1, Q5_0 and Q5_1; writing Q4_0 and the K types searches for scales of less error.
 */
#ifndef OUTRIDER_QUANTS_H
#define OUTRIDER_QUANTS_H

#include <stdint.h>

#include "runtime/outrider.h"
#include "weights/dtype.h"

/* What a user asks for with --quant. */
enum quant { QUANT_NONE, QUANT_Q8, QUANT_Q4, QUANT_F8 };

/* "none", "q8", "q4" or "fp8"; OUTRIDER_EINVAL names the four. */
outrider_status quant_by_name(const char *name, enum quant *out);

/* The type in which a matrix with rows of k elements is computed when its file has `file`, which need not be
 * one that kernels read. Rows that are no whole number of groups stay as they are, and nothing is turned into
 * a type that takes more memory. The head's last rounding goes straight into the logits, so q4 leaves it at 8
 * bits, and fp8 gives it those of q8, which lose less. f8: kernels read F8. */
enum dtype quant_choose(enum quant asked, enum dtype file, int64_t k, bool head, bool f8);

/* One row of k elements (a whole number of blocks) to and from f32, at any address (blocks.c). A group of 32
 * with a value that is not finite gets the scale NaN. */
void quants_to_f32(enum dtype type, const void *row, size_t k, float *out);
void quants_from_f32(enum dtype type, const float *x, size_t k, void *row);

/* What elements of E4M3 are multiplied by: a number for each `rows` rows and `cols` columns, `stride` of them
 * in a row. data NULL: nothing. */
struct scales {
    const void *data;
    enum dtype dtype;
    size_t rows, cols, stride, first; /* the matrix begins in row `first` of what they are for */
};

/* Rows of one type into rows of another, with so many threads (at most 16; 0: one a core). `to`: n rows of
 * dtype_row_bytes(to_type, k), which may be the same type. head_rows: 0, or the rows of an attention head
 * whose two halves alternate in `from` (GGUF files of the Llama family) and follow each other in `to`.
 * E4M3 with scales becomes F8 as it is, where no group of 128 has two scales. */
outrider_status quants_convert(enum dtype from_type, const void *from, const struct scales *scales,
                               enum dtype to_type, void *to, size_t n, size_t k, size_t head_rows,
                               int32_t threads);

#endif

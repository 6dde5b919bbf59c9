/* The rotations that give positions to queries and keys (Su et al. 2021), with every scaling of rope_config.
 */
#ifndef OUTRIDER_ROPE_H
#define OUTRIDER_ROPE_H

#include "weights/weights.h"

/* The angle a position turns each pair of a head by: frequency [head_dim / 2], in float32 as the reference
 * keeps it. `positions` is the context that is asked for: longrope has one set of factors for contexts within
 * the original one and another for longer ones, and a context keeps the same from its first token on. */
void rope_frequencies(const struct rope_config *r, int32_t head_dim, int32_t positions, float *frequency);

/* cos and sin of positions [from, from + n), out [n][head_dim / 2][2], times attention_factor. */
void rope_rows(const struct rope_config *r, int32_t head_dim, const float *frequency, int32_t from, int32_t n,
               float *out);

#endif

/* Names of tensors: GGUF's and Hugging Face's for the same thing. */
#ifndef OUTRIDER_NAMES_H
#define OUTRIDER_NAMES_H

#include <stdbool.h>
#include <stddef.h>

enum { NAMES_MAX = 128 };

/* What the family makes of names and rows. */
struct naming {
    bool gemma; /* norms around both ends of each block, and stored with 1 added */
    bool fused; /* gate and up in one tensor, which GGUF calls up */
    bool pairs; /* rows of queries and keys stand in pairs that rotate together, where Hugging Face has them
                   half a head apart */
};
struct naming naming_of(const char *architecture);

/* "blk.3.attn_q.weight" to "model.layers.3.self_attn.q_proj.weight" and back; false when the name is none of
 * the table's, and *out is a copy of it. Names are shorter than NAMES_MAX. */
bool name_to_hf(const struct naming *naming, const char *gguf, char out[NAMES_MAX]);
bool name_to_gguf(const struct naming *naming, const char *hf, char out[NAMES_MAX]);

/* By their name of Hugging Face: tensors whose rows are in pairs, and those with 1 added, in GGUF files. */
bool name_has_pairs(const struct naming *naming, const char *hf, bool *keys);
bool name_has_one_added(const struct naming *naming, const char *hf);

#endif

/* Models: tensors mapped from safetensors or GGUF files, and their configuration.
 *
 * A model is named by a path: a folder in Hugging Face's layout, a GGUF file, or a folder that holds one
 * (source.h). Whichever it is, tensors have Hugging Face's names and shapes here.
 *
 * Files are untrusted. Every count, offset and shape is checked before use; nothing outside a mapping is
 * read; a bad file gives OUTRIDER_EMODEL and one line that names file and field. A tensor's bytes are mapped,
 * and live as long as the `struct weights` that owns the mapping.
 */
#ifndef OUTRIDER_WEIGHTS_H
#define OUTRIDER_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"
#include "weights/dtype.h"
#include "weights/family.h"
#include "weights/quants.h"

enum { TENSOR_MAX_DIMS = 4 };

struct tensor {
    const char *name; /* owned by the weights */
    const char *file; /* path of the file that holds it, for messages */
    enum dtype dtype;
    int32_t n_dims;
    int64_t shape[TENSOR_MAX_DIMS]; /* outermost first; 1 past n_dims */
    const void *data;               /* row-major, in the mapping; aligned to 2 bytes, but E4M3 to none */
    size_t bytes;
    /* How a GGUF file keeps it unlike a folder would; weights_rows and weights_vector see to it. */
    int32_t head_rows;    /* rows of a head whose halves alternate; 0: they follow each other */
    bool one_added;       /* to each element */
    struct scales scales; /* of E4M3 */
};

struct weights;

/* Of a folder opens model.safetensors, or every shard that model.safetensors.index.json names.
 * Checks each promise of the format: header size (<= 100 MB, inside the file), a JSON object without
 * duplicate keys, known dtypes, shapes whose product times the element size equals the byte range (overflow
 * checked), ranges that are sorted without holes or overlap and cover the data exactly, __metadata__ strings
 * only. The scales of E4M3 are no tensors of their own here. With an index: shard names without '/' or '..',
 * each tensor in the shard the index names, none lost and none twice. A shard may be a symlink (hub caches
 * use them). Of a GGUF file see gguf.h. */
outrider_status weights_open(const char *path, struct weights **out);
void weights_close(struct weights *w); /* NULL is fine */

const struct tensor *weights_find(const struct weights *w, const char *name); /* NULL when absent */
size_t weights_count(const struct weights *w);
const struct tensor *weights_at(const struct weights *w, size_t i); /* sorted by name */
size_t weights_bytes(const struct weights *w);                      /* sum of all tensors' bytes */

/* A matrix [n][k] as Hugging Face has it, in type `type`: n rows of dtype_row_bytes(type, k) to `out`. */
outrider_status weights_rows(const struct tensor *t, enum dtype type, int32_t threads, void *out);
/* The same in memory that lives as long as the weights: the mapping itself where that is what it holds. */
outrider_status weights_hold(struct weights *w, const struct tensor *t, enum dtype type, int32_t threads,
                             const void **out);
/* All elements of a vector in f32 to `out`. */
outrider_status weights_vector(const struct tensor *t, float *out);

enum { CONFIG_MAX_EOS = 8, CONFIG_MAX_LAYERS = 1024, CONFIG_MAX_HEAD_DIM = 512 };

/* How RoPE's frequencies, theta^(-2 i / head_dim) for i < head_dim / 2, are changed for long contexts. */
enum rope_type {
    ROPE_DEFAULT, /* not at all */
    ROPE_LINEAR,  /* divided by factor (Chen et al. 2023) */
    ROPE_LLAMA3,  /* low ones divided by factor, high ones left, those between in between */
    ROPE_YARN,    /* the same with borders counted in turns (Peng et al. 2023) */
    ROPE_LONG,    /* each divided by its own factor (Ding et al. 2024) */
};

struct rope_config {
    enum rope_type type;
    float theta, factor;                      /* factor >= 1 */
    float low_freq_factor, high_freq_factor;  /* llama3; low < high */
    float beta_fast, beta_slow;               /* yarn: turns within the original context; */
    bool truncate;                            /* borders at whole dimensions */
    float attention_factor;                   /* cos and sin are multiplied by it; 1 for most */
    int32_t original_max_position_embeddings; /* llama3, yarn, long */
    /* long, [head_dim / 2]: for contexts up to the original one, and for longer ones */
    float short_factor[CONFIG_MAX_HEAD_DIM / 2], long_factor[CONFIG_MAX_HEAD_DIM / 2];
};

/* config.json, in upstream spelling. Every field is validated: positive, within the limits below, heads
 * divisible, dims even where RoPE needs it, finite floats; vocab_size etc. <= 2^24, layers <= 1024,
 * head_dim <= 512. */
struct model_config {
    char model_type[32];
    struct family family; /* as config.json has changed it */
    int32_t vocab_size, hidden_size, intermediate_size, num_hidden_layers;
    int32_t num_attention_heads, num_key_value_heads, head_dim;
    int32_t max_position_embeddings;
    float rms_norm_eps;
    struct rope_config rope, rope_local;                   /* of global and of local layers */
    int32_t sliding_window;                                /* 0: none */
    bool local[CONFIG_MAX_LAYERS];                         /* sees its last sliding_window positions */
    float embedding_scale, attention_scale;                /* 1 and 1 / sqrt(head_dim) for most */
    float attn_logit_softcapping, final_logit_softcapping; /* x becomes cap tanh(x / cap); 0: none */
    bool tie_word_embeddings;
    int32_t bos_token_id;                        /* -1 when none */
    int32_t eos_token_id[CONFIG_MAX_EOS], n_eos; /* config.json's and generation_config.json's, no repeats */
};

/* generation_config.json: NAN / -1 where the file says nothing. A missing file is fine. */
struct generation_config {
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    int32_t do_sample; /* -1 unsaid, 0, 1 */
};

outrider_status config_read(const char *path, struct model_config *model,
                            struct generation_config *generation);

#endif

/* Model families: what a family computes beyond the numbers of its config.json, as one row of a table. A new
 * family that differs in these things only is a new row; config.c reads its numbers, runtime/bind.c knows the
 * names of its tensors by the same flags. */
#ifndef OUTRIDER_FAMILY_H
#define OUTRIDER_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

/* Which layers see only the last sliding_window positions, where config.json has no layer_types. */
enum windowed {
    WINDOW_NEVER, /* a sliding_window is refused */
    WINDOW_ALL,   /* every layer, when there is a sliding_window */
    WINDOW_UPPER, /* with use_sliding_window: layers from max_window_layers on */
    WINDOW_CYCLE, /* all but the last of each cycle of layers */
};

struct family {
    const char *model_type; /* of config.json */
    enum windowed windowed;
    int32_t cycle;         /* of WINDOW_CYCLE, unless sliding_window_pattern says another */
    int32_t window;        /* sliding_window where config.json has none; 0: no window */
    float rope_theta;      /* where config.json has none; 0: 10000; */
    float local_theta;     /* and of local layers; 0: they rotate as all do */
    bool qkv_bias;         /* vectors added to queries, keys and values; */
    bool output_bias;      /* to attention's output; */
    bool mlp_bias;         /* and to the products of the MLP */
    bool qk_norm;          /* RMSNorm of each query and key head before RoPE */
    bool post_norms;       /* RMSNorm of what attention and MLP add, before it is added */
    bool norm_plus_one;    /* norms multiply by 1 + weight */
    bool fused;            /* queries, keys and values are one tensor; gate and up are one */
    bool gelu;             /* GELU by tanh in place of SiLU */
    bool scaled_embedding; /* the embedding is multiplied by sqrt(hidden_size) */
    bool tied;             /* the head is the embedding unless config.json says otherwise */
    /* Where config.json has none; 0: 1 / sqrt(head_dim), and no cap */
    float query_pre_attn_scalar, attn_logit_softcapping, final_logit_softcapping;
};

/* The row of a config.json's model_type; NULL when there is none. */
const struct family *family_find(const char *model_type);

/* "llama, mistral, ..." for messages. */
const char *family_names(void);

#endif

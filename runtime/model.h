/* A model on a device: its weights bound, its part of the page pool, and one forward pass for any rows. */
#ifndef OUTRIDER_MODEL_H
#define OUTRIDER_MODEL_H

#include "kernels/ops.h"
#include "weights/quants.h"
#include "weights/weights.h"

struct model_options {
    const char *folder;
    outrider_which id;
    const struct ops *ops;
    struct backend *be;          /* borrowed; outlives the model */
    enum dtype cache_k, cache_v; /* of the cache's keys and values */
    enum quant quant;            /* of the matrices, as they are loaded */
    int32_t page_size, pages;    /* of the pool */
    int32_t ctx_size;            /* positions that RoPE must know */
    int32_t max_rows;            /* rows of one pass */
    int32_t max_logits;          /* rows of one pass that may ask for logits */
    int32_t threads;             /* that quantise; 0: one a core */
    /* Bytes of the files. */
    void (*progress)(void *user, double done, double total);
    void *user;
};

struct layer {
    struct attention_block attention;
    struct projection output; /* [hidden][heads * head_dim] */
    struct mlp_block mlp;
    struct projection down; /* [hidden][intermediate] */
    struct kv_layer kv;
};

struct model {
    struct model_config config;
    struct generation_config generation;
    const struct ops *ops;
    struct backend *be;
    struct weights *weights;
    struct layer *layers;
    outrider_which id;
    struct matrix embedding;
    struct head_block head;
    enum quant quant;
    /* Of the files, while they are loaded. */
    size_t bound_bytes;
    int32_t threads;   /* as in the options */
    float *rope;       /* [ctx_size][head_dim / 2][2]; filled as far as positions were asked for */
    float *rope_local; /* of local layers, the same way; NULL: they rotate as all do */
    float *rope_host;  /* [ROPE_CHUNK] of its positions, to fill it with */
    int32_t rope_filled, ctx_size;
    int32_t page_size, pages, max_rows, max_logits;
    bool prefix; /* model_prefix: everything above and below is another's */
    /* activations of one pass, backend memory */
    float *x;           /* [max_rows][hidden] */
    void *q, *attended; /* [max_rows][heads * head_dim] */
    void *hidden;       /* [max_rows][intermediate] */
    float *logits;      /* [max_logits][vocab] */
};

/* Reads the folder, checks that every tensor is there with the shape the configuration says, binds it.
 * OUTRIDER_EMODEL names tensor and shapes. */
outrider_status model_open(const struct model_options *options, struct model **out);
/* Leaves the model the first n tokens of its vocabulary: the head computes no others. Once, before any pass.
 * OUTRIDER_EMODEL where the head's layout does not allow it. */
outrider_status model_limit_vocabulary(struct model *m, int32_t n);
/* The first n layers of a model with its norm and head, as a model of its own that proposes for it: weights,
 * cache and activations are m's, which must outlive it. 1 <= n <= m's layers. */
outrider_status model_prefix(const struct model *m, outrider_which id, int32_t n, struct model **out);
void model_close(struct model *m);

/* Runs the rows through all layers, filling their places in the cache, and leaves the logits of rows pick[0..
 * n_pick) (host memory; NULL: the last n_pick) in m->logits. Asynchronous on the device. A small pass is
 * recorded where the device can: rows of the same `place` have their arrays at the same addresses every time.
 */
void model_forward(struct model *m, const struct rows *rows, uint32_t place, const int32_t *pick,
                   int32_t n_pick);

/* Copies the keys and values of n <= TREE_ROWS tokens of every layer to other places. */
void model_move(struct model *m, int32_t n, const struct kv_place *from, const struct kv_place *to);
/* Bytes of a page of one layer's keys, or of its values, in their type. */
size_t model_page_bytes(const struct model *m, enum dtype type);
/* Copies page `from` of every layer to page `to`. */
void model_copy_page(struct model *m, int32_t to, int32_t from);

/* What the folder says, without binding anything. */
outrider_status model_inspect(const char *folder, enum dtype cache_k, enum dtype cache_v, enum quant quant,
                              outrider_model_info *info);
void model_info(const struct model *m, outrider_model_info *info);

#endif

/* The contract between the models and the devices: one prototype an operation, one table of them a backend.
 *
 * A transformer layer is five operations (qkv, attention, project, gate_up, project); embed before and logits
 * after them make a forward pass over any number of rows. A *row* is one token of one sequence; prefill,
 * draft step and verify differ only in how many rows they have.
 *
 * Row invariance, the promise everything rests on: the bits of a row's result depend on that row's own input
 * and its own sequence's cache only; not on the number of rows, their order, the other rows, the thread count
 * or the launch shape. So: one accumulation order along k for any number of rows, and attention in splits of
 * one page each, merged in page order.
 *
 * Arithmetic: activations are rounded to bf16 before a product with bf16 weights, and kept in f32 for f32,
 * f16 and F8 weights; products are accumulated in f32. The residual stream x and the logits are f32. Norms,
 * softmax, RoPE and SiLU are computed in f32.
 *
 * Memory: pointers named here are *backend memory* (from ops->alloc or ops->weight) unless marked host; on
 * the CPU that is ordinary memory. Operations are asynchronous where the device is; ops->download and
 * ops->sync wait, and sync reports what went wrong since the last one. Shapes are the caller's promise
 * (model.c checks a file's shapes once, at open); operations check them by assert only. No operation
 * allocates: scratch is set aside by ops->reserve.
 */
#ifndef OUTRIDER_OPS_H
#define OUTRIDER_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"
#include "weights/dtype.h"

struct backend; /* a device and its scratch; opaque, one an engine */

/* A weight matrix [n][k]: y[n] = sum over k of w[n][k] x[k]. F32, F16 and BF16 lie row-major; block types lie
 * as the backend likes to read them, so only it looks into data. */
struct matrix {
    const void *data;
    enum dtype dtype;
    int32_t n, k;
};

/* The rows of one pass. */
struct rows {
    int32_t n;
    const int32_t *token;    /* [n] */
    const int32_t *position; /* [n] place in its sequence; the row attends to positions 0..position */
    const int32_t *slot;     /* [n] which page table */
    const int32_t *table;    /* [slots][table_stride] page ids, in sequence order */
    int32_t table_stride;
    int32_t max_position; /* host value: no row's position exceeds it (bounds the launch, not the result) */
    bool prefill;         /* rows are consecutive tokens of one prompt, in one chunk with borders at multiples
                             of the chunk size: a backend may use another (also row-invariant) product here */
    /* NULL: the token at a position lies in that place of its sequence's pages. Otherwise the rows, at most
     * TREE_ROWS, are of a tree of proposals: of one sequence, and several may share a position.
     * [n][TREE_ROWS] places: of position path[r][0] + i on the way that ends in row r there is path[r][i];
     * before the root path[r][0], which all rows share, places are positions. A row's bits are those it has
     * when its way is all there is and lies in order. */
    const int32_t *path;
};

enum {
    TREE_ROWS = OUTRIDER_MAX_TREE +
                1,  /* of a tree of proposals: its root, which is the last token written, and the proposals */
    TREE_WIDTH = 4, /* proposals behind one row */
    MOVE_LAYERS = 64, /* that one move serves */
};

/* Where a position of host row r lies; on the CPU backend memory is the host's. */
static inline int32_t rows_place(const struct rows *rows, int32_t r, int32_t position) {
    const int32_t *path = rows->path ? rows->path + (ptrdiff_t)r * TREE_ROWS : NULL;
    return path && position >= path[0] ? path[position - path[0]] : position;
}

/* A token's place in the page pool. */
struct kv_place {
    int32_t page, offset;
};

/* One layer's part of the page pool. k and v are [pages][kv_heads] blocks, each of one head's vectors of the
 * page's tokens: [page_size][head_dim] of F16 or F32; of Q8_0 [page_size][head_dim] of int8, then
 * [page_size][kv_groups] f16 scales. Elements i and i + head_dim / 2, which RoPE turns together, share the
 * scale of group i / KV_GROUP: what stands out in one of them moves to the other and spoils no second group.
 * A vector is quantised when it is appended, by itself: scale = the greatest magnitude / 127 as f16 (NaN of a
 * NaN), integer = element / scale to nearest, even. Elements beyond KV_MOST count as that, so that what is
 * read back is a finite f16. */
struct kv_layer {
    void *k, *v;
    enum dtype k_dtype, v_dtype; /* F16, F32 or Q8_0 each; the same unless ops->mixed_cache */
    int32_t page_size;
};

enum { KV_GROUP = 16, KV_MOST = 127 * 512 };

static inline int32_t kv_groups(int32_t head_dim) {
    return (head_dim / 2 + KV_GROUP - 1) / KV_GROUP;
}
/* Bytes of one head's `tokens` vectors, scales and all. */
static inline size_t kv_head_bytes(enum dtype t, int32_t tokens, int32_t head_dim) {
    const size_t vector = t == DTYPE_Q8_0 ? (size_t)head_dim + 2 * (size_t)kv_groups(head_dim)
                                          : (size_t)head_dim * dtype_bytes(t);
    return (size_t)tokens * vector;
}

/* What one layer's attention needs. */
struct attention_block {
    const float *norm; /* [hidden] RMSNorm weight (Zhang and Sennrich 2019) */
    float norm_eps;
    struct matrix q, k, v; /* [heads * head_dim][hidden], [kv_heads * head_dim][hidden] twice */
    const float *rope;     /* [positions][head_dim / 2][2] cos and sin (Su et al. 2021); halves rotate */
    int32_t heads, kv_heads, head_dim; /* query head h reads kv head h / (heads / kv_heads) */
    float scale;                       /* of scores; 1 / sqrt(head_dim) for most */
    /* What only some families have. */
    float softcap;     /* a score s counts as softcap tanh(s / softcap); 0: as it is */
    int32_t window;    /* a row attends to positions > its own - window; 0: to all before it */
    const float *bias; /* [heads + 2 kv_heads][head_dim], of queries, keys and values; NULL: none */
    const float *q_norm, *k_norm; /* [head_dim], RMSNorm of each query and key before RoPE; NULL: none */
};

struct mlp_block {
    const float *norm;
    float norm_eps;
    struct matrix gate, up; /* [intermediate][hidden] */
    bool gelu;              /* GELU by tanh (Hendrycks and Gimpel 2016) in place of SiLU */
    const float *bias;      /* [2][intermediate], of gate and up; NULL: none */
};

/* What ends each half of a layer: x += W a, or of some families x += rmsnorm(W a + bias). */
struct projection {
    struct matrix w;   /* [hidden][heads * head_dim or intermediate] */
    const float *bias; /* [hidden]; NULL: none */
    const float *norm; /* [hidden], RMSNorm weight; NULL: the product is added as it is */
    float norm_eps;
};

/* What makes logits of x: W rmsnorm(x), and a logit l counts as softcap tanh(l / softcap) unless that is 0.
 */
struct head_block {
    const float *norm;
    float norm_eps;
    struct matrix w; /* [vocab][hidden] */
    float softcap;
};

/* One session's part of a round: how its tokens are chosen, and which rows are its own. */
struct trial {
    float temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int32_t top_k;
    int32_t rule; /* outrider_accept_rule */
    uint64_t seed;
    int32_t place;   /* tokens before the round: the place in the text of the first that it may write */
    int32_t k;       /* proposals */
    int32_t certain; /* proposals were not drawn: each has probability 1 */
    int32_t window;  /* tokens that penalties look back on; 0 for none */
    int32_t history,
        n_history; /* where in `extra` those before the round begin, and how many: min(window, place) */
    int32_t bias, n_bias; /* where in `extra` biased tokens begin, all different; their float biases follow */
    int32_t row[OUTRIDER_MAX_DRAFT + 1]; /* of the last token and of each proposal */
};

/* How a trial ended. */
struct verdict {
    int32_t n;     /* proposals that stay; -1 when no token at all is possible */
    int32_t token; /* the verifier's own after them */
};

/* Activations q, attended and hidden below are [rows][width] in a type of the backend's choosing, at most
 * four bytes an element; callers allocate four and never look inside. */
struct ops {
    const char *name;
    bool mixed_cache; /* keys and values may be kept in different types */
    bool f8_weights;  /* matrices may be F8; their k is a multiple of dtype_block */

    /* -- memory -- */
    outrider_status (*alloc)(struct backend *be, size_t bytes,
                             void **out);         /* 64-byte aligned, uninitialised */
    void (*release)(struct backend *be, void *p); /* of alloc; NULL is fine */
    /* Puts a matrix [n][k] from host memory (rows of dtype_row_bytes(dtype, k), one after the other) where
     * kernels can read it: F32, F16 and BF16 are the host memory itself on the CPU and a copy elsewhere, so
     * the host memory must stay until weight_release; block types are always copied, into the backend's own
     * layout, and the host memory may go at once. OUTRIDER_EINVAL for a type that the device has no kernels
     * for. Released matrices may be all zeros. */
    outrider_status (*weight)(struct backend *be, const void *host, enum dtype dtype, int32_t n, int32_t k,
                              struct matrix *out);
    void (*weight_release)(struct backend *be, const struct matrix *m);
    /* Scratch for passes of up to max_rows rows whose widest vector has max_width elements; may be called
     * again with more (the greatest asked for counts). */
    outrider_status (*reserve)(struct backend *be, int32_t max_rows, int32_t max_width);
    void (*upload)(struct backend *be, void *to, const void *host_from,
                   size_t bytes); /* host memory reusable at once */
    outrider_status (*download)(struct backend *be, void *host_to, const void *from,
                                size_t bytes); /* waits */
    void (*copy)(struct backend *be, void *to, const void *from, size_t bytes);
    outrider_status (*sync)(struct backend *be);

    /* -- the forward pass -- */
    /* x[r] = scale table[token[r]]. table: [vocab][hidden]; x: [rows][hidden] f32. */
    void (*embed)(struct backend *be, const struct rows *rows, const struct matrix *table, float scale,
                  float *x);
    /* n = rmsnorm(x); q = rope(Wq n); k = rope(Wk n) and v = Wv n appended to the cache at the row's
     * position, with the block's bias and norms between product and RoPE. q: [rows][heads * head_dim]. */
    void (*qkv)(struct backend *be, const struct rows *rows, const struct attention_block *b, const float *x,
                void *q, const struct kv_layer *kv);
    /* attended[r] = softmax(scale q K^T) V over positions 0..position[r] of the row's sequence, or the last
     * `window` of them.
     * Source: paged layout, Kwon et al. 2023; online softmax, Milakov and Gimelshein 2018. */
    void (*attention)(struct backend *be, const struct rows *rows, const struct attention_block *b,
                      const void *q, const struct kv_layer *kv, void *attended);
    /* x[r] += W a[r], see struct projection. a: [rows][k] from attention or gate_up; x: [rows][n] f32. */
    void (*project)(struct backend *be, const struct rows *rows, const struct projection *p, const void *a,
                    float *x);
    /* n = rmsnorm(x); hidden = silu(Wgate n) * (Wup n) (SwiGLU, Shazeer 2020), or gelu.
     * hidden: [rows][intermediate]. */
    void (*gate_up)(struct backend *be, const struct rows *rows, const struct mlp_block *b, const float *x,
                    void *hidden);
    /* logits[i] = W rmsnorm(x[pick[i]]) for i < n_pick; pick in host memory, NULL for rows 0..n_pick;
     * logits [n_pick][vocab] f32. */
    void (*logits)(struct backend *be, const struct head_block *h, const float *x, const int32_t *host_pick,
                   int32_t n_pick, float *logits);

    /* token[i] = index of the greatest of logits[i][0..vocab), the lowest such index on a tie; NaN counts as
     * -infinity. token in backend memory. */
    void (*argmax)(struct backend *be, const float *logits, int32_t n, int32_t vocab, int32_t *token);
    /* token[to[i][j]] = index of the j-th greatest of logits[i], in argmax's order, for the j < TREE_WIDTH
     * that `to` has a row for (not -1). What is not finite may be named twice. to: [n][TREE_WIDTH], backend
     * memory. Logits are lost. */
    void (*top)(struct backend *be, float *logits, int32_t n, int32_t vocab, const int32_t *to,
                int32_t *token);
    /* Copies keys and values of n <= TREE_ROWS tokens in each of n_layers <= MOVE_LAYERS, from some places to
     * others. layers, from, to: host memory. */
    void (*move)(struct backend *be, const struct kv_layer *layers, int32_t n_layers, int32_t kv_heads,
                 int32_t head_dim, int32_t n, const struct kv_place *from, const struct kv_place *to);

    /* -- the round on the device: NULL in a backend that leaves it to the host. The tokens are those that
     * runtime/sampler.c and runtime/accept.c would write, bit for bit (kernels/sampling.h). Trials, extra,
     * token, q and p are backend memory; token, q and p go by rows; q and p are [rows][vocab]. At most 64
     * trials. Logits are lost. -- */
    /* Draws proposal `step` (from 0) of the first n trials from logits [n][vocab]: token[row[step + 1]] is
     * the proposal, q[row[step + 1]] what it was drawn from. */
    void (*propose)(struct backend *be, const struct trial *trials, const int32_t *extra, int32_t n,
                    int32_t step, float *logits, int32_t vocab, int32_t *token, float *q);
    /* Judges the proposals of n trials, each at most `most`, from the verifier's logits [rows][vocab] and
     * what propose left; p is scratch. */
    void (*judge)(struct backend *be, const struct trial *trials, const int32_t *extra, int32_t n,
                  int32_t most, float *logits, int32_t vocab, const int32_t *token, const float *q, float *p,
                  struct verdict *verdict);

    /* -- recording (CUDA graphs): a pass is recorded once for a key and replayed afterwards; whatever changes
     * between passes of one key lives in backend memory. The CPU's replay always says no, its record does
     * nothing. -- */
    bool (*replay)(struct backend *be, uint64_t key); /* runs what key names; false when there is no such */
    void (*record_begin)(struct backend *be, uint64_t key);
    void (*record_end)(struct backend *be); /* and runs it */

    /* -- meters -- */
    /* Microseconds by the device's own clock, of what began with a pass and ended with a small download since
     * this was last asked: in which it worked, and in which it waited for that pass before. NULL where
     * the host is the device. */
    void (*round_times)(struct backend *be, double *busy_us, double *idle_us);
    /* Reads `bytes` bytes as fast as the device can, several times; the best rate. */
    outrider_status (*read_bandwidth)(struct backend *be, size_t bytes, double *gb_per_s);
    /* A line for people: "cpu, avx512bf16, 2 threads". */
    void (*describe)(struct backend *be, char *line, size_t bytes);

    void (*close)(struct backend *be);
};

/* Opens the device named as in outrider_engine_options.device. OUTRIDER_EINVAL for an unknown name (the line
 * lists what there is), OUTRIDER_ENOMEM when there is no such device. threads: 0 for one a core. */
outrider_status ops_open(const char *device, int32_t threads, const struct ops **ops, struct backend **be);

/* One backend's own opener; `name` is what follows "cpu:" or "cuda:", or "". */
outrider_status cpu_open(const char *name, int32_t threads, const struct ops **ops, struct backend **be);
outrider_status cuda_open(const char *name, const struct ops **ops, struct backend **be);

#endif

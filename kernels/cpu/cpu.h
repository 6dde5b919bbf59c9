/* Inside the CPU backend: what cpu.c gives to the kernels, and the kernels to one another.
 *
 * cpu.c is built once; every other file of the folder once for each instruction set, its functions renamed by
 * ISA_NAME. Work is cut into *items* (blocks of outputs, pairs of row and kv head) that any worker may take:
 * an item's bits never depend on who computed it.
 *
 * A product's right-hand side are *activations*: rows rounded and ordered the way the weights want them
 * (acts.h).
 */
#ifndef OUTRIDER_CPU_H
#define OUTRIDER_CPU_H

#include "kernels/ops.h"

#define ISA_PASTE_(name, isa) name##_##isa
#define ISA_PASTE(name, isa) ISA_PASTE_(name, isa)
#define ISA_NAME(name) ISA_PASTE(name, ISA)

static inline int32_t min_i32(int32_t a, int32_t b) {
    return a < b ? a : b;
}
static inline int32_t ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

/* ---- cpu.c: workers and memory ---- */

enum { ROW_PADDING = 64 }; /* bytes between prepared rows */

/* Activations up to this size are prepared by each worker for itself, which costs less than meeting. */
enum { WORKER_SCRATCH_BYTES = 64 * 1024 };

struct worker {
    struct backend *be;
    void *scratch;       /* WORKER_SCRATCH_BYTES, its own */
    int32_t first, last; /* items in hand */
    int32_t taken;       /* items of this job so far */
};

typedef void work_fn(void *job, struct worker *w);

/* Runs work(job, worker) on one or more workers until n items are done. Each calls claim until it says no.
 * `grain`: fewest items worth handing over; fewer than two such portions stay with the caller. */
void cpu_parallel(struct backend *be, int32_t n, int32_t grain, work_fn *work, void *job);
bool cpu_claim(struct worker *w, int32_t *first, int32_t *last);
/* Set aside by reserve, each of max_rows times max_width floats; one user an operation. */
void *cpu_scratch(struct backend *be, size_t bytes);
float *cpu_branch(struct backend *be); /* for what a post-norm waits for */

outrider_status cpu_alloc(struct backend *be, size_t bytes, void **out);
void cpu_release(struct backend *be, void *p);
outrider_status cpu_weight(struct backend *be, const void *host, enum dtype dtype, int32_t n, int32_t k,
                           struct matrix *out);
void cpu_weight_release(struct backend *be, const struct matrix *m);
outrider_status cpu_reserve(struct backend *be, int32_t max_rows, int32_t max_width);
void cpu_copy(struct backend *be, void *to, const void *from, size_t bytes);
void cpu_move(struct backend *be, const struct kv_layer *layers, int32_t n_layers, int32_t kv_heads,
              int32_t head_dim, int32_t n, const struct kv_place *from, const struct kv_place *to);
outrider_status cpu_download(struct backend *be, void *to, const void *from, size_t bytes);
outrider_status cpu_sync(struct backend *be);
bool cpu_replay(struct backend *be, uint64_t key);
void cpu_record_begin(struct backend *be, uint64_t key);
void cpu_record_end(struct backend *be);
void cpu_describe(struct backend *be, char *line, size_t bytes);
void cpu_close(struct backend *be);

static inline void add_bias(const float *bias, int32_t n, float *y) {
    for (int32_t i = 0; i < n; i++) y[i] += bias[i];
}

#ifdef ISA
/* ---- norm.c: rows in ---- */

#define cpu_embed ISA_NAME(cpu_embed)
#define inputs_ready ISA_NAME(inputs_ready)
#define inputs_of ISA_NAME(inputs_of)
#define rms_scale ISA_NAME(rms_scale)
#define add_normed ISA_NAME(add_normed)

struct acts {
    const char *data;
    size_t row_bytes;
};

/* The rows that a product reads, before rounding. */
struct inputs {
    const float *x;    /* [..][k] */
    const float *norm; /* RMSNorm weight, or NULL: rows as they are */
    float norm_eps;
    const int32_t *pick; /* row i is x[pick[i]]; NULL: x[i] */
    int32_t rows, k;
    enum dtype dtype;  /* of the weights they will meet */
    struct acts ready; /* set by inputs_ready when there are many */
};

void cpu_embed(struct backend *be, const struct rows *rows, const struct matrix *table, float scale,
               float *x);
float rms_scale(const float *x, int32_t n, float eps); /* 1 / sqrt(mean(x^2) + eps) */
/* x[r] += rmsnorm(y[r]) for n rows. */
void add_normed(struct backend *be, int32_t n, const struct projection *p, const float *y, float *x);
void inputs_ready(struct backend *be, struct inputs *in);
struct acts inputs_of(const struct inputs *in, struct worker *w);

/* ---- matmul.c ---- */

#define tile ISA_NAME(tile)
#define cpu_project ISA_NAME(cpu_project)
#define cpu_gate_up ISA_NAME(cpu_gate_up)
#define cpu_logits ISA_NAME(cpu_logits)
#define product_grain ISA_NAME(product_grain)

enum {
    BLOCK_MAX = 48, /* outputs of a block: a multiple of every tile's (matmul.c) */
    ROWS_MAX = 8,   /* rows that read a block's weights together */
};

/* y[r][j] = w[first + j] . a[row + r] for r < rows <= ROWS_MAX, j < count <= BLOCK_MAX. Each has one vector
 * accumulator that walks k in order and is summed by one tree, whatever rows and count are. */
void tile(const struct matrix *w, int32_t first, int32_t count, const struct acts *a, int32_t row,
          int32_t rows, float (*y)[BLOCK_MAX]);

/* Many rows walk in even portions. */
static inline int32_t rows_abreast(int32_t n) {
    return ceil_div(n, ceil_div(n, ROWS_MAX));
}

int32_t product_grain(int32_t k, int32_t rows); /* blocks worth handing over */

void cpu_project(struct backend *be, const struct rows *rows, const struct projection *p, const void *a,
                 float *x);
void cpu_gate_up(struct backend *be, const struct rows *rows, const struct mlp_block *b, const float *x,
                 void *hidden);
void cpu_logits(struct backend *be, const struct head_block *h, const float *x, const int32_t *pick,
                int32_t n_pick, float *logits);

/* ---- quant.c: block types ---- */

#define quant_row_bytes ISA_NAME(quant_row_bytes)
#define quant_store ISA_NAME(quant_store)
#define quant_tile ISA_NAME(quant_tile)

size_t quant_row_bytes(int32_t k); /* of a row of k activations */
/* Quantises the 32 elements of group `group` of a row of k activations for weights of type t. */
void quant_store(enum dtype t, const float *x, int32_t group, int32_t k, char *row);
void quant_tile(const struct matrix *w, int32_t first, int32_t count, const char *a, size_t a_row,
                int32_t rows, float (*y)[BLOCK_MAX]);

/* ---- cache.c: vectors of the 8-bit cache ---- */

#define cache_quantize ISA_NAME(cache_quantize)
#define cache_widen ISA_NAME(cache_widen)

enum { HEAD_MAX = 512 };

/* One head's vector, given as its two halves, to head_dim integers and their groups' scales. */
void cache_quantize(const float *low, const float *high, int32_t half, char *integers, char *scales);
/* `tokens` vectors that follow one another, to f32 [tokens][head_dim]. */
void cache_widen(const char *integers, const char *scales, int32_t tokens, int32_t head_dim, float *to);

/* ---- rope.c, attention.c, sample.c ---- */

#define cpu_qkv ISA_NAME(cpu_qkv)
#define cpu_attention ISA_NAME(cpu_attention)
#define cpu_argmax ISA_NAME(cpu_argmax)
#define cpu_top ISA_NAME(cpu_top)
#define cpu_read_bandwidth ISA_NAME(cpu_read_bandwidth)

void cpu_qkv(struct backend *be, const struct rows *rows, const struct attention_block *b, const float *x,
             void *q, const struct kv_layer *kv);
void cpu_attention(struct backend *be, const struct rows *rows, const struct attention_block *b,
                   const void *q, const struct kv_layer *kv, void *attended);
void cpu_argmax(struct backend *be, const float *logits, int32_t n, int32_t vocab, int32_t *token);
void cpu_top(struct backend *be, float *logits, int32_t n, int32_t vocab, const int32_t *to, int32_t *token);
outrider_status cpu_read_bandwidth(struct backend *be, size_t bytes, double *gb_per_s);
#endif

#endif

/* What the CUDA files share: the backend, launching on its stream, and the instructions C++ has no name for.
 *
 * Kernels are launched with programmatic dependent launch: one may start while the kernel ahead of it still
 * runs, must call pdl_wait() before it touches anything that another kernel writes or reads, and calls
 * pdl_release() as early as it can, so that the kernel behind it gets to its own wait (and, for a matrix
 * product, has its first weights in shared memory by then). Weights and the arrays of `struct rows` may be
 * read before the wait: whatever fills those arrays is followed by a launch without overlap (backend.serial).
 * What another kernel has written is read past the first-level cache (__ldcg), which may hold what it was
 * before.
 *
 * Activations: `q` is f16, scaled for exp2, where the tensor-core attention reads it and f32 elsewhere;
 * `attended` and `hidden` are bf16 under bf16 and quantised weights and f32 under others. */
#ifndef OUTRIDER_CUDA_COMMON_CUH
#define OUTRIDER_CUDA_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cassert>
#include <cstdint>
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#else
static inline void nvtxRangePushA(const char *) {}
static inline void nvtxRangePop() {}
#endif

extern "C" {
#include "kernels/ops.h"
#include "runtime/status.h"
}

using bf16 = __nv_bfloat16;

enum {
    PRODUCT_ROWS = 64,   /* rows one matrix product kernel takes; more are done in slices */
    PREFILL_ROWS = 512,  /* rows of every cuBLAS product: one shape, so one order of summation */
    ATTENTION_SPANS = 8, /* most parts one row's attention is split into; a cluster of blocks */
    MAX_HEAD_DIM = 512,
    MOST_TRIALS = 64, /* of one judge */
};

struct loader;  /* threads and pinned buffers that bring weights in */
struct link;    /* pinned memory that small transfers pass through */
struct records; /* recorded passes by key */
struct held;    /* see matmul.cu */
struct blas;    /* cuBLAS, where there is one: blas.cu */

struct backend {
    int device, multiprocessors, architecture; /* 90 for compute capability 9.0 */
    char name[256];
    cudaStream_t stream;
    struct blas *blas; /* null where there is none */
    struct link *link;
    struct loader *loader;
    struct records *records;
    bool serial;       /* the next kernel starts only when all before it is done and visible */
    cudaError_t error; /* the first since it was last reported */
    const char *error_at;

    /* scratch, by reserve */
    int32_t max_rows, max_width;
    void *normed;      /* [max_rows][max_width], bf16 or f32: x norm */
    float *scale;      /* [max_rows]: 1 / rms */
    float *squares;    /* [PRODUCT_ROWS][max_width / 16]: sums over the tiles of a product's x */
    struct held *held; /* a projection that waits for the norm behind it */
    void *padded;      /* [PREFILL_ROWS][max_width] bf16 */
    float *sums;       /* [max_rows][3 * max_width]: products that are finished by another kernel */
    bf16 *widened;     /* the largest quantised matrix, for products that know only bf16 */
    size_t widened_bytes;

    uint64_t *started; /* when the first pass since the last download began, by now_ns; 0: none has */

    int32_t *picks;   /* [MOST_TRIALS][OUTRIDER_MAX_DRAFT + 1], see round.cu */
    uint64_t *masses; /* the same */
};

/* A named range of Nsight's time line, as long as it lives. Without a profiler it tests one pointer. */
struct range {
    explicit range(const char *name) { nvtxRangePushA(name); }
    ~range() { nvtxRangePop(); }
    range(const range &) = delete;
};

/* Keeps the first error for sync to report. */
static inline void note(struct backend *be, cudaError_t error, const char *at) {
    if (error == cudaSuccess || be->error != cudaSuccess) return;
    be->error = error;
    be->error_at = at;
}

/* Issues what has been put off: a projection held back, then the uploads that wait to be sent together. */
void settle(struct backend *be);
void flush_uploads(struct backend *be);
void release_held(struct backend *be);

template <typename... Parameters, typename... Arguments>
void launch_raw(struct backend *be, const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                size_t shared, unsigned cluster, Arguments... arguments) {
    const struct range here(name);
    cudaLaunchAttribute attributes[2] = {};
    int n = 0;
    if (be->architecture >= 90 && !be->serial) {
        attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[n++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[n].id = cudaLaunchAttributeClusterDimension;
        attributes[n++].val.clusterDim = {1, 1, cluster};
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = be->stream;
    config.attrs = attributes;
    config.numAttrs = n;
    be->serial = false;
    note(be, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}
template <typename... Parameters, typename... Arguments>
void launch(struct backend *be, const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared, Arguments... arguments) {
    settle(be);
    launch_raw(be, name, kernel, grid, block, shared, 1, arguments...);
}
/* Blocks of one column of the grid form a cluster. */
template <typename... Parameters, typename... Arguments>
void launch_columns(struct backend *be, const char *name, void (*kernel)(Parameters...), dim3 grid,
                    dim3 block, size_t shared, Arguments... arguments) {
    settle(be);
    launch_raw(be, name, kernel, grid, block, shared, grid.z, arguments...);
}

static inline int32_t ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

/* ---- on the device ---- */

static __device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
static __device__ __forceinline__ void pdl_release() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* Nanoseconds on the device's clock. */
static __device__ __forceinline__ uint64_t now_ns() {
    uint64_t ns;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
    return ns;
}

/* rows_place of ops.h, for a row of `path` in device memory. */
static __device__ __forceinline__ int32_t place_of(const int32_t *path, int32_t row, int32_t position) {
    if (!path) return position;
    path += (size_t)row * TREE_ROWS;
    return position < path[0] ? position : path[position - path[0]];
}

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* c += a b for a 16x16 tile a (rows g and g + 8 of thread 4g + t) and a 16x8 tile b (column g). */
static __device__ __forceinline__ void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
static __device__ __forceinline__ void mma_f16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                               uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Brings what lies at p near; nobody waits for it. */
static __device__ __forceinline__ void touch(const void *p) {
    asm volatile("prefetch.global.L1 [%0];" ::"l"(p));
}

static __device__ __forceinline__ float widen(float v) {
    return v;
}
static __device__ __forceinline__ float widen(bf16 v) {
    return __bfloat162float(v);
}
static __device__ __forceinline__ float widen(__half v) {
    return __half2float(v);
}
static __device__ __forceinline__ void store(float *p, float v) {
    *p = v;
}
static __device__ __forceinline__ void store(bf16 *p, float v) {
    *p = __float2bfloat16(v);
}
static __device__ __forceinline__ void store(__half *p, float v) {
    *p = __float2half(v);
}

/* RMSNorm comes in two parts: x times its weight, rounded, and the factor 1 / rms, which is the same for a
 * whole row and so is applied to the sums of the product instead; nothing has to wait for it. The sum of
 * squares has one order whoever takes it, the product that made x or a kernel of its own: over the pairs of a
 * tile (see finish.cuh) by a tree of `lanes` neighbouring threads, then over the tiles by a warp. */
static __device__ __forceinline__ float tile_squares(float a, float b, int lanes) {
    float sum = fmaf(b, b, __fmul_rn(a, a));
    for (int offset = lanes / 2; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    return sum;
}
template <typename Load>
static __device__ __forceinline__ float inverse_rms(Load square, int tiles, int32_t n, float eps) {
    float sum = 0;
    for (int i = threadIdx.x % 32; i < tiles; i += 32) sum += square(i);
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    return 1 / sqrtf(sum / n + eps);
}
/* Outputs of a tile of a product with n outputs in all: smaller when there are few, to occupy the card. */
static inline int32_t tile_outputs(const struct backend *be, int32_t n) {
    return ceil_div(n, 32) >= be->multiprocessors * 7 / 8 ? 32 : 16;
}

/* ---- operations, one a file ---- */

void cuda_embed(struct backend *be, const struct rows *rows, const struct matrix *table, float scale,
                float *x);
void cuda_qkv(struct backend *be, const struct rows *rows, const struct attention_block *b, const float *x,
              void *q, const struct kv_layer *kv);
void cuda_attention(struct backend *be, const struct rows *rows, const struct attention_block *b,
                    const void *q, const struct kv_layer *kv, void *attended);
void cuda_project(struct backend *be, const struct rows *rows, const struct projection *p, const void *a,
                  float *x);
void cuda_gate_up(struct backend *be, const struct rows *rows, const struct mlp_block *b, const float *x,
                  void *hidden);
void cuda_logits(struct backend *be, const struct head_block *h, const float *x, const int32_t *host_pick,
                 int32_t n_pick, float *logits);
void cuda_argmax(struct backend *be, const float *logits, int32_t n, int32_t vocab, int32_t *token);
void cuda_top(struct backend *be, float *logits, int32_t n, int32_t vocab, const int32_t *to, int32_t *token);
void cuda_move(struct backend *be, const struct kv_layer *layers, int32_t n_layers, int32_t kv_heads,
               int32_t head_dim, int32_t n, const struct kv_place *from, const struct kv_place *to);
void cuda_propose(struct backend *be, const struct trial *trials, const int32_t *extra, int32_t n,
                  int32_t step, float *logits, int32_t vocab, int32_t *token, float *q);
void cuda_judge(struct backend *be, const struct trial *trials, const int32_t *extra, int32_t n, int32_t most,
                float *logits, int32_t vocab, const int32_t *token, const float *q, float *p,
                struct verdict *verdict);

/* Rows of x that a norm reads; a null `at` names them all in order. */
struct picks {
    int32_t row[PRODUCT_ROWS];
    bool all;
};
/* normed[i] = x[pick i] norm, as bf16 or f32, and scale[i] = 1 / rms of x[pick i], for n rows of `width`. */
void rmsnorm(struct backend *be, const float *x, struct picks pick, const float *norm, float eps, int32_t n,
             int32_t width, enum dtype type);

/* blas.cu: cuBLAS, looked up when a card is opened. c[m][n] = a[m][k] w[n][k]^T, rows of c `pitch` apart. */
cudaError_t blas_open(struct backend *be);
void blas_product(struct backend *be, const void *w, const void *a, float *c, int32_t m, int32_t n, int32_t k,
                  int32_t pitch);
void blas_close(struct backend *be);

/* Whether q is the f16 of the tensor-core attention. Its other forms for heads of 96 and 256 (8-bit caches, windows,
 * soft caps) are built, but no card has run their checks yet, so plain attention serves there. */
static inline bool attention_is_fast(const struct backend *be, const struct attention_block *b,
                                     const struct kv_layer *kv) {
    const int dim = b->head_dim;
    const bool checked = kv->k_dtype == DTYPE_F16 && b->window == 0 && b->softcap == 0;
    return be->architecture >= 90 && kv->k_dtype != DTYPE_F32 &&
           (dim == 64 || dim == 128 || ((dim == 96 || dim == 256) && checked));
}

/* Lets the kernels of a file use the shared memory they need; once, at open. */
cudaError_t prepare_products(struct backend *be);
cudaError_t prepare_round(struct backend *be);
void discard_held(struct backend *be);

#endif

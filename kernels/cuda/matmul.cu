/* Matrix products and what is fused around them: three ways to the same sums.
 *
 * skinny    bf16 weights, 1 to 64 rows, Hopper: reads each weight once, at the card's read bandwidth. A block's
 *           producer warp keeps a ring of weight tiles filled by bulk copies; eight warps consume it with the
 *           weights as the 16-row operand of the tensor cores and the rows of activations as its 8 columns, so
 *           that a column's sum never sees its neighbours. Each warp takes its 32 columns of every 256 along k,
 *           and the warps' sums are added in warp order: one order for any number of rows, tile or grid.
 *           Dependent launch lets the ring of the next product fill while this one drains.
 * prefill   bf16 weights, rows of a prompt: cuBLAS on PREFILL_ROWS rows, padded, so that it always sees one
 *           shape and a row's bits cannot depend on how many came with it.
 * plain     any type and shape: one warp an output. Correct, not fast.
 *
 * 16-byte reads of a fragment serve two mma steps: k is permuted alike in both operands, which a dot product
 * allows. Rows of a tile lie 64 bytes off a multiple of 128 apart, which keeps those reads free of conflicts. */
#include "kernels/cuda/finish.cuh"

#include <cstdlib>
#define TUNE(name, value) (getenv(name) ? atoi(getenv(name)) : (value))
namespace {

/* Up to three matrices of one width, one above the other. */
struct stack {
    const void *w[3];
    int32_t end[3]; /* outputs up to and including this one's */
};

struct product {
    struct stack stack;
    int32_t m, k;
    const bf16 *a;       /* [m][k]; null: rmsnorm(x) */
    const float *x, *norm;
    float eps;
    int32_t tiles, stages, ahead;
    struct finish finish;
};

constexpr int WARPS = 8, CHUNK = 256, PITCH = CHUNK * 2 + 64, MAX_STAGES = 8;
constexpr int RESIDENT_ROWS = 4; /* most rows whose norm each block computes for itself */

__host__ __device__ constexpr int resident_pitch(int k) { return (k * 2 + 127) / 128 * 128 + 64; }

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ __forceinline__ void barrier_init(uint64_t *barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count));
}
__device__ __forceinline__ void barrier_expect(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t *barrier, int parity) {
    asm volatile("{\n\t.reg .pred done;\n"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}
__device__ __forceinline__ void copy_bulk(void *to, const void *from, int bytes, uint64_t *barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
                 : "memory");
}
__device__ __forceinline__ void prefetch_bulk(const void *from, int bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ uint64_t policy_stream() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
__device__ __forceinline__ uint64_t policy_keep() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

struct consumers {
    __device__ __forceinline__ void operator()() const { asm volatile("bar.sync 1, 256;" ::: "memory"); }
};

/* Address of one row of a tile: pairs keep their two halves in the two halves of the tile. */
template <int TILE> __device__ __forceinline__ const bf16 *tile_row(const struct product &p, int tile, int r) {
    int pair = min(tile * (TILE / 2) + r % (TILE / 2), p.finish.pairs - 1);
    int row = min(first_of_pair(p.finish, pair) + (r < TILE / 2 ? 0 : p.finish.half), p.finish.n - 1);
    int which = row < p.stack.end[0] ? 0 : row < p.stack.end[1] ? 1 : 2;
    if (which) row -= p.stack.end[which - 1];
    return (const bf16 *)p.stack.w[which] + (size_t)row * p.k;
}

/* Shared memory of one block, in this order. */
struct layout {
    int place, resident, part, stages, stage; /* offsets, and bytes a stage */
    __host__ __device__ layout(const struct product &p, int tile_rows) {
        place = 2 * MAX_STAGES * 8 + WARPS * 4;
        resident = place + PRODUCT_ROWS * 8 + 96; /* a multiple of 128 */
        part = resident + (p.a ? 0 : p.m * resident_pitch(p.k));
        stages = part + WARPS * p.m * (tile_rows + 4) * 4;
        stage = (tile_rows + (p.a ? p.m : 0)) * PITCH;
    }
};

/* The producer: one warp, a lane a row. Weights that fit the ring are asked for before the kernel ahead has
 * ended; activations only after. */
template <int TILE>
__device__ void produce(const struct product &p, char *stages, int stage_bytes, uint64_t *full, uint64_t *empty) {
    const int lane = threadIdx.x % 32, chunks = (p.k + CHUNK - 1) / CHUNK;
    const int total = (p.tiles - blockIdx.x + gridDim.x - 1) / gridDim.x * chunks;
    const uint64_t stream = policy_stream(), keep = policy_keep();
    auto bytes_of = [&](int it) { return min(CHUNK, p.k - it % chunks * CHUNK) * 2; };
    auto weights = [&](int it) {
        const int s = it % p.stages, bytes = bytes_of(it), tile = blockIdx.x + it / chunks * gridDim.x;
        if (lane == 0) barrier_expect(&full[s], bytes * (TILE + (p.a ? p.m : 0)));
        __syncwarp();
        for (int r = lane; r < TILE; r += 32)
            copy_bulk(stages + s * stage_bytes + r * PITCH, tile_row<TILE>(p, tile, r) + it % chunks * CHUNK, bytes,
                      &full[s], stream);
    };
    auto activations = [&](int it) {
        if (!p.a) return;
        const int s = it % p.stages;
        for (int r = lane; r < p.m; r += 32)
            copy_bulk(stages + s * stage_bytes + (TILE + r) * PITCH, p.a + (size_t)r * p.k + it % chunks * CHUNK,
                      bytes_of(it), &full[s], keep);
    };
    auto prefetch = [&](int it) {
        const int tile = blockIdx.x + it / chunks * gridDim.x;
        for (int r = lane; r < TILE; r += 32)
            prefetch_bulk(tile_row<TILE>(p, tile, r) + it % chunks * CHUNK, bytes_of(it));
    };

    const int filled = min(p.stages, total);
    for (int it = 0; it < filled; it++) weights(it);
    pdl_release();
    for (int it = filled; it < min(filled + p.ahead, total); it++) prefetch(it);
    pdl_wait();
    for (int it = 0; it < filled; it++) activations(it);
    for (int it = filled; it < total; it++) {
        barrier_wait(&empty[it % p.stages], (it / p.stages - 1) & 1);
        weights(it);
        activations(it);
    }
}

/* x as normed bf16 in shared memory: what rmsnorm() writes, bit for bit. */
__device__ void normalise(const struct product &p, char *resident, float *scratch) {
    const int pitch = resident_pitch(p.k);
    for (int r = 0; r < p.m; r++) {
        const float *x = p.x + (size_t)r * p.k;
        if (r) consumers()();
        const float scale = inverse_rms(x, p.k, p.eps, scratch, consumers());
        for (int i = threadIdx.x; i < p.k / 4; i += NORM_THREADS) {
            float4 v = ((const float4 *)x)[i], n = ((const float4 *)p.norm)[i];
            __nv_bfloat162 lo = __floats2bfloat162_rn(v.x * scale * n.x, v.y * scale * n.y),
                           hi = __floats2bfloat162_rn(v.z * scale * n.z, v.w * scale * n.w);
            *(uint2 *)(resident + r * pitch + i * 8) = make_uint2(*(uint32_t *)&lo, *(uint32_t *)&hi);
        }
    }
    consumers()();
}

/* RT: 16-row tiles of weights a block takes at a time; NT: 8-row tiles of activations. */
template <int RT, int NT>
__global__ __launch_bounds__((WARPS + 1) * 32, NT <= 2 ? 2 : 1) void skinny(const __grid_constant__ struct product p) {
    constexpr int TILE = RT * 16, COLUMN = TILE + 4;
    extern __shared__ __align__(128) char shared[];
    const layout at(p, TILE);
    uint64_t *full = (uint64_t *)shared, *empty = full + MAX_STAGES;
    struct place *places = (struct place *)(shared + at.place);
    float *part = (float *)(shared + at.part);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

    if (threadIdx.x == 0) {
        for (int s = 0; s < p.stages; s++) {
            barrier_init(&full[s], 1);
            barrier_init(&empty[s], WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (warp == WARPS) return produce<TILE>(p, shared + at.stages, at.stage, full, empty);

    for (int r = threadIdx.x; r < p.m; r += WARPS * 32) places[r] = find_place(p.finish, r);
    pdl_wait();
    if (!p.a) normalise(p, shared + at.resident, (float *)(empty + MAX_STAGES));

    const int chunks = (p.k + CHUNK - 1) / CHUNK, pitch = p.a ? PITCH : resident_pitch(p.k);
    int it = 0;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        float c[RT][NT][4] = {};
        for (int chunk = 0; chunk < chunks; chunk++, it++) {
            const int s = it % p.stages;
            const char *w = shared + at.stages + s * at.stage + g * PITCH + warp * 64 + t * 16;
            const char *a = (p.a ? shared + at.stages + s * at.stage + TILE * PITCH
                                 : shared + at.resident + chunk * CHUNK * 2) + warp * 64 + t * 16;
            barrier_wait(&full[s], it / p.stages & 1);
            if (chunk * CHUNK + warp * 32 < p.k) {
                uint4 lo[RT], hi[RT];
#pragma unroll
                for (int r = 0; r < RT; r++) {
                    lo[r] = *(const uint4 *)(w + r * 16 * PITCH);
                    hi[r] = *(const uint4 *)(w + (r * 16 + 8) * PITCH);
                }
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    const uint4 b = *(const uint4 *)(a + min(j * 8 + g, p.m - 1) * pitch);
#pragma unroll
                    for (int r = 0; r < RT; r++) {
                        mma_bf16(c[r][j], lo[r].x, hi[r].x, lo[r].y, hi[r].y, b.x, b.y);
                        mma_bf16(c[r][j], lo[r].z, hi[r].z, lo[r].w, hi[r].w, b.z, b.w);
                    }
                }
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(&empty[s]);
        }
#pragma unroll
        for (int r = 0; r < RT; r++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int column = j * 8 + t * 2 + i % 2;
                    if (column < p.m) part[(warp * p.m + column) * COLUMN + r * 16 + g + i / 2 * 8] = c[r][j][i];
                }
        consumers()();
        for (int i = threadIdx.x; i < TILE / 2 * p.m; i += WARPS * 32) {
            const int pair = i % (TILE / 2), column = i / (TILE / 2);
            float first = 0, second = 0;
#pragma unroll
            for (int v = 0; v < WARPS; v++) {
                first += part[(v * p.m + column) * COLUMN + pair];
                second += part[(v * p.m + column) * COLUMN + pair + TILE / 2];
            }
            if (tile * (TILE / 2) + pair < p.finish.pairs)
                finish_pair(p.finish, column, places[column], tile * (TILE / 2) + pair, first, second);
        }
        consumers()();
    }
}
#else
template <int RT, int NT> __global__ void skinny(const __grid_constant__ struct product) { __trap(); }
#endif

/* Finishes sums [rows][n] that another kernel left. */
__global__ void finish_sums(struct finish f, const float *sums) {
    pdl_release();
    pdl_wait();
    const int row = blockIdx.y;
    const struct place at = find_place(f, row);
    for (int pair = blockIdx.x * blockDim.x + threadIdx.x; pair < f.pairs; pair += gridDim.x * blockDim.x) {
        const float *s = sums + (size_t)row * f.n + first_of_pair(f, pair);
        finish_pair(f, row, at, pair, s[0], first_of_pair(f, pair) + f.half < f.n ? s[f.half] : 0);
    }
}

/* sums[row][first + i] = sum over k of w[i][k] a[row][k]: a warp an output. */
template <typename W, typename A>
__global__ void plain(const W *w, const A *a, float *sums, int n, int k, int pitch, int first) {
    pdl_release();
    pdl_wait();
    const int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= n) return;
    float sum = 0;
    for (int j = lane; j < k; j += 32) sum += widen(w[(size_t)i * k + j]) * widen(a[(size_t)blockIdx.y * k + j]);
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0) sums[(size_t)blockIdx.y * pitch + first + i] = sum;
}

__global__ void copy_rows(const uint4 *from, uint4 *to, size_t n) {
    pdl_release();
    pdl_wait();
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        to[i] = from[i];
}

/* ---- choosing ---- */

/* A product before it is known how it will be done: activations, or a norm of x. */
struct job {
    struct stack stack;
    enum dtype dtype;
    int32_t m, k;
    bool prefill;
    const void *a;
    const float *x, *norm;
    float eps;
    struct picks pick;
    struct finish finish;
};

bool is_skinny(const struct backend *be, const struct job *j) {
    return be->architecture >= 90 && j->dtype == DTYPE_BF16 && j->k % 32 == 0;
}

void *after_rows(void *p, enum dtype type, size_t n) { return p ? (char *)p + n * dtype_bytes(type) : p; }

/* The finish of rows from `row` on. */
struct finish finish_from(struct finish f, int32_t row) {
    if (f.x) f.x += (size_t)row * f.n;
    int32_t width = f.kind == FINISH_QKV ? f.heads * 2 * f.half : f.half;
    f.wide = after_rows(f.wide, f.wide_type, (size_t)row * width);
    if (f.kind == FINISH_QKV) {
        f.position += row;
        f.slot += row;
    }
    return f;
}

template <int RT, int NT> void launch_skinny(struct backend *be, struct product *p) {
    constexpr int TILE = RT * 16;
    /* Two blocks share a multiprocessor, this product's and the next one's; what they leave is attention's. */
    const int budget = NT <= 2 ? TUNE("BUDGET", 100) << 10 : 200 << 10;
    p->ahead = TUNE("AHEAD", 0);
    p->tiles = ceil_div(p->finish.pairs, TILE / 2);
    const layout at(*p, TILE);
    p->stages = (budget - at.stages) / at.stage;
    p->stages = p->stages < 2 ? 2 : p->stages > MAX_STAGES ? MAX_STAGES : p->stages;
    const int grid = p->tiles < be->multiprocessors ? p->tiles : be->multiprocessors;
    launch(be, "product", skinny<RT, NT>, grid, (WARPS + 1) * 32, at.stages + (size_t)p->stages * at.stage, *p);
}

template <int RT> void launch_rows(struct backend *be, struct product *p) {
    if (p->m <= 8) return launch_skinny<RT, 1>(be, p);
    if (p->m <= 16) return launch_skinny<RT, 2>(be, p);
    if (p->m <= 32) return launch_skinny<RT, 4>(be, p);
    launch_skinny<RT, 8>(be, p);
}

void run_skinny(struct backend *be, const struct job *j, const void *a) {
    for (int32_t from = 0; from < j->m; from += PRODUCT_ROWS) {
        struct product p = {};
        p.stack = j->stack;
        p.m = j->m - from < PRODUCT_ROWS ? j->m - from : PRODUCT_ROWS;
        p.k = j->k;
        p.a = a ? (const bf16 *)a + (size_t)from * j->k : NULL;
        p.x = j->x;
        p.norm = j->norm;
        p.eps = j->eps;
        p.finish = finish_from(j->finish, from);
        if (ceil_div(p.finish.pairs, 16) >= TUNE("WIDE", be->multiprocessors * 7 / 8))
            launch_rows<2>(be, &p);
        else
            launch_rows<1>(be, &p);
    }
}

void run_prefill(struct backend *be, const struct job *j, const void *a) {
    for (int32_t from = 0; from < j->m; from += PREFILL_ROWS) {
        int32_t n = j->m - from < PREFILL_ROWS ? j->m - from : PREFILL_ROWS;
        const bf16 *rows = (const bf16 *)a + (size_t)from * j->k;
        if (n < PREFILL_ROWS) {
            launch(be, "copy", copy_rows, 256, 256, 0, (const uint4 *)rows, (uint4 *)be->padded,
                   (size_t)n * j->k / 8);
            rows = (const bf16 *)be->padded;
        }
        const float one = 1, zero = 0;
        for (int i = 0, first = 0; i < 3 && first < j->finish.n; first = j->stack.end[i++])
            if (cublasGemmEx(be->blas, CUBLAS_OP_T, CUBLAS_OP_N, j->stack.end[i] - first, PREFILL_ROWS, j->k, &one,
                             j->stack.w[i], CUDA_R_16BF, j->k, rows, CUDA_R_16BF, j->k, &zero, be->sums + first,
                             CUDA_R_32F, j->finish.n, CUBLAS_COMPUTE_32F,
                             CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
                note(be, cudaErrorUnknown, "cuBLAS");
        struct finish f = finish_from(j->finish, from);
        launch(be, "finish", finish_sums, dim3(ceil_div(f.pairs, 256), n), 256, 0, f, (const float *)be->sums);
    }
}

template <typename W, typename A> void run_plain(struct backend *be, const struct job *j, const void *a) {
    for (int32_t from = 0; from < j->m; from += PREFILL_ROWS) {
        int32_t m = j->m - from < PREFILL_ROWS ? j->m - from : PREFILL_ROWS;
        for (int i = 0, first = 0; i < 3 && first < j->finish.n; first = j->stack.end[i++]) {
            int32_t n = j->stack.end[i] - first;
            launch(be, "plain product", plain<W, A>, dim3(ceil_div(n, 8), m), 256, 0, (const W *)j->stack.w[i],
                   (const A *)a + (size_t)from * j->k, be->sums, n, j->k, j->finish.n, first);
        }
        struct finish f = finish_from(j->finish, from);
        launch(be, "finish", finish_sums, dim3(ceil_div(f.pairs, 256), m), 256, 0, f, (const float *)be->sums);
    }
}

void run(struct backend *be, const struct job *j) {
    enum dtype type = j->dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    bool by_blas = j->prefill && j->dtype == DTYPE_BF16 && j->k % 8 == 0;
    bool fused = j->x && is_skinny(be, j) && !by_blas && j->m <= TUNE("RESIDENT", RESIDENT_ROWS) && j->pick.all;
    const void *a = fused ? NULL : j->x ? be->normed : j->a;
    if (j->x && !fused) rmsnorm(be, j->x, j->pick, j->norm, j->eps, j->m, j->k, type, be->normed);
    if (by_blas) return run_prefill(be, j, a);
    if (is_skinny(be, j)) return run_skinny(be, j, a);
    if (j->dtype == DTYPE_BF16) return run_plain<bf16, bf16>(be, j, a);
    if (j->dtype == DTYPE_F16) return run_plain<__half, float>(be, j, a);
    run_plain<float, float>(be, j, a);
}

struct stack stack_of(const struct matrix *a, const struct matrix *b, const struct matrix *c) {
    struct stack s = {{a->data, b ? b->data : NULL, c ? c->data : NULL}, {a->n, a->n, a->n}};
    if (b) s.end[1] = s.end[2] = a->n + b->n;
    if (c) s.end[2] = a->n + b->n + c->n;
    return s;
}

/* The finish of a product whose outputs have nothing to do with each other. */
struct finish finish_each(enum finish_kind kind, int32_t n, float *x) {
    struct finish f = {};
    f.kind = kind;
    f.n = n;
    f.half = f.pairs = ceil_div(n, 2);
    f.x = x;
    return f;
}

} // namespace

/* ---- the operations ---- */

void cuda_qkv(struct backend *be, const struct rows *rows, const struct attention_block *b, const float *x, void *q,
              const struct kv_layer *kv) {
    struct job j = {};
    j.stack = stack_of(&b->q, &b->k, &b->v);
    j.dtype = b->q.dtype;
    j.m = rows->n;
    j.k = b->q.k;
    j.prefill = rows->prefill;
    j.x = x;
    j.norm = b->norm;
    j.eps = b->norm_eps;
    j.pick.all = true;
    struct finish *f = &j.finish;
    bool fast = attention_is_fast(b, kv);
    f->kind = FINISH_QKV;
    f->n = j.stack.end[2];
    f->half = b->head_dim / 2;
    f->pairs = f->n / 2;
    f->wide = q;
    f->wide_type = fast ? DTYPE_F16 : DTYPE_F32;
    /* exp(x) = exp2(x log2 e), so the factor belongs to the scale. */
    f->q_scale = fast ? 1.4426950408889634f / sqrtf((float)b->head_dim) : 1;
    f->position = rows->position;
    f->slot = rows->slot;
    f->table = rows->table;
    f->table_stride = rows->table_stride;
    f->rope = (const float2 *)b->rope;
    f->k = kv->k;
    f->v = kv->v;
    f->f16_cache = kv->dtype == DTYPE_F16;
    f->page_size = kv->page_size;
    f->heads = b->heads;
    f->kv_heads = b->kv_heads;
    run(be, &j);
}

void cuda_gate_up(struct backend *be, const struct rows *rows, const struct mlp_block *b, const float *x,
                  void *hidden) {
    struct job j = {};
    j.stack = stack_of(&b->gate, &b->up, NULL);
    j.dtype = b->gate.dtype;
    j.m = rows->n;
    j.k = b->gate.k;
    j.prefill = rows->prefill;
    j.x = x;
    j.norm = b->norm;
    j.eps = b->norm_eps;
    j.pick.all = true;
    j.finish.kind = FINISH_SILU;
    j.finish.n = 2 * b->gate.n;
    j.finish.half = j.finish.pairs = b->gate.n;
    j.finish.wide = hidden;
    j.finish.wide_type = j.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    run(be, &j);
}

void cuda_project(struct backend *be, const struct rows *rows, const struct matrix *w, const void *a, float *x) {
    struct job j = {};
    j.stack = stack_of(w, NULL, NULL);
    j.dtype = w->dtype;
    j.m = rows->n;
    j.k = w->k;
    j.prefill = rows->prefill;
    j.a = a;
    j.finish = finish_each(FINISH_ADD, w->n, x);
    run(be, &j);
}

void cuda_logits(struct backend *be, const float *norm, float norm_eps, const struct matrix *head, const float *x,
                 const int32_t *host_pick, int32_t n_pick, float *logits) {
    for (int32_t from = 0; from < n_pick; from += PRODUCT_ROWS) {
        struct job j = {};
        j.stack = stack_of(head, NULL, NULL);
        j.dtype = head->dtype;
        j.m = n_pick - from < PRODUCT_ROWS ? n_pick - from : PRODUCT_ROWS;
        j.k = head->k;
        j.x = host_pick ? x : x + (size_t)from * head->k;
        j.norm = norm;
        j.eps = norm_eps;
        j.pick.all = !host_pick;
        for (int32_t i = 0; host_pick && i < j.m; i++) j.pick.row[i] = host_pick[from + i];
        j.finish = finish_each(FINISH_STORE, head->n, logits + (size_t)from * head->n);
        run(be, &j);
    }
}

cudaError_t prepare_products(void) {
    const void *kernels[] = {(const void *)skinny<1, 1>, (const void *)skinny<1, 2>, (const void *)skinny<1, 4>,
                             (const void *)skinny<1, 8>, (const void *)skinny<2, 1>, (const void *)skinny<2, 2>,
                             (const void *)skinny<2, 4>, (const void *)skinny<2, 8>};
    for (const void *kernel : kernels) {
        cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

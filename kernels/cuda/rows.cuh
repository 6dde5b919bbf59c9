/* Finishing a product where something between its sums and what becomes of them needs all of a row (the norm
 * behind a projection) or all of a head (norms of queries and keys, the scales of an 8-bit cache).
 * The sums lie in memory, [rows][n]; the order of each norm's sum is a function of its length alone. */
#ifndef OUTRIDER_CUDA_ROWS_CUH
#define OUTRIDER_CUDA_ROWS_CUH

#include "kernels/cuda/finish.cuh"

namespace {

constexpr int HEADS_A_BLOCK = 4, BRANCH_THREADS = 256;

bool needs_rows(const struct finish &f) {
    return f.q_norm || f.post_norm || (f.kind == FINISH_QKV && f.cache == DTYPE_Q8_0);
}

/* What a product that cannot finish leaves instead: its sums, multiplied by the rows' factors. */
struct finish finish_later(const struct finish &f, float *sums) {
    struct finish s = {};
    s.kind = FINISH_STORE;
    s.n = f.n;
    s.half = f.half;
    s.pairs = f.pairs;
    s.scale = f.scale;
    s.x = sums;
    return s;
}

/* ---- the 8-bit cache: see kernels/ops.h ---- */

__device__ __forceinline__ float saturated(float x) {
    return x > KV_MOST ? KV_MOST : x < -KV_MOST ? -KV_MOST : x; /* a NaN stays */
}
__device__ __forceinline__ int8_t in_steps(float x, float inverse) {
    return (int8_t)fminf(127, fmaxf(-127, rintf(saturated(x) * inverse)));
}

/* Pairs lane, lane + 32 .. of key or value head `head`, keys first; by a whole warp, half of it a group. */
template <int MOST>
__device__ __forceinline__ void keep_bytes(const struct finish &f, const struct place &at, int head,
                                           float (&a)[MOST], float (&b)[MOST]) {
    const bool key = head < f.kv_heads;
    const int lane = threadIdx.x % 32, dim = 2 * f.half, groups = (f.half + KV_GROUP - 1) / KV_GROUP;
    const int in_page = at.token % f.page_size;
    const size_t block = (size_t)(at.token / f.page_size) * f.kv_heads + (key ? head : head - f.kv_heads);
    int8_t *page = (int8_t *)(key ? f.k : f.v) + block * f.page_size * (dim + 2 * groups);
    int8_t *to = page + in_page * dim;
    __half *scales = (__half *)(page + f.page_size * dim) + in_page * groups;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        const int d = lane + i * 32;
        if (i * 32 >= f.half) break;
        if (key && d < f.half) rotate(f, at, d, a[i], b[i]);
        /* sizes as integers are in the same order, NaN above all */
        int most = d < f.half
                       ? max(__float_as_int(fabsf(saturated(a[i]))), __float_as_int(fabsf(saturated(b[i]))))
                       : 0;
        for (int offset = KV_GROUP / 2; offset; offset /= 2)
            most = max(most, __shfl_xor_sync(~0u, most, offset));
        const __half scale = __float2half(__int_as_float(most) / 127);
        const float size = __half2float(scale), inverse = size > 0 ? 1 / size : 0;
        if (d >= f.half) continue;
        to[d] = in_steps(a[i], inverse);
        to[d + f.half] = in_steps(b[i], inverse);
        if (d % KV_GROUP == 0) scales[d / KV_GROUP] = scale;
    }
}

/* A warp a head of a row. */
__global__ void finish_heads(struct finish f, const float *sums) {
    pdl_release();
    pdl_wait();
    constexpr int MOST = MAX_HEAD_DIM / 64;
    const int row = blockIdx.y, head = blockIdx.x * HEADS_A_BLOCK + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (head * 2 * f.half >= f.n) return;
    const struct place at = find_place(f, row);
    const float scale = f.scale ? __ldcg(f.scale + row) : 1;
    const float *norm = head < f.heads ? f.q_norm : head < f.heads + f.kv_heads ? f.k_norm : nullptr;
    const float *from = sums + (size_t)row * f.n + head * 2 * f.half;
    float a[MOST] = {}, b[MOST] = {}, squares = 0;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        const int d = lane + i * 32;
        if (d >= f.half) break;
        a[i] = scale * __ldcg(from + d);
        b[i] = scale * __ldcg(from + d + f.half);
        add_bias(f, head * f.half + d, a[i], b[i]);
        squares += a[i] * a[i] + b[i] * b[i];
    }
    for (int offset = 16; offset; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
    const float factor = 1 / sqrtf(squares / (2 * f.half) + f.norm_eps);
    const bool bytes = f.cache == DTYPE_Q8_0 && head >= f.heads;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        const int d = lane + i * 32;
        if (d >= f.half) break;
        if (norm) {
            a[i] *= factor * norm[d];
            b[i] *= factor * norm[d + f.half];
        }
        if (!bytes) finish_qkv(f, row, at, head * f.half + d, a[i], b[i]);
    }
    if (bytes) keep_bytes(f, at, head - f.heads, a, b);
}

/* A block a row. */
__global__ __launch_bounds__(BRANCH_THREADS) void finish_branch(struct finish f, const float *sums) {
    pdl_release();
    pdl_wait();
    __shared__ float part[BRANCH_THREADS / 32];
    const int row = blockIdx.x;
    const float scale = f.scale ? __ldcg(f.scale + row) : 1;
    const float *from = sums + (size_t)row * f.n;
    auto value = [&](int i) { return scale * __ldcg(from + i) + (f.bias ? f.bias[i] : 0); };
    float squares = 0;
    for (int i = threadIdx.x; i < f.n; i += BRANCH_THREADS) squares += value(i) * value(i);
    for (int offset = 16; offset; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0;
    for (int w = 0; w < BRANCH_THREADS / 32; w++) squares += part[w];
    const float factor = 1 / sqrtf(squares / f.n + f.norm_eps);
    float *x = f.x + (size_t)row * f.n;
    for (int i = threadIdx.x; i < f.n; i += BRANCH_THREADS)
        x[i] = __ldcg(x + i) + value(i) * factor * f.post_norm[i];
}

} // namespace

#endif

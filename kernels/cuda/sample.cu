/* Choosing tokens from logits. */
#include "kernels/cuda/best.cuh"

#include <climits>

namespace {

__global__ __launch_bounds__(1024) void argmax_rows(const float *logits, int vocab, int32_t *token) {
    __shared__ struct best<float> warps[32];
    pdl_release();
    pdl_wait();
    const float *row = logits + (size_t)blockIdx.x * vocab;
    struct best<float> mine = {-INFINITY, INT_MAX};
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        float v = __ldcg(row + i);
        mine = better(mine, {v != v ? -INFINITY : v, i});
    }
    mine = warp_best(mine);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    mine = warp_best(warps[threadIdx.x]);
    if (threadIdx.x == 0) token[blockIdx.x] = mine.index;
}

/* A block a row. Each thread keeps its best in order; the block takes the best of their firsts, one after
 * the other. */
__global__ __launch_bounds__(1024) void top_rows(const float *logits, int vocab, const int32_t *to,
                                                 int32_t *token) {
    __shared__ struct best<float> warps[32];
    __shared__ struct best<float> taken;
    pdl_release();
    pdl_wait();
    const float *row = logits + (size_t)blockIdx.x * vocab;
    struct best<float> mine[TREE_WIDTH];
#pragma unroll
    for (int j = 0; j < TREE_WIDTH; j++) mine[j] = {-INFINITY, INT_MAX};
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        float v = __ldcg(row + i);
        struct best<float> next = {v != v ? -INFINITY : v, i};
#pragma unroll
        for (int j = 0; j < TREE_WIDTH; j++) {
            const struct best<float> kept = better(mine[j], next);
            if (kept.index == next.index) next = mine[j];
            mine[j] = kept;
        }
    }
    for (int j = 0; j < TREE_WIDTH; j++) {
        const struct best<float> first = warp_best(mine[0]);
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = first;
        __syncthreads();
        if (threadIdx.x < 32) {
            const struct best<float> all = warp_best(warps[threadIdx.x]);
            const int32_t at = to[blockIdx.x * TREE_WIDTH + j];
            if (threadIdx.x == 0) {
                taken = all;
                if (at >= 0) token[at] = all.index < vocab ? all.index : 0;
            }
        }
        __syncthreads();
        if (mine[0].index != taken.index) continue;
#pragma unroll
        for (int i = 0; i + 1 < TREE_WIDTH; i++) mine[i] = mine[i + 1];
        mine[TREE_WIDTH - 1] = {-INFINITY, INT_MAX};
    }
}

} // namespace

void cuda_argmax(struct backend *be, const float *logits, int32_t n, int32_t vocab, int32_t *token) {
    if (n > 0) launch(be, "argmax", argmax_rows, n, 1024, 0, logits, vocab, token);
}

void cuda_top(struct backend *be, float *logits, int32_t n, int32_t vocab, const int32_t *to,
              int32_t *token) {
    if (n > 0) launch(be, "top", top_rows, n, 1024, 0, logits, vocab, to, token);
}

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

} // namespace

void cuda_argmax(struct backend *be, const float *logits, int32_t n, int32_t vocab, int32_t *token) {
    if (n > 0) launch(be, "argmax", argmax_rows, n, 1024, 0, logits, vocab, token);
}

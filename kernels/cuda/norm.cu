/* RMSNorm of rows, and the embedding that makes them. */
#include "kernels/cuda/common.cuh"

namespace {

constexpr int NORM_THREADS = 512;

template <typename T>
__global__ __launch_bounds__(NORM_THREADS) void norm_rows(const float *x,
                                                          const __grid_constant__ struct picks pick,
                                                          const float *norm, float eps, int n, int lanes,
                                                          T *normed, float *scale) {
    extern __shared__ float squares[];
    pdl_release();
    pdl_wait();
    const float *row = x + (size_t)(pick.all ? (int)blockIdx.x : pick.row[blockIdx.x]) * n;
    const int half = (n + 1) / 2, tiles = (half + lanes - 1) / lanes;
    normed += (size_t)blockIdx.x * n;
#pragma unroll 4
    for (int i = threadIdx.x; i - (int)threadIdx.x % 32 < half; i += NORM_THREADS) { /* whole warps */
        const float a = i < half ? __ldcg(row + i) : 0,
                    b = i < half && i + half < n ? __ldcg(row + i + half) : 0;
        const float sum = tile_squares(a, b, lanes);
        if (i % lanes == 0 && i < half) squares[i / lanes] = sum;
        if (i < half) store(normed + i, a * norm[i]);
        if (i < half && i + half < n) store(normed + i + half, b * norm[i + half]);
    }
    __syncthreads();
    if (threadIdx.x >= 32) return;
    const float factor = inverse_rms([&](int i) { return squares[i]; }, tiles, n, eps);
    if (threadIdx.x == 0) scale[blockIdx.x] = factor;
}

/* A pass begins with it. */
template <typename T>
__global__ void embed_rows(const int32_t *token, const T *table, int n, float scale, float *x,
                           uint64_t *started) {
    pdl_release();
    pdl_wait();
    if (blockIdx.x == 0 && threadIdx.x == 0 && __ldcg(started) == 0) *started = now_ns();
    const T *row = table + (size_t)token[blockIdx.x] * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[(size_t)blockIdx.x * n + i] = widen(row[i]) * scale;
}

} // namespace

void rmsnorm(struct backend *be, const float *x, struct picks pick, const float *norm, float eps, int32_t n,
             int32_t width, enum dtype type) {
    const int lanes = tile_outputs(be, width) / 2;
    const size_t shared = (size_t)ceil_div(ceil_div(width, 2), lanes) * 4;
    if (type == DTYPE_BF16)
        launch(be, "norm", norm_rows<bf16>, n, NORM_THREADS, shared, x, pick, norm, eps, width, lanes,
               (bf16 *)be->normed, be->scale);
    else
        launch(be, "norm", norm_rows<float>, n, NORM_THREADS, shared, x, pick, norm, eps, width, lanes,
               (float *)be->normed, be->scale);
}

void cuda_embed(struct backend *be, const struct rows *rows, const struct matrix *table, float scale, float *x) {
    if (table->dtype == DTYPE_BF16)
        launch(be, "embed", embed_rows<bf16>, rows->n, 256, 0, rows->token, (const bf16 *)table->data,
               table->k, scale, x, be->started);
    else if (table->dtype == DTYPE_F16)
        launch(be, "embed", embed_rows<__half>, rows->n, 256, 0, rows->token, (const __half *)table->data,
               table->k, scale, x, be->started);
    else
        launch(be, "embed", embed_rows<float>, rows->n, 256, 0, rows->token, (const float *)table->data,
               table->k, scale, x, be->started);
}

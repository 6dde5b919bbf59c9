/* RMSNorm of rows, and the embedding that makes them. */
#include "kernels/cuda/common.cuh"

namespace {

__device__ __forceinline__ void store4(bf16 *p, float4 v) { *(uint2 *)p = pack_bf16(v); }
__device__ __forceinline__ void store4(float *p, float4 v) { *(float4 *)p = v; }

template <typename T>
__global__ __launch_bounds__(NORM_THREADS) void norm_rows(const float *x, const __grid_constant__ struct picks pick,
                                                          const float *norm, float eps, int n, T *normed,
                                                          float *scale) {
    __shared__ float partial[NORM_THREADS / 32];
    pdl_release();
    pdl_wait();
    const float *row = x + (size_t)(pick.all ? (int)blockIdx.x : pick.row[blockIdx.x]) * n;
    float sum = 0;
    normed += (size_t)blockIdx.x * n;
    if (n % 4 == 0)
#pragma unroll 4
        for (int i = threadIdx.x; i < n / 4; i += NORM_THREADS) {
            const float4 v = ((const float4 *)row)[i];
            sum = add_squares(sum, v);
            store4(normed + i * 4, times(v, ((const float4 *)norm)[i]));
        }
    else
        for (int i = threadIdx.x; i < n; i += NORM_THREADS) {
            sum = fmaf(row[i], row[i], sum);
            store(normed + i, row[i] * norm[i]);
        }
    leave_squares(sum, partial);
    __syncthreads();
    if (threadIdx.x == 0) scale[blockIdx.x] = inverse_rms(partial, n, eps);
}

template <typename T> __global__ void embed_rows(const int32_t *token, const T *table, int n, float *x) {
    pdl_release();
    pdl_wait();
    const T *row = table + (size_t)token[blockIdx.x] * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[(size_t)blockIdx.x * n + i] = widen(row[i]);
}

} // namespace

void rmsnorm(struct backend *be, const float *x, struct picks pick, const float *norm, float eps, int32_t n,
             int32_t width, enum dtype type) {
    if (type == DTYPE_BF16)
        launch(be, "norm", norm_rows<bf16>, n, NORM_THREADS, 0, x, pick, norm, eps, width, (bf16 *)be->normed, be->scale);
    else
        launch(be, "norm", norm_rows<float>, n, NORM_THREADS, 0, x, pick, norm, eps, width, (float *)be->normed,
               be->scale);
}

void cuda_embed(struct backend *be, const struct rows *rows, const struct matrix *table, float *x) {
    if (table->dtype == DTYPE_BF16)
        launch(be, "embed", embed_rows<bf16>, rows->n, 256, 0, rows->token, (const bf16 *)table->data, table->k, x);
    else if (table->dtype == DTYPE_F16)
        launch(be, "embed", embed_rows<__half>, rows->n, 256, 0, rows->token, (const __half *)table->data, table->k,
               x);
    else
        launch(be, "embed", embed_rows<float>, rows->n, 256, 0, rows->token, (const float *)table->data, table->k, x);
}

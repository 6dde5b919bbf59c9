/* Quantised weights: from a file's blocks to the order of quantized.cuh, and back to bf16. */
#include "kernels/cuda/quantized.cuh"

namespace {

constexpr int THREADS = 256;

__host__ __device__ int padded(int k) {
    return (k + QUANT_STEP - 1) / QUANT_STEP * QUANT_STEP;
}

/* What a file holds of 32 elements: an f16 scale and the values, 4-bit ones offset by 8, element i in the low
 * half of byte i and element i + 16 in the high one. */
struct block8 {
    __half scale;
    int8_t q[QUANT_GROUP];
};
struct block4 {
    __half scale;
    uint8_t q[QUANT_GROUP / 2];
};
__device__ __forceinline__ int value(const struct block8 &b, int i) {
    return b.q[i];
}
__device__ __forceinline__ int value(const struct block4 &b, int i) {
    return (i < 16 ? b.q[i] & 15 : b.q[i - 16] >> 4) - 8;
}

/* Where a group's word has element e of a thread's eight. */
__device__ __forceinline__ int nibble(int e) {
    return e % 4 * 8 + e / 4 * 4;
}

/* A thread makes the 16 bytes of one thread of the product: piece `t` of a run of groups. */
template <typename Block, int BITS>
__global__ void pack(const Block *blocks, int n, int k, uint4 *to, __half *scales) {
    constexpr int RUN = BITS == 8 ? 2 : 4; /* groups in 16 bytes */
    const int groups = padded(k) / QUANT_GROUP, real = k / QUANT_GROUP, pieces = groups / RUN * 4;
    const size_t at = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (at >= (size_t)n * pieces) return;
    const int row = (int)(at / pieces), first = (int)(at % pieces) / 4 * RUN, t = (int)(at % 4);
    uint32_t word[4] = {};
    for (int i = 0; i < RUN; i++) {
        if (first + i >= real) break;
        const Block &b = blocks[(size_t)row * real + first + i];
        for (int e = 0; e < 8; e++) {
            const int v = value(b, t * 8 + e);
            if (BITS == 8)
                word[i * 2 + e / 4] |= (uint32_t)(v & 255) << e % 4 * 8;
            else
                word[i] |= (uint32_t)(v & 15) << nibble(e);
        }
    }
    to[at] = make_uint4(word[0], word[1], word[2], word[3]);
    if (t) return;
    for (int i = first; i < first + RUN; i++)
        scales[((size_t)(i / QUANT_GROUPS) * n + row) * QUANT_GROUPS + i % QUANT_GROUPS] =
            i < real ? blocks[(size_t)row * real + i].scale : __half(0);
}

/* 8 elements of a row from element 8 * eight on. */
template <int BITS>
__device__ __forceinline__ void widen_eight(const uint32_t *packed, const __half *scales, int n, int k,
                                            int row, int eight, float (&out)[8]) {
    constexpr int RUN = BITS == 8 ? 2 : 4;
    const int group = eight / 4, t = eight % 4;
    const float scale = __half2float(
        scales[((size_t)(group / QUANT_GROUPS) * n + row) * QUANT_GROUPS + group % QUANT_GROUPS]);
    const uint32_t *piece = packed + (size_t)row * (padded(k) * BITS / 32) + (group / RUN * 4 + t) * 4;
    for (int e = 0; e < 8; e++) {
        const int v = BITS == 8 ? (int8_t)(piece[group % 2 * 2 + e / 4] >> e % 4 * 8)
                                : (int8_t)(piece[group % 4] >> nibble(e) << 4) >> 4;
        out[e] = scale * v;
    }
}

template <int BITS>
__global__ void widen_rows(const uint32_t *packed, const __half *scales, int n, int k, uint4 *to) {
    pdl_release();
    pdl_wait();
    const size_t at = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (at >= (size_t)n * (k / 8)) return;
    float wide[8];
    widen_eight<BITS>(packed, scales, n, k, (int)(at / (k / 8)), (int)(at % (k / 8)), wide);
    __align__(16) bf16 out[8];
    for (int e = 0; e < 8; e++) out[e] = __float2bfloat16(wide[e]);
    to[at] = *(const uint4 *)out;
}

} // namespace

size_t quantized_bytes(enum dtype type, int32_t n, int32_t k) {
    return (size_t)n * padded(k) * (type == DTYPE_Q8_0 ? 8 : 4) / 8 +
           (size_t)n * (padded(k) / QUANT_GROUP) * 2;
}

static __half *scales_of(const void *packed, enum dtype type, int32_t n, int32_t k) {
    return (__half *)((char *)packed + (size_t)n * padded(k) * (type == DTYPE_Q8_0 ? 8 : 4) / 8);
}

static unsigned blocks_for(size_t threads) {
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

void quantized_pack(struct backend *be, const void *blocks, enum dtype type, int32_t n, int32_t k, void *to) {
    __half *scales = scales_of(to, type, n, k);
    const size_t pieces = (size_t)n * (padded(k) / QUANT_GROUP) * 4;
    if (type == DTYPE_Q8_0)
        launch(be, "pack", pack<struct block8, 8>, blocks_for(pieces / 2), THREADS, 0,
               (const struct block8 *)blocks, n, k, (uint4 *)to, scales);
    else
        launch(be, "pack", pack<struct block4, 4>, blocks_for(pieces / 4), THREADS, 0,
               (const struct block4 *)blocks, n, k, (uint4 *)to, scales);
}

void quantized_widen(struct backend *be, const void *packed, enum dtype type, int32_t n, int32_t k,
                     bf16 *to) {
    const __half *scales = scales_of(packed, type, n, k);
    const unsigned grid = blocks_for((size_t)n * (k / 8));
    launch(be, "widen", type == DTYPE_Q8_0 ? widen_rows<8> : widen_rows<4>, grid, THREADS, 0,
           (const uint32_t *)packed, scales, n, k, (uint4 *)to);
}

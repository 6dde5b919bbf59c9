/* Quantised weights: from a file's blocks to the order of quantized.cuh, and back to bf16. */
#include "kernels/cuda/quantized.cuh"

namespace {

constexpr int THREADS = 256;

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

/* A thread's 16 bytes: the first group of which they hold some, in which row, and which thread's they are. */
template <int BITS> struct piece {
    static constexpr int RUN = BITS == 8 ? 2 : 4,
                         STEP_PIECES = QUANT_GROUPS / RUN; /* groups; pieces of a step */
    static __host__ __device__ size_t brick(int k, int row, int step) {
        return ((size_t)(row / 8) * quant_steps(k) + step) * brick_bytes(BITS);
    }
    static __device__ size_t at(int k, int row, int group, int t) {
        return brick(k, row, group / QUANT_GROUPS) + group % QUANT_GROUPS / RUN * 512 + row % 8 * 64 + t * 16;
    }
    static __device__ size_t scale_at(int k, int row, int group) {
        return brick(k, row, group / QUANT_GROUPS) + QUANT_STEP * BITS + row % 8 * 16 +
               group % QUANT_GROUPS * 2;
    }
};

/* A thread makes the 16 bytes of one thread of the product. */
template <typename Block, int BITS> __global__ void pack(const Block *blocks, int n, int k, char *to) {
    using P = piece<BITS>;
    const int real = k / QUANT_GROUP, pieces = quant_steps(k) * P::STEP_PIECES * 4;
    const size_t id = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    const int row = (int)(id / pieces), first = (int)(id % pieces) / 4 * P::RUN, t = (int)(id % 4);
    if (row >= (n + 7) / 8 * 8) return;
    uint32_t word[4] = {};
    for (int i = 0; i < P::RUN; i++) {
        if (first + i >= real || row >= n) break;
        const Block &b = blocks[(size_t)row * real + first + i];
        for (int e = 0; e < 8; e++) {
            const int v = value(b, t * 8 + e);
            if (BITS == 8)
                word[i * 2 + e / 4] |= (uint32_t)(v & 255) << e % 4 * 8;
            else
                word[i] |= (uint32_t)(v & 15) << nibble(e);
        }
    }
    *(uint4 *)(to + P::at(k, row, first, t)) = make_uint4(word[0], word[1], word[2], word[3]);
    if (t) return;
    for (int i = first; i < first + P::RUN; i++)
        *(__half *)(to + P::scale_at(k, row, i)) =
            i < real && row < n ? blocks[(size_t)row * real + i].scale : __half(0);
}

/* 8 elements of a row from element 8 * eight on. */
template <int BITS>
__device__ __forceinline__ void widen_eight(const char *packed, int k, int row, int eight, float (&out)[8]) {
    using P = piece<BITS>;
    const int group = eight / 4, t = eight % 4;
    const float scale = __half2float(*(const __half *)(packed + P::scale_at(k, row, group)));
    const uint32_t *words = (const uint32_t *)(packed + P::at(k, row, group, t));
    for (int e = 0; e < 8; e++) {
        const int v = BITS == 8 ? (int8_t)(words[group % 2 * 2 + e / 4] >> e % 4 * 8)
                                : (int8_t)(words[group % 4] >> nibble(e) << 4) >> 4;
        out[e] = scale * v;
    }
}

template <int BITS> __global__ void widen_rows(const char *packed, int n, int k, uint4 *to) {
    pdl_release();
    pdl_wait();
    const size_t at = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (at >= (size_t)n * (k / 8)) return;
    float wide[8];
    widen_eight<BITS>(packed, k, (int)(at / (k / 8)), (int)(at % (k / 8)), wide);
    __align__(16) bf16 out[8];
    for (int e = 0; e < 8; e++) out[e] = __float2bfloat16(wide[e]);
    to[at] = *(const uint4 *)out;
}

} // namespace

static int bits_of(enum dtype type) {
    return type == DTYPE_Q8_0 ? 8 : 4;
}

size_t quantized_bytes(enum dtype type, int32_t n, int32_t k) {
    return (size_t)ceil_div(n, 8) * quant_steps(k) * brick_bytes(bits_of(type));
}

static unsigned blocks_for(size_t threads) {
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

void quantized_pack(struct backend *be, const void *blocks, enum dtype type, int32_t n, int32_t k, void *to) {
    const size_t pieces = (size_t)ceil_div(n, 8) * 8 * quant_steps(k) * QUANT_GROUPS * 4;
    if (type == DTYPE_Q8_0)
        launch(be, "pack", pack<struct block8, 8>, blocks_for(pieces / 2), THREADS, 0,
               (const struct block8 *)blocks, n, k, (char *)to);
    else
        launch(be, "pack", pack<struct block4, 4>, blocks_for(pieces / 4), THREADS, 0,
               (const struct block4 *)blocks, n, k, (char *)to);
}

void quantized_widen(struct backend *be, const void *packed, enum dtype type, int32_t n, int32_t k,
                     bf16 *to) {
    launch(be, "widen", type == DTYPE_Q8_0 ? widen_rows<8> : widen_rows<4>, blocks_for((size_t)n * (k / 8)),
           THREADS, 0, (const char *)packed, n, k, (uint4 *)to);
}

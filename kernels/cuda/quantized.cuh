/* Weights of 8 and 4 bits in groups of 32 that share an f16 scale: how they lie on the card, and their
 * product for few rows.
 *
 * A row is padded to steps of 256 elements; behind the rows lie the scales, [step][row][8] f16, zero for what
 * pads. Elements are in the order in which the threads of a tensor-core step hold them: thread t of four
 * takes elements 8t to 8t + 7 of each group, and its 16 bytes hold those of two groups (8 bits) or four (4
 * bits: the first four in the low halves of the bytes, two's complement).
 *
 * Activations come as bf16 and are rounded to 8 bits as they are used, 128 of a row (a chunk) sharing one
 * scale. Products are of integers and exact; a group's sum is scaled in f32. What is rounded is a row's own:
 * its bits depend on no other row. */
#ifndef OUTRIDER_CUDA_QUANTIZED_CUH
#define OUTRIDER_CUDA_QUANTIZED_CUH

#include "kernels/cuda/common.cuh"

enum { QUANT_GROUP = 32, QUANT_STEP = 256, QUANT_GROUPS = QUANT_STEP / QUANT_GROUP, CHUNK_GROUPS = 4 };

/* Bytes of a matrix [n][k] on the card. */
size_t quantized_bytes(enum dtype type, int32_t n, int32_t k);
/* From a file's blocks (weights/dtype.h) to the order above; both in the card's memory. k % 32 == 0. */
void quantized_pack(struct backend *be, const void *blocks, enum dtype type, int32_t n, int32_t k, void *to);
/* Rows of a packed matrix as bf16, [n][k], for products that know no other type. */
void quantized_widen(struct backend *be, const void *packed, enum dtype type, int32_t n, int32_t k, bf16 *to);

/* d = c + a b for a 16x32 tile a and a 32x8 tile b of 8-bit integers, c the same everywhere. */
static __device__ __forceinline__ void mma_s8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              const uint32_t (&b)[2], int c) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%10,%10,"
        "%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b[0]), "r"(b[1]), "r"(c));
}

/* An integer of less than 23 bits added to the bits of this number gives the number plus the integer, so that
 * sums need no conversion. */
constexpr float INTEGERS = 12582912; /* 1.5 * 2^23 */

/* The bytes of four such numbers. */
static __device__ __forceinline__ uint32_t pack_bytes(float a, float b, float c, float d) {
    const uint32_t low = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0040);
    return __byte_perm(low, __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0040), 0x5410);
}

/* In each half the greatest size of 8 elements; NaN wins. */
static __device__ __forceinline__ __nv_bfloat162 greatest(const uint4 &x) {
    auto size = [](const uint32_t &two) { return __habs2((const __nv_bfloat162 &)two); };
    return __hmax2_nan(__hmax2_nan(size(x.x), size(x.y)), __hmax2_nan(size(x.z), size(x.w)));
}

/* What activations are rounded to multiples of. */
struct unit {
    float size, inverse;
    __device__ unit(__nv_bfloat162 most) {
        const float top = __bfloat162float(__hmax_nan(most.x, most.y));
        inverse = top < 1e-30f ? 0 : 127 * __frcp_rn(top);
        size = top < 1e-30f ? 0 : top * (1 / 127.f);
    }
    __device__ void round(const uint4 &x, uint32_t (&bytes)[2]) const {
        const uint32_t two[4] = {x.x, x.y, x.z, x.w};
        float q[8];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            q[2 * j] = fmaf(__uint_as_float(two[j] << 16), inverse, INTEGERS);
            q[2 * j + 1] = fmaf(__uint_as_float(two[j] & 0xffff0000), inverse, INTEGERS);
        }
        bytes[0] = pack_bytes(q[0], q[1], q[2], q[3]);
        bytes[1] = pack_bytes(q[4], q[5], q[6], q[7]);
    }
};

/* A thread's 8 activations of each group of a chunk as bytes, from `piece`, which gives 8 elements of group i
 * of the chunk; and their scale, the same for the four threads of a row. */
template <typename Piece>
static __device__ __forceinline__ float quantize_chunk(Piece piece, uint32_t (*bytes)[2]) {
    uint4 x[CHUNK_GROUPS];
    __nv_bfloat162 most = {0, 0};
#pragma unroll
    for (int i = 0; i < CHUNK_GROUPS; i++) most = __hmax2_nan(most, greatest(x[i] = piece(i)));
    for (int offset = 1; offset < 4; offset *= 2)
        most = __hmax2_nan(most, __shfl_xor_sync(~0u, most, offset));
    const struct unit u(most);
#pragma unroll
    for (int i = 0; i < CHUNK_GROUPS; i++) u.round(x[i], bytes[i]);
    return u.size;
}

/* The same for both chunks of a step of one row, the work shared by all threads of the warp. */
template <typename Piece>
static __device__ __forceinline__ void quantize_row(Piece piece, uint32_t (&bytes)[QUANT_GROUPS][2],
                                                    float (&size)[2]) {
    const int lane = threadIdx.x % 32;
    const uint4 x = piece(lane / 4);
    __nv_bfloat162 most = greatest(x);
    for (int offset = 1; offset < 16; offset *= 2)
        most = __hmax2_nan(most, __shfl_xor_sync(~0u, most, offset));
    const struct unit u(most);
    uint32_t mine[2];
    u.round(x, mine);
#pragma unroll
    for (int i = 0; i < QUANT_GROUPS; i++)
        for (int j = 0; j < 2; j++) bytes[i][j] = __shfl_sync(~0u, mine[j], i * 4 + lane % 4);
    for (int chunk = 0; chunk < 2; chunk++) size[chunk] = __shfl_sync(~0u, u.size, chunk * 16);
}

/* The i-th of eight f16. */
static __device__ __forceinline__ float scale_at(const uint4 &eight, int i) {
    const uint32_t two = i / 2 == 0 ? eight.x : i / 2 == 1 ? eight.y : i / 2 == 2 ? eight.z : eight.w;
    const __half2 h = (const __half2 &)two;
    return __half2float(i % 2 ? h.y : h.x);
}

/* A format of skinny.cuh. */
template <int BITS> struct quantized_weights {
    static constexpr int WARPS = 8, WIDTH = QUANT_STEP, STEP = WIDTH, ROW_BYTES = WIDTH * BITS / 8,
                         SCALE_BYTES = QUANT_GROUPS * 2;
    static constexpr bool MOST_REGISTERS = true;
    static constexpr int SHARE = BITS == 8 ? 2 : 4; /* groups in 16 bytes */
    static __device__ __forceinline__ int padded(int k) { return (k + STEP - 1) / STEP * STEP; }
    static __device__ __forceinline__ size_t pitch(int k) { return (size_t)padded(k) * BITS / 8; }
    template <int> static __device__ __forceinline__ int swap(int piece, int row) {
        return piece ^ (row & 1) * 4;
    }

    /* A thread's elements of group i in one row, from its 16 bytes of the groups around; of 4 bits, times 16.
     */
    static __device__ __forceinline__ void unpack(const uint4 &v, int i, uint32_t &first, uint32_t &second) {
        if (BITS == 8) {
            first = i % 2 ? v.z : v.x;
            second = i % 2 ? v.w : v.y;
        } else {
            const uint32_t w = i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
            first = w << 4 & 0xf0f0f0f0;
            second = w & 0xf0f0f0f0;
        }
    }

    /* Adds a stage's products. Thread 4g + t has rows g and g + 8 of each tile of 16, columns 2t and 2t + 1.
     */
    template <int RT, int NT>
    static __device__ __forceinline__ void multiply(const char *stage, int m, float (&c)[RT][NT][4]) {
        static_assert(NT == 1, "more rows would leave the ring no room");
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, row = min(g, m - 1);
        const char *w = stage + g * ROW_BYTES, *scales = stage + RT * 16 * ROW_BYTES + g * SCALE_BYTES,
                   *a = stage + RT * 16 * (ROW_BYTES + SCALE_BYTES) + row * WIDTH * 2;
        uint32_t b[QUANT_GROUPS][2];
        float size[2], of[2][2]; /* of this thread's row; of its columns */
        auto piece = [&](int i) { return *(const uint4 *)(a + swap<WIDTH * 2>(i * 4 + t, row) * 16); };
        if (m == 1)
            quantize_row(piece, b, size);
        else
            for (int chunk = 0; chunk < 2; chunk++)
                size[chunk] = quantize_chunk([&](int i) { return piece(chunk * CHUNK_GROUPS + i); },
                                             b + chunk * CHUNK_GROUPS);
#pragma unroll
        for (int chunk = 0; chunk < 2; chunk++)
            for (int e = 0; e < 2; e++)
                of[chunk][e] = __shfl_sync(~0u, size[chunk], t * 8 + e * 4) * (BITS == 8 ? 1 : 1 / 16.f);
#pragma unroll
        for (int r = 0; r < RT; r++) {
            const uint4 scale[2] = {*(const uint4 *)(scales + r * 16 * SCALE_BYTES),
                                    *(const uint4 *)(scales + (r * 16 + 8) * SCALE_BYTES)};
            float sum[2][4] = {};
#pragma unroll
            for (int i = 0; i < QUANT_GROUPS; i += SHARE) {
                const char *at = w + r * 16 * ROW_BYTES + swap<ROW_BYTES>(i / SHARE * 4 + t, g) * 16;
                const uint4 lo = *(const uint4 *)at, hi = *(const uint4 *)(at + 8 * ROW_BYTES);
                int d[SHARE][4];
#pragma unroll
                for (int j = 0; j < SHARE; j++) {
                    uint32_t w0, w1, w2, w3;
                    unpack(lo, j, w0, w2);
                    unpack(hi, j, w1, w3);
                    mma_s8(d[j], w0, w1, w2, w3, b[i + j], __float_as_int(INTEGERS));
                }
#pragma unroll
                for (int j = 0; j < SHARE; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float &to = sum[(i + j) / CHUNK_GROUPS][e];
                        to = fmaf(scale_at(scale[e / 2], i + j), __int_as_float(d[j][e]) - INTEGERS, to);
                    }
            }
#pragma unroll
            for (int chunk = 0; chunk < 2; chunk++)
#pragma unroll
                for (int e = 0; e < 4; e++) c[r][0][e] = fmaf(of[chunk][e % 2], sum[chunk][e], c[r][0][e]);
        }
    }
};

#endif

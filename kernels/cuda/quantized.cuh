/* Weights of 8 and 4 bits in groups of 32 that share an f16 scale: how they lie on the card, and their
 * product for few rows.
 *
 * Rows are padded to steps of 256 elements and to strips of 8 rows. A strip's steps follow each other, and a
 * step of a strip, a brick, is first the elements, as the threads of a tensor-core step hold them, then the
 * scales, [row][8] f16. Of each group thread t of four takes elements 8t to 8t + 7, and its 16 bytes hold
 * those of two groups (8 bits) or four (4 bits: the first four in the low halves of the bytes, two's
 * complement): a brick is [groups / 2 or 4][row][t][16 bytes]. What pads is zero.
 *
 * Activations come as bf16 and are rounded to 8 bits by the block that multiplies them, 128 of a row (a
 * chunk) sharing one scale. Products are of integers and exact; a group's sum is scaled in f32. What is
 * rounded is a row's own: its bits depend on no other row. */
#ifndef OUTRIDER_CUDA_QUANTIZED_CUH
#define OUTRIDER_CUDA_QUANTIZED_CUH

#include "kernels/cuda/common.cuh"

enum { QUANT_GROUP = 32, QUANT_STEP = 256, QUANT_GROUPS = QUANT_STEP / QUANT_GROUP, CHUNK_GROUPS = 4 };

static constexpr __host__ __device__ int brick_bytes(int bits) {
    return 8 * (QUANT_STEP * bits / 8 + QUANT_GROUPS * 2);
}
static __host__ __device__ __forceinline__ int quant_steps(int k) {
    return (k + QUANT_STEP - 1) / QUANT_STEP;
}

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
        inverse = top < 1e-30f ? 0 : __fdividef(127, top);
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

/* The f16 scales of a row of a step. */
struct scales {
    uint4 eight;
    __device__ __forceinline__ explicit scales(const char *from) : eight(*(const uint4 *)from) {}
    __device__ __forceinline__ float at(int i) const { /* a constant, once unrolled */
        const uint32_t two = i / 2 == 0 ? eight.x : i / 2 == 1 ? eight.y : i / 2 == 2 ? eight.z : eight.w;
        const __half2 h = (const __half2 &)two;
        return __half2float(i % 2 ? h.y : h.x);
    }
};

/* A thread's elements of group i in one row, from its 16 bytes of the groups around; of 4 bits, times 16. */
template <int BITS>
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

#endif

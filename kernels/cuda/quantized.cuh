/* Weights of 8 and 4 bits in groups of 32 that share an f16 scale: how they lie on the card, and their
 * product for few rows.
 *
 * A row is padded to steps of 256 elements; behind the rows lie the scales, [step][row][8] f16, zero for what
 * pads. Elements are in the order in which the threads of a tensor-core step hold them: thread t of four
 * takes elements 8t to 8t + 7 of each group, and its 16 bytes hold those of two groups (8 bits) or four (4
 * bits: the first four in the low halves of the bytes, two's complement).
 *
 * Activations come as bf16 and are rounded to 8 bits as they are used, or once a block where a row is
 * alone, 128 of a row (a chunk) sharing one scale. Products are of integers and exact; a group's sum is
 * scaled in f32. What is rounded is a row's own: its bits depend on no other row. */
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

/* One row's activations in 8 bits as they lie in shared memory: a scale a chunk, then the row, in which a
 * thread finds its elements of two groups in 16 bytes, four threads one after the other. */
struct rounded {
    static constexpr int CHUNK = CHUNK_GROUPS * QUANT_GROUP;
    float *units;
    char *row;
    static __host__ __device__ int padded(int k) { return (k + QUANT_STEP - 1) / QUANT_STEP * QUANT_STEP; }
    static __host__ __device__ int bytes(int k) { return padded(k) / CHUNK * 4 + 128 + padded(k); }
    __device__ rounded(char *shared, int k)
        : units((float *)shared), row(shared + (padded(k) / CHUNK * 4 + 127) / 128 * 128) {}

    /* Rounds elements 8 * lane .. of a step; by a whole warp, half of it a chunk. */
    __device__ __forceinline__ void put(int step, const uint4 &x) const {
        const int lane = threadIdx.x % 32;
        __nv_bfloat162 most = greatest(x);
        for (int offset = 1; offset < 16; offset *= 2)
            most = __hmax2_nan(most, __shfl_xor_sync(~0u, most, offset));
        const struct unit u(most);
        uint32_t bytes[2];
        u.round(x, bytes);
        *(uint2 *)(row + step * QUANT_STEP + lane / 8 * 64 + lane % 4 * 16 + lane / 4 % 2 * 8) =
            make_uint2(bytes[0], bytes[1]);
        if (lane % 16 == 0) units[step * 2 + lane / 16] = u.size;
    }
};

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

/* A format of skinny.cuh. ALONE: of a single row, whose activations are RESIDENT. More rows would take the
 * ring's room, and rounding them all before the first product takes longer than the ring has weights to wait
 * for. Both make the same bits. */
template <int BITS, bool ALONE> struct quantized_weights {
    static constexpr int WARPS = 8, WIDTH = QUANT_STEP, STEP = WIDTH, ROW_BYTES = WIDTH * BITS / 8,
                         SCALE_BYTES = QUANT_GROUPS * 2, CHUNKS = QUANT_GROUPS / CHUNK_GROUPS;
    static constexpr bool MOST_REGISTERS = true, SWITCHED = true, RESIDENT = ALONE;
    static constexpr int SHARE = BITS == 8 ? 2 : 4; /* groups in 16 bytes */
    static __host__ __device__ __forceinline__ int padded(int k) { return (k + STEP - 1) / STEP * STEP; }
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

    static __host__ __device__ __forceinline__ int resident_bytes(int k) { return rounded::bytes(k); }

    /* Each warp rounds the steps that it will multiply, a few loads under way at a time. */
    template <class Product> static __device__ __forceinline__ void reside(const Product &p, char *shared) {
        constexpr int AHEAD = 4;
        const struct rounded to(shared, p.k);
        const int steps = padded(p.k) / STEP, mine = threadIdx.x % 32 * 8;
        for (int from = threadIdx.x / 32; from < steps; from += AHEAD * WARPS) {
            uint4 x[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const int k = (from + i * WARPS) * STEP + mine;
                x[i] = k < p.k ? __ldcg((const uint4 *)(p.a + k)) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (from + i * WARPS < steps) to.put(from + i * WARPS, x[i]);
        }
        __syncwarp();
    }

    /* Adds the products of the stage that begins at element k of rows of `all`. Thread 4g + t has rows g and
     * g + 8 of each tile of 16, columns 2t and 2t + 1. */
    template <int RT, int NT>
    static __device__ __forceinline__ void multiply(const char *stage, const char *shared, int all, int k,
                                                    int m, float (&c)[RT][NT][4]) {
        static_assert(NT == 1, "more rows would leave the ring no room");
        uint32_t b[QUANT_GROUPS][2];
        float of[CHUNKS][2]; /* units of the columns */
        if constexpr (ALONE) {
            if (k >= padded(all)) return;
            read_row({const_cast<char *>(shared), all}, k, b, of);
        } else {
            round_rows(stage + RT * 16 * (ROW_BYTES + SCALE_BYTES), m, b, of);
        }
        multiply_columns<RT, ALONE ? 2 : 1>(stage, b, of, c);
    }

    static __device__ __forceinline__ void read_row(const struct rounded &a, int k,
                                                    uint32_t (&b)[QUANT_GROUPS][2], float (&of)[CHUNKS][2]) {
        const char *row = a.row + k + threadIdx.x % 4 * 16;
#pragma unroll
        for (int i = 0; i < QUANT_GROUPS; i += 2) {
            const uint4 two = *(const uint4 *)(row + i / 2 * 64);
            b[i][0] = two.x, b[i][1] = two.y, b[i + 1][0] = two.z, b[i + 1][1] = two.w;
        }
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++)
            of[chunk][0] = of[chunk][1] = a.units[k / rounded::CHUNK + chunk];
    }

    static __device__ __forceinline__ void round_rows(const char *a, int m, uint32_t (&b)[QUANT_GROUPS][2],
                                                      float (&of)[CHUNKS][2]) {
        const int t = threadIdx.x % 4, row = min((int)threadIdx.x % 32 / 4, m - 1);
        a += row * WIDTH * 2;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            auto piece = [&](int i) {
                return *(const uint4 *)(a + swap<WIDTH * 2>((chunk * CHUNK_GROUPS + i) * 4 + t, row) * 16);
            };
            const float size = quantize_chunk(piece, b + chunk * CHUNK_GROUPS);
            for (int e = 0; e < 2; e++) of[chunk][e] = __shfl_sync(~0u, size, t * 8 + e * 4);
        }
    }

    /* Every E-th of a thread's sums: of a single row, the others are columns that nobody reads. */
    template <int RT, int E>
    static __device__ __forceinline__ void
    multiply_columns(const char *stage, const uint32_t (&b)[QUANT_GROUPS][2], const float (&of)[CHUNKS][2],
                     float (&c)[RT][1][4]) {
        constexpr float UNIT = BITS == 8 ? 1 : 1 / 16.f; /* of unpacked weights */
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const char *w = stage + g * ROW_BYTES, *scale_row = stage + RT * 16 * ROW_BYTES + g * SCALE_BYTES;
#pragma unroll
        for (int r = 0; r < RT; r++) {
            const struct scales scale[2] = {scales(scale_row + r * 16 * SCALE_BYTES),
                                            scales(scale_row + (r * 16 + 8) * SCALE_BYTES)};
            float sum[CHUNKS][4] = {};
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
                    for (int e = 0; e < 4; e += E) {
                        float &to = sum[(i + j) / CHUNK_GROUPS][e];
                        to = fmaf(scale[e / 2].at(i + j), __int_as_float(d[j][e]) - INTEGERS, to);
                    }
            }
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
                for (int e = 0; e < 4; e += E)
                    c[r][0][e] = fmaf(of[chunk][e % 2] * UNIT, sum[chunk][e], c[r][0][e]);
        }
    }
};

#endif

/* What becomes of a matrix product's sums: the part that every product ends with, fused into the tensor-core
 * kernel and run by a kernel of its own behind cuBLAS and the plain product.
 *
 * Sums come in pairs, because RoPE and SwiGLU combine two outputs: pair p of a product whose outputs lie in
 * blocks of 2 * half is output (p / half) * 2 * half + p % half and the one `half` after it. RoPE's half is
 * half a head, SwiGLU's the intermediate size (gate above up), any other product's half of its outputs. */
#ifndef OUTRIDER_CUDA_FINISH_CUH
#define OUTRIDER_CUDA_FINISH_CUH

#include "kernels/cuda/common.cuh"

enum finish_kind { FINISH_ADD, FINISH_STORE, FINISH_SILU, FINISH_QKV };

struct finish {
    enum finish_kind kind;
    int32_t n, half, pairs; /* outputs; see above */
    const float *scale;     /* [rows], or null: what the sums are multiplied by first; */
    const float *bias;      /* [n], or null: what is added next */
    float softcap;          /* STORE: x = softcap tanh(x / softcap); 0: none */
    bool gelu;              /* SILU: GELU instead */
    /* What needs all of a row or head before anything can be finished; see rows.cuh */
    const float *q_norm, *k_norm; /* QKV: [2 * half], or null */
    const float *post_norm;       /* ADD: [n], or null */
    float norm_eps;
    float *x; /* ADD: x += sum, STORE: x = sum; [rows][n] */
    /* ADD, when the norm behind it is known: x norm as bf16 and the squares of each tile, [rows][tiles] */
    const float *norm;
    bf16 *normed;
    float *squares;
    void *wide; /* SILU: hidden, QKV: q */
    enum dtype wide_type;
    /* QKV */
    const int32_t *position, *slot, *table, *path;
    const float2 *rope;
    void *k, *v;
    float q_scale;
    int32_t table_stride, page_size, heads, kv_heads;
    enum dtype cache;
};

static __device__ __forceinline__ void store_wide(const struct finish &f, size_t at, float v) {
    if (f.wide_type == DTYPE_F32)
        ((float *)f.wide)[at] = v;
    else if (f.wide_type == DTYPE_BF16)
        ((bf16 *)f.wide)[at] = __float2bfloat16(v);
    else
        ((__half *)f.wide)[at] = __float2half(v);
}

static __device__ __forceinline__ int32_t first_of_pair(const struct finish &f, int32_t pair) {
    return pair < f.half ? pair : pair + pair / f.half * f.half; /* most have one block: no division */
}

static __device__ __forceinline__ void add_bias(const struct finish &f, int32_t pair, float &a, float &b) {
    if (!f.bias) return;
    const int32_t first = first_of_pair(f, pair);
    a += f.bias[first];
    if (first + f.half < f.n) b += f.bias[first + f.half];
}

/* A row's position, and which of the pool's tokens it is. */
struct place {
    int32_t position, token;
};
static __device__ __forceinline__ struct place find_place(const struct finish &f, int32_t row) {
    if (f.kind != FINISH_QKV) return {0, 0};
    const int32_t position = f.position[row], at = place_of(f.path, row, position);
    const int32_t page = f.table[(size_t)f.slot[row] * f.table_stride + at / f.page_size];
    return {position, page * f.page_size + at % f.page_size};
}

static __device__ __forceinline__ void rotate(const struct finish &f, const struct place &at, int32_t d,
                                              float &a, float &b) {
    const float2 turn = f.rope[(size_t)at.position * f.half + d];
    const float turned = a * turn.x - b * turn.y;
    b = b * turn.x + a * turn.y;
    a = turned;
}

static __device__ __forceinline__ void finish_qkv(const struct finish &f, int32_t row, const struct place &at,
                                                  int32_t pair, float a, float b) {
    int32_t head = pair / f.half, d = pair % f.half;
    if (head < f.heads + f.kv_heads) rotate(f, at, d, a, b);
    if (head < f.heads) {
        size_t to = ((size_t)row * f.heads + head) * 2 * f.half + d;
        store_wide(f, to, a * f.q_scale);
        store_wide(f, to + f.half, b * f.q_scale);
        return;
    }
    head -= f.heads;
    void *cache = head < f.kv_heads ? f.k : f.v;
    head -= head < f.kv_heads ? 0 : f.kv_heads;
    const int32_t page = at.token / f.page_size, offset = at.token % f.page_size;
    const size_t to = (((size_t)page * f.kv_heads + head) * f.page_size + offset) * 2 * f.half + d;
    if (f.cache == DTYPE_F16) {
        ((__half *)cache)[to] = __float2half(a);
        ((__half *)cache)[to + f.half] = __float2half(b);
    } else {
        ((float *)cache)[to] = a;
        ((float *)cache)[to + f.half] = b;
    }
}

static __device__ __forceinline__ void finish_pair(const struct finish &f, int32_t row,
                                                   const struct place &at, int32_t pair, float a, float b) {
    add_bias(f, pair, a, b);
    if (f.kind == FINISH_QKV) return finish_qkv(f, row, at, pair, a, b);
    if (f.kind == FINISH_SILU) {
        const float t = f.gelu ? a * (1.5957691216f + 0.0713548163f * a * a) : a;
        return store_wide(f, (size_t)row * f.half + pair, a / (1 + expf(-t)) * b);
    }
    if (f.softcap != 0) {
        a = f.softcap * tanhf(a / f.softcap);
        b = f.softcap * tanhf(b / f.softcap);
    }
    int32_t first = first_of_pair(f, pair), second = first + f.half;
    float *x = f.x + (size_t)row * f.n;
    if (f.kind == FINISH_ADD) {
        a += __ldcg(x + first);
        b += second < f.n ? __ldcg(x + second) : 0;
    }
    x[first] = a;
    if (second < f.n) x[second] = b;
}

/* ADD with the norm behind it: as finish_pair and rmsnorm() would do it, bit for bit; by `lanes` neighbouring
 * threads, one a pair of the tile. What comes from memory the caller read long before. */
struct before {
    float2 x, norm; /* of a pair */
};
static __device__ __forceinline__ void finish_normed(const struct finish &f, int32_t row, int32_t pair,
                                                     int32_t tile, int32_t tiles, bool mine, float a, float b,
                                                     const struct before &old, int lanes) {
    const bool live = mine && pair < f.pairs, both = live && pair + f.half < f.n;
    const size_t at = (size_t)row * f.n + pair;
    if (live) add_bias(f, pair, a, b);
    a = live ? a + old.x.x : 0;
    b = both ? b + old.x.y : 0;
    const float sum = tile_squares(a, b, lanes);
    if (mine && threadIdx.x % lanes == 0) f.squares[row * tiles + tile] = sum;
    if (live) {
        f.x[at] = a;
        f.normed[at] = __float2bfloat16(a * old.norm.x);
    }
    if (both) {
        f.x[at + f.half] = b;
        f.normed[at + f.half] = __float2bfloat16(b * old.norm.y);
    }
}

#endif

/* Attention over the paged cache.
 *
 * fast   f16 or 8-bit cache, heads of 64, 96, 128 or 256 (which of them: attention_is_fast), Hopper: tensor
 * cores, with up to 16 query vectors (rows of one sequence times the query heads of one key head) as the
 * 16-row operand, so that the rows of a verify pass and the heads of a group read the keys and values once. A
 * row's positions are split into at most ATTENTION_SPANS spans of a length that depends on its own position
 * only; a cluster of blocks takes a span each and merges them in order through its shared memory. Inside a
 * span pieces of 128 positions follow each other with an online softmax (Milakov and Gimelshein 2018). Keys
 * and values that this pass does not write are fetched while the product that writes the others still runs.
 * Integers of an 8-bit cache become f16 on their way into the tensor cores: exact, then times their scale.
 *
 * plain  any head up to MAX_HEAD_DIM, any cache: one warp a query vector, one position after the other.
 *
 * Rows of a tree of proposals keep their own ways' order: the tree's keys and values are brought beside the
 * piece, scores of the places from the root on are put where each row's way has them, and where the values of
 * that part are weighted, the rows take turns, each with its own.
 *
 * Nothing a row is given depends on which rows share its block: vectors are rows of the tensor-core operand,
 * and a position that a row must not see counts for nothing exactly (its weight is zero and its value finite,
 * or cleared when it lies beyond every row of the block). */
#include "kernels/cuda/common.cuh"

#include <algorithm>
#include <climits>
#include <cooperative_groups.h>

namespace {

constexpr int PIECE = 128, THREADS = 256, WARPS = THREADS / 32, VECTORS = 16;

struct attend {
    const int32_t *position, *slot, *table, *path;
    int32_t rows, table_stride, heads, kv_heads, page_size;
    const __half *q;
    const void *k, *v; /* pools */
    void *attended;
    int32_t window; /* rows a cluster takes */
    int32_t sees;   /* positions a row sees, its own included: the sliding window, or more than there are */
    float scale;    /* of scores: plain only, elsewhere the queries have it */
    float softcap;  /* 0: none */
    bool wide;      /* attended is f32 */
    bool whole;     /* one span, whatever the length: passes that fill the card without splitting */
};

/* Positions a span of a row covers: a power of two times PIECE. */
__device__ __forceinline__ int span_of(const struct attend &p, int position) {
    if (p.whole) return INT_MAX / 2 + 1;
    int span = PIECE;
    while (position / span >= ATTENTION_SPANS) span *= 2;
    return span;
}

/* Rows that share their reads: neighbours of one sequence and span. */
struct crew {
    int rows, first, last; /* how many, and the least and greatest position among them */
    int stable;            /* positions below it are not written by this pass */
};

/* The crew that begins at `row`, of at most `most` rows; by one warp. */
__device__ __forceinline__ struct crew find_crew(const struct attend &p, int row, int most) {
    const int lane = threadIdx.x % 32, slot = p.slot[row], span = span_of(p, p.position[row]);
    const bool in = lane < most && p.slot[row + lane] == slot && span_of(p, p.position[row + lane]) == span;
    const int n = __ffs(~__ballot_sync(~0u, in)) - 1;
    const int first = lane < n ? p.position[row + lane] : INT_MAX, last = lane < n ? first : 0;
    int stable = p.whole ? 0 : INT_MAX;
    for (int r = lane; r < p.rows && !p.whole; r += 32)
        if (p.slot[r] == slot) stable = min(stable, p.position[r]);
    return {n, __reduce_min_sync(~0u, first), __reduce_max_sync(~0u, last), __reduce_min_sync(~0u, stable)};
}

__device__ __forceinline__ void copy_async(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], const void *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}
__device__ __forceinline__ void write_attended(const struct attend &p, size_t at, float v) {
    if (p.wide)
        ((float *)p.attended)[at] = v;
    else
        ((bf16 *)p.attended)[at] = __float2bfloat16(v);
}

/* ---- reading the cache: a class a format ----
 *
 * A thread keeps the keys of two of its warp's 16 positions in registers, of every 32 elements 8, and brings
 * 16 bytes of values at a time to shared memory: at once, or when `settle` is called. */

/* A position: which of the pool's blocks (a page's vectors of one head), and which vector of it. */
struct spot {
    const char *pool;
    size_t block;
    int place;
};

template <int D> struct half_cache {
    static constexpr int VALUES = 8;            /* elements in 16 bytes */
    static constexpr bool IN_REGISTERS = false; /* values, until they settle */
    uint4 keys[2][D / 32];

    static __device__ __forceinline__ const __half *vector(const struct attend &p, const struct spot &at) {
        return (const __half *)at.pool + (at.block * p.page_size + at.place) * D;
    }
    __device__ __forceinline__ void fetch_key(const struct attend &p, int n, const struct spot &at, int t) {
#pragma unroll
        for (int c = 0; c < D / 32; c++) keys[n][c] = __ldcg((const uint4 *)(vector(p, at) + c * 32 + t * 8));
    }
    __device__ __forceinline__ uint4 key(int n, int c, int) const {
        return keys[n][c];
    }
    __device__ __forceinline__ void fetch_value(const struct attend &p, int, const struct spot &at, int d,
                                                bool valid, __half *to) {
        copy_async(to, vector(p, at) + d, valid);
    }
    __device__ __forceinline__ void settle(int, __half *) {}
};

/* Four signed bytes, xor 0x80 each, as f16: put behind the byte of 1024 they are 1024 plus the byte. */
__device__ __forceinline__ uint2 scaled(uint32_t bytes, __half2 scale) {
    const uint32_t biased = bytes ^ 0x80808080, low = __byte_perm(biased, 0x64646464, 0x4140),
                   high = __byte_perm(biased, 0x64646464, 0x4342);
    const __half2 bias = __half2half2(__ushort_as_half(0x6480)); /* 1024 + 128 */
    const __half2 a = __hmul2(__hsub2((const __half2 &)low, bias), scale),
                  b = __hmul2(__hsub2((const __half2 &)high, bias), scale);
    return make_uint2((const uint32_t &)a, (const uint32_t &)b);
}

template <int D> struct byte_cache {
    static constexpr bool IN_REGISTERS = true;
    static constexpr int VALUES = 16, GROUPS = D / 2 / KV_GROUP, EACH = PIECE * D / VALUES / THREADS;
    static constexpr int SCALES = GROUPS % 2 ? GROUPS : GROUPS / 2; /* that a thread's keys are under */
    uint2 keys[2][D / 32];
    __half key_scale[2][SCALES]; /* of 32 elements t / 2 names the half, a group; round and round */
    uint4 values[EACH];
    __half value_scale[EACH];

    static __device__ __forceinline__ const char *block(const struct attend &p, const struct spot &at) {
        return at.pool + at.block * (p.page_size * (D + 2 * GROUPS));
    }
    static __device__ __forceinline__ const char *vector(const struct attend &p, const struct spot &at) {
        return block(p, at) + at.place * D;
    }
    static __device__ __forceinline__ const __half *scales(const struct attend &p, const struct spot &at) {
        return (const __half *)(block(p, at) + p.page_size * D) + at.place * GROUPS;
    }
    __device__ __forceinline__ void fetch_key(const struct attend &p, int n, const struct spot &at, int t) {
#pragma unroll
        for (int c = 0; c < D / 32; c++) keys[n][c] = __ldcg((const uint2 *)(vector(p, at) + c * 32 + t * 8));
#pragma unroll
        for (int i = 0; i < SCALES; i++) key_scale[n][i] = __ldcg(scales(p, at) + (i * 2 + t / 2) % GROUPS);
    }
    __device__ __forceinline__ uint4 key(int n, int c, int) const {
        const __half2 scale = __half2half2(key_scale[n][c % SCALES]);
        const uint2 low = scaled(keys[n][c].x, scale), high = scaled(keys[n][c].y, scale);
        return make_uint4(low.x, low.y, high.x, high.y);
    }
    __device__ __forceinline__ void fetch_value(const struct attend &p, int i, const struct spot &at, int d,
                                                bool valid, __half *) {
        values[i] = valid ? __ldcg((const uint4 *)(vector(p, at) + d)) : make_uint4(0, 0, 0, 0);
        value_scale[i] = valid ? __ldcg(scales(p, at) + d % (D / 2) / KV_GROUP) : __half(0);
    }
    __device__ __forceinline__ void settle(int i, __half *to) {
        const __half2 scale = __half2half2(value_scale[i]);
        const uint4 &v = values[i];
        const uint2 a = scaled(v.x, scale), b = scaled(v.y, scale), c = scaled(v.z, scale),
                    d = scaled(v.w, scale);
        ((uint4 *)to)[0] = make_uint4(a.x, a.y, b.x, b.y);
        ((uint4 *)to)[1] = make_uint4(c.x, c.y, d.x, d.y);
    }
};

/* Besides, in dynamic memory, when the rows are of a tree. */
template <int D> struct tree_tiles {
    __half v[TREE_ROWS][D + 8];
    float score[VECTORS][TREE_ROWS];
    int way[VECTORS][TREE_ROWS]; /* of the crew's rows: places from the root's on, by positions */
};

template <int D> struct tiles {
    __half q[VECTORS][D % 64 ? D : D + 32]; /* 64 bytes off a multiple of 128: reads do not conflict */
    union {
        __half v[PIECE][D + 8]; /* 16 bytes off: ldmatrix without conflicts */
        float out[VECTORS][D];  /* once all pieces are done */
    };
    __half p[VECTORS][PIECE + 8];
    float maximum[WARPS][VECTORS], sum[WARPS][VECTORS];
    float2 total[VECTORS]; /* maximum and sum of the span */
    int page[PIECE];
    struct crew crew;
};

/* Those of a wide head are more than a kernel gets as its own, and stand in front of what is beside. Casts of
 * plain bytes instead cost the narrow ones registers. */
template <int D>
constexpr size_t WIDE_TILES = sizeof(struct tiles<D>) > 48 << 10 ? (sizeof(struct tiles<D>) + 127) / 128 * 128
                                                                 : 0;
template <int D, bool WIDE = WIDE_TILES<D> != 0> struct own_tiles { struct tiles<D> tiles; };
template <int D> struct own_tiles<D, true> {};

/* Cards before Hopper, on which this kernel is compiled but never launched, have no clusters. */
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#endif
}
/* A block's copy of a shared variable. */
template <class T> __device__ __forceinline__ T *of_block(T *own, int block) {
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().map_shared_rank(own, block);
#else
    return own;
#endif
}

/* Merges the spans of each vector in order; the cluster's blocks share the work. */
template <int D>
__device__ void merge(const struct attend &p, struct tiles<D> &s, int row, int head, int heads, int vectors,
                      int spans) {
    for (int i = blockIdx.z * THREADS + threadIdx.x; i < vectors * D / 2; i += spans * THREADS) {
        const int v = i / (D / 2), d = i % (D / 2) * 2;
        float2 total[ATTENTION_SPANS], out[ATTENTION_SPANS];
        float greatest = -INFINITY, sum = 0, a = 0, b = 0;
#pragma unroll
        for (int j = 0; j < ATTENTION_SPANS; j++) {
            if (j >= spans) break;
            total[j] = *of_block(&s.total[v], j);
            out[j] = *(float2 *)of_block(&s.out[v][d], j);
            greatest = fmaxf(greatest, total[j].x);
        }
#pragma unroll
        for (int j = 0; j < ATTENTION_SPANS; j++) {
            if (j >= spans) break;
            const float share = exp2f(total[j].x - greatest);
            sum += share * total[j].y;
            a += share * out[j].x;
            b += share * out[j].y;
        }
        const size_t to = ((size_t)(row + v / heads) * p.heads + head + v % heads) * D + d;
        write_attended(p, to, a / sum);
        write_attended(p, to + 1, b / sum);
    }
}

/* One crew's vectors of one key head. Cache: a format above. SPECIAL: with a window, a cap on scores or a
 * tree, which cost registers. */
template <int D, class Cache, bool SPECIAL>
__device__ __forceinline__ void attend_crew(const struct attend &p, struct tiles<D> &s,
                                            struct tree_tiles<D> &tree, int row, int kv, int head, int heads,
                                            bool first) {
    constexpr int CHUNKS = D / 32, COLUMNS = D <= 64 ? 8 : D <= 128 ? 16 : 32; /* of the output, a warp's */
    static_assert(D % COLUMNS == 0 && D / COLUMNS <= WARPS && D % 32 == 0, "heads of this size");
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool makes = D == WARPS * COLUMNS || warp * COLUMNS < D; /* any of the output */
    const int vectors = s.crew.rows * heads, last = s.crew.last, stable = s.crew.stable;
    const int span = span_of(p, last), spans = last / span + 1;
    const int end = min((int)blockIdx.z * span + span - 1, last) + 1;
    /* Pieces that no row of the crew sees any more would count for nothing; the others stay where they are.
     */
    const int unseen = SPECIAL ? max(0, s.crew.first - p.sees + 1) / PIECE * PIECE : 0;
    const int begin = max((int)blockIdx.z * span, unseen);
    const bool idle = (int)blockIdx.z >= spans;

    const int32_t *pages = p.table + (size_t)p.slot[row] * p.table_stride;
    /* Of a tree: the place of its root, and from there on the last that the crew's ways name. */
    const int root = SPECIAL && p.path ? p.path[(size_t)row * TREE_ROWS] : INT_MAX;
    int nodes = 0;
    if (SPECIAL && p.path) {
        for (int i = threadIdx.x; i < s.crew.rows * TREE_ROWS; i += THREADS)
            tree.way[i / TREE_ROWS][i % TREE_ROWS] = p.path[(size_t)row * TREE_ROWS + i] - root;
        __syncthreads();
        for (int i = threadIdx.x % 32; i < s.crew.rows * TREE_ROWS; i += 32)
            nodes = max(nodes, tree.way[i / TREE_ROWS][i % TREE_ROWS]);
        nodes = __reduce_max_sync(~0u, nodes);
    }
    /* They mostly lie in one piece, and then where it has them anyway. */
    const bool together = SPECIAL && p.path && root / PIECE == (root + nodes) / PIECE;
    const int reach = together ? max(last, root + nodes) : last;
    auto locate = [&](int piece) {
        if (threadIdx.x < PIECE)
            s.page[threadIdx.x] = pages[min(piece + (int)threadIdx.x, reach) / p.page_size];
        __syncthreads();
    };
    auto spot_of = [&](const void *pool, int piece, int j) -> struct spot {
        return {(const char *)pool, (size_t)s.page[j] * p.kv_heads + kv, min(piece + j, reach) % p.page_size};
    };
    auto node_spot = [&](const void *pool, int node) -> struct spot {
        const int place = root + min(node, nodes);
        return {(const char *)pool, (size_t)pages[place / p.page_size] * p.kv_heads + kv,
                place % p.page_size};
    };
    /* A warp takes the keys of its 16 positions to registers; all take the values to shared memory. */
    constexpr int EACH = PIECE * D / Cache::VALUES / THREADS, ACROSS = D / Cache::VALUES;
    Cache cache;
    auto fetch = [&](int piece, int from, int to) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const int j = warp * 16 + n * 8 + g;
            if (piece + j >= from && piece + j < to) cache.fetch_key(p, n, spot_of(p.k, piece, j), t);
        }
        auto fetch_value = [&](int i, int at) {
            const int j = at / ACROSS, d = at % ACROSS * Cache::VALUES;
            if (piece + j >= from && piece + j < to)
                cache.fetch_value(p, i, spot_of(p.v, piece, j), d, piece + j <= reach, &s.v[j][d]);
        };
        if constexpr (Cache::IN_REGISTERS)
#pragma unroll
            for (int i = 0; i < EACH; i++) fetch_value(i, threadIdx.x + i * THREADS);
        else
            for (int at = threadIdx.x; at < PIECE * D / Cache::VALUES; at += THREADS) fetch_value(0, at);
    };
    if (!idle && (!SPECIAL || begin < end)) {
        locate(begin);
        fetch(begin, begin, min(stable, last + 1));
    }
    const int sees0 = g < vectors ? p.position[row + g / heads] : -1,
              sees1 = g + 8 < vectors ? p.position[row + (g + 8) / heads] : -1;
    if (first) pdl_wait();
    for (int i = threadIdx.x; i < VECTORS * D / 8 && !idle; i += THREADS) {
        const int v = i / (D / 8), d = i % (D / 8) * 8;
        const size_t from = ((size_t)(row + v / heads) * p.heads + head + v % heads) * D + d;
        *(uint4 *)&s.q[v][d] = v < vectors ? __ldcg((const uint4 *)(p.q + from)) : make_uint4(0, 0, 0, 0);
    }
    float out[COLUMNS / 8][4] = {}, maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {};

    /* Scores of a warp's 16 keys, as two column tiles. */
    auto score_keys = [&](const Cache &keys, float(&score)[2][4]) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            const uint4 lo = *(const uint4 *)&s.q[g][c * 32 + t * 8],
                        hi = *(const uint4 *)&s.q[g + 8][c * 32 + t * 8];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const uint4 key = keys.key(n, c, t);
                mma_f16(score[n], lo.x, hi.x, lo.y, hi.y, key.x, key.y);
                mma_f16(score[n], lo.z, hi.z, lo.w, hi.w, key.z, key.w);
            }
        }
    };
    auto fetch_nodes = [&] {
        for (int at = threadIdx.x; at < TREE_ROWS * ACROSS; at += THREADS) {
            Cache node;
            __half *to = &tree.v[at / ACROSS][at % ACROSS * Cache::VALUES];
            node.fetch_value(p, 0, node_spot(p.v, at / ACROSS), at % ACROSS * Cache::VALUES, true, to);
            node.settle(0, to);
        }
    };
    /* A warp's scores, of places from root + first on. */
    auto keep_scores = [&](const float(&score)[2][4], int first) {
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int node = first + n * 8 + t * 2 + i % 2;
                if (node >= 0 && node < TREE_ROWS) tree.score[g + i / 2 * 8][node] = score[n][i];
            }
    };
    auto score_nodes = [&] {
        Cache node;
        for (int n = 0; n < 2; n++) node.fetch_key(p, n, node_spot(p.k, n * 8 + g), t);
        float score[2][4] = {};
        score_keys(node, score);
        keep_scores(score, 0);
    };
    /* The values that row r of the crew has at j of a piece; any, where it has none. */
    auto row_value = [&](int r, int piece, int j) -> const __half * {
        if (piece + j < root) return s.v[j];
        const int node = piece + j <= p.position[row + r] ? tree.way[r][piece + j - root] : 0;
        return together ? s.v[root - piece + node] : tree.v[node];
    };
    /* out += weights of 32 positions times their values. */
    auto gather = [&](const uint32_t(&weights)[2][4], auto value) {
#pragma unroll
        for (int n = 0; n < (COLUMNS + 15) / 16; n++) {
            uint32_t values[2][4];
            if constexpr (COLUMNS >= 16) {
                const int column = warp * COLUMNS + n * 16 + lane / 16 * 8;
                load_transposed(values[0], value(lane % 16) + column);
                load_transposed(values[1], value(16 + lane % 16) + column);
            } else {
                load_transposed(values[0], value(lane) + warp * 8);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const auto &w = weights[h];
                if constexpr (COLUMNS >= 16) {
                    mma_f16(out[n * 2], w[0], w[1], w[2], w[3], values[h][0], values[h][1]);
                    mma_f16(out[n * 2 + 1], w[0], w[1], w[2], w[3], values[h][2], values[h][3]);
                } else {
                    mma_f16(out[0], w[0], w[1], w[2], w[3], values[0][h * 2], values[0][h * 2 + 1]);
                }
            }
        }
    };

    for (int piece = begin; piece < end; piece += PIECE) {
        if (piece > begin) locate(piece);
        fetch(piece, piece == begin ? min(stable, last + 1) : piece, INT_MAX);
        const bool in_tree = SPECIAL && piece + PIECE > root;
        if (in_tree && !together) fetch_nodes();
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (piece == begin) __syncthreads();

        float score[2][4] = {};
        score_keys(cache, score);
        if (in_tree) {
            if (together)
                keep_scores(score, piece + warp * 16 - root);
            else if (warp == 0)
                score_nodes();
            __syncthreads();
        }
        float greatest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int position = piece + warp * 16 + n * 8 + t * 2 + i % 2;
                const int last_seen = i < 2 ? sees0 : sees1, v = g + i / 2 * 8;
                if (SPECIAL && position >= root && position <= last_seen)
                    score[n][i] = tree.score[v][tree.way[v / heads][position - root]];
                if (SPECIAL && p.softcap != 0) score[n][i] = p.softcap * tanhf(score[n][i] / p.softcap);
                if (position > last_seen || (SPECIAL && last_seen - position >= p.sees))
                    score[n][i] = -INFINITY;
                greatest[i / 2] = fmaxf(greatest[i / 2], score[n][i]);
            }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            greatest[h] = fmaxf(greatest[h], __shfl_xor_sync(~0u, greatest[h], 1));
            greatest[h] = fmaxf(greatest[h], __shfl_xor_sync(~0u, greatest[h], 2));
            if (t == 0) s.maximum[warp][g + h * 8] = greatest[h];
        }
        __syncthreads();

        float fade[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float next = maximum[h], part = 0;
            for (int w = 0; w < WARPS; w++) next = fmaxf(next, s.maximum[w][g + h * 8]);
            /* A row that sees nothing yet keeps weight zero. */
            const float base = next == -INFINITY ? 0 : next;
            fade[h] = exp2f(maximum[h] - base);
            maximum[h] = next;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const float a = exp2f(score[n][h * 2] - base), b = exp2f(score[n][h * 2 + 1] - base);
                part += a + b;
                *(__half2 *)&s.p[g + h * 8][warp * 16 + n * 8 + t * 2] = __floats2half2_rn(a, b);
            }
            part += __shfl_xor_sync(~0u, part, 1);
            part += __shfl_xor_sync(~0u, part, 2);
            if (t == 0) s.sum[warp][g + h * 8] = part;
        }
#pragma unroll
        for (int i = 0; i < EACH && Cache::IN_REGISTERS; i++) {
            const int at = threadIdx.x + i * THREADS;
            cache.settle(i, &s.v[at / ACROSS][at % ACROSS * Cache::VALUES]);
        }
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();

#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = 0;
            for (int w = 0; w < WARPS; w++) total += s.sum[w][g + h * 8];
            sum[h] = sum[h] * fade[h] + total;
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++) {
                out[n][h * 2] *= fade[h];
                out[n][h * 2 + 1] *= fade[h];
            }
        }
#pragma unroll
        for (int j = 0; j < PIECE; j += 32) {
            uint32_t weights[2][4];
            load_matrices(weights[0], &s.p[lane % 16][j + lane / 16 * 8]);
            load_matrices(weights[1], &s.p[lane % 16][j + 16 + lane / 16 * 8]);
            const bool turns = SPECIAL && piece + j + 32 > root;
            for (int r = 0; r < (turns ? s.crew.rows : 1); r++) {
                const uint32_t low = !turns || g / heads == r ? ~0u : 0,
                               high = !turns || (g + 8) / heads == r ? ~0u : 0;
                const uint32_t own[2][4] = {
                    {weights[0][0] & low, weights[0][1] & high, weights[0][2] & low, weights[0][3] & high},
                    {weights[1][0] & low, weights[1][1] & high, weights[1][2] & low, weights[1][3] & high}};
                if (!makes) continue;
                gather(own, [&](int at) -> const __half * {
                    return turns ? row_value(r, piece, j + at) : s.v[j + at];
                });
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (warp == 0 && t == 0) s.total[g + h * 8] = make_float2(maximum[h], sum[h]);
#pragma unroll
        for (int n = 0; makes && n < COLUMNS / 8; n++)
            *(float2 *)&s.out[g + h * 8][warp * COLUMNS + n * 8 + t * 2] =
                make_float2(out[n][h * 2], out[n][h * 2 + 1]);
    }
    cluster_sync();
    if (!idle) merge<D>(p, s, row, head, heads, vectors, spans);
    cluster_sync(); /* what others read of this block's memory is still there */
}

/* Grid: windows of rows, groups of up to VECTORS query heads of a key head, spans. A cluster takes the crews
 * of its window one after the other: one, when the rows are of one sequence. */
template <int D, class Cache, bool SPECIAL>
__global__
__launch_bounds__(THREADS, WIDE_TILES<D> ? 1 : 2) void attend_fast(const __grid_constant__ struct attend p) {
    extern __shared__ __align__(128) char beside[];
    __shared__ __align__(128) struct own_tiles<D> own;
    struct tiles<D> &s = *(struct tiles<D> *)(WIDE_TILES<D> ? beside : (char *)&own);
    const int per_kv = p.heads / p.kv_heads, group = min(per_kv, VECTORS),
              parts = (per_kv + group - 1) / group;
    const int kv = blockIdx.y / parts, head = kv * per_kv + blockIdx.y % parts * group;
    const int heads = min(group, kv * per_kv + per_kv - head);
    /* The last rows of a prompt see the most: they go first. */
    const int first = (gridDim.x - 1 - blockIdx.x) * p.window, end = min(first + p.window, p.rows);
    pdl_release();
    for (int row = first, rows; row < end; row += rows) {
        if (threadIdx.x < 32) {
            const struct crew crew = find_crew(p, row, end - row);
            if (threadIdx.x == 0) s.crew = crew;
        }
        __syncthreads();
        rows = s.crew.rows;
        attend_crew<D, Cache, SPECIAL>(p, s, *(struct tree_tiles<D> *)(beside + WIDE_TILES<D>), row, kv, head,
                                       heads, row == first);
    }
}

/* Element d of a head's vector at `place` of a page's block. */
template <typename C>
__device__ __forceinline__ float element(const C *block, int place, int d, int dim, int) {
    return widen(__ldcg(block + (size_t)place * dim + d));
}
template <>
__device__ __forceinline__ float element(const int8_t *block, int place, int d, int dim, int page_size) {
    const int half = dim / 2, groups = (half + KV_GROUP - 1) / KV_GROUP;
    const __half *scales = (const __half *)(block + page_size * dim) + place * groups;
    return __half2float(__ldcg(scales + d % half / KV_GROUP)) * __ldcg(block + place * dim + d);
}

/* One warp a query vector; q f32, C: of what the cache is made. block: elements of a page's block of one
 * head.
 */
template <typename C>
__global__ void attend_plain(const __grid_constant__ struct attend p, const float *queries, int dim,
                             int block) {
    pdl_release();
    pdl_wait();
    constexpr int MOST = MAX_HEAD_DIM / 32;
    const int lane = threadIdx.x, row = blockIdx.x, head = blockIdx.y, kv = head / (p.heads / p.kv_heads);
    const int32_t *pages = p.table + (size_t)p.slot[row] * p.table_stride;
    const size_t vector = ((size_t)row * p.heads + head) * dim;
    float query[MOST], out[MOST] = {}, maximum = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < MOST; i++)
        query[i] = lane + i * 32 < dim ? __ldcg(queries + vector + lane + i * 32) * p.scale : 0;
    const int unseen = max(0, p.position[row] - p.sees + 1);
    for (int position = unseen; position <= p.position[row]; position++) {
        const int token = place_of(p.path, row, position), place = token % p.page_size;
        const size_t at = ((size_t)pages[token / p.page_size] * p.kv_heads + kv) * block;
        const C *k = (const C *)p.k + at, *v = (const C *)p.v + at;
        float score = 0;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            if (lane + i * 32 < dim) score += query[i] * element(k, place, lane + i * 32, dim, p.page_size);
        for (int offset = 16; offset; offset /= 2) score += __shfl_xor_sync(~0u, score, offset);
        if (p.softcap != 0) score = p.softcap * tanhf(score / p.softcap);
        const float next = fmaxf(maximum, score), fade = expf(maximum - next), weight = expf(score - next);
        maximum = next;
        sum = sum * fade + weight;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            if (lane + i * 32 < dim)
                out[i] = out[i] * fade + weight * element(v, place, lane + i * 32, dim, p.page_size);
    }
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (lane + i * 32 < dim) write_attended(p, vector + lane + i * 32, out[i] / sum);
}

template <int D, class Cache> void run_fast(struct backend *be, struct attend *p, int32_t max_position) {
    const int per_kv = p->heads / p->kv_heads, group = per_kv < VECTORS ? per_kv : VECTORS;
    const int pieces = max_position / PIECE + 1;
    const unsigned spans = p->whole ? 1 : std::min<int>(pieces, ATTENTION_SPANS);
    p->window = VECTORS / group;
    const bool special = p->sees != INT_MAX || p->softcap != 0 || p->path;
    const auto kernel = special ? attend_fast<D, Cache, true> : attend_fast<D, Cache, false>;
    const size_t beside = WIDE_TILES<D> + (p->path ? sizeof(struct tree_tiles<D>) : 0);
    if (beside) /* with the static memory more than a kernel gets unasked */
        note(be, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)beside),
             "attention");
    launch_columns(be, "attention", kernel,
                   dim3(ceil_div(p->rows, p->window), p->kv_heads * ceil_div(per_kv, group), spans), THREADS,
                   beside, *p);
}

template <int D> void run_size(struct backend *be, struct attend *p, bool bytes, int32_t max_position) {
    if (bytes)
        run_fast<D, byte_cache<D>>(be, p, max_position);
    else
        run_fast<D, half_cache<D>>(be, p, max_position);
}

} // namespace

void cuda_attention(struct backend *be, const struct rows *rows, const struct attention_block *b,
                    const void *q, const struct kv_layer *kv, void *attended) {
    assert(b->head_dim <= MAX_HEAD_DIM);
    struct attend p = {};
    p.position = rows->position;
    p.slot = rows->slot;
    p.table = rows->table;
    p.path = rows->path;
    p.rows = rows->n;
    p.table_stride = rows->table_stride;
    p.heads = b->heads;
    p.kv_heads = b->kv_heads;
    p.page_size = kv->page_size;
    p.q = (const __half *)q;
    p.k = kv->k;
    p.v = kv->v;
    p.attended = attended;
    p.wide = b->q.dtype == DTYPE_F32 || b->q.dtype == DTYPE_F16;
    p.whole = rows->prefill;
    p.sees = b->window ? b->window : INT_MAX;
    p.scale = b->scale;
    p.softcap = b->softcap;
    if (attention_is_fast(be, b, kv)) p.softcap *= 1.4426950408889634f; /* as the queries' scale */
    const bool bytes = kv->k_dtype == DTYPE_Q8_0;
    if (attention_is_fast(be, b, kv)) {
        if (b->head_dim == 64) return run_size<64>(be, &p, bytes, rows->max_position);
        if (b->head_dim == 96) return run_size<96>(be, &p, bytes, rows->max_position);
        if (b->head_dim == 128) return run_size<128>(be, &p, bytes, rows->max_position);
        return run_size<256>(be, &p, bytes, rows->max_position);
    }
    const int block = (int)(kv_head_bytes(kv->k_dtype, kv->page_size, b->head_dim) /
                            (bytes ? 1 : dtype_bytes(kv->k_dtype)));
    launch(be, "plain attention",
           bytes                      ? attend_plain<int8_t>
           : kv->k_dtype == DTYPE_F16 ? attend_plain<__half>
                                      : attend_plain<float>,
           dim3(rows->n, b->heads), 32, 0, p, (const float *)q, b->head_dim, block);
}

/* Attention over the paged cache.
 *
 * fast   f16 cache, heads of 64 or 128: tensor cores, with up to 16 query vectors (rows of one sequence times the
 *        query heads of one key head) as the 16-row operand, so that the rows of a verify pass and the heads of a
 *        group read the keys and values once. A row's positions are split into at most ATTENTION_SPANS spans of a
 *        length that depends on its own position only; the block that finishes a row's last span merges them in
 *        order. Inside a span blocks of 64 positions follow each other with an online softmax.
 * plain  any head up to MAX_HEAD_DIM, any cache: one warp a query vector, one position after the other.
 *
 * Nothing a row is given depends on which rows share its block: vectors are rows of the tensor-core operand,
 * and a position that a row must not see counts for nothing exactly (its weight is zero and its value finite,
 * or cleared when it lies beyond every row of the block). */
#include "kernels/cuda/common.cuh"

#include <climits>

namespace {

constexpr int BLOCK = 64, THREADS = 128, VECTORS = 16;
static_assert(ATTENTION_SPANS == 32, "merge gives a lane a span");

struct attend {
    const int32_t *position, *slot, *table;
    int32_t rows, table_stride, heads, kv_heads, page_size;
    const __half *q, *k, *v;
    void *attended;
    bool wide; /* attended is f32 */
    bool whole; /* one span, whatever the length: passes that fill the card without splitting */
    float *partial;
    float2 *weight;
    int32_t *arrived;
};

/* Positions a span of a row covers: a power of two times BLOCK. */
__device__ __forceinline__ int span_of(const struct attend &p, int position) {
    if (p.whole) return INT_MAX / 2 + 1;
    int span = BLOCK;
    while (position / span >= ATTENTION_SPANS) span *= 2;
    return span;
}

/* Which rows a block takes, found by one warp: those of one sequence and span from `row` on, at most `most`,
 * counted from the first such row; none when an earlier row's block takes this one. */
struct crew {
    int rows, last; /* and the greatest position among them */
};
__device__ __forceinline__ struct crew find_crew(const struct attend &p, int row, int most) {
    const int lane = threadIdx.x % 32, slot = p.slot[row], span = span_of(p, p.position[row]);
    auto alike = [&](int r) { return r >= 0 && r < p.rows && p.slot[r] == slot && span_of(p, p.position[r]) == span; };
    int before = 0, n;
    do {
        n = __ffs(__ballot_sync(~0u, !alike(row - before - 1 - lane))) - 1;
        before += n < 0 ? 32 : n;
    } while (n < 0);
    if (before % most) return {0, 0};
    n = __ffs(__ballot_sync(~0u, lane >= most || !alike(row + lane))) - 1;
    int last = lane < n ? p.position[row + lane] : 0;
    for (int offset = 16; offset; offset /= 2) last = max(last, __shfl_xor_sync(~0u, last, offset));
    return {n, last};
}

__device__ __forceinline__ void copy16_async(void *to, const void *from, bool valid) {
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

template <int D> struct tiles {
    __half q[VECTORS][D + 32];  /* 64 bytes off a multiple of 128: 16-byte reads without conflicts */
    __half v[BLOCK][D + 8];     /* 16 bytes off: ldmatrix without conflicts */
    __half p[VECTORS][BLOCK + 8];
    float maximum[THREADS / 32][VECTORS], sum[THREADS / 32][VECTORS];
    float share[VECTORS][ATTENTION_SPANS], scale[VECTORS];
    const __half *row[2][BLOCK]; /* keys and values of this block's positions */
    struct crew crew;
    bool merge;
};

__device__ __forceinline__ void write_attended(const struct attend &p, size_t at, float v) {
    if (p.wide)
        ((float *)p.attended)[at] = v;
    else
        ((bf16 *)p.attended)[at] = __float2bfloat16(v);
}

/* The last block of a row group: merges the spans of each vector in order. */
template <int D>
__device__ void merge(const struct attend &p, struct tiles<D> &s, int row, int head, int vectors, int group, int spans) {
    for (int i = threadIdx.x; i < vectors * ATTENTION_SPANS; i += THREADS) {
        const int v = i / ATTENTION_SPANS, span = i % ATTENTION_SPANS;
        const size_t at = ((size_t)(row + v / group) * p.heads + head + v % group) * ATTENTION_SPANS;
        const float2 w = span < spans ? __ldcg(&p.weight[at + span]) : make_float2(-INFINITY, 0);
        float greatest = w.x;
        for (int offset = 16; offset; offset /= 2) greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, offset));
        const float share = w.x == -INFINITY ? 0 : exp2f(w.x - greatest);
        float sum = 0;
        for (int j = 0; j < spans; j++)
            sum += __shfl_sync(~0u, share, j) * __shfl_sync(~0u, w.y, j);
        s.share[v][span] = share;
        if (span == 0) s.scale[v] = 1 / sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < vectors * D; i += THREADS) {
        const int v = i / D, d = i % D;
        const size_t vector = (size_t)(row + v / group) * p.heads + head + v % group;
        const float *part = p.partial + vector * ATTENTION_SPANS * D + d;
        float sum = 0;
#pragma unroll 8
        for (int j = 0; j < spans; j++) sum += s.share[v][j] * __ldcg(part + j * D);
        write_attended(p, vector * D + d, sum * s.scale[v]);
    }
}

/* Grid: rows, groups of up to VECTORS query heads of a key head, spans. */
template <int D> __global__ __launch_bounds__(THREADS) void attend_fast(const __grid_constant__ struct attend p) {
    constexpr int CHUNKS = D / 32, COLUMNS = D / 4; /* columns of the output a warp makes */
    __shared__ __align__(128) struct tiles<D> s;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int per_kv = p.heads / p.kv_heads, group = min(per_kv, VECTORS), parts = (per_kv + group - 1) / group;
    const int kv = blockIdx.y / parts, head = kv * per_kv + blockIdx.y % parts * group;
    const int heads = min(group, kv * per_kv + per_kv - head), row = blockIdx.x;

    pdl_release();
    if (warp == 0) {
        const struct crew crew = find_crew(p, row, VECTORS / group);
        if (lane == 0) s.crew = crew;
    }
    __syncthreads();
    const int vectors = s.crew.rows * heads, last = s.crew.last, span = span_of(p, last);
    const int spans = last / span + 1, begin = blockIdx.z * span, end = min(begin + span - 1, last) + 1;
    if (vectors == 0 || (int)blockIdx.z >= spans) return;

    const int32_t *pages = p.table + (size_t)p.slot[row] * p.table_stride;
    auto locate = [&](int block) {
        if (threadIdx.x >= BLOCK) return;
        const int position = min(block + (int)threadIdx.x, last);
        const size_t at = (((size_t)pages[position / p.page_size] * p.kv_heads + kv) * p.page_size +
                           position % p.page_size) * D;
        s.row[0][threadIdx.x] = p.k + at;
        s.row[1][threadIdx.x] = p.v + at;
    };
    locate(begin);
    const int sees0 = g < vectors ? p.position[row + g / heads] : -1,
              sees1 = g + 8 < vectors ? p.position[row + (g + 8) / heads] : -1;
    pdl_wait();
    for (int i = threadIdx.x; i < VECTORS * D / 8; i += THREADS) {
        const int v = i / (D / 8), d = i % (D / 8) * 8;
        const size_t from = ((size_t)(row + v / heads) * p.heads + head + v % heads) * D + d;
        *(uint4 *)&s.q[v][d] = v < vectors ? __ldcg((const uint4 *)(p.q + from)) : make_uint4(0, 0, 0, 0);
    }
    float out[COLUMNS / 8][4] = {}, maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {};

    for (int block = begin; block < end; block += BLOCK) {
        if (block > begin) locate(block);
        __syncthreads();
        for (int i = threadIdx.x; i < BLOCK * D / 8; i += THREADS) {
            const int j = i / (D / 8), d = i % (D / 8) * 8;
            copy16_async(&s.v[j][d], s.row[1][j] + d, block + j <= last);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");

        /* Scores: a warp's 16 positions as two column tiles. */
        uint4 keys[2][CHUNKS];
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
                keys[n][c] = __ldcg((const uint4 *)(s.row[0][warp * 16 + n * 8 + g] + c * 32 + t * 8));
        float score[2][4] = {};
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            const uint4 lo = *(const uint4 *)&s.q[g][c * 32 + t * 8], hi = *(const uint4 *)&s.q[g + 8][c * 32 + t * 8];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                mma_f16(score[n], lo.x, hi.x, lo.y, hi.y, keys[n][c].x, keys[n][c].y);
                mma_f16(score[n], lo.z, hi.z, lo.w, hi.w, keys[n][c].z, keys[n][c].w);
            }
        }
        float greatest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int position = block + warp * 16 + n * 8 + t * 2 + i % 2;
                if (position > (i < 2 ? sees0 : sees1)) score[n][i] = -INFINITY;
                greatest[i / 2] = fmaxf(greatest[i / 2], score[n][i]);
            }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            greatest[h] = fmaxf(greatest[h], __shfl_xor_sync(~0u, greatest[h], 1));
            greatest[h] = fmaxf(greatest[h], __shfl_xor_sync(~0u, greatest[h], 2));
            if (t == 0) s.maximum[warp][g + h * 8] = greatest[h];
        }
        __syncthreads();

        float part[2] = {}, fade[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float next = maximum[h];
            for (int w = 0; w < THREADS / 32; w++) next = fmaxf(next, s.maximum[w][g + h * 8]);
            /* A row that sees nothing yet keeps weight zero. */
            const float base = next == -INFINITY ? 0 : next;
            fade[h] = exp2f(maximum[h] - base);
            maximum[h] = next;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const float a = exp2f(score[n][h * 2] - base), b = exp2f(score[n][h * 2 + 1] - base);
                part[h] += a + b;
                *(__half2 *)&s.p[g + h * 8][warp * 16 + n * 8 + t * 2] = __floats2half2_rn(a, b);
            }
            part[h] += __shfl_xor_sync(~0u, part[h], 1);
            part[h] += __shfl_xor_sync(~0u, part[h], 2);
            if (t == 0) s.sum[warp][g + h * 8] = part[h];
        }
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();

#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = 0;
            for (int w = 0; w < THREADS / 32; w++) total += s.sum[w][g + h * 8];
            sum[h] = sum[h] * fade[h] + total;
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++) {
                out[n][h * 2] *= fade[h];
                out[n][h * 2 + 1] *= fade[h];
            }
        }
#pragma unroll
        for (int j = 0; j < BLOCK; j += 16) {
            uint32_t weights[4];
            load_matrices(weights, &s.p[lane % 16][j + lane / 16 * 8]);
#pragma unroll
            for (int n = 0; n < COLUMNS / 16; n++) {
                uint32_t values[4];
                load_transposed(values, &s.v[j + lane % 16][warp * COLUMNS + n * 16 + lane / 16 * 8]);
                mma_f16(out[n * 2], weights[0], weights[1], weights[2], weights[3], values[0], values[1]);
                mma_f16(out[n * 2 + 1], weights[0], weights[1], weights[2], weights[3], values[2], values[3]);
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int v = g + h * 8;
        if (v >= vectors) continue;
        const size_t vector = (size_t)(row + v / heads) * p.heads + head + v % heads;
        const size_t at = vector * ATTENTION_SPANS + blockIdx.z;
        if (spans > 1 && warp == 0 && t == 0) p.weight[at] = make_float2(maximum[h], sum[h]);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const int d = warp * COLUMNS + n * 8 + t * 2;
            const float a = out[n][h * 2], b = out[n][h * 2 + 1];
            if (spans > 1) {
                *(float2 *)&p.partial[at * D + d] = make_float2(a, b);
            } else {
                const float scale = 1 / sum[h];
                write_attended(p, vector * D + d, a * scale);
                write_attended(p, vector * D + d + 1, b * scale);
            }
        }
    }
    if (spans == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *arrived = &p.arrived[(size_t)row * gridDim.y + blockIdx.y];
        s.merge = atomicAdd(arrived, 1) == spans - 1;
        if (s.merge) *arrived = 0;
    }
    __syncthreads();
    if (!s.merge) return;
    __threadfence();
    merge<D>(p, s, row, head, vectors, heads, spans);
}

/* One warp a query vector; q f32. */
template <typename C> __global__ void attend_plain(const __grid_constant__ struct attend p, const float *queries,
                                                   const C *k, const C *v, int dim) {
    pdl_release();
    pdl_wait();
    constexpr int MOST = MAX_HEAD_DIM / 32;
    const int lane = threadIdx.x, row = blockIdx.x, head = blockIdx.y, kv = head / (p.heads / p.kv_heads);
    const int32_t *pages = p.table + (size_t)p.slot[row] * p.table_stride;
    const size_t vector = ((size_t)row * p.heads + head) * dim;
    const float scale = 1 / sqrtf((float)dim);
    float query[MOST], out[MOST] = {}, maximum = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < MOST; i++) query[i] = lane + i * 32 < dim ? queries[vector + lane + i * 32] * scale : 0;
    for (int position = 0; position <= p.position[row]; position++) {
        const size_t at = (((size_t)pages[position / p.page_size] * p.kv_heads + kv) * p.page_size +
                           position % p.page_size) * dim + lane;
        float score = 0;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            if (lane + i * 32 < dim) score += query[i] * widen(k[at + i * 32]);
        for (int offset = 16; offset; offset /= 2) score += __shfl_xor_sync(~0u, score, offset);
        const float next = fmaxf(maximum, score), fade = expf(maximum - next), weight = expf(score - next);
        maximum = next;
        sum = sum * fade + weight;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            if (lane + i * 32 < dim) out[i] = out[i] * fade + weight * widen(v[at + i * 32]);
    }
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (lane + i * 32 < dim) write_attended(p, vector + lane + i * 32, out[i] / sum);
}

struct attend describe(struct backend *be, const struct rows *rows, const struct attention_block *b,
                       const struct kv_layer *kv, void *attended) {
    struct attend p = {};
    p.position = rows->position;
    p.slot = rows->slot;
    p.table = rows->table;
    p.rows = rows->n;
    p.table_stride = rows->table_stride;
    p.heads = b->heads;
    p.kv_heads = b->kv_heads;
    p.page_size = kv->page_size;
    p.k = (const __half *)kv->k;
    p.v = (const __half *)kv->v;
    p.attended = attended;
    p.wide = b->q.dtype != DTYPE_BF16;
    p.partial = be->partial;
    p.weight = be->weight;
    p.arrived = be->arrived;
    return p;
}

template <int D> void run_fast(struct backend *be, const struct rows *rows, struct attend p, const void *q) {
    const int per_kv = p.heads / p.kv_heads, group = per_kv < VECTORS ? per_kv : VECTORS;
    const int groups = p.kv_heads * ceil_div(per_kv, group), step = rows->prefill ? rows->n : PRODUCT_ROWS;
    int spans = rows->max_position / BLOCK + 1;
    spans = rows->prefill ? 1 : spans < ATTENTION_SPANS ? spans : ATTENTION_SPANS;
    p.whole = rows->prefill;
    for (int from = 0; from < rows->n; from += step) {
        struct attend part = p;
        size_t at = (size_t)from * p.heads * D;
        part.q = (const __half *)q + at;
        part.attended = (char *)p.attended + at * (p.wide ? 4 : 2);
        part.position += from;
        part.slot += from;
        part.rows = rows->n - from < step ? rows->n - from : step;
        launch(be, "attention", attend_fast<D>, dim3(part.rows, groups, spans), THREADS, 0, part);
    }
}

} // namespace

void cuda_attention(struct backend *be, const struct rows *rows, const struct attention_block *b, const void *q,
                    const struct kv_layer *kv, void *attended) {
    assert(b->head_dim <= MAX_HEAD_DIM);
    struct attend p = describe(be, rows, b, kv, attended);
    if (attention_is_fast(b, kv) && b->head_dim == 64) return run_fast<64>(be, rows, p, q);
    if (attention_is_fast(b, kv)) return run_fast<128>(be, rows, p, q);
    dim3 grid(rows->n, b->heads);
    if (kv->dtype == DTYPE_F16)
        launch(be, "plain attention", attend_plain<__half>, grid, 32, 0, p, (const float *)q, (const __half *)kv->k,
               (const __half *)kv->v, b->head_dim);
    else
        launch(be, "plain attention", attend_plain<float>, grid, 32, 0, p, (const float *)q, (const float *)kv->k,
               (const float *)kv->v, b->head_dim);
}

/* The product of 1 to 64 rows with bf16 weights that reads each weight once.
 *
 * The weights are the 16-row operand of the tensor cores and the rows of activations its 8 columns, so that a
 * column's sum never sees its neighbours. Each of a block's warps takes its own step of every so many
 * along k and keeps a ring of its own filled by asynchronous copies; the warps' sums are added in warp order:
 * one order for any number of rows, tile or grid. A block has a multiprocessor to itself, because two streams
 * of weights at once cost the memory more than they hide; dependent launch lets the block of the next product
 * follow as soon as this one leaves.
 *
 * A stage of a ring is WIDTH elements along k of each row of the tile and of the activations; a warp's turn
 * along k is STEP elements. */
#ifndef OUTRIDER_CUDA_SKINNY_CUH
#define OUTRIDER_CUDA_SKINNY_CUH

#include "kernels/cuda/finish.cuh"

#include <algorithm>

namespace {

/* Up to three matrices of one width, one above the other. */
struct stack {
    const void *w[3];
    int32_t end[3]; /* outputs up to and including this one's */
};

struct product {
    struct stack stack;
    enum dtype dtype;
    int32_t m, k;
    const bf16 *a;        /* [m][k] */
    const float *squares; /* [m][square_tiles]: the factors of a norm, before the last sum; or null */
    int32_t square_tiles;
    float eps;
    int32_t tiles, stages;
    bool keep;    /* see packed.cuh */
    bool aligned; /* each half of every tile lies in one matrix, its rows one after the other */
    struct finish finish;
};

constexpr int SKINNY_WARPS = 8, MAX_STAGES = 8;
constexpr int FINISH_COLUMNS = 16; /* most columns whose sums meet in shared memory at a time */
constexpr int SHARED_BYTES = 227 << 10;
constexpr int BESIDE_ATTENTION = 180 << 10; /* leaves a block of attention room, so that it reads early */
constexpr int SQUARES_ROWS = 32;            /* most rows whose squares are brought to shared memory ahead */

/* Shared memory of a block: small tables first, then by these offsets. */
struct tables {
    struct place place[PRODUCT_ROWS];
    float scale[PRODUCT_ROWS];
};
struct layout {
    int part, squares, ring, stage; /* the last in bytes, of one warp */
    __host__ __device__ layout(const struct product &p, int tile, int row_bytes) {
        const int columns = p.m < FINISH_COLUMNS ? p.m : FINISH_COLUMNS;
        part = sizeof(struct tables);
        squares = part + SKINNY_WARPS * columns * (tile + 4) * 4;
        ring =
            (squares + (p.squares && p.m <= SQUARES_ROWS ? p.m * p.square_tiles * 4 : 0) + 127) / 128 * 128;
        stage = (tile + p.m) * row_bytes;
    }
};

__device__ __forceinline__ uint64_t policy_stream() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
/* 16 bytes, or zeros. */
__device__ __forceinline__ void copy_async(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_stream(uint32_t to, const void *from, int bytes, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to),
                 "l"(from), "r"(bytes), "l"(policy)
                 : "memory");
}
__device__ __forceinline__ void commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All but the latest n groups have arrived. */
__device__ __forceinline__ void wait_all_but(int n) {
    switch (n) {
    case 1:
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        break;
    case 2:
        asm volatile("cp.async.wait_group 2;" ::: "memory");
        break;
    case 3:
        asm volatile("cp.async.wait_group 3;" ::: "memory");
        break;
    case 4:
        asm volatile("cp.async.wait_group 4;" ::: "memory");
        break;
    case 5:
        asm volatile("cp.async.wait_group 5;" ::: "memory");
        break;
    case 6:
        asm volatile("cp.async.wait_group 6;" ::: "memory");
        break;
    default:
        asm volatile("cp.async.wait_group 7;" ::: "memory");
    }
}

/* Where a row of a tile lies: its matrix, and its row there. Pairs keep their two halves in the two halves of
 * the tile. */
struct spot {
    const void *w;
    int32_t row, rows;
};
template <int TILE>
__device__ __forceinline__ struct spot find_spot(const struct product &p, int tile, int r) {
    const int pair = min(tile * (TILE / 2) + r % (TILE / 2), p.finish.pairs - 1);
    const int row = min(first_of_pair(p.finish, pair) + (r < TILE / 2 ? 0 : p.finish.half), p.finish.n - 1);
    const int which = row < p.stack.end[0] ? 0 : row < p.stack.end[1] ? 1 : 2;
    const int before = which ? p.stack.end[which - 1] : 0;
    return {p.stack.w[which], row - before, p.stack.end[which] - before};
}

/* Where a 16-byte piece of a stage's row lies in it, so that neither copies nor reads meet in a bank. */
__device__ __forceinline__ int swap(int piece, int row) {
    return (piece & 8) | ((piece ^ row) & 7);
}

/* Fills a warp's ring. Lanes share a row's 16-byte pieces. */
template <int WIDTH, int TILE> struct feeder {
    static constexpr int STEP = 128, PARTS = STEP / WIDTH; /* stages of one step along k */
    static constexpr int ROW_BYTES = WIDTH * 2, PIECES = WIDTH / 8, ROWS = 32 / PIECES; /* rows at a time */
    const struct product &p;
    const uint64_t policy = policy_stream();
    const int warp = threadIdx.x / 32, first = threadIdx.x % 32 / PIECES, piece = threadIdx.x % PIECES;
    const int turns =
        (p.k + SKINNY_WARPS * STEP - 1) / (SKINNY_WARPS * STEP) * PARTS; /* fillings a tile takes */
    const uint32_t ring;
    const int stage;
    int tile = blockIdx.x, turn = 0;
    const bf16 *half[2] = {}; /* this lane's first piece of each half of the tile */

    __device__ feeder(const struct product &product, const char *ring_, int stage_)
        : p(product), ring(shared_address(ring_)), stage(stage_) {
        aim();
    }
    __device__ const bf16 *piece_of(const struct spot &s, int below) const {
        return (const bf16 *)s.w + (size_t)(s.row + below) * p.k + piece * 8;
    }
    __device__ void aim() {
        for (int h = 0; h < 2 && p.aligned; h++)
            half[h] = piece_of(find_spot<TILE>(p, tile, h * (TILE / 2)), first);
    }
    __device__ bool done() const { return tile >= p.tiles; }
    __device__ void advance() {
        if (++turn < turns) return;
        turn = 0;
        tile += gridDim.x;
        if (!done()) aim();
    }
    /* First element of this warp's part of a turn. */
    __device__ int begin(int at_turn) const {
        return at_turn / PARTS * SKINNY_WARPS * STEP + warp * STEP + at_turn % PARTS * WIDTH;
    }
    __device__ void weights(int slot) const {
        const int along = begin(turn), bytes = along + piece * 8 < p.k ? 16 : 0;
        const uint32_t to = ring + slot * stage;
        auto row = [&](int r, const bf16 *from) {
            copy_stream(to + r * ROW_BYTES + swap(piece, r) * 16, from + (bytes ? along : 0), bytes, policy);
        };
        if (p.aligned)
#pragma unroll
            for (int j = 0; j < TILE / ROWS; j++)
                row(first + j * ROWS, half[j * ROWS >= TILE / 2] + (size_t)(j * ROWS % (TILE / 2)) * p.k);
        else
            for (int j = 0; j < TILE / ROWS; j++)
                row(first + j * ROWS, piece_of(find_spot<TILE>(p, tile, first + j * ROWS), 0));
    }
    __device__ void activations(int slot, int at_turn) const {
        const int k = begin(at_turn) + piece * 8, bytes = k < p.k ? 16 : 0;
        const uint32_t to = ring + slot * stage + TILE * ROW_BYTES;
        for (int r = first; r < p.m; r += ROWS)
            copy_async(to + r * ROW_BYTES + swap(piece, r) * 16, p.a + (size_t)r * p.k + min(k, p.k - 8),
                       bytes);
    }
};

/* Adds the products of a stage. A thread's 16-byte read of a fragment serves two mma steps: k is permuted
 * alike in both operands, which a dot product allows. Of 128 bytes of a row thread t takes pieces 2t and 2t
 * + 1. */
template <int WIDTH, int RT, int NT>
__device__ __forceinline__ void multiply(const char *stage, int m, float (&c)[RT][NT][4]) {
    constexpr int ROW_BYTES = WIDTH * 2;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const char *w = stage + g * ROW_BYTES, *a = stage + RT * 16 * ROW_BYTES;
#pragma unroll
    for (int h = 0; h < WIDTH / 32; h++) {
        const int piece = h / 2 * 8 + t * 2 + h % 2, swapped = swap(piece, g);
        uint4 lo[RT], hi[RT];
#pragma unroll
        for (int r = 0; r < RT; r++) {
            lo[r] = *(const uint4 *)(w + r * 16 * ROW_BYTES + swapped * 16);
            hi[r] = *(const uint4 *)(w + (r * 16 + 8) * ROW_BYTES + swapped * 16);
        }
#pragma unroll
        for (int j = 0; j < NT; j++) {
            const int row = min(j * 8 + g, m - 1);
            const uint4 b = *(const uint4 *)(a + row * ROW_BYTES + swap(piece, row) * 16);
#pragma unroll
            for (int r = 0; r < RT; r++) {
                mma_bf16(c[r][j], lo[r].x, hi[r].x, lo[r].y, hi[r].y, b.x, b.y);
                mma_bf16(c[r][j], lo[r].z, hi[r].z, lo[r].w, hi[r].w, b.z, b.w);
            }
        }
    }
}

/* The factors by which rows' sums are multiplied: ready, or from the squares of what made x. */
__device__ __forceinline__ void find_scales(const struct product &p, const float *ahead, struct tables *s) {
    for (int r = threadIdx.x / 32; r < p.m; r += blockDim.x / 32) {
        const int first = r * p.square_tiles;
        auto square = [&](int i) {
            return p.m <= SQUARES_ROWS ? ahead[first + i] : __ldcg(p.squares + first + i);
        };
        const float scale = p.squares        ? inverse_rms(square, p.square_tiles, p.k, p.eps)
                            : p.finish.scale ? __ldcg(p.finish.scale + r)
                                             : 1;
        if (threadIdx.x % 32 == 0) s->scale[r] = scale;
    }
}

/* Columns that are finished together, of NT tiles of 8. */
template <int NT> constexpr int TOGETHER = NT * 8 < FINISH_COLUMNS ? NT * 8 : FINISH_COLUMNS;

/* What the pair and row a thread finishes will need, of the columns finished together from `first` on:
 * read long before, since the next product waits for the last tile. Of a product with RoPE only the line with
 * its turn is brought near.
 */
template <int TILE, int COLUMNS>
__device__ __forceinline__ struct before before_tile(const struct product &p, int tile, int first,
                                                     int thread) {
    const int pair = tile * (TILE / 2) + thread % (TILE / 2), row = first + thread / (TILE / 2);
    const struct finish &f = p.finish;
    if (row >= min(p.m, first + COLUMNS) || pair >= f.pairs) return {};
    if (f.kind == FINISH_QKV) touch(f.rope + (size_t)f.position[row] * f.half + pair % f.half);
    if (!f.norm) return {};
    const bool both = pair + f.half < f.n;
    const float *x = f.x + (size_t)row * f.n + pair;
    return {make_float2(__ldcg(x), both ? __ldcg(x + f.half) : 0),
            make_float2(f.norm[pair], both ? f.norm[pair + f.half] : 0)};
}

/* Finishes the sums of a pair and row; by whole warps, `mine` where there is one. */
__device__ __forceinline__ void finish_sums_of(const struct product &p, const struct tables *s, int tile,
                                               int lanes, int in_tile, int row, bool mine, float first,
                                               float second, const struct before &old) {
    const int pair = tile * lanes + in_tile;
    if (p.finish.norm)
        finish_normed(p.finish, row, pair, tile, p.tiles, mine, first, second, old, lanes);
    else if (mine && pair < p.finish.pairs)
        finish_pair(p.finish, row, s->place[row], pair, first, second);
}

/* Adds the warps' sums of a tile in warp order and finishes them, TOGETHER columns at a time. */
template <int RT, int NT>
__device__ __forceinline__ void finish_tile(const struct product &p, int tile, const float (&c)[RT][NT][4],
                                            const struct before *old, float *part, const struct tables *s) {
    constexpr int TILE = RT * 16, LANES = TILE / 2, COLUMN = TILE + 4, COLUMNS = TOGETHER<NT>;
    static_assert(COLUMNS * LANES <= SKINNY_WARPS * 32, "a thread finishes one pair of a row");
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int in_tile = threadIdx.x % LANES, column = threadIdx.x / LANES;
#pragma unroll
    for (int at = 0; at < NT * 8; at += COLUMNS) {
        const int columns = min(p.m - at, COLUMNS), row = at + column;
        if (columns <= 0) break;
#pragma unroll
        for (int r = 0; r < RT; r++)
#pragma unroll
            for (int i = 0; i < COLUMNS / 2; i++) {
                const int j = i / 4, to = j * 8 + t * 2 + i % 2;
                if (to < columns)
                    part[(warp * columns + to) * COLUMN + r * 16 + g + i % 4 / 2 * 8] =
                        c[r][at / 8 + j][i % 4];
            }
        __syncthreads();
        if ((int)threadIdx.x / 32 * 32 / LANES < columns) { /* whole warps, for the sums of squares */
            float first = 0, second = 0;
            const int from = min(column, columns - 1);
#pragma unroll
            for (int v = 0; v < SKINNY_WARPS; v++) {
                first += part[(v * columns + from) * COLUMN + in_tile];
                second += part[(v * columns + from) * COLUMN + in_tile + LANES];
            }
            const float scale = s->scale[at + from];
            finish_sums_of(p, s, tile, LANES, in_tile, row, column < columns, first * scale, second * scale,
                           old[at / COLUMNS]);
        }
        __syncthreads();
    }
}

/* WIDTH: elements of a stage, RT: 16-row tiles of weights a block takes at a time, NT: 8-row tiles of
 * activations. */
template <int WIDTH, int RT, int NT>
__global__ __launch_bounds__(SKINNY_WARPS * 32) void skinny(const __grid_constant__ struct product p) {
    constexpr int TILE = RT * 16, THREADS = SKINNY_WARPS * 32;
    extern __shared__ __align__(128) char shared[];
    const layout at(p, TILE, WIDTH * 2);
    struct tables *s = (struct tables *)shared;
    char *ring = shared + at.ring + threadIdx.x / 32 * p.stages * at.stage;

    pdl_release();
    struct feeder<WIDTH, TILE> feed(p, ring, at.stage);
    for (int i = 0; i < p.stages && !feed.done(); i++, feed.advance()) feed.weights(i);
    for (int r = threadIdx.x; r < p.m; r += THREADS) s->place[r] = find_place(p.finish, r);
    pdl_wait();
    const int squares = p.squares && p.m <= SQUARES_ROWS ? p.m * p.square_tiles : 0;
    for (int i = threadIdx.x * 4; i < squares; i += THREADS * 4)
        copy_async(shared_address(shared + at.squares) + i * 4, p.squares + i, 16);
    for (int i = 0; i < p.stages; i++, commit()) feed.activations(i, i % feed.turns);

    int slot = 0;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        float c[RT][NT][4] = {};
        constexpr int COLUMNS = TOGETHER<NT>;
        struct before old[NT * 8 / COLUMNS];
#pragma unroll
        for (int i = 0; i < NT * 8 / COLUMNS; i++)
            old[i] = before_tile<TILE, COLUMNS>(p, tile, i * COLUMNS, threadIdx.x);
        for (int turn = 0; turn < feed.turns; turn++) {
            wait_all_but(p.stages - 1);
            __syncwarp();
            multiply<WIDTH, RT, NT>(ring + slot * at.stage, p.m, c);
            __syncwarp();
            if (!feed.done()) {
                feed.weights(slot);
                feed.activations(slot, feed.turn);
                feed.advance();
            }
            commit();
            slot = slot + 1 < p.stages ? slot + 1 : 0;
        }
        if (tile == (int)blockIdx.x) {
            __syncthreads();
            find_scales(p, (const float *)(shared + at.squares), s);
        }
        finish_tile<RT, NT>(p, tile, c, old, (float *)(shared + at.part), s);
    }
}

/* Tiles of TILE outputs, and whether each half of every one lies in one matrix. */
void count_tiles(struct product *p, int tile) {
    p->tiles = ceil_div(p->finish.pairs, tile / 2);
    p->aligned = p->finish.half % (tile / 2) == 0;
    for (int32_t end : p->stack.end) p->aligned = p->aligned && end % (tile / 2) == 0;
}

template <int WIDTH, int RT, int NT> void launch_skinny(struct backend *be, struct product *p) {
    constexpr int TILE = RT * 16, STEP = feeder<WIDTH, TILE>::STEP;
    count_tiles(p, TILE);
    const layout at(*p, TILE, WIDTH * 2);
    auto room = [&](int bytes) { return (bytes - at.ring) / (at.stage * SKINNY_WARPS); };
    const bool lean = p->finish.kind == FINISH_QKV && p->m <= 8 && room(BESIDE_ATTENTION) >= 2;
    p->stages = room(lean ? BESIDE_ATTENTION : SHARED_BYTES);
    const int grid = std::min(p->tiles, be->multiprocessors);
    const int useful = ceil_div(p->tiles, grid) * ceil_div(p->k, SKINNY_WARPS * STEP) * (STEP / WIDTH);
    assert(p->stages >= 2);
    p->stages = std::clamp(useful, 2, std::min(p->stages, MAX_STAGES));
    launch_raw(be, "product", skinny<WIDTH, RT, NT>, grid, SKINNY_WARPS * 32,
               at.ring + (size_t)p->stages * at.stage * SKINNY_WARPS, 1, *p);
}

} // namespace

#endif

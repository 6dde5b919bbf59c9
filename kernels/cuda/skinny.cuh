/* The product of 1 to 64 rows that reads each weight once, whatever the weights are stored as.
 *
 * The weights are the 16-row operand of the tensor cores and the rows of activations its 8 columns, so that a
 * column's sum never sees its neighbours. Each of a block's warps takes its own step of every so many
 * along k and keeps a ring of its own filled by asynchronous copies; the warps' sums are added in warp order:
 * one order for any number of rows, tile or grid. A block has a multiprocessor to itself, because two streams
 * of weights at once cost the memory more than they hide; dependent launch lets the block of the next product
 * follow as soon as this one leaves.
 *
 * A format is a class: WARPS of a block; WIDTH, elements along k of one stage of a ring; STEP, of a warp's
 * turn; ROW_BYTES and
 * SCALE_BYTES, what a stage holds of one row; pitch and padded, bytes of a row in memory and its elements;
 * swap, which place in a row (of so many bytes) a 16-byte piece takes so that neither copies nor reads meet
 * in a bank; and multiply, which adds the products of a stage. Scales, 16 bytes a step's row, lie behind the
 * matrix, [k / STEP][row]. Activations come through the ring beside the weights, or, of a RESIDENT format,
 * are brought to shared memory once, by `reside`, in the format's own form: each warp brings what it will
 * read. SWITCHED: sums of two tiles have room beside each other, so that warps need not wait until one is
 * finished.
 */
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
    bool aligned; /* each half of every tile lies in one matrix, its rows one after the other */
    struct finish finish;
};

constexpr int MAX_STAGES = 8;
constexpr int FINISH_COLUMNS = 16; /* most columns whose sums meet in shared memory at a time */
constexpr int SHARED_BYTES = 227 << 10;
constexpr int SQUARES_ROWS = 32; /* most rows whose squares are brought to shared memory ahead */

/* Shared memory of a block: small tables first, then by these offsets. */
struct tables {
    struct place place[PRODUCT_ROWS];
    float scale[PRODUCT_ROWS];
};
struct layout {
    int part, sums, squares, resident, ring, stage; /* the last in bytes, of one warp */
    template <class F> static __host__ __device__ layout of(const struct product &p, int tile) {
        return layout(p, F::WARPS, tile, F::ROW_BYTES + F::SCALE_BYTES, F::RESIDENT ? 0 : F::WIDTH * 2,
                      F::RESIDENT ? F::resident_bytes(p.k) : 0, F::SWITCHED ? 2 : 1);
    }
    __host__ __device__ layout(const struct product &p, int warps, int tile, int weight_bytes, int row_bytes,
                               int resident_bytes, int buffers) {
        const int columns = p.m < FINISH_COLUMNS ? p.m : FINISH_COLUMNS;
        part = sizeof(struct tables);
        sums = warps * columns * (tile + 4) * 4;
        squares = part + sums * buffers;
        resident =
            (squares + (p.squares && p.m <= SQUARES_ROWS ? p.m * p.square_tiles * 4 : 0) + 127) / 128 * 128;
        ring = (resident + resident_bytes + 127) / 128 * 128;
        stage = tile * weight_bytes + p.m * row_bytes;
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

/* Fills a warp's ring. A stage holds WIDTH elements of each row: of the tile's weights, of their scales where
 * the format has some, and of the activations. Lanes share a row's 16-byte pieces. */
template <class F, int TILE> struct feeder {
    static constexpr int PIECES = F::ROW_BYTES / 16, ROWS = 32 / PIECES; /* of weights; rows at a time */
    static constexpr int EACH = F::WIDTH / PIECES;                       /* elements of a piece */
    static constexpr int A_PIECES = F::WIDTH / 8, A_ROWS = 32 / A_PIECES;
    static constexpr int PARTS = F::STEP / F::WIDTH; /* stages of one step along k */
    const struct product &p;
    const uint64_t policy = policy_stream();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int turns =
        (p.k + F::WARPS * F::STEP - 1) / (F::WARPS * F::STEP) * PARTS; /* fillings a tile takes */
    const uint32_t ring;
    const int stage;
    int tile = blockIdx.x, turn = 0;
    const char *half[2] = {}, *scale = nullptr; /* this lane's first piece of each half of the tile */
    int scale_pitch = 0;

    __device__ feeder(const struct product &product, const char *ring_, int stage_)
        : p(product), ring(shared_address(ring_)), stage(stage_) {
        aim();
    }
    __device__ const char *piece_of(const struct spot &s, int below) const {
        return (const char *)s.w + (s.row + below) * F::pitch(p.k) + lane % PIECES * 16;
    }
    __device__ void aim() {
        for (int h = 0; h < 2 && p.aligned; h++)
            half[h] = piece_of(find_spot<TILE>(p, tile, h * (TILE / 2)), lane / PIECES);
        if (F::SCALE_BYTES == 0 || lane >= TILE) return;
        const struct spot s = find_spot<TILE>(p, tile, lane);
        scale = (const char *)s.w + s.rows * F::pitch(p.k) + (size_t)s.row * F::SCALE_BYTES;
        scale_pitch = s.rows * F::SCALE_BYTES;
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
        return at_turn / PARTS * F::WARPS * F::STEP + warp * F::STEP + at_turn % PARTS * F::WIDTH;
    }
    __device__ void weights(int slot) const {
        const int end = F::padded(p.k), first = lane / PIECES, piece = lane % PIECES;
        const int k = begin(turn) + piece * EACH, bytes = k < end ? 16 : 0;
        const size_t along = (size_t)(bytes ? begin(turn) / EACH : 0) * 16, pitch = F::pitch(p.k);
        const uint32_t to = ring + slot * stage;
        auto row = [&](int r, const char *from) {
            copy_stream(to + r * F::ROW_BYTES + F::template swap<F::ROW_BYTES>(piece, r) * 16, from + along,
                        bytes, policy);
        };
        if (p.aligned)
#pragma unroll
            for (int j = 0; j < TILE / ROWS; j++)
                row(first + j * ROWS, half[j * ROWS >= TILE / 2] + j * ROWS % (TILE / 2) * pitch);
        else
            for (int j = 0; j < TILE / ROWS; j++)
                row(first + j * ROWS, piece_of(find_spot<TILE>(p, tile, first + j * ROWS), 0));
        if (F::SCALE_BYTES == 0 || lane >= TILE) return;
        const bool in = begin(turn) < end;
        copy_async(to + TILE * F::ROW_BYTES + lane * F::SCALE_BYTES,
                   scale + (in ? (size_t)(begin(turn) / F::STEP) * scale_pitch : 0), in * 16);
    }
    __device__ void activations(int slot, int at_turn) const {
        const int piece = lane % A_PIECES, k = begin(at_turn) + piece * 8, bytes = k < p.k ? 16 : 0;
        const uint32_t to = ring + slot * stage + TILE * (F::ROW_BYTES + F::SCALE_BYTES);
        for (int r = lane / A_PIECES; r < p.m; r += A_ROWS)
            copy_async(to + r * F::WIDTH * 2 + F::template swap<F::WIDTH * 2>(piece, r) * 16,
                       p.a + (size_t)r * p.k + min(k, p.k - 8), bytes);
    }
};

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

/* The pair and row a thread finishes, of the columns that are finished together from `first` on. */
template <int TILE, int COLUMNS>
__device__ __forceinline__ float2 old_values(const struct product &p, int tile, int first, int thread) {
    const int pair = tile * (TILE / 2) + thread % (TILE / 2), row = first + thread / (TILE / 2);
    if (!p.finish.norm || row >= min(p.m, first + COLUMNS) || pair >= p.finish.pairs)
        return make_float2(0, 0);
    const float *x = p.finish.x + (size_t)row * p.finish.n + pair;
    return make_float2(__ldcg(x), pair + p.finish.half < p.finish.n ? __ldcg(x + p.finish.half) : 0);
}

/* Adds the warps' sums of a tile in warp order and finishes them, TOGETHER columns at a time, by the
 * threads that count as the first. SWITCHED: the caller gives another `part` each time, so that the other
 * warps go on to the next tile meanwhile. */
template <int WARPS, int RT, int NT, bool SWITCHED>
__device__ __forceinline__ void finish_tile(const struct product &p, int tile, int thread,
                                            const float (&c)[RT][NT][4], const float2 *old, float *part,
                                            const struct tables *s) {
    constexpr int TILE = RT * 16, LANES = TILE / 2, COLUMN = TILE + 4, COLUMNS = TOGETHER<NT>;
    static_assert(COLUMNS == NT * 8 || !SWITCHED, "one part a tile");
    static_assert(COLUMNS * LANES <= WARPS * 32, "a thread finishes one pair of a row");
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int in_tile = thread % LANES, column = thread / LANES, pair = tile * LANES + in_tile;
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
        if (thread / 32 * 32 / LANES < columns) { /* whole warps, for the sums of squares */
            float first = 0, second = 0;
            const int from = min(column, columns - 1);
#pragma unroll
            for (int v = 0; v < WARPS; v++) {
                first += part[(v * columns + from) * COLUMN + in_tile];
                second += part[(v * columns + from) * COLUMN + in_tile + LANES];
            }
            first *= s->scale[at + from];
            second *= s->scale[at + from];
            if (p.finish.norm)
                finish_normed(p.finish, row, pair, tile, p.tiles, column < columns, first, second,
                              old[at / COLUMNS], LANES);
            else if (column < columns && pair < p.finish.pairs)
                finish_pair(p.finish, row, s->place[row], pair, first, second);
        }
        if (!SWITCHED) __syncthreads();
    }
}

/* F: how the weights are stored, RT: 16-row tiles of weights a block takes at a time, NT: 8-row tiles of
 * activations. */
template <class F, int RT, int NT>
__global__ __launch_bounds__(F::WARPS * 32, F::MOST_REGISTERS
                                                ? 1
                                                : 0) void skinny(const __grid_constant__ struct product p) {
    constexpr int TILE = RT * 16;
    extern __shared__ __align__(128) char shared[];
    const layout at = layout::of<F>(p, TILE);
    struct tables *s = (struct tables *)shared;
    char *ring = shared + at.ring + threadIdx.x / 32 * p.stages * at.stage;

    pdl_release();
    struct feeder<F, TILE> feed(p, ring, at.stage);
    for (int i = 0; i < p.stages && !feed.done(); i++, feed.advance()) feed.weights(i);
    for (int r = threadIdx.x; r < p.m; r += F::WARPS * 32) s->place[r] = find_place(p.finish, r);
    pdl_wait();
    const int squares = p.squares && p.m <= SQUARES_ROWS ? p.m * p.square_tiles : 0;
    for (int i = threadIdx.x * 4; i < squares; i += F::WARPS * 32 * 4)
        copy_async(shared_address(shared + at.squares) + i * 4, p.squares + i, 16);
    for (int i = 0; i < p.stages; i++, commit())
        if (!F::RESIDENT) feed.activations(i, i % feed.turns);
    if (F::RESIDENT) F::reside(p, shared + at.resident);

    int slot = 0, thread = threadIdx.x, part = 0;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        float c[RT][NT][4] = {};
        constexpr int COLUMNS = TOGETHER<NT>;
        float2 old[NT * 8 / COLUMNS];
#pragma unroll
        for (int i = 0; i < NT * 8 / COLUMNS; i++)
            old[i] = old_values<TILE, COLUMNS>(p, tile, i * COLUMNS, thread);
        for (int turn = 0; turn < feed.turns; turn++) {
            wait_all_but(p.stages - 1);
            __syncwarp();
            F::template multiply<RT, NT>(ring + slot * at.stage, shared + at.resident, p.k, feed.begin(turn),
                                         p.m, c);
            __syncwarp();
            if (!feed.done()) {
                feed.weights(slot);
                if (!F::RESIDENT) feed.activations(slot, feed.turn);
                feed.advance();
            }
            commit();
            slot = slot + 1 < p.stages ? slot + 1 : 0;
        }
        if (tile == (int)blockIdx.x) {
            __syncthreads();
            find_scales(p, (const float *)(shared + at.squares), s);
        }
        finish_tile<F::WARPS, RT, NT, F::SWITCHED>(p, tile, thread, c, old,
                                                   (float *)(shared + at.part + part), s);
        if (!F::SWITCHED) continue;
        part = at.sums - part;
        thread =
            (thread + F::WARPS * 32 - p.m * TILE / 2 / 32 * 32 - 32) % (F::WARPS * 32); /* whose turn it is */
    }
}

template <class F, int RT, int NT> void launch_skinny(struct backend *be, struct product *p) {
    constexpr int TILE = RT * 16;
    p->tiles = ceil_div(p->finish.pairs, TILE / 2);
    p->aligned = p->finish.half % (TILE / 2) == 0;
    for (int32_t end : p->stack.end) p->aligned = p->aligned && end % (TILE / 2) == 0;
    const layout at = layout::of<F>(*p, TILE);
    p->stages = (SHARED_BYTES - at.ring) / (at.stage * F::WARPS);
    const int grid = p->tiles < be->multiprocessors ? p->tiles : be->multiprocessors;
    const int useful = ceil_div(p->tiles, grid) * ceil_div(p->k, F::WARPS * F::STEP) * (F::STEP / F::WIDTH);
    assert(p->stages >= 2);
    p->stages = std::clamp(useful, 2, std::min(p->stages, MAX_STAGES));
    launch_raw(be, "product", skinny<F, RT, NT>, grid, F::WARPS * 32,
               at.ring + (size_t)p->stages * at.stage * F::WARPS, 1, *p);
}

} // namespace

#endif

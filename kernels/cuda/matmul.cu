/* Matrix products and what is fused around them: three ways to the same sums.
 *
 * skinny    bf16 weights, 1 to 64 rows: reads each weight once, near the card's read bandwidth. The weights
 * are the 16-row operand of the tensor cores and the rows of activations its 8 columns, so that a column's
 *           sum never sees its neighbours. Each of a block's eight warps takes its 128 of every 1024 along k
 * and keeps a ring of its own filled by asynchronous copies; the warps' sums are added in warp order: one
 *           order for any number of rows, tile or grid. A block has a multiprocessor to itself, because two
 *           streams of weights at once cost the memory more than they hide; dependent launch lets the block
 * of the next product follow as soon as this one leaves. prefill   bf16 weights, rows of a prompt: cuBLAS on
 * PREFILL_ROWS rows, padded, so that it always sees one shape and a row's bits cannot depend on how many came
 * with it. plain     any type and shape: one warp an output. Correct, not fast.
 *
 * A thread's 16-byte read of a fragment serves two mma steps: k is permuted alike in both operands, which a
 * dot product allows. Of 128 bytes of a row thread t takes pieces 2t and 2t + 1, and piece c of row r lies at
 * c ^ r % 8, so that neither copies nor reads meet in a bank. */
#include "kernels/cuda/finish.cuh"

#include <algorithm>
#include <new>

namespace {

/* Up to three matrices of one width, one above the other. */
struct stack {
    const void *w[3];
    int32_t end[3]; /* outputs up to and including this one's */
};

struct product {
    struct stack stack;
    int32_t m, k;
    const bf16 *a;        /* [m][k] */
    const float *squares; /* [m][square_tiles]: the factors of a norm, before the last sum; or null */
    int32_t square_tiles;
    float eps;
    int32_t tiles, stages;
    struct finish finish;
};

constexpr int WARPS = 8, STEP = 128, CHUNK = WARPS * STEP; /* elements along k, of a warp and of all */
constexpr int MAX_STAGES = 8, FINISH_COLUMNS = 8; /* columns whose sums meet in shared memory at a time */
constexpr int SHARED_BYTES = 227 << 10;
constexpr int SQUARES_ROWS = 32; /* most rows whose squares are brought to shared memory ahead */

/* Shared memory of a block: small tables first, then by these offsets. */
struct tables {
    struct place place[PRODUCT_ROWS];
    float scale[PRODUCT_ROWS];
};
struct layout {
    int part, squares, ring, stage; /* the last in bytes, of one warp */
    __host__ __device__ layout(const struct product &p, int tile, int width) {
        const int columns = p.m < FINISH_COLUMNS ? p.m : FINISH_COLUMNS;
        part = sizeof(struct tables);
        squares = part + WARPS * columns * (tile + 4) * 4;
        ring =
            (squares + (p.squares && p.m <= SQUARES_ROWS ? p.m * p.square_tiles * 4 : 0) + 127) / 128 * 128;
        stage = (tile + p.m) * width * 2;
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

/* Address of one row of a tile: pairs keep their two halves in the two halves of the tile. */
template <int TILE>
__device__ __forceinline__ const bf16 *tile_row(const struct product &p, int tile, int r) {
    const int pair = min(tile * (TILE / 2) + r % (TILE / 2), p.finish.pairs - 1);
    int row = min(first_of_pair(p.finish, pair) + (r < TILE / 2 ? 0 : p.finish.half), p.finish.n - 1);
    const int which = row < p.stack.end[0] ? 0 : row < p.stack.end[1] ? 1 : 2;
    if (which) row -= p.stack.end[which - 1];
    return (const bf16 *)p.stack.w[which] + (size_t)row * p.k;
}

/* Fills a warp's ring, WIDTH elements of each row at a time: a lane takes a 16-byte piece of every ROWS-th
 * row. */
template <int TILE, int WIDTH> struct feeder {
    static constexpr int PIECES = WIDTH / 8, ROWS = 32 / PIECES;
    const struct product &p;
    const uint64_t policy = policy_stream();
    const int warp = threadIdx.x / 32, first = threadIdx.x % 32 / PIECES, piece = threadIdx.x % PIECES;
    const int turns = (p.k + CHUNK - 1) / CHUNK * (STEP / WIDTH); /* fillings a tile takes */
    const uint32_t ring;
    const int stage;
    int tile = blockIdx.x, turn = 0;
    const bf16 *row[TILE / ROWS];

    __device__ feeder(const struct product &product, const char *ring_, int stage_)
        : p(product), ring(shared_address(ring_)), stage(stage_) {
        aim();
    }
    __device__ void aim() {
#pragma unroll
        for (int j = 0; j < TILE / ROWS; j++) row[j] = tile_row<TILE>(p, tile, first + j * ROWS);
    }
    __device__ bool done() const {
        return tile >= p.tiles;
    }
    __device__ void advance() {
        if (++turn < turns) return;
        turn = 0;
        tile += gridDim.x;
        if (!done()) aim();
    }
    __device__ uint32_t place_of(int slot, int r) const {
        return ring + slot * stage + r * WIDTH * 2 + ((piece & 8) | ((piece ^ r) & 7)) * 16;
    }
    __device__ int column(int at_turn) const {
        return at_turn / (STEP / WIDTH) * CHUNK + warp * STEP + at_turn % (STEP / WIDTH) * WIDTH + piece * 8;
    }
    __device__ void weights(int slot) const {
        const int k = column(turn), bytes = k < p.k ? 16 : 0;
#pragma unroll
        for (int j = 0; j < TILE / ROWS; j++)
            copy_stream(place_of(slot, first + j * ROWS), row[j] + min(k, p.k - 8), bytes, policy);
    }
    __device__ void activations(int slot, int at_turn) const {
        const int k = column(at_turn), bytes = k < p.k ? 16 : 0;
        for (int r = first; r < p.m; r += ROWS)
            copy_async(place_of(slot, TILE + r), p.a + (size_t)r * p.k + min(k, p.k - 8), bytes);
    }
};

/* The factors by which rows' sums are multiplied: ready, or from the squares of what made x. */
__device__ __forceinline__ void find_scales(const struct product &p, const float *ahead, struct tables *s) {
    for (int r = threadIdx.x / 32; r < p.m; r += WARPS) {
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

/* The pair and row a thread finishes, of 8 rows from row j * 8 on. */
template <int TILE> __device__ __forceinline__ float2 old_values(const struct product &p, int tile, int j) {
    const int pair = tile * (TILE / 2) + threadIdx.x % (TILE / 2), row = j * 8 + threadIdx.x / (TILE / 2);
    if (!p.finish.norm || row >= min(p.m, j * 8 + 8) || pair >= p.finish.pairs) return make_float2(0, 0);
    const float *x = p.finish.x + (size_t)row * p.finish.n + pair;
    return make_float2(__ldcg(x), pair + p.finish.half < p.finish.n ? __ldcg(x + p.finish.half) : 0);
}

/* Adds the warps' sums of a tile in warp order and finishes them, FINISH_COLUMNS columns at a time. */
template <int RT, int NT>
__device__ __forceinline__ void finish_tile(const struct product &p, int tile, const float (&c)[RT][NT][4],
                                            const float2 (&old)[NT], float *part, const struct tables *s) {
    constexpr int TILE = RT * 16, LANES = TILE / 2, COLUMN = TILE + 4;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int in_tile = threadIdx.x % LANES, column = threadIdx.x / LANES, pair = tile * LANES + in_tile;
#pragma unroll
    for (int j = 0; j < NT; j++) {
        const int columns = min(p.m - j * 8, FINISH_COLUMNS), row = j * 8 + column;
        if (columns <= 0) break;
#pragma unroll
        for (int r = 0; r < RT; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int to = t * 2 + i % 2;
                if (to < columns) part[(warp * columns + to) * COLUMN + r * 16 + g + i / 2 * 8] = c[r][j][i];
            }
        __syncthreads();
        if (warp * 32 / LANES < columns) { /* whole warps, for the sums of squares */
            float first = 0, second = 0;
            const int from = min(column, columns - 1);
#pragma unroll
            for (int v = 0; v < WARPS; v++) {
                first += part[(v * columns + from) * COLUMN + in_tile];
                second += part[(v * columns + from) * COLUMN + in_tile + LANES];
            }
            first *= s->scale[j * 8 + from];
            second *= s->scale[j * 8 + from];
            if (p.finish.norm)
                finish_normed(p.finish, row, pair, tile, p.tiles, column < columns, first, second, old[j],
                              LANES);
            else if (column < columns && pair < p.finish.pairs)
                finish_pair(p.finish, row, s->place[row], pair, first, second);
        }
        __syncthreads();
    }
}

/* RT: 16-row tiles of weights a block takes at a time; NT: 8-row tiles of activations; WIDTH: of a ring's
 * stage. */
template <int RT, int NT, int WIDTH>
__global__ __launch_bounds__(WARPS * 32) void skinny(const __grid_constant__ struct product p) {
    constexpr int TILE = RT * 16;
    extern __shared__ __align__(128) char shared[];
    const layout at(p, TILE, WIDTH);
    struct tables *s = (struct tables *)shared;
    char *ring = shared + at.ring + threadIdx.x / 32 * p.stages * at.stage;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

    pdl_release();
    struct feeder<TILE, WIDTH> feed(p, ring, at.stage);
    for (int i = 0; i < p.stages && !feed.done(); i++, feed.advance()) feed.weights(i);
    for (int r = threadIdx.x; r < p.m; r += WARPS * 32) s->place[r] = find_place(p.finish, r);
    pdl_wait();
    const int squares = p.squares && p.m <= SQUARES_ROWS ? p.m * p.square_tiles : 0;
    for (int i = threadIdx.x * 4; i < squares; i += WARPS * 32 * 4)
        copy_async(shared_address(shared + at.squares) + i * 4, p.squares + i, 16);
    for (int i = 0; i < p.stages; i++, commit()) feed.activations(i, i % feed.turns);

    int slot = 0;
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        float c[RT][NT][4] = {};
        float2 old[NT];
#pragma unroll
        for (int j = 0; j < NT; j++) old[j] = old_values<TILE>(p, tile, j);
        for (int turn = 0; turn < feed.turns; turn++) {
            const char *w = ring + slot * at.stage + g * WIDTH * 2;
            const char *a = w + (TILE - g) * WIDTH * 2;
            wait_all_but(p.stages - 1);
            __syncwarp();
#pragma unroll
            for (int h = 0; h < WIDTH / 32; h++) {
                const int piece = h / 2 * 8 + t * 2 + h % 2, swapped = (piece & 8) | ((piece ^ g) & 7);
                uint4 lo[RT], hi[RT];
#pragma unroll
                for (int r = 0; r < RT; r++) {
                    lo[r] = *(const uint4 *)(w + r * 16 * WIDTH * 2 + swapped * 16);
                    hi[r] = *(const uint4 *)(w + (r * 16 + 8) * WIDTH * 2 + swapped * 16);
                }
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    const int row = min(j * 8 + g, p.m - 1);
                    const uint4 b =
                        *(const uint4 *)(a + row * WIDTH * 2 + ((piece & 8) | ((piece ^ row) & 7)) * 16);
#pragma unroll
                    for (int r = 0; r < RT; r++) {
                        mma_bf16(c[r][j], lo[r].x, hi[r].x, lo[r].y, hi[r].y, b.x, b.y);
                        mma_bf16(c[r][j], lo[r].z, hi[r].z, lo[r].w, hi[r].w, b.z, b.w);
                    }
                }
            }
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

constexpr int FINISH_THREADS = 256, FINISH_EACH = 4; /* pairs a thread, read together */

/* Finishes sums [rows][n] that another kernel left. */
__global__ void finish_sums(struct finish f, const float *sums) {
    pdl_release();
    pdl_wait();
    const int row = blockIdx.y, first = blockIdx.x * FINISH_THREADS * FINISH_EACH + threadIdx.x;
    const struct place at = find_place(f, row);
    const float scale = f.scale ? __ldcg(f.scale + row) : 1;
    float a[FINISH_EACH], b[FINISH_EACH];
#pragma unroll
    for (int i = 0; i < FINISH_EACH; i++) {
        const int pair = first + i * FINISH_THREADS, output = first_of_pair(f, min(pair, f.pairs - 1));
        a[i] = scale * __ldcg(sums + (size_t)row * f.n + output);
        b[i] = scale * (output + f.half < f.n ? __ldcg(sums + (size_t)row * f.n + output + f.half) : 0);
    }
#pragma unroll
    for (int i = 0; i < FINISH_EACH; i++)
        if (first + i * FINISH_THREADS < f.pairs)
            finish_pair(f, row, at, first + i * FINISH_THREADS, a[i], b[i]);
}

/* sums[row][first + i] = sum over k of w[i][k] a[row][k]: a warp an output. */
template <typename W, typename A>
__global__ void plain(const W *w, const A *a, float *sums, int n, int k, int pitch, int first) {
    pdl_release();
    pdl_wait();
    const int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= n) return;
    float sum = 0;
    for (int j = lane; j < k; j += 32)
        sum += widen(w[(size_t)i * k + j]) * widen(__ldcg(a + (size_t)blockIdx.y * k + j));
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0) sums[(size_t)blockIdx.y * pitch + first + i] = sum;
}

__global__ void copy_rows(const uint4 *from, uint4 *to, size_t n) {
    pdl_release();
    pdl_wait();
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        to[i] = __ldcg(from + i);
}

/* ---- choosing ---- */

/* A product before it is known how it will be done: activations, or a norm of x. */
struct job {
    struct stack stack;
    enum dtype dtype;
    int32_t m, k;
    bool prefill;
    const void *a;
    const float *x, *norm;
    float eps;
    struct picks pick;
    struct finish finish;
    const float *squares; /* of the product that made x */
};

bool is_skinny(const struct backend *be, const struct job *j) {
    return be->architecture >= 90 && j->dtype == DTYPE_BF16 && j->k % 8 == 0;
}

void *after_rows(void *p, enum dtype type, size_t n) {
    return p ? (char *)p + n * dtype_bytes(type) : p;
}

/* The finish of rows from `row` on. */
struct finish finish_from(struct finish f, int32_t row) {
    if (f.x) f.x += (size_t)row * f.n;
    if (f.scale) f.scale += row;
    int32_t width = f.kind == FINISH_QKV ? f.heads * 2 * f.half : f.half;
    f.wide = after_rows(f.wide, f.wide_type, (size_t)row * width);
    if (f.kind == FINISH_QKV) {
        f.position += row;
        f.slot += row;
    }
    return f;
}

template <int RT, int NT, int WIDTH> void launch_skinny(struct backend *be, struct product *p) {
    constexpr int TILE = RT * 16;
    p->tiles = ceil_div(p->finish.pairs, TILE / 2);
    const layout at(*p, TILE, WIDTH);
    p->stages = (SHARED_BYTES - at.ring) / (at.stage * WARPS);
    const int grid = p->tiles < be->multiprocessors ? p->tiles : be->multiprocessors;
    const int useful = ceil_div(p->tiles, grid) * ceil_div(p->k, CHUNK) * (STEP / WIDTH);
    assert(p->stages >= 2);
    p->stages = std::clamp(useful, 2, std::min(p->stages, MAX_STAGES));
    launch_raw(be, "product", skinny<RT, NT, WIDTH>, grid, WARPS * 32,
               at.ring + (size_t)p->stages * at.stage * WARPS, 1, *p);
}

template <int RT> void launch_rows(struct backend *be, struct product *p) {
    if (p->m <= 8) return launch_skinny<RT, 1, 128>(be, p);
    if (p->m <= 16) return launch_skinny<RT, 2, 128>(be, p);
    if (p->m <= 32) return launch_skinny<RT, 4, 64>(be, p);
    launch_skinny<RT, 8, 64>(be, p);
}

void launch_product(struct backend *be, struct product *p) {
    if (tile_outputs(be, p->finish.n) == 32)
        launch_rows<2>(be, p);
    else
        launch_rows<1>(be, p);
}

struct product product_of(const struct job *j, const void *a, int32_t from) {
    struct product p = {};
    p.stack = j->stack;
    p.m = j->m - from < PRODUCT_ROWS ? j->m - from : PRODUCT_ROWS;
    p.k = j->k;
    p.a = (const bf16 *)a + (size_t)from * j->k;
    p.finish = finish_from(j->finish, from);
    p.squares = j->squares;
    p.eps = j->eps;
    return p;
}

void run_skinny(struct backend *be, const struct job *j, const void *a) {
    settle(be);
    for (int32_t from = 0; from < j->m; from += PRODUCT_ROWS) {
        struct product p = product_of(j, a, from);
        p.square_tiles = ceil_div(ceil_div(j->k, 2), tile_outputs(be, j->k) / 2);
        launch_product(be, &p);
    }
}

void finish_rows(struct backend *be, const struct finish &f, int32_t n) {
    launch(be, "finish", finish_sums, dim3(ceil_div(f.pairs, FINISH_THREADS * FINISH_EACH), n),
           FINISH_THREADS, 0, f, (const float *)be->sums);
}

void run_prefill(struct backend *be, const struct job *j, const void *a) {
    for (int32_t from = 0; from < j->m; from += PREFILL_ROWS) {
        int32_t n = j->m - from < PREFILL_ROWS ? j->m - from : PREFILL_ROWS;
        const bf16 *rows = (const bf16 *)a + (size_t)from * j->k;
        if (n < PREFILL_ROWS) {
            launch(be, "copy", copy_rows, 256, 256, 0, (const uint4 *)rows, (uint4 *)be->padded,
                   (size_t)n * j->k / 8);
            rows = (const bf16 *)be->padded;
        }
        const float one = 1, zero = 0;
        for (int i = 0, first = 0; i < 3 && first < j->finish.n; first = j->stack.end[i++])
            if (cublasGemmEx(be->blas, CUBLAS_OP_T, CUBLAS_OP_N, j->stack.end[i] - first, PREFILL_ROWS, j->k,
                             &one, j->stack.w[i], CUDA_R_16BF, j->k, rows, CUDA_R_16BF, j->k, &zero,
                             be->sums + first, CUDA_R_32F, j->finish.n, CUBLAS_COMPUTE_32F,
                             CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
                note(be, cudaErrorUnknown, "cuBLAS");
        finish_rows(be, finish_from(j->finish, from), n);
    }
}

template <typename W, typename A> void run_plain(struct backend *be, const struct job *j, const void *a) {
    for (int32_t from = 0; from < j->m; from += PREFILL_ROWS) {
        int32_t m = j->m - from < PREFILL_ROWS ? j->m - from : PREFILL_ROWS;
        for (int i = 0, first = 0; i < 3 && first < j->finish.n; first = j->stack.end[i++]) {
            int32_t n = j->stack.end[i] - first;
            launch(be, "plain product", plain<W, A>, dim3(ceil_div(n, 8), m), 256, 0,
                   (const W *)j->stack.w[i], (const A *)a + (size_t)from * j->k, be->sums, n, j->k,
                   j->finish.n, first);
        }
        finish_rows(be, finish_from(j->finish, from), m);
    }
}

/* Whether the projection held back made the x that this job norms; if so it is issued together with that
 * norm. */
bool take_held(struct backend *be, struct job *j);

void run(struct backend *be, struct job *j) {
    enum dtype type = j->dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    const void *a = j->x ? be->normed : j->a;
    if (j->x && !take_held(be, j)) {
        rmsnorm(be, j->x, j->pick, j->norm, j->eps, j->m, j->k, type);
        j->finish.scale = be->scale;
    }
    if (j->prefill && j->dtype == DTYPE_BF16 && j->k % 8 == 0) return run_prefill(be, j, a);
    if (is_skinny(be, j)) return run_skinny(be, j, a);
    if (j->dtype == DTYPE_BF16) return run_plain<bf16, bf16>(be, j, a);
    if (j->dtype == DTYPE_F16) return run_plain<__half, float>(be, j, a);
    run_plain<float, float>(be, j, a);
}

struct stack stack_of(const struct matrix *a, const struct matrix *b, const struct matrix *c) {
    struct stack s = {{a->data, b ? b->data : NULL, c ? c->data : NULL}, {a->n, a->n, a->n}};
    if (b) s.end[1] = s.end[2] = a->n + b->n;
    if (c) s.end[2] = a->n + b->n + c->n;
    return s;
}

/* The finish of a product whose outputs have nothing to do with each other. */
struct finish finish_each(enum finish_kind kind, int32_t n, float *x) {
    struct finish f = {};
    f.kind = kind;
    f.n = n;
    f.half = f.pairs = ceil_div(n, 2);
    f.x = x;
    return f;
}

} // namespace

/* ---- holding a projection back ----
 *
 * A projection adds to x, and what comes next norms x. Were the norm a kernel of its own, every product but
 * two a pass would wait for it; so a projection is issued only when the operation behind it is known, and
 * then does the norm's work on the x it has just made. Anything else that happens first issues it as it is.
 */
struct held {
    bool any;
    struct product product;
};

void release_held(struct backend *be) {
    if (!be->held->any) return;
    be->held->any = false;
    launch_product(be, &be->held->product);
}

namespace {

bool can_hold(const struct backend *be, const struct job *j) {
    return is_skinny(be, j) && !j->prefill && j->m <= PRODUCT_ROWS;
}

bool take_held(struct backend *be, struct job *j) {
    struct product *p = &be->held->product;
    if (!be->held->any || p->finish.x != j->x || p->m != j->m || p->finish.n != j->k || !j->pick.all ||
        !can_hold(be, j))
        return false;
    p->finish.norm = j->norm;
    p->finish.normed = (bf16 *)be->normed;
    p->finish.squares = be->squares;
    j->squares = be->squares;
    release_held(be);
    return true;
}

} // namespace

/* ---- the operations ---- */

void cuda_qkv(struct backend *be, const struct rows *rows, const struct attention_block *b, const float *x,
              void *q, const struct kv_layer *kv) {
    struct job j = {};
    j.stack = stack_of(&b->q, &b->k, &b->v);
    j.dtype = b->q.dtype;
    j.m = rows->n;
    j.k = b->q.k;
    j.prefill = rows->prefill;
    j.x = x;
    j.norm = b->norm;
    j.eps = b->norm_eps;
    j.pick.all = true;
    struct finish *f = &j.finish;
    bool fast = attention_is_fast(be, b, kv);
    f->kind = FINISH_QKV;
    f->n = j.stack.end[2];
    f->half = b->head_dim / 2;
    f->pairs = f->n / 2;
    f->wide = q;
    f->wide_type = fast ? DTYPE_F16 : DTYPE_F32;
    /* exp(x) = exp2(x log2 e), so the factor belongs to the scale. */
    f->q_scale = fast ? 1.4426950408889634f / sqrtf((float)b->head_dim) : 1;
    f->position = rows->position;
    f->slot = rows->slot;
    f->table = rows->table;
    f->table_stride = rows->table_stride;
    f->rope = (const float2 *)b->rope;
    f->k = kv->k;
    f->v = kv->v;
    f->f16_cache = kv->dtype == DTYPE_F16;
    f->page_size = kv->page_size;
    f->heads = b->heads;
    f->kv_heads = b->kv_heads;
    run(be, &j);
}

void cuda_gate_up(struct backend *be, const struct rows *rows, const struct mlp_block *b, const float *x,
                  void *hidden) {
    struct job j = {};
    j.stack = stack_of(&b->gate, &b->up, NULL);
    j.dtype = b->gate.dtype;
    j.m = rows->n;
    j.k = b->gate.k;
    j.prefill = rows->prefill;
    j.x = x;
    j.norm = b->norm;
    j.eps = b->norm_eps;
    j.pick.all = true;
    j.finish.kind = FINISH_SILU;
    j.finish.n = 2 * b->gate.n;
    j.finish.half = j.finish.pairs = b->gate.n;
    j.finish.wide = hidden;
    j.finish.wide_type = j.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    run(be, &j);
}

void cuda_project(struct backend *be, const struct rows *rows, const struct matrix *w, const void *a,
                  float *x) {
    struct job j = {};
    j.stack = stack_of(w, NULL, NULL);
    j.dtype = w->dtype;
    j.m = rows->n;
    j.k = w->k;
    j.prefill = rows->prefill;
    j.a = a;
    j.finish = finish_each(FINISH_ADD, w->n, x);
    if (!can_hold(be, &j)) return run(be, &j);
    settle(be);
    be->held->product = product_of(&j, a, 0);
    be->held->any = true;
}

void cuda_logits(struct backend *be, const float *norm, float norm_eps, const struct matrix *head,
                 const float *x, const int32_t *host_pick, int32_t n_pick, float *logits) {
    for (int32_t from = 0; from < n_pick; from += PRODUCT_ROWS) {
        struct job j = {};
        j.stack = stack_of(head, NULL, NULL);
        j.dtype = head->dtype;
        j.m = n_pick - from < PRODUCT_ROWS ? n_pick - from : PRODUCT_ROWS;
        j.k = head->k;
        j.x = host_pick ? x : x + (size_t)from * head->k;
        j.norm = norm;
        j.eps = norm_eps;
        j.pick.all = !host_pick;
        for (int32_t i = 0; host_pick && i < j.m; i++) j.pick.row[i] = host_pick[from + i];
        j.finish = finish_each(FINISH_STORE, head->n, logits + (size_t)from * head->n);
        run(be, &j);
    }
}

cudaError_t prepare_products(struct backend *be) {
    be->held = new (std::nothrow) struct held();
    if (!be->held) return cudaErrorMemoryAllocation;
    if (be->architecture < 90) return cudaSuccess;
    const void *kernels[] = {(const void *)skinny<1, 1, 128>, (const void *)skinny<1, 2, 128>,
                             (const void *)skinny<1, 4, 64>,  (const void *)skinny<1, 8, 64>,
                             (const void *)skinny<2, 1, 128>, (const void *)skinny<2, 2, 128>,
                             (const void *)skinny<2, 4, 64>,  (const void *)skinny<2, 8, 64>};
    for (const void *kernel : kernels) {
        cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

void discard_held(struct backend *be) {
    delete be->held;
}

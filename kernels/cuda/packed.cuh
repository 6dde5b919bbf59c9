/* The product of 1 to 8 rows with quantised weights (quantized.cuh): what skinny.cuh does for bf16, for
 * weights that lie as the tensor cores take them, so that a stage of the ring is a few long runs of memory.
 *
 * A block has three kinds of warps. One fills the ring by bulk copies, a strip of 8 rows at a time, and
 * begins before the kernel ahead is done. ALONG warps take one step of 256 along k each of a stage; what a
 * stage is multiplied by is rounded by the warp that needs it, once where it has room to be kept. The rest
 * add the warps' sums in the order of k and finish tiles while the next ones are multiplied. Nobody waits for
 * the whole block: each stage and each tile's sums have a barrier of their own in shared memory. A column's
 * sum has one order for any number of rows. */
#ifndef OUTRIDER_CUDA_PACKED_CUH
#define OUTRIDER_CUDA_PACKED_CUH

#include "kernels/cuda/quantized.cuh"
#include "kernels/cuda/skinny.cuh"

namespace {

constexpr int ALONG = 8, FINISHERS = 3, PACKED_THREADS = (ALONG + 1 + FINISHERS) * 32, MOST_SLOTS = 16;

/* ---- barriers in shared memory ---- */

__device__ __forceinline__ void gate_open(uint64_t *gate, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(gate)), "r"(arrivals));
}
__device__ __forceinline__ void gate_arrive(uint64_t *gate) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(gate)) : "memory");
}
/* Phase n of a gate is over. */
__device__ __forceinline__ void gate_wait(uint64_t *gate, int n) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred done;\nWAIT:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra WAIT;\n}" ::"r"(shared_address(gate)),
                 "r"(n & 1)
                 : "memory");
#endif
}
/* As an arrival that counts `bytes` more to come. */
__device__ __forceinline__ void gate_expect(uint64_t *gate, int bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(gate)),
                 "r"(bytes)
                 : "memory");
#endif
}
__device__ __forceinline__ void copy_run(void *to, const void *from, int bytes, uint64_t *gate,
                                         uint64_t policy) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(gate)), "l"(policy)
                 : "memory");
#endif
}

/* Arrives when this thread's copies of 16 bytes have. */
__device__ __forceinline__ void gate_arrive_copied(uint64_t *gate) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(gate))
                 : "memory");
}
/* Gates just opened may be used by bulk copies. */
__device__ __forceinline__ void gates_opened() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

struct gates {
    uint64_t full[MOST_SLOTS], empty[MOST_SLOTS]; /* of the ring */
    uint64_t made[2], taken[2];                   /* sums of a tile */
};

/* ---- shapes ---- */

/* RT: 16-row tiles of weights a block takes at a time. LEAN: leaves a block of attention registers and shared
 * memory beside it (12 warps of 80 registers: a quarter of a multiprocessor has room for 3 of them and 2 of
 * 128). ALONE: of one row. */
template <int BITS_, int RT_, bool LEAN_, bool ALONE_> struct packed {
    static constexpr int BITS = BITS_, RT = RT_;
    static constexpr bool LEAN = LEAN_, ALONE = ALONE_;
    static constexpr int TILE = RT * 16, STRIPS = RT * 2, COLUMN = TILE + 4; /* of sums, padded */
    static constexpr int CHUNKS = QUANT_GROUPS / CHUNK_GROUPS;
    static constexpr int BRICK = brick_bytes(BITS), STAGE = STRIPS * ALONG * BRICK;
};

/* Shared memory of a block, by offsets. */
struct packed_layout {
    int turns, own;               /* stages of a tile; steps of which a warp keeps the activations */
    int part, sums, kept, a_step; /* partial sums, twice; activations in 8 bits, of one warp's step */
    int ring;
    template <class F> static __host__ __device__ packed_layout of(const struct product &p) {
        packed_layout at;
        at.turns = (p.k + ALONG * QUANT_STEP - 1) / (ALONG * QUANT_STEP);
        at.own = p.keep ? at.turns : 1;
        at.part = (sizeof(struct tables) + sizeof(struct gates) + 127) / 128 * 128;
        at.sums = ALONG * p.m * (F::TILE + 4) * 4;
        at.kept = (at.part + 2 * at.sums + 127) / 128 * 128;
        at.a_step = p.m * QUANT_STEP + 64;
        at.ring = (at.kept + ALONG * at.own * at.a_step + 127) / 128 * 128;
        return at;
    }
};

/* ---- filling the ring: one warp ---- */

template <class F> struct filler {
    const struct product &p;
    char *ring;
    struct gates *gates;
    const int lane = threadIdx.x % 32, steps = quant_steps(p.k);
    const uint64_t policy = policy_stream();
    int tile = blockIdx.x, turn = 0, row = 0;
    const char *from =
        nullptr; /* first brick of this lane's strip, or of its row where tiles are not aligned */

    __device__ filler(const struct product &product, char *ring_, struct gates *gates_)
        : p(product), ring(ring_), gates(gates_) {
        aim();
    }
    __device__ bool done() const { return tile >= p.tiles; }
    __device__ void aim() {
        const struct spot s = find_spot<F::TILE>(p, tile, min(p.aligned ? lane * 8 : lane, F::TILE - 1));
        from = (const char *)s.w + (size_t)(s.row / 8) * steps * F::BRICK;
        row = s.row % 8;
    }
    __device__ void fill(int slot) {
        const int n = min(ALONG, steps - turn * ALONG);
        char *to = ring + slot * F::STAGE;
        const char *at = from + (size_t)turn * ALONG * F::BRICK;
        if (p.aligned)
            fill_strips(to, at, n * F::BRICK, &gates->full[slot]);
        else
            fill_row(to + lane / 8 * ALONG * F::BRICK, at, n, &gates->full[slot]);
        if (++turn * ALONG < steps) return;
        turn = 0;
        tile += gridDim.x;
        if (!done()) aim();
    }
    __device__ void fill_strips(char *to, const char *at, int bytes, uint64_t *full) const {
        if (lane == 0)
            gate_expect(full, F::STRIPS * bytes);
        else
            gate_arrive(full);
        if (lane < F::STRIPS) copy_run(to + lane * ALONG * F::BRICK, at, bytes, full, policy);
    }
    /* A lane a row of the tile, piece by piece. */
    __device__ void fill_row(char *to, const char *at, int n, uint64_t *full) const {
        constexpr int PIECES = QUANT_STEP * F::BITS / 8 / 16;
        const int scales = QUANT_STEP * F::BITS;
        for (int step = 0; step < n && lane < F::TILE; step++, to += F::BRICK, at += F::BRICK) {
            for (int i = 0; i < PIECES; i++) {
                const int place = i / 4 * 512 + i % 4 * 16;
                copy_async(shared_address(to + place + lane % 8 * 64), at + place + row * 64, 16);
            }
            copy_async(shared_address(to + scales + lane % 8 * 16), at + scales + row * 16, 16);
        }
        gate_arrive_copied(full);
    }
};

/* ---- multiplying: ALONG warps ----
 *
 * Of all they do nothing depends on other rows. While a stage is multiplied, the activations of the next are
 * on their way; in later tiles they come from shared memory, where each warp has kept what it rounded. */

template <class F> struct maker {
    const struct product &p;
    const struct packed_layout &at;
    char *shared;
    struct gates *gates;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t b[QUANT_GROUPS][2]; /* activations of a step as the tensor cores take them */
    float of[F::CHUNKS][2];      /* units of the columns */
    static constexpr int READS = F::ALONE ? 1 : QUANT_GROUPS;
    uint4 raw[READS]; /* as they come from memory */

    /* Where this warp keeps step `i` of its own: for each two groups 64 bytes a row, then units,
     * [chunk][row]. */
    __device__ char *kept(int i) const { return shared + at.kept + (warp * at.own + i) * at.a_step; }

    __device__ __forceinline__ uint4 eight(int r, int k) const {
        return k < p.k ? __ldcg((const uint4 *)(p.a + (size_t)r * p.k + k)) : make_uint4(0, 0, 0, 0);
    }
    /* Begins to read the activations of the step from element k on. Alone, a lane takes 8 elements, half a
     * warp a chunk; of rows it takes what it multiplies. */
    __device__ __forceinline__ void fetch(int k) {
        const int t = lane % 4, r = min(lane / 4, p.m - 1);
#pragma unroll
        for (int i = 0; i < READS; i++)
            raw[i] = F::ALONE ? eight(0, k + lane * 8) : eight(r, k + i * QUANT_GROUP + t * 8);
    }
    /* Rounds what was fetched. */
    __device__ __forceinline__ void make(const uint4 (&x)[READS], char *row, float *units) {
        if (!F::ALONE) {
            round_rows(x);
            if (p.keep) store(row, units);
            return;
        }
        __syncwarp();
        __nv_bfloat162 most = greatest(x[0]);
        for (int offset = 1; offset < 16; offset *= 2)
            most = __hmax2_nan(most, __shfl_xor_sync(~0u, most, offset));
        const struct unit u(most);
        uint32_t bytes[2];
        u.round(x[0], bytes);
        *(uint2 *)(row + lane / 8 * 64 + lane % 4 * 16 + lane / 4 % 2 * 8) = make_uint2(bytes[0], bytes[1]);
        if (lane % 16 == 0) units[lane / 16] = u.size;
        __syncwarp();
        load(row, units);
    }
    __device__ __forceinline__ void round_rows(const uint4 (&x)[READS]) {
#pragma unroll
        for (int chunk = 0; chunk < F::CHUNKS; chunk++) {
            auto piece = [&](int i) { return x[(chunk * CHUNK_GROUPS + i) % READS]; };
            const float size = quantize_chunk(piece, b + chunk * CHUNK_GROUPS);
            for (int e = 0; e < 2; e++) of[chunk][e] = __shfl_sync(~0u, size, lane % 4 * 8 + e * 4);
        }
    }
    __device__ __forceinline__ void store(char *row, float *units) const {
        const int t = lane % 4, r = lane / 4;
        if (r < p.m)
#pragma unroll
            for (int i = 0; i < QUANT_GROUPS; i += 2)
                *(uint4 *)(row + (i / 2 * p.m + r) * 64 + t * 16) =
                    make_uint4(b[i][0], b[i][1], b[i + 1][0], b[i + 1][1]);
        if (r == 0)
            for (int chunk = 0; chunk < F::CHUNKS; chunk++)
                for (int e = 0; e < 2; e++)
                    if (t * 2 + e < p.m) units[chunk * p.m + t * 2 + e] = of[chunk][e];
        __syncwarp();
    }
    __device__ __forceinline__ void load(const char *row, const float *units) {
        const int t = lane % 4, r = min(lane / 4, p.m - 1);
#pragma unroll
        for (int i = 0; i < QUANT_GROUPS; i += 2) {
            const uint4 two = *(const uint4 *)(row + (i / 2 * p.m + r) * 64 + t * 16);
            b[i][0] = two.x, b[i][1] = two.y, b[i + 1][0] = two.z, b[i + 1][1] = two.w;
        }
#pragma unroll
        for (int chunk = 0; chunk < F::CHUNKS; chunk++)
            for (int e = 0; e < 2; e++) of[chunk][e] = units[chunk * p.m + min(t * 2 + e, p.m - 1)];
    }

    /* Every E-th of a thread's sums: of a single row, the others are columns that nobody reads. Thread 4g + t
     * has rows g and g + 8 of each 16, columns 2t and 2t + 1. */
    __device__ __forceinline__ void multiply(const char *brick, float (&c)[F::RT][4]) const {
        constexpr int E = F::ALONE ? 2 : 1, SHARE = F::BITS == 8 ? 2 : 4; /* groups in 16 bytes */
        constexpr float UNIT = F::BITS == 8 ? 1 : 1 / 16.f;               /* of unpacked weights */
#pragma unroll
        for (int r = 0; r < F::RT; r++) {
            const char *low = brick + r * 2 * ALONG * F::BRICK, *high = low + ALONG * F::BRICK;
            const int scales_at = QUANT_STEP * F::BITS + lane / 4 * 16;
            const struct scales scale[2] = {scales(low + scales_at), scales(high + scales_at)};
            float sum[F::CHUNKS][4] = {};
#pragma unroll
            for (int i = 0; i < QUANT_GROUPS; i += SHARE) {
                const uint4 lo = *(const uint4 *)(low + i / SHARE * 512 + lane * 16),
                            hi = *(const uint4 *)(high + i / SHARE * 512 + lane * 16);
                int d[SHARE][4];
#pragma unroll
                for (int j = 0; j < SHARE; j++) {
                    uint32_t w0, w1, w2, w3;
                    unpack<F::BITS>(lo, j, w0, w2);
                    unpack<F::BITS>(hi, j, w1, w3);
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
            for (int chunk = 0; chunk < F::CHUNKS; chunk++)
#pragma unroll
                for (int e = 0; e < 4; e += E)
                    c[r][e] = fmaf(of[chunk][e % 2] * UNIT, sum[chunk][e], c[r][e]);
        }
    }

    /* Leaves this warp's sums of the block's i-th tile. */
    __device__ __forceinline__ void leave(int i, float (&c)[F::RT][4]) const {
        if (i >= 2) gate_wait(&gates->taken[i % 2], i / 2 - 1);
        float *to = (float *)(shared + at.part + i % 2 * at.sums) + warp * p.m * F::COLUMN;
#pragma unroll
        for (int r = 0; r < F::RT; r++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int column = lane % 4 * 2 + e % 2;
                if (column < p.m) to[column * F::COLUMN + r * 16 + lane / 4 + e / 2 * 8] = c[r][e];
                c[r][e] = 0;
            }
        __syncwarp();
        if (lane == 0) gate_arrive(&gates->made[i % 2]);
    }

    __device__ __forceinline__ void run() {
        const int steps = quant_steps(p.k), tiles = (p.tiles - blockIdx.x + gridDim.x - 1) / gridDim.x;
        const char *ring = shared + at.ring + warp * F::BRICK;
        float c[F::RT][4] = {};
        int slot = 0, lap = 0;
        fetch(warp * QUANT_STEP);
        for (int i = 0, turn = 0; i < tiles;) {
            const bool making = i == 0 || !p.keep, last = turn + 1 == at.turns;
            const int step = turn * ALONG + warp, next = last ? 0 : turn + 1;
            char *row = kept(p.keep ? turn : 0);
            float *units = (float *)(row + p.m * QUANT_STEP);
            uint4 now[READS];
#pragma unroll
            for (int j = 0; j < READS; j++) now[j] = raw[j];
            if (p.keep ? i == 0 && !last : i + last < tiles) fetch((next * ALONG + warp) * QUANT_STEP);
            if (making)
                make(now, row, units);
            else
                load(row, units);
            gate_wait(&gates->full[slot], lap);
            if (step < steps) multiply(ring + slot * F::STAGE, c);
            __syncwarp();
            if (lane == 0) gate_arrive(&gates->empty[slot]);
            if (++slot == p.stages) slot = 0, lap++;
            if (last) leave(i++, c);
            turn = next;
        }
    }
};

/* ---- finishing tiles: FINISHERS warps ---- */

template <class F>
__device__ __forceinline__ void finish_tiles(const struct product &p, const struct packed_layout &at,
                                             char *shared, struct gates *gates) {
    constexpr int LANES = F::TILE / 2, THREADS = FINISHERS * 32; /* that finish, LANES a row */
    struct tables *s = (struct tables *)shared;
    const int me = threadIdx.x - (ALONG + 1) * 32;
    if (me < p.m) s->place[me] = find_place(p.finish, me);
    pdl_wait();
    for (int r = me / 32; r < p.m; r += FINISHERS) {
        auto square = [&](int i) { return __ldcg(p.squares + r * p.square_tiles + i); };
        const float scale = p.squares        ? inverse_rms(square, p.square_tiles, p.k, p.eps)
                            : p.finish.scale ? __ldcg(p.finish.scale + r)
                                             : 1;
        if (me % 32 == 0) s->scale[r] = scale;
    }
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
    for (int tile = blockIdx.x, i = 0; tile < p.tiles; tile += gridDim.x, i++) {
        const float *part = (const float *)(shared + at.part + i % 2 * at.sums);
        for (int from = me; from / 32 * 32 < p.m * LANES; from += THREADS) { /* whole warps */
            const int in_tile = from % LANES, row = from / LANES, column = min(row, p.m - 1);
            const struct before old = before_tile<F::TILE, 8>(p, tile, 0, from);
            gate_wait(&gates->made[i % 2], i / 2);
            float first = 0, second = 0;
#pragma unroll
            for (int v = 0; v < ALONG; v++) {
                first += part[(v * p.m + column) * F::COLUMN + in_tile];
                second += part[(v * p.m + column) * F::COLUMN + in_tile + LANES];
            }
            const float scale = s->scale[column];
            finish_sums_of(p, s, tile, LANES, in_tile, row, row < p.m, first * scale, second * scale, old);
        }
        gate_wait(&gates->made[i % 2], i / 2); /* those who had nothing to do */
        __syncwarp();
        if (me % 32 == 0) gate_arrive(&gates->taken[i % 2]);
    }
}

template <class F>
__global__ __launch_bounds__(PACKED_THREADS,
                             F::LEAN + 1) void product_of_packed(const __grid_constant__ struct product p) {
    extern __shared__ __align__(128) char shared[];
    const packed_layout at = packed_layout::of<F>(p);
    struct gates *gates = (struct gates *)(shared + sizeof(struct tables));
    const int warp = threadIdx.x / 32;
    pdl_release();
    if (warp == ALONG) {
        if (threadIdx.x % 32 == 0) {
            for (int i = 0; i < p.stages; i++)
                gate_open(&gates->full[i], 32), gate_open(&gates->empty[i], ALONG);
            for (int i = 0; i < 2; i++)
                gate_open(&gates->made[i], ALONG), gate_open(&gates->taken[i], FINISHERS);
            gates_opened();
        }
        __syncwarp();
        struct filler<F> ring(p, shared + at.ring, gates);
        for (int i = 0; i < p.stages && !ring.done(); i++) ring.fill(i);
        __syncthreads();
        for (int slot = 0, lap = 0; !ring.done();) {
            gate_wait(&gates->empty[slot], lap);
            ring.fill(slot);
            if (++slot == p.stages) slot = 0, lap++;
        }
        asm volatile("cp.async.wait_all;" ::: "memory"); /* of tiles that are not aligned */
        return;
    }
    __syncthreads();
    if (warp > ALONG) return finish_tiles<F>(p, at, shared, gates);
    pdl_wait();
    maker<F>{p, at, shared, gates}.run();
}

template <class F> void launch_packed(struct backend *be, struct product *p) {
    count_tiles(p, F::TILE);
    const int grid = std::min(p->tiles, be->multiprocessors), tiles = ceil_div(p->tiles, grid);
    const int turns = ceil_div(p->k, ALONG * QUANT_STEP), useful = tiles * turns;
    const int most = F::LEAN ? BESIDE_ATTENTION : SHARED_BYTES;
    auto room = [&] { return (most - packed_layout::of<F>(*p).ring) / F::STAGE; };
    p->keep = tiles > 1;
    p->keep = p->keep && room() >= 2;
    p->stages = std::min({room(), std::max(useful, 2), (int)MOST_SLOTS});
    assert(p->stages >= 2);
    launch_raw(be, "product", product_of_packed<F>, grid, PACKED_THREADS,
               packed_layout::of<F>(*p).ring + (size_t)p->stages * F::STAGE, 1, *p);
}

} // namespace

#endif

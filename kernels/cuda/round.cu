/* The round on the device: logits to distributions to tokens with every knob, and the acceptance rules; twins of
 * runtime/sampler.c and runtime/accept.c that write the same tokens.
 *
 * A block makes one distribution, dense over the vocabulary, where the host keeps a list in order of id: zeros
 * add nothing to whole-number sums (kernels/sampling.h), so both draw alike. Thresholds of top-k and top-p
 * come from a radix search over the ordered bits of the logits; each thread counts in a column of its own, so
 * that nothing is added atomically. Compiled with -fmad=false. */
#include "kernels/cuda/best.cuh"

#include <climits>

#include "kernels/sampling.h"

namespace {

constexpr int THREADS = 512, WARPS = THREADS / 32, DIGITS = 16;
static_assert(WARPS == DIGITS, "a warp sums the columns of a digit");

using candidate = struct best<double>;

struct block {
    uint64_t column[DIGITS][THREADS];
    uint64_t warp[WARPS];
    candidate best[WARPS];
};

/* ---- over a block; every thread gets the result ---- */

template <typename T> __device__ __forceinline__ T warp_sum(T v) {
    for (int offset = 16; offset; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
    return v;
}
__device__ uint64_t block_sum(struct block &s, uint64_t v) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) s.warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = warp_sum(threadIdx.x % 32 < WARPS ? s.warp[threadIdx.x % 32] : 0);
    __syncthreads();
    return v;
}

/* An index of INT_MAX stands for none. */
__device__ candidate block_best(struct block &s, candidate mine) {
    mine = warp_best(mine);
    if (threadIdx.x % 32 == 0) s.best[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = warp_best(s.best[threadIdx.x % WARPS]);
    __syncthreads();
    return mine;
}

/* The first i < n at which value(0) + ... + value(i) exceeds target; -1 when none does. */
template <typename Value> __device__ int find(struct block &s, int n, uint64_t target, Value value) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int low = 0, high = n;
    while (high - low > 32) {
        const int piece = (high - low + WARPS * 32 - 1) / (WARPS * 32) * 32;
        const int begin = low + warp * piece, end = min(begin + piece, high);
        uint64_t sum = 0;
        for (int i = begin + lane; i < end; i += 32) sum += value(i);
        sum = warp_sum(sum);
        if (lane == 0) s.warp[warp] = sum;
        __syncthreads();
        int w = 0;
        while (w < WARPS - 1 && target >= s.warp[w]) target -= s.warp[w++];
        __syncthreads();
        low += w * piece;
        high = min(low + piece, high);
    }
    uint64_t sum = low + lane < high ? value(low + lane) : 0;
    for (int offset = 1; offset < 32; offset *= 2) {
        const uint64_t before = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += before;
    }
    const unsigned passed = __ballot_sync(~0u, sum > target);
    return passed ? low + __ffs(passed) - 1 : -1;
}

/* ---- thresholds ---- */

/* Unsigned numbers in the order of the logits. Both zeros are one. */
__device__ __forceinline__ uint32_t ordered(float logit) {
    const uint32_t bits = __float_as_uint(logit + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* What stays: tokens above `key`, and of those at it the ones up to `last`. */
struct threshold {
    uint32_t key;
    int last;
    __device__ __forceinline__ bool keeps(float logit, int i) const {
        const uint32_t k = ordered(logit);
        return k > key || (k == key && i <= last);
    }
};

/* The shortest run of tokens, in order of falling logits and rising id, whose values reach target >= 1. Equal
 * logits have equal values or none; the sum of all is at least target. */
template <typename Value>
__device__ struct threshold reach(struct block &s, const float *logits, int n, uint64_t target, Value value) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t key = 0, known = 0;
    uint64_t at_key = 0;
    for (int shift = 28; shift >= 0; shift -= 4) {
        for (int d = 0; d < DIGITS; d++) s.column[d][threadIdx.x] = 0;
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const uint32_t k = ordered(logits[i]);
            if ((k & known) == key) s.column[k >> shift & 15][threadIdx.x] += value(i);
        }
        __syncthreads();
        uint64_t sum = 0;
        for (int i = lane; i < THREADS; i += 32) sum += s.column[warp][i];
        sum = warp_sum(sum);
        if (lane == 0) s.warp[warp] = sum;
        __syncthreads();
        int digit = DIGITS - 1;
        while (digit > 0 && s.warp[digit] < target) target -= s.warp[digit--];
        at_key = s.warp[digit];
        __syncthreads();
        key |= (uint32_t)digit << shift;
        known |= 15u << shift;
    }
    const uint64_t ties =
        block_sum(s, [&] {
            uint64_t count = 0;
            for (int i = threadIdx.x; i < n; i += THREADS) count += ordered(logits[i]) == key && value(i) > 0;
            return count;
        }());
    if (ties <= 1) return {key, INT_MAX};
    const uint64_t each = at_key / ties, needed = (target + each - 1) / each;
    if (needed >= ties) return {key, INT_MAX};
    return {key, find(s, n, needed - 1, [&](int i) -> uint64_t {
                return ordered(logits[i]) == key && value(i) > 0;
            })};
}

/* ---- a distribution ---- */

/* Logits with biases and penalties into p; NaN becomes -infinity. */
__device__ void adjust(const struct trial &t, const int32_t *extra, int ahead, const int32_t *token,
                       float *logits, int vocab, float *p) {
    const int32_t *biased = extra + t.bias, *history = extra + t.history;
    const int seen = t.window ? min(t.n_history + ahead, t.window) : 0, old = max(seen - ahead, 0);
    int32_t *count = (int32_t *)p;
    for (int i = threadIdx.x; i < t.n_bias; i += THREADS)
        logits[biased[i]] += __int_as_float(biased[t.n_bias + i]);
    for (int i = threadIdx.x; i < vocab && seen; i += THREADS) count[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < seen; i += THREADS)
        atomicAdd(&count[i < old ? history[t.n_history - old + i] : __ldcg(token + t.row[ahead - seen + i + 1])], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        const int n = seen ? __ldcg(count + i) : 0;
        float l = __ldcg(logits + i);
        if (n) l = penalise(l, t.repeat_penalty, t.presence_penalty, t.frequency_penalty, n);
        p[i] = l > -INFINITY ? l : -INFINITY;
    }
}

/* The distribution after `ahead` proposals into p; the likeliest token, or -1 when none is possible. */
__device__ int distribute(struct block &s, const struct trial &t, const int32_t *extra, int ahead,
                          const int32_t *token, float *logits, int vocab, float *p) {
    adjust(t, extra, ahead, token, logits, vocab, p);
    candidate mine = {-INFINITY, INT_MAX};
    uint64_t possible = 0;
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        if (!(p[i] > -INFINITY)) continue;
        mine = better(mine, {p[i], i});
        possible++;
    }
    mine = block_best(s, mine);
    possible = block_sum(s, possible);
    const float greatest = (float)mine.value, temperature = t.temperature;
    if (possible == 0 || temperature == 0) {
        for (int i = threadIdx.x; i < vocab; i += THREADS) p[i] = possible && i == mine.index;
        __syncthreads();
        return possible ? mine.index : -1;
    }
    struct threshold limit = {0, INT_MAX};
    auto weight = [&](int i) { return weight_below(p[i], greatest, temperature); };
    auto kept = [&](int i) { return p[i] > -INFINITY && limit.keeps(p[i], i); };
    auto total = [&](uint64_t least) {
        uint64_t sum = 0;
        for (int i = threadIdx.x; i < vocab; i += THREADS) {
            const uint64_t w = kept(i) ? weight(i) : 0;
            if (w >= least) sum += w;
        }
        return block_sum(s, sum);
    };
    if (t.top_k > 0 && (uint64_t)t.top_k < possible)
        limit = reach(s, p, vocab, t.top_k, [&](int i) -> uint64_t { return p[i] > -INFINITY; });
    const uint64_t least = t.min_p > 0 ? least_weight(t.min_p) : 0;
    if (t.top_p < 1) {
        const struct threshold nucleus =
            reach(s, p, vocab, nucleus_of(t.top_p, total(0)),
                  [&](int i) -> uint64_t { return kept(i) ? weight(i) : 0; });
        limit = {nucleus.key, nucleus.key == limit.key ? min(nucleus.last, limit.last) : nucleus.last};
    }
    const uint64_t sum = total(least);
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        const uint64_t w = kept(i) ? weight(i) : 0;
        p[i] = w >= least && w > 0 ? share_of(w, sum) : 0;
    }
    __syncthreads();
    return mine.index;
}

__device__ int draw(struct block &s, const float *p, int vocab, double u) {
    const int token = find(s, vocab, fixed_of(u), [&](int i) { return fixed_of(__ldcg(p + i)); });
    if (token >= 0) return token;
    /* The sum fell short of u by rounding: the last token that can be drawn at all. */
    candidate last = {-1, INT_MAX};
    for (int i = threadIdx.x; i < vocab; i += THREADS)
        if (fixed_of(__ldcg(p + i)) > 0) last = {(double)i, i};
    return block_best(s, last).index;
}

__device__ int gumbel_pick(struct block &s, const float *p, int vocab, uint64_t seed, int32_t position) {
    candidate mine = {-INFINITY, INT_MAX};
    for (int i = threadIdx.x; i < vocab; i += THREADS)
        if (p[i] > 0) mine = better(mine, {gumbel_score(seed, position, i, p[i]), i});
    return block_best(s, mine).index;
}

__device__ __forceinline__ bool by_equality(const struct trial &t) {
    return t.rule == OUTRIDER_ACCEPT_COUPLED || t.temperature == 0;
}

/* ---- kernels ---- */

extern __shared__ __align__(16) char shared[];

__global__ __launch_bounds__(THREADS) void propose_rows(const struct trial *trials, const int32_t *extra,
                                                        int step, float *logits, int vocab, int32_t *token,
                                                        float *q) {
    struct block &s = *(struct block *)shared;
    pdl_release();
    pdl_wait();
    const struct trial &t = trials[blockIdx.x];
    const int row = t.row[step + 1];
    float *mine = q + (size_t)row * vocab;
    int pick = distribute(s, t, extra, step, token, logits + (size_t)blockIdx.x * vocab, vocab, mine);
    if (pick < 0) {
        /* A draft without a possible token must not end what the verifier can go on with. */
        pick = 0;
        if (threadIdx.x == 0) mine[0] = 1;
    } else if (t.temperature > 0 && by_equality(t)) {
        pick = gumbel_pick(s, mine, vocab, t.seed, t.place + step);
    } else if (t.temperature > 0) {
        pick = draw(s, mine, vocab, rng_uniform(t.seed, RNG_PROPOSE, t.place + step, t.place));
    }
    if (threadIdx.x == 0) token[row] = pick;
}

constexpr int PLACES = OUTRIDER_MAX_DRAFT + 1;

/* Distributions of all rows of all trials; picks[trial][place] is what an equality rule asks for, -1 where no
 * token is possible. */
__global__ __launch_bounds__(THREADS) void verify_rows(const struct trial *trials, const int32_t *extra,
                                                       float *logits, int vocab, const int32_t *token,
                                                       float *p, int32_t *picks) {
    struct block &s = *(struct block *)shared;
    pdl_release();
    pdl_wait();
    const struct trial &t = trials[blockIdx.y];
    const int place = blockIdx.x;
    if (place > t.k) return;
    const size_t at = (size_t)t.row[place] * vocab;
    int pick = distribute(s, t, extra, place, token, logits + at, vocab, p + at);
    if (pick >= 0 && t.temperature > 0 && by_equality(t))
        pick = gumbel_pick(s, p + at, vocab, t.seed, t.place + place);
    if (threadIdx.x == 0) picks[blockIdx.y * PLACES + place] = pick;
}

/* What proposal i of a trial was, and was likely to be. */
struct proposal {
    int32_t token;
    double p, q;
};
__device__ struct proposal find_proposal(const struct trial &t, int i, int vocab, const int32_t *token,
                                         const float *q, const float *p) {
    const int32_t x = __ldcg(token + t.row[i + 1]);
    return {x, __ldcg(p + (size_t)t.row[i] * vocab + x),
            t.certain ? 1 : __ldcg(q + (size_t)t.row[i + 1] * vocab + x)};
}

/* max(0, scale p - q) at the place of proposal i. */
struct residual {
    const float *p, *q;
    int32_t certain; /* the proposal that q is all on; -1 for none */
    double scale;
    __device__ __forceinline__ uint64_t operator()(int x) const {
        return excess_of(scale, __ldcg(p + x), certain < 0 ? __ldcg(q + x) : x == certain);
    }
};
__device__ struct residual find_residual(const struct trial &t, int i, double scale, int vocab,
                                         const int32_t *token, const float *q, const float *p) {
    return {p + (size_t)t.row[i] * vocab, q + (size_t)t.row[i + 1] * vocab,
            t.certain ? __ldcg(token + t.row[i + 1]) : -1, scale};
}

__device__ uint64_t residual_mass(struct block &s, const struct residual &r, int vocab) {
    uint64_t mass = 0;
    for (int x = threadIdx.x; x < vocab; x += THREADS) mass += r(x);
    return block_sum(s, mass);
}

/* masses[trial][i]: of the residual at the place after proposal i; block verification looks at all of them. */
__global__ __launch_bounds__(THREADS) void residual_masses(const struct trial *trials, int vocab,
                                                           const int32_t *token, const float *q,
                                                           const float *p, uint64_t *masses) {
    struct block &s = *(struct block *)shared;
    pdl_release();
    pdl_wait();
    const struct trial &t = trials[blockIdx.y];
    const int i = blockIdx.x;
    if (t.rule != OUTRIDER_ACCEPT_BLOCK || t.temperature == 0 || i + 1 >= t.k) return;
    double weight = 1;
    for (int j = 0; j <= i; j++) {
        const struct proposal x = find_proposal(t, j, vocab, token, q, p);
        weight = block_weight(weight, x.p, x.q);
    }
    const uint64_t mass = residual_mass(s, find_residual(t, i + 1, weight, vocab, token, q, p), vocab);
    if (threadIdx.x == 0) masses[blockIdx.y * PLACES + i] = mass;
}

/* accept_equal, accept_rejection and accept_block of runtime/accept.c: how many of k proposals stay, and by what
 * p is scaled in the residual behind them. */
__device__ int count_equal(const struct trial &t, int k, const int32_t *token, const int32_t *picks) {
    int n = 0;
    while (n < k && __ldcg(token + t.row[n + 1]) == __ldcg(picks + n)) n++;
    return n;
}
__device__ int count_kept(const struct trial &t, int k, int vocab, const int32_t *token, const float *q,
                          const float *p, const uint64_t *masses, double *scale) {
    int n = 0;
    double weight = 1;
    *scale = 1;
    for (int i = 0; i < k; i++) {
        const struct proposal x = find_proposal(t, i, vocab, token, q, p);
        const double u = rng_uniform(t.seed, RNG_ACCEPT, t.place + i, t.place);
        if (t.rule == OUTRIDER_ACCEPT_REJECTION) {
            if (!(u * x.q < x.p)) return n;
            n++;
            continue;
        }
        weight = block_weight(weight, x.p, x.q);
        if (u < (i + 1 < k ? block_keep(weight, __ldcg(masses + i)) : weight)) n = i + 1, *scale = weight;
    }
    return n;
}

__global__ __launch_bounds__(THREADS) void decide(const struct trial *trials, int vocab, const int32_t *token,
                                                  const float *q, const float *p, const int32_t *all_picks,
                                                  const uint64_t *all_masses, struct verdict *verdict) {
    struct block &s = *(struct block *)shared;
    pdl_release();
    pdl_wait();
    const struct trial &t = trials[blockIdx.x];
    const int32_t *picks = all_picks + blockIdx.x * PLACES;
    int k = 0;
    while (k < t.k && __ldcg(picks + k + 1) >= 0) k++; /* what no token can follow is not for this round */
    struct verdict v = {-1, -1};
    if (__ldcg(picks) >= 0 && by_equality(t)) {
        v.n = count_equal(t, k, token, picks);
        v.token = __ldcg(picks + v.n);
    } else if (__ldcg(picks) >= 0) {
        double scale;
        v.n = count_kept(t, k, vocab, token, q, p, all_masses + blockIdx.x * PLACES, &scale);
        const double u = rng_uniform(t.seed, RNG_FINAL, t.place, t.place);
        const float *own = p + (size_t)t.row[v.n] * vocab;
        struct residual r;
        uint64_t mass = 0;
        if (v.n < k) {
            r = find_residual(t, v.n, scale, vocab, token, q, p);
            mass = residual_mass(s, r, vocab);
        }
        v.token = mass ? find(s, vocab, residual_target(u, mass), r) : draw(s, own, vocab, u);
    }
    if (threadIdx.x == 0) verdict[blockIdx.x] = v;
}

} // namespace

void cuda_propose(struct backend *be, const struct trial *trials, const int32_t *extra, int32_t n,
                  int32_t step, float *logits, int32_t vocab, int32_t *token, float *q) {
    launch(be, "propose", propose_rows, n, THREADS, sizeof(struct block), trials, extra, step, logits, vocab,
           token, q);
}

void cuda_judge(struct backend *be, const struct trial *trials, const int32_t *extra, int32_t n, int32_t most,
                float *logits, int32_t vocab, const int32_t *token, const float *q, float *p,
                struct verdict *verdict) {
    launch(be, "verify", verify_rows, dim3(most + 1, n), THREADS, sizeof(struct block), trials, extra, logits,
           vocab, token, p, be->picks);
    if (most > 1)
        launch(be, "masses", residual_masses, dim3(most - 1, n), THREADS, sizeof(struct block), trials, vocab,
               token, q, p, be->masses);
    launch(be, "decide", decide, n, THREADS, sizeof(struct block), trials, vocab, token, q, p,
           (const int32_t *)be->picks, (const uint64_t *)be->masses, verdict);
}

cudaError_t prepare_round(struct backend *be) {
    const void *kernels[] = {(const void *)propose_rows, (const void *)verify_rows,
                             (const void *)residual_masses, (const void *)decide};
    for (const void *kernel : kernels) {
        cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(struct block));
        if (error != cudaSuccess) return error;
    }
    cudaError_t error = cudaMalloc(&be->picks, MOST_TRIALS * PLACES * sizeof *be->picks);
    return error == cudaSuccess ? cudaMalloc(&be->masses, MOST_TRIALS * PLACES * sizeof *be->masses) : error;
}

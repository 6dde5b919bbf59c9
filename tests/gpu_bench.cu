/* Times whole passes of the 8B and 1B shapes on random weights, as a share of the read bandwidth measured in
 * the same run, their parts, prompts and loading. Arguments: `brief` times only whole passes; `trace` N q8|q4
 * runs two 8B layers with N rows twice, for a profiler. */
#include "kernels/cuda/quantized.cuh"
#include "tests/helpers_gpu.cuh"

#include <algorithm>
#include <string>

struct big {
    const char *name;
    int hidden, layers, heads, kv_heads, head_dim, ffn, vocab;
    enum dtype type, cache;
};

static size_t matrix_bytes(enum dtype type, size_t n, size_t k) {
    return dtype_is_quantized(type) ? quantized_bytes(type, n, k) : n * k * 2;
}

__global__ void fill_bf16(bf16 *p, size_t n, uint32_t seed, float scale) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32) ^ seed;
        h = (h ^ h >> 15) * 2246822519u;
        p[i] = __float2bfloat16(((float)(h >> 8) / (1 << 23) - 1) * scale);
    }
}

struct bench {
    struct big s;
    char *weights;
    float *ones, *rope, *x, *logits;
    void *q, *attended, *hidden, *k, *v;
    int32_t *rows, *table, *tokens;
    size_t bytes;
};
enum { DEPTH = 512, SHALLOW = 128, BENCH_PAGE = 64, BENCH_POSITIONS = 2048 };
static uint64_t next_key = 1000;

static struct bench open_bench(const struct big &s) {
    struct bench b = {};
    b.s = s;
    size_t d = s.hidden, width = (size_t)s.heads * s.head_dim, kv = (size_t)s.kv_heads * s.head_dim;
    auto bytes = [&](size_t n, size_t k) { return matrix_bytes(s.type, n, k); };
    size_t layer =
        bytes(width, d) + 2 * bytes(kv, d) + bytes(d, width) + 2 * bytes(s.ffn, d) + bytes(d, s.ffn);
    b.bytes = layer * s.layers + bytes(s.vocab, d);
    /* As quantised weights these are as good as any; as scales they are numbers about 1. */
    must(ops->alloc(be, b.bytes, (void **)&b.weights));
    fill_bf16<<<2112, 256, 0, be->stream>>>((bf16 *)b.weights, b.bytes / 2, 1, .02f);
    b.ones = on_device(std::vector<float>(d, 1));
    b.rope = on_device(std::vector<float>((size_t)BENCH_POSITIONS * s.head_dim, .7f));
    size_t cache = (size_t)BENCH_POSITIONS * kv * s.layers * 2;
    must(ops->alloc(be, cache, &b.k));
    must(ops->alloc(be, cache, &b.v));
    cudaMemsetAsync(b.k, 0x11, cache, be->stream);
    cudaMemsetAsync(b.v, 0x11, cache, be->stream);
    must(ops->alloc(be, 512 * d * 4, (void **)&b.x));
    must(ops->alloc(be, 512 * width * 4, &b.q));
    must(ops->alloc(be, 512 * width * 4, &b.attended));
    must(ops->alloc(be, 512 * (size_t)s.ffn * 4, &b.hidden));
    must(ops->alloc(be, 64 * (size_t)s.vocab * 4, (void **)&b.logits));
    std::vector<int32_t> rows(4 * 512), table;
    for (int i = 0; i < 512; i++)
        rows[i] = i, rows[512 + i] = DEPTH + i, rows[1024 + i] = 0, rows[1536 + i] = SHALLOW + i;
    for (int i = 0; i < BENCH_POSITIONS / BENCH_PAGE; i++) table.push_back(i);
    b.rows = on_device(rows);
    b.table = on_device(table);
    must(ops->alloc(be, 4 * 64, (void **)&b.tokens));
    must(ops->reserve(be, 512, std::max({s.hidden, (int)width, s.ffn})));
    return b;
}

static void close_bench(struct bench &b) {
    void *all[] = {b.weights, b.ones, b.rope, b.x,    b.logits, b.q,     b.attended,
                   b.hidden,  b.k,    b.v,    b.rows, b.table,  b.tokens};
    for (void *p : all) ops->release(be, p);
}

enum { QKV = 1, ATTENTION = 2, OUT = 4, GATE = 8, DOWN = 16, HEAD = 32, ALL = 63 };

static void issue(const struct bench &b, const struct rows &rows, int parts) {
    const struct big &s = b.s;
    const int d = s.hidden, width = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    const char *w = b.weights;
    auto matrix = [&](int n, int k) {
        struct matrix m = {w, s.type, n, k};
        w += matrix_bytes(s.type, n, k);
        return m;
    };
    struct matrix embedding = {b.weights, DTYPE_BF16, s.vocab, d};
    ops->embed(be, &rows, &embedding, 1, b.x);
    for (int i = 0; i < s.layers; i++) {
        struct attention_block a = {
            b.ones, 1e-5f,   matrix(width, d), matrix(kv, d), matrix(kv, d),
            b.rope, s.heads, s.kv_heads,       s.head_dim,    1 / sqrtf((float)s.head_dim)};
        struct projection o = {matrix(d, width)};
        struct mlp_block f = {b.ones, 1e-5f, matrix(s.ffn, d), matrix(s.ffn, d)};
        struct projection down = {matrix(d, s.ffn)};
        size_t cache = (size_t)BENCH_POSITIONS * kv * i * 2;
        struct kv_layer l = {(char *)b.k + cache, (char *)b.v + cache, s.cache, s.cache, BENCH_PAGE};
        if (parts & QKV) ops->qkv(be, &rows, &a, b.x, b.q, &l);
        if (parts & ATTENTION) ops->attention(be, &rows, &a, b.q, &l, b.attended);
        if (parts & OUT) ops->project(be, &rows, &o, b.attended, b.x);
        if (parts & GATE) ops->gate_up(be, &rows, &f, b.x, b.hidden);
        if (parts & DOWN) ops->project(be, &rows, &down, b.hidden, b.x);
    }
    struct head_block head = {b.ones, 1e-5f, matrix(s.vocab, d)};
    int n = rows.n < 64 ? rows.n : 64;
    if (parts & HEAD) ops->logits(be, &head, b.x, NULL, n, b.logits);
    if (parts & HEAD) ops->argmax(be, b.logits, n, s.vocab, b.tokens);
}

static double median(std::vector<float> times) {
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

/* Milliseconds of what `issue` queues, median of `repeats`. */
template <typename Issue> static double time_queued(int repeats, Issue issue_once) {
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    std::vector<float> times;
    for (int i = 0; i < repeats + 3; i++) {
        float ms;
        cudaEventRecord(begin, be->stream);
        issue_once();
        cudaEventRecord(end, be->stream);
        cudaEventSynchronize(end);
        cudaEventElapsedTime(&ms, begin, end);
        if (i >= 3) times.push_back(ms);
    }
    must(ops->sync(be));
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return median(times);
}

/* Milliseconds of one pass, median of `repeats`; recorded unless it is a prompt's. */
static double time_pass(const struct bench &b, int n, int parts, bool prefill, int repeats,
                        int depth = DEPTH) {
    struct rows rows = {n,
                        b.rows,
                        b.rows + (prefill ? 0 : depth == DEPTH ? 512 : 1536),
                        b.rows + 1024,
                        b.table,
                        BENCH_POSITIONS / BENCH_PAGE,
                        prefill ? n - 1
                        : n < 9 ? 2 * depth - 1
                                : (depth + n - 1) / 128 * 128 + 127, /* as runtime/model.c bounds them */
                        prefill};
    if (prefill) return time_queued(repeats, [&] { issue(b, rows, parts); });
    const uint64_t key = next_key++;
    ops->record_begin(be, key);
    issue(b, rows, parts);
    ops->record_end(be);
    return time_queued(repeats, [&] { ops->replay(be, key); });
}

/* y = W x for one row as it is done where no row must ever come out the same in company: a warp an output, on
 * the plain cores, every lane with EACH reads of 16 bytes under way. */
template <int EACH> __global__ void free_product(const bf16 *w, const bf16 *x, float *y, int n, int k) {
    pdl_release();
    const int lane = threadIdx.x % 32, step = gridDim.x * (blockDim.x / 32);
    bool waited = false;
    for (int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; i < n; i += step) {
        const bf16 *row = w + (size_t)i * k;
        float sum = 0;
        for (int j = lane * 8; j < k; j += 32 * 8 * EACH) {
            uint4 a[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++) a[e] = __ldcs((const uint4 *)(row + j + e * 32 * 8));
            if (!waited) pdl_wait();
            waited = true;
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                const uint4 b = __ldcg((const uint4 *)(x + j + e * 32 * 8));
                const __nv_bfloat162 *p = (const __nv_bfloat162 *)&a[e], *q = (const __nv_bfloat162 *)&b;
#pragma unroll
                for (int h = 0; h < 4; h++) {
                    const float2 u = __bfloat1622float2(p[h]), v = __bfloat1622float2(q[h]);
                    sum = fmaf(u.x, v.x, fmaf(u.y, v.y, sum));
                }
            }
        }
        for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
        if (lane == 0) y[i] = sum;
    }
    if (!waited) pdl_wait();
}

/* Milliseconds of all products of a pass of one row, and nothing else, without row invariance. */
template <int EACH> static double time_free(const struct bench &b, int blocks, int threads) {
    const struct big &s = b.s;
    const int width = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    const bf16 *w = (const bf16 *)b.weights;
    const uint64_t key = next_key++;
    auto product = [&](int n, int k) {
        launch(be, "free product", free_product<EACH>, blocks * be->multiprocessors, threads, 0, w,
               (const bf16 *)b.hidden, (float *)b.q, n, k);
        w += (size_t)n * k;
    };
    ops->record_begin(be, key);
    for (int i = 0; i < s.layers; i++) {
        product(width + 2 * kv, s.hidden);
        product(s.hidden, width);
        product(2 * s.ffn, s.hidden);
        product(s.hidden, s.ffn);
    }
    product(s.vocab, s.hidden);
    ops->record_end(be);
    return time_queued(9, [&] { ops->replay(be, key); });
}

/* Keeps the card busy until its clocks are up: they fall while weights are made, and a small pass measured
 * first came out 10% slow. */
static void warm_up(const struct bench &b) {
    for (double ms = 0; ms < 300;) ms += 18 * time_pass(b, 1, ALL, false, 15);
}

static void bench(const struct big &s, double gb_per_s, bool brief) {
    struct bench b = open_bench(s);
    warm_up(b);
    double limit = b.bytes / (gb_per_s * 1e6), one = 0, one_shallow = 0;
    printf("%s: %.3f GB, limit %.3f ms\n", s.name, b.bytes / 1e9, limit);
    for (int n : {1, 2, 3, 4, 5, 8, 9, 16, 32, 64}) {
        if (brief && n != 1 && n != 4 && n != 8 && n != 16) continue;
        double ms = time_pass(b, n, ALL, false, 15);
        double shallow = time_pass(b, n, ALL, false, 15, SHALLOW);
        if (n == 1) one = ms, one_shallow = shallow;
        printf("  %2d rows  %7.3f ms  %5.1f%% of limit  %.3f x one row, %.3f at depth %d   without attention "
               "%7.3f ms\n",
               n, ms, 100 * limit / ms, ms / one, shallow / one_shallow, SHALLOW,
               time_pass(b, n, ALL & ~ATTENTION, false, 9));
    }
    if (brief) {
        close_bench(b);
        return;
    }
    struct {
        const char *name;
        int part;
    } parts[] = {{"qkv", QKV},      {"attention", ATTENTION}, {"out", OUT},
                 {"gate_up", GATE}, {"down", DOWN},           {"qkv+attention+out", QKV | ATTENTION | OUT}};
    for (auto &p : parts)
        printf("  %-18s us a layer: 1 row %6.2f  4 rows %6.2f  16 rows %6.2f\n", p.name,
               1e3 * time_pass(b, 1, p.part, false, 9) / s.layers,
               1e3 * time_pass(b, 4, p.part, false, 9) / s.layers,
               1e3 * time_pass(b, 16, p.part, false, 9) / s.layers);
    printf("  products alone, one row, without row invariance: %.3f ms\n",
           std::min({time_free<4>(b, 2, 256), time_free<8>(b, 2, 256), time_free<8>(b, 2, 512)}));
    for (auto &p : parts)
        printf("  prefill of 512, %s: %.1f us a layer\n", p.name,
               1e3 * time_pass(b, 512, p.part, true, 5) / s.layers);
    double ms = time_pass(b, 512, ALL, true, 5), attention = time_pass(b, 512, ATTENTION, true, 5);
    printf("  prefill 512: %.2f ms, %.0f tok/s (attention alone %.2f ms)\n", ms, 512 / ms * 1e3, attention);
    close_bench(b);
}

static void bench_loading() {
    std::vector<char> host((size_t)4 << 30);
    for (size_t i = 0; i < host.size(); i += 512) host[i] = (char)i;
    constexpr int ROW = 4096, ROWS = (128 << 20) / 2 / ROW;
    struct matrix part;
    must(ops->weight(be, host.data(), DTYPE_BF16, 1, ROW, &part)); /* pinned buffers exist */
    ops->weight_release(be, &part);
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    cudaEventRecord(begin);
    std::vector<struct matrix> parts;
    for (size_t at = 0; at < host.size(); at += (size_t)128 << 20) {
        must(ops->weight(be, host.data() + at, DTYPE_BF16, ROWS, ROW, &part));
        parts.push_back(part);
    }
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float ms;
    cudaEventElapsedTime(&ms, begin, end);
    printf("loading from memory in pieces of 128 MB: %.1f GB/s\n", host.size() / (ms * 1e6));
    for (const struct matrix &m : parts) ops->weight_release(be, &m);
}

static void trace(int n, enum dtype type) {
    struct bench b = open_bench({"8B", 4096, 2, 32, 8, 128, 14336, 8192, type, DTYPE_F16});
    struct rows rows = {n,    b.rows, b.rows + 512, b.rows + 1024, b.table, BENCH_POSITIONS / BENCH_PAGE,
                        1023, false};
    for (int i = 0; i < 2; i++) issue(b, rows, ALL);
    must(ops->sync(be));
}

int main(int argc, char **argv) {
    const std::string mode = argc > 1 ? argv[1] : "";
    double gb_per_s;
    open_card();
    if (mode == "trace") {
        const std::string type = argc > 3 ? argv[3] : "";
        trace(argc > 2 ? atoi(argv[2]) : 1, type == "q8"   ? DTYPE_Q8_0
                                            : type == "q4" ? DTYPE_Q4_0
                                                           : DTYPE_BF16);
        return 0;
    }
    must(ops->read_bandwidth(be, (size_t)14 << 30, &gb_per_s));
    printf("read bandwidth %.0f GB/s\n", gb_per_s);
    bench({"8B", 4096, 32, 32, 8, 128, 14336, 8192, DTYPE_BF16, DTYPE_F16}, gb_per_s, mode == "brief");
    bench({"1B", 2048, 16, 32, 8, 64, 8192, 8192, DTYPE_BF16, DTYPE_F16}, gb_per_s, mode == "brief");
    bench({"8B, 8-bit cache", 4096, 32, 32, 8, 128, 14336, 8192, DTYPE_BF16, DTYPE_Q8_0}, gb_per_s, true);
    for (enum dtype type : {DTYPE_Q8_0, DTYPE_Q4_0}) {
        printf("%s\n", dtype_name(type));
        bench({"8B", 4096, 32, 32, 8, 128, 14336, 8192, type, DTYPE_F16}, gb_per_s, true);
        bench({"1B", 2048, 16, 32, 8, 64, 8192, 8192, type, DTYPE_F16}, gb_per_s, true);
    }
    if (mode.empty()) bench_loading();
    must(ops->sync(be));
    ops->close(be);
    return 0;
}

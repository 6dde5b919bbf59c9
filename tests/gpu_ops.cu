/* Every operation of the CUDA backend against a plain double-precision reference, from one table of shapes;
 * and the promises: a row's bits alone and among others, over repeats, and replayed. Arguments: `quick` and
 * `sanitize` check less, `race` nothing of cuBLAS, `trees` those alone, `shape` NAME that one.
 *
 * Activations between operations are the backend's own, so what is compared is what comes out: the cache, the
 * residual stream after each half of a layer, the logits and the tokens. Memory that must not count is NaN.
 */
#include "tests/helpers_gpu_model.cuh"

extern "C" {
#include "runtime/tree.h"
}

static int failures;

static void check(bool good, const std::string &what) {
    printf("%s %s\n", good ? "ok  " : "FAIL", what.c_str());
    failures += !good;
}

/* Activations rounded to 8 bits differ by a whole step where the reference's and the backend's bf16 fall on
 * two sides of a border: 1 to 2% of a product that follows another. Widened weights lose up to 1 in 512. */
static const struct shape shapes[] = {
    {"tale verifier", 384, 6, 2, 64, 1024, 8192, 16, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"tale draft", 128, 2, 1, 64, 384, 8192, 64, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"llama-like", 1024, 16, 4, 128, 2848, 1001, 64, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"1b-like", 2048, 32, 8, 64, 4096, 2048, 256, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"groups of 20", 256, 20, 1, 64, 320, 333, 32, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"heads of 80", 320, 4, 2, 80, 672, 517, 16, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"heads of 96", 384, 6, 6, 96, 672, 517, 16, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"heads of 96, groups", 768, 8, 2, 96, 672, 517, 64, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"heads of 256", 512, 8, 2, 256, 672, 517, 64, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"odd k", 100, 5, 5, 20, 77, 101, 16, DTYPE_BF16, DTYPE_F16, 6e-3},
    {"bf16, f32 cache", 256, 4, 2, 64, 512, 640, 16, DTYPE_BF16, DTYPE_F32, 6e-3},
    {"f32", 192, 6, 3, 32, 250, 301, 16, DTYPE_F32, DTYPE_F32, 1e-5},
    {"f16", 128, 2, 2, 64, 200, 300, 128, DTYPE_F16, DTYPE_F16, 2e-3},
    {"q8", 1024, 16, 4, 64, 2816, 1001, 64, DTYPE_Q8_0, DTYPE_F16, 2.5e-2},
    {"q4", 1024, 16, 4, 64, 2816, 1001, 64, DTYPE_Q4_0, DTYPE_F16, 2.5e-2},
    {"q8, odd chunks", 4512, 3, 1, 32, 96, 77, 16, DTYPE_Q8_0, DTYPE_F16, 2.5e-2},
    {"q4, odd chunks", 4512, 3, 1, 32, 96, 77, 16, DTYPE_Q4_0, DTYPE_F16, 2.5e-2},
    {"biases", 384, 6, 2, 64, 1024, 500, 16, DTYPE_BF16, DTYPE_F16, 6e-3, true},
    {"normed heads", 512, 8, 4, 128, 768, 500, 64, DTYPE_BF16, DTYPE_F16, 6e-3, false, true},
    {"window", 512, 8, 2, 128, 768, 500, 16, DTYPE_BF16, DTYPE_F16, 6e-3, false, false, false, false, 200},
    {"caps, heads of 128", 512, 8, 4, 128, 768, 500, 16, DTYPE_BF16, DTYPE_F16, 6e-3, false, false, true,
     true, 300, 2, 3, 22.5f},
    {"caps, heads of 256", 320, 4, 2, 256, 672, 517, 16, DTYPE_BF16, DTYPE_F16, 6e-3, false, true, true, true,
     130, 2, 3, 17},
    {"8-bit cache, heads of 64", 1024, 16, 4, 64, 2848, 1001, 64, DTYPE_BF16, DTYPE_Q8_0, 1.2e-2},
    {"8-bit cache, heads of 128", 512, 8, 2, 128, 768, 500, 16, DTYPE_Q8_0, DTYPE_Q8_0, 2.5e-2},
    {"8-bit cache, window, caps", 512, 8, 4, 128, 768, 500, 16, DTYPE_BF16, DTYPE_Q8_0, 1.2e-2, true, true,
     false, false, 200, 2},
    {"8-bit cache, heads of 96", 384, 6, 3, 96, 672, 517, 16, DTYPE_BF16, DTYPE_Q8_0, 1.2e-2},
    {"8-bit cache, heads of 256", 512, 4, 1, 256, 672, 517, 32, DTYPE_BF16, DTYPE_Q8_0, 1.2e-2, false, true, false,
     false, 200, 2},
    {"8-bit cache, heads of 84", 320, 4, 2, 84, 672, 517, 16, DTYPE_BF16, DTYPE_Q8_0, 1.2e-2, true},
    {"all at once, f32", 192, 6, 3, 32, 250, 301, 16, DTYPE_F32, DTYPE_F32, 1e-5, true, true, true, true, 77,
     2, 3, 0.5f},
    {"rows of 12288", 12288, 2, 1, 64, 1840, 77, 16, DTYPE_BF16, DTYPE_F16, 6e-3},
};

static const struct shape &named(const std::string &name) {
    for (auto &s : shapes)
        if (s.name == name) return s;
    printf("FAIL no shape is called %s\n", name.c_str());
    exit(1);
}

static std::vector<float> minus(const std::vector<float> &a, const std::vector<float> &b) {
    std::vector<float> out(a.size());
    for (size_t i = 0; i < a.size(); i++) out[i] = a[i] - b[i];
    return out;
}
static std::vector<float> rows_of(const std::vector<float> &all, size_t width, size_t first, size_t n) {
    return std::vector<float>(all.begin() + first * width, all.begin() + (first + n) * width);
}
static std::vector<float> cache_rows(const struct model &m, const std::vector<float> &cache,
                                     const std::vector<row> &list) {
    std::vector<float> out;
    for (auto &r : list)
        for (int h = 0; h < m.s.kv_heads; h++)
            for (int d = 0; d < m.s.head_dim; d++)
                out.push_back(cache[cache_at(m, r.slot, r.position, h, d)]);
    return out;
}
static std::vector<float> read_cache(const struct model &m, const void *device, size_t n) {
    std::vector<float> out(n);
    if (m.s.cache == DTYPE_F32) return from_device((const float *)device, n);
    if (m.s.cache == DTYPE_Q8_0) {
        auto bytes = from_device((const char *)device, pool_bytes(m));
        for (size_t i = 0; i < n; i++) {
            __half *scale;
            const int8_t *integer = integer_at(m, bytes.data(), i, &scale);
            out[i] = __half2float(*scale) * *integer;
        }
        return out;
    }
    auto raw = from_device((const __half *)device, n);
    for (size_t i = 0; i < n; i++) out[i] = __half2float(raw[i]);
    return out;
}
static bool is_argmax(const std::vector<float> &logits, size_t row, int vocab, int token) {
    const float *l = &logits[row * vocab];
    for (int i = 0; i < vocab; i++)
        if (l[i] > l[token] || (i < token && l[i] == l[token])) return false;
    return true;
}

static void check_against_reference(struct model &m, const std::vector<row> &list, bool prefill,
                                    const char *what) {
    restore_cache(m);
    auto keys = m.keys, values = m.values;
    auto want = reference(m, list, prefill, keys, values);
    auto got = run(m, list, prefill);
    std::vector<float> start;
    for (auto &r : list)
        for (int i = 0; i < m.s.hidden; i++) start.push_back(m.table.host[(size_t)r.token * m.s.hidden + i]);
    double k = distance(cache_rows(m, read_cache(m, m.kv.k, keys.size()), list), cache_rows(m, keys, list)),
           v = distance(cache_rows(m, read_cache(m, m.kv.v, keys.size()), list), cache_rows(m, values, list)),
           a = distance(minus(got.after_attention, start), minus(want.after_attention, start)),
           f = distance(minus(got.after_mlp, got.after_attention),
                        minus(want.after_mlp, want.after_attention)),
           l = distance(got.logits, want.logits);
    bool tokens = true;
    for (size_t r = 0; r < list.size(); r++)
        tokens = tokens && is_argmax(got.logits, r, m.s.vocab, got.tokens[r]);
    char line[256];
    snprintf(line, sizeof line, "%s, %s, %zu rows: k %.1e v %.1e attention %.1e mlp %.1e logits %.1e%s",
             m.s.name, what, list.size(), k, v, a, f, l, tokens ? "" : ", argmax wrong");
    check(std::max({k, v, a, f, l}) < m.s.tolerance && tokens, line);
}

static bool rows_alone_agree(struct model &m, const std::vector<row> &list, const struct result &all) {
    restore_cache(m);
    for (size_t r = 0; r < list.size(); r++) {
        auto one = run(m, {list[r]}, false, JOINED);
        if (!same(one.after_mlp, rows_of(all.after_mlp, m.s.hidden, r, 1)) ||
            !same(one.logits, rows_of(all.logits, m.s.vocab, r, 1)))
            return false;
    }
    return true;
}

static std::vector<row> take(const struct model &m, const std::vector<std::pair<int, int>> &runs) {
    /* runs: (slot, rows) from that slot's history on; positions by the histories set in check_shape */
    static const int history[] = {0, 63, 130, 700, 2044};
    std::vector<row> list;
    for (auto &r : runs)
        for (int i = 0; i < r.second; i++)
            list.push_back({r.first, history[r.first] + i, (int)(list.size() * 37 + 5) % m.s.vocab});
    return list;
}

static void check_shape(const struct shape &s, bool quick) {
    struct model m = make_model(s, 5);
    static const int history[] = {0, 63, 130, 700, 2044};
    for (int i = 0; i < 5; i++) fill_history(m, i, history[i]);
    std::vector<std::vector<std::pair<int, int>>> batches = {
        {{0, 1}},         {{3, 2}},         {{1, 3}},           {{2, 1}, {0, 1}, {3, 1}, {1, 1}, {4, 1}},
        {{4, 5}, {1, 3}}, {{4, 9}, {1, 7}}, {{3, 17}, {0, 16}}, {{1, 20}, {2, 20}, {3, 24}}};
    if (!quick) batches.push_back({{1, 40}, {3, 61}});
    for (auto &b : batches) {
        auto list = take(m, b);
        check_against_reference(m, list, false, "batch");
        restore_cache(m);
        auto all = run(m, list, false);
        char line[160];
        snprintf(line, sizeof line, "%s, %zu rows: bits equal one row at a time", s.name, list.size());
        check(rows_alone_agree(m, list, all), line);
        for (enum how how : {JOINED, RECORDED}) {
            restore_cache(m);
            auto other = run(m, list, false, how);
            check(same(other.logits, all.logits) && same(other.after_mlp, all.after_mlp),
                  std::string(s.name) + ": bits equal with operations " +
                      (how == JOINED ? "joined" : "recorded"));
        }
    }
    /* prefill: a shorter chunk's rows are the same bits */
    auto prompt = take(m, {{1, 130}});
    check_against_reference(m, prompt, true, "prefill");
    restore_cache(m);
    auto all = run(m, prompt, true);
    restore_cache(m);
    prompt.resize(57);
    auto some = run(m, prompt, true);
    check(same(some.after_mlp, rows_of(all.after_mlp, s.hidden, 0, 57)),
          std::string(s.name) + ", prefill: 57 rows as among 130");
    /* repeats */
    for (auto &list : {take(m, {{3, 5}, {1, 4}}), take(m, {{4, 5}, {1, 3}})}) {
        restore_cache(m);
        auto first = run(m, list, false);
        bool equal = true;
        for (int i = 0; i < (quick ? 4 : 50); i++) {
            auto again = run(m, list, false, i % 2 ? RECORDED : PAUSED);
            equal = equal && same(again.logits, first.logits) && same(again.after_mlp, first.after_mlp);
        }
        check(equal, std::string(s.name) + ": repeats bit for bit");
    }
    free_model(m);
}

/* One pass of each kind, for tools that make everything slow. */
static void check_few(const struct shape &s, bool prefill) {
    struct model m = make_model(s, 5);
    static const int history[] = {0, 63, 130, 700, 2044};
    for (int i = 0; i < 5; i++) fill_history(m, i, history[i]);
    check_against_reference(m, take(m, {{0, 1}}), false, "batch");
    check_against_reference(m, take(m, {{4, 9}, {1, 4}}), false, "batch");
    check_against_reference(m, take(m, {{2, 40}}), false, "batch");
    if (prefill) check_against_reference(m, take(m, {{1, 70}}), true, "prefill");
    auto list = take(m, {{3, 3}});
    restore_cache(m);
    auto want = run(m, list, false);
    for (enum how how : {JOINED, RECORDED})
        check(same(run(m, list, false, how).logits, want.logits),
              std::string(s.name) + ": bits equal with operations " +
                  (how == JOINED ? "joined" : "recorded"));
    free_model(m);
}

/* Rows of a tree of proposals have the bits that their ways have as chains, those of a level by level pass
 * too; and so has what is written behind a way once it was moved into order. */
static void check_tree(const struct shape &s, int history, bool by_level) {
    struct model m = make_model(s, 2);
    fill_history(m, 0, history);
    struct tree t;
    tree_shape(5, TREE_ROWS, &t);
    std::vector<int32_t> places(TREE_ROWS * TREE_ROWS, -1);
    std::vector<row> list;
    tree_places(&t, history, places.data());
    for (int i = 0; i < t.n; i++) list.push_back({0, history + t.level[i], (i * 37 + 5) % m.s.vocab});
    int32_t *path = on_device(places);
    restore_cache(m);
    struct result all;
    for (int l = by_level ? 0 : t.depth; l <= t.depth; l++) {
        const int from = by_level ? t.begin[l] : 0, to = t.begin[l + 1];
        auto part = run(m, {list.begin() + from, list.begin() + to}, false, PAUSED, path + from * TREE_ROWS);
        all.logits.insert(all.logits.end(), part.logits.begin(), part.logits.end());
    }
    bool equal = true, moved = true;
    for (int leaf = t.n - 1; leaf > 0; leaf -= 3) {
        /* its way stays, and one row more goes behind it; then the same as a chain */
        std::vector<row> way;
        std::vector<int> rows;
        std::vector<struct kv_place> from, to;
        for (int at = leaf; at >= 0; at = at ? t.parent[at] : -1) rows.insert(rows.begin(), at);
        auto place = [&](int position) -> struct kv_place {
            return {m.pages_of[position / s.page], position % s.page};
        };
        for (size_t i = 0; i < rows.size(); i++) {
            way.push_back(list[rows[i]]);
            from.push_back(place(history + t.offset[rows[i]]));
            to.push_back(place(history + (int)i));
        }
        if (!by_level) {
            restore_cache(m);
            run(m, list, false, PAUSED, path);
        }
        ops->move(be, &m.kv, 1, s.kv_heads, s.head_dim, (int)rows.size(), from.data(), to.data());
        const std::vector<row> next = {{0, history + (int)rows.size(), 7}};
        auto behind = run(m, next, false);
        restore_cache(m);
        auto chain = run(m, way, false);
        for (size_t i = 0; i < rows.size(); i++)
            equal = equal &&
                    same(rows_of(chain.logits, m.s.vocab, i, 1), rows_of(all.logits, m.s.vocab, rows[i], 1));
        moved = moved && same(run(m, next, false).logits, behind.logits);
        if (by_level) break; /* the cache has the chain's now */
    }
    const std::string name =
        std::string(s.name) + ", tree behind " + std::to_string(history) + (by_level ? ", by level" : "");
    check(equal, name + ": bits as chains");
    check(moved, name + ": moved into order");
    ops->release(be, path);
    free_model(m);
}

static void check_top() {
    std::vector<float> l(3 * 1000, -3);
    l[17] = l[40] = 5, l[999] = 4;                           /* a tie, by index; the rest */
    l[1000 + 3] = NAN, l[1000 + 999] = 1, l[1000 + 64] = -2; /* NaN loses */
    for (int i = 0; i < 1000; i++) l[2000 + i] = i < 998 ? NAN : -(float)i;
    std::vector<int32_t> to = {0, 1, 2, 3, 4, 5, -1, 6, 7, 8, -1, -1};
    float *device = on_device(l);
    int32_t *to_device = on_device(to), *token = on_device(std::vector<int32_t>(9, -7));
    ops->top(be, device, 3, 1000, to_device, token);
    check(from_device(token, 9) == std::vector<int32_t>{17, 40, 999, 0, 999, 64, 1, 998, 999},
          "top: ties, NaN, what is not wanted");
    for (void *p : {(void *)device, (void *)to_device, (void *)token}) ops->release(be, p);
}

static void check_trees() {
    check_top();
    for (auto &s : shapes) {
        check_tree(s, 121, false);
        check_tree(s, 1019, true);
    }
    for (int history : {0, 60, 250, 2040}) check_tree(shapes[0], history, false);
}

/* A recorded pass sees new rows each time it is replayed. */
static void check_replay() {
    struct model m = make_model(shapes[0], 5);
    static const int history[] = {0, 63, 130, 700, 2044};
    for (int i = 0; i < 5; i++) fill_history(m, i, history[i]);
    restore_cache(m);
    bool equal = true;
    for (int i = 0; i < 12; i++) {
        auto list = take(m, {{i % 5, 3}});
        auto want = run(m, list, false);
        struct rows rows = device_rows(m, list, false);
        rows.max_position = POSITIONS - 1;
        if (!ops->replay(be, 77)) {
            check(i == 0, "replay: recorded once");
            ops->record_begin(be, 77);
            ops->embed(be, &rows, &m.table.device, m.s.embedding_scale, m.x);
            ops->qkv(be, &rows, &m.attention, m.x, m.query, &m.kv);
            ops->attention(be, &rows, &m.attention, m.query, &m.kv, m.attended);
            ops->project(be, &rows, &m.output, m.attended, m.x);
            ops->gate_up(be, &rows, &m.mlp, m.x, m.hidden);
            ops->project(be, &rows, &m.second, m.hidden, m.x);
            ops->record_end(be);
        }
        equal = equal && same(from_device(m.x, (size_t)3 * m.s.hidden), want.after_mlp);
    }
    check(equal, "replay: as run, with new rows each time");
    free_model(m);
}

static void check_picks_and_ties() {
    struct model m = make_model(shapes[0], 1);
    std::vector<row> list;
    for (int i = 0; i < 6; i++) list.push_back({0, i, i * 11});
    auto all = run(m, list, false);
    int32_t pick[] = {4, 0, 4};
    ops->logits(be, &m.last, m.x, pick, 3, m.logits);
    auto got = from_device(m.logits, (size_t)3 * m.s.vocab);
    bool equal = true;
    for (int i = 0; i < 3; i++)
        equal = equal && same(rows_of(got, m.s.vocab, i, 1), rows_of(all.logits, m.s.vocab, pick[i], 1));
    check(equal, "logits of picked rows");
    std::vector<float> l(4 * 1000, -3);
    l[0 * 1000 + 17] = l[0 * 1000 + 40] = 5; /* tie */
    l[1000 + 3] = NAN, l[1000 + 999] = 1;    /* NaN loses */
    for (int i = 0; i < 1000; i++) l[2000 + i] = NAN;
    for (int i = 0; i < 1000; i++) l[3000 + i] = -INFINITY;
    float *device = on_device(l);
    ops->argmax(be, device, 4, 1000, m.token_device);
    auto t = from_device(m.token_device, 4);
    check(t[0] == 17 && t[1] == 999 && t[2] == 0 && t[3] == 0, "argmax: ties, NaN, nothing finite");
    ops->release(be, device);
    free_model(m);
}

/* Failures that a sanitizer would report as the program's. */
static void check_refusals() {
    void *p;
    outrider_status status = ops->alloc(be, (size_t)1 << 50, &p);
    check(status == OUTRIDER_ENOMEM && strstr(outrider_error(), "free"), "alloc: too much says what is free");
    const struct ops *other;
    struct backend *none;
    check(cuda_open("99", &other, &none) == OUTRIDER_ENOMEM, std::string("cuda:99: refused"));
    check(cuda_open("x", &other, &none) == OUTRIDER_EINVAL, std::string("cuda:x: refused"));
}

static void check_memory() {
    std::vector<int32_t> data(3000000);
    for (size_t i = 0; i < data.size(); i++) data[i] = (int32_t)(i * 2654435761u);
    int32_t *device = on_device(data);
    check(from_device(device, data.size()) == data, "upload and download of 12 MB");
    bool equal = true;
    for (int i = 0; i < 3000; i++) {
        for (int j = 0; j < 3; j++) {
            data[i * 7 + j] = i - j;
            ops->upload(be, device + i * 7 + j, &data[i * 7 + j], 4);
        }
        if (i % 500 == 499)
            equal = equal &&
                    from_device(device, 3000 * 7) == std::vector<int32_t>(data.begin(), data.begin() + 21000);
    }
    check(equal, "small uploads arrive in order");
    ops->release(be, device);
}

/* ---- a card without memory: this program is linked with --wrap=cudaMalloc ---- */

static long until_fault = -1; /* allocations that still succeed; negative: all do */
static bool for_ever;
extern "C" cudaError_t __real_cudaMalloc(void **p, size_t bytes);
extern "C" cudaError_t __wrap_cudaMalloc(void **p, size_t bytes) {
    if (until_fault < 0 || until_fault-- > 0) return __real_cudaMalloc(p, bytes);
    until_fault = for_ever ? 0 : -1;
    *p = nullptr;
    return cudaErrorMemoryAllocation;
}

/* Opens another backend on the card, takes scratch, memory and a weight, and gives all back. */
static outrider_status take_and_give() {
    static const std::vector<uint16_t> host(256 * 512);
    const struct ops *o;
    struct backend *b;
    void *p = nullptr;
    struct matrix m = {};
    TRY(cuda_open("", &o, &b));
    outrider_status status = o->reserve(b, 64, 1024);
    if (!status) status = o->alloc(b, 1 << 20, &p);
    if (!status) status = o->weight(b, host.data(), DTYPE_BF16, 256, 512, &m);
    if (!status) o->weight_release(b, &m);
    o->release(b, p);
    if (!status) status = o->sync(b);
    o->close(b);
    return status;
}

static size_t memory_free() {
    size_t bytes = 0, total;
    cudaMemGetInfo(&bytes, &total);
    return bytes;
}

/* The k-th allocation fails, for every k: one line, nothing kept, and the card is as good as before. */
static void check_scarcity() {
    must(take_and_give());
    const size_t before = memory_free();
    for (int mode = 0; mode < 2; mode++) {
        bool told = true;
        long k = 0;
        for (for_ever = mode;; k++) {
            until_fault = k;
            const outrider_status status = take_and_give();
            const bool came = for_ever ? until_fault == 0 : until_fault < 0;
            until_fault = -1;
            if (!came) break;
            told = told && (status == OUTRIDER_ENOMEM || status == OUTRIDER_OK);
        }
        check(told && k > 3, std::to_string(k) + (mode ? " allocations fail, and all behind" : " allocations fail"));
        check(take_and_give() == OUTRIDER_OK, "and the card can be used again");
    }
    check(memory_free() + (4 << 20) >= before, "nothing of it is kept"); /* the driver hands out 2 MB at a time */
}

int main(int argc, char **argv) {
    const std::string mode = argc > 1 ? argv[1] : "";
    open_card();
    if (mode == "trees") {
        check_trees();
    } else if (mode == "sanitize" || mode == "race") {
        for (auto name : {"tale draft", "groups of 20", "heads of 80", "heads of 96", "heads of 256", "f32",
                          "q8, odd chunks", "q4, odd chunks"})
            check_few(named(name), mode == "sanitize");
        for (auto name : {"tale draft", "llama-like", "heads of 80", "heads of 96", "heads of 256"}) check_tree(named(name), 121, false);
        check_top();
    } else if (mode == "shape") {
        check_shape(named(argc > 2 ? argv[2] : ""), false);
    } else {
        check_refusals();
        check_memory();
        check_scarcity();
        for (auto &s : shapes) check_shape(s, mode == "quick");
        check_replay();
        check_picks_and_ties();
        check_trees();
    }
    must(ops->sync(be));
    ops->close(be);
    printf("%d failed\n", failures);
    return failures > 0;
}

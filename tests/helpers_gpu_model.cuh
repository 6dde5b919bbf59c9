/* What gpu_ops.cu compares with: one layer of any shape with its head and sequences to run it on, the backend's
 * pass over it, and the same in plain arithmetic on the host. Memory that must not count is NaN.
 */
#ifndef OUTRIDER_HELPERS_GPU_MODEL_CUH
#define OUTRIDER_HELPERS_GPU_MODEL_CUH

#include "tests/helpers_gpu.cuh"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

/* ---- numbers ---- */

static uint64_t state = 1;
static float uniform() { /* -1 to 1 */
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)(int32_t)(state >> 32) / 2147483648.f;
}
static float round_to(float v, enum dtype t) {
    return t == DTYPE_F32    ? v
           : t == DTYPE_BF16 ? __bfloat162float(__float2bfloat16(v))
                             : __half2float(__float2half(v));
}
static void put(void *p, size_t i, float v, enum dtype t) {
    if (t == DTYPE_F32)
        ((float *)p)[i] = v;
    else if (t == DTYPE_BF16)
        ((bf16 *)p)[i] = __float2bfloat16(v);
    else
        ((__half *)p)[i] = __float2half(v);
}
/* As the 8-bit cache keeps a head's vector, on top of the rounding that the others do. */
static void round_vector(float *v, int dim, enum dtype t) {
    if (t != DTYPE_Q8_0) {
        for (int d = 0; d < dim; d++) v[d] = round_to(v[d], t);
        return;
    }
    for (int from = 0; from < dim / 2; from += KV_GROUP) {
        float top = 0;
        const int n = std::min((int)KV_GROUP, dim / 2 - from);
        for (int i = 0; i < 2 * n; i++) top = std::max(top, fabsf(v[from + i % n + i / n * (dim / 2)]));
        const float scale = __half2float(__float2half(top / 127));
        for (int i = 0; i < 2 * n && scale > 0; i++) {
            float &x = v[from + i % n + i / n * (dim / 2)];
            x = scale * std::clamp(rintf(x / scale), -127.f, 127.f);
        }
    }
}
static double distance(const std::vector<float> &a, const std::vector<float> &b) {
    double error = 0, size = 0;
    for (size_t i = 0; i < a.size(); i++) {
        if (!(std::isfinite(a[i]) && std::isfinite(b[i]))) return INFINITY;
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(error / (size + 1e-30));
}
static bool same(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

/* ---- memory ---- */

struct tensor {
    std::vector<float> host; /* as rounded */
    struct matrix device;
};
/* A block as files have it, and what its values are. */
static void quantize(float *x, enum dtype t, char *block) {
    float top = 0;
    for (int i = 0; i < 32; i++) top = std::max(top, fabsf(x[i]));
    const __half scale = __float2half(top / (t == DTYPE_Q8_0 ? 127 : 7));
    const float d = __half2float(scale);
    memcpy(block, &scale, 2);
    for (int i = 0; i < 32; i++) {
        const int limit = t == DTYPE_Q8_0 ? 127 : 7, q = std::clamp((int)lrintf(x[i] / d), -limit, limit);
        x[i] = d * q;
        if (t == DTYPE_Q8_0)
            block[2 + i] = (char)q;
        else if (i < 16)
            block[2 + i] = (char)(q + 8);
        else
            block[2 + i - 16] |= (char)((q + 8) << 4);
    }
}
static struct tensor random_matrix(int n, int k, enum dtype t) {
    struct tensor m;
    if (dtype_is_quantized(t)) {
        std::vector<char> blocks((size_t)n * dtype_row_bytes(t, k));
        for (size_t i = 0; i < (size_t)n * k; i++) m.host.push_back(uniform() * 1.7f / sqrtf(k));
        for (size_t i = 0; i < (size_t)n * k / 32; i++)
            quantize(&m.host[i * 32], t, &blocks[i * dtype_bytes(t)]);
        must(ops->weight(be, blocks.data(), t, n, k, &m.device));
        return m;
    }
    std::vector<char> raw((size_t)n * k * dtype_bytes(t));
    m.host.resize((size_t)n * k);
    for (size_t i = 0; i < m.host.size(); i++) {
        m.host[i] = round_to(uniform() * 1.7f / sqrtf(k), t);
        put(raw.data(), i, m.host[i], t);
    }
    must(ops->weight(be, raw.data(), t, n, k, &m.device));
    return m;
}
template <typename T> static std::vector<T> from_device(const T *p, size_t n) {
    std::vector<T> host(n);
    must(ops->download(be, host.data(), p, n * sizeof(T)));
    return host;
}
static const std::vector<float> poison(size_t n) {
    return std::vector<float>(n, NAN);
}

/* ---- one layer with its head, and sequences to run it on ---- */

struct shape {
    const char *name;
    int hidden, heads, kv_heads, head_dim, ffn, vocab, page;
    enum dtype weights, cache;
    double tolerance;
    /* what only some families have */
    bool bias, qk_norm, post_norm, gelu;
    int window;
    float score_cap, logit_cap, embedding_scale; /* 0: none, none, 1 */
};

struct row {
    int slot, position, token;
};

struct model {
    struct shape s;
    struct tensor table, q, k, v, o, gate, up, down, head;
    std::vector<float> norm[3], rope;
    float *norm_device[3], *rope_device;
    struct vector { /* empty and null where the shape has none */
        std::vector<float> host;
        float *device;
    } qkv_bias, o_bias, mlp_bias, down_bias, q_norm, k_norm, o_norm, down_norm;
    struct projection output, second; /* of attention, of the MLP */
    struct head_block last;
    struct attention_block attention;
    struct mlp_block mlp;
    /* cache: history of `slots` sequences, everything else NaN */
    int slots, pages_each, pages;
    std::vector<int32_t> pages_of;
    std::vector<float> keys, values; /* as the cache holds them */
    struct kv_layer kv;
    int32_t *table_device, *rows_device, *token_device;
    float *x, *logits;
    void *query, *attended, *hidden;
};
enum { MOST_ROWS = 1100, POSITIONS = 2400 };

static size_t cache_at(const struct model &m, int slot, int position, int head, int d) {
    const struct shape &s = m.s;
    size_t page = m.pages_of[slot * m.pages_each + position / s.page];
    return ((page * s.kv_heads + head) * s.page + position % s.page) * s.head_dim + d;
}
static size_t pool_bytes(const struct model &m) {
    return (size_t)m.pages * m.s.kv_heads * kv_head_bytes(m.s.cache, m.s.page, m.s.head_dim);
}
/* Integer and scale of element `at` of a pool in 8 bits. */
static int8_t *integer_at(const struct model &m, char *pool, size_t at, __half **scale) {
    const size_t vector = at / m.s.head_dim, block = vector / m.s.page, place = vector % m.s.page;
    const int d = at % m.s.head_dim, groups = kv_groups(m.s.head_dim);
    pool += block * kv_head_bytes(m.s.cache, m.s.page, m.s.head_dim);
    *scale = (__half *)(pool + m.s.page * m.s.head_dim) + place * groups + d % (m.s.head_dim / 2) / KV_GROUP;
    return (int8_t *)pool + place * m.s.head_dim + d;
}
/* Values that round_vector has made: the greatest of a group is 127 steps. */
static void put_bytes(const struct model &m, const std::vector<float> &values, char *pool) {
    const int half = m.s.head_dim / 2;
    for (size_t i = 0; i < values.size(); i++) {
        const size_t d = i % m.s.head_dim, from = i - d + d % half / KV_GROUP * KV_GROUP;
        float top = 0;
        for (size_t j = 0; j < KV_GROUP && from % m.s.head_dim + j < (size_t)half; j++)
            for (int h = 0; h < 2; h++) {
                const float size = fabsf(values[from + j + h * half]);
                if (!(size <= top)) top = size;
            }
        __half *scale;
        int8_t *to = integer_at(m, pool, i, &scale);
        *scale = __float2half(top / 127);
        *to = top > 0 ? (int8_t)rintf(values[i] / __half2float(*scale)) : 0;
    }
}
static void upload_cache(const struct model &m, const std::vector<float> &values, void *to) {
    std::vector<char> raw(pool_bytes(m));
    if (m.s.cache == DTYPE_Q8_0)
        put_bytes(m, values, raw.data());
    else
        for (size_t i = 0; i < values.size(); i++) put(raw.data(), i, values[i], m.s.cache);
    ops->upload(be, to, raw.data(), raw.size());
}
static void restore_cache(struct model &m) {
    upload_cache(m, m.keys, m.kv.k);
    upload_cache(m, m.values, m.kv.v);
}

static void make_vector(model::vector &v, bool wanted, int n, float middle) {
    for (int i = 0; i < n && wanted; i++) v.host.push_back(middle + uniform() / 2);
    if (wanted) v.device = on_device(v.host);
}

static struct model make_model(const struct shape &s, int slots) {
    struct model m = {};
    m.s = s;
    int width = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    m.table = random_matrix(s.vocab, s.hidden, dtype_is_quantized(s.weights) ? DTYPE_BF16 : s.weights);
    m.q = random_matrix(width, s.hidden, s.weights);
    m.k = random_matrix(kv, s.hidden, s.weights);
    m.v = random_matrix(kv, s.hidden, s.weights);
    m.o = random_matrix(s.hidden, width, s.weights);
    m.gate = random_matrix(s.ffn, s.hidden, s.weights);
    m.up = random_matrix(s.ffn, s.hidden, s.weights);
    m.down = random_matrix(s.hidden, s.ffn, s.weights);
    m.head = random_matrix(s.vocab, s.hidden, s.weights);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < s.hidden; j++) m.norm[i].push_back(1 + uniform() / 2);
        m.norm_device[i] = on_device(m.norm[i]);
    }
    for (int p = 0; p < POSITIONS; p++)
        for (int d = 0; d < s.head_dim / 2; d++) {
            double angle = p * pow(10000, -2.0 * d / s.head_dim);
            m.rope.push_back((float)cos(angle));
            m.rope.push_back((float)sin(angle));
        }
    m.rope_device = on_device(m.rope);
    make_vector(m.qkv_bias, s.bias, width + 2 * kv, 0);
    make_vector(m.o_bias, s.bias, s.hidden, 0);
    make_vector(m.mlp_bias, s.bias, 2 * s.ffn, 0);
    make_vector(m.down_bias, s.bias, s.hidden, 0);
    make_vector(m.q_norm, s.qk_norm, s.head_dim, 1);
    make_vector(m.k_norm, s.qk_norm, s.head_dim, 1);
    make_vector(m.o_norm, s.post_norm, s.hidden, 1);
    make_vector(m.down_norm, s.post_norm, s.hidden, 1);
    m.attention = {m.norm_device[0], 1e-5f,    m.q.device,        m.k.device,      m.v.device,
                   m.rope_device,    s.heads,  s.kv_heads,        s.head_dim,      1 / sqrtf(s.head_dim),
                   s.score_cap,      s.window, m.qkv_bias.device, m.q_norm.device, m.k_norm.device};
    m.mlp = {m.norm_device[1], 1e-5f, m.gate.device, m.up.device, s.gelu, m.mlp_bias.device};
    m.output = {m.o.device, m.o_bias.device, m.o_norm.device, 1e-5f};
    m.second = {m.down.device, m.down_bias.device, m.down_norm.device, 1e-5f};
    m.last = {m.norm_device[2], 1e-5f, m.head.device, s.logit_cap};
    if (m.s.embedding_scale == 0) m.s.embedding_scale = 1;

    m.slots = slots;
    m.pages_each = POSITIONS / s.page;
    m.pages = slots * m.pages_each;
    for (int i = 0; i < m.pages; i++) m.pages_of.push_back(i);
    for (int i = m.pages - 1; i > 0; i--)
        std::swap(m.pages_of[i], m.pages_of[(int)((uniform() + 1) / 2 * i)]);
    size_t elements = (size_t)m.pages * s.kv_heads * s.page * s.head_dim;
    m.keys = m.values = poison(elements);
    m.kv.k_dtype = m.kv.v_dtype = s.cache;
    m.kv.page_size = s.page;
    must(ops->alloc(be, pool_bytes(m), &m.kv.k));
    must(ops->alloc(be, pool_bytes(m), &m.kv.v));
    m.table_device = on_device(m.pages_of);
    must(ops->alloc(be, 3 * MOST_ROWS * 4, (void **)&m.rows_device));
    must(ops->alloc(be, MOST_ROWS * 4, (void **)&m.token_device));
    must(ops->alloc(be, (size_t)MOST_ROWS * s.hidden * 4, (void **)&m.x));
    must(ops->alloc(be, (size_t)MOST_ROWS * width * 4, &m.query));
    must(ops->alloc(be, (size_t)MOST_ROWS * width * 4, &m.attended));
    must(ops->alloc(be, (size_t)MOST_ROWS * s.ffn * 4, &m.hidden));
    must(ops->alloc(be, (size_t)MOST_ROWS * s.vocab * 4, (void **)&m.logits));
    must(ops->reserve(be, MOST_ROWS, std::max({s.hidden, width, s.ffn})));
    return m;
}
/* Gives sequence `slot` a past of n positions. */
static void fill_history(struct model &m, int slot, int n) {
    for (int p = 0; p < n; p++)
        for (int h = 0; h < m.s.kv_heads; h++) {
            const size_t at = cache_at(m, slot, p, h, 0);
            for (int d = 0; d < m.s.head_dim; d++)
                m.keys[at + d] = uniform() * 1.5f, m.values[at + d] = uniform();
            round_vector(&m.keys[at], m.s.head_dim, m.s.cache);
            round_vector(&m.values[at], m.s.head_dim, m.s.cache);
        }
}
static void free_model(struct model &m) {
    const struct tensor *weights[] = {&m.table, &m.q, &m.k, &m.v, &m.o, &m.gate, &m.up, &m.down, &m.head};
    for (auto *w : weights) ops->weight_release(be, &w->device);
    void *plain[] = {m.norm_device[0], m.norm_device[1], m.norm_device[2], m.rope_device,  m.kv.k,
                     m.kv.v,           m.table_device,   m.rows_device,    m.token_device, m.x,
                     m.query,          m.attended,       m.hidden,         m.logits};
    for (void *p : plain) ops->release(be, p);
    const struct model::vector *vectors[] = {&m.qkv_bias, &m.o_bias, &m.mlp_bias, &m.down_bias,
                                             &m.q_norm,   &m.k_norm, &m.o_norm,   &m.down_norm};
    for (auto *v : vectors) ops->release(be, v->device);
}

/* ---- on the device ---- */

struct result {
    std::vector<float> after_attention, after_mlp, logits;
    std::vector<int32_t> tokens;
};

static struct rows device_rows(struct model &m, const std::vector<row> &list, bool prefill) {
    std::vector<int32_t> packed;
    for (auto &r : list) packed.push_back(r.token);
    for (auto &r : list) packed.push_back(r.position);
    for (auto &r : list) packed.push_back(r.slot);
    int n = (int)list.size(), last = 0;
    for (auto &r : list) last = std::max(last, r.position);
    ops->upload(be, m.rows_device, packed.data(), packed.size() * 4);
    return {n,    m.rows_device, m.rows_device + n, m.rows_device + 2 * n, m.table_device, m.pages_each,
            last, prefill,       NULL};
}

/* PAUSED: x is read between the halves of the layer, which keeps the backend from joining them; RECORDED: as
 * a pass is. */
enum how { PAUSED, JOINED, RECORDED };
static struct result run(struct model &m, const std::vector<row> &list, bool prefill, enum how how = PAUSED,
                         const int32_t *path = NULL) {
    static uint64_t key = 1000;
    const bool pause = how == PAUSED;
    struct rows rows = device_rows(m, list, prefill);
    rows.path = path;
    const struct shape &s = m.s;
    size_t n = list.size(), width = (size_t)s.heads * s.head_dim;
    ops->upload(be, m.x, poison(n * s.hidden).data(), n * s.hidden * 4);
    ops->upload(be, m.query, poison(n * width).data(), n * width * 4);
    ops->upload(be, m.attended, poison(n * width).data(), n * width * 4);
    ops->upload(be, m.hidden, poison(n * s.ffn).data(), n * s.ffn * 4);
    ops->upload(be, m.logits, poison(n * s.vocab).data(), n * s.vocab * 4);
    struct result out;
    if (how == RECORDED) ops->record_begin(be, key++);
    ops->embed(be, &rows, &m.table.device, m.s.embedding_scale, m.x);
    ops->qkv(be, &rows, &m.attention, m.x, m.query, &m.kv);
    ops->attention(be, &rows, &m.attention, m.query, &m.kv, m.attended);
    ops->project(be, &rows, &m.output, m.attended, m.x);
    if (pause) out.after_attention = from_device(m.x, n * s.hidden);
    ops->gate_up(be, &rows, &m.mlp, m.x, m.hidden);
    ops->project(be, &rows, &m.second, m.hidden, m.x);
    if (pause) out.after_mlp = from_device(m.x, n * s.hidden);
    ops->logits(be, &m.last, m.x, NULL, (int)n, m.logits);
    ops->argmax(be, m.logits, (int)n, s.vocab, m.token_device);
    if (how == RECORDED) ops->record_end(be);
    out.logits = from_device(m.logits, n * s.vocab);
    out.tokens = from_device(m.token_device, n);
    if (!pause) out.after_mlp = from_device(m.x, n * s.hidden);
    return out;
}

/* ---- the reference ---- */

static enum dtype activations(enum dtype weights) {
    return weights == DTYPE_BF16 || dtype_is_quantized(weights) ? DTYPE_BF16 : DTYPE_F32;
}
static std::vector<float> normed(const struct model &m, const std::vector<float> &x, int which, size_t row) {
    size_t d = m.s.hidden;
    double sum = 0;
    std::vector<float> out(d);
    for (size_t i = 0; i < d; i++) sum += (double)x[row * d + i] * x[row * d + i];
    float scale = (float)(1 / sqrt(sum / d + 1e-5));
    /* The backend's rounding: before the row's factor, which it applies to the sums. */
    for (size_t i = 0; i < d; i++)
        out[i] = scale * round_to(x[row * d + i] * m.norm[which][i], activations(m.s.weights));
    return out;
}
/* Few rows of activations meet quantised weights as 8-bit integers, a scale for every 128. */
static void round_chunks(std::vector<float> &a) {
    for (size_t from = 0; from < a.size(); from += 128) {
        const size_t to = std::min(from + 128, a.size());
        float top = 0;
        for (size_t i = from; i < to; i++) top = std::max(top, fabsf(a[i]));
        for (size_t i = from; i < to && top > 0; i++) a[i] = rintf(a[i] / top * 127) * top / 127;
    }
}
static std::vector<float> times(const struct tensor &w, std::vector<float> a, bool prefill) {
    int n = w.device.n, k = w.device.k;
    std::vector<float> out(n);
    if (dtype_is_quantized(w.device.dtype) && !prefill) round_chunks(a);
#pragma omp parallel for
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < k; j++) sum += (double)w.host[(size_t)i * k + j] * a[j];
        out[i] = (float)sum;
    }
    return out;
}
static void turn(const struct model &m, float *head, int position) {
    int half = m.s.head_dim / 2;
    for (int d = 0; d < half; d++) {
        float c = m.rope[((size_t)position * half + d) * 2],
              s = m.rope[((size_t)position * half + d) * 2 + 1];
        float a = head[d], b = head[d + half];
        head[d] = a * c - b * s;
        head[d + half] = b * c + a * s;
    }
}
static void add_to(std::vector<float> &y, const std::vector<float> &bias, size_t first) {
    for (size_t i = 0; i < y.size() && !bias.empty(); i++) y[i] += bias[first + i];
}
/* RMSNorm of as many elements as there are weights. */
static void norm_by(float *y, const std::vector<float> &norm) {
    double sum = 0;
    for (size_t i = 0; i < norm.size(); i++) sum += (double)y[i] * y[i];
    for (size_t i = 0; i < norm.size(); i++) y[i] = (float)(y[i] / sqrt(sum / norm.size() + 1e-5) * norm[i]);
}
static float activated(bool gelu, float x) {
    if (!gelu) return x / (1 + expf(-x));
    return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}
/* Appends to keys and values as it goes, like the device. Differences of x, not x, so that errors show. */
static struct result reference(const struct model &m, const std::vector<row> &list, bool prefill,
                               std::vector<float> &keys, std::vector<float> &values) {
    const struct shape &s = m.s;
    int D = s.head_dim;
    enum dtype act = activations(s.weights);
    std::vector<float> x, q;
    struct result out;
    for (size_t r = 0; r < list.size(); r++) {
        for (int i = 0; i < s.hidden; i++)
            x.push_back(m.s.embedding_scale * m.table.host[(size_t)list[r].token * s.hidden + i]);
        auto n = normed(m, x, 0, r), qr = times(m.q, n, prefill), k = times(m.k, n, prefill),
             v = times(m.v, n, prefill);
        add_to(qr, m.qkv_bias.host, 0);
        add_to(k, m.qkv_bias.host, s.heads * D);
        add_to(v, m.qkv_bias.host, (s.heads + s.kv_heads) * D);
        for (int h = 0; h < s.heads; h++) norm_by(&qr[h * D], m.q_norm.host);
        for (int h = 0; h < s.kv_heads; h++) norm_by(&k[h * D], m.k_norm.host);
        for (int h = 0; h < s.heads; h++) turn(m, &qr[h * D], list[r].position);
        for (int h = 0; h < s.kv_heads; h++) turn(m, &k[h * D], list[r].position);
        q.insert(q.end(), qr.begin(), qr.end());
        for (int h = 0; h < s.kv_heads; h++) {
            const size_t at = cache_at(m, list[r].slot, list[r].position, h, 0);
            std::copy_n(&k[h * D], D, &keys[at]);
            std::copy_n(&v[h * D], D, &values[at]);
            round_vector(&keys[at], D, s.cache);
            round_vector(&values[at], D, s.cache);
        }
    }
    for (size_t r = 0; r < list.size(); r++) {
        std::vector<float> attended(s.heads * D);
        for (int h = 0; h < s.heads; h++) {
            int kv = h / (s.heads / s.kv_heads);
            std::vector<double> score(list[r].position + 1), sum(D);
            double greatest = -1e300, total = 0;
            const int first = s.window ? std::max(0, list[r].position + 1 - s.window) : 0;
            for (int p = first; p <= list[r].position; p++) {
                double dot = 0;
                for (int d = 0; d < D; d++)
                    dot += (double)q[(r * s.heads + h) * D + d] * keys[cache_at(m, list[r].slot, p, kv, d)];
                score[p] = dot / sqrt(D);
                if (s.score_cap) score[p] = s.score_cap * tanh(score[p] / s.score_cap);
                greatest = std::max(greatest, score[p]);
            }
            for (int p = first; p <= list[r].position; p++) {
                double w = exp(score[p] - greatest);
                total += w;
                for (int d = 0; d < D; d++) sum[d] += w * values[cache_at(m, list[r].slot, p, kv, d)];
            }
            for (int d = 0; d < D; d++) attended[h * D + d] = round_to((float)(sum[d] / total), act);
        }
        auto add = times(m.o, attended, prefill);
        add_to(add, m.o_bias.host, 0);
        norm_by(add.data(), m.o_norm.host);
        for (int i = 0; i < s.hidden; i++) x[r * s.hidden + i] += add[i];
    }
    out.after_attention = x;
    for (size_t r = 0; r < list.size(); r++) {
        auto n = normed(m, x, 1, r), gate = times(m.gate, n, prefill), up = times(m.up, n, prefill);
        add_to(gate, m.mlp_bias.host, 0);
        add_to(up, m.mlp_bias.host, s.ffn);
        for (int i = 0; i < s.ffn; i++) gate[i] = round_to(activated(s.gelu, gate[i]) * up[i], act);
        auto add = times(m.down, gate, prefill);
        add_to(add, m.down_bias.host, 0);
        norm_by(add.data(), m.down_norm.host);
        for (int i = 0; i < s.hidden; i++) x[r * s.hidden + i] += add[i];
    }
    out.after_mlp = x;
    for (size_t r = 0; r < list.size(); r++) {
        auto l = times(m.head, normed(m, x, 2, r), false);
        for (float &v : l)
            if (s.logit_cap) v = s.logit_cap * tanhf(v / s.logit_cap);
        out.logits.insert(out.logits.end(), l.begin(), l.end());
    }
    return out;
}

#endif

/* qkv: a layer's queries, keys and values, rotated and put where attention will look for them.
 *
 * RoPE turns element i of a head together with element i + head_dim / 2, so an item is a pair of blocks that
 * far apart: both products are at hand when the rotation needs them. Values are cut the same way and not
 * rotated. Where heads are normed, or kept in 8 bits under scales of their own, an item is a whole head.
 * Queries leave in f32 and already scaled.
 */
#include <assert.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

struct qkv {
    struct inputs in;
    const struct rows *rows;
    const struct attention_block *b;
    const struct kv_layer *kv;
    float *q;
    int32_t size, blocks; /* outputs of a block of half a head, and such blocks in it */
    bool whole;           /* an item is a head, not a block */
};

/* Which head an item belongs to: queries first, then keys, then values. */
struct part {
    const struct matrix *w;
    int32_t head;
    enum { QUERY, KEY, VALUE } what;
};

static struct part part_of(const struct attention_block *b, int32_t head) {
    if (head < b->heads) return (struct part){&b->q, head, QUERY};
    head -= b->heads;
    if (head < b->kv_heads) return (struct part){&b->k, head, KEY};
    return (struct part){&b->v, head - b->kv_heads, VALUE};
}

/* Outputs of each half in an item: even portions of a half head. */
static int32_t rope_block(int32_t half) {
    return ceil_div(half, ceil_div(half, BLOCK_MAX));
}

/* (low, high) turned by the angles of `rope` ([count][2] cos, sin). */
static void rotate(const float *rope, int32_t count, float *low, float *high) {
    for (int32_t j = 0; j < count; j++) {
        const float c = rope[2 * j], s = rope[2 * j + 1], x = low[j], y = high[j];
        low[j] = x * c - y * s;
        high[j] = y * c + x * s;
    }
}

static void scale(float by, int32_t count, float *y) {
    for (int32_t j = 0; j < count; j++) y[j] *= by;
}

static void store(enum dtype type, const float *y, int32_t count, char *to) {
    if (type == DTYPE_F32) {
        memcpy(to, y, (size_t)count * 4);
        return;
    }
    for (int32_t j = 0; j < count; j += LANES) {
        const int32_t n = min_i32(LANES, count - j);
        vf_store_f16(to + 2 * j, n < LANES ? vf_load_n(y + j, n) : vf_load(y + j), n);
    }
}

/* What its vectors are kept as. */
static enum dtype type_of(const struct qkv *p, const struct part *part) {
    return part->what == QUERY ? DTYPE_F32 : part->what == KEY ? p->kv->k_dtype : p->kv->v_dtype;
}

/* Where the vector of (row, head) begins: in q, or in the cache at the row's place. */
static char *place(const struct qkv *p, const struct part *part, int32_t row) {
    const struct attention_block *b = p->b;
    const size_t head = (size_t)part->head, dim = (size_t)b->head_dim;
    if (part->what == QUERY) return (char *)(p->q + ((size_t)row * (size_t)b->heads + head) * dim);
    const struct rows *rows = p->rows;
    const int32_t to = rows_place(rows, row, rows->position[row]), size = p->kv->page_size;
    const size_t at = (size_t)rows->slot[row] * (size_t)rows->table_stride + (size_t)(to / size);
    const size_t block = (size_t)rows->table[at] * (size_t)b->kv_heads + head;
    const enum dtype type = type_of(p, part);
    return (char *)(part->what == KEY ? p->kv->k : p->kv->v) +
           block * kv_head_bytes(type, size, b->head_dim) +
           (size_t)(to % size) * dim * (type == DTYPE_Q8_0 ? 1 : dtype_bytes(type));
}

/* The same vector's scales, from where its integers begin. */
static char *scales_of(const struct qkv *p, int32_t row, char *integers) {
    const int32_t size = p->kv->page_size, dim = p->b->head_dim,
                  at = rows_place(p->rows, row, p->rows->position[row]) % size;
    return integers + (size_t)(size - at) * (size_t)dim + (size_t)(at * kv_groups(dim)) * 2;
}

/* One row's products of `count` pairs from `first` on become what they are kept as. */
static void finish(const struct qkv *p, const struct part *part, int32_t row, int32_t first, int32_t count,
                   float *low, float *high) {
    const struct attention_block *b = p->b;
    const int32_t half = b->head_dim / 2;
    const enum dtype type = type_of(p, part);
    char *to = place(p, part, row);
    if (part->what != VALUE)
        rotate(b->rope + ((size_t)p->rows->position[row] * (size_t)half + (size_t)first) * 2, count, low,
               high);
    if (part->what == QUERY) scale(b->scale, count, low), scale(b->scale, count, high);
    if (type == DTYPE_Q8_0) {
        cache_quantize(low, high, half, to, scales_of(p, row, to));
        return;
    }
    const size_t bytes = dtype_bytes(type);
    store(type, low, count, to + (size_t)first * bytes);
    store(type, high, count, to + (size_t)(first + half) * bytes);
}

/* A head's products, low halves before high ones, normed by itself. */
static void norm_head(const struct qkv *p, const struct part *part, float *y) {
    const float *norm = part->what == QUERY ? p->b->q_norm : p->b->k_norm;
    if (part->what == VALUE || !norm) return;
    const float by = rms_scale(y, p->b->head_dim, p->b->norm_eps);
    for (int32_t i = 0; i < p->b->head_dim; i++) y[i] *= by * norm[i];
}

static void bias_pair(const struct qkv *p, int32_t output, int32_t count, float *low, float *high) {
    if (!p->b->bias) return;
    add_bias(p->b->bias + output, count, low);
    add_bias(p->b->bias + output + p->b->head_dim / 2, count, high);
}

/* `rows` rows of one block, or of all blocks of a head that is normed. */
static void qkv_rows(const struct qkv *p, const struct acts *a, int32_t item, int32_t row, int32_t rows) {
    float low[ROWS_MAX][BLOCK_MAX], high[ROWS_MAX][BLOCK_MAX], head[ROWS_MAX][HEAD_MAX];
    const int32_t dim = p->b->head_dim, half = dim / 2, index = p->whole ? item : item / p->blocks;
    const struct part part = part_of(p->b, index);
    const int32_t begin = p->whole ? 0 : item % p->blocks * p->size,
                  end = p->whole ? half : min_i32(begin + p->size, half);
    for (int32_t first = begin; first < end; first += p->size) {
        const int32_t count = min_i32(p->size, half - first), output = part.head * dim + first;
        tile(part.w, output, count, a, row, rows, low);
        tile(part.w, output + half, count, a, row, rows, high);
        for (int32_t r = 0; r < rows; r++) {
            bias_pair(p, index * dim + first, count, low[r], high[r]);
            if (!p->whole) {
                finish(p, &part, row + r, first, count, low[r], high[r]);
                continue;
            }
            memcpy(head[r] + first, low[r], (size_t)count * sizeof(float));
            memcpy(head[r] + half + first, high[r], (size_t)count * sizeof(float));
        }
    }
    for (int32_t r = 0; r < rows && p->whole; r++) {
        norm_head(p, &part, head[r]);
        finish(p, &part, row + r, 0, half, head[r], head[r] + half);
    }
}

static void qkv_item(const struct qkv *p, const struct acts *a, int32_t item) {
    for (int32_t row = 0, rows; row < p->rows->n; row += rows) {
        rows = min_i32(rows_abreast(p->rows->n), p->rows->n - row);
        qkv_rows(p, a, item, row, rows);
    }
}

static void qkv_work(void *job, struct worker *w) {
    const struct qkv *p = job;
    const struct acts a = inputs_of(&p->in, w);
    for (int32_t item, last; cpu_claim(w, &item, &last);)
        for (; item < last; item++) qkv_item(p, &a, item);
}

void cpu_qkv(struct backend *be, const struct rows *rows, const struct attention_block *b, const float *x,
             void *q, const struct kv_layer *kv) {
    assert(b->head_dim % 2 == 0 && b->heads % b->kv_heads == 0);
    assert(b->q.dtype == b->k.dtype && b->q.dtype == b->v.dtype);
    struct inputs in = {
        .x = x, .norm = b->norm, .norm_eps = b->norm_eps, .rows = rows->n, .k = b->q.k, .dtype = b->q.dtype};
    const int32_t size = rope_block(b->head_dim / 2), blocks = ceil_div(b->head_dim / 2, size);
    const bool whole = b->q_norm || kv->k_dtype == DTYPE_Q8_0 || kv->v_dtype == DTYPE_Q8_0;
    struct qkv p = {in, rows, b, kv, q, size, blocks, whole};
    const int32_t items = (b->heads + 2 * b->kv_heads) * (p.whole ? 1 : blocks);
    assert(b->head_dim <= HEAD_MAX);
    inputs_ready(be, &p.in);
    cpu_parallel(be, items, ceil_div(product_grain(b->q.k, rows->n), 2), qkv_work, &p);
}

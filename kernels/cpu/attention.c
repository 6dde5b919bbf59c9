/* Attention of rows over their sequences' pages.
 *
 * An item is one row and one kv head, with all query heads that read it, so a page is read once for all of
 * them. Pages are taken in order, each folded into a running softmax (greatest score, sum, weighted values),
 * and only the row's own 0..position are touched: what else lies in the last page may be anything. Scores are
 * products of the page's keys with the queries and use the same tile as the weights do.
 */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/acts.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

enum {
    PAGE_MAX = 256, /* tokens, see outrider_engine_options.page_size */
    HEADS_MAX = 16, /* query heads that share one pass over the pages */
    SPAN = 4,       /* vectors of a value accumulated together */
};

struct attend {
    const struct rows *rows;
    const struct attention_block *b;
    const struct kv_layer *kv;
    const float *q;
    float *out;
};

/* What one query head has seen so far; its weighted values stand in the output. */
struct running {
    float most, sum;
};

/* A page's keys or values of one kv head. */
static struct matrix page_of(const struct attend *p, const void *pool, int32_t page, int32_t kv_head) {
    const size_t at = (size_t)page * (size_t)p->b->kv_heads + (size_t)kv_head;
    const size_t bytes = (size_t)p->kv->page_size * (size_t)p->b->head_dim * dtype_bytes(p->kv->dtype);
    return (struct matrix){(const char *)pool + at * bytes, p->kv->dtype, p->kv->page_size, p->b->head_dim};
}

/* Turns a page's scores into weights e^(score - most), takes them into `seen`, and returns the factor by
 * which what was accumulated before must shrink. weight[tokens..] up to the next whole vector is overwritten.
 */
static float soften(float *weight, int32_t tokens, struct running *seen) {
    for (int32_t t = tokens; t % LANES; t++) weight[t] = -INFINITY;
    vf most = vf_all(-INFINITY), sum = vf_zero();
    for (int32_t t = 0; t < tokens; t += LANES) most = vf_max(vf_load(weight + t), most);
    const float before = seen->most;
    const float now = fmaxf(before, vf_max_lane(most));
    for (int32_t t = 0; t < tokens; t += LANES) {
        vf e = vf_exp(vf_load(weight + t) - now);
        vf_store(weight + t, e);
        sum = sum + (tokens - t < LANES ? vf_load_n(weight + t, tokens - t) : e);
    }
    const float shrink = before == -INFINITY ? 0 : vf_exp(vf_all(before - now))[0];
    *seen = (struct running){now, seen->sum * shrink + vf_sum(sum)};
    return shrink;
}

/* out[h][0..] = out[h][0..] * shrink[h] + sum over tokens of weight[h][t] v[t][0..], over `vectors` vectors,
 * the last of them with n elements. */
INLINE void gather(enum dtype t, int32_t heads, int32_t vectors, int32_t n, const char *v, size_t v_row,
                   const float (*weight)[PAGE_MAX], int32_t tokens, const float *shrink, float *out,
                   size_t dim) {
    const size_t step = LANES * dtype_bytes(t);
    const bool cut = n < LANES;
    vf acc[ROW_TILE][SPAN];
    UNROLL for (int32_t h = 0; h < heads; h++) UNROLL for (int32_t i = 0; i < vectors; i++) {
        const float *from = out + h * dim + i * LANES;
        acc[h][i] = (cut ? vf_load_n(from, n) : vf_load(from)) * shrink[h];
    }
    for (int32_t token = 0; token < tokens; token++, v += v_row)
        UNROLL for (int32_t i = 0; i < vectors; i++) {
            vf value = cut ? weights_load_n(t, v + i * step, n) : weights_load(t, v + i * step);
            UNROLL for (int32_t h = 0; h < heads; h++) acc[h][i] =
                vf_fma(vf_all(weight[h][token]), value, acc[h][i]);
        }
    UNROLL for (int32_t h = 0; h < heads; h++) UNROLL for (int32_t i = 0; i < vectors; i++) {
        float *to = out + h * dim + i * LANES;
        if (cut)
            vf_store_n(to, acc[h][i], n);
        else
            vf_store(to, acc[h][i]);
    }
}

INLINE void gather_heads(enum dtype t, int32_t heads, const char *v, const float (*weight)[PAGE_MAX],
                         int32_t tokens, const float *shrink, float *out, int32_t dim) {
    const size_t size = dtype_bytes(t), v_row = (size_t)dim * size;
    int32_t d = 0;
    for (; d + SPAN * LANES <= dim; d += SPAN * LANES)
        gather(t, heads, SPAN, LANES, v + d * size, v_row, weight, tokens, shrink, out + d, dim);
    for (; d + LANES <= dim; d += LANES)
        gather(t, heads, 1, LANES, v + d * size, v_row, weight, tokens, shrink, out + d, dim);
    if (d < dim) gather(t, heads, 1, dim - d, v + d * size, v_row, weight, tokens, shrink, out + d, dim);
}

INLINE void gather_type(enum dtype t, int32_t heads, const char *v, const float (*weight)[PAGE_MAX],
                        int32_t tokens, const float *shrink, float *out, int32_t dim) {
    if (heads == 1) gather_heads(t, 1, v, weight, tokens, shrink, out, dim);
    if (heads == 2) gather_heads(t, 2, v, weight, tokens, shrink, out, dim);
    if (heads == 3) gather_heads(t, 3, v, weight, tokens, shrink, out, dim);
}

/* `heads` <= ROW_TILE query heads over the first `tokens` tokens of one page. */
static void attend_page(const struct matrix *k, const struct matrix *v, const struct acts *q,
                        int32_t first_head, int32_t heads, int32_t tokens, struct running *seen, float *out) {
    float weight[ROW_TILE][PAGE_MAX], y[ROW_TILE][OUT_TILE], shrink[ROW_TILE];
    for (int32_t t = 0; t < tokens; t += OUT_TILE) {
        const int32_t count = min_i32(OUT_TILE, tokens - t);
        tile(k, t, count, q, first_head, heads, y);
        for (int32_t h = 0; h < heads; h++) memcpy(weight[h] + t, y[h], (size_t)count * sizeof(float));
    }
    for (int32_t h = 0; h < heads; h++) shrink[h] = soften(weight[h], tokens, &seen[h]);
    const float(*weights)[PAGE_MAX] = (const float(*)[PAGE_MAX])weight;
    if (v->dtype == DTYPE_F16)
        gather_type(DTYPE_F16, heads, v->data, weights, tokens, shrink, out, v->k);
    else
        gather_type(DTYPE_F32, heads, v->data, weights, tokens, shrink, out, v->k);
}

/* `heads` <= HEADS_MAX query heads of one kv head, from `head` on. */
static void attend_heads(const struct attend *p, int32_t row, int32_t kv_head, int32_t head, int32_t heads) {
    const size_t dim = (size_t)p->b->head_dim, at = ((size_t)row * (size_t)p->b->heads + (size_t)head) * dim;
    const struct acts q = {(const char *)(p->q + at), dim * sizeof(float)};
    const int32_t *page = p->rows->table + (size_t)p->rows->slot[row] * (size_t)p->rows->table_stride;
    const int32_t length = p->rows->position[row] + 1, size = p->kv->page_size;
    float *out = p->out + at;
    struct running seen[HEADS_MAX];
    for (int32_t h = 0; h < heads; h++) seen[h] = (struct running){-INFINITY, 0};
    memset(out, 0, (size_t)heads * dim * sizeof(float));
    for (int32_t start = 0; start < length; start += size, page++) {
        const struct matrix k = page_of(p, p->kv->k, *page, kv_head),
                            v = page_of(p, p->kv->v, *page, kv_head);
        for (int32_t h = 0; h < heads; h += ROW_TILE)
            attend_page(&k, &v, &q, h, min_i32(ROW_TILE, heads - h), min_i32(size, length - start), seen + h,
                        out + (size_t)h * dim);
    }
    for (int32_t h = 0; h < heads; h++)
        for (size_t d = 0; d < dim; d++) out[(size_t)h * dim + d] /= seen[h].sum;
}

static void attend_work(void *job, struct worker *w) {
    const struct attend *p = job;
    const int32_t kv_heads = p->b->kv_heads, group = p->b->heads / kv_heads;
    for (int32_t item, last; cpu_claim(w, &item, &last);)
        for (; item < last; item++)
            for (int32_t h = 0; h < group; h += HEADS_MAX)
                attend_heads(p, item / kv_heads, item % kv_heads, item % kv_heads * group + h,
                             min_i32(HEADS_MAX, group - h));
}

void cpu_attention(struct backend *be, const struct rows *rows, const struct attention_block *b,
                   const void *q, const struct kv_layer *kv, void *attended) {
    assert(kv->page_size <= PAGE_MAX && PAGE_MAX % LANES == 0);
    struct attend p = {rows, b, kv, q, attended};
    cpu_parallel(be, rows->n * b->kv_heads, 1, attend_work, &p);
}

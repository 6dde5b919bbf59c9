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
    float most;
    vf sum; /* by lanes */
};

/* One kv head's part of a page. */
struct page {
    struct matrix k, v;
    int32_t tokens; /* visible to the row */
};

static struct page page_of(const struct attend *p, int32_t page, int32_t kv_head, int32_t left) {
    const size_t size = (size_t)p->kv->page_size, dim = (size_t)p->b->head_dim;
    const size_t at = ((size_t)page * (size_t)p->b->kv_heads + (size_t)kv_head) * size * dim;
    const size_t byte = at * dtype_bytes(p->kv->dtype);
    const struct matrix k = {(const char *)p->kv->k + byte, p->kv->dtype, p->kv->page_size, p->b->head_dim};
    struct matrix v = k;
    v.data = (const char *)p->kv->v + byte;
    return (struct page){k, v, min_i32(left, p->kv->page_size)};
}

/* Pages are too short for the hardware to see them coming. */
static void page_prefetch(const struct page *page) {
    const size_t bytes = (size_t)page->tokens * (size_t)page->k.k * dtype_bytes(page->k.dtype);
    for (size_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch((const char *)page->k.data + i);
        __builtin_prefetch((const char *)page->v.data + i);
    }
}

/* The heads' greatest scores so far, this page's included; shrink: the factor for what was weighted by the
 * old. */
static void raise(float (*score)[PAGE_MAX], int32_t heads, int32_t tokens, struct running *seen,
                  float *shrink) {
    float fall[LANES] = {0};
    for (int32_t h = 0; h < heads; h++) {
        vf most = vf_all(seen[h].most);
        for (int32_t t = tokens; t % LANES; t++) score[h][t] = -INFINITY;
        for (int32_t t = 0; t < tokens; t += LANES) most = vf_max(vf_load(score[h] + t), most);
        const float now = vf_max_lane(most);
        fall[h] = seen[h].most - now;
        seen[h].most = now;
    }
    vf_store(fall, vf_exp(vf_load(fall)));
    memcpy(shrink, fall, (size_t)heads * sizeof *shrink);
}

/* Scores become weights e^(score - most) and join the sum. */
static void soften(float *score, int32_t tokens, float shrink, struct running *seen) {
    vf sum = seen->sum * shrink;
    for (int32_t t = 0; t < tokens; t += LANES) {
        vf weight = vf_exp(vf_load(score + t) - seen->most);
        vf_store(score + t, weight);
        sum = sum + (tokens - t < LANES ? vf_load_n(score + t, tokens - t) : weight);
    }
    seen->sum = sum;
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

/* `heads` <= ROW_TILE query heads over one page. */
static void attend_page(const struct page *page, const struct acts *q, int32_t first_head, int32_t heads,
                        struct running *seen, float *out) {
    float weight[ROW_TILE][PAGE_MAX], y[ROW_TILE][BLOCK_MAX], shrink[ROW_TILE];
    for (int32_t t = 0; t < page->tokens; t += BLOCK_MAX) {
        const int32_t count = min_i32(BLOCK_MAX, page->tokens - t);
        tile(&page->k, t, count, q, first_head, heads, false, y);
        for (int32_t h = 0; h < heads; h++) memcpy(weight[h] + t, y[h], (size_t)count * sizeof(float));
    }
    raise(weight, heads, page->tokens, seen, shrink);
    for (int32_t h = 0; h < heads; h++) soften(weight[h], page->tokens, shrink[h], &seen[h]);
    const float(*weights)[PAGE_MAX] = (const float(*)[PAGE_MAX])weight;
    if (page->v.dtype == DTYPE_F16)
        gather_type(DTYPE_F16, heads, page->v.data, weights, page->tokens, shrink, out, page->v.k);
    else
        gather_type(DTYPE_F32, heads, page->v.data, weights, page->tokens, shrink, out, page->v.k);
}

/* `heads` <= HEADS_MAX query heads of one kv head, from `head` on. */
static void attend_heads(const struct attend *p, int32_t row, int32_t kv_head, int32_t head, int32_t heads) {
    const size_t dim = (size_t)p->b->head_dim, at = ((size_t)row * (size_t)p->b->heads + (size_t)head) * dim;
    const struct acts q = {(const char *)(p->q + at), dim * sizeof(float)};
    const int32_t *table = p->rows->table + (size_t)p->rows->slot[row] * (size_t)p->rows->table_stride;
    const int32_t size = p->kv->page_size;
    float *out = p->out + at;
    struct running seen[HEADS_MAX];
    for (int32_t h = 0; h < heads; h++) seen[h] = (struct running){-INFINITY, vf_zero()};
    memset(out, 0, (size_t)heads * dim * sizeof(float));
    struct page next = page_of(p, *table, kv_head, p->rows->position[row] + 1);
    for (int32_t left = p->rows->position[row] + 1; left > 0; left -= size) {
        const struct page page = next;
        if (left > size) {
            next = page_of(p, *++table, kv_head, left - size);
            page_prefetch(&next);
        }
        for (int32_t h = 0; h < heads; h += ROW_TILE)
            attend_page(&page, &q, h, min_i32(ROW_TILE, heads - h), seen + h, out + (size_t)h * dim);
    }
    for (int32_t h = 0; h < heads; h++) {
        const float share = 1 / vf_sum(seen[h].sum);
        for (size_t d = 0; d < dim; d++) out[(size_t)h * dim + d] *= share;
    }
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

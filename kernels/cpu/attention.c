/* Attention of rows over their sequences' pages.
 *
 * An item is one row and one kv head, with all query heads that read it, so a page is read once for all of
 * them. Pages are taken in order, in splits of up to SPLIT tokens, each folded into a running softmax
 * (greatest score, sum, weighted values). Where splits begin depends on the position alone, and only the
 * row's own 0..position, or the window's end of them, are touched: what else lies in the pages may be
 * anything.
 *
 * Scores are products of keys with queries and use the same tile as the weights do. Those of the next split
 * are begun before the present one is folded in, so that neither waits for the other's last results.
 *
 * An 8-bit cache is widened to f32 split by split, and the tokens of a split that the way through a tree of
 * proposals has scattered are gathered: one place for keys and one for values, each filled right before it is
 * read.
 */
#include <math.h>

#include "kernels/cpu/acts.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

enum {
    SPLIT = 32,
    HEADS_MAX = 16, /* query heads that share one pass over the pages */
    FOLD_HEADS = 3, /* of them folded together */
    SPAN = 4,       /* vectors of a value accumulated together */
};

typedef float scores[BLOCK_MAX]; /* SPLIT of them used */

/* Keys or values, and the bytes of a vector's elements and of a block: one head's part of a page. */
struct pool {
    const char *data;
    enum dtype dtype;
    size_t vector, block;
};

struct attend {
    const struct rows *rows;
    const struct attention_block *b;
    int32_t page_size;
    struct pool k, v;
    const float *q;
    float *out;
};

/* What one query head has seen so far; its weighted values stand in the output. */
struct running {
    float most;
    vf sum; /* by lanes */
};

/* A vector in a pool: its elements, and of 8 bits its scales. */
struct vector {
    const char *elements, *scales;
};

/* Consecutive positions inside one page's borders, for one kv head; k and v: where their places begin, were
 * they in order. */
struct split {
    int32_t row, kv_head, position, tokens;
    bool scattered;
    struct vector k, v;
};

/* Keys or values that are not read where they lie. */
typedef float prepared[SPLIT * HEAD_MAX];

/* What is multiplied with a cache of this type. */
static enum dtype read_as(enum dtype cache) {
    return cache == DTYPE_Q8_0 ? DTYPE_F32 : cache;
}

/* Which of a pool's blocks, and which vector of it. */
struct spot {
    size_t block, offset;
};

static struct spot spot_at(const struct attend *p, const struct split *s, int32_t place) {
    const size_t size = (size_t)p->page_size,
                 slot = (size_t)p->rows->slot[s->row] * (size_t)p->rows->table_stride,
                 page = (size_t)p->rows->table[slot + (size_t)place / size];
    return (struct spot){page * (size_t)p->b->kv_heads + (size_t)s->kv_head, (size_t)place % size};
}

static struct vector vector_at(const struct attend *p, const struct pool *pool, struct spot at) {
    const char *block = pool->data + at.block * pool->block;
    const char *scales =
        block + (size_t)p->page_size * pool->vector + at.offset * (size_t)kv_groups(p->b->head_dim) * 2;
    return (struct vector){block + at.offset * pool->vector, pool->dtype == DTYPE_Q8_0 ? scales : NULL};
}

/* Whether positions [from, to) of a row are not all in order. */
static bool scattered(const struct rows *rows, int32_t row, int32_t from, int32_t to) {
    if (!rows->path) return false;
    const int32_t root = rows->path[(ptrdiff_t)row * TREE_ROWS];
    for (int32_t i = from < root ? root : from; i < to; i++)
        if (rows_place(rows, row, i) != i) return true;
    return false;
}

static struct split split_at(const struct attend *p, int32_t row, int32_t kv_head, int32_t position) {
    const int32_t size = p->page_size, in_page = min_i32(SPLIT, size - position % size),
                  tokens = min_i32(in_page, p->rows->position[row] + 1 - position);
    struct split s = {
        row,          kv_head,     position, tokens, scattered(p->rows, row, position, position + tokens),
        {NULL, NULL}, {NULL, NULL}};
    const struct spot at = spot_at(p, &s, position);
    s.k = vector_at(p, &p->k, at);
    s.v = vector_at(p, &p->v, at);
    return s;
}

/* Splits are too short for the hardware to see them coming. Into the second level: more can be under way. */
static void split_prefetch(const struct attend *p, const struct split *s) {
    const size_t tokens = (size_t)s->tokens;
    for (size_t i = 0; i < tokens * p->k.vector; i += 64) __builtin_prefetch(s->k.elements + i, 0, 2);
    for (size_t i = 0; i < tokens * p->v.vector; i += 64) __builtin_prefetch(s->v.elements + i, 0, 2);
}

/* A split's keys or values one after the other, as read_as says: where they lie, from `first` on, or in
 * `room`.
 */
static const void *vectors(const struct attend *p, const struct split *s, const struct pool *pool,
                           const struct vector *first, float *room) {
    const int32_t dim = p->b->head_dim;
    if (!s->scattered && !first->scales) return first->elements;
    if (!s->scattered) {
        cache_widen(first->elements, first->scales, s->tokens, dim, room);
        return room;
    }
    for (int32_t i = 0; i < s->tokens; i++) {
        const int32_t place = rows_place(p->rows, s->row, s->position + i);
        const struct vector v = vector_at(p, pool, spot_at(p, s, place));
        const size_t bytes = v.scales ? (size_t)dim * sizeof(float) : pool->vector;
        char *to = (char *)room + (size_t)i * bytes;
        if (v.scales)
            cache_widen(v.elements, v.scales, 1, dim, (float *)to);
        else
            memcpy(to, v.elements, bytes);
    }
    return room;
}

static void score(const struct attend *p, const struct split *s, const struct acts *q, int32_t heads,
                  float *room, scores *score) {
    const struct matrix k = {vectors(p, s, &p->k, &s->k, room), read_as(p->k.dtype), s->tokens,
                             p->b->head_dim};
    for (int32_t h = 0; h < heads; h += ROWS_MAX)
        tile(&k, 0, s->tokens, q, h, min_i32(ROWS_MAX, heads - h), score + h);
    if (p->b->softcap == 0) return;
    for (int32_t h = 0; h < heads; h++)
        for (int32_t t = 0; t < s->tokens; t += LANES)
            vf_store(score[h] + t, vf_softcap(vf_load(score[h] + t), p->b->softcap));
}

/* The heads' greatest scores so far, this page's included; shrink: the factor for what was weighted by the
 * old. */
static void raise(scores *score, int32_t heads, int32_t tokens, struct running *seen, float *shrink) {
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
                   const scores *weight, int32_t tokens, const float *shrink, float *out, size_t dim) {
    const size_t step = LANES * dtype_bytes(t);
    const bool cut = n < LANES;
    vf acc[FOLD_HEADS][SPAN];
    UNROLL for (int32_t h = 0; h < heads; h++) UNROLL for (int32_t i = 0; i < vectors; i++) {
        const float *from = out + h * dim + i * LANES;
        acc[h][i] = (cut ? vf_load_n(from, n) : vf_load(from)) * shrink[h];
    }
    for (int32_t token = 0; token < tokens; token++, v += v_row)
        UNROLL for (int32_t i = 0; i < vectors; i++) {
            vf value = cut ? weights_part_n(t, v + i * step, 0, n) : weights_part(t, v + i * step, 0);
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

INLINE void gather_heads(enum dtype t, int32_t heads, const char *v, const scores *weight, int32_t tokens,
                         const float *shrink, float *out, int32_t dim) {
    const size_t size = dtype_bytes(t), v_row = (size_t)dim * size;
    int32_t d = 0;
    for (; d + SPAN * LANES <= dim; d += SPAN * LANES)
        gather(t, heads, SPAN, LANES, v + d * size, v_row, weight, tokens, shrink, out + d, dim);
    for (; d + LANES <= dim; d += LANES)
        gather(t, heads, 1, LANES, v + d * size, v_row, weight, tokens, shrink, out + d, dim);
    if (d < dim) gather(t, heads, 1, dim - d, v + d * size, v_row, weight, tokens, shrink, out + d, dim);
}

INLINE void gather_type(enum dtype t, int32_t heads, const char *v, const scores *weight, int32_t tokens,
                        const float *shrink, float *out, int32_t dim) {
    if (heads == 1) gather_heads(t, 1, v, weight, tokens, shrink, out, dim);
    if (heads == 2) gather_heads(t, 2, v, weight, tokens, shrink, out, dim);
    if (heads == 3) gather_heads(t, 3, v, weight, tokens, shrink, out, dim);
}

/* Folds a split into what `heads` query heads have seen and into their output. */
static void fold(const struct attend *p, const struct split *s, scores *score, int32_t heads,
                 struct running *seen, float *room, float *out) {
    const int32_t dim = p->b->head_dim;
    const char *v = vectors(p, s, &p->v, &s->v, room);
    for (int32_t h = 0; h < heads; h += FOLD_HEADS) {
        const int32_t n = min_i32(FOLD_HEADS, heads - h);
        const scores *weight = (const scores *)(score + h);
        float shrink[FOLD_HEADS];
        raise(score + h, n, s->tokens, seen + h, shrink);
        for (int32_t i = h; i < h + n; i++) soften(score[i], s->tokens, shrink[i - h], &seen[i]);
        if (p->v.dtype == DTYPE_F16)
            gather_type(DTYPE_F16, n, v, weight, s->tokens, shrink, out + (size_t)h * (size_t)dim, dim);
        else
            gather_type(DTYPE_F32, n, v, weight, s->tokens, shrink, out + (size_t)h * (size_t)dim, dim);
    }
}

/* `heads` <= HEADS_MAX query heads of one kv head, from `head` on. */
static void attend_heads(const struct attend *p, int32_t row, int32_t kv_head, int32_t head, int32_t heads) {
    const size_t dim = (size_t)p->b->head_dim, at = ((size_t)row * (size_t)p->b->heads + (size_t)head) * dim;
    const struct acts q = {(const char *)(p->q + at), dim * sizeof(float)};
    const int32_t length = p->rows->position[row] + 1;
    const bool cold = row == 0 || p->rows->slot[row] != p->rows->slot[row - 1];
    float *out = p->out + at;
    struct running seen[HEADS_MAX];
    for (int32_t h = 0; h < heads; h++) seen[h] = (struct running){-INFINITY, vf_zero()};
    memset(out, 0, (size_t)heads * dim * sizeof(float));
    scores ahead[2][HEADS_MAX];
    prepared keys, values; /* touched by an 8-bit cache or a tree only */
    const int32_t first = p->b->window && p->b->window < length ? length - p->b->window : 0;
    struct split split[2] = {split_at(p, row, kv_head, first)};
    score(p, &split[0], &q, heads, keys, ahead[0]);
    for (int32_t turn = 0, begun = first + split[0].tokens, done = first; done < length; turn ^= 1) {
        if (begun < length) {
            struct split *next = &split[turn ^ 1];
            *next = split_at(p, row, kv_head, begun);
            begun += next->tokens;
            if (cold && begun < length) {
                const struct split later = split_at(p, row, kv_head, begun);
                split_prefetch(p, &later);
            }
            score(p, next, &q, heads, keys, ahead[turn ^ 1]);
        }
        fold(p, &split[turn], ahead[turn], heads, seen, values, out);
        done += split[turn].tokens;
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

static struct pool pool_of(const void *data, enum dtype type, int32_t page_size, int32_t head_dim) {
    return (struct pool){data, type, (size_t)head_dim * (type == DTYPE_Q8_0 ? 1 : dtype_bytes(type)),
                         kv_head_bytes(type, page_size, head_dim)};
}

void cpu_attention(struct backend *be, const struct rows *rows, const struct attention_block *b,
                   const void *q, const struct kv_layer *kv, void *attended) {
    struct attend p = {.rows = rows, .b = b, .page_size = kv->page_size, .q = q, .out = attended};
    p.k = pool_of(kv->k, kv->k_dtype, kv->page_size, b->head_dim);
    p.v = pool_of(kv->v, kv->v_dtype, kv->page_size, b->head_dim);
    /* about 5 ns a token and head; a microsecond or two is worth handing over */
    const int32_t seen = b->window ? min_i32(b->window, rows->max_position + 1) : rows->max_position + 1;
    const int64_t cost = (int64_t)5 * seen * (b->heads / b->kv_heads);
    cpu_parallel(be, rows->n * b->kv_heads, cost >= 1500 ? 1 : (int32_t)(1500 / cost) + 1, attend_work, &p);
}

/* The CPU's operations: each against plain double-precision arithmetic, and each row's bits against the same
 * row in other company. Every instruction set of this machine, one table of shapes.
 *
 * Outputs are poisoned with NaN before each operation, so an element that nothing wrote fails; the cache is
 * NaN wherever its sequence has not come, so an element read too far fails as well.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/helpers_machines.h"

static const struct shape shapes[] = {
    {SHAPE("even", 64, 96, 4, 2, 16, 100, 16, DTYPE_BF16, DTYPE_F16)},
    {SHAPE("odd head", 72, 104, 3, 1, 20, 77, 16, DTYPE_BF16, DTYPE_F32)},
    {SHAPE("odd width", 33, 45, 2, 2, 6, 131, 32, DTYPE_BF16, DTYPE_F16)},
    {SHAPE("half", 130, 70, 6, 2, 64, 264, 32, DTYPE_F16, DTYPE_F16)},
    {SHAPE("half, odd", 37, 51, 4, 4, 80, 9, 16, DTYPE_F16, DTYPE_F32)},
    {SHAPE("float", 96, 250, 5, 5, 80, 129, 16, DTYPE_F32, DTYPE_F32)},
    {SHAPE("float, odd", 61, 3, 5, 1, 10, 1, 256, DTYPE_F32, DTYPE_F16)},
    {SHAPE("many heads", 40, 48, 38, 2, 24, 30, 64, DTYPE_BF16, DTYPE_F16)},
    {SHAPE("verifier", 384, 1024, 6, 2, 64, 515, 16, DTYPE_BF16, DTYPE_F16)},
    {SHAPE("biases", 33, 45, 4, 2, 18, 131, 16, DTYPE_BF16, DTYPE_F16), .bias = true},
    {SHAPE("normed heads, window", 72, 104, 4, 2, 84, 77, 16, DTYPE_BF16, DTYPE_F16), .qk_norm = true,
     .window = 9},
    {SHAPE("caps and post norms", 61, 51, 4, 2, 160, 67, 32, DTYPE_BF16, DTYPE_F32), .post_norm = true,
     .gelu = true, .window = 33, .score_cap = 1.5f, .logit_cap = 2, .embedding_scale = 7.5f},
    {SHAPE("all at once", 40, 70, 6, 3, 34, 99, 16, DTYPE_F32, DTYPE_F32), .bias = true, .qk_norm = true,
     .post_norm = true, .gelu = true, .window = 17, .score_cap = 2, .logit_cap = 3, .embedding_scale = 0.5f},
    {SHAPE("8 bits", 384, 1024, 6, 2, 64, 131, 16, DTYPE_Q8_0, DTYPE_F16)},
    {SHAPE("8 bits, odd", 96, 160, 4, 2, 40, 77, 16, DTYPE_Q8_0, DTYPE_F32)},
    {SHAPE("8 bits, small", 32, 32, 4, 1, 8, 9, 32, DTYPE_Q8_0, DTYPE_F16)},
    {SHAPE("8-bit cache", 384, 1024, 6, 2, 64, 131, 16, DTYPE_BF16, DTYPE_Q8_0)},
    {SHAPE("8-bit cache, odd", 61, 51, 4, 2, 84, 77, 32, DTYPE_F32, DTYPE_Q8_0), .bias = true,
     .qk_norm = true, .window = 19, .score_cap = 1.5f},
    {SHAPE("8-bit cache, small", 40, 48, 38, 2, 6, 30, 64, DTYPE_BF16, DTYPE_Q8_0)},
    {SHAPE("8-bit keys", 61, 51, 4, 2, 84, 77, 32, DTYPE_BF16, DTYPE_Q8_0), .mixed = true, .window = 19},
    {SHAPE("8-bit values", 96, 160, 6, 2, 64, 77, 16, DTYPE_BF16, DTYPE_F16), .mixed = true},
    {SHAPE("8-bit values, odd", 40, 48, 38, 2, 6, 30, 64, DTYPE_F32, DTYPE_F32), .mixed = true},
    {SHAPE("8-bit floats", 384, 1024, 6, 2, 64, 131, 16, DTYPE_F8, DTYPE_F16)},
    {SHAPE("8-bit floats, odd", 128, 256, 16, 4, 8, 77, 16, DTYPE_F8, DTYPE_F32), .bias = true,
     .qk_norm = true},
    {SHAPE("4 bits", 384, 1024, 6, 2, 64, 131, 16, DTYPE_Q4_0, DTYPE_F16)},
    {SHAPE("4 bits, odd", 64, 352, 16, 4, 6, 113, 16, DTYPE_Q4_0, DTYPE_F32), .bias = true, .qk_norm = true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, SLOTS = 5, MAX_THREADS = 4 };

static const float POISON = NAN;

/* ---- quantised matrices: as the machines hold them, and their values ---- */

enum { QUANTIZED_MAX = 8 };

struct quantized {
    int n;
    struct matrix held[QUANTIZED_MAX];
    float *values[QUANTIZED_MAX];
};

/* One layout serves all instruction sets, so any machine may make it; the blocks need not stay. */
static struct matrix quantized_matrix(struct quantized *all, uint64_t *seed, enum dtype type, int32_t n,
                                      int32_t k) {
    struct machine m;
    struct matrix held;
    float *values = malloc((size_t)n * (size_t)k * sizeof *values);
    char *blocks = random_blocks(seed, type, n, k);
    assert_true(machine_open(0, 1, &shapes[0], &m));
    assert_int_equal(m.ops->weight(m.be, blocks, type, n, k, &held), OUTRIDER_OK);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < k; j++)
            values[i * k + j] =
                (float)block_value(type, blocks + (size_t)i * dtype_row_bytes(type, (size_t)k), j);
    free(blocks);
    machine_close(&m);
    all->held[all->n] = held, all->values[all->n++] = values;
    return held;
}

/* What the reference computes with. */
static struct matrix plain(const struct quantized *all, const struct matrix *m) {
    for (int i = 0; i < all->n; i++)
        if (all->held[i].data == m->data) return (struct matrix){all->values[i], DTYPE_F32, m->n, m->k};
    return *m;
}

/* ---- a world: one layer, sequences in scattered pages, and rows at awkward places ---- */

struct world {
    const struct shape *s;
    struct layer l;
    struct matrix table; /* embedding and head */
    struct quantized quantized;
    float *rope, *x; /* [ROWS][hidden] */
    int32_t token[ROWS], position[ROWS], slot[ROWS];
    int32_t *pages, stride, n_pages, positions;
    struct rows rows;
    struct kv_layer kv;
    size_t pool_bytes; /* of the larger one; both have as many */
};

/* One head's vector of one token: its elements and, of 8 bits, its scales, in bytes of the pool. */
struct vector {
    size_t at, bytes, scales, scales_bytes;
};

enum pool { KEYS, VALUES };

static enum dtype type_of(const struct world *w, enum pool pool) {
    return pool == KEYS ? w->s->cache : values_type(w->s);
}

static struct vector vector_at(const struct world *w, enum pool pool, int32_t slot, int32_t position,
                               int32_t kv_head) {
    const struct shape *s = w->s;
    const size_t size = (size_t)s->page_size, dim = (size_t)s->head_dim, place = (size_t)position % size,
                 page = (size_t)w->pages[slot * w->stride + position / s->page_size];
    const enum dtype type = type_of(w, pool);
    const size_t element = type == DTYPE_Q8_0 ? 1 : dtype_bytes(type),
                 scales = type == DTYPE_Q8_0 ? 2 * ((dim + 31) / 32) : 0,
                 block = (page * (size_t)s->kv_heads + (size_t)kv_head) * size * (dim * element + scales);
    return (struct vector){block + place * dim * element, dim * element, block + size * dim + place * scales,
                           scales};
}

static double cached(const struct world *w, enum pool pool, const void *data, int32_t slot, int32_t position,
                     int32_t kv_head, int32_t d) {
    const struct vector v = vector_at(w, pool, slot, position, kv_head);
    const char *at = (const char *)data + v.at;
    if (type_of(w, pool) != DTYPE_Q8_0) return get(type_of(w, pool), at, (size_t)d);
    uint16_t scale;
    memcpy(&scale, (const char *)data + v.scales + d % (w->s->head_dim / 2) / 16 * 2, 2);
    return f16_value(scale) * (int8_t)at[d];
}

/* Rows cover the borders of pages, then go on in no order; no two share slot and position. */
static void place_rows(struct world *w) {
    const int32_t size = w->s->page_size,
                  borders[] = {0, 1, size - 1, size, size + 1, 2 * size - 1, 2 * size};
    for (int32_t r = 0; r < ROWS; r++) {
        int32_t turn = r / SLOTS;
        w->slot[r] = r * 3 % SLOTS;
        w->position[r] = turn < 7 ? borders[turn] : 2 * size + 1 + (turn - 7) * 11 % 23 + w->slot[r];
        w->token[r] = (r * 7919 + 3) % w->s->vocab;
    }
}

static void fill_vector(const struct world *w, enum dtype type, char *pool, struct vector v, uint64_t *seed) {
    for (int32_t d = 0; d < w->s->head_dim; d++) {
        if (type == DTYPE_Q8_0)
            pool[v.at + (size_t)d] = (char)(int8_t)(127 * random_float(seed));
        else
            put(type, pool + v.at, (size_t)d, random_float(seed));
    }
    for (size_t i = 0; i < v.scales_bytes / 2; i++)
        put(DTYPE_F16, pool + v.scales, i, (1 + 0.9 * random_float(seed)) / 127);
}

static void fill_cache(struct world *w, uint64_t *seed) {
    const struct shape *s = w->s;
    memset(w->kv.k, 0xff, w->pool_bytes), memset(w->kv.v, 0xff, w->pool_bytes); /* NaN in f32 and f16 */
    for (int32_t slot = 0; slot < SLOTS; slot++) {
        int32_t last = 0;
        for (int32_t r = 0; r < ROWS; r++)
            if (w->slot[r] == slot && w->position[r] > last) last = w->position[r];
        for (int32_t p = 0; p <= last; p++)
            for (int32_t h = 0; h < s->kv_heads; h++)
                for (int i = 0; i < 2; i++)
                    fill_vector(w, type_of(w, i ? VALUES : KEYS), i ? w->kv.v : w->kv.k,
                                vector_at(w, i ? VALUES : KEYS, slot, p, h), seed);
    }
}

static void open_weights(struct world *w, uint64_t *seed) {
    struct shape s = *w->s;
    if (dtype_is_quantized(s.weights)) s.weights = DTYPE_F32; /* replaced below */
    w->l = random_layer(seed, &s, w->rope);
    w->table = random_matrix(seed, s.weights, s.vocab, s.hidden);
    if (s.weights == w->s->weights) return;
    struct matrix *all[] = {&w->l.attention.q, &w->l.attention.k, &w->l.attention.v, &w->l.output.w,
                            &w->l.mlp.gate,    &w->l.mlp.up,      &w->l.down.w,      &w->table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free((void *)all[i]->data);
        *all[i] = quantized_matrix(&w->quantized, seed, w->s->weights, all[i]->n, all[i]->k);
    }
}

static void world_open(const struct shape *s, struct world *w) {
    uint64_t seed = (uint64_t)s->hidden;
    *w = (struct world){.s = s};
    w->positions = 2 * s->page_size + 40;
    w->stride = w->positions / s->page_size + 1;
    w->n_pages = w->stride * SLOTS + 3;
    w->rope = rope_table(w->positions, s->head_dim);
    open_weights(w, &seed);
    w->x = random_floats(&seed, (size_t)ROWS * (size_t)s->hidden, 0.1f, 2);
    w->pages = malloc((size_t)(w->stride * SLOTS) * sizeof *w->pages);
    for (int32_t i = 0; i < w->stride * SLOTS; i++) /* scattered: a step that shares no factor */
        w->pages[i] = (int32_t)((int64_t)(i + 1) * 10007 % w->n_pages);
    const enum dtype values = values_type(s);
    const size_t k = kv_head_bytes(s->cache, s->page_size, s->head_dim),
                 v = kv_head_bytes(values, s->page_size, s->head_dim);
    w->pool_bytes = (size_t)w->n_pages * (size_t)s->kv_heads * (k > v ? k : v);
    w->kv = (struct kv_layer){malloc(w->pool_bytes), malloc(w->pool_bytes), s->cache, values, s->page_size};
    place_rows(w);
    fill_cache(w, &seed);
    w->rows = (struct rows){ROWS,      w->token,         w->position, w->slot, w->pages,
                            w->stride, w->positions - 1, false,       NULL};
}

static void world_close(struct world *w) {
    layer_free(&w->l);
    free((void *)w->table.data);
    for (int i = 0; i < w->quantized.n; i++) free(w->quantized.values[i]);
    free(w->rope), free(w->x), free(w->pages), free(w->kv.k), free(w->kv.v);
}

static float *poisoned(size_t n) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = POISON;
    return x;
}

/* ---- the reference ---- */

/* A value, and how far off a correct single-precision computation may be. */
struct value {
    double is, slack;
};

static const double EPSILON = 3e-6; /* of the sum of magnitudes that went into a product */

static void close_to(struct value want, double got, const char *shape, const char *isa, const char *what,
                     size_t at) {
    if (fabs(got - want.is) <= want.slack) return; /* false for NaN */
    fail_msg("%s, %s: %s[%zu] is %.9g, should be %.9g within %.2g", shape, isa, what, at, got, want.is,
             want.slack);
}

/* 32 activations in 8 bits under one scale; where single precision may round either way, the slack is a step.
 */
static void group_activations(struct value *x) {
    double most = 0;
    for (int i = 0; i < 32; i++) most = fmax(most, fabs(x[i].is));
    const double step = most / 127, doubt = 3e-6 * 127; /* of a step: errors of x and of the scale */
    for (int i = 0; i < 32 && step > 0; i++) {
        const double q = x[i].is / step, near = nearbyint(q);
        const bool either = fabs(fabs(q - near) - 0.5) < doubt;
        x[i] = (struct value){near * step, fabs(near * step) * 2e-6 + (either ? step : 0)};
    }
}

/* A row as the products read it. Where the exact value lies so near the middle of two bf16 that single
 * precision may round it either way, the slack is the step between them. */
static void activations(const struct shape *s, const float *x, int32_t k, const float *norm, double eps,
                        struct value *out) {
    double squares = 0;
    for (int32_t i = 0; i < k; i++) squares += (double)x[i] * x[i];
    for (int32_t i = 0; i < k; i++) {
        double exact = norm ? x[i] / sqrt(squares / k + eps) * norm[i] : x[i];
        out[i] = (struct value){exact, norm ? fabs(exact) * 1e-6 : 0};
        if (s->weights != DTYPE_BF16) continue; /* block types: below, group by group */
        double near = to_bf16(exact), off = out[i].slack;
        out[i] = (struct value){near, fabs(to_bf16(exact + off) - to_bf16(exact - off))};
    }
    const bool integers = s->weights == DTYPE_Q8_0 || s->weights == DTYPE_Q4_0;
    for (int32_t i = 0; integers && i < k; i += 32) group_activations(out + i);
}

static struct value product(const struct world *world, const struct matrix *m, int32_t row,
                            const struct value *a) {
    const struct matrix w = plain(&world->quantized, m);
    double sum = 0, magnitude = 0, slack = 0;
    for (int32_t i = 0; i < w.k; i++) {
        double weight = get(w.dtype, w.data, (size_t)row * (size_t)w.k + (size_t)i);
        sum += weight * a[i].is;
        magnitude += fabs(weight * a[i].is);
        slack += fabs(weight) * a[i].slack;
    }
    return (struct value){sum, slack + EPSILON * magnitude + 1e-30};
}

static struct value *activations_of(const struct world *w, int32_t row, const float *norm, double eps) {
    struct value *a = malloc((size_t)w->s->hidden * sizeof *a);
    activations(w->s, w->x + (size_t)row * (size_t)w->s->hidden, w->s->hidden, norm, eps, a);
    return a;
}

/* ---- exactness, operation by operation ---- */

typedef void check_fn(struct machines *all, struct world *w);

static void each_shape(check_fn *check) {
    for (int i = 0; i < SHAPES; i++) {
        struct world w;
        world_open(&shapes[i], &w);
        struct machines all = machines_open(&shapes[i]);
        check(&all, &w);
        machines_close(&all);
        world_close(&w);
    }
}

/* An output of each machine. */
struct outputs {
    const struct machines *all;
    const char *shape, *what;
    float *x[ISAS];
};

static struct outputs outputs_open(const struct machines *all, const struct world *w, const char *what,
                                   size_t n) {
    struct outputs o = {.all = all, .shape = w->s->name, .what = what};
    for (int i = 0; i < all->n; i++) o.x[i] = poisoned(n);
    return o;
}

static void outputs_close(struct outputs *o) {
    for (int i = 0; i < o->all->n; i++) free(o->x[i]);
}

static void all_close(const struct outputs *o, size_t at, struct value want) {
    for (int i = 0; i < o->all->n; i++) close_to(want, o->x[i][at], o->shape, o->all->m[i].isa, o->what, at);
}

static void check_embed(struct machines *all, struct world *w) {
    if (dtype_is_quantized(w->s->weights)) return; /* tables are not */
    size_t hidden = (size_t)w->s->hidden;
    struct outputs x = outputs_open(all, w, "x", ROWS * hidden);
    const float scale = w->s->embedding_scale ? w->s->embedding_scale : 1;
    for (int i = 0; i < all->n; i++) all->m[i].ops->embed(all->m[i].be, &w->rows, &w->table, scale, x.x[i]);
    for (size_t i = 0; i < ROWS * hidden; i++) {
        double want = get(w->s->weights, w->table.data, (size_t)w->token[i / hidden] * hidden + i % hidden);
        all_close(&x, i, (struct value){(float)want * scale, 0});
    }
    outputs_close(&x);
}

/* The values y[n] through RMSNorm. */
static void normed(const struct value *y, int32_t n, const float *norm, double eps, struct value *out) {
    double squares = 0, off = 0;
    for (int32_t i = 0; i < n; i++) squares += y[i].is * y[i].is, off += 2 * fabs(y[i].is) * y[i].slack;
    const double factor = 1 / sqrt(squares / n + eps), share = off / (2 * squares + 1e-30) + 1e-6;
    for (int32_t i = 0; i < n; i++) {
        const double is = y[i].is * factor * norm[i];
        out[i] = (struct value){is, fabs(factor * norm[i]) * y[i].slack + fabs(is) * share};
    }
}

static struct value plus(struct value v, const float *bias, int32_t at) {
    if (!bias) return v;
    return (struct value){v.is + bias[at], v.slack + 1e-7 * (fabs(v.is) + fabs(bias[at]))};
}

/* cap tanh(x / cap), of slope 1 at most. */
static struct value capped(struct value v, double cap) {
    if (cap == 0) return v;
    return (struct value){cap * tanh(v.is / cap), v.slack + 3e-7 * cap};
}

static void check_project(struct machines *all, struct world *w) {
    const struct projection *p = &w->l.down;
    int32_t n = p->w.n, k = p->w.k;
    uint64_t seed = 7;
    float *in = random_floats(&seed, (size_t)(ROWS * k), 0.1f, 1);
    struct value *a = malloc((size_t)k * sizeof *a), *y = malloc((size_t)n * sizeof *y);
    struct outputs x = outputs_open(all, w, "x", (size_t)(ROWS * n));
    for (int i = 0; i < all->n; i++) {
        memcpy(x.x[i], w->x, (size_t)(ROWS * n) * sizeof(float));
        all->m[i].ops->project(all->m[i].be, &w->rows, &w->l.down, in, x.x[i]);
    }
    for (int32_t r = 0; r < ROWS; r++) {
        activations(w->s, in + r * k, k, NULL, 0, a);
        for (int32_t j = 0; j < n; j++) y[j] = plus(product(w, &p->w, j, a), p->bias, j);
        if (p->norm) normed(y, n, p->norm, p->norm_eps, y);
        for (int32_t j = 0; j < n; j++) {
            struct value want = y[j];
            want.is += w->x[r * n + j], want.slack += 1e-7 * (fabs(y[j].is) + fabs(want.is));
            all_close(&x, (size_t)(r * n + j), want);
        }
    }
    outputs_close(&x);
    free(a), free(y), free(in);
}

static void check_gate_up(struct machines *all, struct world *w) {
    const struct mlp_block *b = &w->l.mlp;
    int32_t n = b->gate.n;
    struct outputs hidden = outputs_open(all, w, "hidden", (size_t)(ROWS * n));
    for (int i = 0; i < all->n; i++) all->m[i].ops->gate_up(all->m[i].be, &w->rows, b, w->x, hidden.x[i]);
    for (int32_t r = 0; r < ROWS; r++) {
        struct value *a = activations_of(w, r, b->norm, b->norm_eps);
        for (int32_t j = 0; j < n; j++) {
            struct value gate = plus(product(w, &b->gate, j, a), b->bias, j);
            struct value up = plus(product(w, &b->up, j, a), b->bias, n + j);
            double act = (b->gelu ? gelu : silu)(gate.is), is = act * up.is; /* slopes below 1.2 */
            double slack =
                1.2 * gate.slack * fabs(up.is) + fabs(act) * up.slack + 1.2 * gate.slack * up.slack;
            all_close(&hidden, (size_t)(r * n + j), (struct value){is, slack + 1e-6 * fabs(is)});
        }
        free(a);
    }
    outputs_close(&hidden);
}

static void check_logits(struct machines *all, struct world *w) {
    enum { PICKS = 5 };
    const int32_t pick[PICKS] = {149, 0, 77, 77, 3};
    const struct head_block h = {w->l.mlp.norm, 1e-6f, w->table, w->s->logit_cap};
    size_t vocab = (size_t)w->s->vocab;
    for (int round = 0; round < 2; round++) {
        const int32_t *picked = round ? pick : NULL;
        struct outputs logits = outputs_open(all, w, "logits", PICKS * vocab);
        for (int i = 0; i < all->n; i++)
            all->m[i].ops->logits(all->m[i].be, &h, w->x, picked, PICKS, logits.x[i]);
        for (int32_t i = 0; i < PICKS; i++) {
            struct value *a = activations_of(w, picked ? picked[i] : i, h.norm, h.norm_eps);
            for (size_t v = 0; v < vocab; v++)
                all_close(&logits, (size_t)i * vocab + v,
                          capped(product(w, &w->table, (int32_t)v, a), h.softcap));
            free(a);
        }
        outputs_close(&logits);
    }
}

/* Output `at` of a rotated head whose products are y[head_dim]. */
static struct value rotated(const float *rope, const struct value *y, int32_t dim, int32_t at) {
    int32_t half = dim / 2, i = at % half;
    double c = rope[2 * i], s = at < half ? -rope[2 * i + 1] : rope[2 * i + 1];
    struct value self = y[at], other = y[at < half ? at + half : at - half];
    double slack =
        fabs(c) * self.slack + fabs(s) * other.slack + 2e-7 * (fabs(c * self.is) + fabs(s * other.is));
    return (struct value){self.is * c + other.is * s, slack};
}

/* A head's vector as the cache keeps it. In 8 bits an element is at most half a step from what it was, and
 * the scale, rounded to f16, costs the greatest of its group 127 times what it is off. */
static void stored(enum dtype type, int32_t dim, struct value *v) {
    double step[512 / 32] = {0};
    for (int32_t d = 0; d < dim; d++) {
        const int32_t group = d % (dim / 2) / 16;
        step[group] = fmax(step[group], (fabs(v[d].is) + v[d].slack) / 127);
    }
    for (int32_t d = 0; d < dim && type != DTYPE_F32; d++)
        v[d].slack += type == DTYPE_F16
                          ? fabs(v[d].is) * 0x1p-11 + 0x1p-25
                          : step[d % (dim / 2) / 16] * (0.5 + 127 * 0x1p-11 + 1e-6) + 127 * 0x1p-25;
}

/* What one operation left: queries, and a cache of its own. */
struct written {
    float *q;
    struct kv_layer kv;
};

enum part { QUERY, KEY, VALUE };

static void check_head(const struct machines *all, const struct world *w, const struct written *got,
                       const struct value *a, int32_t row, enum part part, int32_t head) {
    static const char *const names[] = {"q", "k", "v"};
    const struct attention_block *b = &w->l.attention;
    const struct matrix *m = part == QUERY ? &b->q : part == KEY ? &b->k : &b->v;
    const int32_t dim = w->s->head_dim;
    const float *rope = w->rope + (size_t)w->position[row] * (size_t)dim;
    const double scale = part == QUERY ? 1 / sqrt(dim) : 1;
    struct value *y = malloc((size_t)dim * sizeof *y);
    const int32_t first = (part == QUERY ? 0 : part == KEY ? b->heads : b->heads + b->kv_heads) + head;
    for (int32_t d = 0; d < dim; d++) y[d] = plus(product(w, m, head * dim + d, a), b->bias, first * dim + d);
    const float *norm = part == QUERY ? b->q_norm : part == KEY ? b->k_norm : NULL;
    if (norm) normed(y, dim, norm, b->norm_eps, y);
    struct value *kept = malloc((size_t)dim * sizeof *kept);
    for (int32_t d = 0; d < dim; d++) {
        const struct value v = part == VALUE ? y[d] : rotated(rope, y, dim, d);
        kept[d] = (struct value){v.is * scale, v.slack * scale + 2e-7 * fabs(v.is)};
    }
    if (part != QUERY) stored(type_of(w, part == KEY ? KEYS : VALUES), dim, kept);
    for (int32_t d = 0; d < dim; d++)
        for (int i = 0; i < all->n; i++) {
            const void *pool = part == KEY ? got[i].kv.k : got[i].kv.v;
            const double is = part == QUERY ? got[i].q[(row * w->s->heads + head) * dim + d]
                                            : cached(w, part == KEY ? KEYS : VALUES, pool, w->slot[row],
                                                     w->position[row], head, d);
            close_to(kept[d], is, w->s->name, all->m[i].isa, names[part], (size_t)(row * dim + d));
        }
    free(y), free(kept);
}

/* Every byte of the pool that no row owns must be as it was. */
static void untouched_elsewhere(const struct world *w, enum pool pool, const char *before, const char *after,
                                const char *isa) {
    char *owned = calloc(w->pool_bytes, 1);
    for (int32_t r = 0; r < ROWS; r++)
        for (int32_t h = 0; h < w->s->kv_heads; h++) {
            const struct vector v = vector_at(w, pool, w->slot[r], w->position[r], h);
            memset(owned + v.at, 1, v.bytes), memset(owned + v.scales, 1, v.scales_bytes);
        }
    for (size_t i = 0; i < w->pool_bytes; i++)
        if (!owned[i] && before[i] != after[i])
            fail_msg("%s, %s: cache byte %zu changed", w->s->name, isa, i);
    free(owned);
}

static void *copy_of(const void *from, size_t bytes) {
    return memcpy(malloc(bytes), from, bytes);
}

static void check_qkv(struct machines *all, struct world *w) {
    const struct attention_block *b = &w->l.attention;
    struct written got[ISAS];
    for (int i = 0; i < all->n; i++) {
        got[i] = (struct written){poisoned((size_t)(ROWS * w->s->heads * w->s->head_dim)), w->kv};
        got[i].kv.k = copy_of(w->kv.k, w->pool_bytes), got[i].kv.v = copy_of(w->kv.v, w->pool_bytes);
        all->m[i].ops->qkv(all->m[i].be, &w->rows, b, w->x, got[i].q, &got[i].kv);
    }
    for (int32_t r = 0; r < ROWS; r++) {
        struct value *a = activations_of(w, r, b->norm, b->norm_eps);
        for (int32_t h = 0; h < w->s->heads; h++) check_head(all, w, got, a, r, QUERY, h);
        for (int32_t h = 0; h < w->s->kv_heads; h++) check_head(all, w, got, a, r, KEY, h);
        for (int32_t h = 0; h < w->s->kv_heads; h++) check_head(all, w, got, a, r, VALUE, h);
        free(a);
    }
    for (int i = 0; i < all->n; i++) {
        untouched_elsewhere(w, KEYS, w->kv.k, got[i].kv.k, all->m[i].isa);
        untouched_elsewhere(w, VALUES, w->kv.v, got[i].kv.v, all->m[i].isa);
        free(got[i].q), free(got[i].kv.k), free(got[i].kv.v);
    }
}

static void check_attended(const struct outputs *out, const struct world *w, const float *q, int32_t r,
                           int32_t h) {
    const int32_t dim = w->s->head_dim, length = w->position[r] + 1;
    const int32_t kv_head = h / (w->s->heads / w->s->kv_heads);
    const size_t at = (size_t)((r * w->s->heads + h) * dim);
    const int32_t seen = w->s->window, first = seen && seen < length ? length - seen : 0;
    double *p = malloc((size_t)length * sizeof *p), most = -INFINITY, sum = 0, magnitude = 0;
    for (int32_t t = first; t < length; t++) {
        double size = p[t] = 0;
        for (int32_t d = 0; d < dim; d++) {
            double term = q[at + (size_t)d] * cached(w, KEYS, w->kv.k, w->slot[r], t, kv_head, d);
            p[t] += term, size += fabs(term);
        }
        if (w->s->score_cap) p[t] = w->s->score_cap * tanh(p[t] / w->s->score_cap);
        most = fmax(most, p[t]), magnitude = fmax(magnitude, size);
    }
    for (int32_t t = first; t < length; t++) sum += p[t] = exp(p[t] - most);
    for (int32_t d = 0; d < dim; d++) {
        double is = 0, around = 0;
        for (int32_t t = first; t < length; t++) {
            double v = cached(w, VALUES, w->kv.v, w->slot[r], t, kv_head, d);
            is += p[t] / sum * v, around += p[t] / sum * fabs(v);
        }
        all_close(out, at + (size_t)d, (struct value){is, around * EPSILON * (1 + magnitude)});
    }
    free(p);
}

static void check_attention(struct machines *all, struct world *w) {
    const size_t wide = (size_t)(w->s->heads * w->s->head_dim);
    uint64_t seed = 11;
    float *q = random_floats(&seed, ROWS * wide, 0, 0.7f);
    struct outputs out = outputs_open(all, w, "attended", ROWS * wide);
    for (int i = 0; i < all->n; i++)
        all->m[i].ops->attention(all->m[i].be, &w->rows, &w->l.attention, q, &w->kv, out.x[i]);
    for (int32_t r = 0; r < ROWS; r++)
        for (int32_t h = 0; h < w->s->heads; h++) check_attended(&out, w, q, r, h);
    outputs_close(&out);
    free(q);
}

static void test_embed(void **state) {
    (void)state;
    each_shape(check_embed);
}
static void test_qkv(void **state) {
    (void)state;
    each_shape(check_qkv);
}
static void test_attention(void **state) {
    (void)state;
    each_shape(check_attention);
}
static void test_project(void **state) {
    (void)state;
    each_shape(check_project);
}
static void test_gate_up(void **state) {
    (void)state;
    each_shape(check_gate_up);
}
static void test_logits(void **state) {
    (void)state;
    each_shape(check_logits);
}

/* ---- one row, many companies ---- */

/* What a pass leaves behind for each row. */
struct traces {
    float *q, *attended, *x, *hidden, *out, *logits;
    size_t wide, n, inner, vocab;
};

static struct traces traces_open(const struct shape *s) {
    struct traces t = {.wide = (size_t)(s->heads * s->head_dim),
                       .n = (size_t)s->hidden,
                       .inner = (size_t)s->intermediate,
                       .vocab = (size_t)s->vocab};
    t.q = poisoned(ROWS * t.wide), t.attended = poisoned(ROWS * t.wide);
    t.x = poisoned(ROWS * t.n), t.out = poisoned(ROWS * t.n);
    t.hidden = poisoned(ROWS * t.inner), t.logits = poisoned(ROWS * t.vocab);
    return t;
}

static void traces_close(struct traces *t) {
    free(t->q), free(t->attended), free(t->x), free(t->hidden), free(t->out), free(t->logits);
}

/* Rows who[0..n) of the world in one pass. */
static struct traces pass(struct machine *m, const struct world *w, const int32_t *who, int32_t n,
                          const struct kv_layer *kv) {
    struct traces t = traces_open(w->s);
    int32_t token[ROWS], position[ROWS], slot[ROWS];
    for (int32_t i = 0; i < n; i++) {
        token[i] = w->token[who[i]], position[i] = w->position[who[i]], slot[i] = w->slot[who[i]];
        memcpy(t.x + (size_t)i * t.n, w->x + (size_t)who[i] * t.n, t.n * sizeof(float));
    }
    struct rows rows = {n, token, position, slot, w->pages, w->stride, w->positions - 1, false, NULL};
    m->ops->qkv(m->be, &rows, &w->l.attention, t.x, t.q, kv);
    m->ops->attention(m->be, &rows, &w->l.attention, t.q, kv, t.attended);
    m->ops->project(m->be, &rows, &w->l.output, t.attended, t.x);
    m->ops->gate_up(m->be, &rows, &w->l.mlp, t.x, t.hidden);
    memcpy(t.out, t.x, (size_t)n * t.n * sizeof(float));
    m->ops->project(m->be, &rows, &w->l.down, t.hidden, t.out);
    const struct head_block head = {w->l.mlp.norm, 1e-5f, w->table, w->s->logit_cap};
    m->ops->logits(m->be, &head, t.out, NULL, n, t.logits);
    return t;
}

static void same_bits(const float *a, const float *b, size_t n, const char *what, const char *where) {
    if (memcmp(a, b, n * sizeof *a) == 0) return;
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s: %s[%zu] is %.9g, not %.9g", where, what, i, b[i], a[i]);
}

static void same_rows(const struct traces *all, const struct traces *some, const int32_t *who, int32_t n,
                      const char *where) {
    for (int32_t i = 0; i < n; i++) {
        size_t a = (size_t)who[i], b = (size_t)i;
        same_bits(all->q + a * all->wide, some->q + b * all->wide, all->wide, "q", where);
        same_bits(all->attended + a * all->wide, some->attended + b * all->wide, all->wide, "attended",
                  where);
        same_bits(all->x + a * all->n, some->x + b * all->n, all->n, "x", where);
        same_bits(all->hidden + a * all->inner, some->hidden + b * all->inner, all->inner, "hidden", where);
        same_bits(all->out + a * all->n, some->out + b * all->n, all->n, "out", where);
        same_bits(all->logits + a * all->vocab, some->logits + b * all->vocab, all->vocab, "logits", where);
    }
}

/* Rows at distinct places, from `start` on with a step that visits all. */
static void choose(int32_t *who, int32_t n, int32_t start) {
    for (int32_t i = 0; i < n; i++) who[i] = (start + i * 37) % ROWS;
}

static void check_company(int isa, int32_t threads, struct world *w, const struct traces *all,
                          const struct kv_layer *kv) {
    static const int32_t sizes[] = {1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 31, 33, 64, 65, ROWS};
    struct machine m;
    if (!machine_open(isa, threads, w->s, &m)) return;
    const void *k = copy_of(kv->k, w->pool_bytes), *v = copy_of(kv->v, w->pool_bytes);
    for (size_t i = threads % 2; i < sizeof sizes / sizeof *sizes; i += 2) { /* each size with two counts */
        int32_t who[ROWS];
        char where[100];
        choose(who, sizes[i], (int32_t)i * 53 + threads * 11);
        snprintf(where, sizeof where, "%s, %s, %d rows, %d threads", w->s->name, isas[isa], sizes[i],
                 threads);
        struct traces some = pass(&m, w, who, sizes[i], kv);
        same_rows(all, &some, who, sizes[i], where);
        traces_close(&some);
        /* the rows' keys and values were there already: written anew, they must not change */
        if (memcmp(k, kv->k, w->pool_bytes) || memcmp(v, kv->v, w->pool_bytes)) fail_msg("%s: cache", where);
    }
    free((void *)k), free((void *)v);
    machine_close(&m);
}

static void test_row_invariance(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        struct world w;
        world_open(&shapes[i], &w);
        for (int isa = 0; isa < ISAS; isa++) {
            struct machine m;
            struct kv_layer kv = w.kv;
            int32_t who[ROWS];
            if (!machine_open(isa, 1, w.s, &m)) continue;
            kv.k = copy_of(w.kv.k, w.pool_bytes), kv.v = copy_of(w.kv.v, w.pool_bytes);
            for (int32_t r = 0; r < ROWS; r++) who[r] = r;
            struct traces all = pass(&m, &w, who, ROWS, &kv);
            for (int32_t threads = 1; threads <= MAX_THREADS; threads++)
                check_company(isa, threads, &w, &all, &kv);
            traces_close(&all);
            free(kv.k), free(kv.v);
            machine_close(&m);
        }
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),          cmocka_unit_test(test_qkv),
        cmocka_unit_test(test_attention),      cmocka_unit_test(test_project),
        cmocka_unit_test(test_gate_up),        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_row_invariance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

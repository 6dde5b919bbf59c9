/* Products of weights with rows, and the three operations that are little else.
 *
 * Weights are read where they lie, once for up to ROWS_MAX rows. A *tile* is a few outputs by a few rows
 * whose accumulators fill the registers: each weight, once widened, meets all rows, and each activation, once
 * loaded, all outputs. Each (row, output) has one vector accumulator that walks k in order, so tiling changes
 * no bits.
 *
 * The weights of a tile's outputs lie one row after the other. Walked side by side they are too many streams
 * for the hardware to run ahead of, so each step asks for as many bytes as it reads, in the order of memory,
 * AHEAD bytes further on.
 */
#include "kernels/cpu/acts.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

enum { AHEAD = 8192 };

/* Outputs of a tile. With weights, or activations where those are fewer, the accumulators fit the registers;
 * and there are at least eight of them, the latency times the rate of fused multiply-adds. */
INLINE int32_t tile_outs(int32_t rows) {
#ifdef VEC_512
    return rows <= 3 ? 8 : rows == 4 ? 6 : rows <= 6 ? 4 : 3;
#else
    return rows == 1 ? 8 : rows <= 3 ? 4 : rows == 4 ? 3 : rows <= 6 ? 2 : 1;
#endif
}

INLINE vf weights_at(enum dtype t, const char *w, int32_t part, int32_t n) {
    vf v = n < dot_step(t) ? weights_part_n(t, w, part, n) : weights_part(t, w, part);
    vf_hold(&v);
    return v;
}

INLINE vf acts_at(enum dtype t, const char *a, int32_t part, int32_t n) {
    vf v = n < dot_step(t) ? acts_part_n(t, a, part, n) : acts_part(t, a, part);
    vf_hold(&v);
    return v;
}

/* acc[r * outs + o] += weights of output o, activations of row r, over one step, of n elements at the end.
 * The fewer of the two are all held in registers. */
INLINE void walk_step(enum dtype t, int32_t outs, int32_t rows, int32_t n, const char *w, size_t w_row,
                      const char *a, size_t a_row, vf *acc) {
    UNROLL for (int32_t part = 0; part < dot_parts(t); part++) {
        vf few[8];
        if (rows < outs) {
            UNROLL for (int32_t r = 0; r < rows; r++) few[r] = acts_at(t, a + r * a_row, part, n);
            UNROLL for (int32_t o = 0; o < outs; o++) {
                const vf weight = weights_at(t, w + o * w_row, part, n);
                UNROLL for (int32_t r = 0; r < rows; r++) acc[r * outs + o] =
                    dot(t, weight, few[r], acc[r * outs + o]);
            }
        } else {
            UNROLL for (int32_t o = 0; o < outs; o++) few[o] = weights_at(t, w + o * w_row, part, n);
            UNROLL for (int32_t r = 0; r < rows; r++) {
                const vf row = acts_at(t, a + r * a_row, part, n);
                UNROLL for (int32_t o = 0; o < outs; o++) acc[r * outs + o] =
                    dot(t, few[o], row, acc[r * outs + o]);
            }
        }
    }
}

/* A group of F8: each weight is multiplied by its scale, which is exact but for its last rounding, and is
 * then what a weight in f32 would be. */
INLINE void walk_group(int32_t outs, int32_t rows, const char *w, size_t w_row, const char *a, size_t a_row,
                       vf *acc) {
    float scale[8];
    UNROLL for (int32_t o = 0; o < outs; o++) {
        memcpy(&scale[o], w + o * w_row, sizeof *scale);
        scale[o] *= 256; /* vf_load_e4m3 */
    }
    w += sizeof *scale;
    for (int32_t i = 0; i < (int32_t)dtype_block(DTYPE_F8); i += LANES, a += sizeof(vf))
        UNROLL for (int32_t o = 0; o < outs; o++) {
            const vf weight = vf_load_e4m3(w + o * w_row + i) * scale[o];
            UNROLL for (int32_t r = 0; r < rows; r++) acc[r * outs + o] =
                vf_fma(weight, vf_load((const float *)(a + r * a_row)), acc[r * outs + o]);
        }
}

/* y[r][o] for o < outs, r < rows. Both are constants at each call, so acc is all registers. */
INLINE void walk(enum dtype t, int32_t outs, int32_t rows, const char *w, const char *a, size_t a_row,
                 int32_t k, float *y) {
    const bool groups = t == DTYPE_F8;
    const int32_t step = groups ? (int32_t)dtype_block(t) : dot_step(t);
    const size_t w_step = dtype_row_bytes(t, step), a_step = step * acts_bytes(t);
    const size_t w_row = dtype_row_bytes(t, k);
    const int32_t sums = (outs * rows + SUMS - 1) / SUMS * SUMS;
    vf acc[24];
    float sum[24];
    const char *ahead = w + AHEAD;
    UNROLL for (int32_t i = 0; i < sums; i++) acc[i] = vf_zero();
    for (; k >= step; k -= step, w += w_step, a += a_step) {
        UNROLL for (int32_t o = 0; o < outs; o++, ahead += w_step) {
            __builtin_prefetch(ahead, 0, 2);
            if (groups) __builtin_prefetch(ahead + 64, 0, 2);
        }
        if (groups)
            walk_group(outs, rows, w, w_row, a, a_row, acc);
        else
            walk_step(t, outs, rows, step, w, w_row, a, a_row, acc);
    }
    if (k && !groups) walk_step(t, outs, rows, k, w, w_row, a, a_row, acc);
    UNROLL for (int32_t i = 0; i < sums; i += SUMS) vf_sums(acc + i, sum + i);
    UNROLL for (int32_t r = 0; r < rows; r++) UNROLL for (int32_t o = 0; o < outs; o++) y[r * BLOCK_MAX + o] =
        sum[r * outs + o];
}

INLINE void tile_rows(enum dtype t, int32_t rows, const char *w, int32_t count, const char *a, size_t a_row,
                      int32_t k, float *y) {
    const size_t w_row = dtype_row_bytes(t, k);
    const int32_t outs = tile_outs(rows);
    int32_t o = 0;
    for (; o + outs <= count; o += outs) walk(t, outs, rows, w + o * w_row, a, a_row, k, y + o);
    for (; o < count; o++) walk(t, 1, rows, w + o * w_row, a, a_row, k, y + o);
}

INLINE void tile_of(enum dtype t, int32_t rows, const char *w, int32_t count, const char *a, size_t a_row,
                    int32_t k, float *y) {
    switch (rows) {
    case 1:
        tile_rows(t, 1, w, count, a, a_row, k, y);
        break;
    case 2:
        tile_rows(t, 2, w, count, a, a_row, k, y);
        break;
    case 3:
        tile_rows(t, 3, w, count, a, a_row, k, y);
        break;
    case 4:
        tile_rows(t, 4, w, count, a, a_row, k, y);
        break;
    case 5:
        tile_rows(t, 5, w, count, a, a_row, k, y);
        break;
    case 6:
        tile_rows(t, 6, w, count, a, a_row, k, y);
        break;
    case 7:
        tile_rows(t, 7, w, count, a, a_row, k, y);
        break;
    case 8:
        tile_rows(t, 8, w, count, a, a_row, k, y);
        break;
    }
}

void tile(const struct matrix *w, int32_t first, int32_t count, const struct acts *a, int32_t row,
          int32_t rows, float (*y)[BLOCK_MAX]) {
    const char *from = (const char *)w->data + (size_t)first * dtype_row_bytes(w->dtype, (size_t)w->k);
    const char *acts = a->data + (size_t)row * a->row_bytes;
    switch (w->dtype) {
    case DTYPE_F32:
        tile_of(DTYPE_F32, rows, from, count, acts, a->row_bytes, w->k, *y);
        break;
    case DTYPE_F16:
        tile_of(DTYPE_F16, rows, from, count, acts, a->row_bytes, w->k, *y);
        break;
    case DTYPE_BF16:
        tile_of(DTYPE_BF16, rows, from, count, acts, a->row_bytes, w->k, *y);
        break;
    case DTYPE_F8:
        tile_of(DTYPE_F8, rows, from, count, acts, a->row_bytes, w->k, *y);
        break;
    default:
        quant_tile(w, first, count, acts, a->row_bytes, rows, y);
        break;
    }
}

/* Blocks that take about 1.5 us: a row more costs a fifth of reading the weights. */
int32_t product_grain(int32_t k, int32_t rows) {
    const int64_t cost = (int64_t)k * BLOCK_MAX * (rows + 5);
    return cost >= 120000 ? 1 : (int32_t)(120000 / cost) + 1;
}

/* ---- project, logits: y = W a, or y += W a ---- */

struct product {
    struct inputs in;
    const struct matrix *w;
    const float *bias; /* [w->n] or NULL */
    float softcap;     /* of y; 0: none */
    float *y;          /* [rows][w->n] */
    bool add;
};

/* What y, count elements of outputs first.., becomes before it is stored. */
static void dress(const struct product *p, int32_t first, int32_t count, float *y) {
    if (p->bias) add_bias(p->bias + first, count, y);
    if (p->softcap != 0)
        for (int32_t j = 0; j < count; j += LANES) /* y is a whole block */
            vf_store(y + j, vf_softcap(vf_load(y + j), p->softcap));
}

static void product_block(const struct product *p, const struct acts *a, int32_t block) {
    float y[ROWS_MAX][BLOCK_MAX];
    const int32_t first = block * BLOCK_MAX, count = min_i32(BLOCK_MAX, p->w->n - first);
    for (int32_t row = 0, rows; row < p->in.rows; row += rows) {
        rows = min_i32(rows_abreast(p->in.rows), p->in.rows - row);
        tile(p->w, first, count, a, row, rows, y);
        for (int32_t r = 0; r < rows; r++) {
            float *out = p->y + (size_t)(row + r) * (size_t)p->w->n + first;
            dress(p, first, count, y[r]);
            for (int32_t j = 0; j < count; j++) out[j] = p->add ? out[j] + y[r][j] : y[r][j];
        }
    }
}

static void product_work(void *job, struct worker *w) {
    const struct product *p = job;
    const struct acts a = inputs_of(&p->in, w);
    for (int32_t block, last; cpu_claim(w, &block, &last);)
        for (; block < last; block++) product_block(p, &a, block);
}

static void product_run(struct backend *be, struct product *p) {
    inputs_ready(be, &p->in);
    cpu_parallel(be, ceil_div(p->w->n, BLOCK_MAX), product_grain(p->w->k, p->in.rows), product_work, p);
}

void cpu_project(struct backend *be, const struct rows *rows, const struct projection *b, const void *a,
                 float *x) {
    struct product p = {.in = {.x = a, .rows = rows->n, .k = b->w.k, .dtype = b->w.dtype},
                        .w = &b->w,
                        .bias = b->bias,
                        .y = b->norm ? cpu_branch(be) : x,
                        .add = !b->norm};
    product_run(be, &p);
    if (b->norm) add_normed(be, rows->n, b, p.y, x);
}

void cpu_logits(struct backend *be, const struct head_block *h, const float *x, const int32_t *pick,
                int32_t n_pick, float *logits) {
    struct inputs in = {.x = x,
                        .norm = h->norm,
                        .norm_eps = h->norm_eps,
                        .pick = pick,
                        .rows = n_pick,
                        .k = h->w.k,
                        .dtype = h->w.dtype};
    struct product p = {.in = in, .w = &h->w, .softcap = h->softcap, .y = logits};
    product_run(be, &p);
}

/* ---- gate_up ---- */

struct gate_up {
    struct inputs in;
    const struct mlp_block *b;
    float *hidden;
};

/* hidden = silu(gate) up, silu(x) = x / (1 + e^-x); gelu has 2 sqrt(2 / pi) (x + 0.044715 x^3) for that x. */
static void gate_product(bool gelu, const float *gate, const float *up, int32_t count, float *hidden) {
    for (int32_t j = 0; j < count; j += LANES) {
        const int32_t n = min_i32(LANES, count - j);
        vf g = n < LANES ? vf_load_n(gate + j, n) : vf_load(gate + j);
        vf u = n < LANES ? vf_load_n(up + j, n) : vf_load(up + j);
        vf t = gelu ? g * (1.5957691216f + 0.0713548163f * g * g) : g;
        vf h = g / (vf_exp(-t) + 1) * u;
        if (n < LANES)
            vf_store_n(hidden + j, h, n);
        else
            vf_store(hidden + j, h);
    }
}

static void gate_up_block(const struct gate_up *p, const struct acts *a, int32_t block) {
    float gate[ROWS_MAX][BLOCK_MAX], up[ROWS_MAX][BLOCK_MAX];
    const int32_t n = p->b->gate.n, first = block * BLOCK_MAX, count = min_i32(BLOCK_MAX, n - first);
    for (int32_t row = 0, rows; row < p->in.rows; row += rows) {
        rows = min_i32(rows_abreast(p->in.rows), p->in.rows - row);
        tile(&p->b->gate, first, count, a, row, rows, gate);
        tile(&p->b->up, first, count, a, row, rows, up);
        for (int32_t r = 0; r < rows; r++) {
            if (p->b->bias) add_bias(p->b->bias + first, count, gate[r]);
            if (p->b->bias) add_bias(p->b->bias + n + first, count, up[r]);
            gate_product(p->b->gelu, gate[r], up[r], count,
                         p->hidden + (size_t)(row + r) * (size_t)n + first);
        }
    }
}

static void gate_up_work(void *job, struct worker *w) {
    const struct gate_up *p = job;
    const struct acts a = inputs_of(&p->in, w);
    for (int32_t block, last; cpu_claim(w, &block, &last);)
        for (; block < last; block++) gate_up_block(p, &a, block);
}

void cpu_gate_up(struct backend *be, const struct rows *rows, const struct mlp_block *b, const float *x,
                 void *hidden) {
    struct inputs in = {.x = x,
                        .norm = b->norm,
                        .norm_eps = b->norm_eps,
                        .rows = rows->n,
                        .k = b->gate.k,
                        .dtype = b->gate.dtype};
    struct gate_up p = {in, b, hidden};
    inputs_ready(be, &p.in);
    cpu_parallel(be, ceil_div(b->gate.n, BLOCK_MAX), ceil_div(product_grain(b->gate.k, rows->n), 2),
                 gate_up_work, &p);
}

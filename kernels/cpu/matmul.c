/* Products of weights with rows, and the three operations that are little else.
 *
 * Weights are read where they lie. A block of OUT_TILE outputs is taken up once, for one row from memory and
 * for the others from the first-level cache, so a pass of a few rows costs hardly more than a pass of one.
 * Each (row, output) has one vector accumulator that walks k in order, so tiling changes no bits.
 */
#include "kernels/cpu/acts.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Outputs abreast: their accumulators, times ROW_TILE, fit the registers. */
enum { WIDE = SUMS };

/* Bytes. With one row a prefetch only gets in the hardware's way; with more the loop is too slow for the
 * hardware to see a stream worth running far ahead of: 8 rows, k 1024, from 9 to 16 GB/s a core. */
enum { AHEAD = 8192 };

/* One step along k, of n < dot_step elements at its end. */
INLINE void walk_step(enum dtype t, int32_t outs, int32_t rows, int32_t n, const char *w, size_t w_row,
                      const char *a, size_t a_row, vf *acc) {
    const bool cut = n < dot_step(t);
    vf row[FRESH_ROWS];
    UNROLL for (int32_t r = 0; r < rows; r++) row[r] =
        cut ? acts_load_n(t, a + r * a_row, n) : acts_load(t, a + r * a_row);
    UNROLL for (int32_t o = 0; o < outs; o++) {
        vf weight = cut ? weights_load_n(t, w + o * w_row, n) : weights_load(t, w + o * w_row);
        UNROLL for (int32_t r = 0; r < rows; r++) acc[r * outs + o] =
            dot(t, weight, row[r], acc[r * outs + o]);
    }
}

/* acc[r * outs + o] for o < outs, r < rows. Both are constants at each call, so acc is all registers. */
INLINE void walk(enum dtype t, int32_t outs, int32_t rows, const char *w, const char *a, size_t a_row,
                 int32_t k, vf *acc) {
    const size_t w_size = dtype_bytes(t), a_size = acts_bytes(t), w_row = (size_t)k * w_size;
    const int32_t step = dot_step(t), whole = k - k % step;
    UNROLL for (int32_t i = 0; i < outs * rows; i++) acc[i] = vf_zero();
    for (int32_t i = 0; i < whole; i += step) {
        if (outs == 1 && rows > 1 && i * w_size % 64 == 0) __builtin_prefetch(w + i * w_size + AHEAD, 0, 2);
        walk_step(t, outs, rows, step, w + i * w_size, w_row, a + i * a_size, a_row, acc);
    }
    if (whole < k)
        walk_step(t, outs, rows, k - whole, w + whole * w_size, w_row, a + whole * a_size, a_row, acc);
}

/* WIDE outputs, their weights walked side by side. */
INLINE void abreast(enum dtype t, int32_t rows, const char *w, const char *a, size_t a_row, int32_t k,
                    float *y) {
    vf acc[ROW_TILE * WIDE];
    walk(t, WIDE, rows, w, a, a_row, k, acc);
    UNROLL for (int32_t r = 0; r < rows; r++) vf_sums(acc + r * WIDE, y + r * BLOCK_MAX);
}

/* A few outputs, their weights walked one after the other. */
INLINE void in_turn(enum dtype t, int32_t outs, int32_t rows, const char *w, const char *a, size_t a_row,
                    int32_t k, float *y) {
    const int32_t n = outs * rows;
    vf acc[FRESH_ROWS];
    float sum[FRESH_ROWS];
    UNROLL for (int32_t o = 0; o < outs; o++)
        walk(t, 1, rows, w + o * (size_t)k * dtype_bytes(t), a, a_row, k, acc + o * rows);
    UNROLL for (int32_t i = n; i % SUMS; i++) acc[i] = vf_zero();
    UNROLL for (int32_t i = 0; i < n; i += SUMS) {
        if (n - i > 2)
            vf_sums(acc + i, sum + i);
        else
            UNROLL for (int32_t j = i; j < n; j++) sum[j] = vf_sum(acc[j]);
    }
    UNROLL for (int32_t o = 0; o < outs; o++) UNROLL for (int32_t r = 0; r < rows; r++) y[r * BLOCK_MAX + o] =
        sum[o * rows + r];
}

/* Weights come one row after the other, which is how the hardware prefetches: several rows abreast read three
 * times slower from memory. */
INLINE void tile_fresh(enum dtype t, int32_t rows, const char *w, int32_t count, const char *a, size_t a_row,
                       int32_t k, float *y) {
    const size_t w_row = (size_t)k * dtype_bytes(t);
    const int32_t group = rows < SUMS ? SUMS / rows : 1; /* as many as are summed at once */
    int32_t o = 0;
    for (; o + group <= count; o += group) in_turn(t, group, rows, w + o * w_row, a, a_row, k, y + o);
    for (; o < count; o++) in_turn(t, 1, rows, w + o * w_row, a, a_row, k, y + o);
}

INLINE void tile_again(enum dtype t, int32_t rows, const char *w, int32_t count, const char *a, size_t a_row,
                       int32_t k, float *y) {
    const size_t w_row = (size_t)k * dtype_bytes(t);
    int32_t o = 0;
    for (; o + WIDE <= count; o += WIDE) abreast(t, rows, w + o * w_row, a, a_row, k, y + o);
    for (; o < count; o++) in_turn(t, 1, rows, w + o * w_row, a, a_row, k, y + o);
}

INLINE void tile_of(enum dtype t, int32_t rows, bool fresh, const char *w, int32_t count, const char *a,
                    size_t a_row, int32_t k, float *y) {
    switch (fresh ? rows : rows + FRESH_ROWS) {
    case 1:
        tile_fresh(t, 1, w, count, a, a_row, k, y);
        break;
    case 2:
        tile_fresh(t, 2, w, count, a, a_row, k, y);
        break;
    case 3:
        tile_fresh(t, 3, w, count, a, a_row, k, y);
        break;
    case 4:
        tile_fresh(t, 4, w, count, a, a_row, k, y);
        break;
    case 5:
        tile_fresh(t, 5, w, count, a, a_row, k, y);
        break;
    case 6:
        tile_fresh(t, 6, w, count, a, a_row, k, y);
        break;
    case 7:
        tile_fresh(t, 7, w, count, a, a_row, k, y);
        break;
    case 8:
        tile_fresh(t, 8, w, count, a, a_row, k, y);
        break;
    case FRESH_ROWS + 1:
        tile_again(t, 1, w, count, a, a_row, k, y);
        break;
    case FRESH_ROWS + 2:
        tile_again(t, 2, w, count, a, a_row, k, y);
        break;
    case FRESH_ROWS + 3:
        tile_again(t, 3, w, count, a, a_row, k, y);
        break;
    }
}

void tile(const struct matrix *w, int32_t first, int32_t count, const struct acts *a, int32_t row,
          int32_t rows, bool fresh, float (*y)[BLOCK_MAX]) {
    const char *from = (const char *)w->data + (size_t)first * (size_t)w->k * dtype_bytes(w->dtype);
    const char *acts = a->data + (size_t)row * a->row_bytes;
    switch (w->dtype) {
    case DTYPE_F32:
        tile_of(DTYPE_F32, rows, fresh, from, count, acts, a->row_bytes, w->k, *y);
        break;
    case DTYPE_F16:
        tile_of(DTYPE_F16, rows, fresh, from, count, acts, a->row_bytes, w->k, *y);
        break;
    case DTYPE_BF16:
        tile_of(DTYPE_BF16, rows, fresh, from, count, acts, a->row_bytes, w->k, *y);
        break;
    default: /* cpu_weight takes no other */
        break;
    }
}

/* Blocks that take about 1.5 us: a row more costs a fifth of reading the weights. */
int32_t product_grain(int32_t k, int32_t rows) {
    const int64_t cost = (int64_t)k * block_size(rows, k) * (rows + 5);
    return cost >= 120000 ? 1 : (int32_t)(120000 / cost) + 1;
}

/* ---- project, logits: y = W a, or y += W a ---- */

struct product {
    struct inputs in;
    const struct matrix *w;
    float *y; /* [rows][w->n] */
    bool add;
};

static void product_block(const struct product *p, const struct acts *a, int32_t block) {
    float y[FRESH_ROWS][BLOCK_MAX];
    const int32_t size = block_size(p->in.rows, p->in.k), first = block * size,
                  count = min_i32(size, p->w->n - first);
    for (int32_t row = 0, rows = first_rows(p->in.rows); row < p->in.rows;
         row += rows, rows = next_rows(p->in.rows, row)) {
        tile(p->w, first, count, a, row, rows, row == 0, y);
        for (int32_t r = 0; r < rows; r++) {
            float *out = p->y + (size_t)(row + r) * (size_t)p->w->n + first;
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
    cpu_parallel(be, ceil_div(p->w->n, block_size(p->in.rows, p->in.k)), product_grain(p->w->k, p->in.rows),
                 product_work, p);
}

void cpu_project(struct backend *be, const struct rows *rows, const struct matrix *w, const void *a,
                 float *x) {
    struct product p = {{.x = a, .rows = rows->n, .k = w->k, .dtype = w->dtype}, w, x, true};
    product_run(be, &p);
}

void cpu_logits(struct backend *be, const float *norm, float norm_eps, const struct matrix *head,
                const float *x, const int32_t *pick, int32_t n_pick, float *logits) {
    struct inputs in = {.x = x,
                        .norm = norm,
                        .norm_eps = norm_eps,
                        .pick = pick,
                        .rows = n_pick,
                        .k = head->k,
                        .dtype = head->dtype};
    struct product p = {in, head, logits, false};
    product_run(be, &p);
}

/* ---- gate_up ---- */

struct gate_up {
    struct inputs in;
    const struct mlp_block *b;
    float *hidden;
};

/* hidden = silu(gate) up */
static void silu_product(const float *gate, const float *up, int32_t count, float *hidden) {
    for (int32_t j = 0; j < count; j += LANES) {
        const int32_t n = min_i32(LANES, count - j);
        vf g = n < LANES ? vf_load_n(gate + j, n) : vf_load(gate + j);
        vf u = n < LANES ? vf_load_n(up + j, n) : vf_load(up + j);
        vf h = g / (vf_exp(-g) + 1) * u;
        if (n < LANES)
            vf_store_n(hidden + j, h, n);
        else
            vf_store(hidden + j, h);
    }
}

static void gate_up_block(const struct gate_up *p, const struct acts *a, int32_t block) {
    float gate[FRESH_ROWS][BLOCK_MAX], up[FRESH_ROWS][BLOCK_MAX];
    const int32_t n = p->b->gate.n, size = block_size(p->in.rows, p->in.k), first = block * size,
                  count = min_i32(size, n - first);
    for (int32_t row = 0, rows = first_rows(p->in.rows); row < p->in.rows;
         row += rows, rows = next_rows(p->in.rows, row)) {
        tile(&p->b->gate, first, count, a, row, rows, row == 0, gate);
        tile(&p->b->up, first, count, a, row, rows, row == 0, up);
        for (int32_t r = 0; r < rows; r++)
            silu_product(gate[r], up[r], count, p->hidden + (size_t)(row + r) * (size_t)n + first);
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
    cpu_parallel(be, ceil_div(b->gate.n, block_size(rows->n, b->gate.k)),
                 ceil_div(product_grain(b->gate.k, rows->n), 2), gate_up_work, &p);
}

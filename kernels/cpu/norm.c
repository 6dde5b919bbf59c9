/* Rows in: token rows gathered from the embedding, and the activations a product reads.
 *
 * A few rows are normed and rounded by every worker for itself, in its own scratch: less work than waiting
 * for one another. Many are done once, by all, before the product starts. The bits are the same either way.
 */
#include <math.h>

#include "kernels/cpu/acts.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/vec.h"

static vf load_n(enum dtype type, const char *p, int32_t n) {
    if (type == DTYPE_F32) return n < LANES ? vf_load_n(p, n) : vf_load(p);
    if (type == DTYPE_F16) return n < LANES ? vf_load_f16_n(p, n) : vf_load_f16(p);
    return n < LANES ? vf_load_bf16_n(p, n) : vf_load_bf16(p);
}

INLINE void store_some(float *p, vf v, int32_t n) {
    if (n < LANES)
        vf_store_n(p, v, n);
    else
        vf_store(p, v);
}

void cpu_embed(struct backend *be, const struct rows *rows, const struct matrix *table, float scale,
               float *x) {
    (void)be;
    size_t size = dtype_bytes(table->dtype), k = (size_t)table->k;
    for (int32_t r = 0; r < rows->n; r++) {
        const char *from = (const char *)table->data + (size_t)rows->token[r] * k * size;
        float *to = x + (size_t)r * k;
        for (int32_t i = 0; i < table->k; i += LANES) {
            int32_t n = table->k - i;
            store_some(to + i, load_n(table->dtype, from + (size_t)i * size, n) * scale, n);
        }
    }
}

float rms_scale(const float *x, int32_t k, float eps) {
    vf sum = vf_zero();
    int32_t i = 0;
    for (; i + LANES <= k; i += LANES) sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
    if (i < k) {
        vf v = vf_load_n(x + i, k - i);
        sum = vf_fma(v, v, sum);
    }
    return 1 / sqrtf(vf_sum(sum) / (float)k + eps);
}

INLINE vf load_some(const float *p, int32_t n) {
    return n >= LANES ? vf_load(p) : n > 0 ? vf_load_n(p, n) : vf_zero();
}

/* LANES normed elements from place i on, zeros behind the last. */
INLINE vf normed(const struct inputs *in, const float *x, vf scale, int32_t i) {
    const vf v = load_some(x + i, in->k - i);
    return in->norm ? v * scale * load_some(in->norm + i, in->k - i) : v;
}

static void prepare_row(const struct inputs *in, int32_t row, char *to) {
    const float *x = in->x + (size_t)(in->pick ? in->pick[row] : row) * (size_t)in->k;
    const vf scale = vf_all(in->norm ? rms_scale(x, in->k, in->norm_eps) : 1);
    if (acts_are_integers(in->dtype))
        for (int32_t i = 0; i < in->k; i += GROUP) {
            float x32[GROUP];
            for (int32_t j = 0; j < GROUP; j += LANES) vf_store(x32 + j, normed(in, x, scale, i + j));
            quant_store(in->dtype, x32, i / GROUP, in->k, to);
        }
    else if (in->dtype == DTYPE_BF16)
        for (int32_t i = 0; i < in->k; i += 2 * LANES, to += 2 * LANES * acts_bytes(DTYPE_BF16))
            acts_store_bf16(to, normed(in, x, scale, i), normed(in, x, scale, i + LANES), in->k - i);
    else
        for (int32_t i = 0; i < in->k; i += LANES, to += sizeof(vf))
            store_some((float *)to, normed(in, x, scale, i), in->k - i);
}

/* Rows a power of two apart would all want the same few places of the first-level cache. */
static size_t row_bytes(const struct inputs *in) {
    const size_t bytes =
        acts_are_integers(in->dtype) ? quant_row_bytes(in->k) : acts_row_bytes(in->dtype, in->k);
    return (bytes + 63) / 64 * 64 + ROW_PADDING;
}

static void prepare_work(void *job, struct worker *w) {
    const struct inputs *in = job;
    for (int32_t row, last; cpu_claim(w, &row, &last);)
        for (; row < last; row++)
            prepare_row(in, row, (char *)in->ready.data + (size_t)row * in->ready.row_bytes);
}

void inputs_ready(struct backend *be, struct inputs *in) {
    size_t bytes = row_bytes(in) * (size_t)in->rows;
    if (bytes <= WORKER_SCRATCH_BYTES) return;
    in->ready = (struct acts){cpu_scratch(be, bytes), row_bytes(in)};
    cpu_parallel(be, in->rows, 8, prepare_work, in);
}

struct acts inputs_of(const struct inputs *in, struct worker *w) {
    if (in->ready.data) return in->ready;
    size_t step = row_bytes(in);
    for (int32_t row = 0; row < in->rows; row++)
        prepare_row(in, row, (char *)w->scratch + (size_t)row * step);
    return (struct acts){w->scratch, step};
}

struct branch {
    const struct projection *p;
    const float *y;
    float *x;
};

static void add_normed_row(const struct branch *b, int32_t row) {
    const int32_t k = b->p->w.n;
    const float *y = b->y + (size_t)row * (size_t)k;
    float *x = b->x + (size_t)row * (size_t)k;
    const vf scale = vf_all(rms_scale(y, k, b->p->norm_eps));
    for (int32_t i = 0, n = k; i < k; i += LANES, n = k - i)
        store_some(x + i, load_some(x + i, n) + load_some(y + i, n) * scale * load_some(b->p->norm + i, n),
                   n);
}

static void add_normed_work(void *job, struct worker *w) {
    for (int32_t row, last; cpu_claim(w, &row, &last);)
        for (; row < last; row++) add_normed_row(job, row);
}

void add_normed(struct backend *be, int32_t n, const struct projection *p, const float *y, float *x) {
    struct branch b = {p, y, x};
    cpu_parallel(be, n, 8, add_normed_work, &b);
}

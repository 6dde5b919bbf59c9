/* Rows in: token rows gathered from the embedding, and the activations a product reads.
 *
 * A few rows are normed and rounded by every worker for itself, in its own scratch: less work than waiting
 * for one another. Many are done once, by all, before the product starts. The bits are the same either way.
 */
#include <math.h>

#include "kernels/cpu/acts.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

static vf load_n(enum dtype type, const char *p, int32_t n) {
    if (type == DTYPE_F32) return n < LANES ? vf_load_n(p, n) : vf_load(p);
    if (type == DTYPE_F16) return n < LANES ? vf_load_f16_n(p, n) : vf_load_f16(p);
    return n < LANES ? vf_load_bf16_n(p, n) : vf_load_bf16(p);
}

void cpu_embed(struct backend *be, const struct rows *rows, const struct matrix *table, float *x) {
    (void)be;
    size_t size = dtype_bytes(table->dtype), k = (size_t)table->k;
    for (int32_t r = 0; r < rows->n; r++) {
        const char *from = (const char *)table->data + (size_t)rows->token[r] * k * size;
        float *to = x + (size_t)r * k;
        for (int32_t i = 0; i < table->k; i += LANES) {
            int32_t n = table->k - i;
            vf v = load_n(table->dtype, from + (size_t)i * size, n);
            if (n < LANES)
                vf_store_n(to + i, v, n);
            else
                vf_store(to + i, v);
        }
    }
}

static float rms_scale(const float *x, int32_t k, float eps) {
    vf sum = vf_zero();
    int32_t i = 0;
    for (; i + LANES <= k; i += LANES) sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
    if (i < k) {
        vf v = vf_load_n(x + i, k - i);
        sum = vf_fma(v, v, sum);
    }
    return 1 / sqrtf(vf_sum(sum) / (float)k + eps);
}

static void prepare_row(const struct inputs *in, int32_t row, char *to) {
    const float *x = in->x + (size_t)(in->pick ? in->pick[row] : row) * (size_t)in->k;
    size_t size = acts_bytes(in->dtype);
    vf scale = vf_all(in->norm ? rms_scale(x, in->k, in->norm_eps) : 1);
    for (int32_t i = 0; i < in->k; i += LANES) {
        int32_t n = in->k - i;
        vf v = n < LANES ? vf_load_n(x + i, n) : vf_load(x + i);
        if (in->norm) v = v * scale * (n < LANES ? vf_load_n(in->norm + i, n) : vf_load(in->norm + i));
        acts_store(in->dtype, to + (size_t)i * size, v, n);
    }
}

static size_t row_bytes(const struct inputs *in) {
    return (size_t)in->k * acts_bytes(in->dtype);
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

/* Outputs: the greatest logit, and the meter of how fast this machine reads. */
#include <math.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"
#include "runtime/status.h"

/* ---- argmax and the next after it ---- */

enum { STRIDE = 16 * LANES }; /* looked through a vector at a time, then once more where the greatest was */

static float greatest(const float *x, int32_t n) {
    vf most = vf_all(-INFINITY);
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) most = vf_max(vf_load(x + i), most); /* a NaN leaves `most` */
    float best = vf_max_lane(most);
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

static int32_t argmax_row(const float *x, int32_t n) {
    float best = -INFINITY;
    int32_t first = 0;
    for (int32_t i = 0; i < n; i += STRIDE) {
        const float most = greatest(x + i, min_i32(STRIDE, n - i));
        if (most > best) best = most, first = i;
    }
    if (best == -INFINITY) return 0; /* nothing but -infinity and NaN, which counts as that */
    while (x[first] != best) first++;
    return first;
}

struct argmax {
    const float *logits;
    int32_t vocab;
    int32_t *token;
};

static void argmax_work(void *job, struct worker *w) {
    const struct argmax *p = job;
    for (int32_t i, last; cpu_claim(w, &i, &last);)
        for (; i < last; i++) p->token[i] = argmax_row(p->logits + (size_t)i * (size_t)p->vocab, p->vocab);
}

void cpu_argmax(struct backend *be, const float *logits, int32_t n, int32_t vocab, int32_t *token) {
    struct argmax p = {logits, vocab, token};
    cpu_parallel(be, n, 1 + 32768 / vocab, argmax_work, &p);
}

struct top {
    float *logits;
    int32_t vocab;
    const int32_t *to;
    int32_t *token;
};

static void top_work(void *job, struct worker *w) {
    const struct top *p = job;
    for (int32_t i, last; cpu_claim(w, &i, &last);)
        for (; i < last; i++) {
            float *row = p->logits + (size_t)i * (size_t)p->vocab;
            const int32_t *to = p->to + (ptrdiff_t)i * TREE_WIDTH;
            for (int32_t j = 0, best; j < TREE_WIDTH; j++, row[best] = -INFINITY) {
                best = argmax_row(row, p->vocab);
                if (to[j] >= 0) p->token[to[j]] = best;
            }
        }
}

void cpu_top(struct backend *be, float *logits, int32_t n, int32_t vocab, const int32_t *to, int32_t *token) {
    struct top p = {logits, vocab, to, token};
    cpu_parallel(be, n, 1 + 32768 / TREE_WIDTH / vocab, top_work, &p);
}

/* ---- read_bandwidth ---- */

enum { CHUNK = 16384, REPEATS = 10 };

struct reading {
    uint32_t *data;
    int32_t chunks;
    bool fill;
    _Atomic uint32_t sum; /* keeps the reads from being dropped */
};

static void fill_chunk(uint32_t *to, uint32_t seed) {
    for (size_t i = 0; i < CHUNK / 4; i++) to[i] = seed = seed * 1664525 + 1013904223;
}

static uint32_t read_chunk(const char *from) {
    enum { STEP = 4 * sizeof(vf) };
    vu a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = 0; i < CHUNK; i += STEP, from += STEP) {
        a ^= (vu)vf_load(from);
        b ^= (vu)vf_load(from + sizeof(vf));
        c ^= (vu)vf_load(from + 2 * sizeof(vf));
        d ^= (vu)vf_load(from + 3 * sizeof(vf));
    }
    a ^= b ^ c ^ d;
    uint32_t all = 0;
    for (int i = 0; i < LANES; i++) all ^= a[i];
    return all;
}

static void reading_work(void *job, struct worker *w) {
    struct reading *p = job;
    uint32_t sum = 0;
    for (int32_t i, last; cpu_claim(w, &i, &last);)
        for (; i < last; i++) {
            uint32_t *chunk = p->data + (size_t)i * (CHUNK / 4);
            if (p->fill)
                fill_chunk(chunk, (uint32_t)i);
            else
                sum ^= read_chunk((const char *)chunk);
        }
    p->sum ^= sum;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

outrider_status cpu_read_bandwidth(struct backend *be, size_t bytes, double *gb_per_s) {
    struct reading p = {.chunks = (int32_t)((bytes + CHUNK - 1) / CHUNK), .fill = true};
    const size_t whole = (size_t)p.chunks * CHUNK;
    void *data;
    TRY(cpu_alloc(be, whole, &data));
    p.data = data;
    cpu_parallel(be, p.chunks, 1, reading_work, &p);
    p.fill = false;
    *gb_per_s = 0;
    for (int i = 0; i < REPEATS; i++) {
        const double start = seconds();
        cpu_parallel(be, p.chunks, 1, reading_work, &p);
        const double rate = 1e-9 * (double)whole / (seconds() - start);
        if (rate > *gb_per_s) *gb_per_s = rate;
    }
    cpu_release(be, data);
    return OUTRIDER_OK;
}

/* See quants.h. Nothing here depends on the machine: a model quantised twice has the same bits. */
#include "weights/quants.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/status.h"

/* ---- which ---- */

outrider_status quant_by_name(const char *name, enum quant *out) {
    static const char *const names[] = {"none", "q8", "q4", "fp8"};
    for (int i = 0; i < 4; i++)
        if (!name || strcmp(name, names[i]) == 0) return *out = (enum quant)i, OUTRIDER_OK;
    return fail(OUTRIDER_EINVAL, "quantisation %s: there are none, q8, q4 and fp8", name);
}

static double bytes_per_element(enum dtype t) {
    return (double)dtype_bytes(t) / (double)dtype_block(t);
}

enum dtype quant_choose(enum quant asked, enum dtype file, int64_t k, bool head, bool f8) {
    const bool groups = f8 && k % (int64_t)dtype_block(DTYPE_F8) == 0;
    const enum dtype held = dtype_is_computed(file)        ? file
                            : file == DTYPE_E4M3 && groups ? DTYPE_F8
                                                           : DTYPE_BF16;
    if (asked == QUANT_NONE || k % 32) return held;
    enum dtype want = asked == QUANT_Q4 && !head ? DTYPE_Q4_0 : DTYPE_Q8_0;
    if (asked == QUANT_F8 && !head) want = groups ? DTYPE_F8 : held;
    return bytes_per_element(want) < bytes_per_element(held) ? want : held;
}

/* ---- matrices ---- */

enum { THREADS_MAX = 16, PART_ELEMENTS = 1 << 15 /* that a thread is worth */ };

struct part {
    enum dtype from_type, to_type;
    const char *from;
    char *to;
    size_t first, n, k, head_rows;
    const struct scales *scales; /* NULL: none */
    float *row;                  /* [k] */
};

/* Where the row stands in `from`: its halves alternate there when head_rows says so. */
static size_t source_row(size_t row, size_t head_rows) {
    if (head_rows == 0) return row;
    const size_t half = head_rows / 2, in_head = row % head_rows;
    return row - in_head + in_head % half * 2 + in_head / half;
}

static float scale_at(const struct scales *s, size_t row, size_t col) {
    const size_t at = (s->first + row) / s->rows * s->stride + col / s->cols;
    float scale;
    quants_to_f32(s->dtype, (const char *)s->data + at * dtype_bytes(s->dtype), 1, &scale);
    return scale;
}

static void scale_row(const struct scales *s, size_t row, size_t k, float *x) {
    for (size_t at = 0; at < k; at += s->cols) {
        const float scale = scale_at(s, row, at);
        for (size_t i = at; i < k && i < at + s->cols; i++) x[i] *= scale;
    }
}

/* Elements stay as they are; one that is no number makes its group's scale none. */
static void pack_f8(const struct scales *s, size_t row, const uint8_t *from, size_t k, char *to) {
    const size_t group = dtype_block(DTYPE_F8), bytes = dtype_bytes(DTYPE_F8);
    for (size_t at = 0; at < k; at += group, to += bytes) {
        float scale = scale_at(s, row, at);
        for (size_t i = at; i < at + group; i++)
            if ((from[i] & 0x7f) == 0x7f) scale = NAN;
        memcpy(to, &scale, sizeof scale);
        memcpy(to + sizeof scale, from + at, group);
    }
}

static void *convert_part(void *job) {
    const struct part *p = job;
    const size_t from_bytes = dtype_row_bytes(p->from_type, p->k);
    const size_t to_bytes = dtype_row_bytes(p->to_type, p->k);
    for (size_t i = p->first; i < p->first + p->n; i++) {
        const char *from = p->from + source_row(i, p->head_rows) * from_bytes;
        if (p->from_type == p->to_type) {
            memcpy(p->to + i * to_bytes, from, to_bytes);
            continue;
        }
        if (p->scales && p->to_type == DTYPE_F8) {
            pack_f8(p->scales, i, (const uint8_t *)from, p->k, p->to + i * to_bytes);
            continue;
        }
        quants_to_f32(p->from_type, from, p->k, p->row);
        if (p->scales) scale_row(p->scales, i, p->k, p->row);
        quants_from_f32(p->to_type, p->row, p->k, p->to + i * to_bytes);
    }
    return NULL;
}

/* A thread that does not start leaves its part to the caller. */
outrider_status quants_convert(enum dtype from_type, const void *from, const struct scales *scales,
                               enum dtype to_type, void *to, size_t n, size_t k, size_t head_rows,
                               int32_t threads) {
    long cores = threads > 0 ? threads : sysconf(_SC_NPROCESSORS_ONLN);
    const size_t most = n * k / PART_ELEMENTS + 1;
    size_t parts = cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : (size_t)cores;
    if (parts > most) parts = most;
    struct part part[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    bool started[THREADS_MAX];
    float *rows = malloc(parts * k * sizeof *rows);
    if (!rows) return fail_memory("a row", parts * k * sizeof *rows);
    for (size_t i = 0, first = 0; i < parts; i++) {
        const size_t last = n * (i + 1) / parts;
        part[i] = (struct part){from_type,    to_type, from,      to,     first,
                                last - first, k,       head_rows, scales, rows + i * k};
        first = last;
        started[i] = i > 0 && pthread_create(&thread[i], NULL, convert_part, &part[i]) == 0;
    }
    for (size_t i = 0; i < parts; i++)
        if (!started[i]) convert_part(&part[i]);
    for (size_t i = 0; i < parts; i++)
        if (started[i]) pthread_join(thread[i], NULL);
    free(rows);
    return OUTRIDER_OK;
}

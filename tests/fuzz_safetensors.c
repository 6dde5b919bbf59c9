/* A safetensors file: refused with a line, or every byte of every tensor can be read, and every matrix of
 * 8-bit floats with its scales. */
#include "tests/helpers_fuzz.h"

#include "weights/scales.h"

static unsigned touch(const struct tensor *t) {
    unsigned sum = 0;
    for (size_t i = 0; i < t->bytes; i++) sum += ((const unsigned char *)t->data)[i];
    return sum;
}

/* As f32, and in groups where the rows are made of such. */
static void widen(const struct tensor *t) {
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F8};
    if (t->dtype != DTYPE_E4M3) return;
    for (size_t i = 0; i < 2; i++) {
        const size_t k = (size_t)t->shape[1];
        if (k % dtype_block(types[i])) continue;
        void *rows = malloc((size_t)t->shape[0] * dtype_row_bytes(types[i], k));
        if (rows) weights_rows(t, types[i], 1, rows);
        free(rows);
    }
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static volatile unsigned seen;
    struct mapping file = {.path = "model.safetensors", .data = data, .bytes = bytes};
    struct tensor_list list = {0};
    if (bytes == 0) return; /* a mapping is never empty */
    outrider_status status = safetensors_read(&file, &list);
    if (status == OUTRIDER_OK && list.n > 0) {
        qsort(list.at, list.n, sizeof *list.at, tensor_by_name);
        for (size_t i = 0; i < list.n; i++) seen = seen + touch(&list.at[i]);
        status = scales_attach(&list);
        for (size_t i = 0; i < list.n && status == OUTRIDER_OK; i++) widen(&list.at[i]);
    }
    if (status != OUTRIDER_OK) fuzz_refused(status, "model.safetensors");
    tensor_list_free(&list);
}

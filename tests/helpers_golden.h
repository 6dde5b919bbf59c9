/* Golden tests: small models written to a folder by a recipe, run on a backend, compared with recorded
 * logits. For test_golden.c and test_families.c. */
#ifndef OUTRIDER_HELPERS_GOLDEN_H
#define OUTRIDER_HELPERS_GOLDEN_H

#include "tests/helpers_weights.h"

#include <math.h>

#include "tests/helpers_runner.h"

/* ---- models written to a folder ---- */

struct spec {
    const char *name;
    int64_t n, k; /* k 0: a vector */
};

static size_t spec_elements(const struct spec *s) {
    return (size_t)(s->n * (s->k ? s->k : 1));
}

/* Exact for the values that come here, of at most eight bits and of normal size in every type. */
static uint32_t encode(float value, enum dtype dtype) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (dtype == DTYPE_F32) return bits;
    if (dtype == DTYPE_BF16) return bits >> 16;
    uint32_t sign = bits >> 16 & 0x8000;
    return value == 0 ? sign : sign | ((bits >> 23 & 255) - 127 + 15) << 10 | (bits >> 13 & 1023);
}

static void write_header(FILE *f, const struct spec *specs, size_t n, enum dtype dtype) {
    static const char *const names[] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16"};
    char *text;
    size_t bytes, end = 0;
    FILE *header = open_memstream(&text, &bytes);
    for (size_t i = 0; i < n; i++) {
        size_t begin = end;
        end += spec_elements(&specs[i]) * dtype_bytes(dtype);
        fprintf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", i ? "," : "{", specs[i].name,
                names[dtype], (long long)specs[i].n);
        if (specs[i].k) fprintf(header, ",%lld", (long long)specs[i].k);
        fprintf(header, "],\"data_offsets\":[%zu,%zu]}", begin, end);
    }
    fputc('}', header);
    while (ftell(header) % 8) fputc(' ', header);
    fclose(header);
    for (int i = 0; i < 8; i++) fputc((int)(bytes >> 8 * i & 255), f);
    fwrite(text, 1, bytes, f);
    free(text);
}

/* model.safetensors of the tensors named, element i of each given by value(user, tensor, i). */
static void write_model(const struct folder *folder, const struct spec *specs, size_t n, enum dtype dtype,
                        float (*value)(const void *user, size_t tensor, size_t i), const void *user) {
    FILE *f = fopen(folder_file(folder, "model.safetensors"), "wb");
    if (!f) folder_die("model.safetensors");
    write_header(f, specs, n, dtype);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < spec_elements(&specs[t]); i++) {
            uint32_t bits = encode(value(user, t, i), dtype);
            fwrite(&bits, dtype_bytes(dtype), 1, f); /* the low bytes: little-endian, as the format is */
        }
    if (fclose(f)) folder_die("model.safetensors");
}

static uint32_t fnv1a(const char *text) {
    uint32_t h = 2166136261u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 16777619u;
    return h;
}

static uint32_t mix(uint32_t h) {
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

/* The i-th number of a tensor's recipe, as the tools/golden*.py compute it: -128 to 127. */
static int32_t golden_number(const char *tensor, size_t i) {
    return (int32_t)(mix((uint32_t)i + fnv1a(tensor)) >> 24) - 128;
}

/* ---- comparing ---- */

static double log_sum_exp(const float *logits, int32_t n) {
    double max = logits[0], sum = 0;
    for (int32_t i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (int32_t i = 0; i < n; i++) sum += exp(logits[i] - max);
    return max + log(sum);
}

/* Unlike fmax, keeps a NaN. */
static double worse(double a, double b) {
    return isnan(a) || b <= a ? a : b;
}

#endif

/* Shared by the tests and the benchmark of the operations: random models of any shape, and plain conversions
 * between element types that owe nothing to the kernels'. */
#ifndef OUTRIDER_HELPERS_OPS_H
#define OUTRIDER_HELPERS_OPS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

/* Uniform in [-1, 1). */
static inline float random_float(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((int32_t)(*state >> 32)) * 0x1p-31f;
}

/* The nearest value with `digits` significant bits whose last bit weighs at least 2^least; ties to even. */
static inline double round_to(double x, int digits, int least) {
    int exponent;
    frexp(x, &exponent);
    int last = exponent - digits > least ? exponent - digits : least;
    return ldexp(nearbyint(ldexp(x, -last)), last);
}

static inline double to_bf16(double x) {
    return round_to(x, 8, -133);
}
static inline double to_f16(double x) {
    return round_to(fmax(-65504, fmin(65504, x)), 11, -24);
}

static inline uint16_t f16_bits(double x) { /* of a value that is one */
    int exponent;
    double fraction = frexp(fabs(x), &exponent);
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (exponent < -13) return (uint16_t)(sign | (int)ldexp(fabs(x), 24));
    return (uint16_t)(sign | ((exponent + 14) << 10) | ((int)ldexp(fraction, 11) & 0x3ff));
}

static inline double f16_value(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 0x3ff;
    double x = exponent ? (fraction + 1024) * 0x1p-25 * (double)(1u << exponent) : fraction * 0x1p-24;
    if (exponent == 31) x = fraction ? NAN : INFINITY;
    return h & 0x8000 ? -x : x;
}

static inline void put(enum dtype type, void *to, size_t at, double value) {
    float x = (float)value;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (type == DTYPE_F32) ((float *)to)[at] = x;
    if (type == DTYPE_F16) ((uint16_t *)to)[at] = f16_bits(to_f16(value));
    if (type == DTYPE_BF16) ((uint16_t *)to)[at] = (uint16_t)(bits >> 16);
}

static inline double get(enum dtype type, const void *from, size_t at) {
    if (type == DTYPE_F32) return ((const float *)from)[at];
    uint16_t h = ((const uint16_t *)from)[at];
    if (type == DTYPE_F16) return f16_value(h);
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline double silu(double x) {
    return x / (1 + exp(-x));
}

static inline double gelu(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

static inline float *random_floats(uint64_t *seed, size_t n, float middle, float spread) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = middle + spread * random_float(seed);
    return x;
}

/* Random blocks as GGUF lays them out, of about unit gain; 8-bit integers from -128 on, which no writer makes
 * but a stranger's file may hold. */
static inline void *random_blocks(uint64_t *seed, enum dtype type, int32_t n, int32_t k) {
    const size_t bytes = (size_t)n * dtype_row_bytes(type, (size_t)k), step = dtype_bytes(type);
    const double most = type == DTYPE_Q8_0 ? 127 : 8;
    uint8_t *data = malloc(bytes);
    for (size_t at = 0; at < bytes; at++) data[at] = (uint8_t)(int)(random_float(seed) * 128 + 128);
    for (size_t at = 0; type == DTYPE_F8 && at < bytes; at++)
        if ((data[at] & 0x7f) == 0x7f) data[at] ^= 1; /* no number */
    for (size_t at = 0; at < bytes; at += step) {
        const float wide = (float)sqrt(3.0 / k) / 128 * random_float(seed);
        if (type == DTYPE_F8) {
            memcpy(data + at, &wide, 4);
            continue;
        }
        const uint16_t scale = f16_bits(to_f16(sqrt(3.0 / k) / most * random_float(seed)));
        memcpy(data + at, &scale, 2);
    }
    return data;
}

/* Element `at` of such a row. */
static inline double f8_value(const void *row, int32_t at) {
    const uint8_t *block = (const uint8_t *)row + (size_t)(at / 128) * dtype_bytes(DTYPE_F8);
    const int q = block[4 + at % 128], exponent = q >> 3 & 15, mantissa = q & 7;
    const double size = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
    float scale;
    memcpy(&scale, block, 4);
    return (float)((q & 0x80 ? -size : size) * scale);
}

static inline double block_value(enum dtype type, const void *row, int32_t at) {
    if (type == DTYPE_F8) return f8_value(row, at);
    const uint8_t *block = (const uint8_t *)row + (size_t)(at / 32) * dtype_bytes(type);
    const int32_t i = at % 32;
    uint16_t scale;
    memcpy(&scale, block, 2);
    const int integer = type == DTYPE_Q8_0 ? (int8_t)block[2 + i]
                        : i < 16           ? (block[2 + i] & 15) - 8
                                           : (block[2 + i - 16] >> 4) - 8;
    return f16_value(scale) * integer;
}

/* Weights of about unit gain. */
static inline struct matrix random_matrix(uint64_t *seed, enum dtype type, int32_t n, int32_t k) {
    void *data = malloc((size_t)n * (size_t)k * dtype_bytes(type));
    for (size_t i = 0; i < (size_t)n * (size_t)k; i++) put(type, data, i, random_float(seed) * sqrt(3.0 / k));
    return (struct matrix){data, type, n, k};
}

struct shape {
    const char *name;
    int32_t hidden, intermediate, heads, kv_heads, head_dim, vocab, page_size;
    enum dtype weights, cache;
    /* what only some families have */
    bool bias, qk_norm, post_norm, gelu;
    bool mixed; /* values are cached in 8 bits, or in f16 where keys are */
    int32_t window;
    float score_cap, logit_cap, embedding_scale; /* 0: none, none, 1 */
};

#define SHAPE(name_, hidden_, inner_, heads_, kv_heads_, head_dim_, vocab_, page_size_, weights_, cache_)    \
    .name = name_, .hidden = hidden_, .intermediate = inner_, .heads = heads_, .kv_heads = kv_heads_,        \
    .head_dim = head_dim_, .vocab = vocab_, .page_size = page_size_, .weights = weights_, .cache = cache_

static inline enum dtype values_type(const struct shape *s) {
    return !s->mixed ? s->cache : s->cache == DTYPE_Q8_0 ? DTYPE_F16 : DTYPE_Q8_0;
}

static inline float *rope_table(int32_t positions, int32_t head_dim) {
    int32_t half = head_dim / 2;
    float *rope = malloc((size_t)positions * (size_t)half * 2 * sizeof *rope);
    for (int32_t p = 0; p < positions; p++)
        for (int32_t i = 0; i < half; i++) {
            double angle = p * pow(10000, -2.0 * i / head_dim);
            rope[(p * half + i) * 2] = (float)cos(angle);
            rope[(p * half + i) * 2 + 1] = (float)sin(angle);
        }
    return rope;
}

/* One layer's weights. */
struct layer {
    struct attention_block attention;
    struct projection output, down;
    struct mlp_block mlp;
};

static inline float *random_vector(uint64_t *seed, bool wanted, int32_t n, float middle) {
    return wanted ? random_floats(seed, (size_t)n, middle, 0.5f) : NULL;
}

static inline struct projection random_projection(uint64_t *seed, const struct shape *s, int32_t k) {
    return (struct projection){.w = random_matrix(seed, s->weights, s->hidden, k),
                               .bias = random_vector(seed, s->bias, s->hidden, 0),
                               .norm = random_vector(seed, s->post_norm, s->hidden, 1),
                               .norm_eps = 1e-6f};
}

static inline struct layer random_layer(uint64_t *seed, const struct shape *s, const float *rope) {
    int32_t wide = s->heads * s->head_dim, narrow = s->kv_heads * s->head_dim;
    return (struct layer){
        .attention = {.norm = random_floats(seed, (size_t)s->hidden, 1, 0.5f),
                      .norm_eps = 1e-5f,
                      .q = random_matrix(seed, s->weights, wide, s->hidden),
                      .k = random_matrix(seed, s->weights, narrow, s->hidden),
                      .v = random_matrix(seed, s->weights, narrow, s->hidden),
                      .rope = rope,
                      .heads = s->heads,
                      .kv_heads = s->kv_heads,
                      .head_dim = s->head_dim,
                      .scale = 1 / sqrtf((float)s->head_dim),
                      .softcap = s->score_cap,
                      .window = s->window,
                      .bias = random_vector(seed, s->bias, wide + 2 * narrow, 0),
                      .q_norm = random_vector(seed, s->qk_norm, s->head_dim, 1),
                      .k_norm = random_vector(seed, s->qk_norm, s->head_dim, 1)},
        .output = random_projection(seed, s, wide),
        .mlp = {.norm = random_floats(seed, (size_t)s->hidden, 1, 0.5f),
                .norm_eps = 1e-5f,
                .gate = random_matrix(seed, s->weights, s->intermediate, s->hidden),
                .up = random_matrix(seed, s->weights, s->intermediate, s->hidden),
                .gelu = s->gelu,
                .bias = random_vector(seed, s->bias, 2 * s->intermediate, 0)},
        .down = random_projection(seed, s, s->intermediate),
    };
}

static inline void layer_free(struct layer *l) {
    const void *all[] = {l->attention.norm, l->attention.q.data, l->attention.k.data, l->attention.v.data,
                         l->attention.bias, l->attention.q_norm, l->attention.k_norm, l->output.w.data,
                         l->output.bias,    l->output.norm,      l->mlp.norm,         l->mlp.gate.data,
                         l->mlp.up.data,    l->mlp.bias,         l->down.w.data,      l->down.bias,
                         l->down.norm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free((void *)all[i]);
}

#endif

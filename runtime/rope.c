/* See rope.h. */
#include "runtime/rope.h"

#include <math.h>

static const double TURN = 2 * 3.14159265358979323846;

/* Wavelengths beyond the original context are stretched, those well inside are not. */
static double llama3(const struct rope_config *r, double frequency) {
    const double turns = r->original_max_position_embeddings * frequency / TURN;
    const double share = (turns - r->low_freq_factor) / ((double)r->high_freq_factor - r->low_freq_factor);
    const double kept = fmax(0, fmin(1, share));
    return (1 - kept) * frequency / r->factor + kept * frequency;
}

/* The pair that makes so many turns within the original context. */
static double yarn_border(const struct rope_config *r, int32_t head_dim, double turns) {
    return head_dim * log(r->original_max_position_embeddings / (turns * TURN)) / (2 * log(r->theta));
}

static double yarn(const struct rope_config *r, int32_t head_dim, int32_t i, double frequency) {
    double low = yarn_border(r, head_dim, r->beta_fast), high = yarn_border(r, head_dim, r->beta_slow);
    if (r->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0), high = fmin(high, head_dim - 1);
    if (low == high) high += 0.001;
    const double stretched = fmax(0, fmin(1, (i - low) / (high - low)));
    return stretched * frequency / r->factor + (1 - stretched) * frequency;
}

void rope_frequencies(const struct rope_config *r, int32_t head_dim, int32_t positions, float *frequency) {
    const float *own = positions > r->original_max_position_embeddings ? r->long_factor : r->short_factor;
    for (int32_t i = 0; i < head_dim / 2; i++) {
        double f = 1 / pow(r->theta, (double)(2 * i) / head_dim);
        if (r->type == ROPE_LINEAR) f /= r->factor;
        if (r->type == ROPE_LLAMA3) f = llama3(r, f);
        if (r->type == ROPE_YARN) f = yarn(r, head_dim, i, f);
        if (r->type == ROPE_LONG) f /= own[i];
        frequency[i] = (float)f;
    }
}

void rope_rows(const struct rope_config *r, int32_t head_dim, const float *frequency, int32_t from, int32_t n,
               float *out) {
    const size_t half = (size_t)head_dim / 2;
    for (size_t p = 0; p < (size_t)n; p++)
        for (size_t i = 0; i < half; i++) {
            const float angle = (float)((size_t)from + p) * frequency[i];
            out[(p * half + i) * 2] = (float)cos(angle) * r->attention_factor;
            out[(p * half + i) * 2 + 1] = (float)sin(angle) * r->attention_factor;
        }
}

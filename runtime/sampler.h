/* From logits to a distribution to a token, with every knob, and the random numbers for it.
 *
 * The same function makes the draft's distribution q and the verifier's p, so whatever the settings, p is
 * what plain decoding would sample from, and acceptance (accept.h) is exact for it. Order of the knobs: bias,
 * penalties, temperature, top-k, top-p, min-p. Ties go to the lower id. p is float32; the arithmetic is that
 * of kernels/sampling.h, which devices share.
 *
 * Randomness is by counter: a number is a pure function of the seed, what it is for, and where in the text;
 * none depends on how many were drawn before. */
#ifndef OUTRIDER_SAMPLER_H
#define OUTRIDER_SAMPLER_H

#include "kernels/sampling.h"
#include "runtime/accept.h"
#include "runtime/outrider.h"

struct sampler {
    outrider_settings s; /* the sampling part is used; logit_bias is owned */
    int32_t vocab_size;
    float *logits;   /* [vocab] scratch */
    int32_t *counts; /* [vocab] zero between calls */
    int32_t *order;  /* [vocab] scratch for selection */
};

outrider_status sampler_create(const outrider_settings *settings, int32_t vocab_size,
                               struct sampler *sampler);
void sampler_destroy(struct sampler *sampler);

/* OUTRIDER_EINVAL with the knob's name when a setting is out of range. */
outrider_status sampler_check(const outrider_settings *settings, int32_t vocab_size);

/* True when the token is the plain argmax of the logits: greedy, no bias, no penalty. */
bool sampler_is_argmax(const struct sampler *sampler);
/* Tokens that penalties look back on; 0 when there are none. */
int32_t sampler_window(const struct sampler *sampler);
/* Entries that a distribution of these settings can have at most. */
int32_t sampler_support(const struct sampler *sampler);

/* The distribution of the token after `history`. `out` has room for sampler_support entries, in order of id.
 * OUTRIDER_EFAIL when every token is forbidden. */
outrider_status sampler_distribution(struct sampler *sampler, const float *logits, const int32_t *history,
                                     size_t n_history, struct distribution *out);
outrider_status sampler_fail_impossible(void); /* that failure, for whoever takes the argmax himself */

/* argmax over the support of ln p + Gumbel noise of (seed, position, token): a sample of p in which draft and
 * verifier share their luck. */
int32_t sampler_gumbel_pick(uint64_t seed, int32_t position, const struct distribution *d);

#endif

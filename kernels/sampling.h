/* The arithmetic of sampling, in one place for the host (runtime/sampler.c, runtime/accept.c) and for
 * devices, which must write the same tokens bit for bit.
 *
 * Sums are of whole numbers, so that they come out the same in whatever order a device takes them: weights in
 * units of 2^-44 of the greatest, probabilities in units of 2^-53. A token less likely than 2^-44 of the
 * likeliest is never drawn. Everything else is a chain of IEEE operations; whoever includes this must compile
 * without contraction (-ffp-contract=off, -fmad=false). exp and log are of our own, because every libm has
 * others.
 *
 * Randomness is by counter (Philox4x32-10, Salmon et al. 2011). */
#ifndef OUTRIDER_SAMPLING_H
#define OUTRIDER_SAMPLING_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SAMPLING static __host__ __device__ __forceinline__
#else
#define SAMPLING static inline
#endif

/* ---- random numbers ---- */

/* What a random number is for. */
enum rng_purpose { RNG_PROPOSE, RNG_ACCEPT, RNG_FINAL, RNG_GUMBEL };

/* 64 random bits: ten rounds of multiply and mix; key = seed, counter = the four others. */
SAMPLING uint64_t rng_bits(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint64_t)c0 << 32 | c1;
}

/* Uniform in [0, 1) with 53 bits. `position` is the token's place in the text; `round` the place at which the
 * round began, so that numbers which one round looked at and threw away are never used again (block
 * verification would be biased by that). */
SAMPLING double rng_uniform(uint64_t seed, enum rng_purpose purpose, int32_t position, int32_t round) {
    return (double)(rng_bits(seed, (uint32_t)position, (uint32_t)round, (uint32_t)purpose, 0) >> 11) *
           0x1p-53;
}

/* ---- exp and log ---- */

/* 2^44 e^x for x <= 0, rounded down: a weight. x = n ln 2 + r with |r| <= ln 2 / 2, Taylor to r^7; adding
 * 1.5 * 2^23 rounds to an integer. Within 3e-7 of the result. */
#define WEIGHT_ONE ((uint64_t)1 << 44)
SAMPLING uint64_t weight_of(float x) {
    if (!(x > -30.5f)) return 0;
    const float magic = 0x1.8p23f, n = x * 0x1.715476p0f + magic - magic;
    const float r = x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    return (uint64_t)(p * 0x1p44f) >> (int)-n; /* a float's bits stand above the unit before the shift */
}

/* ln x for normal x > 0, within 4e-16 relative or of the exponent's part: m 2^e with m about 1, atanh series
 * of (m - 1) / (m + 1). */
SAMPLING double log_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) m *= 0.5, e++;
    const double s = (m - 1) / (m + 1), z = s * s;
    double p = 1.0 / 21;
    for (int i = 19; i > 0; i -= 2) p = p * z + 1.0 / i;
    return e * 0.6931471805599453 + 2 * s * p;
}

/* ---- whole-number sums ---- */

/* x >= 0 in units of 2^-53, rounded down. */
SAMPLING uint64_t fixed_of(double x) {
    return (uint64_t)(x * 0x1p53);
}
SAMPLING double fixed_to_double(uint64_t fixed) {
    return (double)fixed * 0x1p-53;
}

/* ---- acceptance (runtime/accept.h) ---- */

/* max(0, scale p - q) of one token, in fixed point. */
SAMPLING uint64_t excess_of(double scale, float p, float q) {
    const double d = scale * p - q;
    return d > 0 ? fixed_of(d) : 0;
}
/* u of the way through a residual's mass: below it. */
SAMPLING uint64_t residual_target(double u, uint64_t mass) {
    const uint64_t target = (uint64_t)(u * (double)mass);
    return target < mass ? target : mass - 1;
}
/* Block verification: how well the run up to a token is covered, from that before it, and the chance that the
 * run stays with this token as its last but for one. */
SAMPLING double block_weight(double before, double p, double q) {
    const double weight = before * (p / q);
    return weight < 1 ? weight : 1;
}
SAMPLING double block_keep(double weight, uint64_t mass) {
    const double rest = fixed_to_double(mass) + (1 - weight);
    return rest > 0 ? fixed_to_double(mass) / rest : 1;
}

/* ---- knobs ---- */

/* A logit whose token occurs `count` times in what is penalised. */
SAMPLING float penalise(float logit, float repeat, float presence, float frequency, int32_t count) {
    logit = logit > 0 ? logit / repeat : logit * repeat;
    return logit - (presence + frequency * (float)count);
}
/* The weight of a logit beside the greatest; an infinite greatest takes all. */
SAMPLING uint64_t weight_below(float logit, float greatest, float temperature) {
    return logit == greatest ? WEIGHT_ONE : weight_of((logit - greatest) / temperature);
}
/* The weight that the nucleus must reach, at least 1, and the least that min-p leaves. */
SAMPLING uint64_t nucleus_of(float top_p, uint64_t total) {
    const uint64_t target = (uint64_t)((double)top_p * (double)total);
    return target ? target : 1;
}
SAMPLING uint64_t least_weight(float min_p) {
    return (uint64_t)((double)min_p * (double)WEIGHT_ONE);
}
SAMPLING float share_of(uint64_t weight, uint64_t total) {
    return (float)((double)weight / (double)total);
}
/* A token's score under Gumbel noise of its own: the greatest score is a sample of p. */
SAMPLING double gumbel_score(uint64_t seed, int32_t position, int32_t token, float p) {
    const uint64_t bits = rng_bits(seed, (uint32_t)position, (uint32_t)token, RNG_GUMBEL, 1);
    const double u = ((double)(bits >> 12) + 0.5) * 0x1p-52; /* in (0, 1) */
    return log_of((double)p) - log_of(-log_of(u));
}

#endif

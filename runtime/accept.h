/* Which proposed tokens stay: acceptance as pure arithmetic on the host, the reference for any device twin.
 *
 * K tokens were proposed; q[i] is the distribution that proposal i was drawn from, p[i] the verifier's for
 * the same place (after the proposals before it), p[K] the one after all of them. Each rule says how many
 * proposals stay and which token follows them, so that the text is distributed as p alone would write it. */
#ifndef OUTRIDER_ACCEPT_H
#define OUTRIDER_ACCEPT_H

#include <stdbool.h>
#include <stdint.h>

/* A distribution by its support. p sums to 1 within rounding; ids are distinct. */
struct distribution {
    int32_t n;
    int32_t *id;
    float *p;
};

/* All of it on one token. */
void distribution_set(struct distribution *d, int32_t token);
float distribution_p(const struct distribution *d, int32_t token); /* 0 outside the support */
/* The token at which the cumulated probability passes u, 0 <= u < 1. */
int32_t distribution_draw(const struct distribution *d, double u);

struct accepted {
    int32_t n;     /* proposals that stay */
    int32_t token; /* the verifier's own token after them */
};

/* Greedy decoding, and the coupled rule (Daliri, Musco, Suresh 2025): pick[i] is what the verifier itself
 * writes at place i; proposals stay while they equal it. pick has K + 1 entries. */
struct accepted accept_equal(int32_t k, const int32_t *proposed, const int32_t *pick);

/* Rejection with residual (Leviathan et al. 2023; Chen et al. 2023): proposal i stays with probability
 * min(1, p/q); the first that does not is replaced by a draw from max(0, p - q), normalised. u has K uniform
 * numbers, u_final one more. scratch: [vocab], zero before and after. */
struct accepted accept_rejection(int32_t k, const int32_t *proposed, const struct distribution *q,
                                 const struct distribution *p, const double *u, double u_final,
                                 float *scratch);

/* Block verification (Sun et al. 2024): the same guarantee, judging the run as a whole; in expectation it
 * never keeps fewer. Same arguments. */
struct accepted accept_block(int32_t k, const int32_t *proposed, const struct distribution *q,
                             const struct distribution *p, const double *u, double u_final, float *scratch);

#endif

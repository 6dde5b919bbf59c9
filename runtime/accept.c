/* The acceptance rules (see accept.h). No state, no device, no random numbers of its own. */
#include "runtime/accept.h"

#include "kernels/sampling.h"

void distribution_set(struct distribution *d, int32_t token) {
    d->n = 1;
    d->id[0] = token;
    d->p[0] = 1;
}

float distribution_p(const struct distribution *d, int32_t token) {
    for (int32_t i = 0; i < d->n; i++)
        if (d->id[i] == token) return d->p[i];
    return 0;
}

int32_t distribution_draw(const struct distribution *d, double u) {
    uint64_t sum = 0, target = fixed_of(u);
    for (int32_t i = 0; i < d->n; i++) {
        sum += fixed_of(d->p[i]);
        if (target < sum) return d->id[i];
    }
    /* The sum fell short of u by rounding: the last token that can be drawn at all. */
    int32_t last = d->n - 1;
    while (last > 0 && fixed_of(d->p[last]) == 0) last--;
    return d->id[last];
}

struct accepted accept_equal(int32_t k, const int32_t *proposed, const int32_t *pick) {
    int32_t n = 0;
    while (n < k && proposed[n] == pick[n]) n++;
    return (struct accepted){n, pick[n]};
}

/* Lays q out by token so that the walks over p's support below can look it up; unlay makes scratch zero
 * again. */
static void lay(const struct distribution *q, float *scratch) {
    for (int32_t i = 0; i < q->n; i++) scratch[q->id[i]] = q->p[i];
}
static void unlay(const struct distribution *q, float *scratch) {
    for (int32_t i = 0; i < q->n; i++) scratch[q->id[i]] = 0;
}

/* Sum over x of max(0, scale p(x) - q(x)), in fixed point. */
static uint64_t residual_mass(double scale, const struct distribution *p, const struct distribution *q,
                              float *scratch) {
    uint64_t mass = 0;
    lay(q, scratch);
    for (int32_t i = 0; i < p->n; i++) mass += excess_of(scale, p->p[i], scratch[p->id[i]]);
    unlay(q, scratch);
    return mass;
}

/* A draw from max(0, scale p - q), normalised; from p when rounding left no mass. */
static int32_t residual_draw(double scale, const struct distribution *p, const struct distribution *q,
                             double u, float *scratch) {
    const uint64_t mass = residual_mass(scale, p, q, scratch);
    if (mass == 0) return distribution_draw(p, u);
    const uint64_t target = residual_target(u, mass);
    uint64_t sum = 0;
    int32_t i = -1;
    lay(q, scratch);
    while (sum <= target) i++, sum += excess_of(scale, p->p[i], scratch[p->id[i]]);
    unlay(q, scratch);
    return p->id[i];
}

struct accepted accept_rejection(int32_t k, const int32_t *proposed, const struct distribution *q,
                                 const struct distribution *p, const double *u, double u_final,
                                 float *scratch) {
    for (int32_t i = 0; i < k; i++) {
        double px = distribution_p(&p[i], proposed[i]), qx = distribution_p(&q[i], proposed[i]);
        if (u[i] * qx < px) continue;
        return (struct accepted){i, residual_draw(1, &p[i], &q[i], u_final, scratch)};
    }
    return (struct accepted){k, distribution_draw(&p[k], u_final)};
}

struct accepted accept_block(int32_t k, const int32_t *proposed, const struct distribution *q,
                             const struct distribution *p, const double *u, double u_final, float *scratch) {
    int32_t n = 0;
    double weight = 1, weight_at_n = 1; /* the paper's p_i: how well the run so far is covered, at most 1 */
    for (int32_t i = 0; i < k; i++) {
        double px = distribution_p(&p[i], proposed[i]), qx = distribution_p(&q[i], proposed[i]);
        weight = block_weight(weight, px, qx);
        double keep = weight;
        if (i + 1 < k) keep = block_keep(weight, residual_mass(weight, &p[i + 1], &q[i + 1], scratch));
        if (u[i] < keep) n = i + 1, weight_at_n = weight;
    }
    if (n == k) return (struct accepted){k, distribution_draw(&p[k], u_final)};
    return (struct accepted){n, residual_draw(weight_at_n, &p[n], &q[n], u_final, scratch)};
}

/* The acceptance rules (see accept.h). No state, no device, no random numbers of its own. */
#include "runtime/accept.h"

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
    double cumulated = 0;
    for (int32_t i = 0; i < d->n; i++) {
        cumulated += d->p[i];
        if (u < cumulated) return d->id[i];
    }
    /* The sum fell short of u by rounding: the last token that can be drawn at all. */
    int32_t last = d->n - 1;
    while (last > 0 && d->p[last] == 0) last--;
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

static double excess(double weight, float p, float q) {
    double d = weight * p - q;
    return d > 0 ? d : 0;
}

/* Sum over x of max(0, weight p(x) - q(x)). */
static double residual_mass(double weight, const struct distribution *p, const struct distribution *q,
                            float *scratch) {
    double mass = 0;
    lay(q, scratch);
    for (int32_t i = 0; i < p->n; i++) mass += excess(weight, p->p[i], scratch[p->id[i]]);
    unlay(q, scratch);
    return mass;
}

/* A draw from max(0, weight p - q), normalised; from p when rounding left no mass. */
static int32_t residual_draw(double weight, const struct distribution *p, const struct distribution *q,
                             double u, float *scratch) {
    double mass = residual_mass(weight, p, q, scratch), cumulated = 0;
    if (!(mass > 0)) return distribution_draw(p, u);
    int32_t token = -1;
    lay(q, scratch);
    for (int32_t i = 0; i < p->n; i++) {
        double part = excess(weight, p->p[i], scratch[p->id[i]]);
        if (part == 0) continue;
        token = p->id[i];
        cumulated += part;
        if (u * mass < cumulated) break;
    }
    unlay(q, scratch);
    return token;
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
        weight *= px / qx;
        if (weight > 1) weight = 1;
        double keep = weight;
        if (i + 1 < k) {
            double mass = residual_mass(weight, &p[i + 1], &q[i + 1], scratch);
            double rest = mass + 1 - weight;
            keep = rest > 0 ? mass / rest : 1;
        }
        if (u[i] < keep) n = i + 1, weight_at_n = weight;
    }
    if (n == k) return (struct accepted){k, distribution_draw(&p[k], u_final)};
    return (struct accepted){n, residual_draw(weight_at_n, &p[n], &q[n], u_final, scratch)};
}

/* For the tests of the CPU's operations: the backends of all instruction sets that this machine has. Include
 * cmocka.h first. */
#ifndef OUTRIDER_HELPERS_MACHINES_H
#define OUTRIDER_HELPERS_MACHINES_H

#include "tests/helpers_ops.h"

static const char *const isas[] = {"portable", "avx2", "avx512", "avx512bf16"};
enum { ISAS = sizeof isas / sizeof *isas, ROWS = 150 /* of one call, at most */ };

struct machine {
    const char *isa;
    const struct ops *ops;
    struct backend *be;
};

static inline bool machine_open(int isa, int32_t threads, const struct shape *s, struct machine *m) {
    m->isa = isas[isa];
    outrider_status status = cpu_open(m->isa, threads, &m->ops, &m->be);
    if (status == OUTRIDER_EINVAL && isa > 0) return false; /* not on this machine */
    assert_int_equal(status, OUTRIDER_OK);
    int32_t width = s->heads * s->head_dim > s->intermediate ? s->heads * s->head_dim : s->intermediate;
    assert_int_equal(m->ops->reserve(m->be, ROWS, width > s->hidden ? width : s->hidden), OUTRIDER_OK);
    return true;
}

static inline void machine_close(struct machine *m) {
    m->ops->close(m->be);
}

/* One of each instruction set, side by side, so that a reference is computed once for all. */
struct machines {
    struct machine m[ISAS];
    int n;
};

static inline struct machines machines_open(const struct shape *s) {
    struct machines all = {.n = 0};
    for (int isa = 0; isa < ISAS; isa++) all.n += machine_open(isa, 2, s, &all.m[all.n]);
    return all;
}

static inline void machines_close(struct machines *all) {
    for (int i = 0; i < all->n; i++) machine_close(&all->m[i]);
}

#endif

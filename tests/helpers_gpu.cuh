/* What the programs on the CUDA backend share: the backend they opened, and moving arrays. */
#ifndef OUTRIDER_HELPERS_GPU_CUH
#define OUTRIDER_HELPERS_GPU_CUH

/* What a shape or a block does not name is zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#include "kernels/cuda/common.cuh"

#include <cstdio>
#include <cstdlib>
#include <vector>

static const struct ops *ops;
static struct backend *be;

static void must(outrider_status status) {
    if (status == OUTRIDER_OK) return;
    printf("FAIL %s\n", outrider_error());
    exit(1);
}
static void open_card() {
    char line[256];
    must(cuda_open("", &ops, &be));
    ops->describe(be, line, sizeof line);
    printf("%s\n", line);
}
template <typename T> static T *on_device(const std::vector<T> &host) {
    void *p;
    must(ops->alloc(be, host.size() * sizeof(T), &p));
    ops->upload(be, p, host.data(), host.size() * sizeof(T));
    return (T *)p;
}

#endif

/* The greatest of many values, by all lanes of a warp. */
#ifndef OUTRIDER_CUDA_BEST_CUH
#define OUTRIDER_CUDA_BEST_CUH

#include "kernels/cuda/common.cuh"

/* A candidate: the greater value wins, the lower index on a tie. */
template <typename Value> struct best {
    Value value;
    int index;
};
template <typename Value>
__device__ __forceinline__ struct best<Value> better(struct best<Value> a, struct best<Value> b) {
    return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}
template <typename Value> __device__ __forceinline__ struct best<Value> warp_best(struct best<Value> a) {
    for (int offset = 16; offset; offset /= 2)
        a = better(a, {__shfl_xor_sync(~0u, a.value, offset), __shfl_xor_sync(~0u, a.index, offset)});
    return a;
}

#endif

/* cuBLAS, for the products of prompts. It is looked up when a card is opened rather than linked, so that the
 * program starts on machines without it; there prompts go through the skinny product, 64 rows at a time. */
#include "kernels/cuda/common.cuh"

#include <cstdio>
#include <new>

#include <cublas_v2.h>
#include <dlfcn.h>

struct blas {
    void *library, *space;
    cublasHandle_t handle;
    decltype(&cublasCreate_v2) create;
    decltype(&cublasDestroy_v2) destroy;
    decltype(&cublasSetStream_v2) set_stream;
    decltype(&cublasSetWorkspace_v2) set_workspace;
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *,
                           const void *, cudaDataType, int, const void *, cudaDataType, int, const void *,
                           void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
};

template <typename F> static bool look_up(const struct blas *b, const char *name, F *function) {
    *function = (F)dlsym(b->library, name);
    return *function != nullptr;
}

static bool load(struct blas *b) {
    char name[32];
    snprintf(name, sizeof name, "libcublas.so.%d", CUBLAS_VER_MAJOR);
    b->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    return b->library && look_up(b, "cublasCreate_v2", &b->create) &&
           look_up(b, "cublasDestroy_v2", &b->destroy) && look_up(b, "cublasSetStream_v2", &b->set_stream) &&
           look_up(b, "cublasSetWorkspace_v2", &b->set_workspace) && look_up(b, "cublasGemmEx", &b->gemm);
}

cudaError_t blas_open(struct backend *be) {
    constexpr size_t space_bytes = 64 << 20;
    struct blas *b = be->blas = new (std::nothrow) struct blas();
    if (!b) return cudaErrorMemoryAllocation;
    if (!load(b)) {
        blas_close(be);
        return cudaSuccess;
    }
    cudaError_t error = cudaMalloc(&b->space, space_bytes);
    if (error != cudaSuccess) return error;
    if (b->create(&b->handle) != CUBLAS_STATUS_SUCCESS ||
        b->set_stream(b->handle, be->stream) != CUBLAS_STATUS_SUCCESS ||
        b->set_workspace(b->handle, b->space, space_bytes) != CUBLAS_STATUS_SUCCESS)
        return cudaErrorInitializationError;
    return cudaSuccess;
}

/* The library stays: it does not like to be unloaded. */
void blas_close(struct backend *be) {
    struct blas *b = be->blas;
    if (!b) return;
    if (b->handle) b->destroy(b->handle);
    cudaFree(b->space);
    delete b;
    be->blas = nullptr;
}

void blas_product(struct backend *be, const void *w, const void *a, float *c, int32_t m, int32_t n, int32_t k,
                  int32_t pitch) {
    const struct range here("prompt product");
    const float one = 1, zero = 0;
    if (be->blas->gemm(be->blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, &one, w, CUDA_R_16BF, k, a,
                       CUDA_R_16BF, k, &zero, c, CUDA_R_32F, pitch, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
        note(be, cudaErrorUnknown, "cuBLAS");
}

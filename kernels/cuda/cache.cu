/* Moving what lies in the cache: of a tree of proposals, what stays. */
#include "kernels/cuda/common.cuh"

namespace {

struct moves {
    void *pool[MOVE_LAYERS][2];
    struct kv_place from[TREE_ROWS], to[TREE_ROWS];
    int32_t n, kv_heads;
    int32_t block, vector, scales, scales_at; /* of a head's part of a page, in units of two bytes */
};

/* A block a layer's keys or values. */
__global__ void move_vectors(const __grid_constant__ struct moves m) {
    pdl_wait();
    uint16_t *pool = (uint16_t *)m.pool[blockIdx.x][blockIdx.y];
    const int each = m.vector + m.scales;
    for (int i = threadIdx.x; i < m.n * m.kv_heads * each; i += blockDim.x) {
        const int token = i / each / m.kv_heads, head = i / each % m.kv_heads, at = i % each;
        const struct kv_place f = m.from[token], t = m.to[token];
        const uint16_t *from = pool + ((size_t)f.page * m.kv_heads + head) * m.block;
        uint16_t *to = pool + ((size_t)t.page * m.kv_heads + head) * m.block;
        if (at < m.vector)
            to[t.offset * m.vector + at] = __ldcg(from + f.offset * m.vector + at);
        else
            to[m.scales_at + t.offset * m.scales + at - m.vector] =
                __ldcg(from + m.scales_at + f.offset * m.scales + at - m.vector);
    }
}

} // namespace

void cuda_move(struct backend *be, const struct kv_layer *layers, int32_t n_layers, int32_t kv_heads,
               int32_t head_dim, int32_t n, const struct kv_place *from, const struct kv_place *to) {
    const enum dtype type = layers[0].k_dtype; /* and of the values */
    const int32_t page_size = layers[0].page_size;
    struct moves m = {};
    m.n = n;
    m.kv_heads = kv_heads;
    m.block = (int32_t)(kv_head_bytes(type, page_size, head_dim) / 2);
    m.vector = (int32_t)(head_dim * (type == DTYPE_Q8_0 ? 1 : dtype_bytes(type)) / 2);
    m.scales = type == DTYPE_Q8_0 ? kv_groups(head_dim) : 0;
    m.scales_at = page_size * m.vector;
    memcpy(m.from, from, (size_t)n * sizeof *from);
    memcpy(m.to, to, (size_t)n * sizeof *to);
    for (int32_t i = 0; i < n_layers; i++) {
        m.pool[i][0] = layers[i].k;
        m.pool[i][1] = layers[i].v;
    }
    launch(be, "move", move_vectors, dim3(n_layers, 2), 256, 0, m);
    be->serial = true; /* attention reads the cache before it waits */
}

/* Matrix products and what is fused around them: three ways to the same sums.
 *
 * skinny    few rows, near the card's read bandwidth: skinny.cuh for bf16, packed.cuh for quantised weights.
 * prefill   rows of a prompt: cuBLAS on PREFILL_ROWS rows, padded, so that it always sees one shape and a
 *           row's bits cannot depend on how many came with it.
 * plain     any type and shape: one warp an output. Correct, not fast.
 *
 * Quantised weights are widened to bf16, matrix by matrix, for the latter two. */
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/skinny.cuh"

#include <new>

namespace {

constexpr int FINISH_THREADS = 256, FINISH_EACH = 4; /* pairs a thread, read together */

/* Finishes sums [rows][n] that another kernel left. */
__global__ void finish_sums(struct finish f, const float *sums) {
    pdl_release();
    pdl_wait();
    const int row = blockIdx.y, first = blockIdx.x * FINISH_THREADS * FINISH_EACH + threadIdx.x;
    const struct place at = find_place(f, row);
    const float scale = f.scale ? __ldcg(f.scale + row) : 1;
    float a[FINISH_EACH], b[FINISH_EACH];
#pragma unroll
    for (int i = 0; i < FINISH_EACH; i++) {
        const int pair = first + i * FINISH_THREADS, output = first_of_pair(f, min(pair, f.pairs - 1));
        a[i] = scale * __ldcg(sums + (size_t)row * f.n + output);
        b[i] = scale * (output + f.half < f.n ? __ldcg(sums + (size_t)row * f.n + output + f.half) : 0);
    }
#pragma unroll
    for (int i = 0; i < FINISH_EACH; i++)
        if (first + i * FINISH_THREADS < f.pairs)
            finish_pair(f, row, at, first + i * FINISH_THREADS, a[i], b[i]);
}

/* sums[row][first + i] = sum over k of w[i][k] a[row][k]: a warp an output. */
template <typename W, typename A>
__global__ void plain(const W *w, const A *a, float *sums, int n, int k, int pitch, int first) {
    pdl_release();
    pdl_wait();
    const int i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= n) return;
    float sum = 0;
    for (int j = lane; j < k; j += 32)
        sum += widen(w[(size_t)i * k + j]) * widen(__ldcg(a + (size_t)blockIdx.y * k + j));
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0) sums[(size_t)blockIdx.y * pitch + first + i] = sum;
}

__global__ void copy_rows(const uint4 *from, uint4 *to, size_t n) {
    pdl_release();
    pdl_wait();
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        to[i] = __ldcg(from + i);
}

/* ---- choosing ---- */

/* A product before it is known how it will be done: activations, or a norm of x. */
struct job {
    struct stack stack;
    enum dtype dtype;
    int32_t m, k;
    bool prefill;
    const void *a;
    const float *x, *norm;
    float eps;
    struct picks pick;
    struct finish finish;
    const float *squares; /* of the product that made x */
};

/* Weights whose activations are bf16. */
bool is_narrow(enum dtype type) {
    return type == DTYPE_BF16 || dtype_is_quantized(type);
}

bool is_skinny(const struct backend *be, const struct job *j) {
    return be->architecture >= 90 && is_narrow(j->dtype) && j->k % 8 == 0;
}

/* Rows that one launch of the skinny product takes; quantised weights leave the ring no room for more. */
int32_t slice_rows(enum dtype type) {
    return dtype_is_quantized(type) ? 8 : PRODUCT_ROWS;
}

void *after_rows(void *p, enum dtype type, size_t n) {
    return p ? (char *)p + n * dtype_bytes(type) : p;
}

/* The finish of rows from `row` on. */
struct finish finish_from(struct finish f, int32_t row) {
    if (f.x) f.x += (size_t)row * f.n;
    if (f.scale) f.scale += row;
    int32_t width = f.kind == FINISH_QKV ? f.heads * 2 * f.half : f.half;
    f.wide = after_rows(f.wide, f.wide_type, (size_t)row * width);
    if (f.kind == FINISH_QKV) {
        f.position += row;
        f.slot += row;
        if (f.path) f.path += (size_t)row * TREE_ROWS;
    }
    return f;
}

template <int RT> void launch_rows(struct backend *be, struct product *p) {
    if (p->m <= 8) return launch_skinny<128, RT, 1>(be, p);
    /* Beside the squares of wider rows the ring would have but one stage. */
    if (p->m <= 16 && (!p->squares || p->square_tiles <= 256)) return launch_skinny<128, RT, 2>(be, p);
    if (p->m <= 16) return launch_skinny<64, RT, 2>(be, p);
    if (p->m <= 32) return launch_skinny<64, RT, 4>(be, p);
    launch_skinny<64, RT, 8>(be, p);
}

/* Of one row and tiles of 16: what stands before attention, so that it begins to read early, and a short
 * product behind it, all of which is under way meanwhile. */
bool is_beside_attention(const struct backend *be, const struct product *p) {
    const int32_t tiles = ceil_div(ceil_div(p->finish.pairs, 8), be->multiprocessors);
    return p->finish.kind == FINISH_QKV ||
           (p->finish.kind == FINISH_ADD && tiles * ceil_div(p->k, ALONG * QUANT_STEP) <= 2);
}

template <int RT, int BITS> void launch_quantized(struct backend *be, struct product *p) {
    if (p->m > 1) return launch_packed<packed<BITS, RT, false, false>>(be, p);
    if (RT == 1 && is_beside_attention(be, p)) return launch_packed<packed<BITS, 1, true, true>>(be, p);
    launch_packed<packed<BITS, RT, false, true>>(be, p);
}

template <int RT> void launch_tiles(struct backend *be, struct product *p) {
    if (p->dtype == DTYPE_Q8_0) return launch_quantized<RT, 8>(be, p);
    if (p->dtype == DTYPE_Q4_0) return launch_quantized<RT, 4>(be, p);
    launch_rows<RT>(be, p);
}

/* Outputs of a tile: as the norm behind it counts them, or so that no block has more to do than it must. */
int32_t tile_of(const struct backend *be, const struct product *p) {
    if (!dtype_is_quantized(p->dtype) || p->finish.kind == FINISH_ADD) return tile_outputs(be, p->finish.n);
    if (p->finish.kind == FINISH_QKV && p->m == 1) return 16;
    auto most = [&](int32_t tile) {
        return ceil_div(ceil_div(p->finish.n, tile), be->multiprocessors) * tile;
    };
    return most(16) < most(32) ? 16 : 32;
}

void launch_product(struct backend *be, struct product *p) {
    if (tile_of(be, p) == 32)
        launch_tiles<2>(be, p);
    else
        launch_tiles<1>(be, p);
}

struct product product_of(const struct job *j, const void *a, int32_t from) {
    struct product p = {};
    p.stack = j->stack;
    p.dtype = j->dtype;
    p.m = std::min(j->m - from, slice_rows(j->dtype));
    p.k = j->k;
    p.a = (const bf16 *)a + (size_t)from * j->k;
    p.finish = finish_from(j->finish, from);
    p.squares = j->squares;
    p.eps = j->eps;
    return p;
}

void finish_rows(struct backend *be, const struct finish &f, int32_t n) {
    if (f.kind == FINISH_QKV && needs_rows(f))
        return launch(be, "heads", finish_heads, dim3(ceil_div(f.pairs / f.half, HEADS_A_BLOCK), n),
                      HEADS_A_BLOCK * 32, 0, f, (const float *)be->sums);
    if (f.post_norm)
        return launch(be, "post norm", finish_branch, n, BRANCH_THREADS, 0, f, (const float *)be->sums);
    launch(be, "finish", finish_sums, dim3(ceil_div(f.pairs, FINISH_THREADS * FINISH_EACH), n),
           FINISH_THREADS, 0, f, (const float *)be->sums);
}

void run_skinny(struct backend *be, const struct job *j, const void *a) {
    settle(be);
    struct job now = *j;
    if (needs_rows(j->finish)) now.finish = finish_later(j->finish, be->sums);
    for (int32_t from = 0; from < j->m; from += slice_rows(j->dtype)) {
        struct product p = product_of(&now, a, from);
        p.square_tiles = ceil_div(ceil_div(j->k, 2), tile_outputs(be, j->k) / 2);
        launch_product(be, &p);
    }
    if (!needs_rows(j->finish)) return;
    struct finish later = j->finish;
    later.scale = NULL; /* the sums have been multiplied */
    finish_rows(be, later, j->m);
}

/* Matrix i of the job as the type that its activations have. */
const void *widened(struct backend *be, const struct job *j, int i) {
    if (!dtype_is_quantized(j->dtype)) return j->stack.w[i];
    const int32_t n = j->stack.end[i] - (i ? j->stack.end[i - 1] : 0);
    quantized_widen(be, j->stack.w[i], j->dtype, n, j->k, be->widened);
    return be->widened;
}

void run_prefill(struct backend *be, const struct job *j, const void *a) {
    for (int32_t from = 0; from < j->m; from += PREFILL_ROWS) {
        int32_t n = j->m - from < PREFILL_ROWS ? j->m - from : PREFILL_ROWS;
        const bf16 *rows = (const bf16 *)a + (size_t)from * j->k;
        if (n < PREFILL_ROWS) {
            launch(be, "copy", copy_rows, 256, 256, 0, (const uint4 *)rows, (uint4 *)be->padded,
                   (size_t)n * j->k / 8);
            rows = (const bf16 *)be->padded;
        }
        for (int i = 0, first = 0; i < 3 && first < j->finish.n; first = j->stack.end[i++])
            blas_product(be, widened(be, j, i), rows, be->sums + first, PREFILL_ROWS, j->stack.end[i] - first,
                         j->k, j->finish.n);
        finish_rows(be, finish_from(j->finish, from), n);
    }
}

template <typename W, typename A> void run_plain(struct backend *be, const struct job *j, const void *a) {
    for (int32_t from = 0; from < j->m; from += PREFILL_ROWS) {
        int32_t m = j->m - from < PREFILL_ROWS ? j->m - from : PREFILL_ROWS;
        for (int i = 0, first = 0; i < 3 && first < j->finish.n; first = j->stack.end[i++]) {
            int32_t n = j->stack.end[i] - first;
            launch(be, "plain product", plain<W, A>, dim3(ceil_div(n, 8), m), 256, 0,
                   (const W *)widened(be, j, i), (const A *)a + (size_t)from * j->k, be->sums, n, j->k,
                   j->finish.n, first);
        }
        finish_rows(be, finish_from(j->finish, from), m);
    }
}

/* Whether the projection held back made the x that this job norms; if so it is issued together with that
 * norm. */
bool take_held(struct backend *be, struct job *j);

void run(struct backend *be, struct job *j) {
    enum dtype type = is_narrow(j->dtype) ? DTYPE_BF16 : DTYPE_F32;
    const void *a = j->x ? be->normed : j->a;
    if (j->x && !take_held(be, j)) {
        rmsnorm(be, j->x, j->pick, j->norm, j->eps, j->m, j->k, type);
        j->finish.scale = be->scale;
    }
    if (j->prefill && be->blas && is_narrow(j->dtype) && j->k % 8 == 0) return run_prefill(be, j, a);
    if (is_skinny(be, j)) return run_skinny(be, j, a);
    if (is_narrow(j->dtype)) return run_plain<bf16, bf16>(be, j, a);
    if (j->dtype == DTYPE_F16) return run_plain<__half, float>(be, j, a);
    run_plain<float, float>(be, j, a);
}

struct stack stack_of(const struct matrix *a, const struct matrix *b, const struct matrix *c) {
    struct stack s = {{a->data, b ? b->data : NULL, c ? c->data : NULL}, {a->n, a->n, a->n}};
    if (b) s.end[1] = s.end[2] = a->n + b->n;
    if (c) s.end[2] = a->n + b->n + c->n;
    return s;
}

/* The finish of a product whose outputs have nothing to do with each other. */
struct finish finish_each(enum finish_kind kind, int32_t n, float *x) {
    struct finish f = {};
    f.kind = kind;
    f.n = n;
    f.half = f.pairs = ceil_div(n, 2);
    f.x = x;
    return f;
}

} // namespace

/* ---- holding a projection back ----
 *
 * A projection adds to x, and what comes next norms x. Were the norm a kernel of its own, every product but
 * two a pass would wait for it; so a projection is issued only when the operation behind it is known, and
 * then does the norm's work on the x it has just made. Anything else that happens first issues it as it is.
 */
struct held {
    bool any;
    struct product product;
};

void release_held(struct backend *be) {
    if (!be->held->any) return;
    be->held->any = false;
    launch_product(be, &be->held->product);
}

namespace {

bool can_hold(const struct backend *be, const struct job *j) {
    return is_skinny(be, j) && !j->prefill && j->m <= slice_rows(j->dtype);
}

bool take_held(struct backend *be, struct job *j) {
    struct product *p = &be->held->product;
    if (!be->held->any || p->finish.x != j->x || p->m != j->m || p->finish.n != j->k || !j->pick.all ||
        !can_hold(be, j))
        return false;
    p->finish.norm = j->norm;
    p->finish.normed = (bf16 *)be->normed;
    p->finish.squares = be->squares;
    j->squares = be->squares;
    release_held(be);
    return true;
}

} // namespace

/* ---- the operations ---- */

void cuda_qkv(struct backend *be, const struct rows *rows, const struct attention_block *b, const float *x,
              void *q, const struct kv_layer *kv) {
    struct job j = {};
    j.stack = stack_of(&b->q, &b->k, &b->v);
    j.dtype = b->q.dtype;
    j.m = rows->n;
    j.k = b->q.k;
    j.prefill = rows->prefill;
    j.x = x;
    j.norm = b->norm;
    j.eps = b->norm_eps;
    j.pick.all = true;
    struct finish *f = &j.finish;
    bool fast = attention_is_fast(be, b, kv);
    f->kind = FINISH_QKV;
    f->n = j.stack.end[2];
    f->half = b->head_dim / 2;
    f->pairs = f->n / 2;
    f->wide = q;
    f->wide_type = fast ? DTYPE_F16 : DTYPE_F32;
    /* exp(x) = exp2(x log2 e), so the factor belongs to the scale. */
    f->q_scale = fast ? 1.4426950408889634f * b->scale : 1;
    f->bias = b->bias;
    f->q_norm = b->q_norm;
    f->k_norm = b->k_norm;
    f->norm_eps = b->norm_eps;
    f->position = rows->position;
    f->slot = rows->slot;
    f->path = rows->path;
    f->table = rows->table;
    f->table_stride = rows->table_stride;
    f->rope = (const float2 *)b->rope;
    f->k = kv->k;
    f->v = kv->v;
    f->cache = kv->k_dtype;
    f->page_size = kv->page_size;
    f->heads = b->heads;
    f->kv_heads = b->kv_heads;
    run(be, &j);
}

void cuda_gate_up(struct backend *be, const struct rows *rows, const struct mlp_block *b, const float *x,
                  void *hidden) {
    struct job j = {};
    j.stack = stack_of(&b->gate, &b->up, NULL);
    j.dtype = b->gate.dtype;
    j.m = rows->n;
    j.k = b->gate.k;
    j.prefill = rows->prefill;
    j.x = x;
    j.norm = b->norm;
    j.eps = b->norm_eps;
    j.pick.all = true;
    j.finish.kind = FINISH_SILU;
    j.finish.n = 2 * b->gate.n;
    j.finish.half = j.finish.pairs = b->gate.n;
    j.finish.bias = b->bias;
    j.finish.gelu = b->gelu;
    j.finish.wide = hidden;
    j.finish.wide_type = is_narrow(j.dtype) ? DTYPE_BF16 : DTYPE_F32;
    run(be, &j);
}

void cuda_project(struct backend *be, const struct rows *rows, const struct projection *p, const void *a,
                  float *x) {
    const struct matrix *w = &p->w;
    struct job j = {};
    j.stack = stack_of(w, NULL, NULL);
    j.dtype = w->dtype;
    j.m = rows->n;
    j.k = w->k;
    j.prefill = rows->prefill;
    j.a = a;
    j.finish = finish_each(FINISH_ADD, w->n, x);
    j.finish.bias = p->bias;
    j.finish.post_norm = p->norm;
    j.finish.norm_eps = p->norm_eps;
    if (!can_hold(be, &j) || needs_rows(j.finish)) return run(be, &j);
    settle(be);
    be->held->product = product_of(&j, a, 0);
    be->held->any = true;
}

void cuda_logits(struct backend *be, const struct head_block *h, const float *x, const int32_t *host_pick,
                 int32_t n_pick, float *logits) {
    const struct matrix *head = &h->w;
    for (int32_t from = 0; from < n_pick; from += PRODUCT_ROWS) {
        struct job j = {};
        j.stack = stack_of(head, NULL, NULL);
        j.dtype = head->dtype;
        j.m = n_pick - from < PRODUCT_ROWS ? n_pick - from : PRODUCT_ROWS;
        j.k = head->k;
        j.x = host_pick ? x : x + (size_t)from * head->k;
        j.norm = h->norm;
        j.eps = h->norm_eps;
        j.pick.all = !host_pick;
        for (int32_t i = 0; host_pick && i < j.m; i++) j.pick.row[i] = host_pick[from + i];
        j.finish = finish_each(FINISH_STORE, head->n, logits + (size_t)from * head->n);
        j.finish.softcap = h->softcap;
        run(be, &j);
    }
}

cudaError_t prepare_products(struct backend *be) {
    be->held = new (std::nothrow) struct held();
    if (!be->held) return cudaErrorMemoryAllocation;
    if (be->architecture < 90) return cudaSuccess;
    const void *kernels[] = {(const void *)skinny<128, 1, 1>,
                             (const void *)skinny<128, 1, 2>,
                             (const void *)skinny<64, 1, 4>,
                             (const void *)skinny<64, 1, 8>,
                             (const void *)skinny<128, 2, 1>,
                             (const void *)skinny<128, 2, 2>,
                             (const void *)skinny<64, 2, 4>,
                             (const void *)skinny<64, 2, 8>,
                             (const void *)skinny<64, 1, 2>,
                             (const void *)skinny<64, 2, 2>,
                             (const void *)product_of_packed<packed<8, 1, false, false>>,
                             (const void *)product_of_packed<packed<8, 2, false, false>>,
                             (const void *)product_of_packed<packed<8, 1, false, true>>,
                             (const void *)product_of_packed<packed<8, 2, false, true>>,
                             (const void *)product_of_packed<packed<8, 1, true, true>>,
                             (const void *)product_of_packed<packed<4, 1, false, false>>,
                             (const void *)product_of_packed<packed<4, 2, false, false>>,
                             (const void *)product_of_packed<packed<4, 1, false, true>>,
                             (const void *)product_of_packed<packed<4, 2, false, true>>,
                             (const void *)product_of_packed<packed<4, 1, true, true>>};
    for (const void *kernel : kernels) {
        cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

void discard_held(struct backend *be) {
    delete be->held;
}

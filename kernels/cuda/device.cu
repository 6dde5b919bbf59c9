/* The CUDA device: opening it, its memory, transfers, recorded passes, meters, and the table of operations.
 *
 * One stream carries everything but the loading of weights. The first error is kept and reported by sync or
 * download. Uploads are copied to pinned memory at once and sent by one small kernel in front of whatever
 * runs next; small downloads are written to pinned memory by a kernel while the host watches them come, which
 * is several microseconds quicker than a copy and an event. That kernel stays for a moment and takes the
 * uploads that follow, so that between two rounds only the next pass has to be launched. Not done here: more
 * than one device. */
#include "kernels/cuda/quantized.cuh"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

/* ---- small transfers ---- */

namespace {

constexpr size_t LINK_BYTES = 8 << 20; /* uploads use its first part in two halves, downloads the second */
constexpr size_t HALF_BYTES = 2 << 20, SMALL_BYTES = 16 << 10, BOUNCE_BYTES = LINK_BYTES - 2 * HALF_BYTES;
constexpr int WAITING = 8;
constexpr uint32_t LETTER_WORDS = 256;   /* that a download's kernel takes: a thread each */
constexpr uint64_t PATIENCE_NS = 100000; /* that it waits for them */

struct parcel {
    void *to;
    uint32_t from, bytes;
};
struct parcels {
    struct parcel parcel[WAITING];
    int n;
};

/* What host and kernel write to each other, in pinned memory: words that stand beside the number of the
 * download, so that each is its own sign that it has come and nothing else need be waited for. A read over the
 * bus takes one to two microseconds, and so does a fence. */
struct letters {
    /* What the kernel brings: when the first pass since the last download began and when it ended (nanoseconds
     * of the device's clock, two words each), then the words asked for. */
    uint64_t down[4 + SMALL_BYTES / 4];
    /* What it takes along: how many parcels; of each its address, in two words, and its number of words; then
     * the words of all. */
    uint64_t up[LETTER_WORDS];
    uint64_t declined; /* the number of the last download whose kernel waited in vain */
};

__host__ __device__ __forceinline__ uint64_t sealed(uint32_t number, uint32_t word) {
    return (uint64_t)number << 32 | word;
}
__host__ __device__ __forceinline__ bool has_come(uint64_t word, uint32_t number) {
    return word >> 32 == number;
}

__global__ void scatter(const __grid_constant__ struct parcels all, const char *pinned) {
    const struct parcel p = all.parcel[blockIdx.x];
    for (uint32_t i = threadIdx.x; i < p.bytes / 4; i += blockDim.x)
        ((uint32_t *)p.to)[i] = ((const volatile uint32_t *)(pinned + p.from))[i];
}

/* Waits for what goes up; false when patience ends before it is there. Each side writes its own words before
 * it looks at the other's, so that at least one of them sees that they have missed each other: then the host
 * sends its parcels in another way, and that they may come twice does no harm. */
__device__ bool read_letter(struct letters *l, uint32_t number, uint32_t *word) {
    const volatile uint64_t *mine = &l->up[threadIdx.x];
    const uint64_t since = now_ns();
    uint64_t read = *mine;
    while (!has_come(read, number) && now_ns() - since < PATIENCE_NS) read = *mine;
    if (!__syncthreads_and(has_come(read, number))) {
        if (threadIdx.x == 0) *(volatile uint64_t *)&l->declined = number;
        __threadfence_system();
        __syncthreads();
        read = *mine;
        if (!__syncthreads_and(has_come(read, number))) return false;
    }
    word[threadIdx.x] = (uint32_t)read;
    __syncthreads();
    return true;
}

/* A small download, and the uploads that follow it at once. */
__global__ __launch_bounds__(LETTER_WORDS) void exchange(const uint32_t *from, uint32_t words,
                                                         uint32_t number, uint64_t *started,
                                                         struct letters *l) {
    __shared__ uint32_t word[LETTER_WORDS];
    volatile uint64_t *down = l->down;
    pdl_wait();
    for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) down[4 + i] = sealed(number, __ldcg(from + i));
    if (threadIdx.x == 0) {
        const uint64_t stamps[] = {__ldcg(started), now_ns()};
        for (int i = 0; i < 4; i++) down[i] = sealed(number, (uint32_t)(stamps[i / 2] >> i % 2 * 32));
        *started = 0;
    }
    if (!read_letter(l, number, word)) return;
    const uint32_t *next = word + 1 + 3 * word[0];
    for (uint32_t i = 0; i < word[0]; i++) {
        const uint32_t *parcel = word + 1 + 3 * i;
        uint32_t *const into = (uint32_t *)(parcel[0] | (uint64_t)parcel[1] << 32);
        for (uint32_t j = threadIdx.x; j < parcel[2]; j += blockDim.x) into[j] = next[j];
        next += parcel[2];
    }
}

} // namespace

struct link {
    char *pinned;
    size_t used; /* of the half in use */
    int half;
    cudaEvent_t left[2]; /* all that came from a half has been read */
    struct parcels waiting;

    struct letters *letters; /* behind the pinned bytes */
    uint32_t number;         /* of the last small download */
    bool open;               /* its kernel may still wait */
    uint64_t last_end;       /* when it was done; 0: something else ran since */
    double busy_us, idle_us;
};

static cudaError_t link_open(struct link *l) {
    cudaError_t error = cudaHostAlloc((void **)&l->pinned, LINK_BYTES + sizeof *l->letters, cudaHostAllocDefault);
    if (error != cudaSuccess) return error;
    l->letters = (struct letters *)(l->pinned + LINK_BYTES);
    memset(l->letters, 0, sizeof *l->letters);
    for (int i = 0; i < 2 && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&l->left[i], cudaEventDisableTiming);
    return error;
}

static void link_close(struct link *l) {
    if (!l) return;
    for (cudaEvent_t e : l->left)
        if (e) cudaEventDestroy(e);
    cudaFreeHost(l->pinned);
    delete l;
}

/* The words that go up; false when the waiting parcels have more. */
static bool write_words(const struct link *l, uint32_t *word) {
    uint32_t n = 1;
    for (int i = 0; i < l->waiting.n; i++) {
        const struct parcel *p = &l->waiting.parcel[i];
        const uint32_t head[] = {(uint32_t)(uintptr_t)p->to, (uint32_t)((uintptr_t)p->to >> 32), p->bytes / 4};
        memcpy(word + 1 + 3 * i, head, sizeof head);
        n += 3;
    }
    for (int i = 0; i < l->waiting.n; i++) {
        const struct parcel *p = &l->waiting.parcel[i];
        if (p->bytes / 4 > LETTER_WORDS - n) return false;
        memcpy(word + n, l->pinned + p->from, p->bytes);
        n += p->bytes / 4;
    }
    word[0] = (uint32_t)l->waiting.n;
    return true;
}

/* Gives the waiting parcels to the last download's kernel and lets it go; false when it does not take them. */
static bool hand_over(struct link *l) {
    if (!l->open) return false;
    uint32_t word[LETTER_WORDS] = {};
    const bool fits = write_words(l, word);
    if (!fits) word[0] = 0;
    l->open = false;
    for (uint32_t i = 0; i < LETTER_WORDS; i++)
        __atomic_store_n(&l->letters->up[i], sealed(l->number, word[i]), __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return fits && __atomic_load_n(&l->letters->declined, __ATOMIC_RELAXED) != l->number;
}

void flush_uploads(struct backend *be) {
    struct link *l = be->link;
    const bool taken = hand_over(l);
    struct parcels all = l->waiting;
    if (all.n == 0) return;
    l->waiting.n = 0;
    be->serial = true;
    if (!taken)
        launch_raw(be, "upload", scatter, all.n, 256, 0, 1, all, (const char *)l->pinned);
    be->serial = true;
}

/* Room for `bytes` in pinned memory; changing halves waits for what still reads the other one. */
static char *link_room(struct backend *be, size_t bytes) {
    struct link *l = be->link;
    if (l->used + bytes > HALF_BYTES) {
        flush_uploads(be);
        note(be, cudaEventRecord(l->left[l->half], be->stream), "upload");
        l->half ^= 1;
        l->used = 0;
        note(be, cudaEventSynchronize(l->left[l->half]), "upload");
    }
    char *room = l->pinned + l->half * HALF_BYTES + l->used;
    l->used += (bytes + 15) / 16 * 16;
    return room;
}

static void cuda_upload(struct backend *be, void *to, const void *host_from, size_t bytes) {
    struct link *l = be->link;
    release_held(be);
    if (bytes && bytes <= SMALL_BYTES && bytes % 4 == 0 && (uintptr_t)to % 4 == 0) {
        if (l->waiting.n == WAITING) flush_uploads(be);
        char *room = link_room(be, bytes);
        memcpy(room, host_from, bytes);
        l->waiting.parcel[l->waiting.n++] = {to, (uint32_t)(room - l->pinned), (uint32_t)bytes};
        return;
    }
    flush_uploads(be);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = std::min(bytes - done, HALF_BYTES);
        char *room = link_room(be, n);
        memcpy(room, (const char *)host_from + done, n);
        note(be, cudaMemcpyAsync((char *)to + done, room, n, cudaMemcpyHostToDevice, be->stream), "upload");
    }
    be->serial = true;
}

static outrider_status report(struct backend *be) {
    if (be->error == cudaSuccess) return OUTRIDER_OK;
    cudaError_t error = be->error;
    be->error = cudaSuccess;
    return fail(OUTRIDER_EFAIL, "cuda:%d: %s: %s", be->device, be->error_at, cudaGetErrorString(error));
}

void settle(struct backend *be) {
    release_held(be);
    flush_uploads(be);
}

static outrider_status cuda_sync(struct backend *be) {
    const struct range here("sync");
    settle(be);
    be->link->last_end = 0;
    note(be, cudaMemsetAsync(be->started, 0, sizeof *be->started, be->stream), "sync");
    note(be, cudaStreamSynchronize(be->stream), "sync");
    return report(be);
}

/* The stamps of a download. */
static void count_times(struct link *l, const uint32_t *stamps) {
    const uint64_t begin = stamps[0] | (uint64_t)stamps[1] << 32, end = stamps[2] | (uint64_t)stamps[3] << 32;
    if (begin) {
        l->busy_us += 1e-3 * (double)(end - begin);
        if (l->last_end) l->idle_us += 1e-3 * (double)(begin - l->last_end);
    }
    l->last_end = begin ? end : 0;
}

/* Waits for word i of a download; false when it will never come. */
static bool await_word(struct backend *be, size_t i, uint32_t *out) {
    const struct link *l = be->link;
    auto read = [&] { return __atomic_load_n(&l->letters->down[i], __ATOMIC_ACQUIRE); };
    /* A failed kernel writes nothing, so look at the stream now and then. */
    for (uint32_t spins = 1; !has_come(read(), l->number) && be->error == cudaSuccess; spins++)
        if (spins % (1 << 20) == 0 && cudaStreamQuery(be->stream) != cudaErrorNotReady) break;
    const uint64_t word = read();
    *out = (uint32_t)word;
    return has_come(word, l->number);
}

static outrider_status download_small(struct backend *be, void *host_to, const void *from, size_t bytes) {
    const struct range here("download");
    struct link *l = be->link;
    uint32_t stamps[4], word;
    settle(be); /* before the number changes by which the last download's kernel waits */
    if (++l->number == 0) l->number = 1; /* fresh letters are full of zeros */
    launch(be, "download", exchange, 1, LETTER_WORDS, 0, (const uint32_t *)from, (uint32_t)(bytes / 4),
           l->number, be->started, l->letters);
    l->open = true;
    for (size_t i = 0; i < bytes / 4 + 4; i++) {
        if (!await_word(be, i, &word)) {
            l->open = false; /* what came before may still read the letters */
            return cuda_sync(be);
        }
        if (i < 4)
            stamps[i] = word;
        else
            memcpy((char *)host_to + (i - 4) * 4, &word, 4);
    }
    count_times(l, stamps);
    return report(be);
}

static outrider_status cuda_download(struct backend *be, void *host_to, const void *from, size_t bytes) {
    if (bytes && bytes <= SMALL_BYTES && bytes % 4 == 0 && (uintptr_t)from % 4 == 0)
        return download_small(be, host_to, from, bytes);
    settle(be);
    char *bounce = be->link->pinned + 2 * HALF_BYTES;
    for (size_t done = 0, n; done < bytes; done += n) {
        n = std::min(bytes - done, BOUNCE_BYTES);
        note(be, cudaMemcpyAsync(bounce, (const char *)from + done, n, cudaMemcpyDeviceToHost, be->stream),
             "download");
        TRY(cuda_sync(be));
        memcpy((char *)host_to + done, bounce, n);
    }
    return cuda_sync(be);
}

static void cuda_copy(struct backend *be, void *to, const void *from, size_t bytes) {
    settle(be);
    note(be, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, be->stream), "copy");
    be->serial = true;
}

/* ---- memory ---- */

static outrider_status cuda_alloc(struct backend *be, size_t bytes, void **out) {
    cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
    if (error == cudaSuccess) return OUTRIDER_OK;
    *out = NULL;
    size_t free_bytes = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free_bytes, &total);
    if (error != cudaErrorMemoryAllocation)
        return fail(OUTRIDER_EFAIL, "cuda:%d: allocating %zu bytes: %s", be->device, bytes,
                    cudaGetErrorString(error));
    return fail(OUTRIDER_ENOMEM, "cuda:%d: out of memory: %zu bytes needed, %zu of %zu free", be->device,
                bytes, free_bytes, total);
}

static void cuda_release(struct backend *be, void *p) {
    if (!p) return;
    settle(be);
    note(be, cudaFree(p), "release");
}

static void drop_records(struct backend *be);

static outrider_status cuda_reserve(struct backend *be, int32_t max_rows, int32_t max_width) {
    if (max_rows <= be->max_rows && max_width <= be->max_width) return OUTRIDER_OK;
    size_t rows = std::max({max_rows, be->max_rows, (int32_t)PREFILL_ROWS}),
           width = std::max(max_width, be->max_width);
    struct {
        void **at;
        size_t bytes;
    } parts[] = {{&be->normed, rows * width * 4},
                 {(void **)&be->scale, rows * 4},
                 {(void **)&be->squares, PRODUCT_ROWS * (width / 16 + 4) * 4},
                 {&be->padded, PREFILL_ROWS * width * 2},
                 {(void **)&be->sums, rows * width * 3 * 4}};
    TRY(cuda_sync(be));
    drop_records(be); /* they hold the old addresses */
    be->max_rows = be->max_width = 0;
    for (auto &part : parts) {
        cuda_release(be, *part.at);
        *part.at = NULL;
        TRY(cuda_alloc(be, part.bytes, part.at));
        /* Rows that pad a prompt are multiplied too, to no effect; let them be numbers. */
        note(be, cudaMemsetAsync(*part.at, 0, part.bytes, be->stream), "reserve");
    }
    be->max_rows = (int32_t)rows;
    be->max_width = (int32_t)width;
    return cuda_sync(be);
}

/* ---- weights ---- */

/* Each worker copies pieces from the mapped file to its own pair of pinned buffers, so that reading the file,
 * copying in memory and the transfer over the bus overlap. */
namespace {
constexpr size_t PIECE_BYTES = 4 << 20;
constexpr int MOST_WORKERS = 8;
} // namespace

struct loader {
    int workers;
    struct {
        char *pinned[2];
        cudaEvent_t sent[2];
        cudaStream_t stream;
    } worker[MOST_WORKERS];
};

static cudaError_t loader_open(struct loader *l) {
    int cores = (int)std::thread::hardware_concurrency();
    l->workers = std::clamp(cores / 2, 1, MOST_WORKERS);
    for (int i = 0; i < l->workers; i++) {
        auto *w = &l->worker[i];
        cudaError_t error = cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking);
        for (int b = 0; b < 2 && error == cudaSuccess; b++) {
            error = cudaHostAlloc((void **)&w->pinned[b], PIECE_BYTES, cudaHostAllocDefault);
            if (error == cudaSuccess) error = cudaEventCreateWithFlags(&w->sent[b], cudaEventDisableTiming);
        }
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

static void loader_close(struct loader *l) {
    if (!l) return;
    for (auto &w : l->worker) {
        for (int b = 0; b < 2; b++) {
            if (w.sent[b]) cudaEventDestroy(w.sent[b]);
            if (w.pinned[b]) cudaFreeHost(w.pinned[b]);
        }
        if (w.stream) cudaStreamDestroy(w.stream);
    }
    delete l;
}

static cudaError_t load_pieces(struct backend *be, int index, char *to, const char *from, size_t bytes,
                               std::atomic<size_t> *next) {
    auto *w = &be->loader->worker[index];
    cudaError_t error = cudaSetDevice(be->device);
    for (int b = 0; error == cudaSuccess; b ^= 1) {
        size_t at = next->fetch_add(PIECE_BYTES);
        if (at >= bytes) break;
        size_t n = std::min(PIECE_BYTES, bytes - at);
        error = cudaEventSynchronize(w->sent[b]);
        if (error != cudaSuccess) break;
        memcpy(w->pinned[b], from + at, n);
        error = cudaMemcpyAsync(to + at, w->pinned[b], n, cudaMemcpyHostToDevice, w->stream);
        if (error == cudaSuccess) error = cudaEventRecord(w->sent[b], w->stream);
    }
    cudaError_t last = cudaStreamSynchronize(w->stream);
    return error == cudaSuccess ? last : error;
}

static cudaError_t load(struct backend *be, char *to, const char *from, size_t bytes) {
    std::atomic<size_t> next{0};
    int workers = (int)std::min((size_t)be->loader->workers, (bytes + PIECE_BYTES - 1) / PIECE_BYTES);
    cudaError_t errors[MOST_WORKERS] = {};
    std::vector<std::thread> threads;
    for (int i = 1; i < workers; i++)
        threads.emplace_back([&, i] { errors[i] = load_pieces(be, i, to, from, bytes, &next); });
    errors[0] = load_pieces(be, 0, to, from, bytes, &next);
    for (std::thread &t : threads) t.join();
    for (cudaError_t error : errors)
        if (error != cudaSuccess) return error;
    return cudaSuccess;
}

/* A device copy of host memory. */
static outrider_status load_copy(struct backend *be, const void *host, size_t bytes, void **out) {
    *out = NULL;
    if (!be->loader) {
        be->loader = new (std::nothrow) struct loader();
        if (!be->loader) return fail_memory("the loader", sizeof *be->loader);
        cudaError_t error = loader_open(be->loader);
        if (error != cudaSuccess)
            return fail(OUTRIDER_ENOMEM, "cuda:%d: pinned memory for loading: %s", be->device,
                        cudaGetErrorString(error));
    }
    TRY(cuda_alloc(be, bytes, out));
    const struct range here("weights");
    cudaError_t error = load(be, (char *)*out, (const char *)host, bytes);
    if (error == cudaSuccess) return OUTRIDER_OK;
    cudaFree(*out);
    *out = NULL;
    return fail(OUTRIDER_EFAIL, "cuda:%d: loading %zu bytes: %s", be->device, bytes,
                cudaGetErrorString(error));
}

/* Room to widen a matrix of n x k in. */
static outrider_status reserve_widened(struct backend *be, size_t bytes) {
    if (bytes <= be->widened_bytes) return OUTRIDER_OK;
    TRY(cuda_sync(be));
    drop_records(be); /* they hold the old address */
    cuda_release(be, be->widened);
    be->widened = NULL;
    be->widened_bytes = 0;
    TRY(cuda_alloc(be, bytes, (void **)&be->widened));
    be->widened_bytes = bytes;
    return OUTRIDER_OK;
}

static outrider_status cuda_weight(struct backend *be, const void *host, enum dtype dtype, int32_t n,
                                   int32_t k, struct matrix *out) {
    *out = (struct matrix){NULL, dtype, n, k};
    if (!dtype_is_computed(dtype) || dtype == DTYPE_F8)
        return fail(OUTRIDER_EINVAL, "cuda:%d: no kernels for %s", be->device, dtype_name(dtype));
    size_t bytes = (size_t)n * dtype_row_bytes(dtype, (size_t)k);
    void *copy, *packed;
    TRY(load_copy(be, host, bytes, &copy));
    out->data = copy;
    if (!dtype_is_quantized(dtype)) return OUTRIDER_OK;
    out->data = NULL;
    outrider_status status = cuda_alloc(be, quantized_bytes(dtype, n, k), &packed);
    if (status == OUTRIDER_OK) {
        out->data = packed;
        quantized_pack(be, copy, dtype, n, k, packed);
        status = reserve_widened(be, (size_t)n * k * 2);
    }
    if (status == OUTRIDER_OK) status = cuda_sync(be); /* before the copy goes */
    cuda_release(be, copy);
    return status;
}

static void cuda_weight_release(struct backend *be, const struct matrix *m) {
    cuda_release(be, (void *)m->data);
}

/* ---- recorded passes ---- */

struct records {
    struct record {
        uint64_t key;
        cudaGraphExec_t graph;
    };
    std::vector<record> all;
    uint64_t key;
};

static void drop_records(struct backend *be) {
    for (auto &r : be->records->all) cudaGraphExecDestroy(r.graph);
    be->records->all.clear();
}

static bool cuda_replay(struct backend *be, uint64_t key) {
    for (auto &r : be->records->all) {
        if (r.key != key) continue;
        const struct range here("recorded pass");
        settle(be);
        note(be, cudaGraphLaunch(r.graph, be->stream), "replay");
        be->serial = true;
        return true;
    }
    return false;
}

static void cuda_record_begin(struct backend *be, uint64_t key) {
    settle(be);
    be->records->key = key;
    note(be, cudaStreamBeginCapture(be->stream, cudaStreamCaptureModeThreadLocal), "record");
    be->serial = true;
}

static void cuda_record_end(struct backend *be) {
    release_held(be);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    cudaError_t error = cudaStreamEndCapture(be->stream, &graph);
    if (error == cudaSuccess) error = cudaGraphInstantiate(&ready, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    note(be, error, "record");
    if (error != cudaSuccess) return;
    auto &all = be->records->all;
    uint64_t key = be->records->key;
    auto old = std::find_if(all.begin(), all.end(), [key](const auto &r) { return r.key == key; });
    if (old != all.end()) {
        cudaGraphExecDestroy(old->graph);
        all.erase(old);
    }
    all.push_back({key, ready});
    cuda_replay(be, key);
}

/* ---- meters ---- */

namespace {

__global__ void fill_random(uint4 *p, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32);
        h = (h ^ h >> 15) * 2246822519u;
        p[i] = make_uint4(h, h * 3266489917u, h ^ 0x9e3779b9u, h * 668265263u);
    }
}

/* Data-dependent, so that no read can be left out; the store practically never happens. */
__global__ void read_all(const uint4 *p, size_t n, uint32_t *sink) {
    uint32_t x = 0;
    const size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i + 3 * step < n; i += 4 * step)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint4 v = __ldcs(p + i + j * step);
            x ^= v.x ^ v.y ^ v.z ^ v.w;
        }
    if (x == 0x9e3779b9) *sink = x;
}

} // namespace

static outrider_status cuda_read_bandwidth(struct backend *be, size_t bytes, double *gb_per_s) {
    uint4 *data;
    cudaEvent_t begin, end;
    TRY(cuda_sync(be));
    TRY(cuda_alloc(be, bytes, (void **)&data));
    note(be, cudaEventCreate(&begin), "meter");
    note(be, cudaEventCreate(&end), "meter");
    fill_random<<<be->multiprocessors * 16, 256, 0, be->stream>>>(data, bytes / 16);
    *gb_per_s = 0;
    for (int threads = 256; threads <= 1024; threads *= 2)
        for (int repeat = 0; repeat < 6; repeat++) {
            float ms = 0;
            cudaEventRecord(begin, be->stream);
            read_all<<<be->multiprocessors *(repeat % 2 ? 16 : 8), threads, 0, be->stream>>>(
                data, bytes / 16, (uint32_t *)data);
            cudaEventRecord(end, be->stream);
            note(be, cudaEventSynchronize(end), "meter");
            cudaEventElapsedTime(&ms, begin, end);
            if (ms > 0) *gb_per_s = std::max(*gb_per_s, (double)bytes / (ms * 1e6));
        }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cuda_release(be, data);
    return cuda_sync(be);
}

static void cuda_round_times(struct backend *be, double *busy_us, double *idle_us) {
    *busy_us = be->link->busy_us;
    *idle_us = be->link->idle_us;
    be->link->busy_us = be->link->idle_us = 0;
}

static void cuda_describe(struct backend *be, char *line, size_t bytes) {
    snprintf(line, bytes, "cuda:%d, %s, %d multiprocessors%s", be->device, be->name, be->multiprocessors,
             be->blas ? "" : ", no cuBLAS: prompts are read more slowly");
}

/* ---- opening and closing ---- */

static void cuda_close(struct backend *be) {
    if (!be) return;
    cudaSetDevice(be->device);
    if (be->stream) cudaStreamSynchronize(be->stream);
    if (be->records) drop_records(be);
    delete be->records;
    loader_close(be->loader);
    link_close(be->link);
    discard_held(be);
    blas_close(be);
    void *scratch[] = {be->normed, be->scale,   be->squares, be->padded,
                       be->sums,   be->widened, be->started, be->picks, be->masses};
    for (void *p : scratch) cudaFree(p);
    if (be->stream) cudaStreamDestroy(be->stream);
    delete be;
}

/* With the pointers to operations comes the only mutable state of the program that is not in `be`: CUDA's
 * current device of the calling thread, which is why one thread may use only one backend at a time. */
static const struct ops cuda_ops = {
    "cuda",
    false,
    false,
    cuda_alloc,
    cuda_release,
    cuda_weight,
    cuda_weight_release,
    cuda_reserve,
    cuda_upload,
    cuda_download,
    cuda_copy,
    cuda_sync,
    cuda_embed,
    cuda_qkv,
    cuda_attention,
    cuda_project,
    cuda_gate_up,
    cuda_logits,
    cuda_argmax,
    cuda_top,
    cuda_move,
    cuda_propose,
    cuda_judge,
    cuda_replay,
    cuda_record_begin,
    cuda_record_end,
    cuda_round_times,
    cuda_read_bandwidth,
    cuda_describe,
    cuda_close,
};

static outrider_status find_device(const char *name, int *out) {
    char *end;
    long index = strtol(name, &end, 10);
    if (*end || index < 0 || (*name && (*name < '0' || *name > '9')))
        return fail(OUTRIDER_EINVAL, "device cuda:%s: not a number", name);
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        return fail(OUTRIDER_ENOMEM, "device cuda: no usable NVIDIA card or driver (%s)",
                    error == cudaSuccess ? "no device" : cudaGetErrorString(error));
    if (index >= count) return fail(OUTRIDER_ENOMEM, "device cuda:%ld: there are %d", index, count);
    *out = (int)index;
    return OUTRIDER_OK;
}

static cudaError_t open_parts(struct backend *be) {
    cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(be->device);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, be->device);
    if (error != cudaSuccess) return error;
    snprintf(be->name, sizeof be->name, "%s", properties.name);
    be->multiprocessors = properties.multiProcessorCount;
    be->architecture = properties.major * 10 + properties.minor;
    /* The fast products need the shared memory of Hopper; newer cards that have less take the plain ones. */
    if (properties.sharedMemPerBlockOptin < (227 << 10)) be->architecture = std::min(be->architecture, 89);
    if ((error = cudaStreamCreateWithFlags(&be->stream, cudaStreamNonBlocking)) != cudaSuccess) return error;
    if ((error = link_open(be->link)) != cudaSuccess) return error;
    if ((error = cudaMalloc(&be->started, sizeof *be->started)) != cudaSuccess) return error;
    if ((error = cudaMemsetAsync(be->started, 0, sizeof *be->started, be->stream)) != cudaSuccess) return error;
    if ((error = blas_open(be)) != cudaSuccess) return error;
    if ((error = prepare_round(be)) != cudaSuccess) return error;
    return prepare_products(be);
}

outrider_status cuda_open(const char *name, const struct ops **ops, struct backend **out) {
    int device;
    TRY(find_device(name, &device));
    struct backend *be = new (std::nothrow) backend();
    if (!be) return fail_memory("the CUDA backend", sizeof *be);
    be->device = device;
    be->link = new (std::nothrow) struct link();
    be->records = new (std::nothrow) struct records();
    if (!be->link || !be->records) {
        cuda_close(be);
        return fail_memory("the CUDA backend", sizeof *be->link);
    }
    cudaError_t error = open_parts(be);
    if (error != cudaSuccess) {
        cuda_close(be);
        return fail(OUTRIDER_ENOMEM, "device cuda:%d: %s", device, cudaGetErrorString(error));
    }
    *ops = &cuda_ops;
    *out = be;
    return OUTRIDER_OK;
}

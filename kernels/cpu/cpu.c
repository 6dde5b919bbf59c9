/* The CPU backend: which instruction set, the workers, and memory.
 *
 * Workers take items of a job from one counter, larger pieces first, until none are left; the caller works
 * too and never waits for a worker that has taken nothing. So a core that another process holds costs its
 * share of the speed and no more. A worker without work spins for a moment, since operations follow one
 * another within a microsecond, and then sleeps.
 *
 * The ticket holds the whole state of a job's distribution: items (24 bits), fewest to take at once (16),
 * next to take (24). A worker reports its items as done only when it leaves the job, so no job ends, and no
 * other begins, while anyone is inside.
 *
 * Workers keep off the core that the caller is on. Schedulers that pack threads, or place a thread where it
 * was woken from, would else have both take turns on one core while another idles.
 *
 * Not done here: placement of memory on nodes.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/panel.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "runtime/status.h"

enum {
    THREADS_MAX = 256,
    ITEMS_MAX = (1 << 24) - 1,
    GRAIN_MAX = (1 << 16) - 1,
    SPINS = 4000,        /* pauses before a waiting thread begins to yield its core, */
    YIELDS = 200,        /* and yields before it sleeps, */
    PAUSES_A_YIELD = 50, /* with pauses between them: about 0.3 ms in all */
};

struct backend {
    const char *isa;
    int32_t threads, started; /* wanted and running, the caller included */
    struct worker *worker;    /* [threads]; 0 is the caller */
    pthread_t *thread;        /* [threads]; 0 is unused */
    char *worker_scratch;
    cpu_set_t cores; /* that the opener may use */
    int caller_core; /* where it was last seen */
    int32_t max_rows, max_width;
    void *scratch; /* [2][max_rows][max_width] of 4 bytes; what no one uses takes no memory */

    work_fn *work;
    void *job;
    _Alignas(64) _Atomic uint64_t ticket; /* items << 40 | grain << 24 | next */
    _Alignas(64) _Atomic int32_t done;
    _Alignas(64) _Atomic int32_t sleepers;
    atomic_bool quit;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

/* ---- workers ---- */

static inline int32_t ticket_items(uint64_t t) {
    return (int32_t)(t >> 40);
}
static inline int32_t ticket_grain(uint64_t t) {
    return (int32_t)(t >> 24 & GRAIN_MAX);
}
static inline int32_t ticket_next(uint64_t t) {
    return (int32_t)(t & ITEMS_MAX);
}

static inline void pause_core(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

/* One step of waiting, gentler as it goes on; false when it has gone on for long. */
static bool wait_step(int32_t *waited) {
    pause_core();
    if (++*waited <= SPINS) return true;
    if (*waited % PAUSES_A_YIELD == 0) sched_yield();
    if (*waited < SPINS + YIELDS * PAUSES_A_YIELD) return true;
    *waited = SPINS;
    return false;
}

static bool work_waits(struct backend *be) {
    const uint64_t t = atomic_load(&be->ticket);
    return ticket_next(t) < ticket_items(t);
}

/* Takes an even share of what is left, at least a grain: large pieces first keep reads long (and mostly in
 * the same hands from pass to pass), small ones last let all finish together. */
static bool take(struct worker *w) {
    struct backend *be = w->be;
    uint64_t t = atomic_load(&be->ticket);
    int32_t next, piece;
    do {
        next = ticket_next(t);
        const int32_t left = ticket_items(t) - next;
        if (left <= 0) return false;
        piece = left / be->threads;
        if (piece < ticket_grain(t)) piece = ticket_grain(t);
        if (piece > left) piece = left;
    } while (!atomic_compare_exchange_weak(&be->ticket, &t, t + (uint64_t)piece));
    w->first = next, w->last = next + piece;
    w->taken += piece;
    return true;
}

bool cpu_claim(struct worker *w, int32_t *first, int32_t *last) {
    if (w->first == w->last && !take(w)) return false;
    *first = w->first, *last = w->last;
    w->first = w->last;
    return true;
}

/* Entered with items in hand, which is what keeps the job alive. */
static void work_on(struct worker *w) {
    struct backend *be = w->be;
    be->work(be->job, w);
    const int32_t taken = w->taken;
    w->taken = 0;
    atomic_fetch_add(&be->done, taken);
}

static void sleep_until_work(struct backend *be) {
    pthread_mutex_lock(&be->lock);
    atomic_fetch_add(&be->sleepers, 1);
    while (!work_waits(be) && !atomic_load(&be->quit)) pthread_cond_wait(&be->wake, &be->lock);
    atomic_fetch_sub(&be->sleepers, 1);
    pthread_mutex_unlock(&be->lock);
}

static void wake_sleepers(struct backend *be) {
    pthread_mutex_lock(&be->lock);
    pthread_cond_broadcast(&be->wake);
    pthread_mutex_unlock(&be->lock);
}

static void *worker_main(void *self) {
    struct worker *w = self;
    struct backend *be = w->be;
    int32_t waited = 0;
    while (!atomic_load_explicit(&be->quit, memory_order_relaxed)) {
        if (take(w)) {
            work_on(w);
            waited = 0;
        } else if (!wait_step(&waited)) {
            sleep_until_work(be);
            waited = 0;
        }
    }
    return NULL;
}

static void keep_off_callers_core(struct backend *be) {
    const int core = sched_getcpu();
    if (core == be->caller_core || core < 0) return;
    be->caller_core = core;
    cpu_set_t others = be->cores;
    CPU_CLR((size_t)core, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (int32_t i = 1; i < be->started; i++) pthread_setaffinity_np(be->thread[i], sizeof others, &others);
}

static void run_alone(struct backend *be, int32_t n, work_fn *work, void *job) {
    struct worker *w = &be->worker[0];
    w->first = 0, w->last = n;
    work(job, w);
}

void cpu_parallel(struct backend *be, int32_t n, int32_t grain, work_fn *work, void *job) {
    assert(grain > 0 && n <= ITEMS_MAX);
    if (n == 0) return;
    if (n < 2 * grain || be->threads == 1) {
        run_alone(be, n, work, job);
        return;
    }
    keep_off_callers_core(be);
    be->work = work, be->job = job;
    atomic_store_explicit(&be->done, 0, memory_order_relaxed);
    if (grain > GRAIN_MAX) grain = GRAIN_MAX;
    atomic_store(&be->ticket, (uint64_t)n << 40 | (uint64_t)grain << 24);
    if (atomic_load(&be->sleepers) > 0) wake_sleepers(be);
    if (take(&be->worker[0])) work_on(&be->worker[0]);
    for (int32_t waited = 0; atomic_load(&be->done) < n;) wait_step(&waited);
}

static outrider_status workers_start(struct backend *be) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the caller's */
    int error = 0;
    for (be->started = 1; be->started < be->threads && !error; be->started += !error)
        error = pthread_create(&be->thread[be->started], NULL, worker_main, &be->worker[be->started]);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return fail(OUTRIDER_EFAIL, "thread %d of %d: %s", be->started + 1, be->threads, strerror(error));
    return OUTRIDER_OK;
}

static void workers_stop(struct backend *be) {
    atomic_store(&be->quit, true);
    wake_sleepers(be);
    for (int32_t i = 1; i < be->started; i++) pthread_join(be->thread[i], NULL);
}

/* ---- memory ---- */

outrider_status cpu_alloc(struct backend *be, size_t bytes, void **out) {
    (void)be;
    if (bytes > SIZE_MAX - 64) return fail_memory("the CPU backend", bytes);
    *out = aligned_alloc(64, bytes ? (bytes + 63) & ~(size_t)63 : 64);
    return *out ? OUTRIDER_OK : fail_memory("the CPU backend", bytes);
}

void cpu_release(struct backend *be, void *p) {
    (void)be;
    free(p);
}

outrider_status cpu_weight(struct backend *be, const void *host, enum dtype dtype, int32_t n, int32_t k,
                           struct matrix *out) {
    *out = (struct matrix){.dtype = dtype, .n = n, .k = k};
    out->data = host;
    if (!dtype_is_quantized(dtype)) return OUTRIDER_OK;
    void *held;
    out->data = NULL;
    if (!dtype_is_computed(dtype))
        return fail(OUTRIDER_EINVAL, "%s weights: the CPU computes with q8_0, q4_0 and f8",
                    dtype_name(dtype));
    const size_t rows = (size_t)n * dtype_row_bytes(dtype, (size_t)k);
    TRY(cpu_alloc(be, dtype == DTYPE_F8 ? rows : panels_bytes(dtype, n, k), &held));
    if (dtype == DTYPE_F8)
        memcpy(held, host, rows);
    else
        panels_pack(dtype, host, n, k, held);
    out->data = held;
    return OUTRIDER_OK;
}

void cpu_weight_release(struct backend *be, const struct matrix *m) {
    if (dtype_is_quantized(m->dtype)) cpu_release(be, (void *)m->data);
}

outrider_status cpu_reserve(struct backend *be, int32_t max_rows, int32_t max_width) {
    assert(max_rows > 0 && max_width > 0);
    max_width =
        ((max_width + 63) & ~63) + ROW_PADDING / 4; /* whole steps of activations, and their padding */
    if (max_rows <= be->max_rows && max_width <= be->max_width) return OUTRIDER_OK;
    if (max_rows < be->max_rows) max_rows = be->max_rows;
    if (max_width < be->max_width) max_width = be->max_width;
    void *scratch;
    TRY(cpu_alloc(be, (size_t)max_rows * (size_t)max_width * 8, &scratch));
    free(be->scratch);
    be->scratch = scratch, be->max_rows = max_rows, be->max_width = max_width;
    return OUTRIDER_OK;
}

void *cpu_scratch(struct backend *be, size_t bytes) {
    assert(bytes <= (size_t)be->max_rows * (size_t)be->max_width * 4);
    (void)bytes;
    return be->scratch;
}

float *cpu_branch(struct backend *be) {
    return (float *)be->scratch + (size_t)be->max_rows * (size_t)be->max_width;
}

void cpu_copy(struct backend *be, void *to, const void *from, size_t bytes) {
    (void)be;
    memmove(to, from, bytes);
}

/* One head's vector in a block of a page: elements, and of 8 bits the scales that stand behind all elements.
 */
static void move_vector(enum dtype type, int32_t page_size, int32_t head_dim, char *to, int32_t at,
                        const char *from, int32_t was) {
    const bool bytes = type == DTYPE_Q8_0;
    const size_t vector = (size_t)head_dim * (bytes ? 1 : dtype_bytes(type)),
                 scales = (size_t)kv_groups(head_dim) * 2, elements = (size_t)page_size * vector;
    memcpy(to + (size_t)at * vector, from + (size_t)was * vector, vector);
    if (bytes) memcpy(to + elements + (size_t)at * scales, from + elements + (size_t)was * scales, scales);
}

void cpu_move(struct backend *be, const struct kv_layer *layers, int32_t n_layers, int32_t kv_heads,
              int32_t head_dim, int32_t n, const struct kv_place *from, const struct kv_place *to) {
    (void)be;
    for (const struct kv_layer *kv = layers; kv < layers + n_layers; kv++) {
        const enum dtype types[] = {kv->k_dtype, kv->v_dtype};
        char *const pools[] = {kv->k, kv->v};
        for (int32_t i = 0; i < n * kv_heads * 2; i++) {
            const struct kv_place *f = &from[i / 2 / kv_heads], *t = &to[i / 2 / kv_heads];
            const size_t head = (size_t)(i / 2 % kv_heads), heads = (size_t)kv_heads,
                         block = kv_head_bytes(types[i % 2], kv->page_size, head_dim);
            move_vector(types[i % 2], kv->page_size, head_dim,
                        pools[i % 2] + ((size_t)t->page * heads + head) * block, t->offset,
                        pools[i % 2] + ((size_t)f->page * heads + head) * block, f->offset);
        }
    }
}

outrider_status cpu_download(struct backend *be, void *to, const void *from, size_t bytes) {
    cpu_copy(be, to, from, bytes);
    return OUTRIDER_OK;
}

/* Nothing is asynchronous here, and nothing is recorded. */
outrider_status cpu_sync(struct backend *be) {
    (void)be;
    return OUTRIDER_OK;
}

bool cpu_replay(struct backend *be, uint64_t key) {
    (void)be, (void)key;
    return false;
}

void cpu_record_begin(struct backend *be, uint64_t key) {
    (void)be, (void)key;
}
void cpu_record_end(struct backend *be) {
    (void)be;
}

/* ---- the instruction set ---- */

extern const struct ops cpu_ops_portable, cpu_ops_avx2, cpu_ops_avx512, cpu_ops_avx512bf16;

static bool always(void) {
    return true;
}

#ifdef __x86_64__
static bool has_avx2(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

/* Best first. */
static const struct isa {
    const char *name;
    bool (*here)(void);
    const struct ops *ops;
} isas[] = {
#ifdef __x86_64__
    {"avx512bf16", has_avx512bf16, &cpu_ops_avx512bf16},
    {"avx512", has_avx512, &cpu_ops_avx512},
    {"avx2", has_avx2, &cpu_ops_avx2},
#endif
    {"portable", always, &cpu_ops_portable},
};
enum { ISAS = sizeof isas / sizeof *isas };

static const struct isa *isa_find(const char *name) {
    for (int i = 0; i < ISAS; i++)
        if ((*name == '\0' || strcmp(isas[i].name, name) == 0) && isas[i].here()) return &isas[i];
    return NULL;
}

static outrider_status isa_unknown(const char *name) {
    char names[128] = "";
    for (int i = 0; i < ISAS; i++)
        if (isas[i].here()) strcat(strcat(names, " "), isas[i].name);
    return fail(OUTRIDER_EINVAL, "device cpu:%s: unknown or not on this machine; there are%s", name, names);
}

/* ---- open and close ---- */

/* The opener's cores; just the current one if the system will not tell. */
static cpu_set_t cores(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) CPU_SET((size_t)sched_getcpu(), &set);
    return set;
}

static outrider_status workers_allocate(struct backend *be) {
    const size_t n = (size_t)be->threads;
    void *scratch;
    be->worker = calloc(n, sizeof *be->worker);
    be->thread = calloc(n, sizeof *be->thread);
    if (!be->worker || !be->thread) return fail_memory("threads", n * sizeof *be->worker);
    TRY(cpu_alloc(be, n * WORKER_SCRATCH_BYTES, &scratch));
    be->worker_scratch = scratch;
    for (size_t i = 0; i < n; i++)
        be->worker[i] = (struct worker){.be = be, .scratch = be->worker_scratch + i * WORKER_SCRATCH_BYTES};
    return OUTRIDER_OK;
}

outrider_status cpu_open(const char *name, int32_t threads, const struct ops **ops, struct backend **out) {
    const struct isa *isa = isa_find(name);
    if (!isa) return isa_unknown(name);
    if (threads < 0 || threads > THREADS_MAX)
        return fail(OUTRIDER_EINVAL, "threads %d: not between 0 and %d", threads, THREADS_MAX);
    struct backend *be = aligned_alloc(64, sizeof *be);
    if (!be) return fail_memory("the CPU backend", sizeof *be);
    memset(be, 0, sizeof *be);
    pthread_mutex_init(&be->lock, NULL);
    pthread_cond_init(&be->wake, NULL);
    be->isa = isa->name;
    be->cores = cores();
    be->caller_core = -1;
    be->threads = threads ? threads : min_i32(CPU_COUNT(&be->cores), THREADS_MAX);
    outrider_status status;
    TRY_GOTO(close, workers_allocate(be));
    TRY_GOTO(close, workers_start(be));
    *ops = isa->ops, *out = be;
    return OUTRIDER_OK;
close:
    cpu_close(be);
    return status;
}

void cpu_describe(struct backend *be, char *line, size_t bytes) {
    snprintf(line, bytes, "cpu, %s, %d thread%s", be->isa, be->threads, be->threads == 1 ? "" : "s");
}

void cpu_close(struct backend *be) {
    if (!be) return;
    workers_stop(be);
    pthread_cond_destroy(&be->wake);
    pthread_mutex_destroy(&be->lock);
    free(be->scratch);
    free(be->worker_scratch);
    free(be->thread);
    free(be->worker);
    free(be);
}

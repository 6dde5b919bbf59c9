/* Times whole synthetic forward passes of the shipped pair's shapes against reading the same bytes.
 *
 *     make bench-ops BENCH_OPS="[device] [threads] [rounds] [most rows]"
 *
 * The machine may be shared, so every row count and the reading are measured in turn, round after round, and
 * the table gives medians and minima of each round's best, and ratios of medians. Weights lie in one piece of
 * ordinary memory, as a mapped file would.
 */
#include <stdio.h>
#include <time.h>

#include "runtime/status.h"
#include "tests/helpers_ops.h"

enum { DEPTH = 100, MAX_ROWS = 512, MAX_LAYERS = 8, MAX_ROUNDS = 1000, POSITIONS = 1024, PASSES = 10 };

static const int32_t row_counts[] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 64, 512};
enum { COUNTS = sizeof row_counts / sizeof *row_counts };

enum { QKV, ATTENTION, OUTPUT, GATE_UP, DOWN, LOGITS, STAGES };
static const char *const stage_names[STAGES] = {"qkv", "attention", "output", "gate_up", "down", "logits"};

struct model {
    struct shape s;
    int32_t layers;
    struct layer layer[MAX_LAYERS];
    struct matrix head;
    struct kv_layer kv[MAX_LAYERS];
    size_t bytes;
    float *x, *q, *attended, *hidden, *logits;
};

static struct model models[] = {
    {.s = {SHAPE("verifier", 384, 1024, 6, 2, 64, 8192, 16, DTYPE_BF16, DTYPE_F16)}, .layers = 8},
    {.s = {SHAPE("draft", 128, 384, 2, 1, 64, 8192, 16, DTYPE_BF16, DTYPE_F16)}, .layers = 4},
};

static void die(outrider_status status) {
    if (status == OUTRIDER_OK) return;
    fprintf(stderr, "%s\n", outrider_error());
    exit(1);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t matrix_bytes(const struct matrix *m) {
    return (size_t)m->n * (size_t)m->k * dtype_bytes(m->dtype);
}

/* Moves a matrix to the end of what lies at `arena`. */
static void settle(struct matrix *m, char **arena) {
    memcpy(*arena, m->data, matrix_bytes(m));
    free((void *)m->data);
    m->data = *arena;
    *arena += matrix_bytes(m);
}

static void *get_memory(const struct ops *ops, struct backend *be, size_t bytes) {
    void *p;
    die(ops->alloc(be, bytes, &p));
    memset(p, 0, bytes);
    return p;
}

static void model_open(const struct ops *ops, struct backend *be, struct model *m, const float *rope) {
    uint64_t seed = 1;
    const struct shape *s = &m->s;
    const size_t rows = MAX_ROWS, pool = (size_t)POSITIONS * (size_t)(s->kv_heads * s->head_dim) * 2;
    struct matrix *all[MAX_LAYERS * 7 + 1];
    int n = 0;
    for (int l = 0; l < m->layers; l++) {
        struct layer *y = &m->layer[l];
        *y = random_layer(&seed, s, rope);
        struct matrix *of_layer[] = {&y->attention.q, &y->attention.k, &y->attention.v, &y->output.w,
                                     &y->mlp.gate,    &y->mlp.up,      &y->down.w};
        for (int i = 0; i < 7; i++) all[n++] = of_layer[i];
        m->kv[l] = (struct kv_layer){get_memory(ops, be, pool), get_memory(ops, be, pool), s->cache, s->cache,
                                     s->page_size};
    }
    m->head = random_matrix(&seed, s->weights, s->vocab, s->hidden);
    all[n++] = &m->head;
    for (int i = 0; i < n; i++) m->bytes += matrix_bytes(all[i]);
    char *arena = get_memory(ops, be, m->bytes);
    for (int i = 0; i < n; i++) settle(all[i], &arena);
    die(ops->reserve(be, MAX_ROWS, s->intermediate));
    m->x = get_memory(ops, be, rows * (size_t)s->hidden * 4);
    m->q = get_memory(ops, be, rows * (size_t)(s->heads * s->head_dim) * 4);
    m->attended = get_memory(ops, be, rows * (size_t)(s->heads * s->head_dim) * 4);
    m->hidden = get_memory(ops, be, rows * (size_t)s->intermediate * 4);
    m->logits = get_memory(ops, be, rows * (size_t)s->vocab * 4);
}

/* One pass of n rows of one sequence; logits of all rows but of a prompt's, where only the last counts. */
static double forward(const struct ops *ops, struct backend *be, struct model *m, int32_t n, double *stage) {
    static int32_t token[MAX_ROWS], position[MAX_ROWS], slot[MAX_ROWS], table[POSITIONS];
    const int32_t last = n - 1;
    for (int32_t i = 0; i < n; i++) token[i] = i, position[i] = n < MAX_ROWS ? DEPTH + i : i;
    for (int32_t i = 0; i < POSITIONS / m->s.page_size; i++) table[i] = i ^ 1;
    const int32_t pages = POSITIONS / m->s.page_size;
    struct rows rows = {n, token, position, slot, table, pages, DEPTH + n, n > 64, NULL};
    double start = seconds(), from = start, now;
#define STAGE(which, call) (call, now = seconds(), stage[which] += now - from, from = now)
    ops->embed(be, &rows, &m->head, 1, m->x);
    for (int l = 0; l < m->layers; l++) {
        struct layer *y = &m->layer[l];
        STAGE(QKV, ops->qkv(be, &rows, &y->attention, m->x, m->q, &m->kv[l]));
        STAGE(ATTENTION, ops->attention(be, &rows, &y->attention, m->q, &m->kv[l], m->attended));
        STAGE(OUTPUT, ops->project(be, &rows, &y->output, m->attended, m->x));
        STAGE(GATE_UP, ops->gate_up(be, &rows, &y->mlp, m->x, m->hidden));
        STAGE(DOWN, ops->project(be, &rows, &y->down, m->hidden, m->x));
    }
    const struct head_block head = {m->layer[0].mlp.norm, 1e-5f, m->head, 0};
    STAGE(LOGITS, ops->logits(be, &head, m->x, n > 64 ? &last : NULL, n > 64 ? 1 : n, m->logits));
    return seconds() - start;
}

static int by_size(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

static double forward_best(const struct ops *ops, struct backend *be, struct model *m, int32_t n,
                           double *best) {
    double stage[STAGES] = {0};
    const double took = forward(ops, be, m, n, stage);
    for (int s = 0; s < STAGES; s++)
        if (stage[s] < best[s]) best[s] = stage[s];
    return took;
}

static void measure(const struct ops *ops, struct backend *be, struct model *m, int rounds,
                    int32_t most_rows) {
    static double took[COUNTS][MAX_ROUNDS], rate[MAX_ROUNDS], stage[COUNTS][STAGES];
    int counts = 0;
    while (counts < COUNTS && row_counts[counts] <= most_rows) counts++;
    for (int c = 0; c < counts; c++)
        for (int s = 0; s < STAGES; s++) stage[c][s] = 1e9;
    for (int i = 0; i < rounds; i++) {
        die(ops->read_bandwidth(be, m->bytes, &rate[i]));
        for (int c = 0; c < counts; c++) {
            took[c][i] = 1e9;
            for (int pass = 0; pass < (row_counts[c] < 64 ? PASSES : 2);
                 pass++) { /* as often as the reading */
                const double t = forward_best(ops, be, m, row_counts[c], stage[c]);
                if (t < took[c][i]) took[c][i] = t;
            }
        }
    }
    const double bytes = (double)m->bytes, read = bytes / (median(rate, rounds) * 1e9);
    double one = 0;
    printf("%s: %.2f MB; reading them %.3f ms (best %.3f), %.1f GB/s\n", m->s.name, 1e-6 * bytes, 1e3 * read,
           1e-6 * bytes / rate[rounds - 1], 1e-9 * bytes / read);
    printf("rows  median ms     min  of one row  of reading |");
    for (int s = 0; s < STAGES; s++) printf(" %9s", stage_names[s]);
    printf("  (least us)\n");
    for (int c = 0; c < counts; c++) {
        const double middle = median(took[c], rounds), least = took[c][0];
        if (c == 0) one = middle;
        printf("%4d %10.3f %7.3f %10.2fx %10.0f%% |", row_counts[c], 1e3 * middle, 1e3 * least, middle / one,
               100 * read / middle);
        for (int s = 0; s < STAGES; s++) printf(" %9.1f", 1e6 * stage[c][s]);
        printf("\n");
    }
    printf("\n");
}

int main(int argc, char **argv) {
    const struct ops *ops;
    struct backend *be;
    char line[128];
    const int rounds = argc > 3 ? atoi(argv[3]) : 30;
    die(ops_open(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 0, &ops, &be));
    ops->describe(be, line, sizeof line);
    printf("%s, depth %d, %d rounds\n", line, DEPTH, rounds);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        float *rope = rope_table(POSITIONS, models[i].s.head_dim);
        model_open(ops, be, &models[i], rope);
        measure(ops, be, &models[i], rounds < MAX_ROUNDS ? rounds : MAX_ROUNDS,
                argc > 4 ? atoi(argv[4]) : MAX_ROWS);
    }
    ops->close(be);
    return 0;
}

/* Every model family against the Hugging Face implementation, by the records of tools/golden_families.py.
 *
 * A record holds a tiny model's configuration and the recipe of its weights, a prompt, 64 tokens that the
 * model goes on with at temperature 0, and logits at every position: past the sliding window, and past the
 * original context where RoPE is scaled. All of it goes through the model in one prompt's pass, in passes of
 * an odd number of rows, and in single steps, whose greatest logits must also be the text. In f32 with an f32
 * cache, so that nothing is rounded: measured, 1.1e-5 of the greatest logit at most.
 */
#include "tests/helpers_weights.h"

#include <math.h>

#include "kernels/ops.h"
#include "runtime/model.h"

#define EXACT 2e-5

enum { MAX_TOKENS = 160, LOGITS = 4, MAX_TENSORS = 64, PAGE = 16, PAGES = MAX_TOKENS / PAGE };

struct recipe {
    char name[96];
    int64_t rows, columns; /* columns 0: a vector */
    double factor, offset; /* an element is offset + factor * h */
};

struct place {
    double lse, logits[LOGITS];
    int32_t ids[LOGITS];
};

struct record {
    char *config;
    int32_t n_tensors, context, n, prompt, tokens[MAX_TOKENS];
    struct recipe tensors[MAX_TENSORS];
    struct place places[MAX_TOKENS];
};

/* ---- reading ---- */

static void read_place(FILE *f, struct record *r) {
    int32_t position;
    assert_int_equal(fscanf(f, "%d", &position), 1);
    assert_in_range(position, 0, MAX_TOKENS - 1);
    struct place *p = &r->places[position];
    assert_int_equal(fscanf(f, "%lf", &p->lse), 1);
    for (int i = 0; i < LOGITS; i++) assert_int_equal(fscanf(f, "%d %lf", &p->ids[i], &p->logits[i]), 2);
}

static void read_tokens(FILE *f, struct record *r) {
    assert_int_equal(fscanf(f, "%d %d", &r->n, &r->prompt), 2);
    assert_in_range(r->n, 1, MAX_TOKENS);
    for (int32_t i = 0; i < r->n; i++) assert_int_equal(fscanf(f, "%d", &r->tokens[i]), 1);
}

static void read_recipe(FILE *f, struct record *r) {
    assert_in_range(r->n_tensors, 0, MAX_TENSORS - 1);
    struct recipe *t = &r->tensors[r->n_tensors++];
    long long rows, columns;
    assert_int_equal(fscanf(f, "%95s %lld %lld %lf %lf", t->name, &rows, &columns, &t->factor, &t->offset),
                     5);
    t->rows = rows, t->columns = columns;
}

static struct record *record_read(const char *family) {
    char path[96], word[16];
    struct record *r = calloc(1, sizeof *r);
    snprintf(path, sizeof path, "tests/golden/families/%s.txt", family);
    FILE *f = fopen(path, "r");
    if (!r || !f) folder_die(path);
    size_t room = 0;
    assert_int_equal(fscanf(f, "#%*[^\n]"), 0);
    while (fscanf(f, "%15s", word) == 1) {
        if (strcmp(word, "config") == 0) assert_true(getline(&r->config, &room, f) > 0);
        if (strcmp(word, "tensor") == 0) read_recipe(f, r);
        if (strcmp(word, "context") == 0) assert_int_equal(fscanf(f, "%d", &r->context), 1);
        if (strcmp(word, "tokens") == 0) read_tokens(f, r);
        if (strcmp(word, "position") == 0) read_place(f, r);
    }
    fclose(f);
    assert_true(r->config && r->n - r->prompt == 64);
    return r;
}

/* ---- the model's files ---- */

static uint32_t fnv1a(const char *text) {
    uint32_t h = 2166136261u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 16777619u;
    return h;
}

static uint32_t mix(uint32_t h) {
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return h ^ h >> 16;
}

static size_t elements(const struct recipe *t) {
    return (size_t)(t->rows * (t->columns ? t->columns : 1));
}

static void write_weights(const struct folder *folder, const struct record *r) {
    char *text;
    size_t bytes, end = 0;
    FILE *header = open_memstream(&text, &bytes), *f = fopen(folder_file(folder, "model.safetensors"), "wb");
    if (!header || !f) folder_die("model.safetensors");
    for (int32_t i = 0; i < r->n_tensors; i++) {
        const struct recipe *t = &r->tensors[i];
        const size_t begin = end;
        end += elements(t) * sizeof(float);
        fprintf(header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%lld", i ? "," : "{", t->name,
                (long long)t->rows);
        if (t->columns) fprintf(header, ",%lld", (long long)t->columns);
        fprintf(header, "],\"data_offsets\":[%zu,%zu]}", begin, end);
    }
    fputc('}', header);
    while (ftell(header) % 8) fputc(' ', header);
    fclose(header);
    const uint64_t length = bytes;
    fwrite(&length, sizeof length, 1, f);
    fwrite(text, 1, bytes, f);
    free(text);
    for (int32_t i = 0; i < r->n_tensors; i++)
        for (size_t j = 0; j < elements(&r->tensors[i]); j++) {
            const struct recipe *t = &r->tensors[i];
            const int32_t h = (int32_t)(mix((uint32_t)j + fnv1a(t->name)) >> 24) - 128;
            const float value = (float)(t->offset + t->factor * h);
            fwrite(&value, sizeof value, 1, f);
        }
    if (fclose(f)) folder_die("model.safetensors");
}

/* ---- running ---- */

struct runner {
    const struct record *record;
    const struct ops *ops;
    struct backend *be;
    struct model *model;
    int32_t *ints; /* backend memory: tokens, positions and slots of a pass, then the table */
    float *logits; /* host, [MAX_TOKENS][vocab] */
};

static void must(outrider_status status) {
    if (status) fail_msg("%s", outrider_error());
}

static void runner_open(struct runner *r, const char *device, const char *folder) {
    must(ops_open(device, 0, &r->ops, &r->be));
    struct model_options o = {.folder = folder,
                              .id = OUTRIDER_VERIFIER,
                              .ops = r->ops,
                              .be = r->be,
                              .cache_type = DTYPE_F32,
                              .page_size = PAGE,
                              .pages = PAGES,
                              .ctx_size = r->record->context,
                              .max_rows = MAX_TOKENS,
                              .max_logits = MAX_TOKENS};
    must(model_open(&o, &r->model));
    must(r->ops->alloc(r->be, (3 * MAX_TOKENS + PAGES) * sizeof(int32_t), (void **)&r->ints));
    r->logits = malloc(sizeof(float) * MAX_TOKENS * (size_t)r->model->config.vocab_size);
    if (!r->logits) folder_die("malloc");
}

static void runner_close(struct runner *r) {
    free(r->logits);
    r->ops->release(r->be, r->ints);
    model_close(r->model);
    r->ops->close(r->be);
}

/* Tokens [begin, begin + n) of the record; their logits come to the host. */
static void run_pass(struct runner *r, int32_t begin, int32_t n, bool prefill) {
    int32_t host[3 * MAX_TOKENS + PAGES] = {0}, pick[MAX_TOKENS];
    for (int32_t i = 0; i < n; i++) {
        host[i] = r->record->tokens[begin + i];
        host[MAX_TOKENS + i] = begin + i;
        pick[i] = i;
    }
    for (int32_t i = 0; i < PAGES; i++) host[3 * MAX_TOKENS + i] = PAGES - 1 - i;
    r->ops->upload(r->be, r->ints, host, sizeof host);
    struct rows rows = {.n = n,
                        .token = r->ints,
                        .position = r->ints + MAX_TOKENS,
                        .slot = r->ints + 2 * MAX_TOKENS,
                        .table = r->ints + 3 * MAX_TOKENS,
                        .table_stride = PAGES,
                        .max_position = begin + n - 1,
                        .prefill = prefill};
    model_forward(r->model, &rows, 0, prefill ? pick : NULL, n);
    const size_t bytes = sizeof(float) * (size_t)n * (size_t)r->model->config.vocab_size;
    must(r->ops->download(r->be, r->logits, r->model->logits, bytes));
    must(r->ops->sync(r->be));
}

static double log_sum_exp(const float *logits, int32_t n) {
    double max = logits[0], sum = 0;
    for (int32_t i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (int32_t i = 0; i < n; i++) sum += exp(logits[i] - max);
    return max + log(sum);
}

static double worse(double a, double b) { /* keeps a NaN */
    return isnan(a) || b <= a ? a : b;
}

static double place_error(const struct place *p, const float *logits, int32_t vocab) {
    double scale = fabs(p->logits[0]), worst = fabs(log_sum_exp(logits, vocab) - p->lse);
    for (int i = 0; i < LOGITS; i++) {
        worst = worse(worst, fabs(logits[p->ids[i]] - p->logits[i]));
        scale = fmax(scale, fabs(p->logits[i]));
    }
    return worst / scale;
}

/* The whole record in passes of `rows` rows: the worst error of any position, and how many of the tokens
 * behind the prompt were not the greatest logit of the position before. */
static double run_record(struct runner *r, int32_t rows, bool prefill, int32_t *strayed) {
    const struct record *record = r->record;
    const int32_t vocab = r->model->config.vocab_size;
    double worst = 0;
    *strayed = 0;
    for (int32_t begin = 0; begin < record->n; begin += rows) {
        const int32_t n = record->n - begin < rows ? record->n - begin : rows;
        run_pass(r, begin, n, prefill);
        for (int32_t i = begin; i < begin + n; i++) {
            const float *logits = r->logits + (size_t)(i - begin) * (size_t)vocab;
            worst = worse(worst, place_error(&record->places[i], logits, vocab));
            int32_t best = 0;
            for (int32_t t = 1; t < vocab; t++) best = logits[t] > logits[best] ? t : best;
            *strayed += i + 1 >= record->prompt && i + 1 < record->n && best != record->tokens[i + 1];
        }
    }
    return worst;
}

/* ---- tests ---- */

static const char *const families[] = {"llama3", "llama-biases", "mistral", "qwen2",      "qwen2-window",
                                       "qwen3",  "gemma2",       "gemma3",  "phi3-short", "phi3-long"};
static const char *const devices[] = {"cpu", "cpu:portable", "cuda"};

struct family_case {
    const char *family, *device;
};

static void family_case(void **state) {
    const struct family_case *c = *state;
    const struct ops *ops;
    struct backend *be;
    if (ops_open(c->device, 0, &ops, &be) != OUTRIDER_OK) skip();
    ops->close(be);
    struct record *record = record_read(c->family);
    struct folder folder = folder_make();
    folder_write_text(&folder, "config.json", record->config);
    write_weights(&folder, record);
    struct runner r = {.record = record};
    runner_open(&r, c->device, folder.path);
    int32_t strayed[3];
    const double prompt = run_record(&r, MAX_TOKENS, true, &strayed[0]),
                 odd = run_record(&r, 7, false, &strayed[1]), steps = run_record(&r, 1, false, &strayed[2]);
    print_message("  error %.2g as a prompt, %.2g in passes of 7, %.2g in steps\n", prompt, odd, steps);
    runner_close(&r);
    folder_remove(&folder);
    free(record->config);
    free(record);
    assert_true(prompt <= EXACT && odd <= EXACT && steps <= EXACT);
    for (int i = 0; i < 3; i++) assert_int_equal(strayed[i], 0);
}

int main(void) {
    enum { FAMILIES = sizeof families / sizeof *families, DEVICES = sizeof devices / sizeof *devices };
    static struct family_case cases[DEVICES][FAMILIES];
    static struct test_list tests;
    for (size_t d = 0; d < DEVICES; d++)
        for (size_t f = 0; f < FAMILIES; f++) {
            cases[d][f] = (struct family_case){families[f], devices[d]};
            test_add(&tests, family_case, NULL, &cases[d][f], "%s on %s", families[f], devices[d]);
        }
    return test_run(&tests, "families");
}

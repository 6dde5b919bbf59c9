/* Every model family against the Hugging Face implementation, by the records of tools/golden_families.py.
 *
 * A record holds a tiny model's configuration and the recipe of its weights, a prompt, 64 tokens that the
 * model goes on with at temperature 0, and logits at every position: past the sliding window, and past the
 * original context where RoPE is scaled. All of it goes through the model in one prompt's pass, in passes of
 * an odd number of rows, and in single steps, whose greatest logits must also be the text. In f32 with an f32
 * cache, so that nothing is rounded: measured, 1.1e-5 of the greatest logit at most.
 */
#include "tests/helpers_golden.h"

#define EXACT 2e-5

enum { MAX_TOKENS = 160, LOGITS = 4, MAX_TENSORS = 64 };

struct recipe {
    char name[96];
    double factor, offset; /* an element is offset + factor * its number */
};

struct place {
    double lse, logits[LOGITS];
    int32_t ids[LOGITS];
};

struct record {
    char *config;
    int32_t n_tensors, context, n, prompt, tokens[MAX_TOKENS];
    struct recipe tensors[MAX_TENSORS];
    struct spec specs[MAX_TENSORS]; /* of their names */
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
    struct recipe *t = &r->tensors[r->n_tensors];
    long long rows, columns;
    assert_int_equal(fscanf(f, "%95s %lld %lld %lf %lf", t->name, &rows, &columns, &t->factor, &t->offset),
                     5);
    r->specs[r->n_tensors++] = (struct spec){t->name, rows, columns};
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

static float recipe_value(const void *user, size_t tensor, size_t i) {
    const struct recipe *t = &((const struct record *)user)->tensors[tensor];
    return (float)(t->offset + t->factor * golden_number(t->name, i));
}

/* ---- running ---- */

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
static double run_record(struct runner *r, const struct record *record, int32_t rows, bool prefill,
                         int32_t *strayed) {
    const int32_t vocab = r->model->config.vocab_size;
    double worst = 0;
    int32_t all[MAX_TOKENS];
    for (int32_t i = 0; i < MAX_TOKENS; i++) all[i] = i;
    *strayed = 0;
    for (int32_t begin = 0; begin < record->n; begin += rows) {
        const int32_t n = record->n - begin < rows ? record->n - begin : rows;
        run_pass(r, record->tokens, begin, n, prefill, prefill ? all : NULL, n);
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
    write_model(&folder, record->specs, (size_t)record->n_tensors, DTYPE_F32, recipe_value, record);
    struct runner r;
    runner_open(&r, c->device, folder.path, DTYPE_F32, record->context, MAX_TOKENS, MAX_TOKENS);
    int32_t strayed[3];
    const double prompt = run_record(&r, record, MAX_TOKENS, true, &strayed[0]),
                 odd = run_record(&r, record, 7, false, &strayed[1]),
                 steps = run_record(&r, record, 1, false, &strayed[2]);
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

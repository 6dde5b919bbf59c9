/* outrider bench: measures prompt reading, plain and speculative decoding, and what the device could do.
 * Plain and speculative answers to a prompt follow each other, so that a machine that changes its speed
 * changes both. Answers go on past the end of the text, so that each has the length that was asked for; every
 * speculative one is compared with the plain one, and a row whose tokens differ says so. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"
#include "tools/setup.h"
#include "tools/terminal.h"

enum { METER_REPEATS = 5, METER_DEPTH = 128 };

const int32_t bench_widths[BENCH_WIDTHS] = {1, 2, 4, 8, 16};

struct bench {
    const struct options *options;
    outrider_engine *engine;
    outrider_session *session;
    outrider_settings settings;
    struct bench_prompts prompts;
    struct bench_list n_prompt, n_gen, k; /* k begins with 0, the plain one */
    size_t repetitions;
    struct progress bar;
    size_t done, steps; /* of the progress bar */
    struct bench_result result;
};

/* ---- one answer ---- */

struct answer {
    int32_t *tokens;
    size_t n;
    outrider_stats stats;
    double ms; /* of writing, by the clock that was asked for */
};

static int begin(struct bench *b, int32_t n_predict, int32_t k) {
    outrider_settings settings = b->settings;
    settings.n_predict = n_predict;
    settings.draft_n = k;
    CHECK(tell(outrider_session_truncate(b->session, 0)));
    return tell(outrider_session_set(b->session, &settings));
}

static double now(const struct bench *b) {
    return b->options->values[OPT_BENCH_CLOCK].integer == BENCH_CPU_TIME ? cpu_ms() : clock_ms();
}

static int write_answer(struct bench *b, struct answer *out) {
    double start = now(b);
    while (outrider_session_stop(b->session) == OUTRIDER_RUNNING) {
        outrider_session_stats(b->session, &out->stats);
        if (out->stats.n_predict == 0) start = now(b); /* until here it read the prompt */
        CHECK(tell(outrider_round(&b->session, 1)));
    }
    out->ms = now(b) - start;
    const int32_t *tokens = outrider_session_tokens(b->session, &out->n);
    out->tokens = malloc((out->n + 1) * sizeof *tokens);
    if (!out->tokens) return complain_memory();
    memcpy(out->tokens, tokens, out->n * sizeof *tokens);
    outrider_session_stats(b->session, &out->stats);
    return 0;
}

static int answer_prompt(struct bench *b, const struct text *prompt, int32_t n_gen, int32_t k,
                         struct answer *out) {
    size_t n;
    CHECK(begin(b, n_gen, k));
    CHECK(tell(outrider_session_append_text(b->session, prompt->data, prompt->bytes)));
    outrider_session_tokens(b->session, &n);
    if (n + (size_t)n_gen > (size_t)b->result.info.ctx_size)
        return complain(OUTRIDER_EINVAL, "a prompt of %zu tokens and %d more do not fit the context of %d", n,
                        n_gen, b->result.info.ctx_size);
    return write_answer(b, out);
}

/* ---- rows ---- */

static struct bench_row *add_row(struct bench *b, int32_t n_prompt, int32_t n_gen, int32_t k) {
    struct bench_row *rows = realloc(b->result.rows, (b->result.n_rows + 1) * sizeof *rows);
    if (!rows) return NULL;
    b->result.rows = rows;
    struct bench_row *row = &rows[b->result.n_rows];
    double *samples = calloc(3 * b->repetitions, sizeof *samples);
    if (!samples) return NULL;
    *row = (struct bench_row){.n_prompt = n_prompt, .n_gen = n_gen, .k = k, .identical = true, .ms = samples};
    row->rate = samples + b->repetitions;
    row->ratio = samples + 2 * b->repetitions;
    b->result.n_rows++;
    return row;
}

static void add_sample(struct bench_row *row, int32_t tokens, double ms, size_t prompts) {
    row->ms[row->n] = ms / (double)prompts;
    row->rate[row->n] = per_second(tokens, ms);
    row->n++;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double row_speedup(const struct bench_row *row) {
    double sorted[BENCH_REPETITIONS];
    memcpy(sorted, row->ratio, row->n * sizeof *sorted);
    qsort(sorted, row->n, sizeof *sorted, by_value);
    return (sorted[(row->n - 1) / 2] + sorted[row->n / 2]) / 2;
}

double row_break_even(const struct bench_row *row) {
    const outrider_stats *s = &row->sum;
    if (!s->draft_n || !s->n_verify || row->plain_ms <= 0) return NAN;
    double round_ms = s->predicted_ms / s->n_verify, k = (double)s->draft_n / s->n_verify;
    return (round_ms / row->plain_ms - 1) / k;
}

/* ---- measurements ---- */

static void step(struct bench *b, const char *what, int32_t n, size_t repetition) {
    char stage[48];
    snprintf(stage, sizeof stage, "%s%d", what, n);
    b->done++;
    progress_show(&b->bar, stage, (double)b->done / (double)b->steps);
    if (b->options->values[OPT_PROGRESS].integer)
        fprintf(stderr, "%s: repetition %zu of %zu\n", stage, repetition + 1, b->repetitions);
}

/* A prompt of exactly n tokens, from the words of all prompts over and over. */
static int make_prompt(struct bench *b, int32_t n, int32_t *out) {
    int32_t have = 0;
    for (size_t i = 0; have < n; i = (i + 1) % b->prompts.n) {
        int32_t *ids;
        size_t count;
        CHECK(tell(
            outrider_tokenize(b->engine, b->prompts.text[i].data, b->prompts.text[i].bytes, &ids, &count)));
        for (size_t j = 0; j < count && have < n; j++) out[have++] = ids[j];
        free(ids);
        if (!have && i + 1 == b->prompts.n) return complain(OUTRIDER_EINVAL, "the prompts are empty");
    }
    return 0;
}

/* The time until the first token after the prompt is known. */
static int read_prompt(struct bench *b, const int32_t *tokens, int32_t n, outrider_stats *stats) {
    struct answer answer = {0};
    CHECK(begin(b, 1, 0));
    CHECK(tell(outrider_session_append(b->session, tokens, (size_t)n)));
    int code = write_answer(b, &answer);
    free(answer.tokens);
    *stats = answer.stats;
    return code;
}

static int time_prompt(struct bench *b, int32_t n) {
    outrider_stats stats;
    if (n >= b->result.info.ctx_size)
        return complain(OUTRIDER_EINVAL, "--n-prompt: %d tokens and one more do not fit the context of %d", n,
                        b->result.info.ctx_size);
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    struct bench_row *row = add_row(b, n, 0, 0);
    int code = tokens && row ? make_prompt(b, n, tokens) : complain_memory();
    if (!code) code = read_prompt(b, tokens, n, &stats); /* to warm up */
    for (size_t i = 0; i < b->repetitions && !code; i++) {
        step(b, "pp", n, i);
        code = read_prompt(b, tokens, n, &stats);
        if (!code) add_sample(row, n, stats.prompt_ms + stats.predicted_ms, 1);
    }
    free(tokens);
    return code;
}

/* All configurations answer one prompt, one after the other; the plain one first. sums[] and ms[] are of this
 * repetition. */
static int answer_all(struct bench *b, const struct text *prompt, int32_t n_gen, struct bench_row *rows,
                      outrider_stats *sums, double *ms) {
    struct answer plain = {0};
    int code = 0;
    for (size_t c = 0; c < b->k.n && !code; c++) {
        struct answer answer = {0};
        code = answer_prompt(b, prompt, n_gen, b->k.value[c], &answer);
        stats_add(&sums[c], &answer.stats);
        ms[c] += answer.ms;
        if (c == 0) {
            plain = answer;
            continue;
        }
        if (!code)
            rows[c].identical &=
                plain.n == answer.n && !memcmp(plain.tokens, answer.tokens, plain.n * sizeof *plain.tokens);
        free(answer.tokens);
    }
    free(plain.tokens);
    return code;
}

static int repeat(struct bench *b, int32_t n_gen, struct bench_row *rows) {
    outrider_stats sums[BENCH_LIST] = {0};
    double ms[BENCH_LIST] = {0};
    for (size_t i = 0; i < b->prompts.n; i++)
        CHECK(answer_all(b, &b->prompts.text[i], n_gen, rows, sums, ms));
    for (size_t c = 0; c < b->k.n; c++) {
        struct bench_row *row = &rows[c];
        add_sample(row, sums[c].n_predict, ms[c], b->prompts.n);
        row->ratio[row->n - 1] =
            rows[0].rate[row->n - 1] > 0 ? row->rate[row->n - 1] / rows[0].rate[row->n - 1] : 0;
        stats_add(&row->sum, &sums[c]);
    }
    return 0;
}

static int time_answers(struct bench *b, int32_t n_gen) {
    outrider_stats warm[BENCH_LIST] = {0};
    double warm_ms[BENCH_LIST] = {0};
    size_t first = b->result.n_rows;
    for (size_t c = 0; c < b->k.n; c++)
        if (!add_row(b, 0, n_gen, b->k.value[c])) return complain_memory();
    struct bench_row *rows = &b->result.rows[first];
    CHECK(answer_all(b, &b->prompts.text[0], n_gen, rows, warm, warm_ms));
    for (size_t i = 0; i < b->repetitions; i++) {
        step(b, "tg", n_gen, i);
        CHECK(repeat(b, n_gen, rows));
    }
    for (size_t c = 0; c < b->k.n; c++) rows[c].plain_ms = rows[0].sum.predicted_ms / rows[0].sum.n_predict;
    return 0;
}

/* After the session is closed: the meters need its place in the cache. */
static int read_meters(struct bench *b) {
    struct bench_meters *m = &b->result.meters;
    const outrider_engine_info *info = &b->result.info;
    int32_t room = info->ctx_size - bench_widths[BENCH_WIDTHS - 1];
    int32_t depth = room < METER_DEPTH ? room : METER_DEPTH;
    int32_t repeats = b->repetitions < 200 ? METER_REPEATS * (int32_t)b->repetitions : 1000;
    for (int i = 0; i < BENCH_WIDTHS && depth >= 0; i++)
        CHECK(tell(outrider_time_pass(b->engine, OUTRIDER_VERIFIER, bench_widths[i], depth, repeats,
                                      &m->pass_us[i])));
    if (info->has_draft && depth >= 0)
        CHECK(tell(outrider_time_pass(b->engine, OUTRIDER_DRAFT, 1, depth, repeats, &m->draft_us)));
    return tell(outrider_read_bandwidth(b->engine, info->verifier.streamed_bytes, &m->read_gb_per_s));
}

static int measure(struct bench *b) {
    CHECK(tell(outrider_session_open(b->engine, &b->settings, &b->session)));
    b->steps = (b->n_prompt.n + b->n_gen.n) * b->repetitions;
    for (size_t i = 0; i < b->n_prompt.n; i++) CHECK(time_prompt(b, b->n_prompt.value[i]));
    for (size_t i = 0; i < b->n_gen.n; i++) CHECK(time_answers(b, b->n_gen.value[i]));
    outrider_session_close(b->session);
    b->session = NULL;
    return read_meters(b);
}

/* ---- plan ---- */

static void drop_zeros(struct bench_list *l) {
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++)
        if (l->value[i]) l->value[kept++] = l->value[i];
    l->n = kept;
}

static int plan(struct bench *b) {
    const struct option_value *v = b->options->values;
    struct bench_list k;
    CHECK(bench_parse_list("--n-prompt", v[OPT_BENCH_N_PROMPT].text, 0, 1 << 20, &b->n_prompt));
    CHECK(bench_parse_list("--n-gen", v[OPT_BENCH_N_GEN].text, 0, 1 << 20, &b->n_gen));
    CHECK(bench_parse_list("--spec-draft-n-max", v[OPT_BENCH_DRAFT_N_MAX].text, -1, OUTRIDER_MAX_DRAFT, &k));
    drop_zeros(&b->n_prompt);
    drop_zeros(&b->n_gen);
    drop_zeros(&k);
    b->k = (struct bench_list){.n = 1}; /* plain */
    for (size_t i = 0; i < k.n && b->k.n < BENCH_LIST; i++) b->k.value[b->k.n++] = k.value[i];
    b->repetitions = (size_t)v[OPT_BENCH_REPETITIONS].integer;
    return bench_read_prompts(v[OPT_BENCH_PROMPTS].text, &b->prompts);
}

static int open_engine(struct bench *b) {
    const struct option_value *v = b->options->values;
    CHECK(setup_engine(b->options, &b->engine));
    CHECK(tell(outrider_engine_get_info(b->engine, &b->result.info)));
    CHECK(setup_settings(b->options, b->engine, &b->settings));
    if (!b->settings.drafters) b->k.n = 1;
    if (!v[OPT_TEMP].given) b->settings.temperature = 0;
    if (!v[OPT_SEED].given) b->settings.seed = 1;
    b->settings.ignore_eos = true;
    b->result.exact = b->settings.temperature == 0 || b->settings.accept == OUTRIDER_ACCEPT_COUPLED;
    return 0;
}

static void free_rows(struct bench_result *r) {
    for (size_t i = 0; i < r->n_rows; i++) free(r->rows[i].ms);
    free(r->rows);
}

int cmd_bench(struct options *o) {
    struct bench b = {.options = o};
    struct pair pair = {0};
    int code = plan(&b);
    if (!code) code = setup_cache_type(o, &b.result.cache_type);
    if (!code) code = setup_pair(o, &pair);
    if (!code) code = open_engine(&b);
    b.result.model = pair.model;
    b.result.draft = pair.draft;
    b.bar = progress_begin(o);
    if (!code) code = measure(&b);
    progress_end(&b.bar);
    if (!code) code = bench_report(&b.result, (enum bench_output)o->values[OPT_OUTPUT].integer);
    free_rows(&b.result);
    setup_settings_free(&b.settings);
    outrider_session_close(b.session);
    outrider_engine_close(b.engine);
    bench_free_prompts(&b.prompts);
    return code;
}

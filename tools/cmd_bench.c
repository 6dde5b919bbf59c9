/* outrider bench: measures prompt reading, plain and speculative decoding, and what the device could do. A
 * set of rows is every K at one length, depth, batch and acceptance rule; sets follow each other. Plain and
 * speculative answers to a prompt follow each other, so that a machine that changes its speed changes both.
 * Answers go on past the end of the text, so that each has the length that was asked for; every speculative
 * one is compared with the plain one, and a row whose tokens differ says so. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"
#include "tools/setup.h"
#include "tools/terminal.h"

enum { METER_REPEATS = 5, METER_TURNS = 4, METER_DEPTH = 128 };

const int32_t bench_widths[BENCH_WIDTHS] = {1, 2, 4, 8, 16};

/* ---- rows ---- */

static struct bench_row *add_row(struct bench *b, struct bench_row row) {
    struct bench_row *rows = realloc(b->result.rows, (b->result.n_rows + 1) * sizeof *rows);
    if (!rows) return NULL;
    b->result.rows = rows;
    double *samples = calloc((3 + row.n_groups) * b->repetitions, sizeof *samples);
    if (!samples) return NULL;
    row.identical = true;
    row.ms = samples;
    row.rate = samples + b->repetitions;
    row.ratio = samples + 2 * b->repetitions;
    row.answers = samples + 3 * b->repetitions;
    row.over_plain = row.over_best = NAN;
    rows[b->result.n_rows] = row;
    return &rows[b->result.n_rows++];
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

/* Sorts x. */
static double median(double *x, size_t n) {
    if (n == 0) return NAN;
    qsort(x, n, sizeof *x, by_value);
    return (x[(n - 1) / 2] + x[n / 2]) / 2;
}

double row_speedup(const struct bench_row *row) {
    double sorted[BENCH_REPETITIONS];
    memcpy(sorted, row->ratio, row->n * sizeof *sorted);
    return median(sorted, row->n);
}

double row_round_ms(const struct bench_row *row) {
    return row->sum.n_verify ? row->sum.predicted_ms / row->sum.n_verify : NAN;
}

double row_break_even(const struct bench_row *row) {
    const outrider_stats *s = &row->sum;
    if (!s->draft_n || !s->n_verify || row->plain_ms <= 0) return NAN;
    double k = (double)s->draft_n / s->n_verify;
    return (row_round_ms(row) / row->plain_ms - 1) / k;
}

bool row_exact(const struct bench_result *r, const struct bench_row *row) {
    return !r->synthetic && (r->greedy || row->rule == OUTRIDER_ACCEPT_COUPLED);
}

double row_model_ms(const struct bench_result *r, const struct bench_row *row) {
    const struct bench_meters *m = &r->meters;
    const double rows = row->batch * (row->k + 1);
    int i = 0;
    if (row->k < 0 || rows > bench_widths[BENCH_WIDTHS - 1] + 1) return NAN;
    while (i + 2 < BENCH_WIDTHS && rows > bench_widths[i + 1]) i++;
    double slope = (m->pass_us[i + 1] - m->pass_us[i]) / (bench_widths[i + 1] - bench_widths[i]);
    return (row->k * row->step_us + m->pass_us[i] + slope * (rows - bench_widths[i])) / 1e3;
}

const struct bench_row *sweep_best(const struct bench_result *r) {
    const struct bench_row *best = NULL;
    for (size_t i = 0; i < r->n_rows && r->sweep; i++)
        if (r->rows[i].k && row_speedup(&r->rows[i]) > (best ? row_speedup(best) : 1)) best = &r->rows[i];
    return best;
}

/* Of a row's groups over another's. */
static double median_over(const struct bench_row *row, const struct bench_row *other) {
    size_t n = row->n * row->n_groups;
    double *ratio = malloc((n + 1) * sizeof *ratio);
    if (!ratio) return NAN;
    for (size_t i = 0; i < n; i++) ratio[i] = other->answers[i] > 0 ? row->answers[i] / other->answers[i] : 0;
    double over = median(ratio, n);
    free(ratio);
    return over;
}

/* The automatic K of a set, of which rows[0] is the plain one, against the fixed ones in hindsight. */
static void look_back(struct bench_row *rows, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (rows[i].k > 0 && rows[i].total_rate > rows[best].total_rate) best = i;
    for (size_t i = 1; i < n; i++) {
        if (rows[i].k >= 0) continue;
        rows[i].over_plain = median_over(&rows[i], &rows[0]);
        rows[i].best_k = rows[best].k;
        rows[i].over_best = median_over(&rows[i], &rows[best]);
    }
}

/* ---- measurements ---- */

static void step(struct bench *b, const char *what, int32_t n, size_t repetition) {
    char stage[48];
    snprintf(stage, sizeof stage, "%s%d", what, n);
    b->done++;
    progress_count(&b->bar, stage, (double)b->done, (double)b->steps, "runs");
    if (b->options->values[OPT_PROGRESS].integer)
        fprintf(stderr, "%s: repetition %zu of %zu\n", stage, repetition + 1, b->repetitions);
}

/* The time until the first token after n tokens behind `depth` others is known. */
static int read_prompt(struct bench *b, int32_t depth, int32_t n, double *ms) {
    outrider_settings settings = b->settings;
    outrider_session *session = NULL;
    outrider_stats stats;
    settings.n_predict = 1;
    settings.draft_n = 0;
    CHECK(tell(outrider_session_open(b->engine, &settings, &session)));
    int code = bench_append_filler(b, session, depth + n);
    if (!code) code = bench_first_token(session);
    outrider_session_stats(session, &stats);
    *ms = stats.prompt_ms + stats.predicted_ms;
    outrider_session_close(session);
    return code;
}

static int time_prompt(struct bench *b, int32_t depth, int32_t n) {
    double ms;
    if (n + depth >= b->result.info.ctx_size)
        return complain(OUTRIDER_EINVAL, "--n-prompt: %d tokens and one more do not fit the context of %d",
                        n + depth, b->result.info.ctx_size);
    struct bench_row *row = add_row(b, (struct bench_row){.n_prompt = n, .n_depth = depth, .batch = 1});
    if (!row) return complain_memory();
    CHECK(bench_fill(b, depth));
    CHECK(read_prompt(b, depth, n, &ms)); /* to warm up */
    for (size_t i = 0; i < b->repetitions; i++) {
        step(b, "pp", n, i);
        CHECK(read_prompt(b, depth, n, &ms));
        add_sample(row, n, ms, 1);
    }
    return 0;
}

/* What the K of a set took in one repetition. */
struct sums {
    outrider_stats stats;
    int32_t written;
    double ms;
};

static bool same_answers(const struct bench_answers *a, const struct bench_answers *b) {
    for (size_t i = 0; i < a->n; i++)
        if (a->n_tokens[i] != b->n_tokens[i] ||
            memcmp(a->tokens[i], b->tokens[i], a->n_tokens[i] * sizeof(int32_t)) != 0)
            return false;
    return true;
}

/* Changes the engine's own layers; what an automatic K goes by is not measured while answers are timed. */
static int draft_with(struct bench *b, int32_t self_layers, bool automatic) {
    if (!b->result.sweep) return 0;
    CHECK(tell(outrider_engine_self_layers(b->engine, self_layers)));
    return automatic ? tell(outrider_engine_measure(b->engine)) : 0;
}

/* Every way answers one group of prompts, one after the other; the plain one first. */
static int answer_all(struct bench *b, size_t group, struct bench_row *rows, struct sums *sums) {
    struct bench_answers plain = {0};
    int code = 0;
    for (size_t c = 0; c < b->n_ways && !code; c++) {
        struct bench_row *row = &rows[c];
        struct bench_answers answers = {0};
        code = draft_with(b, row->self_layers, row->k < 0);
        if (!code) code = bench_answer_group(b, row, group, &answers);
        stats_add(&sums[c].stats, &answers.stats);
        sums[c].ms += answers.ms;
        sums[c].written += answers.written;
        row->answers[row->n * row->n_groups + group] = per_second(answers.written, answers.ms);
        if (c == 0) {
            plain = answers;
            continue;
        }
        if (!code) row->identical &= same_answers(&plain, &answers);
        bench_free_answers(&answers);
    }
    bench_free_answers(&plain);
    return code;
}

static int repeat(struct bench *b, struct bench_row *rows) {
    struct sums sums[BENCH_WAYS] = {0};
    for (size_t i = 0; i < rows[0].n_groups; i++) CHECK(answer_all(b, i, rows, sums));
    for (size_t c = 0; c < b->n_ways; c++) {
        struct bench_row *row = &rows[c];
        add_sample(row, sums[c].written, sums[c].ms, row->n_groups);
        double plain = rows[0].rate[row->n - 1];
        row->ratio[row->n - 1] = plain > 0 ? row->rate[row->n - 1] / plain : 0;
        stats_add(&row->sum, &sums[c].stats);
        row->total_rate += row->rate[row->n - 1];
    }
    return 0;
}

/* One set: every way, with all else alike. */
static int time_answers(struct bench *b, int32_t n_gen, int32_t depth, int32_t batch, int32_t rule) {
    struct sums warm[BENCH_WAYS] = {0};
    size_t first = b->result.n_rows, groups = (b->prompts.n + (size_t)batch - 1) / (size_t)batch;
    for (size_t c = 0; c < b->n_ways; c++)
        if (!add_row(b, (struct bench_row){.n_gen = n_gen,
                                           .n_depth = depth,
                                           .batch = batch,
                                           .k = b->ways[c].k,
                                           .self_layers = b->ways[c].self_layers,
                                           .rule = (outrider_accept_rule)rule,
                                           .n_groups = groups}))
            return complain_memory();
    struct bench_row *rows = &b->result.rows[first];
    CHECK(bench_fill(b, depth));
    CHECK(answer_all(b, 0, rows, warm));
    for (size_t i = 0; i < b->repetitions; i++) {
        step(b, "tg", n_gen, i);
        CHECK(repeat(b, rows));
    }
    for (size_t c = 0; c < b->n_ways; c++)
        rows[c].plain_ms = rows[0].sum.predicted_ms / rows[0].sum.n_predict;
    look_back(rows, b->n_ways);
    return 0;
}

/* Of whom a fixed K takes; the least of several, as of all meters. */
static int read_step(struct bench *b, outrider_which which, int32_t depth, double *least) {
    double us;
    for (int turn = 0; turn < METER_TURNS; turn++) {
        CHECK(tell(outrider_time_pass(b->engine, which, 1, depth, METER_REPEATS, &us)));
        if (turn == 0 || us < *least) *least = us;
    }
    return 0;
}

static int read_steps(struct bench *b, int32_t depth) {
    const bool model = b->result.info.has_draft && (b->settings.drafters & OUTRIDER_DRAFT_MODEL),
               self = b->settings.drafters & OUTRIDER_DRAFT_SELF;
    for (size_t i = 0; i < b->result.n_rows && depth >= 0; i++) {
        struct bench_row *row = &b->result.rows[i];
        if (!row->k || !(model || (self && row->self_layers))) continue;
        if (row[-1].k && row[-1].self_layers == row->self_layers) { /* a plain row is before all */
            row->step_us = row[-1].step_us;
            continue;
        }
        CHECK(draft_with(b, row->self_layers, false));
        CHECK(read_step(b, model ? OUTRIDER_DRAFT : OUTRIDER_SELF, depth, &row->step_us));
        if (!b->result.sweep && b->result.meters.draft_us == 0) b->result.meters.draft_us = row->step_us;
    }
    return 0;
}

/* After the sessions are closed: the meters need a place in the cache. In turns, and the least of them, for a
 * machine that others use too. */
static int read_meters(struct bench *b) {
    struct bench_meters *m = &b->result.meters;
    const outrider_engine_info *info = &b->result.info;
    int32_t room = info->ctx_size - bench_widths[BENCH_WIDTHS - 1],
            depth = room < METER_DEPTH ? room : METER_DEPTH;
    size_t turns = b->repetitions < 20 ? b->repetitions + METER_TURNS : 20 + METER_TURNS;
    double us;
    for (size_t turn = 0; turn < turns && depth >= 0; turn++) {
        for (int i = 0; i < BENCH_WIDTHS; i++) {
            CHECK(tell(outrider_time_pass(b->engine, OUTRIDER_VERIFIER, bench_widths[i], depth, METER_REPEATS,
                                          &us)));
            if (turn == 0 || us < m->pass_us[i]) m->pass_us[i] = us;
        }
    }
    CHECK(read_steps(b, depth));
    return tell(outrider_read_bandwidth(b->engine, info->verifier.streamed_bytes, &m->read_gb_per_s));
}

static int measure_at(struct bench *b, int32_t depth) {
    for (size_t i = 0; i < b->n_prompt.n; i++) CHECK(time_prompt(b, depth, b->n_prompt.value[i]));
    for (size_t i = 0; i < b->n_gen.n; i++)
        for (size_t j = 0; j < b->batch.n; j++)
            for (size_t r = 0; r < b->rules.n; r++)
                CHECK(time_answers(b, b->n_gen.value[i], depth, b->batch.value[j], b->rules.value[r]));
    return 0;
}

static int measure(struct bench *b) {
    b->steps = (b->n_prompt.n + b->n_gen.n * b->batch.n * b->rules.n) * b->n_depth.n * b->repetitions;
    for (size_t i = 0; i < b->n_depth.n; i++) CHECK(measure_at(b, b->n_depth.value[i]));
    outrider_session_close(b->filled);
    b->filled = NULL;
    return read_meters(b);
}

/* ---- plan ---- */

/* A sweep is of the own layers alone, and finds their number itself. */
static int plan_sweep(struct bench *b, struct options *o) {
    const struct option_value *v = o->values;
    b->result.sweep = v[OPT_BENCH_SELF_SWEEP].integer;
    if (!b->result.sweep) return 0;
    if (v[OPT_SELF_LAYERS].given || !(v[OPT_SPEC_TYPE].integer & (SPEC_AUTO | SPEC_SELF)))
        return complain(OUTRIDER_EINVAL,
                        "--self-sweep tries the model's own layers, each number of them: leave "
                        "out --self-layers and other drafters");
    CHECK(option_assign(o, OPT_SPEC_TYPE, "--spec-type", "self"));
    return v[OPT_BENCH_DRAFT_N_MAX].given
               ? 0
               : option_assign(o, OPT_BENCH_DRAFT_N_MAX, "--spec-draft-n-max", "1,2,4");
}

static void drop_zeros(struct bench_list *l) {
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++)
        if (l->value[i]) l->value[kept++] = l->value[i];
    l->n = kept;
}

static int plan(struct bench *b) {
    const struct option_value *v = b->options->values;
    CHECK(bench_parse_list("--n-prompt", v[OPT_BENCH_N_PROMPT].text, 0, 1 << 20, &b->n_prompt));
    CHECK(bench_parse_list("--n-gen", v[OPT_BENCH_N_GEN].text, 0, 1 << 20, &b->n_gen));
    CHECK(bench_parse_list("--n-depth", v[OPT_BENCH_DEPTH].text, 0, 1 << 20, &b->n_depth));
    CHECK(bench_parse_list("--parallel", v[OPT_BENCH_PARALLEL].text, 1, BENCH_BATCH, &b->batch));
    CHECK(
        bench_parse_list("--spec-draft-n-max", v[OPT_BENCH_DRAFT_N_MAX].text, -1, OUTRIDER_MAX_DRAFT, &b->k));
    drop_zeros(&b->n_prompt);
    drop_zeros(&b->n_gen);
    drop_zeros(&b->k);
    b->repetitions = (size_t)v[OPT_BENCH_REPETITIONS].integer;
    return bench_read_prompts(v[OPT_BENCH_PROMPTS].text, &b->prompts);
}

/* The rules that were asked for; at temperature 0 they are one. */
static int plan_rules(struct bench *b) {
    const struct option_value *v = b->options->values;
    if (v[OPT_BENCH_ACCEPT].given && !v[OPT_REPRODUCIBLE].integer)
        CHECK(bench_parse_rules(v[OPT_BENCH_ACCEPT].text, &b->rules));
    else
        b->rules = (struct bench_list){.value = {(int32_t)b->settings.accept}, .n = 1};
    if (b->result.greedy) b->rules.n = 1;
    return 0;
}

static int32_t most_sessions(const struct bench *b) {
    int32_t most = 1;
    for (size_t i = 0; i < b->batch.n; i++)
        if (b->batch.value[i] > most) most = b->batch.value[i];
    return most + 1; /* and the one that holds the context */
}

static int open_engine(struct bench *b) {
    const struct option_value *v = b->options->values;
    CHECK(setup_engine_for(b->options, most_sessions(b), &b->engine));
    CHECK(tell(outrider_engine_get_info(b->engine, &b->result.info)));
    CHECK(setup_settings(b->options, b->engine, &b->settings));
    if (!b->settings.drafters) b->k.n = 0;
    const int32_t layers = b->result.info.verifier.num_hidden_layers;
    if (b->result.sweep && layers < 2)
        return complain(OUTRIDER_EINVAL, "--self-sweep: the model has one layer, none to leave out");
    b->n_ways = bench_ways(&b->k, b->result.info.self_layers, layers, b->result.sweep, b->ways);
    if (!v[OPT_TEMP].given) b->settings.temperature = 0;
    if (!v[OPT_SEED].given) b->settings.seed = 1;
    b->settings.ignore_eos = true;
    b->result.greedy = b->settings.temperature == 0;
    b->settings.synthetic_accept = b->result.synthetic = v[OPT_BENCH_SYNTHETIC].given;
    if (b->result.synthetic) b->result.synthetic_rate = v[OPT_BENCH_SYNTHETIC].number;
    b->settings.synthetic_rate = (float)b->result.synthetic_rate;
    CHECK(setup_sandbox(b->options, b->engine, b->settings.drafters));
    return plan_rules(b);
}

static void free_rows(struct bench_result *r) {
    for (size_t i = 0; i < r->n_rows; i++) free(r->rows[i].ms);
    free(r->rows);
}

int cmd_bench(struct options *o) {
    struct bench b = {.options = o};
    struct pair pair = {0};
    int code = plan_sweep(&b, o);
    if (!code) code = plan(&b);
    b.result.cache_type = o->values[OPT_CACHE_TYPE].text;
    b.result.cache_type_v = o->values[OPT_CACHE_TYPE_V].text;
    if (!b.result.cache_type_v) b.result.cache_type_v = b.result.cache_type;
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
    outrider_session_close(b.filled);
    outrider_engine_close(b.engine);
    bench_free_prompts(&b.prompts);
    return code;
}

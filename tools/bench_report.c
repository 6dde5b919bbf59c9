/* The result of a measurement as a table for people, or as records under the field names of llama-bench where
 * it has one. Every form is made of the same records; definitions are in bench.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/bench.h"

static double mean(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    return n ? sum / (double)n : 0;
}

static double deviation(const double *x, size_t n) {
    double center = mean(x, n), sum = 0;
    for (size_t i = 0; i < n; i++) sum += (x[i] - center) * (x[i] - center);
    return n > 1 ? sqrt(sum / (double)(n - 1)) : 0;
}

static double gb_per_s(const struct bench_result *r) {
    double us = r->meters.pass_us[0];
    return us > 0 ? (double)r->info.verifier.streamed_bytes / us / 1e3 : 0;
}

static double bandwidth_share(const struct bench_result *r) {
    return r->meters.read_gb_per_s > 0 ? gb_per_s(r) / r->meters.read_gb_per_s : 0;
}

static double verify_cost(const struct bench_result *r, int i) {
    return r->meters.pass_us[0] > 0 ? r->meters.pass_us[i] / r->meters.pass_us[0] : 0;
}

static double step_cost(const struct bench_result *r, const struct bench_row *row) {
    return r->meters.pass_us[0] > 0 ? row->step_us / r->meters.pass_us[0] : 0;
}

static double draft_step_ms(const outrider_stats *s) {
    return s->n_draft_steps ? s->draft_ms / s->n_draft_steps : 0;
}
static double verify_ms(const outrider_stats *s) {
    return s->n_verify ? s->verify_ms / s->n_verify : 0;
}

/* Of a round, by the device's clock. */
static double busy_us(const outrider_stats *s) {
    return s->n_verify ? 1e3 * s->busy_ms / s->n_verify : 0;
}
static double idle_us(const outrider_stats *s) {
    return s->n_verify ? 1e3 * s->idle_ms / s->n_verify : 0;
}

static void model_name(const outrider_model_info *m, char *out, size_t size) {
    double millions = (double)m->parameters / 1e6;
    bool large = millions >= 1000;
    snprintf(out, size, "%s %.1f%s %s", m->model_type, large ? millions / 1000 : millions, large ? "B" : "M",
             m->dtype);
}

/* ---- records ---- */

static json_t *samples(const double *x, size_t n, double unit) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) json_array_append_new(list, json_real(x[i] * unit));
    return list;
}

/* JSON has no NaN. */
static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *base_record(const struct bench_result *r, const struct bench_row *row) {
    char name[96], stamp[32];
    time_t now = time(NULL);
    struct tm utc;
    model_name(&r->info.verifier, name, sizeof name);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    return json_pack("{s:s, s:s, s:o, s:o, s:s, s:I, s:I, s:s, s:s, s:i, s:i, s:i, s:i, s:s, s:f, s:f, s:f, "
                     "s:f, s:o, s:o}",
                     "build_number", outrider_version(), "backends", r->info.device, "model_filename",
                     json_text(r->model, strlen(r->model)), "model_draft",
                     *r->draft ? json_text(r->draft, strlen(r->draft)) : json_null(), "model_type", name,
                     "model_size", (json_int_t)r->info.verifier.weight_bytes, "model_n_params",
                     (json_int_t)r->info.verifier.parameters, "type_k", r->cache_type, "type_v",
                     r->cache_type_v, "n_prompt", row->n_prompt, "n_gen", row->n_gen, "n_depth", row->n_depth,
                     "n_batch", row->batch, "test_time", stamp, "avg_ns", mean(row->ms, row->n) * 1e6,
                     "stddev_ns", deviation(row->ms, row->n) * 1e6, "avg_ts", mean(row->rate, row->n),
                     "stddev_ts", deviation(row->rate, row->n), "samples_ns", samples(row->ms, row->n, 1e6),
                     "samples_ts", samples(row->rate, row->n, 1));
}

static json_t *runs(const outrider_stats *s) {
    json_t *list = json_array();
    for (int i = 0; list && i <= positions(s); i++) json_array_append_new(list, json_integer(s->runs[i]));
    return list;
}

static const char *rule_name(outrider_accept_rule rule) {
    static const char *const names[BENCH_RULES] = {[OUTRIDER_ACCEPT_REJECTION] = "rejection",
                                                   [OUTRIDER_ACCEPT_BLOCK] = "block",
                                                   [OUTRIDER_ACCEPT_COUPLED] = "coupled"};
    return names[rule];
}

/* Beside the rates: what the rule, the meters and hindsight say. */
static json_t *judged_fields(const struct bench_result *r, const struct bench_row *row) {
    bool back = isfinite(row->over_best);
    return json_pack("{s:i, s:f, s:o, s:s, s:o, s:o, s:f, s:o, s:o, s:o, s:o}", "self_layers",
                     row->self_layers, "step_cost", step_cost(r, row), "best_self_layers",
                     r->sweep ? json_boolean(row == sweep_best(r)) : json_null(), "accept",
                     r->greedy ? "greedy" : rule_name(row->rule), "synthetic_accept",
                     r->synthetic ? json_real(r->synthetic_rate) : json_null(), "runs", runs(&row->sum),
                     "round_ms", row_round_ms(row), "model_round_ms", number(row_model_ms(r, row)),
                     "over_plain", number(row->over_plain), "over_best_fixed", number(row->over_best),
                     "best_fixed_k", back ? json_integer(row->best_k) : json_null());
}

static json_t *speculative_fields(const struct bench_result *r, const struct bench_row *row) {
    const outrider_stats *s = &row->sum;
    return json_pack("{s:i, s:i, s:i, s:i, s:f, s:f, s:o, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "n_draft_max",
                     row->k, "draft_n", s->draft_n, "draft_n_accepted", s->draft_n_accepted, "n_verify",
                     s->n_verify, "acceptance", acceptance(s), "mean_length", mean_length(s), "acc_per_pos",
                     report_positions(s), "draft_step_ms", draft_step_ms(s), "verify_ms", verify_ms(s),
                     "round_busy_us", busy_us(s), "round_idle_us", idle_us(s), "speedup", row_speedup(row),
                     "break_even", number(row_break_even(row)), "identical",
                     row_exact(r, row) ? json_boolean(row->identical) : json_null());
}

static json_t *meter_fields(const struct bench_result *r) {
    json_t *costs = json_array();
    for (int i = 0; i < BENCH_WIDTHS; i++)
        json_array_append_new(costs, json_pack("{s:i, s:f, s:f}", "rows", bench_widths[i], "us",
                                               r->meters.pass_us[i], "relative", verify_cost(r, i)));
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:o}", "streamed_bytes",
                     (json_int_t)r->info.verifier.streamed_bytes, "streamed_gb_per_s", gb_per_s(r),
                     "read_gb_per_s", r->meters.read_gb_per_s, "bandwidth_share", bandwidth_share(r),
                     "draft_step_us", r->meters.draft_us, "verify_cost", costs);
}

static json_t *record(const struct bench_result *r, const struct bench_row *row) {
    json_t *base = base_record(r, row);
    json_t *more = row->k ? speculative_fields(r, row) : row->n_gen ? meter_fields(r) : json_object();
    if (base && more) json_object_update(base, more);
    json_decref(more);
    more = row->k ? judged_fields(r, row) : NULL;
    if (base && more) json_object_update(base, more);
    json_decref(more);
    return base;
}

static json_t *records(const struct bench_result *r) {
    json_t *all = json_array();
    for (size_t i = 0; all && i < r->n_rows; i++) {
        if (!json_array_append_new(all, record(r, &r->rows[i]))) continue;
        json_decref(all);
        return NULL;
    }
    return all;
}

static int write_jsonl(const struct bench_result *r) {
    for (size_t i = 0; i < r->n_rows; i++) CHECK(write_json(stdout, record(r, &r->rows[i]), JSON_COMPACT));
    return 0;
}

/* ---- comma-separated ---- */

/* A field in double quotes with quotes doubled, as RFC 4180 has it; what is no string as its JSON. */
static void write_field(const json_t *value) {
    char *encoded = json_is_string(value) || !value || json_is_null(value)
                        ? NULL
                        : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    const char *text = encoded ? encoded : json_is_string(value) ? json_string_value(value) : "";
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
    free(encoded);
}

/* Columns are the union of the fields: those of a speculative row and of a plain one. */
static json_t *columns(const json_t *all) {
    json_t *names = json_object();
    for (size_t i = 0; i < json_array_size(all); i++) {
        const char *name;
        json_t *value;
        json_object_foreach(json_array_get(all, i), name, value)
            json_object_set_new(names, name, json_null());
    }
    return names;
}

static int write_csv(const struct bench_result *r) {
    json_t *all = records(r), *names = all ? columns(all) : NULL, *value;
    const char *name, *separator = "";
    if (!names) return complain_memory();
    json_object_foreach(names, name, value) {
        printf("%s%s", separator, name);
        separator = ",";
    }
    putchar('\n');
    for (size_t i = 0; i < json_array_size(all); i++) {
        separator = "";
        json_object_foreach(names, name, value) {
            fputs(separator, stdout);
            write_field(json_object_get(json_array_get(all, i), name));
            separator = ",";
        }
        putchar('\n');
    }
    json_decref(names);
    json_decref(all);
    return flush_output(stdout);
}

/* ---- tables ---- */

static void k_name(int32_t k, char out[12]) {
    if (k < 0)
        strcpy(out, "auto");
    else
        snprintf(out, 12, "%d", k);
}

/* "tg128 @ d512 B=4 K=auto coupled": what differs from the plainest is named. */
enum { TEST_NAME = 80 };
static void test_name(const struct bench_result *r, const struct bench_row *row, char out[TEST_NAME]) {
    char k[12], depth[24] = "", batch[24] = "", own[24] = "";
    k_name(row->k, k);
    if (row->n_depth) snprintf(depth, sizeof depth, " @ d%d", row->n_depth);
    if (row->batch > 1) snprintf(batch, sizeof batch, " B=%d", row->batch);
    if (r->sweep) snprintf(own, sizeof own, " N=%d", row->self_layers);
    if (row->n_prompt)
        snprintf(out, TEST_NAME, "pp%d%s", row->n_prompt, depth);
    else if (row->k)
        snprintf(out, TEST_NAME, "tg%d%s%s%s K=%s%s%s", row->n_gen, depth, batch, own, k,
                 r->greedy ? "" : " ", r->greedy ? "" : rule_name(row->rule));
    else
        snprintf(out, TEST_NAME, "tg%d%s%s", row->n_gen, depth, batch);
}

static void print_rates(const struct bench_result *r) {
    char name[96], test[TEST_NAME];
    model_name(&r->info.verifier, name, sizeof name);
    printf("| %-22s | %10s | %10s | %-28s | %14s | %21s |\n", "model", "size", "params", "backend", "test",
           "t/s");
    printf("| :--------------------- | ---------: | ---------: | :--------------------------- | "
           "-------------: | "
           "--------------------: |\n");
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct bench_row *row = &r->rows[i];
        test_name(r, row, test);
        printf("| %-22s | %6.1f MiB | %8.2f M | %-28s | %14s | %10.2f ± %8.2f |\n", name,
               (double)r->info.verifier.weight_bytes / (1 << 20), (double)r->info.verifier.parameters / 1e6,
               r->info.device, test, mean(row->rate, row->n), deviation(row->rate, row->n));
    }
}

static void print_speculation(const struct bench_result *r, const struct bench_row *row) {
    const outrider_stats *s = &row->sum;
    char test[TEST_NAME];
    double needed = row_break_even(row);
    test_name(r, row, test);
    printf("| %14s | %6.2fx | %9s | %7.1f%% | ", test, row_speedup(row),
           !row_exact(r, row) ? "-"
           : row->identical   ? "yes"
                              : "no",
           100 * acceptance(s));
    if (!isfinite(needed))
        printf("%10s", "-");
    else if (needed > 1)
        printf("%10s", "cannot pay");
    else
        printf("%9.1f%%", 100 * (needed > 0 ? needed : 0));
    printf(" | %6.2f | %6d / %6d | %8d | %8.3f | %9.3f | ", mean_length(s), s->draft_n_accepted, s->draft_n,
           s->n_verify, draft_step_ms(s), verify_ms(s));
    for (int i = 0; i < positions(s); i++)
        printf("%s%.2f", i ? " " : "", (double)s->accepted_at[i] / s->n_verify);
    puts(" |");
}

static void print_speculations(const struct bench_result *r) {
    bool any = false;
    for (size_t i = 0; i < r->n_rows; i++) {
        if (!r->rows[i].k) continue;
        if (!any)
            puts("\n|           test | speedup | identical | accepted | break-even | length | "
                 "accepted/drafted | "
                 "n_verify | draft ms | verify ms | acceptance per position |\n"
                 "| -------------: | ------: | --------: | -------: | ---------: | -----: | ---------------: "
                 "| "
                 "-------: | -------: | --------: | :---------------------- |");
        any = true;
        print_speculation(r, &r->rows[i]);
    }
}

/* Rounds against the meters, and how long the accepted runs were. */
static void print_rounds_and_runs(const struct bench_result *r) {
    char test[TEST_NAME];
    bool any = false;
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct bench_row *row = &r->rows[i];
        double model = row_model_ms(r, row);
        if (!row->k) continue;
        if (!any)
            puts("\n|           test | round ms | by the meters | rounds that accepted 0, 1, 2 ... in % |\n"
                 "| -------------: | -------: | ------------: | :------------------------------------ |");
        any = true;
        test_name(r, row, test);
        printf("| %14s | %8.3f | ", test, row_round_ms(row));
        if (isfinite(model))
            printf("%13.3f |", model);
        else
            printf("%13s |", "-");
        for (int j = 0; j <= positions(&row->sum); j++)
            printf(" %.0f", 100.0 * row->sum.runs[j] / row->sum.n_verify);
        puts(" |");
    }
}

static void print_hindsight(const struct bench_result *r) {
    char test[TEST_NAME];
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct bench_row *row = &r->rows[i];
        test_name(r, row, test);
        if (isfinite(row->over_best))
            printf("%s: %.2f times plain, %.2f times the best fixed K, %d (medians of %zu)\n", test,
                   row->over_plain, row->over_best, row->best_k, row->n * row->n_groups);
    }
    if (r->synthetic)
        puts("acceptance was drawn (--spec-synth-accept): times are real, the text is not the verifier's");
}

static void print_swept(const struct bench_result *r, const struct bench_row *row, bool best) {
    char test[TEST_NAME];
    test_name(r, row, test);
    printf("| %14s | %14.2f | %7.1f%% | %10.2f ± %8.2f | %10.2fx |%s\n", test, step_cost(r, row),
           100 * acceptance(&row->sum), mean(row->rate, row->n), deviation(row->rate, row->n),
           row_speedup(row), best ? " <- fastest here" : "");
}

/* Of each number N of own layers the K that wrote fastest; the fastest of all is marked. */
static void print_sweep(const struct bench_result *r) {
    const struct bench_row *best = sweep_best(r);
    char test[TEST_NAME];
    puts("|           test | step, of a row | accepted |                   t/s | times plain |\n"
         "| -------------: | -------------: | -------: | --------------------: | ----------: |");
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct bench_row *row = &r->rows[i];
        if (row->k) {
            for (; i + 1 < r->n_rows && r->rows[i + 1].k && r->rows[i + 1].self_layers == row->self_layers;
                 i++)
                if (row_speedup(&r->rows[i + 1]) > row_speedup(row)) row = &r->rows[i + 1];
            print_swept(r, row, row == best);
            continue;
        }
        test_name(r, row, test);
        printf("| %14s | %14s | %8s | %10.2f ± %8.2f | %11s |\n", test, "-", "-", mean(row->rate, row->n),
               deviation(row->rate, row->n), "-");
    }
    if (best)
        printf("fastest here: --self-layers %d\n", best->self_layers);
    else
        puts("plain decoding is fastest here: no number of the model's own layers pays");
}

static void print_meters(const struct bench_result *r) {
    const struct bench_meters *m = &r->meters;
    printf("\none row: %.3f ms, %.2f MiB read at %.1f GB/s, %.0f%% of the %.1f GB/s that this device reads\n",
           m->pass_us[0] / 1e3, (double)r->info.verifier.streamed_bytes / (1 << 20), gb_per_s(r),
           100 * bandwidth_share(r), m->read_gb_per_s);
    fputs("verify cost of", stdout);
    for (int i = 1; i < BENCH_WIDTHS; i++)
        printf("%s %d rows: %.2fx", i > 1 ? "," : "", bench_widths[i], verify_cost(r, i));
    if (m->draft_us > 0) printf("; a draft step: %.2fx", m->pass_us[0] > 0 ? m->draft_us / m->pass_us[0] : 0);
    putchar('\n');
}

/* Of devices with a clock of their own. */
static void print_rounds(const struct bench_result *r) {
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct bench_row *row = &r->rows[i];
        char test[TEST_NAME];
        test_name(r, row, test);
        if (row->sum.busy_ms > 0)
            printf("%s: a round keeps the device busy for %.0f us, then it waits %.1f us for the host\n",
                   test, busy_us(&row->sum), idle_us(&row->sum));
    }
}

static int write_tables(const struct bench_result *r) {
    if (r->sweep) {
        print_sweep(r);
    } else {
        print_rates(r);
        print_speculations(r);
        print_rounds_and_runs(r);
    }
    print_meters(r);
    print_hindsight(r);
    print_rounds(r);
    return flush_output(stdout);
}

int bench_report(const struct bench_result *r, enum bench_output output) {
    switch (output) {
    case BENCH_CSV:
        return write_csv(r);
    case BENCH_JSON:
        return write_json(stdout, records(r), JSON_INDENT(2));
    case BENCH_JSONL:
        return write_jsonl(r);
    case BENCH_MD:
        break;
    }
    return write_tables(r);
}

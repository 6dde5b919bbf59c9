/* See eval.h for what the figures mean. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/eval.h"

static double perplexity(const struct variant *v) {
    return exp(v->nats / (double)v->tokens);
}
/* Standard error of the mean of n values, from their sum and that of their squares. */
static double mean_error(double sum, double squares, size_t n) {
    const double mean = sum / (double)n, variance = squares / (double)n - mean * mean;
    return n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
}
static double perplexity_error(const struct variant *v) {
    return perplexity(v) * mean_error(v->nats, v->nats_squared, v->tokens);
}
static double over(const struct variant *v, const struct variant *reference) {
    return perplexity(v) / perplexity(reference);
}
static double over_error(const struct variant *v, const struct variant *reference) {
    return over(v, reference) * mean_error(v->more, v->more_squared, v->tokens);
}
static double bits_per_byte(const struct variant *v, size_t bytes) {
    return v->nats / log(2) / (double)bytes;
}
static double read_rate(const struct variant *v) {
    return v->read_ms > 0 ? 1e3 * (double)v->tokens / v->read_ms : 0;
}
static double step_rate(const struct variant *v) {
    return v->step_us > 0 ? 1e6 / v->step_us : 0;
}
static double answer_rate(const struct variant *v) {
    return v->answer_ms > 0 ? 1e3 * (double)v->written / v->answer_ms : 0;
}
static double answer_speedup(const struct variant *v) {
    return v->reference_rate > 0 ? answer_rate(v) / v->reference_rate : 1;
}
static double memory_mib(const struct variant *v) {
    return (double)(v->info.verifier.memory_bytes + v->info.cache_bytes) / (1 << 20);
}

/* ---- JSON ---- */

static json_t *number(double x) { /* JSON has no infinity */
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *score_record(const struct variant *v, size_t bytes) {
    return json_pack("{s:I, s:I, s:i, s:o, s:o, s:o, s:o, s:f, s:f}", "n_tokens", (json_int_t)v->tokens,
                     "n_bytes", (json_int_t)bytes, "window", v->window, "nats_per_token",
                     number(v->nats / (double)v->tokens), "perplexity", number(perplexity(v)),
                     "perplexity_error", number(perplexity_error(v)), "bits_per_byte",
                     number(bits_per_byte(v, bytes)), "read_per_second", read_rate(v), "predicted_per_second",
                     step_rate(v));
}

static json_t *memory_record(const struct variant *v) {
    const outrider_model_info *m = &v->info.verifier;
    return json_pack("{s:o, s:s, s:s, s:I, s:I, s:I}", "name", json_text(v->name, strlen(v->name)), "dtype",
                     m->dtype, "device", v->info.device, "memory_bytes", (json_int_t)(m->memory_bytes),
                     "cache_bytes", (json_int_t)v->info.cache_bytes, "streamed_bytes",
                     (json_int_t)m->streamed_bytes);
}

/* Fields of a comparison are null for the reference, and where the texts are cut differently. */
static json_t *comparison_record(const struct variant *v, const struct variant *reference) {
    double tokens = (double)v->tokens;
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "over_reference",
                     v->compared ? number(over(v, reference)) : json_null(), "over_reference_error",
                     v->compared ? number(over_error(v, reference)) : json_null(), "top1",
                     v->compared ? json_real((double)v->agree / tokens) : json_null(), "kl_mean",
                     v->compared ? number(v->kl_mean) : json_null(), "kl_50",
                     v->compared ? number(v->kl_50) : json_null(), "kl_99",
                     v->compared ? number(v->kl_99) : json_null(), "speedup",
                     number(step_rate(v) / step_rate(reference)));
}

/* The reference is the same as itself. */
static json_t *answer_record(const struct variant *v, const struct variant *reference) {
    const double n = (double)v->answers;
    return json_pack("{s:{s:I, s:I, s:f, s:f, s:f, s:f}}", "answers", "n", (json_int_t)v->answers, "n_tokens",
                     (json_int_t)v->written, "same_text", v == reference ? 1 : (double)v->same / n,
                     "same_up_to", v == reference ? 1 : v->same_part / n, "predicted_per_second",
                     answer_rate(v), "speedup", answer_speedup(v));
}

static json_t *record(const struct variant *v, const struct variant *reference, size_t bytes) {
    json_t *none = json_object(), *whole = json_object();
    json_t *parts[] = {v->tokens ? score_record(v, bytes) : json_incref(none), memory_record(v),
                       v->tokens ? comparison_record(v, reference) : json_incref(none),
                       v->answers ? answer_record(v, reference) : json_incref(none)};
    json_decref(none);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (whole && (!parts[i] || json_object_update(whole, parts[i]))) {
            json_decref(whole);
            whole = NULL;
        }
        json_decref(parts[i]);
    }
    return whole;
}

static int write_records(const struct variant *v, size_t n, size_t bytes) {
    json_t *all = json_array();
    if (n == 1) {
        json_decref(all);
        return write_json(stdout, record(v, v, bytes), JSON_INDENT(2));
    }
    for (size_t i = 0; all && i < n; i++) {
        if (!json_array_append_new(all, record(&v[i], v, bytes))) continue;
        json_decref(all);
        all = NULL;
    }
    return write_json(stdout, all, JSON_INDENT(2));
}

/* ---- tables ---- */

static void print_row(const struct variant *v, const struct variant *reference, size_t bytes) {
    printf("| %-22s | %-6s | %10.4f +- %7.4f | %9.4f | ", v->name, v->info.verifier.dtype, perplexity(v),
           perplexity_error(v), bits_per_byte(v, bytes));
    if (v->compared)
        printf("%+7.2f%% +- %4.2f%% | %6.2f%% | %8.5f | %8.5f", 100 * (over(v, reference) - 1),
               100 * over_error(v, reference), 100 * (double)v->agree / (double)v->tokens, v->kl_mean,
               v->kl_99);
    else
        printf("%17s | %7s | %8s | %8s", "", "", "", "");
    printf(" | %9.1f | %9.1f | %6.2fx | %10.1f |\n", read_rate(v), step_rate(v),
           step_rate(v) / step_rate(reference), memory_mib(v));
}

static void print_table(const struct variant *v, size_t n, size_t bytes) {
    puts(
        "| model                  | layers |            perplexity | bits/byte |           over it |   top-1 "
        "|  KL mean |   KL 99% | read t/s  | plain t/s | speed   | memory MiB |\n"
        "| :--------------------- | :----- | --------------------: | --------: | ----------------: | ------: "
        "| -------: | -------: | --------: | --------: | ------: | ---------: |");
    for (size_t i = 0; i < n; i++) print_row(&v[i], v, bytes);
    printf("\n%zu tokens of %zu bytes, in windows of %d; over, top-1 equal, KL (nats) and speed against %s\n",
           v->tokens, bytes, v->window, v->name);
    for (size_t i = 1; i < n; i++)
        if (!v[i].compared)
            printf("%s cuts the text into other tokens than %s (%zu, not %zu): compare their bits a byte\n",
                   v[i].name, v->name, v[i].n, v->n);
}

static void print_score(const struct variant *v, size_t bytes) {
    printf("tokens        %zu of %zu bytes, in windows of %d\n", v->tokens, bytes, v->window);
    printf("nats a token  %.4f\nperplexity    %.4f +- %.4f\nbits a byte   %.4f\n",
           v->nats / (double)v->tokens, perplexity(v), perplexity_error(v), bits_per_byte(v, bytes));
}

static void print_answers(const struct variant *v, size_t n) {
    puts("| model                  | layers | answers | same text | same up to | answer t/s | speed   | "
         "memory MiB |\n"
         "| :--------------------- | :----- | ------: | --------: | ---------: | ---------: | ------: | "
         "---------: |");
    for (size_t i = 0; i < n; i++) {
        printf("| %-22s | %-6s | %7zu | ", v[i].name, v[i].info.verifier.dtype, v[i].answers);
        if (i)
            printf("%9zu | %9.1f%%", v[i].same, 100 * v[i].same_part / (double)v[i].answers);
        else
            printf("%9s | %10s", "", "");
        printf(" | %10.1f | %6.2fx | %10.1f |\n", answer_rate(&v[i]), answer_speedup(&v[i]),
               memory_mib(&v[i]));
    }
    if (n > 1) printf("\ngreedy answers, in turn with those of %s, which each is compared with\n", v->name);
}

int eval_report(const struct options *o, const struct variant *variants, size_t n, size_t text_bytes) {
    enum { OUTPUT_MD, OUTPUT_JSON };
    if (o->values[OPT_JSON].integer || o->values[OPT_EVAL_OUTPUT].integer == OUTPUT_JSON)
        return write_records(variants, n, text_bytes);
    if (variants->tokens && n > 1) print_table(variants, n, text_bytes);
    if (variants->tokens && n == 1) print_score(variants, text_bytes);
    if (variants->tokens && variants->answers) putchar('\n');
    if (variants->answers) print_answers(variants, n);
    return flush_output(stdout);
}

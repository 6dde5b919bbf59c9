/* Plain against speculative decoding: what is measured and what is reported.
 *
 *   t/s          tokens written over the time to write them, all prompts together; one sample a repetition
 *   speedup      median over the repetitions of speculative t/s over plain t/s of the same repetition
 *   identical    every answer has the same token ids as the plain one to the same prompt
 *   break-even   the acceptance rate from which speculation pays on this machine, from measured costs only. A
 * round takes R ms and writes 1 + a * K tokens when it proposes K and the rate is a; plain decoding takes P
 * ms a token. So it pays from a = (R / P - 1) / K on; above 1 it cannot pay. bandwidth    weights read for
 * one token over the time of a pass of one row, beside the rate at which this device reads as many bytes of
 * memory
 */
#ifndef OUTRIDER_BENCH_H
#define OUTRIDER_BENCH_H

#include "tools/options.h"
#include "tools/report.h"
#include "tools/text.h"
#include "tools/tools.h"

enum {
    BENCH_LIST = 32,
    BENCH_WAYS = 16 * BENCH_LIST,
    BENCH_REPETITIONS = 1000,
    BENCH_WIDTHS = 5,
    BENCH_BATCH = 64,
    BENCH_RULES = 3
};

struct bench_list {
    int32_t value[BENCH_LIST];
    size_t n;
};

struct bench_prompts {
    struct text *text;
    size_t n;
};

/* ---- bench_plan.c: what to measure ---- */

/* "1,2,4-8+2": numbers and ranges, of min to max; "auto" for -1 where min is -1. */
int bench_parse_list(const char *spelled, const char *text, int32_t min, int32_t max, struct bench_list *out);
/* How answers are written: so many proposals a round (0: plain), so many own layers that may draft. */
struct bench_way {
    int32_t k, self_layers;
};
/* Plain, and each K; in a sweep each K with each of at most BENCH_SWEPT numbers of own layers, evenly spaced.
 * Returns how many. */
enum { BENCH_SWEPT = 12 };
size_t bench_ways(const struct bench_list *k, int32_t own_layers, int32_t layers, bool sweep,
                  struct bench_way out[BENCH_WAYS]);
/* "rejection,coupled" or "all", to outrider_accept_rule. */
int bench_parse_rules(const char *text, struct bench_list *out);
/* From a file of {"prompt": "..."} lines, or without a path the built-in ones. */
int bench_read_prompts(const char *path, struct bench_prompts *out);
void bench_free_prompts(struct bench_prompts *prompts);

/* --clock: the time that passes, or the processor time of all threads, which neighbours on a shared machine
 * change less. */
enum bench_clock { BENCH_WALL_TIME, BENCH_CPU_TIME };

/* ---- results ---- */

struct bench_row {
    int32_t n_prompt, n_gen; /* one of them is 0 */
    int32_t n_depth, batch;  /* tokens that the context held before, answers at once */
    int32_t k;               /* 0 plain, -1 chosen by the engine */
    int32_t self_layers;     /* of the verifier's own that may draft */
    double step_us;          /* of whom a fixed K takes, by the meters; 0 for n-grams */
    outrider_accept_rule rule;
    size_t n;          /* samples */
    double *ms, *rate; /* of each: milliseconds a prompt, tokens a second */
    double *ratio;     /* of each: rate over the plain one's; NULL for plain rows */
    double *answers;   /* [repetitions][n_groups] tokens a second of each group of answers */
    size_t n_groups;
    double total_rate; /* sum of `rate` */
    double plain_ms;   /* of one token, for the break-even */
    bool identical;
    /* of an automatic K: medians over the groups of its rate over plain's, and over that of the fixed K, 0
     * included, that was fastest over all; NAN for others and where none was fixed */
    double over_plain, over_best;
    int32_t best_k;
    outrider_stats sum; /* over all samples */
};

struct bench_meters {
    double pass_us[BENCH_WIDTHS]; /* verifier, bench_widths rows */
    double draft_us;              /* one row of who drafts at first; 0 without such */
    double read_gb_per_s;
};
extern const int32_t bench_widths[BENCH_WIDTHS];

struct bench_result {
    outrider_engine_info info;
    const char *model, *draft; /* folders */
    const char *cache_type, *cache_type_v;
    bool sweep;     /* of the number of own layers */
    bool greedy;    /* at temperature 0 */
    bool synthetic; /* acceptance is drawn at this rate: the text is not the verifier's */
    double synthetic_rate;
    struct bench_meters meters;
    struct bench_row *rows;
    size_t n_rows;
};

/* The settings promise the plain tokens. */
bool row_exact(const struct bench_result *r, const struct bench_row *row);
/* What a round of a fixed K should take by the meters, ms; NAN where they do not reach. */
double row_model_ms(const struct bench_result *r, const struct bench_row *row);
double row_round_ms(const struct bench_row *row);
double row_speedup(const struct bench_row *row);
/* Of a sweep, the row that wrote fastest; NULL when none was faster than plain. */
const struct bench_row *sweep_best(const struct bench_result *r);
/* NAN where it has no meaning. */
double row_break_even(const struct bench_row *row);

/* ---- the measurement ---- */

struct bench {
    const struct options *options;
    outrider_engine *engine;
    outrider_settings settings;
    struct bench_prompts prompts;
    struct bench_list n_prompt, n_gen, n_depth, batch, rules, k;
    struct bench_way ways[BENCH_WAYS]; /* ways[0] is the plain one */
    size_t n_ways;
    size_t repetitions;
    outrider_session *filled; /* holds n_depth tokens */
    struct progress bar;
    size_t done, steps; /* of the progress bar */
    struct bench_result result;
};

/* ---- bench_answers.c ---- */

struct bench_answers {
    int32_t *tokens[BENCH_BATCH]; /* all of each session, prompt first */
    size_t n_tokens[BENCH_BATCH], n;
    outrider_stats stats; /* sum */
    int32_t written;      /* tokens, without the first of each answer */
    double ms;            /* that they took, by the clock that was asked for */
};
/* The group-th answers of a row's kind; sessions beyond the last prompt begin with the first again. */
int bench_answer_group(struct bench *b, const struct bench_row *row, size_t group, struct bench_answers *out);
void bench_free_answers(struct bench_answers *a);
double bench_now(const struct bench *b);
/* n tokens of the prompts' words, over and over. */
int bench_filler(struct bench *b, int32_t n, int32_t *out);
int bench_append_filler(struct bench *b, outrider_session *session, int32_t n);
int bench_first_token(outrider_session *session);
/* Opens b->filled with `depth` tokens; closes it for 0. */
int bench_fill(struct bench *b, int32_t depth);

/* ---- bench_report.c ---- */

enum bench_output { BENCH_MD, BENCH_CSV, BENCH_JSON, BENCH_JSONL };
int bench_report(const struct bench_result *r, enum bench_output output);

#endif

/* Quality of models: what `outrider eval` measures, on a text (-f) and on prompts (--prompts), and how it is
 * shown. What stands behind a +- is a standard error, of tokens as if they were independent.
 *
 *   perplexity  e to the mean of -ln p over the tokens of the text
 *   over it     of the ratio to the reference's, of which the error is smaller: both read the same tokens
 *   top-1       share of places at which the likeliest token is the reference's
 *   KL          Kullback-Leibler divergence of a place, from the reference's distribution, in nats: its mean,
 *               and what 99 of 100 places do not exceed. Only the first variant's vocabulary can be compared:
 *               a model that cuts the text into other tokens has perplexity and bits a byte alone
 *   t/s         plain decoding by a pass of one row; reading by the passes that scored the text
 *   memory      weights as they are held, and the cache
 *
 * Of prompts, which each variant answers greedily and in turn with the reference:
 *   same text   answers that are the reference's to the byte
 *   same up to  share of an answer of the reference before the first byte that differs; the mean
 *   answer t/s  tokens over the time to write them, without the first of each answer
 */
#ifndef OUTRIDER_EVAL_H
#define OUTRIDER_EVAL_H

#include "tools/bench.h"
#include "tools/options.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

enum { EVAL_VARIANTS = 16 };

/* One of the models or settings that are compared; the first is the reference. */
struct variant {
    struct options options;
    char *name;
    outrider_engine *engine;
    outrider_engine_info info;
    int32_t *ids; /* [n] of the text */
    size_t n;

    /* ---- the result ---- */
    size_t tokens; /* scored */
    int32_t window;
    double nats, nats_squared; /* sums over tokens */
    bool compared;             /* with the reference: */
    double more, more_squared; /* sums of how many nats a token takes more */
    size_t agree;              /* places with the same likeliest token */
    float *kl;                 /* [tokens] */
    double kl_mean, kl_50, kl_99;
    double read_ms, step_us; /* of the whole text, and of a pass of one row */

    size_t answers, same;  /* how many, and how many of them are the reference's */
    double same_part;      /* sum of the shares */
    int64_t written;       /* tokens, without the first of each */
    double answer_ms;      /* that they took */
    double reference_rate; /* tokens a second of the reference, which answered in turn */
};

/* ---- eval_score.c ---- */

/* Scores the text under v->engine in windows of v->window tokens, and, where they cut the text alike,
 * compares it with the reference place by place. `reference` is NULL for the reference itself. */
int eval_score(struct variant *v, struct variant *reference, struct progress *bar);

/* ---- eval_answers.c ---- */

/* v, and in turn with it the reference where there is one, answer each prompt with up to n tokens. */
int eval_answer(struct variant *v, struct variant *reference, const struct bench_prompts *prompts, int32_t n,
                struct progress *bar);

/* ---- eval_report.c ---- */

/* Tables, or records, in the form that was asked for; one variant alone as lines. */
int eval_report(const struct options *o, const struct variant *variants, size_t n, size_t text_bytes);

#endif

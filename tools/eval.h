/* Quality of models on a text: what `outrider eval` measures and how it is shown.
 *
 *   perplexity  e to the mean of -ln p over the tokens of the text
 *   top-1       share of places at which the likeliest token is the reference's
 *   KL          Kullback-Leibler divergence of a place, from the reference's distribution, in nats: its mean,
 *               and what 99 of 100 places do not exceed. Only the first variant's vocabulary can be compared:
 *               a model that cuts the text into other tokens has perplexity and bits a byte alone
 *   t/s         plain decoding by a pass of one row; reading by the passes that scored the text
 *   memory      weights as they are held, and the cache
 */
#ifndef OUTRIDER_EVAL_H
#define OUTRIDER_EVAL_H

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
    double nats;   /* sum */
    bool compared; /* with the reference: */
    size_t agree;  /* places with the same likeliest token */
    float *kl;     /* [tokens] */
    double kl_mean, kl_99;
    double read_ms, step_us; /* of the whole text, and of a pass of one row */
};

/* ---- eval_score.c ---- */

/* Scores the text under v->engine in windows of v->window tokens, and, where they cut the text alike,
 * compares it with the reference place by place. `reference` is NULL for the reference itself. */
int eval_score(struct variant *v, struct variant *reference, struct progress *bar);

/* ---- eval_report.c ---- */

/* A table, or records, in the form that was asked for; one variant alone as lines. */
int eval_report(const struct options *o, const struct variant *variants, size_t n, size_t text_bytes);

#endif

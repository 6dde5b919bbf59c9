/* outrider eval: perplexity of a text under the verifier, and its answers to prompts; of several precisions,
 * models or settings, how far each is from the first. The draft has no part in it. No more than two models
 * are in memory at once. */
#include <stdlib.h>
#include <string.h>

#include "tools/eval.h"
#include "tools/setup.h"

struct eval {
    struct options *options;
    bool scores; /* a text, with -f */
    struct text text;
    struct bench_prompts prompts; /* none without --prompts */
    struct variant variants[EVAL_VARIANTS];
    size_t n;
};

/* What `words` (options, or a model's name; NULL for neither) make of the options, and a precision of it;
 * NULL for the one that they say. */
static int add_variant(struct eval *e, const char *words, const char *quant) {
    if (e->n == EVAL_VARIANTS)
        return complain(OUTRIDER_EINVAL, "--quant: no more than %d are compared at once", EVAL_VARIANTS);
    struct variant *v = &e->variants[e->n++];
    CHECK(options_copy(e->options, &v->options));
    if (words && words[0] == '-') CHECK(options_apply(&v->options, "--ab", words));
    if (words && words[0] != '-') CHECK(option_assign(&v->options, OPT_MODEL, "--ab", words));
    if (!quant) quant = v->options.values[OPT_EVAL_QUANT].text;
    CHECK(option_assign(&v->options, OPT_QUANT, "--quant", quant));
    CHECK(option_assign(&v->options, OPT_SPEC_TYPE, "--spec-type", "none"));
    v->name = strdup(words ? words : quant);
    return v->name ? 0 : complain_memory();
}

/* --quant none,q8,q4 gives a variant each; with --ab the sides say theirs, or both have that one. */
static int plan(struct eval *e) {
    const struct option_value *ab = &e->options->values[OPT_EVAL_AB];
    char *list = strdup(e->options->values[OPT_EVAL_QUANT].text), *rest = NULL;
    int code = list ? 0 : complain_memory();
    for (size_t i = 0; i < ab->n && !code; i++) code = add_variant(e, ab->list[i], NULL);
    if (!code && !ab->n)
        for (char *q = strtok_r(list, ",", &rest); q && !code; q = strtok_r(NULL, ",", &rest))
            code = add_variant(e, NULL, q);
    free(list);
    return code || e->n ? code : complain(OUTRIDER_EINVAL, "--quant: give none, q8, q4 or a list of them");
}

static int open_variant(struct variant *v, const struct text *text) {
    CHECK(setup_engine(&v->options, &v->engine));
    CHECK(tell(outrider_engine_get_info(v->engine, &v->info)));
    v->window = v->info.ctx_size;
    if (v->window < 2) return complain(OUTRIDER_EINVAL, "--ctx-size: a window needs at least 2 tokens");
    return tell(outrider_tokenize(v->engine, text->data, text->bytes, &v->ids, &v->n));
}

static void close_variant(struct variant *v) {
    outrider_engine_close(v->engine);
    free(v->ids);
    free(v->kl);
    v->engine = NULL;
    v->ids = NULL;
    v->kl = NULL;
}

/* The prompts, after the text and before it is closed. The reference answers anew beside each of the others,
 * so that neighbours on the machine slow both. */
static int measure(struct eval *e, struct variant *v, struct variant *reference, struct progress *bar) {
    const int32_t n = (int32_t)e->options->values[OPT_CHECK_PREDICT].integer;
    if (e->scores) CHECK(eval_score(v, reference, bar));
    return e->prompts.n && (reference || e->n == 1) ? eval_answer(v, reference, &e->prompts, n, bar) : 0;
}

/* The reference stays open beside each of the others; all take the shortest of two windows, so that a token
 * has the same context under both. */
static int measure_all(struct eval *e, struct progress *bar) {
    struct variant *reference = &e->variants[0];
    for (size_t i = 0; i < e->n; i++) {
        struct variant *v = &e->variants[i];
        CHECK(open_variant(v, &e->text));
        if (i == 0) CHECK(setup_sandbox(&v->options, v->engine, false)); /* it holds for the others too */
        if (v->window > reference->window) v->window = reference->window;
        if (e->scores && v->window < reference->window)
            return complain(OUTRIDER_EINVAL,
                            "%s holds %d tokens and %s %d: compare in windows of both with "
                            "--ctx-size %d",
                            v->name, v->window, reference->name, reference->window, v->window);
        CHECK(measure(e, v, i ? reference : NULL, bar));
        if (i) close_variant(v);
    }
    return 0;
}

int cmd_eval(struct options *o) {
    const char *file = o->values[OPT_FILE].text;
    struct eval e = {.options = o, .scores = file != NULL};
    const struct option_value *prompts = &o->values[OPT_EVAL_PROMPTS];
    if (!file && !prompts->given)
        return complain(OUTRIDER_EINVAL,
                        "no text to score: give -f FILE, -f - for standard input, or --prompts");
    struct progress bar = progress_begin(o);
    int code = plan(&e);
    if (!code && file) code = text_read_file(&e.text, file);
    if (!code && prompts->given) code = bench_read_prompts(prompts->text, &e.prompts);
    if (!code) code = measure_all(&e, &bar);
    progress_end(&bar);
    if (!code) code = eval_report(o, e.variants, e.n, e.text.bytes);
    for (size_t i = 0; i < e.n; i++) {
        close_variant(&e.variants[i]);
        options_free(&e.variants[i].options);
        free(e.variants[i].name);
    }
    text_clear(&e.text);
    bench_free_prompts(&e.prompts);
    return code;
}

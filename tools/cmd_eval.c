/* outrider eval: perplexity of a text under the verifier, over windows that do not overlap. Each window
 * starts afresh with the beginning-of-text token where the model wants one, so a token's context is at most
 * its window; a model without such a token leaves the first token of each window unscored. The draft has no
 * part in it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/options.h"
#include "tools/setup.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

struct score {
    double nats;
    size_t tokens; /* scored */
    size_t bytes;  /* of the whole text */
    int32_t window;
};

/* The token that the engine puts first in an empty session, if any: *n is 0 or 1. */
static int first_token(outrider_engine *engine, int32_t *token, size_t *n) {
    outrider_settings settings = outrider_settings_defaults(engine);
    outrider_session *session;
    CHECK(tell(outrider_session_open(engine, &settings, &session)));
    int code = tell(outrider_session_append_text(session, "", 0));
    const int32_t *tokens = outrider_session_tokens(session, n);
    if (*n) *token = tokens[0];
    if (*n > 1) *n = 1;
    outrider_session_close(session);
    return code;
}

static int score_window(outrider_engine *engine, const int32_t *tokens, size_t n, float *nll,
                        struct score *s) {
    if (n < 2) return 0; /* a last token alone, without a beginning */
    CHECK(tell(outrider_score(engine, tokens, n, nll)));
    for (size_t i = 0; i + 1 < n; i++) s->nats += nll[i];
    s->tokens += n - 1;
    return 0;
}

/* `window` and `nll` have room for s->window entries. */
static int score_all(const struct options *o, outrider_engine *engine, const int32_t *ids, size_t n,
                     int32_t *window, float *nll, struct score *s) {
    size_t head;
    CHECK(first_token(engine, window, &head));
    size_t step = (size_t)s->window - head;
    struct progress bar = progress_begin(o);
    int code = 0;
    for (size_t at = 0; at < n && !code; at += step) {
        size_t take = n - at < step ? n - at : step;
        memcpy(window + head, ids + at, take * sizeof *ids);
        code = score_window(engine, window, head + take, nll, s);
        progress_show(&bar, "scoring", (double)(at + take) / (double)n);
    }
    progress_end(&bar);
    return code;
}

static int score_text(const struct options *o, outrider_engine *engine, const struct text *text,
                      struct score *s) {
    outrider_engine_info info;
    int32_t *ids = NULL;
    size_t n = 0;
    CHECK(tell(outrider_engine_get_info(engine, &info)));
    if (info.ctx_size < 2) return complain(OUTRIDER_EINVAL, "--ctx-size: a window needs at least 2 tokens");
    CHECK(tell(outrider_tokenize(engine, text->data, text->bytes, &ids, &n)));
    s->window = info.ctx_size;
    s->bytes = text->bytes;
    int32_t *window = calloc((size_t)s->window, sizeof *window);
    float *nll = calloc((size_t)s->window, sizeof *nll);
    int code = window && nll ? score_all(o, engine, ids, n, window, nll, s) : complain_memory();
    free(nll);
    free(window);
    free(ids);
    if (!code && !s->tokens) return complain(OUTRIDER_EINVAL, "the text has %zu tokens: nothing to score", n);
    return code;
}

static int print_score(const struct options *o, const struct score *s) {
    double nats = s->nats / (double)s->tokens, bits = s->nats / log(2) / (double)s->bytes;
    if (o->values[OPT_JSON].integer)
        return write_json(stdout,
                          json_pack("{s:I, s:I, s:i, s:f, s:f, s:f}", "n_tokens", (json_int_t)s->tokens,
                                    "n_bytes", (json_int_t)s->bytes, "window", s->window, "nats_per_token",
                                    nats, "perplexity", exp(nats), "bits_per_byte", bits),
                          JSON_INDENT(2));
    printf("tokens        %zu of %zu bytes, in windows of %d\n", s->tokens, s->bytes, s->window);
    printf("nats a token  %.4f\nperplexity    %.4f\nbits a byte   %.4f\n", nats, exp(nats), bits);
    return 0;
}

static int eval_text(const struct options *o, const struct text *text) {
    outrider_engine *engine = NULL;
    struct score score = {0};
    int code = setup_engine(o, &engine);
    if (!code) code = score_text(o, engine, text, &score);
    outrider_engine_close(engine);
    return code ? code : print_score(o, &score);
}

int cmd_eval(struct options *o) {
    struct text text = {0};
    const char *file = o->values[OPT_FILE].text;
    if (!file) return complain(OUTRIDER_EINVAL, "no text to score: give -f FILE, or -f - for standard input");
    /* scoring needs the verifier alone */
    CHECK(option_assign(o, OPT_SPEC_TYPE, "--spec-type", "none"));
    int code = text_read_file(&text, file);
    if (!code) code = eval_text(o, &text);
    text_clear(&text);
    return code;
}

/* Scores a text window by window. Windows do not overlap; each starts afresh with the beginning-of-text token
 * where the model wants one, so a token's context is at most its window; a model without such a token leaves
 * the first token of each window unscored. A comparison runs both models over the same rows and keeps no
 * logits: its memory does not grow with the text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/eval.h"
#include "tools/report.h"

/* What a row of logits says: its likeliest token, and ln of the sum of e^logit. */
struct row {
    int32_t best;
    double log_sum;
};

static struct row read_row(const float *logits, int32_t vocab) {
    struct row r = {0};
    double sum = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[r.best]) r.best = i;
    for (int32_t i = 0; i < vocab; i++) sum += expf(logits[i] - logits[r.best]);
    r.log_sum = log(sum) + logits[r.best];
    return r;
}

/* Sum over tokens of p (ln p - ln q). Rounding may leave a little less than nothing. */
static double divergence(const float *p, struct row rp, const float *q, struct row rq, int32_t vocab) {
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++) {
        double log_p = p[i] - rp.log_sum;
        if (log_p > -80) sum += expf((float)log_p) * (log_p - (q[i] - rq.log_sum));
    }
    return sum > 0 ? sum : 0;
}

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

/* One pass of the variant, and of the reference where there is one, over n tokens; next[i] follows the i-th.
 */
static int score_rows(struct variant *v, outrider_scorer *own, outrider_scorer *other, const int32_t *tokens,
                      int32_t n, const int32_t *next) {
    int32_t vocab = v->info.verifier.vocab_size;
    const float *q, *p = NULL;
    double start = clock_ms();
    CHECK(tell(outrider_scorer_read(own, tokens, n, &q)));
    v->read_ms += clock_ms() - start;
    if (other) CHECK(tell(outrider_scorer_read(other, tokens, n, &p)));
    for (int32_t i = 0; i < n; i++, q += vocab) {
        struct row rq = read_row(q, vocab);
        double nats = rq.log_sum - q[next[i]];
        v->nats += nats;
        v->nats_squared += nats * nats;
        if (other) {
            struct row rp = read_row(p, vocab);
            double more = nats - (rp.log_sum - p[next[i]]);
            v->more += more;
            v->more_squared += more * more;
            v->agree += rp.best == rq.best;
            v->kl[v->tokens] = (float)divergence(p, rp, q, rq, vocab);
            p += vocab;
        }
        v->tokens++;
    }
    return 0;
}

static int score_window(struct variant *v, struct variant *reference, const int32_t *tokens, int32_t n) {
    outrider_scorer *own = NULL, *other = NULL;
    int code = tell(outrider_scorer_open(v->engine, &own));
    if (!code && reference) code = tell(outrider_scorer_open(reference->engine, &other));
    for (int32_t at = 0; at + 1 < n && !code; at += OUTRIDER_SCORE_ROWS) {
        int32_t left = n - 1 - at, take = left < OUTRIDER_SCORE_ROWS ? left : OUTRIDER_SCORE_ROWS;
        code = score_rows(v, own, other, tokens + at, take, tokens + at + 1);
    }
    outrider_scorer_close(other);
    outrider_scorer_close(own);
    return code;
}

/* `window` has room for v->window tokens. */
static int score_windows(struct variant *v, struct variant *reference, int32_t *window,
                         struct progress *bar) {
    size_t head;
    CHECK(first_token(v->engine, window, &head));
    size_t step = (size_t)v->window - head;
    for (size_t at = 0; at < v->n; at += step) {
        size_t take = v->n - at < step ? v->n - at : step;
        memcpy(window + head, v->ids + at, take * sizeof *window);
        CHECK(score_window(v, reference, window, (int32_t)(head + take)));
        progress_count(bar, v->name, (double)(at + take), (double)v->n, "tokens");
    }
    return 0;
}

static bool same_tokens(const struct variant *a, const struct variant *b) {
    return a->info.verifier.vocab_size == b->info.verifier.vocab_size && a->n == b->n &&
           !memcmp(a->ids, b->ids, a->n * sizeof *a->ids);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void sum_up(struct variant *v) {
    if (!v->compared || !v->tokens) return;
    double sum = 0;
    for (size_t i = 0; i < v->tokens; i++) sum += v->kl[i];
    qsort(v->kl, v->tokens, sizeof *v->kl, by_value);
    v->kl_mean = sum / (double)v->tokens;
    v->kl_50 = v->kl[(v->tokens - 1) / 2];
    v->kl_99 = v->kl[(v->tokens - 1) * 99 / 100];
}

/* The least of several, in turns with the reference, which is measured again: neighbours on the machine then
 * slow both. */
static int time_steps(struct variant *v, struct variant *reference) {
    enum { TURNS = 5, REPEATS = 9 };
    for (int turn = 0; turn < TURNS; turn++) {
        for (struct variant *each = v; each; each = each == v ? reference : NULL) {
            double us;
            CHECK(tell(outrider_time_pass(each->engine, OUTRIDER_VERIFIER, 1, 0, REPEATS, &us)));
            if (each->step_us == 0 || us < each->step_us) each->step_us = us;
        }
    }
    return 0;
}

int eval_score(struct variant *v, struct variant *reference, struct progress *bar) {
    v->compared = reference && same_tokens(v, reference);
    int32_t *window = calloc((size_t)v->window, sizeof *window);
    v->kl = v->compared ? calloc(v->n + 1, sizeof *v->kl) : NULL;
    int code = window && (v->kl || !v->compared)
                   ? score_windows(v, v->compared ? reference : NULL, window, bar)
                   : complain_memory();
    free(window);
    CHECK(code);
    if (!v->tokens)
        return complain(OUTRIDER_EINVAL, "the text has %zu token%s: nothing to score", v->n,
                        v->n == 1 ? "" : "s");
    sum_up(v);
    return time_steps(v, reference);
}

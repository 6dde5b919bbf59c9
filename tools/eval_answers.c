/* Answers to prompts: greedy, by plain decoding, one prompt at a time and the reference right before the
 * variant, so that what else the machine does slows both. Texts are compared as bytes, so that models of
 * different vocabularies can be. */
#include <string.h>

#include "tools/eval.h"
#include "tools/report.h"

struct answer {
    struct text text;
    int32_t written; /* tokens, without the first */
    double ms;
};

static int write_answer(outrider_session *session, struct answer *out) {
    outrider_stats stats;
    size_t bytes;
    CHECK(bench_first_token(session));
    double start = clock_ms();
    while (outrider_session_stop(session) == OUTRIDER_RUNNING) CHECK(tell(outrider_round(&session, 1)));
    out->ms = clock_ms() - start;
    outrider_session_stats(session, &stats);
    out->written = stats.n_predict > 0 ? stats.n_predict - 1 : 0;
    const char *text = outrider_session_take_text(session, &bytes);
    return text_append(&out->text, text, bytes);
}

static int ask(outrider_engine *engine, const struct text *prompt, int32_t n, struct answer *out) {
    outrider_settings settings = outrider_settings_defaults(engine);
    outrider_session *session;
    settings.temperature = 0;
    settings.n_predict = n;
    settings.draft_n = 0;
    CHECK(tell(outrider_session_open(engine, &settings, &session)));
    int code = tell(outrider_session_append_text(session, prompt->data, prompt->bytes));
    if (!code) code = write_answer(session, out);
    outrider_session_close(session);
    return code;
}

static void count(struct variant *v, const struct answer *a) {
    v->written += a->written;
    v->answer_ms += a->ms;
}

static void compare(struct variant *v, const struct text *own, const struct text *other) {
    size_t at = 0, n = own->bytes < other->bytes ? own->bytes : other->bytes;
    while (at < n && own->data[at] == other->data[at]) at++;
    v->same += at == own->bytes && at == other->bytes;
    v->same_part += other->bytes ? (double)at / (double)other->bytes : own->bytes == 0;
}

/* Both answer one prompt. */
static int answer_one(struct variant *v, struct variant *reference, const struct text *prompt, int32_t n) {
    struct answer own = {0}, other = {0};
    int code = reference ? ask(reference->engine, prompt, n, &other) : 0;
    if (!code) code = ask(v->engine, prompt, n, &own);
    if (!code) count(v, &own);
    if (!code && reference) {
        count(reference, &other);
        compare(v, &own.text, &other.text);
    }
    text_clear(&own.text);
    text_clear(&other.text);
    return code;
}

int eval_answer(struct variant *v, struct variant *reference, const struct bench_prompts *prompts, int32_t n,
                struct progress *bar) {
    const int64_t written = reference ? reference->written : 0;
    const double ms = reference ? reference->answer_ms : 0;
    for (size_t i = 0; i < prompts->n; i++) {
        CHECK(answer_one(v, reference, &prompts->text[i], n));
        progress_count(bar, v->name, (double)(i + 1), (double)prompts->n, "answers");
    }
    v->answers = prompts->n;
    if (reference) reference->answers += prompts->n; /* beside each of the others */
    if (reference && reference->answer_ms > ms)
        v->reference_rate = 1e3 * (double)(reference->written - written) / (reference->answer_ms - ms);
    return 0;
}

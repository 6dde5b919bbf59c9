/* One group of answers: as many sessions at once as the batch has, each with a prompt of its own behind the
 * context that was asked for. Sessions are new for each group, so that an automatic K starts cold, as in a
 * run of its own; what is timed is what follows the first tokens, the draft's reading of the prompt included.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"

double bench_now(const struct bench *b) {
    return b->options->values[OPT_BENCH_CLOCK].integer == BENCH_CPU_TIME ? cpu_ms() : clock_ms();
}

void bench_free_answers(struct bench_answers *a) {
    for (size_t i = 0; i < a->n; i++) free(a->tokens[i]);
    *a = (struct bench_answers){0};
}

int bench_filler(struct bench *b, int32_t n, int32_t *out) {
    int32_t have = 0;
    for (size_t i = 0; have < n; i = (i + 1) % b->prompts.n) {
        int32_t *ids;
        size_t count;
        CHECK(tell(
            outrider_tokenize(b->engine, b->prompts.text[i].data, b->prompts.text[i].bytes, &ids, &count)));
        for (size_t j = 0; j < count && have < n; j++) out[have++] = ids[j];
        free(ids);
        if (!have && i + 1 == b->prompts.n) return complain(OUTRIDER_EINVAL, "the prompts are empty");
    }
    return 0;
}

int bench_append_filler(struct bench *b, outrider_session *session, int32_t n) {
    if (n == 0) return 0;
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    if (!tokens) return complain_memory();
    int code = bench_filler(b, n, tokens);
    if (!code) code = tell(outrider_session_append(session, tokens, (size_t)n));
    free(tokens);
    return code;
}

int bench_first_token(outrider_session *session) {
    outrider_stats stats = {0};
    while (!stats.n_predict && outrider_session_stop(session) == OUTRIDER_RUNNING) {
        CHECK(tell(outrider_round(&session, 1)));
        outrider_session_stats(session, &stats);
    }
    return 0;
}

/* A session that holds the context, read by both models; those of the answers share its pages. */
int bench_fill(struct bench *b, int32_t depth) {
    outrider_settings settings = b->settings;
    outrider_session_close(b->filled);
    b->filled = NULL;
    if (depth == 0) return 0;
    settings.n_predict = 4;
    settings.draft_n = 1;
    CHECK(tell(outrider_session_open(b->engine, &settings, &b->filled)));
    CHECK(bench_append_filler(b, b->filled, depth));
    while (outrider_session_stop(b->filled) == OUTRIDER_RUNNING) CHECK(tell(outrider_round(&b->filled, 1)));
    return 0;
}

static int open_answer(struct bench *b, const struct bench_row *row, size_t prompt, outrider_session **out) {
    const struct text *text = &b->prompts.text[prompt % b->prompts.n];
    outrider_settings settings = b->settings;
    size_t n;
    settings.n_predict = row->n_gen;
    settings.draft_n = row->k;
    settings.accept = row->rule;
    CHECK(tell(outrider_session_open(b->engine, &settings, out)));
    CHECK(bench_append_filler(b, *out, row->n_depth));
    CHECK(tell(outrider_session_append_text(*out, text->data, text->bytes)));
    outrider_session_tokens(*out, &n);
    if (n + (size_t)row->n_gen > (size_t)b->result.info.ctx_size)
        return complain(OUTRIDER_EINVAL, "a prompt of %zu tokens and %d more do not fit the context of %d", n,
                        row->n_gen, b->result.info.ctx_size);
    return bench_first_token(*out);
}

static bool any_runs(outrider_session *const *sessions, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (outrider_session_stop(sessions[i]) == OUTRIDER_RUNNING) return true;
    return false;
}

static int take_answer(outrider_session *session, struct bench_answers *out) {
    outrider_stats stats;
    size_t n;
    const int32_t *tokens = outrider_session_tokens(session, &n);
    int32_t *copy = malloc((n + 1) * sizeof *copy);
    if (!copy) return complain_memory();
    memcpy(copy, tokens, n * sizeof *copy);
    out->tokens[out->n] = copy;
    out->n_tokens[out->n++] = n;
    outrider_session_stats(session, &stats);
    stats_add(&out->stats, &stats);
    out->written += stats.n_predict - 1;
    return 0;
}

int bench_answer_group(struct bench *b, const struct bench_row *row, size_t group,
                       struct bench_answers *out) {
    outrider_session *sessions[BENCH_BATCH] = {0};
    size_t n = (size_t)row->batch;
    int code = 0;
    *out = (struct bench_answers){0};
    for (size_t i = 0; i < n && !code; i++) code = open_answer(b, row, group * n + i, &sessions[i]);
    double start = bench_now(b);
    while (!code && any_runs(sessions, n)) code = tell(outrider_round(sessions, n));
    out->ms = bench_now(b) - start;
    for (size_t i = 0; i < n && !code; i++) code = take_answer(sessions[i], out);
    for (size_t i = 0; i < n; i++) outrider_session_close(sessions[i]);
    return code;
}

/* See run_json.h. */
#include "tools/run_json.h"

#include "tools/report.h"
#include "tools/text.h"

static json_t *ids_json(const int32_t *tokens, size_t from, size_t n) {
    json_t *ids = json_array();
    for (size_t i = from; ids && i < n; i++) json_array_append_new(ids, json_integer(tokens[i]));
    return ids;
}

static json_t *sources_json(const outrider_session *session, size_t from) {
    static const char *const names[] = {"caller", "verifier", "draft", "ngram"};
    size_t n;
    const uint8_t *sources = outrider_session_sources(session, &n);
    json_t *list = json_array();
    for (size_t i = from; list && i < n; i++) json_array_append_new(list, json_string(names[sources[i]]));
    return list;
}

/* ---- log-probabilities ---- */

static json_t *token_json(const outrider_engine *engine, outrider_logprob p) {
    size_t bytes;
    const char *text = outrider_token_bytes(engine, p.token, &bytes);
    /* minus infinity is no JSON: a forbidden token has null */
    return json_pack("{s:i, s:o, s:o}", "token", p.token, "text", json_text(text, bytes), "logprob",
                     p.logprob >= -3.4e38f ? json_real(p.logprob) : json_null());
}

/* Of the answer's tokens from the i-th on; NULL when none were asked for. */
static json_t *logprobs_json(const outrider_engine *engine, const outrider_session *session, size_t i) {
    size_t n;
    if (!outrider_session_logprobs(session, 0, &n)) return NULL;
    json_t *list = json_array();
    for (const outrider_logprob *p; (p = outrider_session_logprobs(session, i, &n)); i++) {
        json_t *entry = token_json(engine, p[0]), *top = json_array();
        for (size_t j = 1; j < n; j++)
            if (p[j].token >= 0) json_array_append_new(top, token_json(engine, p[j]));
        json_object_set_new(entry, "top", top);
        json_array_append_new(list, entry);
    }
    return list;
}

/* ---- events ---- */

int write_round(const outrider_engine *engine, const outrider_session *session, size_t before,
                const char *text, size_t bytes) {
    size_t n;
    outrider_stats stats;
    const int32_t *tokens = outrider_session_tokens(session, &n);
    outrider_session_stats(session, &stats);
    if (n == before)
        return write_json(stdout,
                          json_pack("{s:s, s:i, s:i}", "event", "prompt", "n_read", stats.n_read, "n_prompt",
                                    stats.n_prompt),
                          JSON_COMPACT);
    json_t *event =
        json_pack("{s:s, s:o, s:o, s:o}", "event", "tokens", "tokens", ids_json(tokens, before, n), "sources",
                  sources_json(session, before), "text", json_text(text, bytes));
    if (event)
        json_object_set_new(event, "so_far",
                            json_pack("{s:i, s:i, s:f, s:f, s:f}", "draft_n", stats.draft_n,
                                      "draft_n_accepted", stats.draft_n_accepted, "draft_ms", stats.draft_ms,
                                      "verify_ms", stats.verify_ms, "predicted_ms", stats.predicted_ms));
    size_t first = (size_t)stats.n_predict - (n - before);
    json_t *logprobs = logprobs_json(engine, session, first);
    if (event && logprobs) json_object_set(event, "logprobs", logprobs);
    json_decref(logprobs);
    return write_json(stdout, event, JSON_COMPACT);
}

int write_rest(const char *text, size_t bytes) {
    return write_json(stdout,
                      json_pack("{s:s, s:[], s:[], s:o}", "event", "tokens", "tokens", "sources", "text",
                                json_text(text, bytes)),
                      JSON_COMPACT);
}

static json_t *numbers_json(const outrider_session *session, const outrider_stats *s, uint64_t seed) {
    return json_pack("{s:i, s:i, s:i, s:s, s:I, s:o}", "n_prompt", s->n_prompt, "n_cached", s->n_cached,
                     "n_predict", s->n_predict, "stop", stop_word(session), "seed", (json_int_t)seed,
                     "timings", report_timings(s));
}

json_t *result_json(const outrider_engine *engine, const outrider_session *session, const char *text,
                    size_t bytes, uint64_t seed, bool event) {
    size_t n;
    outrider_stats stats;
    const int32_t *tokens = outrider_session_tokens(session, &n);
    outrider_session_stats(session, &stats);
    json_t *numbers = numbers_json(session, &stats, seed);
    json_t *result = event ? json_pack("{s:s}", "event", "end")
                           : json_pack("{s:o, s:o}", "text", json_text(text, bytes), "tokens",
                                       ids_json(tokens, n - (size_t)stats.n_predict, n));
    if (!numbers || !result || json_object_update(result, numbers)) {
        json_decref(numbers);
        json_decref(result);
        return NULL;
    }
    json_decref(numbers);
    json_t *logprobs = event ? NULL : logprobs_json(engine, session, 0);
    if (logprobs) json_object_set_new(result, "logprobs", logprobs);
    return result;
}

int write_result(const outrider_engine *engine, const outrider_session *session, const char *text,
                 size_t bytes, uint64_t seed, bool event) {
    json_t *result = result_json(engine, session, text, bytes, seed, event);
    return write_json(stdout, result, event ? JSON_COMPACT : JSON_INDENT(2));
}

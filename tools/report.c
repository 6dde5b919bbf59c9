/* See report.h for the definitions. */
#include "tools/report.h"

#include <time.h>

#include "tools/text.h"

double per_second(int32_t tokens, double ms) {
    return ms > 0 ? tokens * 1000.0 / ms : 0;
}

double mean_length(const outrider_stats *s) {
    return s->n_verify ? 1.0 + (double)s->draft_n_accepted / s->n_verify : 1.0;
}

double acceptance(const outrider_stats *s) {
    return s->draft_n ? (double)s->draft_n_accepted / s->draft_n : 0;
}

int positions(const outrider_stats *s) {
    int n = OUTRIDER_MAX_DRAFT;
    while (n > 0 && !s->proposed_at[n - 1]) n--;
    return n;
}

void stats_add(outrider_stats *sum, const outrider_stats *s) {
    sum->n_prompt += s->n_prompt;
    sum->n_cached += s->n_cached;
    sum->n_predict += s->n_predict;
    sum->prompt_ms += s->prompt_ms;
    sum->predicted_ms += s->predicted_ms;
    sum->draft_ms += s->draft_ms;
    sum->verify_ms += s->verify_ms;
    sum->busy_ms += s->busy_ms;
    sum->idle_ms += s->idle_ms;
    sum->n_verify += s->n_verify;
    sum->n_draft_steps += s->n_draft_steps;
    sum->draft_n += s->draft_n;
    sum->draft_n_accepted += s->draft_n_accepted;
    for (int i = 0; i < OUTRIDER_MAX_DRAFT; i++) {
        sum->proposed_at[i] += s->proposed_at[i];
        sum->accepted_at[i] += s->accepted_at[i];
    }
    for (int i = 0; i <= OUTRIDER_MAX_DRAFT; i++) sum->runs[i] += s->runs[i];
}

static double position_rate(const outrider_stats *s, int i) {
    return s->n_verify ? (double)s->accepted_at[i] / s->n_verify : 0;
}

static void report_acceptance(FILE *out, const outrider_stats *s) {
    if (!s->draft_n) return;
    fprintf(out,
            "draft acceptance = %.5f (%5d accepted / %5d generated), mean acceptance length = %5.2f, "
            "acceptance rate "
            "per position = (",
            acceptance(s), s->draft_n_accepted, s->draft_n, mean_length(s));
    for (int i = 0; i < positions(s); i++) fprintf(out, "%s%.3f", i ? ", " : "", position_rate(s, i));
    fputs(")\n", out);
}

const char *stop_word(const outrider_session *session) {
    outrider_stop stop = outrider_session_stop(session);
    return stop == OUTRIDER_RUNNING ? "interrupt" : outrider_stop_name(stop);
}

void report_answer(FILE *out, const outrider_stats *s, const char *stop, uint64_t seed) {
    fprintf(out, "prompt:     %6d tokens %9.1f ms %9.1f t/s", s->n_prompt, s->prompt_ms,
            per_second(s->n_prompt, s->prompt_ms));
    if (s->n_cached) fprintf(out, ", %d more from the cache", s->n_cached);
    fprintf(out, "\ngeneration: %6d tokens %9.1f ms %9.1f t/s, stopped by %s, seed %llu\n", s->n_predict,
            s->predicted_ms, per_second(s->n_predict, s->predicted_ms), stop, (unsigned long long)seed);
    report_acceptance(out, s);
}

static double share(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

void report_draft(const outrider_engine_info *info, char out[DRAFT_BYTES]) {
    int n = snprintf(out, DRAFT_BYTES, "%s%s", info->has_draft ? "draft " : "",
                     info->has_draft ? info->draft.dtype : "");
    if (info->self_layers)
        snprintf(out + n, DRAFT_BYTES - (size_t)n, "%sthe first %d layers draft", n ? ", " : "",
                 info->self_layers);
    else if (!n)
        snprintf(out, DRAFT_BYTES, "no draft");
}

void report_details(FILE *out, const outrider_engine_info *info, const outrider_stats *s) {
    char draft[DRAFT_BYTES];
    report_draft(info, draft);
    fprintf(out, "weights: %s; %s\n", info->verifier.dtype, draft);
    fprintf(out, "device: %s; context %d tokens; cache %d pages of %d tokens, %.1f MiB, %d free\n",
            info->device, info->ctx_size, info->pages, info->page_size, (double)info->cache_bytes / (1 << 20),
            info->pages_free);
    if (!s->n_verify) return;
    fprintf(out,
            "rounds: %d; drafting %.1f ms in %d steps (%.0f%% of the time), verifying %.1f ms (%.0f%%)\n",
            s->n_verify, s->draft_ms, s->n_draft_steps, share(s->draft_ms, s->predicted_ms), s->verify_ms,
            share(s->verify_ms, s->predicted_ms));
}

void report_runs(FILE *out, const outrider_stats *s) {
    static const char bar[] = "########################################";
    int32_t most = 1;
    if (!s->draft_n) return;
    for (int i = 0; i <= positions(s); i++)
        if (s->runs[i] > most) most = s->runs[i];
    fputs("rounds by how many proposed tokens they accepted:\n", out);
    for (int i = 0; i <= positions(s); i++)
        fprintf(out, "%8d: %6d %.*s\n", i, s->runs[i],
                (int)((int64_t)s->runs[i] * (int64_t)(sizeof bar - 1) / most), bar);
}

double speed_up(const outrider_stats *s) {
    return s->plain_ms > 0 && s->predicted_ms > 0 ? s->plain_ms / s->predicted_ms : 0;
}

void report_line(FILE *out, const outrider_stats *s) {
    fprintf(out, "[ Prompt: %.1f t/s | Generation: %d tokens, %.1f t/s",
            per_second(s->n_prompt, s->prompt_ms), s->n_predict, per_second(s->n_predict, s->predicted_ms));
    if (speed_up(s) > 0) fprintf(out, ", %.2fx plain", speed_up(s));
    if (s->draft_n) fprintf(out, " | accepted %.0f%%, mean length %.2f", 100 * acceptance(s), mean_length(s));
    fputs(" ]\n", out);
}

static const char *color_of(const struct palette *p, outrider_source source) {
    return source == OUTRIDER_BY_DRAFT ? p->draft : source == OUTRIDER_BY_NGRAM ? p->ngram : "";
}

int write_span(FILE *out, const struct palette *colors, outrider_source source, const char *text,
               size_t bytes) {
    const char *color = color_of(colors, source);
    fputs(color, out);
    int code = write_text(out, text, bytes);
    if (*color) fputs(colors->plain, out);
    return code;
}

void report_legend(FILE *out, const struct palette *p) {
    fprintf(out, "(%sproposed by the draft%s, %sby earlier text%s, the verifier's own)\n", p->draft, p->plain,
            p->ngram, p->plain);
}

void report_reading(struct progress *bar, const outrider_session *session) {
    enum { LONG_PROMPT = 1024 }; /* tokens: the engine reads 512 at a time */
    outrider_stats stats;
    outrider_session_stats(session, &stats);
    if (stats.n_prompt < LONG_PROMPT) return;
    if (stats.n_predict)
        progress_end(bar);
    else
        progress_count(bar, "reading", stats.n_read, stats.n_prompt, "tokens");
}

json_t *report_positions(const outrider_stats *s) {
    json_t *rates = json_array();
    for (int i = 0; rates && i < positions(s); i++)
        json_array_append_new(rates, json_real(position_rate(s, i)));
    return rates;
}

json_t *report_timings(const outrider_stats *s) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:i, s:i, s:i, s:o}", "prompt_ms", s->prompt_ms,
                     "predicted_ms", s->predicted_ms, "plain_ms", s->plain_ms, "prompt_per_second",
                     per_second(s->n_prompt, s->prompt_ms), "predicted_per_second",
                     per_second(s->n_predict, s->predicted_ms), "draft_n", s->draft_n, "draft_n_accepted",
                     s->draft_n_accepted, "n_verify", s->n_verify, "acc_per_pos", report_positions(s));
}

static double read_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}
double clock_ms(void) {
    return read_clock(CLOCK_MONOTONIC);
}
double cpu_ms(void) {
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

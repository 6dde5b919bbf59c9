/* outrider run: one text from one prompt. Standard output gets the text as it becomes certain; an interrupted
 * answer keeps what was written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/options.h"
#include "tools/report.h"
#include "tools/setup.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

/* Something was sent to us, as opposed to a terminal or /dev/null. */
static bool input_is_sent(void) {
    struct stat s;
    return !fstat(STDIN_FILENO, &s) && (S_ISFIFO(s.st_mode) || S_ISREG(s.st_mode) || S_ISSOCK(s.st_mode));
}

/* In this order: what is piped in, the file, the text of --prompt. */
static int read_prompt(const struct options *o, struct text *prompt) {
    const char *text = o->values[OPT_PROMPT].text, *file = o->values[OPT_FILE].text;
    bool text_is_input = text && !strcmp(text, "-"), file_is_input = file && !strcmp(file, "-");
    if (text_is_input && file_is_input)
        return complain(OUTRIDER_EINVAL, "--prompt and --file cannot both read standard input");
    if (!text_is_input && !file_is_input && input_is_sent()) CHECK(text_read_file(prompt, "-"));
    if (file) CHECK(text_read_file(prompt, file));
    if (text_is_input) CHECK(text_read_file(prompt, "-"));
    if (text && !text_is_input) CHECK(text_append(prompt, text, strlen(text)));
    if (text || file || prompt->bytes) return 0;
    return complain(OUTRIDER_EINVAL, "no prompt: give -p TEXT, -f FILE, or text on standard input");
}

/* Writes the answer to *answer, and as it comes to standard output when `stream`. */
static int generate(outrider_session *session, bool stream, struct text *answer) {
    while (outrider_session_stop(session) == OUTRIDER_RUNNING && !interrupts_seen()) {
        size_t bytes;
        CHECK(tell(outrider_round(&session, 1)));
        const char *text = outrider_session_take_text(session, &bytes);
        CHECK(text_append(answer, text, bytes));
        if (stream && bytes) CHECK(write_text(stdout, text, bytes));
    }
    return 0;
}

static json_t *answer_tokens(const outrider_session *session, int32_t n_predict) {
    size_t n;
    const int32_t *tokens = outrider_session_tokens(session, &n);
    json_t *ids = json_array();
    for (size_t i = n - (size_t)n_predict; ids && i < n; i++)
        json_array_append_new(ids, json_integer(tokens[i]));
    return ids;
}

static int write_result(const outrider_session *session, const struct text *answer, uint64_t seed) {
    outrider_stats stats;
    outrider_session_stats(session, &stats);
    json_t *result =
        json_pack("{s:o, s:o, s:i, s:i, s:i, s:s, s:I, s:o}", "text",
                  json_text(answer->data ? answer->data : "", answer->bytes), "tokens",
                  answer_tokens(session, stats.n_predict), "n_prompt", stats.n_prompt, "n_cached",
                  stats.n_cached, "n_predict", stats.n_predict, "stop", stop_word(session), "seed",
                  (json_int_t)seed, "timings", report_timings(&stats));
    return write_json(stdout, result, JSON_INDENT(2));
}

static void report(const struct options *o, const outrider_engine *engine, const outrider_session *session,
                   uint64_t seed) {
    struct palette colors = palette_for(o, stderr);
    outrider_engine_info info;
    outrider_stats stats;
    outrider_session_stats(session, &stats);
    fputs(colors.dim, stderr);
    if (isatty(STDERR_FILENO)) fputc('\n', stderr);
    report_answer(stderr, &stats, stop_word(session), seed);
    if (o->values[OPT_VERBOSE].integer && !outrider_engine_get_info(engine, &info))
        report_details(stderr, &info, &stats);
    fputs(colors.plain, stderr);
}

static int write_answer(const struct options *o, outrider_engine *engine, outrider_session *session,
                        const struct text *prompt, uint64_t seed) {
    bool json = o->values[OPT_JSON].integer, stream = !json && !o->values[OPT_NO_STREAM].integer;
    struct text answer = {0};
    CHECK(tell(outrider_session_append_text(session, prompt->data, prompt->bytes)));
    interrupts_watch(2);
    int code = generate(session, stream, &answer);
    if (!code && json) code = write_result(session, &answer, seed);
    if (!code && !json && !stream) code = write_text(stdout, answer.data ? answer.data : "", answer.bytes);
    if (!code && !json && isatty(STDOUT_FILENO)) code = write_text(stdout, "\n", 1);
    if (!code) report(o, engine, session, seed);
    text_clear(&answer);
    return !code && interrupts_seen() ? EXIT_INTERRUPTED : code;
}

static int run_engine(const struct options *o, const struct text *prompt) {
    outrider_engine *engine = NULL;
    outrider_session *session = NULL;
    outrider_settings settings = {0};
    int code = setup_engine(o, &engine);
    if (!code) code = setup_settings(o, engine, &settings);
    if (!code) code = tell(outrider_session_open(engine, &settings, &session));
    if (!code) code = write_answer(o, engine, session, prompt, settings.seed);
    outrider_session_close(session);
    setup_settings_free(&settings);
    outrider_engine_close(engine);
    return code;
}

int cmd_run(struct options *o) {
    struct text prompt = {0};
    int code = read_prompt(o, &prompt);
    if (!code) code = run_engine(o, &prompt);
    text_clear(&prompt);
    return code;
}

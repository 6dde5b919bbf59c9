/* outrider run: one text from one prompt. Standard output gets the text as it becomes certain; an interrupted
 * answer keeps what was written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/options.h"
#include "tools/report.h"
#include "tools/run_json.h"
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
    const char *prefix = o->values[OPT_IN_PREFIX].text;
    if (prefix) CHECK(text_append(prompt, prefix, strlen(prefix)));
    if (!text_is_input && !file_is_input && input_is_sent()) CHECK(text_read_file(prompt, "-"));
    if (file) CHECK(text_read_file(prompt, file));
    if (text_is_input) CHECK(text_read_file(prompt, "-"));
    if (text && !text_is_input) CHECK(text_append(prompt, text, strlen(text)));
    if (text || file || prompt->bytes) return 0;
    return complain(OUTRIDER_EINVAL, "no prompt: give -p TEXT, -f FILE, or text on standard input");
}

/* How an answer is written out. */
struct output {
    enum { AS_TEXT, AS_WHOLE_TEXT, AS_JSON, AS_JSONL } form;
    bool show; /* coloured by who wrote it */
    struct palette colors;
    struct text answer; /* all of it so far */
    struct progress bar;
    uint64_t seed;
};

static struct output output_for(const struct options *o, uint64_t seed) {
    const struct option_value *v = o->values;
    struct output out = {.colors = palette_for(o, stdout), .seed = seed, .bar = progress_begin(o)};
    out.form = v[OPT_JSONL].integer       ? AS_JSONL
               : v[OPT_JSON].integer      ? AS_JSON
               : v[OPT_NO_STREAM].integer ? AS_WHOLE_TEXT
                                          : AS_TEXT;
    out.show = v[OPT_SPEC_SHOW].integer && *out.colors.plain && out.form == AS_TEXT;
    return out;
}

/* What became certain since the last call: kept, and written where it is streamed. */
static int take_text(outrider_session *session, struct output *out) {
    static const struct palette none = {"", "", "", "", ""};
    size_t bytes;
    outrider_source source;
    for (;;) {
        const char *text = outrider_session_take_span(session, &bytes, &source);
        if (!bytes) return 0;
        CHECK(text_append(&out->answer, text, bytes));
        if (out->form == AS_TEXT)
            CHECK(write_span(stdout, out->show ? &out->colors : &none, source, text, bytes));
    }
}

static int one_round(const outrider_engine *engine, outrider_session *session, struct output *out) {
    size_t had = out->answer.bytes, tokens;
    outrider_session_tokens(session, &tokens);
    CHECK(tell(outrider_round(&session, 1)));
    report_reading(&out->bar, session);
    CHECK(take_text(session, out));
    if (out->form != AS_JSONL) return 0;
    return write_round(engine, session, tokens, out->answer.data + had, out->answer.bytes - had);
}

static int generate(const outrider_engine *engine, outrider_session *session, struct output *out) {
    int code = 0;
    while (!code && outrider_session_stop(session) == OUTRIDER_RUNNING && !interrupts_seen())
        code = one_round(engine, session, out);
    progress_end(&out->bar);
    if (code) return code;
    size_t had = out->answer.bytes;
    outrider_session_end(session); /* after Ctrl-C: what was held back is kept too */
    CHECK(take_text(session, out));
    if (out->form != AS_JSONL || out->answer.bytes == had) return 0;
    return write_rest(out->answer.data + had, out->answer.bytes - had);
}

static int finish(const outrider_engine *engine, const outrider_session *session, const struct output *out) {
    const char *text = out->answer.data ? out->answer.data : "";
    if (out->form == AS_JSON || out->form == AS_JSONL)
        return write_result(engine, session, text, out->answer.bytes, out->seed, out->form == AS_JSONL);
    if (out->form == AS_WHOLE_TEXT) CHECK(write_text(stdout, text, out->answer.bytes));
    return isatty(STDOUT_FILENO) ? write_text(stdout, "\n", 1) : 0;
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
    struct output out = output_for(o, seed);
    CHECK(tell(outrider_session_append_text(session, prompt->data, prompt->bytes)));
    interrupts_watch(2);
    int code = generate(engine, session, &out);
    if (!code) code = finish(engine, session, &out);
    if (!code && out.show) report_legend(stderr, &out.colors);
    if (!code) report(o, engine, session, seed);
    text_clear(&out.answer);
    return !code && interrupts_seen() ? EXIT_INTERRUPTED : code;
}

static int run_engine(const struct options *o, const struct text *prompt) {
    outrider_engine *engine = NULL;
    outrider_session *session = NULL;
    outrider_settings settings = {0};
    int code = setup_engine(o, &engine);
    if (!code) code = setup_settings(o, engine, &settings);
    if (!code) code = tell(outrider_session_open(engine, &settings, &session));
    if (!code) code = setup_sandbox(o, engine, settings.draft_n < 0 && settings.drafters);
    if (!code) code = write_answer(o, engine, session, prompt, settings.seed);
    outrider_session_close(session);
    setup_settings_free(&settings);
    outrider_engine_close(engine);
    return code;
}

int cmd_run(struct options *o) {
    struct text prompt = {0};
    if (o->values[OPT_BATCH].given) return run_batch(o);
    if (o->values[OPT_LOGPROBS].integer && !o->values[OPT_JSON].integer && !o->values[OPT_JSONL].integer)
        return complain(OUTRIDER_EINVAL, "--logprobs needs --json or --jsonl");
    int code = read_prompt(o, &prompt);
    if (!code) code = run_engine(o, &prompt);
    text_clear(&prompt);
    return code;
}

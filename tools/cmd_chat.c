/* outrider chat: a conversation. Answers go to standard output, prompts and numbers to standard error. With a
 * terminal, lines are edited and errors leave the conversation as it was; without one, turns are read line by
 * line and the first error ends the program with its code. Ctrl-C stops an answer and keeps it; a second one,
 * while the answer is stopping or at the empty prompt, leaves with 130. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/chat.h"
#include "tools/setup.h"

enum { LEAVE_AT = 3 }; /* the third Ctrl-C within a round ends the process without waiting for the round */

/* ---- settings ---- */

int chat_apply(struct chat *c, bool reseed) {
    outrider_settings fresh;
    CHECK(setup_settings(c->options, c->engine, &fresh));
    if (!reseed) fresh.seed = c->seed;
    if (c->plain) fresh.draft_n = 0;
    int code = tell(outrider_session_set(c->session, &fresh));
    if (code) {
        setup_settings_free(&fresh);
        return code;
    }
    setup_settings_free(&c->settings);
    c->settings = fresh;
    c->seed = fresh.seed;
    return 0;
}

/* ---- turns ---- */

static size_t n_tokens(const struct chat *c) {
    size_t n;
    outrider_session_tokens(c->session, &n);
    return n;
}

void turns_free(struct turn *turns, size_t n) {
    for (size_t i = 0; i < n; i++) {
        text_clear(&turns[i].user);
        text_clear(&turns[i].answer);
        free(turns[i].spans);
    }
    free(turns);
}

static int turn_copy(const struct turn *from, struct turn *to) {
    to->begin = from->begin;
    to->answer_begin = from->answer_begin;
    CHECK(text_append(&to->user, from->user.data, from->user.bytes));
    CHECK(text_append(&to->answer, from->answer.data, from->answer.bytes));
    to->spans = calloc(from->n_spans + 1, sizeof *to->spans);
    if (!to->spans) return complain_memory();
    if (from->n_spans) memcpy(to->spans, from->spans, from->n_spans * sizeof *to->spans);
    to->n_spans = from->n_spans;
    return 0;
}

int turns_copy(const struct turn *from, size_t n, struct turn **out) {
    *out = calloc(n + 1, sizeof **out);
    if (!*out) return complain_memory();
    for (size_t i = 0; i < n; i++) {
        int code = turn_copy(&from[i], &(*out)[i]);
        if (!code) continue;
        turns_free(*out, n);
        *out = NULL;
        return code;
    }
    return 0;
}

int chat_clear(struct chat *c) {
    turns_free(c->turns, c->n_turns);
    c->turns = NULL;
    c->n_turns = 0;
    text_clear(&c->before);
    c->stats = (outrider_stats){0};
    return tell(outrider_session_truncate(c->session, 0));
}

static void drop_last_turn(struct chat *c) {
    struct turn *last = &c->turns[--c->n_turns];
    text_clear(&last->user);
    text_clear(&last->answer);
    free(last->spans);
}

int chat_undo(struct chat *c) {
    CHECK(tell(outrider_session_truncate(c->session, c->turns[c->n_turns - 1].begin)));
    drop_last_turn(c);
    c->stats = (outrider_stats){0};
    return 0;
}

int chat_forget(struct chat *c, size_t n) {
    struct turn *all = c->turns;
    c->turns += n;
    c->n_turns -= n;
    int code = chat_replay(c);
    if (code) {
        c->turns = all;
        c->n_turns += n;
        chat_replay(c); /* it was there before, so it fits */
        return code;
    }
    struct turn *kept = NULL;
    code = turns_copy(c->turns, c->n_turns, &kept);
    turns_free(all, n + c->n_turns);
    c->turns = kept;
    if (code) c->n_turns = 0;
    return code;
}

/* The user's words of turn `i` into the session, the system prompt in front of the first. */
static int feed_turn(struct chat *c, size_t i) {
    struct turn *turn = &c->turns[i];
    const char *system = c->options->values[OPT_SYSTEM_PROMPT].text;
    size_t before = n_tokens(c);
    int code = 0;
    turn->begin = before;
    if (i == 0 && system && *system)
        code = tell(outrider_session_append_message(c->session, "system", system, strlen(system)));
    if (!code)
        code = tell(outrider_session_append_message(c->session, "user", turn->user.data, turn->user.bytes));
    if (!code)
        turn->answer_begin = n_tokens(c);
    else if (before == 0)
        outrider_session_truncate(c->session, 0); /* drops the system turn too */
    return code;
}

int chat_replay(struct chat *c) {
    c->stats = (outrider_stats){0};
    CHECK(tell(outrider_session_truncate(c->session, 0)));
    for (size_t i = 0; i < c->n_turns; i++) {
        CHECK(feed_turn(c, i));
        const struct text *answer = &c->turns[i].answer;
        if (answer->bytes) CHECK(tell(outrider_session_append_text(c->session, answer->data, answer->bytes)));
    }
    return 0;
}

/* ---- answers ---- */

static int note_span(struct turn *turn, outrider_source source, size_t bytes) {
    if (turn->n_spans && turn->spans[turn->n_spans - 1].source == source) {
        turn->spans[turn->n_spans - 1].bytes += bytes;
        return 0;
    }
    if (!(turn->n_spans & (turn->n_spans - 1))) { /* grows at powers of two */
        struct span *grown = realloc(turn->spans, (turn->n_spans ? turn->n_spans * 2 : 1) * sizeof *grown);
        if (!grown) return complain_memory();
        turn->spans = grown;
    }
    turn->spans[turn->n_spans++] = (struct span){source, bytes};
    return 0;
}

/* What became certain since the last call, into the turn and where wanted to standard output. */
static int take_text(struct chat *c, struct turn *turn, bool stream) {
    static const struct palette none = {"", "", "", "", ""};
    size_t bytes;
    outrider_source source;
    for (;;) {
        const char *text = outrider_session_take_span(c->session, &bytes, &source);
        if (!bytes) return 0;
        CHECK(text_append(&turn->answer, text, bytes));
        CHECK(note_span(turn, source, bytes));
        if (stream) CHECK(write_span(stdout, c->show ? &c->answer_colors : &none, source, text, bytes));
    }
}

static int generate(struct chat *c, struct turn *turn) {
    bool stream = !c->options->values[OPT_NO_STREAM].integer;
    struct progress bar = progress_begin(c->options);
    int code = 0;
    while (!code && outrider_session_stop(c->session) == OUTRIDER_RUNNING && !interrupts_seen()) {
        code = tell(outrider_round(&c->session, 1));
        report_reading(&bar, c->session); /* the bar gives way to the text, not the text to the bar */
        if (!code) code = take_text(c, turn, stream);
    }
    progress_end(&bar);
    if (code) return code;
    outrider_session_end(c->session); /* after Ctrl-C: what was held back is kept too */
    CHECK(take_text(c, turn, stream));
    const struct text *answer = &turn->answer;
    if (!stream && answer->bytes) CHECK(write_text(stdout, answer->data, answer->bytes));
    bool ended = answer->bytes && answer->data[answer->bytes - 1] == '\n';
    return ended ? 0 : write_text(stdout, "\n", 1);
}

int chat_show_answer(struct chat *c) {
    const struct turn *turn = &c->turns[c->n_turns - 1];
    const char *at = turn->answer.data;
    if (!turn->n_spans) {
        fputs("who wrote the last answer is not known any more\n", stderr);
        return 0;
    }
    for (size_t i = 0; i < turn->n_spans; at += turn->spans[i++].bytes)
        CHECK(write_span(stderr, &c->colors, turn->spans[i].source, at, turn->spans[i].bytes));
    fputc('\n', stderr);
    report_legend(stderr, &c->colors);
    return 0;
}

static void say_full(const struct chat *c) {
    fprintf(
        stderr,
        "the context of %d tokens is full, so the answer may be unfinished: /forget N drops the N oldest of "
        "%zu turns, /clear starts a new conversation, /save FILE keeps this one, -c N at the start gives "
        "more room\n",
        c->info.ctx_size, c->n_turns);
}

static void report_turn(struct chat *c) {
    fputs(c->colors.dim, stderr);
    report_line(stderr, &c->stats);
    if (c->options->values[OPT_VERBOSE].integer && !outrider_engine_get_info(c->engine, &c->info)) {
        report_details(stderr, &c->info, &c->stats);
        report_runs(stderr, &c->stats);
    }
    fputs(c->colors.plain, stderr);
    if (c->show && c->n_turns == 1) report_legend(stderr, &c->colors);
    if (outrider_session_stop(c->session) == OUTRIDER_STOP_CONTEXT) say_full(c);
}

int chat_answer(struct chat *c) {
    struct turn *turn = &c->turns[c->n_turns - 1];
    text_clear(&turn->answer);
    turn->n_spans = 0;
    interrupts_watch(LEAVE_AT);
    int code = generate(c, turn);
    outrider_session_stats(c->session, &c->stats);
    if (code) return code;
    report_turn(c);
    /* a script has no second chance to stop: there one Ctrl-C leaves */
    return interrupts_seen() > (c->interactive ? 1 : 0) ? EXIT_INTERRUPTED : 0;
}

static int add_turn(struct chat *c, const char *text, size_t bytes) {
    struct turn *turns = realloc(c->turns, (c->n_turns + 1) * sizeof *turns);
    if (!turns) return complain_memory();
    c->turns = turns;
    struct turn *turn = &turns[c->n_turns];
    *turn = (struct turn){0};
    if (text_append(&turn->user, c->before.data, c->before.bytes) || text_append(&turn->user, text, bytes)) {
        text_clear(&turn->user);
        return OUTRIDER_ENOMEM;
    }
    c->n_turns++;
    return 0;
}

static int say(struct chat *c, const char *text, size_t bytes) {
    CHECK(add_turn(c, text, bytes));
    int code = feed_turn(c, c->n_turns - 1);
    if (!code) {
        text_clear(&c->before);
        return chat_answer(c);
    }
    drop_last_turn(c);
    if (c->interactive && c->before.bytes)
        fputs("nothing was added; what /read put in front of the message waits for the next one: /clear "
              "drops it\n",
              stderr);
    else if (c->interactive && c->n_turns)
        fprintf(
            stderr,
            "nothing was added: a shorter message may fit, /forget N drops the N oldest of %zu turns, /clear "
            "starts a new conversation, /save FILE keeps this one, -c N at the start gives more room\n",
            c->n_turns);
    return code;
}

/* ---- lines ---- */

/* From a line that begins with three quotes to one that ends with them. */
static enum line_result read_block(struct chat *c, const char *line, size_t bytes, struct text *out) {
    line += 3;
    bytes -= 3;
    for (;;) {
        bool last = bytes >= 3 && !memcmp(line + bytes - 3, "\"\"\"", 3);
        if (text_append(out, line, last ? bytes - 3 : bytes)) return LINE_DROPPED;
        if (last) return LINE_READ;
        if (out->bytes && text_append(out, "\n", 1)) return LINE_DROPPED;
        enum line_result result = line_read(c->lines, "... ", &line, &bytes);
        if (result == LINE_END) return LINE_READ;
        if (result != LINE_READ) return LINE_DROPPED;
    }
}

/* A word that is a command elsewhere is a message here, which its writer may not have meant. */
static void hint_at_commands(const char *text) {
    static const char *const words[] = {"exit", "quit", "bye", "help", "?"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strcmp(text, words[i]))
            fputs("note: this goes to the model; /bye leaves, /help lists the commands\n", stderr);
}

static int handle(struct chat *c, const char *line, size_t bytes) {
    struct text message = {0};
    int code = 0;
    if (bytes >= 3 && !memcmp(line, "\"\"\"", 3)) {
        if (read_block(c, line, bytes, &message) == LINE_READ && message.bytes)
            code = say(c, message.data, message.bytes);
    } else if (!text_append(&message, line, bytes) && bytes) {
        bool command = line[0] == '/' && !memchr(line, '\n', bytes);
        if (c->interactive) hint_at_commands(message.data);
        code = command ? chat_command(c, message.data) : say(c, message.data, message.bytes);
    }
    text_clear(&message);
    return code;
}

static int converse(struct chat *c) {
    char prompt[64];
    /* \1 marks for the line editor what takes no room */
    snprintf(prompt, sizeof prompt, *c->colors.prompt ? "\1%s\1> \1%s\1" : "%s> %s", c->colors.prompt,
             c->colors.plain);
    while (!c->leave) {
        const char *line;
        size_t bytes;
        interrupts_watch(LEAVE_AT);
        enum line_result result = line_read(c->lines, prompt, &line, &bytes);
        if (result == LINE_END) return 0;
        if (result == LINE_INTERRUPTED) return EXIT_INTERRUPTED;
        int code = result == LINE_READ ? handle(c, line, bytes) : 0;
        if (code == EXIT_INTERRUPTED || (code && !c->interactive)) return code;
        if (ferror(stdout)) return code;
    }
    return 0;
}

/* ---- opening ---- */

static int open_lines(struct chat *c) {
    bool simple = c->options->values[OPT_SIMPLE_IO].integer;
    bool keep = !c->options->values[OPT_NO_HISTORY].integer;
    char history[4096];
    bool editing = c->interactive && !simple && terminal_obeys(stderr);
    bool kept = editing && keep &&
                setup_user_file("XDG_STATE_HOME", ".local/state", "history", history, sizeof history);
    c->lines = line_open(editing, c->interactive, kept ? history : NULL, chat_complete, c);
    return c->lines ? 0 : complain_memory();
}

static void greet(const struct chat *c) {
    if (!c->interactive) return;
    char draft[DRAFT_BYTES];
    report_draft(&c->info, draft);
    fprintf(stderr, "%s%s; %s weights; context %d tokens; %s. /help lists the commands.%s\n", c->colors.dim,
            c->info.device, c->info.verifier.dtype, c->info.ctx_size, draft, c->colors.plain);
}

static int open_chat(struct chat *c) {
    c->interactive = isatty(STDIN_FILENO);
    c->colors = palette_for(c->options, stderr);
    c->answer_colors = palette_for(c->options, stdout);
    c->show = c->options->values[OPT_SPEC_SHOW].integer && *c->answer_colors.plain;
    CHECK(open_lines(c)); /* before the models are read, which takes long enough to type something */
    CHECK(setup_engine(c->options, &c->engine));
    CHECK(tell(outrider_engine_get_info(c->engine, &c->info)));
    outrider_settings defaults = outrider_settings_defaults(c->engine);
    CHECK(tell(outrider_session_open(c->engine, &defaults, &c->session)));
    CHECK(chat_apply(c, true));
    CHECK(setup_sandbox(c->options, c->engine, c->settings.draft_n < 0 && c->settings.drafters));
    greet(c);
    return converse(c);
}

int cmd_chat(struct options *options) {
    struct chat c = {.options = options};
    int code = open_chat(&c);
    line_close(c.lines);
    turns_free(c.turns, c.n_turns);
    text_clear(&c.before);
    branches_free(&c);
    setup_settings_free(&c.settings);
    outrider_session_close(c.session);
    outrider_engine_close(c.engine);
    return code;
}

/* What a person can type after a slash. Each command says on standard error what it did. */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat.h"

struct chat_verb {
    const char *name, *argument, *help, *more;
    int (*run)(struct chat *c, const char *argument);
};

int chat_need(const char *argument, const char *what) {
    return *argument ? 0 : complain(OUTRIDER_EINVAL, "%s is missing", what);
}

/* The path of `name`, whose ~/ stands for the home folder; to be freed. */
static char *expand_home(const char *name) {
    const char *home = getenv("HOME");
    char *path;
    if (strncmp(name, "~/", 2) || !home) return strdup(name);
    return asprintf(&path, "%s%s", home, name + 1) < 0 ? NULL : path;
}

/* Runs `act` with the path that a command's argument means. */
static int with_path(struct chat *c, const char *argument, const char *what,
                     int (*act)(struct chat *c, const char *path)) {
    CHECK(chat_need(argument, what));
    char *path = expand_home(argument);
    if (!path) return complain_memory();
    int code = act(c, path);
    free(path);
    return code;
}

/* ---- conversation ---- */

static int do_clear(struct chat *c, const char *argument) {
    (void)argument;
    CHECK(chat_clear(c));
    fputs("a new conversation begins\n", stderr);
    return 0;
}

static int do_regen(struct chat *c, const char *argument) {
    (void)argument;
    if (!c->n_turns) return complain(OUTRIDER_EINVAL, "/regen: there is no answer yet");
    c->seed++;
    CHECK(chat_apply(c, false));
    CHECK(tell(outrider_session_truncate(c->session, c->turns[c->n_turns - 1].answer_begin)));
    return chat_answer(c);
}

static int do_undo(struct chat *c, const char *argument) {
    (void)argument;
    if (!c->n_turns) return complain(OUTRIDER_EINVAL, "/undo: there is no turn to take back");
    CHECK(chat_undo(c));
    fprintf(stderr, "the last turn is taken back; %zu are left\n", c->n_turns);
    return 0;
}

static int do_forget(struct chat *c, const char *argument) {
    char *end;
    unsigned long n = strtoul(argument, &end, 10);
    if (end == argument || *end || !n || *argument == '-' || n > c->n_turns)
        return complain(OUTRIDER_EINVAL, "/forget: how many of the %zu turns, the oldest first", c->n_turns);
    CHECK(chat_forget(c, n));
    size_t tokens;
    outrider_session_tokens(c->session, &tokens);
    fprintf(stderr, "%lu turns forgotten, %zu are left: %zu of %d tokens\n", n, c->n_turns, tokens,
            c->info.ctx_size);
    return 0;
}

/* ---- files ---- */

static int read_before(struct chat *c, const char *path) {
    size_t before = c->before.bytes;
    int code = text_read_file(&c->before, path);
    if (!code) code = text_append(&c->before, "\n", 1);
    if (!code) return 0;
    if (c->before.data) c->before.data[before] = '\0';
    c->before.bytes = before; /* a file that broke off leaves nothing of itself */
    return code;
}

static int read_and_tell(struct chat *c, const char *path) {
    size_t before = c->before.bytes;
    CHECK(read_before(c, path));
    fprintf(stderr, "%zu bytes go in front of your next message\n", c->before.bytes - before - 1);
    return 0;
}

static int do_read(struct chat *c, const char *argument) {
    return with_path(c, argument, "/read: a FILE", read_and_tell);
}

/* All files or none. */
static int read_matches(struct chat *c, const glob_t *found) {
    size_t before = c->before.bytes;
    int code = 0;
    for (size_t i = 0; i < found->gl_pathc && !code; i++) {
        const char *path = found->gl_pathv[i];
        size_t n = strlen(path);
        if (n && path[n - 1] == '/') continue; /* a folder */
        code = text_append(&c->before, path, n);
        if (!code) code = text_append(&c->before, ":\n", 2);
        if (!code) code = read_before(c, path);
        if (!code) fprintf(stderr, "  %s\n", path);
    }
    if (code) {
        if (c->before.data) c->before.data[before] = '\0';
        c->before.bytes = before;
        return code;
    }
    fprintf(stderr, "%zu bytes go in front of your next message\n", c->before.bytes - before);
    return 0;
}

static int glob_files(struct chat *c, const char *pattern) {
    glob_t found;
    int failed = glob(pattern, GLOB_MARK, NULL, &found);
    if (failed == GLOB_NOMATCH) return complain(OUTRIDER_EFAIL, "/glob: nothing is called like %s", pattern);
    if (failed) return complain(OUTRIDER_EFAIL, "/glob: %s: %s", pattern, strerror(errno));
    int code = read_matches(c, &found);
    globfree(&found);
    return code;
}

static int do_glob(struct chat *c, const char *argument) {
    return with_path(c, argument, "/glob: a PATTERN such as src/*.c", glob_files);
}

static int save_and_tell(struct chat *c, const char *path) {
    CHECK(chat_save(c, path));
    fprintf(stderr, "%zu turns saved\n", c->n_turns);
    return 0;
}

static int do_save(struct chat *c, const char *argument) {
    return with_path(c, argument, "/save: a FILE", save_and_tell);
}

static int load_and_tell(struct chat *c, const char *path) {
    CHECK(chat_load(c, path));
    fprintf(stderr, "%zu turns loaded\n", c->n_turns);
    return 0;
}

static int do_load(struct chat *c, const char *argument) {
    return with_path(c, argument, "/load: a FILE", load_and_tell);
}

static int do_bye(struct chat *c, const char *argument) {
    (void)argument;
    c->leave = true;
    return 0;
}

static int do_stats(struct chat *c, const char *argument) {
    size_t n;
    (void)argument;
    outrider_session_tokens(c->session, &n);
    fprintf(stderr, "context:    %6zu of %d tokens, %zu turns\n", n, c->info.ctx_size, c->n_turns);
    if (!c->stats.n_predict) return 0; /* nothing written since /clear or /load */
    report_answer(stderr, &c->stats, stop_word(c->session), c->settings.seed);
    CHECK(tell(outrider_engine_get_info(c->engine, &c->info)));
    report_details(stderr, &c->info, &c->stats);
    report_runs(stderr, &c->stats);
    return 0;
}

/* ---- dispatch ---- */

static int do_help(struct chat *c, const char *argument);

static const struct chat_verb verbs[] = {
    {"help", "COMMAND", "this list, or more on one command; also /?", NULL, do_help},
    {"clear", "", "start a new conversation with the same system prompt",
     "Turns, and what /read put in front of the next message, are dropped; settings stay.", do_clear},
    {"regen", "", "answer the last message again, with the next seed",
     "At temperature 0 the answer is the same again, unless a setting was changed.", do_regen},
    {"undo", "", "take back the last message and its answer", NULL, do_undo},
    {"forget", "N", "drop the N oldest turns, to make room",
     "The system prompt stays. What is left is read anew, so the next answer begins a little later.",
     do_forget},
    {"fork", "NAME", "go on in a copy of the conversation",
     "The one you leave is kept; the first is called main. Copies share the cache until they differ, so a "
     "fork costs nothing. --cache-tokens gives many long branches more room.",
     chat_fork},
    {"switch", "NAME", "go to another branch; alone: list them", NULL, chat_switch},
    {"drop", "NAME", "end a branch", NULL, chat_drop},
    {"set", "KEY VALUE", "change a setting, such as /set temp 0.5; alone: list them",
     "Keys are the options of outrider chat --help in the groups length, sampling and speculation, and "
     "system, the text the model is told first: /set system \"You are a sailor.\"",
     chat_set},
    {"show", "", "the settings in force", NULL, chat_show},
    {"stats", "", "numbers of the last answer", NULL, do_stats},
    {"spec", "on|off|show|hide", "speculative or plain decoding; colour tokens by who wrote them",
     "show writes the last answer again and colours the ones that follow: tokens that the draft model "
     "proposed, tokens that earlier text proposed, and the verifier's own. The text is the same in any case.",
     chat_spec},
    {"draft", "N", "tokens proposed in a round; auto lets the engine choose", NULL, chat_draft},
    {"read", "FILE", "put a file in front of the next message", NULL, do_read},
    {"glob", "PATTERN", "the same for all files called like it, with their names", NULL, do_glob},
    {"save", "FILE", "write the conversation, its settings and the cache",
     "FILE is JSON; FILE.cache beside it holds what the model has read, so that /load goes on at once. "
     "Without it, or with another model, the text is read anew.",
     do_save},
    {"load", "FILE", "go on with a saved conversation", NULL, do_load},
    {"bye", "", "leave; also /exit, /quit, Ctrl-D", NULL, do_bye},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

const char *chat_command_name(size_t i) {
    return i < N_VERBS ? verbs[i].name : NULL;
}

static const struct chat_verb *find_verb(const char *name) {
    static const char *const others[][2] = {{"?", "help"}, {"exit", "bye"}, {"quit", "bye"}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!strcmp(name, others[i][0])) name = others[i][1];
    for (size_t i = 0; i < N_VERBS; i++)
        if (!strcmp(name, verbs[i].name)) return &verbs[i];
    return NULL;
}

static int unknown_verb(const char *name) {
    const char *nearest = NULL;
    size_t best = slip_limit(name);
    for (size_t i = 0; i < N_VERBS; i++) {
        size_t distance = edit_distance(name, verbs[i].name);
        if (distance < best) best = distance, nearest = verbs[i].name;
    }
    if (nearest) return complain(OUTRIDER_EINVAL, "/%s is no command; did you mean /%s?", name, nearest);
    return complain(OUTRIDER_EINVAL,
                    "/%s is no command; /help lists them, and a space in front makes it a message", name);
}

static void print_verb(const struct chat_verb *v) {
    int n = fprintf(stderr, "/%s %s", v->name, v->argument);
    fprintf(stderr, "%*s%s\n", n < 24 ? 24 - n : 1, "", v->help);
}

static int do_help(struct chat *c, const char *argument) {
    const struct chat_verb *one = *argument ? find_verb(argument + (*argument == '/')) : NULL;
    (void)c;
    if (*argument && !one) return unknown_verb(argument + (*argument == '/'));
    if (one) {
        print_verb(one);
        if (one->more) fprintf(stderr, "%s\n", one->more);
        return 0;
    }
    for (size_t i = 0; i < N_VERBS; i++) print_verb(&verbs[i]);
    fputs("\"\"\"                     begins a message of several lines and ends it\n"
          "Tab, Ctrl-R, Ctrl-G     complete; search what was typed; write in $EDITOR\n"
          "Ctrl-C                  stops the answer and keeps it; at the empty prompt it leaves\n",
          stderr);
    return 0;
}

int chat_command(struct chat *c, char *line) {
    char *name = line + 1, *argument = name + strcspn(name, " \t");
    if (*argument) *argument++ = '\0';
    argument += strspn(argument, " \t");
    for (char *end = argument + strlen(argument); end > argument && strchr(" \t\r", end[-1]);) *--end = '\0';
    const struct chat_verb *verb = find_verb(name);
    return verb ? verb->run(c, argument) : unknown_verb(name);
}

/* What a person can type after a slash. Each command says on standard error what it did. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat.h"

struct chat_verb {
    const char *name, *argument, *help;
    int (*run)(struct chat *c, const char *argument);
};

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

static int do_read(struct chat *c, const char *argument) {
    size_t before = c->before.bytes;
    if (!*argument) return complain(OUTRIDER_EINVAL, "/read needs a file");
    int code = text_read_file(&c->before, argument);
    if (!code) code = text_append(&c->before, "\n", 1);
    if (code) {
        if (c->before.data) c->before.data[before] = '\0';
        c->before.bytes = before; /* a file that broke off leaves nothing of itself */
        return code;
    }
    fprintf(stderr, "%zu bytes go in front of your next message\n", c->before.bytes - before - 1);
    return 0;
}

static int do_save(struct chat *c, const char *argument) {
    if (!*argument) return complain(OUTRIDER_EINVAL, "/save needs a file");
    CHECK(chat_save(c, argument));
    fprintf(stderr, "%zu turns saved\n", c->n_turns);
    return 0;
}

static int do_load(struct chat *c, const char *argument) {
    if (!*argument) return complain(OUTRIDER_EINVAL, "/load needs a file");
    CHECK(chat_load(c, argument));
    fprintf(stderr, "%zu turns loaded\n", c->n_turns);
    return 0;
}

static int do_bye(struct chat *c, const char *argument) {
    (void)argument;
    c->leave = true;
    return 0;
}

/* ---- settings ---- */

bool chat_may_set(enum option_id id) {
    const char *group = option_spec(id)->group;
    bool depends = !strcmp(group, "length") || !strcmp(group, "sampling") || !strcmp(group, "speculation");
    return depends && id != OPT_SPEC_TYPE && (option_spec(id)->commands & CMD_CHAT);
}

/* The new options in place of the old ones, which come back when `code` says that they were refused. */
static int settle(struct chat *c, struct options *before, int code) {
    if (!code) {
        options_free(before);
        return 0;
    }
    options_free(c->options);
    *c->options = *before;
    return code;
}

static int keep_options(const struct chat *c, struct options *before) {
    int code = options_copy(c->options, before);
    if (code) options_free(before);
    return code;
}

static int set_option(struct chat *c, enum option_id id, const char *name, const char *value) {
    struct options before;
    CHECK(keep_options(c, &before));
    int code = option_assign(c->options, id, name, value);
    if (!code) code = chat_apply(c, id == OPT_SEED);
    return settle(c, &before, code);
}

static int set_system(struct chat *c, const char *value) {
    struct options before;
    CHECK(keep_options(c, &before));
    int code = option_assign(c->options, OPT_SYSTEM_PROMPT, "system", value);
    if (!code) code = chat_replay(c);
    if (!settle(c, &before, code)) return 0;
    chat_replay(c); /* fitted before, so it fits again */
    return code;
}

static int show_settings(const struct chat *c) {
    const char *system = c->options->values[OPT_SYSTEM_PROMPT].text;
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        const struct option_value *v = &c->options->values[id];
        if (!chat_may_set(id)) continue;
        const char *value = v->given ? v->text : s->shown ? s->shown : v->text;
        const char *unset = s->kind == KIND_FLAG ? "off" : "none";
        fprintf(stderr, "%-20s%s\n", s->name, value ? value : unset);
    }
    fprintf(stderr, "%-20s%s\n", "system", system ? system : "none");
    return 0;
}

/* A value may stand in double quotes. */
static void unquote(char *value) {
    size_t n = strlen(value);
    if (n < 2 || value[0] != '"' || value[n - 1] != '"') return;
    memmove(value, value + 1, n - 2);
    value[n - 2] = '\0';
}

static int set_pair(struct chat *c, char *key) {
    char *value = key + strcspn(key, " =");
    if (*value) *value++ = '\0';
    value += strspn(value, " =");
    unquote(value);
    if (!strcmp(key, "system")) return set_system(c, value);
    enum option_id id = option_find(CMD_CHAT, key, true, false);
    if (id != N_OPTIONS && chat_may_set(id)) return set_option(c, id, key, value);
    const char *nearest = option_nearest(CMD_CHAT, key);
    return complain(OUTRIDER_EINVAL, "/set: '%s' cannot be set%s%s; /set alone lists what can", key,
                    nearest ? "; did you mean " : "", nearest ? nearest : "");
}

static int do_set(struct chat *c, const char *argument) {
    if (!*argument) return show_settings(c);
    char *copy = strdup(argument);
    if (!copy) return complain_memory();
    int code = set_pair(c, copy);
    free(copy);
    return code;
}

static int need_proposer(const struct chat *c) {
    if (c->info.has_draft || (c->settings.drafters & OUTRIDER_DRAFT_NGRAM)) return 0;
    return complain(OUTRIDER_EINVAL, "nothing proposes tokens: this chat was started with --spec-type none");
}

static int do_spec(struct chat *c, const char *argument) {
    bool on = !strcmp(argument, "on");
    if (!on && strcmp(argument, "off")) return complain(OUTRIDER_EINVAL, "/spec: on or off");
    CHECK(need_proposer(c));
    c->plain = !on;
    return chat_apply(c, false);
}

static int do_draft(struct chat *c, const char *argument) {
    CHECK(need_proposer(c));
    return set_option(c, OPT_SPEC_DRAFT_N_MAX, "/draft", argument);
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
    return 0;
}

/* ---- dispatch ---- */

static int do_help(struct chat *c, const char *argument);

static const struct chat_verb verbs[] = {
    {"help", "", "this list; also /?", do_help},
    {"clear", "", "start a new conversation with the same system prompt", do_clear},
    {"regen", "", "answer the last message again, with the next seed", do_regen},
    {"set", "KEY VALUE", "change a setting, such as /set temp 0.5; alone: list them", do_set},
    {"set system", "\"TEXT\"", "what the model is told before the conversation", NULL},
    {"stats", "", "numbers of the last answer", do_stats},
    {"spec", "on|off", "speculative or plain decoding", do_spec},
    {"draft", "N", "tokens proposed in a round; auto lets the engine choose", do_draft},
    {"read", "FILE", "put a file in front of the next message", do_read},
    {"save", "FILE", "write the conversation and its settings", do_save},
    {"load", "FILE", "go on with a saved conversation", do_load},
    {"bye", "", "leave; also /exit, /quit, Ctrl-D", do_bye},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static int do_help(struct chat *c, const char *argument) {
    (void)c;
    (void)argument;
    for (size_t i = 0; i < N_VERBS; i++) {
        int n = fprintf(stderr, "/%s %s", verbs[i].name, verbs[i].argument);
        fprintf(stderr, "%*s%s\n", n < 22 ? 22 - n : 1, "", verbs[i].help);
    }
    fputs("\"\"\"                   begins a message of several lines and ends it\n"
          "Ctrl-C                stops the answer and keeps it; at the empty prompt it leaves\n",
          stderr);
    return 0;
}

int chat_command(struct chat *c, char *line) {
    static const char *const others[][2] = {{"?", "help"}, {"exit", "bye"}, {"quit", "bye"}};
    char *name = line + 1, *argument = name + strcspn(name, " \t");
    if (*argument) *argument++ = '\0';
    argument += strspn(argument, " \t");
    for (char *end = argument + strlen(argument); end > argument && strchr(" \t\r", end[-1]);) *--end = '\0';
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!strcmp(name, others[i][0])) name = (char *)others[i][1];
    for (size_t i = 0; i < N_VERBS; i++)
        if (verbs[i].run && !strcmp(name, verbs[i].name)) return verbs[i].run(c, argument);
    return complain(OUTRIDER_EINVAL, "/%s is no command; /help lists them", name);
}

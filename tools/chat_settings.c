/* /set, /show, /spec and /draft. A setting that is refused leaves the old one in force. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat.h"
#include "tools/setup.h"

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

/* ---- showing ---- */

static void show_origin(const struct chat *c, enum option_id id) {
    const struct option_value *v = &c->options->values[id];
    char name[64];
    option_environment_name(option_spec(id), name, sizeof name);
    if (v->given && v->origin == ORIGIN_FILE)
        fprintf(stderr, "  (%s, line %d)", c->options->config, v->line);
    else if (v->given && v->origin == ORIGIN_ENVIRONMENT)
        fprintf(stderr, "  (%s)", name);
    fputc('\n', stderr);
}

static void show_list(const struct option_value *v) {
    for (size_t i = 0; i < v->n; i++) fprintf(stderr, "%s\"%s\"", i ? " " : "", v->list[i]);
}

static void show_setting(const struct chat *c, enum option_id id, const outrider_settings *defaults) {
    const struct option_spec *s = option_spec(id);
    const struct option_value *v = &c->options->values[id];
    char own[32];
    bool of_model;
    fprintf(stderr, "%-20s", s->name);
    if (v->given && s->kind == KIND_LIST) {
        show_list(v);
    } else if (v->given) {
        fputs(v->text, stderr);
    } else if (setup_default(id, defaults, own, sizeof own, &of_model)) {
        fprintf(stderr, "%s%s", own, of_model ? "  (the model's own)" : "");
    } else {
        const char *unset = s->kind == KIND_FLAG ? "off" : "none";
        fputs(s->shown ? s->shown : v->text ? v->text : unset, stderr);
    }
    show_origin(c, id);
}

int chat_show(struct chat *c, const char *argument) {
    const char *system = c->options->values[OPT_SYSTEM_PROMPT].text;
    outrider_settings defaults = outrider_settings_defaults(c->engine);
    (void)argument;
    for (int id = 0; id < N_OPTIONS; id++)
        if (chat_may_set(id)) show_setting(c, id, &defaults);
    fprintf(stderr, "%-20s%s\n", "system", system ? system : "none");
    fprintf(stderr, "%-20s%s%s\n", "speculation", c->plain ? "off" : "on", c->show ? ", shown" : "");
    fprintf(stderr, "%-20s%llu\n", "next seed", (unsigned long long)c->seed);
    return 0;
}

/* ---- setting ---- */

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

int chat_set(struct chat *c, const char *argument) {
    if (!*argument) return chat_show(c, "");
    char *copy = strdup(argument);
    if (!copy) return complain_memory();
    int code = set_pair(c, copy);
    free(copy);
    return code;
}

/* ---- speculation ---- */

static int need_proposer(const struct chat *c) {
    if (c->info.has_draft || c->info.self_layers || (c->settings.drafters & OUTRIDER_DRAFT_NGRAM)) return 0;
    return complain(OUTRIDER_EINVAL, "nothing proposes tokens: this chat was started with --spec-type none");
}

static int show_speculation(struct chat *c) {
    if (!*c->answer_colors.plain)
        return complain(OUTRIDER_EINVAL,
                        "/spec show: colour is off here (NO_COLOR, --color, or no terminal)");
    c->show = true;
    return c->n_turns ? chat_show_answer(c) : 0;
}

int chat_spec(struct chat *c, const char *argument) {
    bool on = !strcmp(argument, "on"), off = !strcmp(argument, "off");
    if (!strcmp(argument, "hide")) return c->show = false, 0;
    if (!on && !off && strcmp(argument, "show"))
        return complain(OUTRIDER_EINVAL, "/spec: on or off, show or hide");
    CHECK(need_proposer(c));
    if (!on && !off) return show_speculation(c);
    c->plain = off;
    return chat_apply(c, false);
}

int chat_draft(struct chat *c, const char *argument) {
    CHECK(need_proposer(c));
    return set_option(c, OPT_SPEC_DRAFT_N_MAX, "/draft", argument);
}

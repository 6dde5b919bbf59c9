/* The configuration file, and `outrider config`, which shows what it and the other places came to.
 *
 *     # for every command that knows the option
 *     temp = 0.7
 *     model = /models/big
 *     [chat]
 *     system-prompt = "You are a sailor."
 *
 * Names are those of the options, with or without dashes in front. A value is the rest of its line without
 * the spaces around it, and without one pair of double quotes. An option of another command is passed over; a
 * name that no command knows is an error, for it would otherwise do nothing in silence. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/options.h"
#include "tools/setup.h"
#include "tools/text.h"
#include "tools/tools.h"

/* ---- reading ---- */

struct place {
    const char *path;
    int line;
    bool ours; /* within no section, or within the command's */
};

static char *trim(char *text) {
    text += strspn(text, " \t\r");
    char *end = text + strlen(text);
    while (end > text && strchr(" \t\r", end[-1])) *--end = '\0';
    return text;
}

static char *unquote(char *text) {
    size_t n = strlen(text);
    if (n < 2 || text[0] != '"' || text[n - 1] != '"') return text;
    text[n - 1] = '\0';
    return text + 1;
}

static int wrong(const struct place *at, const char *what, const char *text) {
    return complain(OUTRIDER_EINVAL, "%s: line %d: %s '%s'", at->path, at->line, what, text);
}

static int set_value(struct options *o, const struct place *at, const char *name, const char *text) {
    enum option_id id = option_find(o->command, name, true, false);
    if (id == OPT_HELP || id == OPT_CONFIG) return wrong(at, "not for a configuration file:", name);
    if (id == N_OPTIONS) {
        if (option_find(CMD_ALL, name, true, false) != N_OPTIONS) return 0;
        const char *nearest = option_nearest(CMD_ALL, name);
        return complain(OUTRIDER_EINVAL, "%s: line %d: unknown option '%s'%s%s", at->path, at->line, name,
                        nearest ? "; did you mean " : "; outrider COMMAND --help lists them",
                        nearest ? nearest : "");
    }
    struct option_value *v = &o->values[id];
    if (!at->ours || (v->given && v->origin != ORIGIN_FILE)) return 0;
    char spelled[4200];
    snprintf(spelled, sizeof spelled, "%s: line %d: %s", at->path, at->line, name);
    CHECK(option_add(o, id, spelled, text));
    v->origin = ORIGIN_FILE;
    v->line = at->line;
    return 0;
}

static int read_line(struct options *o, struct place *at, char *line) {
    line = trim(line);
    if (!*line || *line == '#') return 0;
    size_t n = strlen(line);
    if (line[0] == '[' && line[n - 1] == ']') {
        line[n - 1] = '\0';
        const struct command_spec *section = find_command(trim(line + 1));
        if (!section) return wrong(at, "no command is named", line + 1);
        at->ours = section->command == o->command;
        return 0;
    }
    char *equals = strchr(line, '=');
    if (!equals) return wrong(at, "neither NAME = VALUE nor [COMMAND]:", line);
    *equals = '\0';
    char *name = trim(line);
    return set_value(o, at, name + strspn(name, "-"), unquote(trim(equals + 1)));
}

static int read_lines(struct options *o, const char *path, struct text *file) {
    struct place at = {.path = path, .ours = true};
    if (file->bytes != strlen(file->data))
        return complain(OUTRIDER_EINVAL, "%s: not a text: it holds a NUL", path);
    for (char *line = file->data, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        at.line++;
        CHECK(read_line(o, &at, line));
    }
    return 0;
}

/* No more than MAX_BYTES: the name may be that of something endless. */
static int read_whole(FILE *in, const char *path, struct text *file) {
    enum { MAX_BYTES = 1 << 20 };
    char chunk[4096];
    size_t n;
    while (file->bytes <= MAX_BYTES && (n = fread(chunk, 1, sizeof chunk, in)) > 0)
        CHECK(text_append(file, chunk, n));
    if (ferror(in)) return complain(OUTRIDER_EFAIL, "%s: %s", path, strerror(errno));
    if (file->bytes > MAX_BYTES)
        return complain(OUTRIDER_EINVAL, "%s: more than %d bytes are no configuration", path, MAX_BYTES);
    return text_append(file, "", 0);
}

static int read_file(struct options *o, const char *path, bool asked) {
    struct text file = {0};
    FILE *in = fopen(path, "rb");
    if (!in && !asked) return 0; /* most people have none */
    if (!in) return complain(OUTRIDER_EFAIL, "%s: %s", path, strerror(errno));
    int code = read_whole(in, path, &file);
    fclose(in);
    if (!code) code = read_lines(o, path, &file);
    text_clear(&file);
    if (code) return code;
    o->config = strdup(path);
    return o->config ? 0 : complain_memory();
}

int options_read_config(struct options *o) {
    char path[4096];
    const char *asked = o->values[OPT_CONFIG].text;
    if (asked) return read_file(o, asked, true);
    if (!user_file_path("XDG_CONFIG_HOME", ".config", "config", path, sizeof path)) return 0;
    return read_file(o, path, false);
}

/* ---- showing ---- */

static void print_value(const struct option_spec *s, const char *prefix, const char *text, const char *from) {
    bool spaced = *text == ' ' || *text == '"' || (*text && text[strlen(text) - 1] == ' ') || !*text;
    int n = printf(spaced ? "%s%s = \"%s\"" : "%s%s = %s", prefix, s->name, text);
    printf("%*s# %s\n", n < 40 ? 40 - n : 1, "", from);
}

static void describe_origin(const struct options *o, enum option_id id, char *out, size_t size) {
    const struct option_value *v = &o->values[id];
    char name[64];
    option_environment_name(option_spec(id), name, sizeof name);
    if (v->origin == ORIGIN_FILE)
        snprintf(out, size, "%s, line %d", o->config, v->line);
    else
        snprintf(out, size, "%s", v->origin == ORIGIN_ENVIRONMENT ? name : "command line");
}

/* What is not given: from the model's own file, else the built-in value; as a comment. */
static void print_default(enum option_id id, const outrider_settings *model) {
    const struct option_spec *s = option_spec(id);
    char own[32];
    bool of_model;
    if (setup_default(id, model, own, sizeof own, &of_model)) {
        print_value(s, "#", own, of_model ? "the model's generation_config.json" : "default");
        return;
    }
    const char *text = s->initial ? s->initial : s->kind == KIND_FLAG ? "off" : NULL;
    if (text)
        print_value(s, "#", text, s->shown ? s->shown : "default");
    else
        printf("#%s: %s\n", s->name, s->shown ? s->shown : "none");
}

static void print_options(const struct options *o, const outrider_settings *model) {
    const char *group = "";
    char from[4200];
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        const struct option_value *v = &o->values[id];
        if (!(s->commands & o->command) || id == OPT_HELP || id == OPT_CONFIG) continue;
        if (strcmp(group, s->group)) printf("\n# %s\n", group = s->group);
        if (!v->given) {
            print_default(id, model);
            continue;
        }
        describe_origin(o, id, from, sizeof from);
        if (s->kind != KIND_LIST) print_value(s, "", v->text, from);
        for (size_t i = 0; i < v->n; i++) print_value(s, "", v->list[i], from);
    }
}

static int print_config(const struct options *o, const char *command) {
    struct pair pair;
    outrider_settings model;
    char path[4096] = "none: no home folder";
    user_file_path("XDG_CONFIG_HOME", ".config", "config", path, sizeof path);
    CHECK(setup_pair(o, &pair));
    CHECK(tell(outrider_model_settings(pair.model, &model)));
    printf("# outrider %s; a line in force, or after # what holds without one\n", command);
    printf("# file: %s%s\n", o->config ? o->config : path, o->config ? "" : " (not there)");
    printf("# verifier: %s\n", pair.model);
    if (pair.draft[0]) printf("# draft: %s\n", pair.draft);
    print_options(o, &model);
    return 0;
}

int config_main(int argc, char **argv) {
    const struct command_spec *command = argc > 1 && argv[1][0] != '-' ? find_command(argv[1]) : NULL;
    if (argc > 1 && argv[1][0] != '-' && !command)
        return complain(OUTRIDER_EINVAL, "config: '%s' is no command; outrider --help lists them", argv[1]);
    int skip = command != NULL;
    if (!command) command = find_command("run");
    struct options o;
    int code = options_parse(&o, command->command, argc - skip, argv + skip);
    if (!code) code = print_config(&o, command->name);
    options_free(&o);
    return code;
}

/* The parser of the option table (option_table.c). Invariants: a name belongs to at most one option of a
 * command; a value is checked against its range before it replaces the old one. Relations between options are
 * not checked here.
 */
#include "tools/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "tools/tools.h"

/* ---- names ---- */

static bool has_alias(const char *aliases, const char *name) {
    size_t length = strlen(name);
    for (const char *at = aliases; at && *at; at += strspn(at, " ")) {
        size_t word = strcspn(at, " ");
        if (word == length && !memcmp(at, name, length)) return true;
        at += word;
    }
    return false;
}

enum option_id option_find(enum command command, const char *name, bool long_names, bool short_names) {
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        if (!(s->commands & command)) continue;
        if (long_names && (!strcmp(s->name, name) || has_alias(s->aliases, name))) return id;
        if (short_names && s->short_name && !strcmp(s->short_name, name)) return id;
    }
    return N_OPTIONS;
}

/* Levenshtein's distance in one row; names longer than the row are never near. */
size_t edit_distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b);
    if (n >= 64) return SIZE_MAX;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t swap = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            size_t best = (row[j] < diagonal ? row[j] : diagonal) + 1;
            row[j + 1] = swap < best ? swap : best;
        }
    }
    return row[n];
}

size_t slip_limit(const char *name) {
    return strlen(name) / 3 + 2;
}

const char *option_nearest(enum command command, const char *name) {
    size_t length = strlen(name), best = slip_limit(name);
    const char *nearest = NULL;
    for (int id = 0; id < N_OPTIONS; id++) {
        if (!(option_spec(id)->commands & command)) continue;
        /* a name that was begun is nearer than a likeness: --system is --system-prompt */
        bool begun = length > 2 && !strncmp(option_spec(id)->name, name, length);
        size_t distance = begun ? 0 : edit_distance(name, option_spec(id)->name);
        if (distance >= best) continue;
        best = distance;
        nearest = option_spec(id)->name;
    }
    return nearest;
}

void option_environment_name(const struct option_spec *spec, char *out, size_t size) {
    size_t n = (size_t)snprintf(out, size, "OUTRIDER_%s", spec->name);
    for (size_t i = 0; i < n && i < size; i++) {
        if (out[i] >= 'a' && out[i] <= 'z') out[i] -= 'a' - 'A';
        if (out[i] == '-') out[i] = '_';
    }
}

/* ---- values ---- */

static int parse_flag(const char *spelled, const char *text, int64_t *out) {
    static const char *const words[][2] = {{"0", "1"}, {"off", "on"}, {"false", "true"}, {"no", "yes"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        for (int value = 0; value < 2; value++) {
            if (strcasecmp(text, words[i][value])) continue;
            *out = value;
            return 0;
        }
    }
    return complain(OUTRIDER_EINVAL, "%s: '%s' is neither on nor off", spelled, text);
}

static int parse_int(const struct option_spec *s, const char *spelled, const char *text, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool wrong = end == text || errno;
    long long unit = *end == 'K' || *end == 'k' ? 1 << 10 : *end == 'M' || *end == 'm' ? 1 << 20 : 1;
    if (unit > 1) end++;
    if (s->shown && !strcmp(s->shown, "auto") && !strcmp(text, "auto")) {
        *out = -1;
        return 0;
    }
    if (wrong || *end || __builtin_mul_overflow(value, unit, &value))
        return complain(OUTRIDER_EINVAL, "%s: '%s' is not a whole number; allowed: %.0f to %.0f", spelled,
                        text, s->min, s->max);
    if ((double)value < s->min || (double)value > s->max)
        return complain(OUTRIDER_EINVAL, "%s: %s is out of range; allowed: %.0f to %.0f", spelled, text,
                        s->min, s->max);
    *out = value;
    return 0;
}

static int parse_number(const struct option_spec *s, const char *spelled, const char *text, double *out) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || isnan(value))
        return complain(OUTRIDER_EINVAL, "%s: '%s' is not a number; allowed: %g to %g", spelled, text, s->min,
                        s->max);
    if (value < s->min || value > s->max)
        return complain(OUTRIDER_EINVAL, "%s: %s is out of range; allowed: %g to %g", spelled, text, s->min,
                        s->max);
    *out = value;
    return 0;
}

/* The place of a word in a list like none|draft, -1 where it has none. */
static int64_t place_of(const char *list, const char *text, size_t length) {
    int64_t place = 0;
    for (const char *at = list;; place++) {
        size_t word = strcspn(at, "|");
        if (word == length && !memcmp(at, text, length)) return place;
        if (!at[word]) return -1;
        at += word + 1;
    }
}

static int parse_choice(const struct option_spec *s, const char *spelled, const char *text, int64_t *out) {
    *out = 0;
    for (const char *at = text;;) {
        size_t length = s->several ? strcspn(at, ",") : strlen(at);
        int64_t place = place_of(s->argument, at, length);
        if (place < 0)
            return complain(OUTRIDER_EINVAL, "%s: there is no '%.*s'; allowed: %s", spelled, (int)length, at,
                            s->argument);
        *out |= s->several ? (int64_t)1 << place : place;
        if (!at[length]) return 0;
        at += length + 1;
    }
}

static int parse_value(const struct option_spec *s, const char *spelled, const char *text,
                       struct option_value *v) {
    switch (s->kind) {
    case KIND_FLAG:
        return parse_flag(spelled, text, &v->integer);
    case KIND_INT:
        return parse_int(s, spelled, text, &v->integer);
    case KIND_NUMBER:
        return parse_number(s, spelled, text, &v->number);
    case KIND_CHOICE:
        return parse_choice(s, spelled, text, &v->integer);
    case KIND_TEXT:
    case KIND_LIST:
        return 0;
    }
    return 0;
}

static int list_append(struct option_value *v, const char *text) {
    char *copy = strdup(text);
    char **list = copy ? realloc(v->list, (v->n + 1) * sizeof *list) : NULL;
    if (!list) {
        free(copy);
        return complain_memory();
    }
    v->list = list;
    v->list[v->n++] = copy;
    return 0;
}

static void value_clear(struct option_value *v) {
    for (size_t i = 0; i < v->n; i++) free(v->list[i]);
    free(v->list);
    free(v->text);
    *v = (struct option_value){0};
}

static int value_set(struct option_value *v, const struct option_spec *s, const char *spelled,
                     const char *text) {
    struct option_value fresh = {0};
    CHECK(parse_value(s, spelled, text, &fresh));
    fresh.text = strdup(text);
    if (!fresh.text) return complain_memory();
    if (s->kind == KIND_LIST && list_append(&fresh, text)) {
        value_clear(&fresh);
        return OUTRIDER_ENOMEM;
    }
    value_clear(v);
    *v = fresh;
    return 0;
}

int option_assign(struct options *o, enum option_id id, const char *spelled, const char *text) {
    CHECK(value_set(&o->values[id], option_spec(id), spelled, text));
    o->values[id].given = true;
    o->values[id].origin = ORIGIN_FLAG;
    return 0;
}

int option_add(struct options *o, enum option_id id, const char *spelled, const char *text) {
    struct option_value *v = &o->values[id];
    if (option_spec(id)->kind == KIND_LIST && v->given) return list_append(v, text);
    return option_assign(o, id, spelled, text);
}

void option_reset(struct options *o, enum option_id id) {
    value_clear(&o->values[id]);
    /* the table's own defaults parse; running out of memory here leaves "not given", which is one too */
    if (option_spec(id)->initial)
        value_set(&o->values[id], option_spec(id), option_spec(id)->name, option_spec(id)->initial);
}

/* ---- the command line ---- */

static int unknown(enum command command, const char *argument, const char *name) {
    const char *own = "", *nearest = option_nearest(command, name);
    char others[96] = "";
    size_t n = 0;
    for (size_t i = 0; i < n_commands; i++) {
        if (commands[i].command == command) own = commands[i].name;
        if (option_find(commands[i].command, name, argument[1] == '-', argument[1] != '-') == N_OPTIONS)
            continue;
        n += (size_t)snprintf(others + n, sizeof others - n, "%s%s", n ? ", " : "", commands[i].name);
    }
    if (n)
        return complain(OUTRIDER_EINVAL, "%s is an option of %s; what %s has, outrider %s --help lists",
                        argument, others, own, own);
    if (nearest) return complain(OUTRIDER_EINVAL, "unknown option %s; did you mean --%s?", argument, nearest);
    return complain(OUTRIDER_EINVAL, "unknown option %s; outrider %s --help lists them", argument, own);
}

/* One option at argv[*at]; advances over its value. */
static int parse_argument(struct options *o, int argc, char **argv, int *at) {
    const char *argument = argv[(*at)++];
    bool is_long = argument[1] == '-';
    char name[64];
    const char *equals = is_long ? strchr(argument, '=') : NULL;
    size_t dashes = is_long ? 2 : 1;
    size_t length = equals ? (size_t)(equals - argument) - dashes : strlen(argument) - dashes;
    if (length >= sizeof name) return complain(OUTRIDER_EINVAL, "unknown option %s; see --help", argument);
    memcpy(name, argument + dashes, length);
    name[length] = '\0';

    char spelled[68];
    snprintf(spelled, sizeof spelled, "%.*s%s", (int)dashes, "--", name);
    enum option_id id = option_find(o->command, name, is_long, !is_long);
    if (id == N_OPTIONS) return unknown(o->command, spelled, name);
    if (id == OPT_HELP) {
        help_command(stdout, o->command, equals ? equals + 1 : NULL);
        return OPTIONS_HELPED;
    }
    if (equals) return option_add(o, id, spelled, equals + 1);
    if (option_spec(id)->kind == KIND_FLAG) return option_add(o, id, spelled, "on");
    int values = option_spec(id)->values ? option_spec(id)->values : 1;
    if (argc - *at < values)
        return complain(OUTRIDER_EINVAL, "%s needs %s: %s %s", spelled, values > 1 ? "values" : "a value",
                        spelled, option_spec(id)->argument);
    while (values--) CHECK(option_add(o, id, spelled, argv[(*at)++]));
    return 0;
}

static int parse_arguments(struct options *o, int argc, char **argv) {
    int at = 1;
    while (at < argc) {
        if (argv[at][0] != '-' || !argv[at][1])
            return complain(OUTRIDER_EINVAL, "unexpected argument '%s'; a%s model follows -m", argv[at],
                            option_spec(OPT_PROMPT)->commands & o->command ? " prompt follows -p, a" : "");
        CHECK(parse_argument(o, argc, argv, &at));
    }
    return 0;
}

int options_apply(struct options *o, const char *spelled, const char *text) {
    enum { MOST = 64 };
    char *words = strdup(text), *rest = NULL, *argv[MOST];
    int argc = 1, code = OUTRIDER_EINVAL;
    if (!words) return complain_memory();
    argv[0] = words;
    for (char *w = strtok_r(words, " \t\n", &rest); w && argc < MOST; w = strtok_r(NULL, " \t\n", &rest))
        argv[argc++] = w;
    if (argc == MOST)
        complain(code, "%s: more than %d words", spelled, MOST - 2);
    else
        code = parse_arguments(o, argc, argv);
    if (code == OPTIONS_HELPED) code = OUTRIDER_EINVAL; /* printed, but not what was asked for */
    free(words);
    return code;
}

static bool is_twin(const char *name) {
    char twin[64];
    for (int id = 0; id < N_OPTIONS; id++) {
        option_environment_name(option_spec(id), twin, sizeof twin);
        if (!strcmp(name, twin)) return true;
    }
    return false;
}

/* A slip in a twin's name would else have no effect, and nobody would hear of it. */
static void note_unknown_twins(void) {
    static const char ours[] = "OUTRIDER_";
    for (char **at = environ; *at; at++) {
        char name[64];
        size_t length = strcspn(*at, "=");
        if (strncmp(*at, ours, sizeof ours - 1) || length >= sizeof name) continue;
        snprintf(name, sizeof name, "%.*s", (int)length, *at);
        if (!is_twin(name))
            fprintf(stderr, "note: %s in the environment is no option's, and does nothing\n", name);
    }
}

/* What is set to nothing counts as not set. */
static int parse_environment(struct options *o) {
    note_unknown_twins();
    char name[64];
    for (int id = 0; id < N_OPTIONS; id++) {
        if (!(option_spec(id)->commands & o->command) || o->values[id].given || id == OPT_HELP) continue;
        option_environment_name(option_spec(id), name, sizeof name);
        const char *text = getenv(name);
        if (!text || !*text) continue;
        CHECK(option_assign(o, id, name, text));
        o->values[id].origin = ORIGIN_ENVIRONMENT;
    }
    return 0;
}

int options_parse(struct options *o, enum command command, int argc, char **argv) {
    *o = (struct options){.command = command};
    CHECK(parse_arguments(o, argc, argv));
    CHECK(parse_environment(o));
    CHECK(options_read_config(o));
    for (int id = 0; id < N_OPTIONS; id++)
        if (!o->values[id].given) option_reset(o, id);
    return 0;
}

void options_free(struct options *o) {
    for (int id = 0; id < N_OPTIONS; id++) value_clear(&o->values[id]);
    free(o->config);
    o->config = NULL;
}

int options_copy(const struct options *from, struct options *to) {
    *to = (struct options){.command = from->command, .config = from->config ? strdup(from->config) : NULL};
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_value *v = &from->values[id];
        option_reset(to, id);
        if (!v->given) continue;
        if (option_spec(id)->kind != KIND_LIST) CHECK(option_assign(to, id, option_spec(id)->name, v->text));
        for (size_t i = 0; i < v->n; i++) CHECK(option_add(to, id, option_spec(id)->name, v->list[i]));
        to->values[id].origin = v->origin;
        to->values[id].line = v->line;
    }
    return 0;
}

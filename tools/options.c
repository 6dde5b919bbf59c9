/* The option table and its parser. Invariants: a name belongs to at most one option of a command; a value is
 * checked against its range before it replaces the old one. Relations between options are not checked here.
 */
#include "tools/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tools/tools.h"

#define CMD_LOADS (CMD_RUN | CMD_CHAT | CMD_BENCH | CMD_EVAL)
#define CMD_WRITES (CMD_RUN | CMD_CHAT | CMD_BENCH)
#define CMD_TEXT (CMD_RUN | CMD_CHAT)

static const char of_model[] = "the model's own";

/* clang-format off */
static const struct option_spec table[N_OPTIONS] = {
    [OPT_MODEL] = {"model", "m", NULL, KIND_TEXT, CMD_ALL, "model", "DIR",
        .shown = "the shipped pair", .help = "folder of the model that writes the text, the verifier"},
    [OPT_MODEL_DRAFT] = {"model-draft", "md", "draft-model spec-draft-model", KIND_TEXT,
        CMD_WRITES | CMD_INSPECT, "model", "DIR", .shown = "none; with the shipped pair its draft",
        .help = "folder of the small model that proposes; its vocabulary must equal the verifier's"},
    [OPT_CTX_SIZE] = {"ctx-size", "c", NULL, KIND_INT, CMD_ALL, "model", "N", 0, INT32_MAX,
        .shown = "what the models know, up to 8192",
        .help = "tokens that a session can hold; 0 for the default"},
    [OPT_DEVICE] = {"device", NULL, NULL, KIND_TEXT, CMD_LOADS, "model", "NAME", .shown = "auto",
        .help = "auto, cpu, cpu:avx2 (an instruction set), cuda, cuda:1 (a card)"},
    [OPT_THREADS] = {"threads", "t", NULL, KIND_INT, CMD_LOADS, "model", "N", 0, 256, .shown = "one a core",
        .help = "processor threads; 0 for one a core"},
    [OPT_CACHE_TYPE] = {"cache-type", "ctk", "cache-type-k", KIND_CHOICE, CMD_ALL, "model", "f16|f32",
        .initial = "f16", .help = "number format of the cache of keys and values"},
    [OPT_PAGE_SIZE] = {"page-size", NULL, NULL, KIND_INT, CMD_LOADS, "model", "N", 16, 256,
        .shown = "chosen by the engine", .help = "tokens in a page of the cache: 16, 32, 64, 128 or 256"},

    [OPT_PROMPT] = {"prompt", "p", NULL, KIND_TEXT, CMD_RUN, "prompt", "TEXT",
        .help = "text to go on from; - reads standard input"},
    [OPT_FILE] = {"file", "f", NULL, KIND_TEXT, CMD_RUN | CMD_EVAL, "prompt", "FILE",
        .help = "a file with the text; - reads standard input. Before the text of --prompt"},
    [OPT_SYSTEM_PROMPT] = {"system-prompt", "sys", NULL, KIND_TEXT, CMD_CHAT, "prompt", "TEXT",
        .help = "what the model is told before the conversation"},
    [OPT_CHAT_TEMPLATE] = {"chat-template", NULL, NULL, KIND_TEXT, CMD_CHAT, "prompt", "NAME",
        .shown = "as the model says",
        .help = "how turns are written: chatml, llama2, llama3, mistral, gemma, zephyr, tale"},

    [OPT_PREDICT] = {"predict", "n", "n-predict", KIND_INT, CMD_TEXT, "length", "N", -1, INT32_MAX,
        .initial = "-1", .help = "most tokens to write; -1 until the text or the context ends"},
    [OPT_STOP] = {"stop", NULL, NULL, KIND_LIST, CMD_TEXT, "length", "TEXT",
        .help = "a text that ends the answer and is not part of it; may be given several times"},
    [OPT_IGNORE_EOS] = {"ignore-eos", NULL, NULL, KIND_FLAG, CMD_TEXT, "length",
        .help = "go on when the model ends its text"},

    [OPT_SEED] = {"seed", "s", NULL, KIND_INT, CMD_WRITES, "sampling", "N", -1, 9007199254740991.0,
        .initial = "-1", .help = "start of the random numbers; -1 for a new one each time"},
    [OPT_TEMP] = {"temp", NULL, "temperature", KIND_NUMBER, CMD_WRITES, "sampling", "T", 0, 100,
        .shown = of_model, .help = "0 takes the likeliest token each time; bench takes 0 unless told"},
    [OPT_TOP_K] = {"top-k", NULL, NULL, KIND_INT, CMD_WRITES, "sampling", "K", 0, INT32_MAX,
        .shown = of_model, .help = "keep the K likeliest tokens; 0 keeps all"},
    [OPT_TOP_P] = {"top-p", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "P", 0, 1,
        .shown = of_model, .help = "keep the likeliest tokens up to this share; 1 keeps all"},
    [OPT_MIN_P] = {"min-p", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "P", 0, 1,
        .shown = of_model, .help = "drop tokens less likely than this share of the likeliest; 0 keeps all"},
    [OPT_REPEAT_PENALTY] = {"repeat-penalty", NULL, "repetition-penalty", KIND_NUMBER, CMD_WRITES, "sampling",
        "X", 0.01, 100, .shown = of_model, .help = "weaken tokens seen of late; 1 is off"},
    [OPT_REPEAT_LAST_N] = {"repeat-last-n", NULL, NULL, KIND_INT, CMD_WRITES, "sampling", "N", -1, INT32_MAX,
        .shown = of_model, .help = "tokens that the penalties look back on; -1 for all"},
    [OPT_PRESENCE_PENALTY] = {"presence-penalty", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "X",
        -100, 100, .shown = of_model, .help = "taken from the logit of each token seen of late; 0 is off"},
    [OPT_FREQUENCY_PENALTY] = {"frequency-penalty", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "X",
        -100, 100, .shown = of_model, .help = "the same, times how often it was seen; 0 is off"},
    [OPT_LOGIT_BIAS] = {"logit-bias", "l", NULL, KIND_LIST, CMD_WRITES, "sampling", "ID=BIAS",
        .help = "added to the logit of a token; -inf forbids it. Also ID+BIAS and ID-BIAS; may be repeated"},

    [OPT_SPEC_TYPE] = {"spec-type", NULL, NULL, KIND_CHOICE, CMD_WRITES, "speculation",
        "auto|draft|ngram|none", .initial = "auto",
        .help = "who proposes tokens: the draft model; ngram, what followed the same words earlier; auto, "
        "either, as it pays"},
    [OPT_SPEC_DRAFT_N_MAX] = {"spec-draft-n-max", NULL, "draft-max draft draft-n num-draft-tokens", KIND_INT,
        CMD_TEXT, "speculation", "K", -1, OUTRIDER_MAX_DRAFT, .initial = "-1", .shown = "auto",
        .help = "tokens proposed in a round; 0 for plain decoding, -1 or auto to let the engine choose"},
    [OPT_SPEC_ACCEPT] = {"spec-accept", NULL, NULL, KIND_CHOICE, CMD_WRITES, "speculation",
        "rejection|block|coupled", .initial = "block", .shown = "block; coupled when a seed is given",
        .help = "acceptance rule when sampling; coupled gives one text per seed whatever the draft"},
    [OPT_REPRODUCIBLE] = {"reproducible", NULL, NULL, KIND_FLAG, CMD_WRITES, "speculation",
        .help = "the same as --spec-accept coupled, whatever else says otherwise"},

    [OPT_BENCH_N_PROMPT] = {"n-prompt", "p", NULL, KIND_TEXT, CMD_BENCH, "measurement", "LIST",
        .initial = "512", .help = "prompt lengths to time, such as 128,512; 0 for none"},
    [OPT_BENCH_N_GEN] = {"n-gen", "n", NULL, KIND_TEXT, CMD_BENCH, "measurement", "LIST", .initial = "128",
        .help = "numbers of tokens to write; 0 for none"},
    [OPT_BENCH_DRAFT_N_MAX] = {"spec-draft-n-max", NULL, "draft-max draft draft-n num-draft-tokens",
        KIND_TEXT, CMD_BENCH, "measurement", "LIST", .initial = "auto,2,4,8",
        .help = "tokens proposed in a round, such as auto,1-4,8; 0 for plain decoding alone"},
    [OPT_BENCH_REPETITIONS] = {"repetitions", "r", NULL, KIND_INT, CMD_BENCH, "measurement", "N", 1, 1000,
        .initial = "5", .help = "times that each measurement is taken, plain and speculative in turn"},
    [OPT_BENCH_PROMPTS] = {"prompts", NULL, NULL, KIND_TEXT, CMD_BENCH, "measurement", "FILE",
        .shown = "eight built-in openings",
        .help = "prompts to go on from: a line {\"prompt\": \"...\"} each"},

    [OPT_OUTPUT] = {"output", "o", NULL, KIND_CHOICE, CMD_BENCH, "output", "md|csv|json|jsonl",
        .initial = "md", .help = "form of the result"},
    [OPT_JSON] = {"json", NULL, NULL, KIND_FLAG, CMD_RUN | CMD_EVAL | CMD_INSPECT, "output",
        .help = "one JSON object on standard output"},
    [OPT_NO_STREAM] = {"no-stream", NULL, NULL, KIND_FLAG, CMD_TEXT, "output",
        .help = "write the text when it is complete"},
    [OPT_NO_HISTORY] = {"no-history", NULL, NULL, KIND_FLAG, CMD_CHAT, "output",
        .help = "neither read nor write the file of lines typed before"},
    [OPT_PROGRESS] = {"progress", NULL, NULL, KIND_FLAG, CMD_BENCH, "output",
        .help = "a line on standard error for each measurement"},
    [OPT_COLOR] = {"color", NULL, NULL, KIND_CHOICE, CMD_LOADS, "output", "auto|on|off", .initial = "auto",
        .help = "auto: on a terminal, unless NO_COLOR is set"},
    [OPT_SIMPLE_IO] = {"simple-io", NULL, NULL, KIND_FLAG, CMD_LOADS, "output",
        .help = "no line editing, colour or progress bar"},
    [OPT_VERBOSE] = {"verbose", "v", NULL, KIND_FLAG, CMD_LOADS, "output",
        .help = "say more on standard error: device, cache, time of each part"},
    [OPT_HELP] = {"help", "h", NULL, KIND_FLAG, CMD_ALL, "output",
        .help = "this help; --help=WORD shows the options that mention WORD"},
};
/* clang-format on */

const struct option_spec *option_spec(enum option_id id) {
    return &table[id];
}

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
        const struct option_spec *s = &table[id];
        if (!(s->commands & command)) continue;
        if (long_names && (!strcmp(s->name, name) || has_alias(s->aliases, name))) return id;
        if (short_names && s->short_name && !strcmp(s->short_name, name)) return id;
    }
    return N_OPTIONS;
}

/* Levenshtein's distance in one row; names longer than the row are never near. */
static size_t edit_distance(const char *a, const char *b) {
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

const char *option_nearest(enum command command, const char *name) {
    size_t best = strlen(name) / 3 + 2;
    const char *nearest = NULL;
    for (int id = 0; id < N_OPTIONS; id++) {
        if (!(table[id].commands & command)) continue;
        size_t distance = edit_distance(name, table[id].name);
        if (distance >= best) continue;
        best = distance;
        nearest = table[id].name;
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

static int parse_choice(const struct option_spec *s, const char *spelled, const char *text, int64_t *out) {
    size_t length = strlen(text);
    int64_t place = 0;
    for (const char *at = s->argument;; place++) {
        size_t word = strcspn(at, "|");
        if (word == length && !memcmp(at, text, length)) {
            *out = place;
            return 0;
        }
        if (!at[word]) break;
        at += word + 1;
    }
    return complain(OUTRIDER_EINVAL, "%s: '%s' is none of %s", spelled, text, s->argument);
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
    CHECK(value_set(&o->values[id], &table[id], spelled, text));
    o->values[id].given = true;
    return 0;
}

int option_add(struct options *o, enum option_id id, const char *spelled, const char *text) {
    struct option_value *v = &o->values[id];
    if (table[id].kind == KIND_LIST && v->given) return list_append(v, text);
    return option_assign(o, id, spelled, text);
}

void option_reset(struct options *o, enum option_id id) {
    value_clear(&o->values[id]);
    /* the table's own defaults parse; running out of memory here leaves "not given", which is one too */
    if (table[id].initial) value_set(&o->values[id], &table[id], table[id].name, table[id].initial);
}

/* ---- the command line ---- */

static int unknown(enum command command, const char *argument, const char *name) {
    for (unsigned other = 1; other < CMD_ALL; other <<= 1) {
        if (option_find(other, name, argument[1] == '-', argument[1] != '-') == N_OPTIONS) continue;
        return complain(OUTRIDER_EINVAL, "%s is not an option of this command; see --help", argument);
    }
    const char *nearest = option_nearest(command, name);
    if (nearest) return complain(OUTRIDER_EINVAL, "unknown option %s; did you mean --%s?", argument, nearest);
    return complain(OUTRIDER_EINVAL, "unknown option %s; see --help", argument);
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
    if (table[id].kind == KIND_FLAG) return option_add(o, id, spelled, "on");
    if (*at == argc)
        return complain(OUTRIDER_EINVAL, "%s needs a value: %s %s", spelled, spelled, table[id].argument);
    return option_add(o, id, spelled, argv[(*at)++]);
}

static int parse_arguments(struct options *o, int argc, char **argv) {
    int at = 1;
    while (at < argc) {
        if (argv[at][0] != '-' || !argv[at][1])
            return complain(OUTRIDER_EINVAL, "unexpected argument '%s'; a prompt follows -p, a model -m",
                            argv[at]);
        CHECK(parse_argument(o, argc, argv, &at));
    }
    return 0;
}

static int parse_environment(struct options *o) {
    char name[64];
    for (int id = 0; id < N_OPTIONS; id++) {
        if (!(table[id].commands & o->command) || o->values[id].given || id == OPT_HELP) continue;
        option_environment_name(&table[id], name, sizeof name);
        const char *text = getenv(name);
        if (text) CHECK(option_assign(o, id, name, text));
    }
    return 0;
}

int options_parse(struct options *o, enum command command, int argc, char **argv) {
    *o = (struct options){.command = command};
    CHECK(parse_arguments(o, argc, argv));
    CHECK(parse_environment(o));
    for (int id = 0; id < N_OPTIONS; id++)
        if (!o->values[id].given) option_reset(o, id);
    return 0;
}

void options_free(struct options *o) {
    for (int id = 0; id < N_OPTIONS; id++) value_clear(&o->values[id]);
}

int options_copy(const struct options *from, struct options *to) {
    *to = (struct options){.command = from->command};
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_value *v = &from->values[id];
        option_reset(to, id);
        if (!v->given) continue;
        if (table[id].kind != KIND_LIST) CHECK(option_assign(to, id, table[id].name, v->text));
        for (size_t i = 0; i < v->n; i++) CHECK(option_add(to, id, table[id].name, v->list[i]));
    }
    return 0;
}

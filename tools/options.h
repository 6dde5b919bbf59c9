/* The options of every subcommand, from one table (option_table.c): parsing, environment twins, ranges, help,
 * the manual page and the shell completion all read it.
 *
 * A value comes from the command line, else from the environment (--top-k has OUTRIDER_TOP_K), else from the
 * configuration file (config_file.c), else from the table; a value without an entry there stays "not given"
 * and the model's own default holds. Names follow
 * llama.cpp, so -md is one option and not two; values of a short name stand in the next argument.
 */
#ifndef OUTRIDER_OPTIONS_H
#define OUTRIDER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum command {
    CMD_RUN = 1,
    CMD_CHAT = 2,
    CMD_BENCH = 4,
    CMD_EVAL = 8,
    CMD_INSPECT = 16,
    CMD_CONVERT = 32,
    CMD_CHECK = 64,
    CMD_ALL = 31 | CMD_CHECK, /* those that run or describe a model */
};

enum option_id {
    OPT_MODEL,
    OPT_MODEL_DRAFT,
    OPT_CTX_SIZE,
    OPT_DEVICE,
    OPT_THREADS,
    OPT_CACHE_TYPE,
    OPT_CACHE_TYPE_V,
    OPT_QUANT,
    OPT_EVAL_QUANT,
    OPT_EVAL_AB,
    OPT_DRAFT_QUANT,
    OPT_PAGE_SIZE,
    OPT_CACHE_TOKENS,
    OPT_SANDBOX,
    OPT_PROMPT,
    OPT_FILE,
    OPT_IN_PREFIX,
    OPT_BATCH,
    OPT_PARALLEL,
    OPT_SYSTEM_PROMPT,
    OPT_CHAT_TEMPLATE,
    OPT_PREDICT,
    OPT_STOP,
    OPT_IGNORE_EOS,
    OPT_SEED,
    OPT_TEMP,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_REPEAT_PENALTY,
    OPT_REPEAT_LAST_N,
    OPT_PRESENCE_PENALTY,
    OPT_FREQUENCY_PENALTY,
    OPT_LOGIT_BIAS,
    OPT_SPEC_TYPE,
    OPT_SELF_LAYERS,
    OPT_SPEC_DRAFT_N_MAX,
    OPT_SPEC_TREE,
    OPT_SPEC_ACCEPT,
    OPT_REPRODUCIBLE,
    OPT_CHECK_PREDICT,
    OPT_BENCH_N_PROMPT,
    OPT_BENCH_N_GEN,
    OPT_BENCH_DEPTH,
    OPT_BENCH_PARALLEL,
    OPT_BENCH_DRAFT_N_MAX,
    OPT_BENCH_ACCEPT,
    OPT_BENCH_SYNTHETIC,
    OPT_BENCH_SELF_SWEEP,
    OPT_BENCH_REPETITIONS,
    OPT_BENCH_PROMPTS,
    OPT_EVAL_PROMPTS,
    OPT_BENCH_CLOCK,
    OPT_CONVERT_OUTPUT,
    OPT_CONVERT_TYPE,
    OPT_OUTPUT,
    OPT_EVAL_OUTPUT,
    OPT_JSON,
    OPT_JSONL,
    OPT_LOGPROBS,
    OPT_UNORDERED,
    OPT_NO_STREAM,
    OPT_SPEC_SHOW,
    OPT_NO_HISTORY,
    OPT_PROGRESS,
    OPT_COLOR,
    OPT_SIMPLE_IO,
    OPT_VERBOSE,
    OPT_CONFIG,
    OPT_HELP,
    N_OPTIONS
};

enum option_kind {
    KIND_FLAG,   /* integer: 0 or 1 */
    KIND_INT,    /* integer; accepts 32K and 2M, and "auto" for -1 where that is shown */
    KIND_NUMBER, /* number */
    KIND_TEXT,   /* text */
    KIND_CHOICE, /* integer: place in `argument`, a list like none|draft */
    KIND_LIST,   /* list; may be given several times */
};

struct option_spec {
    const char *name;       /* without dashes */
    const char *short_name; /* without the dash; NULL for none */
    const char *aliases;    /* further long names, separated by spaces; NULL for none */
    enum option_kind kind;
    unsigned commands; /* where it applies: CMD_ bits */
    const char *group;
    const char *argument; /* what help calls the value */
    double min, max;      /* of KIND_INT and KIND_NUMBER */
    const char *initial;  /* the default, as a user would write it; NULL for none */
    const char *shown;    /* the default in words, where `initial` does not say it */
    const char *help;
    int values;   /* of KIND_LIST: arguments that it takes each time; 0 means 1 */
    bool several; /* of KIND_CHOICE: more than one, with commas between; integer: a bit for each place */
};

enum option_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_FLAG };

struct option_value {
    bool given; /* on the command line, in the environment, in the file or by /set */
    enum option_origin origin;
    int line; /* of the configuration file, for ORIGIN_FILE */
    int64_t integer;
    double number;
    char *text; /* as written; owned. NULL when there is no value */
    char **list;
    size_t n;
};

struct options {
    enum command command;
    struct option_value values[N_OPTIONS];
    char *config; /* the configuration file that was read; owned, NULL for none */
};

enum { OPTIONS_HELPED = -1 }; /* help was asked for and printed: nothing else to do */

/* argv[0] is the subcommand. Fills *o, also on failure, for options_free. Returns 0, OPTIONS_HELPED, or a
 * status that has been told. */
int options_parse(struct options *o, enum command command, int argc, char **argv);
void options_free(struct options *o);
/* Values of their own, for a change that may be taken back; *to is for options_free also on failure. */
int options_copy(const struct options *from, struct options *to);

/* Replaces one value, or for a list the values so far; on failure the old one stays. `spelled` is the name to
 * blame. The origin is as from the command line. */
int option_assign(struct options *o, enum option_id id, const char *spelled, const char *text);
/* The same, but a list that was given grows. */
int option_add(struct options *o, enum option_id id, const char *spelled, const char *text);
/* Options written in one text, blanks between them, over those that *o has; `spelled` is the option that
 * holds them. */
int options_apply(struct options *o, const char *spelled, const char *text);
/* Back to the default. */
void option_reset(struct options *o, enum option_id id);

const struct option_spec *option_spec(enum option_id id);
/* By long, short or other name without dashes; N_OPTIONS when the command has none such. */
enum option_id option_find(enum command command, const char *name, bool long_names, bool short_names);
/* The nearest long name of the command, or NULL when none is near. */
/* Letters to insert, drop or change. A third of a name and one more are a slip; beyond that it is another. */
size_t edit_distance(const char *a, const char *b);
size_t slip_limit(const char *name); /* what distances must stay below */
const char *option_nearest(enum command command, const char *name);
/* OUTRIDER_TOP_K of top-k. */
void option_environment_name(const struct option_spec *spec, char *out, size_t size);

/* ---- config_file.c ---- */
/* Gives what is not given yet from the configuration file: what --config or OUTRIDER_CONFIG names, else
 * $XDG_CONFIG_HOME/outrider/config where there is one. A wrong line is told with file and line. */
int options_read_config(struct options *o);
/* outrider config [COMMAND] [options]: what is in force for the command, and where each value comes from, in
 * the form of the configuration file. */
int config_main(int argc, char **argv);

/* ---- help.c ---- */
struct command_spec {
    const char *name;
    enum command command;
    const char *summary;
    int (*run)(struct options *o);
};
extern const struct command_spec commands[];
extern const size_t n_commands;
const struct command_spec *find_command(const char *name); /* NULL when there is none */

void help_program(FILE *out);
/* Options of one command, grouped; with `word`, those that mention it. */
void help_command(FILE *out, enum command command, const char *word);

/* ---- documents.c: what is generated from the table for others to read ---- */
void help_manual(FILE *out);
/* For "bash", "zsh" or "fish"; false for another shell. */
bool help_completion(FILE *out, const char *shell);
/* The line of an option's help: text, default, other names. */
void option_describe(const struct option_spec *s, char *out, size_t size);

#endif

/* --help, from the option table. What others read is made by documents.c. */
#include "tools/options.h"

#include <string.h>
#include <strings.h>

#include "tools/tools.h"

enum { NAME_COLUMN = 34, LINE_WIDTH = 100 };

const struct command_spec commands[] = {
    {"run", CMD_RUN, "write the text that follows a prompt", cmd_run},
    {"chat", CMD_CHAT, "hold a conversation; /help lists what can be typed", cmd_chat},
    {"bench", CMD_BENCH, "measure plain against speculative decoding, interleaved, on the same prompts",
     cmd_bench},
    {"check", CMD_CHECK, "prove on this machine that a pair's speculative answers are the plain ones",
     cmd_check},
    {"eval", CMD_EVAL, "perplexity of a text, and how far precisions or models are apart", cmd_eval},
    {"inspect", CMD_INSPECT, "say what a model is and what memory it needs", cmd_inspect},
    {"convert", CMD_CONVERT, "write a folder as a GGUF file, or a GGUF file as a folder", cmd_convert},
};
const size_t n_commands = sizeof commands / sizeof commands[0];

const struct command_spec *find_command(const char *name) {
    for (size_t i = 0; i < n_commands; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

void help_program(FILE *out) {
    fputs("usage: outrider COMMAND [options]\n\n", out);
    for (size_t i = 0; i < n_commands; i++)
        fprintf(out, "  %-10s%s\n", commands[i].name, commands[i].summary);
    fputs("\n  outrider COMMAND --help     options of a command; --help=WORD those that mention WORD\n"
          "  outrider config [COMMAND]   the settings in force and where each comes from\n"
          "  outrider --version          the version\n"
          "  outrider --man              the manual page, in roff\n"
          "  outrider --completion SHELL the completion of bash, zsh or fish\n"
          "\nWithout -m the shipped pair of small models writes:\n"
          "  outrider run -p \"Once upon a time\"\n"
          "  outrider chat\n",
          out);
}

/* Writes `text` from column `indent` on, further lines indented as far. */
static void wrap(FILE *out, const char *text, size_t indent) {
    size_t column = indent;
    for (; *text; text += strspn(text, " ")) {
        size_t word = strcspn(text, " ");
        bool first = column == indent;
        if (!first && column + 1 + word > LINE_WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        fprintf(out, "%s%.*s", first ? "" : " ", (int)word, text);
        column += word + !first;
        text += word;
    }
    fputc('\n', out);
}

void option_describe(const struct option_spec *s, char *out, size_t size) {
    const char *initial = s->shown ? s->shown : s->initial;
    size_t n = (size_t)snprintf(out, size, "%s", s->help);
    if (initial) n += (size_t)snprintf(out + n, size - n, " (default: %s)", initial);
    if (!s->aliases) return;
    n += (size_t)snprintf(out + n, size - n, "; also");
    for (const char *at = s->aliases; *at; at += strspn(at, " ")) {
        size_t word = strcspn(at, " ");
        n += (size_t)snprintf(out + n, size - n, " --%.*s", (int)word, at);
        at += word;
    }
}

static void help_option(FILE *out, const struct option_spec *s) {
    char name[96], text[512];
    option_describe(s, text, sizeof text);
    snprintf(name, sizeof name, "  %s%-4s --%s%s%s", s->short_name ? "-" : " ",
             s->short_name ? s->short_name : "", s->name, s->argument ? " " : "",
             s->argument ? s->argument : "");
    if (strlen(name) < NAME_COLUMN)
        fprintf(out, "%-*s", NAME_COLUMN, name);
    else
        fprintf(out, "%s\n%*s", name, NAME_COLUMN, "");
    wrap(out, text, NAME_COLUMN);
}

static bool mentions(const struct option_spec *s, const char *word) {
    return !word || strcasestr(s->name, word) || strcasestr(s->help, word) || strcasestr(s->group, word) ||
           (s->aliases && strcasestr(s->aliases, word));
}

void help_command(FILE *out, enum command command, const char *word) {
    for (size_t i = 0; i < n_commands; i++) {
        if (commands[i].command != command) continue;
        fprintf(out, "usage: outrider %s [options]\n\n", commands[i].name);
        wrap(out, commands[i].summary, 0);
    }
    const char *group = "";
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        if (!(s->commands & command) || !mentions(s, word)) continue;
        if (strcmp(group, s->group)) fprintf(out, "\n%s\n", group = s->group);
        help_option(out, s);
    }
    if (word && !*group) {
        fprintf(out, "\nno option mentions '%s'; --help without a word shows all\n", word);
        return;
    }
    fputs("\nEach option has a twin in the environment, such as OUTRIDER_TOP_K, and may stand in the\n"
          "configuration file; the option wins, then the environment, the file, the model.\n"
          "Numbers may end in K (1024) or M. Flags take =off where something else turned them on.\n",
          out);
}

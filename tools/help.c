/* What the option table says of itself: --help, the manual page and the completion of bash. */
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
    {"eval", CMD_EVAL, "perplexity of a text under the verifier", cmd_eval},
    {"inspect", CMD_INSPECT, "say what a model is and what memory it needs", cmd_inspect},
};
const size_t n_commands = sizeof commands / sizeof commands[0];

static const char exit_codes[] =
    "0 done; 1 failure while running; 2 wrong usage, or a prompt longer than the "
    "context; 3 bad or missing model; 4 no memory or no such device; 130 "
    "interrupted with Ctrl-C. A reader that closes the pipe ends the program "
    "quietly with SIGPIPE, which shells report as 141.";

void help_program(FILE *out) {
    fputs("usage: outrider COMMAND [options]\n\n", out);
    for (size_t i = 0; i < n_commands; i++)
        fprintf(out, "  %-10s%s\n", commands[i].name, commands[i].summary);
    fputs("\n  outrider COMMAND --help     options of a command; --help=WORD those that mention WORD\n"
          "  outrider --version          the version\n"
          "  outrider --man              the manual page, in roff\n"
          "  outrider --completion       the completion of bash\n"
          "\nWithout -m the shipped pair of small models writes:\n"
          "  outrider run -p \"Once upon a time\"\n",
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

static void describe(const struct option_spec *s, char *out, size_t size) {
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
    describe(s, text, sizeof text);
    snprintf(name, sizeof name, "  %s%-4s --%s %s", s->short_name ? "-" : " ",
             s->short_name ? s->short_name : "", s->name, s->argument ? s->argument : "");
    int width = fprintf(out, "%-*s", NAME_COLUMN, name);
    if (width >= NAME_COLUMN) fprintf(out, "\n%*s", NAME_COLUMN, "");
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
    fputs("\nEach option has a twin in the environment, such as OUTRIDER_TOP_K; the option wins.\n", out);
    fputs("Numbers may end in K (1024) or M.\n", out);
}

/* ---- manual page ---- */

static void roff(FILE *out, const char *text) {
    for (; *text; text++) {
        if (*text == '-' || *text == '\\') fputc('\\', out);
        fputc(*text, out);
    }
}

static void roff_line(FILE *out, const char *request, const char *text) {
    fprintf(out, "%s", request);
    roff(out, text);
    fputc('\n', out);
}

static void manual_commands(FILE *out, unsigned mask) {
    const char *separator = "";
    fputs("Of ", out);
    for (size_t i = 0; i < n_commands; i++) {
        if (!(commands[i].command & mask)) continue;
        fprintf(out, "%s%s", separator, commands[i].name);
        separator = ", ";
    }
}

static void manual_option(FILE *out, const struct option_spec *s) {
    char text[512];
    fputs(".TP\n", out);
    if (s->short_name) fprintf(out, "\\fB\\-%s\\fR, ", s->short_name);
    fputs("\\fB\\-\\-", out);
    roff(out, s->name);
    fprintf(out, "\\fR \\fI%s\\fR\n", s->argument ? s->argument : "");
    describe(s, text, sizeof text);
    roff_line(out, "", text);
    fputs(".br\n", out);
    manual_commands(out, s->commands);
    if (!strcmp(s->name, "help")) {
        fputs(".\n", out);
        return;
    }
    option_environment_name(s, text, sizeof text);
    fprintf(out, "; \\fB%s\\fR.\n", text);
}

static const char *const manual_head[][2] = {
    {"NAME", "outrider - run large language models faster by speculative decoding"},
    {"SYNOPSIS", "outrider COMMAND [options]"},
    {"DESCRIPTION",
     "A small draft model proposes a run of tokens, one pass of the large model, the verifier, scores all of "
     "them, and the run that the verifier itself would have written is kept. The text is the verifier's own: "
     "at temperature 0 bit for bit. Generated text, tables and JSON go to standard output, everything else "
     "to "
     "standard error."},
};

void help_manual(FILE *out) {
    fprintf(out, ".TH OUTRIDER 1 \"\" \"outrider %s\" \"User Commands\"\n", outrider_version());
    for (size_t i = 0; i < sizeof manual_head / sizeof manual_head[0]; i++) {
        fprintf(out, ".SH %s\n", manual_head[i][0]);
        roff_line(out, "", manual_head[i][1]);
    }
    fputs(".SH COMMANDS\n", out);
    for (size_t i = 0; i < n_commands; i++) {
        fprintf(out, ".TP\n\\fB%s\\fR\n", commands[i].name);
        roff_line(out, "", commands[i].summary);
    }
    const char *group = "";
    fputs(".SH OPTIONS\nNumbers may end in K (1024) or M. After each option stand the commands that know it "
          "and "
          "its twin in the environment; the option wins.\n",
          out);
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        if (strcmp(group, s->group)) fprintf(out, ".SS %s\n", group = s->group);
        manual_option(out, s);
    }
    roff_line(out, ".SH EXIT STATUS\n", exit_codes);
    fputs(".SH FILES\n.TP\n\\fI$XDG_STATE_HOME/outrider/history\\fR\nlines typed into chat; "
          "\\fI~/.local/state\\fR when the variable is not set.\n",
          out);
}

/* ---- completion ---- */

static void completion_names(FILE *out, const struct option_spec *s) {
    fprintf(out, "        --%s", s->name);
    if (s->short_name) fprintf(out, " | -%s", s->short_name);
    fputs(") ", out);
}

/* What follows an option: nothing for free text, so that bash keeps quiet. */
static void completion_value(FILE *out, const struct option_spec *s) {
    completion_names(out, s);
    if (s->kind == KIND_CHOICE) {
        fputs("words='", out);
        for (const char *at = s->argument; *at; at++) fputc(*at == '|' ? ' ' : *at, out);
        fputs("' ;;\n", out);
        return;
    }
    const char *kind = !strcmp(s->argument, "DIR") ? "-d" : !strcmp(s->argument, "FILE") ? "-f" : NULL;
    if (kind)
        fprintf(out, "compopt -o filenames; COMPREPLY=($(compgen %s -- \"$cur\")); return ;;\n", kind);
    else
        fputs("return ;;\n", out);
}

static void completion_command(FILE *out, const struct command_spec *c) {
    fprintf(out, "    %s)\n        case $prev in\n", c->name);
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        if ((s->commands & c->command) && s->kind != KIND_FLAG) completion_value(out, s);
    }
    fputs("        *) words='", out);
    for (int id = 0; id < N_OPTIONS; id++)
        if (option_spec(id)->commands & c->command) fprintf(out, "--%s ", option_spec(id)->name);
    fputs("' ;;\n        esac\n        ;;\n", out);
}

void help_completion(FILE *out) {
    fputs("_outrider() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
          "    COMPREPLY=()\n"
          "    [ \"$COMP_CWORD\" = 1 ] && words='",
          out);
    for (size_t i = 0; i < n_commands; i++) fprintf(out, "%s ", commands[i].name);
    fputs("--help --version'\n    [ \"$COMP_CWORD\" = 1 ] || case ${COMP_WORDS[1]} in\n", out);
    for (size_t i = 0; i < n_commands; i++) completion_command(out, &commands[i]);
    fputs("    esac\n"
          "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "}\n"
          "complete -F _outrider outrider\n",
          out);
}

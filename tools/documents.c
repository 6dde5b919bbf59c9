/* What is generated from the option table for others to read: the manual page, and the completions of bash,
 * zsh and fish. */
#include <string.h>

#include "tools/options.h"
#include "tools/tools.h"

static const char exit_codes[] =
    "0 done; 1 failure while running; 2 wrong usage, or a prompt longer than the "
    "context; 3 bad or missing model; 4 no memory or no such device; 130 "
    "interrupted with Ctrl-C. A reader that closes the pipe ends the program "
    "quietly with SIGPIPE, which shells report as 141.";

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
    option_describe(s, text, sizeof text);
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

static void manual_files(FILE *out) {
    fputs(".SH FILES\n"
          ".TP\n\\fI$XDG_CONFIG_HOME/outrider/config\\fR (\\fI~/.config/outrider/config\\fR)\n"
          "lines NAME = VALUE, with the names of the options; a line [COMMAND] begins those of one command. "
          "\\fBoutrider config\\fR shows what they come to.\n"
          ".TP\n\\fI$XDG_STATE_HOME/outrider/history\\fR (\\fI~/.local/state/outrider/history\\fR)\n"
          "lines typed into chat.\n"
          ".TP\n\\fI$XDG_CACHE_HOME/outrider/costs\\fR (\\fI~/.cache/outrider/costs\\fR)\n"
          "what the controller measured on this machine.\n"
          ".SH EXAMPLES\n.nf\n"
          "outrider run \\-p \"Once upon a time\" \\-n 100\n"
          "cat letter.txt | outrider run \\-p \"In short:\" \\-\\-json\n"
          "outrider run \\-m big/ \\-md small/ \\-f prompt.txt \\-\\-temp 0\n"
          "outrider chat \\-sys \"You are a sailor.\"\n"
          ".fi\n.SH SEE ALSO\n.BR outrider (3)\n",
          out);
}

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
    fputs(".TP\n\\fBconfig\\fR [COMMAND]\nshow the settings in force and where each comes from\n", out);
    const char *group = "";
    fputs(".SH OPTIONS\nNumbers may end in K (1024) or M. After each option stand the commands that know it "
          "and "
          "its twin in the environment. The option wins, then the environment, the configuration file, the "
          "model.\n",
          out);
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        if (strcmp(group, s->group)) fprintf(out, ".SS %s\n", group = s->group);
        manual_option(out, s);
    }
    roff_line(out, ".SH EXIT STATUS\n", exit_codes);
    manual_files(out);
}

/* ---- completions ---- */

/* The values of a choice, separated by spaces. */
static void choices(FILE *out, const struct option_spec *s) {
    for (const char *at = s->argument; *at; at++) fputc(*at == '|' ? ' ' : *at, out);
}

/* A model may be a file or a folder: completing files goes through folders too. */
static bool names_file(const struct option_spec *s) {
    return !strcmp(s->argument, "FILE") || !strcmp(s->argument, "MODEL");
}

/* ---- bash ---- */

static void bash_names(FILE *out, const struct option_spec *s) {
    fprintf(out, "        --%s", s->name);
    if (s->short_name) fprintf(out, " | -%s", s->short_name);
    fputs(") ", out);
}

/* What follows an option: nothing for free text, so that bash keeps quiet. */
static void bash_value(FILE *out, const struct option_spec *s) {
    bash_names(out, s);
    if (s->kind == KIND_CHOICE) {
        fputs("words='", out);
        choices(out, s);
        fputs("' ;;\n", out);
        return;
    }
    const char *kind = !strcmp(s->argument, "DIR") ? "-d" : names_file(s) ? "-f" : NULL;
    if (kind)
        fprintf(out, "compopt -o filenames; COMPREPLY=($(compgen %s -- \"$cur\")); return ;;\n", kind);
    else
        fputs("return ;;\n", out);
}

static void bash_command(FILE *out, const struct command_spec *c) {
    fprintf(out, "    %s)\n        case $prev in\n", c->name);
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        if ((s->commands & c->command) && s->kind != KIND_FLAG) bash_value(out, s);
    }
    fputs("        *) words='", out);
    for (int id = 0; id < N_OPTIONS; id++)
        if (option_spec(id)->commands & c->command) fprintf(out, "--%s ", option_spec(id)->name);
    fputs("' ;;\n        esac\n        ;;\n", out);
}

static void bash_script(FILE *out) {
    fputs("_outrider() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
          "    COMPREPLY=()\n"
          "    [ \"$COMP_CWORD\" = 1 ] && words='",
          out);
    for (size_t i = 0; i < n_commands; i++) fprintf(out, "%s ", commands[i].name);
    fputs("config --help --version'\n    [ \"$COMP_CWORD\" = 1 ] || case ${COMP_WORDS[1]} in\n", out);
    for (size_t i = 0; i < n_commands; i++) bash_command(out, &commands[i]);
    fputs("    esac\n"
          "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "}\n"
          "complete -F _outrider outrider\n",
          out);
}

/* ---- zsh ---- */

/* Text within single quotes and brackets of a zsh specification. */
static void zsh_text(FILE *out, const char *text) {
    for (; *text; text++) {
        if (strchr("[]:\\", *text)) fputc('\\', out);
        fputs(*text == '\'' ? "'\\''" : (char[]){*text, 0}, out);
    }
}

static void zsh_option(FILE *out, const struct option_spec *s, const char *dashes, const char *name) {
    fprintf(out, "        '%s%s%s[", s->kind == KIND_LIST ? "*" : "", dashes, name);
    zsh_text(out, s->help);
    fputc(']', out);
    if (s->kind == KIND_CHOICE) {
        fputs(":value:(", out);
        choices(out, s);
        fputc(')', out);
    } else if (s->kind != KIND_FLAG) {
        bool folder = !strcmp(s->argument, "DIR"), file = names_file(s);
        fprintf(out, ":%s:%s", s->argument, folder ? "_files -/" : file ? "_files" : "");
    }
    fputs("'\n", out);
}

static void zsh_script(FILE *out) {
    fputs("#compdef outrider\n\n_outrider() {\n    local -a commands\n    commands=(\n", out);
    for (size_t i = 0; i < n_commands; i++) {
        fprintf(out, "        '%s:", commands[i].name);
        zsh_text(out, commands[i].summary);
        fputs("'\n", out);
    }
    fputs("        'config:show the settings in force'\n    )\n"
          "    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n"
          "    local -a options\n    case $words[2] in\n",
          out);
    for (size_t i = 0; i < n_commands; i++) {
        fprintf(out, "    %s) options=(\n", commands[i].name);
        for (int id = 0; id < N_OPTIONS; id++) {
            const struct option_spec *s = option_spec(id);
            if (!(s->commands & commands[i].command)) continue;
            zsh_option(out, s, "--", s->name);
            if (s->short_name) zsh_option(out, s, "-", s->short_name);
        }
        fputs("    ) ;;\n", out);
    }
    fputs("    esac\n    shift words; (( CURRENT-- ))\n    _arguments $options\n}\n\n_outrider \"$@\"\n",
          out);
}

/* ---- fish ---- */

static void fish_text(FILE *out, const char *text) {
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\') fputc('\\', out);
        fputc(*text, out);
    }
    fputc('\'', out);
}

static void fish_option(FILE *out, const struct option_spec *s) {
    fputs("complete -c outrider -n '__fish_seen_subcommand_from", out);
    for (size_t i = 0; i < n_commands; i++)
        if (commands[i].command & s->commands) fprintf(out, " %s", commands[i].name);
    fprintf(out, "' -l %s", s->name);
    if (s->short_name) fprintf(out, strlen(s->short_name) == 1 ? " -s %s" : " -o %s", s->short_name);
    if (s->kind == KIND_CHOICE) {
        fputs(" -x -a '", out);
        choices(out, s);
        fputc('\'', out);
    } else if (s->kind != KIND_FLAG) {
        bool folder = !strcmp(s->argument, "DIR"), file = names_file(s);
        fputs(folder ? " -x -a '(__fish_complete_directories)'" : file ? " -r -F" : " -x", out);
    }
    fputs(" -d ", out);
    fish_text(out, s->help);
    fputc('\n', out);
}

static void fish_script(FILE *out) {
    fputs("complete -c outrider -f\n", out);
    for (size_t i = 0; i < n_commands; i++) {
        fprintf(out, "complete -c outrider -n __fish_use_subcommand -a %s -d ", commands[i].name);
        fish_text(out, commands[i].summary);
        fputc('\n', out);
    }
    fputs("complete -c outrider -n __fish_use_subcommand -a config -d 'show the settings in force'\n", out);
    for (int id = 0; id < N_OPTIONS; id++) fish_option(out, option_spec(id));
}

bool help_completion(FILE *out, const char *shell) {
    static const struct {
        const char *shell;
        void (*write)(FILE *out);
    } scripts[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        if (strcmp(scripts[i].shell, shell)) continue;
        scripts[i].write(out);
        return true;
    }
    return false;
}

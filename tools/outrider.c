/* The command line: picks the subcommand and turns its status into the exit code. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tools/options.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

static int print_completion(const char *shell) {
    if (help_completion(stdout, shell)) return 0;
    return complain(OUTRIDER_EINVAL, "--completion: '%s' is none of bash, zsh and fish", shell);
}

static int unknown_command(const char *name) {
    struct text names = {0};
    const char *nearest = NULL;
    size_t best = slip_limit(name);
    if (name[0] == '-')
        return complain(OUTRIDER_EINVAL, "a command comes first: outrider run %s ..., or outrider --help",
                        name);
    for (size_t i = 0; i < n_commands; i++) {
        size_t distance = edit_distance(name, commands[i].name);
        if (distance < best) best = distance, nearest = commands[i].name;
    }
    if (nearest)
        return complain(OUTRIDER_EINVAL, "'%s' is no command; did you mean outrider %s?", name, nearest);
    for (size_t i = 0; i < n_commands; i++) {
        const char *before = !i ? "" : ", ";
        if (text_append(&names, before, strlen(before)) ||
            text_append(&names, commands[i].name, strlen(commands[i].name)))
            break;
    }
    int code = complain(OUTRIDER_EINVAL, "'%s' is no command; the commands are %s and config", name,
                        names.data ? names.data : "");
    text_clear(&names);
    return code;
}

/* help, or help COMMAND. */
static int print_help(const char *name) {
    const struct command_spec *command = name ? find_command(name) : NULL;
    if (name && !command) return unknown_command(name);
    if (command)
        help_command(stdout, command->command, NULL);
    else
        help_program(stdout);
    return 0;
}

/* The words that stand alone, and `config`, which takes any command's options. */
static int other_word(int argc, char **argv) {
    const char *word = argv[1], *next = argc > 2 ? argv[2] : NULL;
    if (!strcmp(word, "config")) return config_main(argc - 1, argv + 1);
    if (!strcmp(word, "--completion")) return print_completion(next ? next : "bash");
    if (!strncmp(word, "--completion=", 13)) return print_completion(word + 13);
    if (!strcmp(word, "help")) return print_help(next);
    if (!strcmp(word, "--help") || !strcmp(word, "-h"))
        help_program(stdout);
    else if (!strcmp(word, "--version") || !strcmp(word, "version"))
        printf("outrider %s\n", outrider_version());
    else if (!strcmp(word, "--man"))
        help_manual(stdout);
    else
        return unknown_command(word);
    return 0;
}

static int run_command(const struct command_spec *command, int argc, char **argv) {
    struct options options;
    int code = options_parse(&options, command->command, argc, argv);
    if (!code) code = command->run(&options);
    options_free(&options);
    return code;
}

int main(int argc, char **argv) {
    /* a reader that leaves ends us quietly, even where the parent ignores the signal */
    signal(SIGPIPE, SIG_DFL);
    interrupts_watch(1);
    lost_files_watch();
    if (argc < 2) {
        help_program(stderr);
        return OUTRIDER_EINVAL;
    }
    const struct command_spec *command = find_command(argv[1]);
    int code = command ? run_command(command, argc - 1, argv + 1) : other_word(argc, argv);
    if (code == OPTIONS_HELPED) code = 0;
    if (!code) code = flush_output(stdout);
    return code;
}

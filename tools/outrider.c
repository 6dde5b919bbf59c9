/* The command line: picks the subcommand and turns its status into the exit code. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tools/options.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

static const struct command_spec *find_command(const char *name) {
    for (size_t i = 0; i < n_commands; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

/* The words that stand alone, without a subcommand. */
static bool print_about(const char *word) {
    if (!strcmp(word, "--version"))
        printf("outrider %s\n", outrider_version());
    else if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help"))
        help_program(stdout);
    else if (!strcmp(word, "--man"))
        help_manual(stdout);
    else if (!strcmp(word, "--completion"))
        help_completion(stdout);
    else
        return false;
    return true;
}

static int run_command(const struct command_spec *command, int argc, char **argv) {
    struct options options;
    int code = options_parse(&options, command->command, argc, argv);
    if (!code) code = command->run(&options);
    options_free(&options);
    return code == OPTIONS_HELPED ? 0 : code;
}

int main(int argc, char **argv) {
    /* a reader that leaves ends us quietly, even where the parent ignores the signal */
    signal(SIGPIPE, SIG_DFL);
    interrupts_watch(1);
    if (argc < 2) {
        help_program(stderr);
        return OUTRIDER_EINVAL;
    }
    const struct command_spec *command = find_command(argv[1]);
    int code = 0;
    if (command)
        code = run_command(command, argc - 1, argv + 1);
    else if (!print_about(argv[1]))
        return complain(OUTRIDER_EINVAL,
                        "'%s' is no command; the commands are run, chat, bench, eval and inspect", argv[1]);
    if (!code) code = flush_output(stdout);
    return code;
}

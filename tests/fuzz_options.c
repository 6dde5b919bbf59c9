/* The command line: a byte that names the subcommand, then arguments that end with a NUL each. What parses
 * lies in the ranges of the table, and a copy of it is the same. */
#include "tests/helpers_fuzz.h"

#include "tools/options.h"
#include "tools/tools.h"

enum { MAX_ARGUMENTS = 32 };

static void check(const struct options *o) {
    struct options copy;
    if (options_copy(o, &copy)) fuzz_die("a copy of what parses does not");
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        const struct option_value *v = &o->values[id], *w = &copy.values[id];
        double number = s->kind == KIND_NUMBER ? v->number : (double)v->integer;
        bool is_auto = s->kind == KIND_INT && v->integer == -1;
        if ((s->kind == KIND_INT || s->kind == KIND_NUMBER) && v->given && !is_auto &&
            !(number >= s->min && number <= s->max))
            fuzz_die(s->name);
        if (v->integer != w->integer || v->n != w->n || v->given != w->given) fuzz_die(s->name);
    }
    options_free(&copy);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    char *argv[MAX_ARGUMENTS + 1] = {"outrider"};
    int argc = 1;
    struct options o;
    if (bytes < 1) return;
    enum command command = (enum command)(1 << data[0] % n_commands);
    data++, bytes--;
    while (bytes > 0 && argc < MAX_ARGUMENTS) {
        size_t n;
        const uint8_t *part = fuzz_part(&data, &bytes, &n);
        if (!(argv[argc++] = strndup((const char *)part, n))) abort();
    }
    if (options_parse(&o, command, argc, argv) == 0) check(&o);
    options_free(&o);
    for (int i = 1; i < argc; i++) free(argv[i]);
}

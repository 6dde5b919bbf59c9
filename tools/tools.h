/* What the subcommands of the command line share: their entry points, and how they speak.
 *
 * Standard output carries what was asked for (generated text, tables, JSON) and nothing else; everything said
 * about it goes to standard error. A failure is told once, in one line, by the function that finds it; from
 * there on only its status travels up, and the status is the exit code. Of the other rooms the command line
 * knows runtime/outrider.h, and runtime/new_file.h to save by.
 */
#ifndef OUTRIDER_TOOLS_H
#define OUTRIDER_TOOLS_H

#include "runtime/outrider.h"

struct options;

enum { EXIT_INTERRUPTED = 130 }; /* beside outrider_status: Ctrl-C */

int cmd_run(struct options *options);
int run_batch(struct options *options); /* cmd_run's, with --batch */
int cmd_chat(struct options *options);
int cmd_bench(struct options *options);
int cmd_check(struct options *options);
int cmd_eval(struct options *options);
int cmd_inspect(struct options *options);
int cmd_convert(struct options *options);

/* "outrider: error: ..." on standard error, control characters shown as '?'. Returns `code`. */
int complain(int code, const char *format, ...) __attribute__((format(printf, 2, 3), cold));
int complain_memory(void);
int complain_file(const char *path); /* of what the system says, in errno */
/* The library's own line on a failed call; the status goes through, 0 included. */
int tell(outrider_status status);

/* Forwards a failure that has been told already. */
#define CHECK(call)                                                                                          \
    do {                                                                                                     \
        int check_code_ = (call);                                                                            \
        if (check_code_) return check_code_;                                                                 \
    } while (0)

#endif

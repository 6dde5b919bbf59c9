/* See terminal.h. The only mutable state at file scope of the command line is the count of Ctrl-C: a signal
 * handler has no other place for it. */
#include "tools/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/tools.h"

/* ---- colour ---- */

static bool is_terminal(FILE *out) {
    const char *term = getenv("TERM");
    return isatty(fileno(out)) && term && strcmp(term, "dumb");
}

struct palette palette_for(const struct options *o, FILE *out) {
    enum { COLOR_AUTO, COLOR_ON, COLOR_OFF };
    const char *no_color = getenv("NO_COLOR");
    int64_t mode = o->values[OPT_COLOR].integer;
    bool wanted = is_terminal(out) && !(no_color && *no_color) && !o->values[OPT_SIMPLE_IO].integer;
    if (mode == COLOR_ON || (mode == COLOR_AUTO && wanted))
        return (struct palette){"\033[1;32m", "\033[2m", "\033[0m"};
    return (struct palette){"", "", ""};
}

/* ---- progress ---- */

struct progress progress_begin(const struct options *o) {
    return (struct progress){.live = is_terminal(stderr) && !o->values[OPT_SIMPLE_IO].integer, .percent = -1};
}

void progress_show(void *progress, const char *stage, double share) {
    struct progress *p = progress;
    static const char bar[] = "########################################";
    int width = (int)sizeof bar - 1;
    int percent = share < 0 ? 0 : share > 1 ? 100 : (int)(share * 100);
    if (!p->live || percent == p->percent) return;
    p->percent = percent;
    int done = percent * width / 100;
    fprintf(stderr, "\r\033[K%-18.40s [%.*s%*s] %3d%%", stage ? stage : "", done, bar, width - done, "",
            percent);
    fflush(stderr);
}

void progress_end(struct progress *p) {
    if (p->live && p->percent >= 0) fputs("\r\033[K", stderr);
    p->percent = -1;
}

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t interrupts, interrupts_limit;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupts++;
    if (interrupts >= interrupts_limit) _exit(EXIT_INTERRUPTED);
}

void interrupts_watch(int leave_at) {
    struct sigaction action = {.sa_handler = on_interrupt};
    interrupts = 0;
    interrupts_limit = leave_at;
    sigaction(SIGINT, &action, NULL);
}

int interrupts_seen(void) {
    return interrupts;
}

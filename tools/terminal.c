/* See terminal.h. The only mutable state at file scope of the command line is the count of Ctrl-C: a signal
 * handler has no other place for it. */
#include "tools/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/tools.h"

/* ---- colour ---- */

bool terminal_obeys(FILE *out) {
    const char *term = getenv("TERM");
    return isatty(fileno(out)) && term && *term && strcmp(term, "dumb");
}

struct palette palette_for(const struct options *o, FILE *out) {
    enum { COLOR_AUTO, COLOR_ON, COLOR_OFF };
    const char *no_color = getenv("NO_COLOR");
    int64_t mode = o->values[OPT_COLOR].integer;
    bool wanted = terminal_obeys(out) && !(no_color && *no_color) && !o->values[OPT_SIMPLE_IO].integer;
    if (mode == COLOR_ON || (mode == COLOR_AUTO && wanted))
        return (struct palette){"\033[1;32m", "\033[2m", "\033[0m", "\033[32m", "\033[36m"};
    return (struct palette){"", "", "", "", ""};
}

/* ---- progress ---- */

struct progress progress_begin(const struct options *o) {
    return (struct progress){.live = terminal_obeys(stderr) && !o->values[OPT_SIMPLE_IO].integer};
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* True when it is time to draw; keeps the clocks. */
static bool is_due(struct progress *p, const char *stage, double share) {
    double at = now();
    if (!p->live) return false;
    if (!p->stage[0] || share < p->share) {
        p->began = at;
        p->shown = 0;
    }
    p->share = share;
    snprintf(p->stage, sizeof p->stage, "%s", stage);
    if (p->shown > 0 && at - p->shown < 0.1 && share < 1) return false;
    p->shown = at;
    return true;
}

/* Told only when enough is done to know it, and there is enough left to care. */
static void print_time_left(const struct progress *p, double share) {
    double gone = p->shown - p->began, left = share > 0 ? gone / share - gone : 0;
    if (gone < 0.5 || share < 0.02 || left < 0.5) return;
    if (left < 90)
        fprintf(stderr, ", %.0f s left", left);
    else if (left < 5400)
        fprintf(stderr, ", %.0f min left", left / 60);
    else
        fprintf(stderr, ", %.1f h left", left / 3600);
}

static void draw(struct progress *p, double share, double per_second, const char *unit) {
    static const char bar[] = "##############################";
    int width = (int)sizeof bar - 1, done = (int)(share * width);
    fprintf(stderr, "\r\033[K%-12.40s [%.*s%*s] %3.0f%%", p->stage, done, bar, width - done, "", 100 * share);
    if (per_second > 0) fprintf(stderr, "  %.*f %s/s", per_second < 10 ? 1 : 0, per_second, unit);
    print_time_left(p, share);
    fflush(stderr);
    p->drawn = true;
}

static double clamp(double share) {
    return share > 0 ? share < 1 ? share : 1 : 0; /* 0 for NaN too */
}

void progress_show(void *progress, const char *stage, double share) {
    struct progress *p = progress;
    share = clamp(share);
    if (is_due(p, stage ? stage : "", share)) draw(p, share, 0, "");
}

void progress_count(struct progress *p, const char *stage, double done, double total, const char *unit) {
    double share = clamp(total > 0 ? done / total : 0);
    if (!is_due(p, stage, share)) return;
    double gone = p->shown - p->began;
    draw(p, share, gone > 0.2 ? done / gone : 0, unit);
}

void progress_end(struct progress *p) {
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
    p->stage[0] = '\0';
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

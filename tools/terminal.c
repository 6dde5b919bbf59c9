/* See terminal.h. The mutable state at file scope is what signal handlers need and have no other place for:
 * the count of Ctrl-C, and the terminal's usual mode. */
#include "tools/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
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
        p->from = share;
        p->shown = 0;
    }
    p->share = share;
    snprintf(p->stage, sizeof p->stage, "%s", stage);
    if (p->shown > 0 && at - p->shown < 0.1 && share < 1) return false;
    p->shown = at;
    return true;
}

static void rate_text(double per_second, const char *unit, char out[48]) {
    bool slow = per_second < 0.1;
    double rate = slow ? 60 * per_second : per_second;
    *out = '\0';
    if (rate > 0) snprintf(out, 48, "  %.*f %s/%s", rate < 10 ? 1 : 0, rate, unit, slow ? "min" : "s");
}

static void time_left(double seconds, char out[32]) {
    *out = '\0';
    if (seconds < 0.5) return;
    if (seconds < 90)
        snprintf(out, 32, ", %.0f s left", seconds);
    else if (seconds < 5400)
        snprintf(out, 32, ", %.0f min left", seconds / 60);
    else
        snprintf(out, 32, ", %.1f h left", seconds / 3600);
}

static double clamp(double share) {
    return share > 0 ? share < 1 ? share : 1 : 0; /* 0 for NaN too */
}

/* Rate and time left are told only when enough is done to know them. */
void progress_count(struct progress *p, const char *stage, double done, double total, const char *unit) {
    static const char bar[] = "####################";
    const double share = clamp(total > 0 ? done / total : 0);
    const int width = (int)sizeof bar - 1, full = (int)(share * width);
    if (!is_due(p, stage, share)) return;
    double gone = p->shown - p->began, speed = gone > 0.2 ? (share - p->from) / gone : 0;
    bool known = gone > 0.5 && share - p->from > 0.02;
    char rate[48], left[32], line[192];
    rate_text(speed * total, unit, rate);
    time_left(known ? (1 - share) / speed : 0, left);
    snprintf(line, sizeof line, "%s [%.*s%*s] %3.0f%%%s%s", p->stage, full, bar, width - full, "",
             100 * share, rate, left);
    struct winsize window = {0};
    ioctl(STDERR_FILENO, TIOCGWINSZ, &window);
    int columns = window.ws_col > 1 ? window.ws_col - 1 : 79; /* what wraps could not be taken back */
    fprintf(stderr, "\r\033[K%.*s", columns, line);
    p->drawn = true;
}

void progress_bytes(void *progress, const char *stage, double done, double total) {
    progress_count(progress, stage, done / 1e6, total / 1e6, "MB");
}

void progress_end(struct progress *p) {
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
    p->stage[0] = '\0';
}

/* ---- the mode ---- */

static struct termios usual_mode;
static volatile sig_atomic_t remembered;

void terminal_remember(void) {
    remembered = tcgetattr(STDIN_FILENO, &usual_mode) == 0;
}

void terminal_wait(void) {
    struct termios waiting = usual_mode;
    waiting.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    if (remembered) tcsetattr(STDIN_FILENO, TCSANOW, &waiting);
}

void terminal_restore(void) {
    if (remembered) tcsetattr(STDIN_FILENO, TCSANOW, &usual_mode);
}

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t interrupts, interrupts_limit;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupts++;
    if (interrupts < interrupts_limit) return;
    terminal_restore();
    _exit(EXIT_INTERRUPTED);
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

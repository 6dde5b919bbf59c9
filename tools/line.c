/* See line.h. libedit is given our own character reader, for three things it lacks: a Ctrl-C that ends the
 * line without racing the read, bracketed paste (a pasted text is one message, not one per line), and new
 * window sizes without its signal handlers. While a line is edited the terminal is not in its usual mode;
 * signals that end the process put it back first. */
#include "tools/line.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "tools/terminal.h"

enum { HISTORY_LINES = 1000 };

struct line_reader {
    bool prompting, interrupted, had_text;
    char *plain; /* getline's buffer */
    size_t plain_room;
    EditLine *edit; /* NULL when not editing */
    History *history;
    char *history_file; /* owned; NULL for none */
    FILE *out;
    const char *prompt;
};

/* ---- signals while editing ---- */

static struct termios usual_mode;
static volatile sig_atomic_t window_changed, resumed;

static void restore_and_die(int number) {
    tcsetattr(STDIN_FILENO, TCSANOW, &usual_mode);
    raise(number); /* SA_RESETHAND: the default action follows */
}

static void note(int number) {
    if (number == SIGWINCH) window_changed = 1;
    if (number == SIGCONT) resumed = 1;
}

static void watch_signals(void) {
    tcgetattr(STDIN_FILENO, &usual_mode);
    struct sigaction die = {.sa_handler = restore_and_die, .sa_flags = SA_RESETHAND};
    sigaction(SIGTERM, &die, NULL);
    sigaction(SIGHUP, &die, NULL);
    sigaction(SIGQUIT, &die, NULL);
    struct sigaction noted = {.sa_handler = note};
    sigaction(SIGWINCH, &noted, NULL);
    sigaction(SIGCONT, &noted, NULL);
}

static void after_signal(EditLine *edit) {
    if (window_changed) el_resize(edit);
    if (resumed) {
        el_set(edit, EL_PREP_TERM, 1);
        el_set(edit, EL_REFRESH);
    }
    window_changed = resumed = 0;
}

/* ---- characters ---- */

/* One byte of input. SIGINT is let in only while waiting, so that none falls between look and wait. */
static int read_byte(EditLine *edit, struct line_reader *r, char *byte) {
    sigset_t interrupt, before;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, &before);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = 0;
    while (!interrupts_seen() && (ready = ppoll(&input, 1, NULL, &before)) < 0 && errno == EINTR)
        after_signal(edit);
    r->interrupted = interrupts_seen() > 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (r->interrupted || ready < 0) return -1;
    return (int)read(STDIN_FILENO, byte, 1);
}

static int read_character(EditLine *edit, wchar_t *out) {
    struct line_reader *r;
    el_get(edit, EL_CLIENTDATA, &r);
    mbstate_t state = {0};
    for (;;) {
        char byte;
        int n = read_byte(edit, r, &byte);
        if (n < 0) {
            const LineInfo *line = el_line(edit);
            r->had_text = line->lastchar > line->buffer;
        }
        if (n <= 0) return n;
        size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == (size_t)-1) state = (mbstate_t){0}; /* a byte that is no text is dropped */
        if (used <= 1) return 1;
    }
}

/* Bound to the mark that a terminal sends before a pasted text; takes everything up to the closing mark. */
static unsigned char paste(EditLine *edit, wint_t key) {
    static const wchar_t mark[] = L"\033[201~";
    size_t matched = 0;
    wchar_t c[2] = {0};
    (void)key;
    while (matched < 6 && el_wgetc(edit, c) == 1) {
        if (c[0] == L'\r') c[0] = L'\n';
        if (c[0] == mark[matched]) {
            matched++;
            continue;
        }
        for (size_t i = 0; i < matched; i++) el_winsertstr(edit, (wchar_t[]){mark[i], 0});
        matched = c[0] == mark[0];
        if (!matched && el_winsertstr(edit, c)) return CC_ERROR;
    }
    return CC_REFRESH;
}

static char *show_prompt(EditLine *edit) {
    struct line_reader *r;
    el_get(edit, EL_CLIENTDATA, &r);
    return (char *)r->prompt;
}

/* ---- history ---- */

static void history_open(struct line_reader *r) {
    HistEvent event;
    r->history = history_init();
    if (!r->history) return;
    history(r->history, &event, H_SETSIZE, HISTORY_LINES);
    history(r->history, &event, H_SETUNIQUE, 1);
    el_set(r->edit, EL_HIST, history, r->history);
    int file = r->history_file ? open(r->history_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file < 0) {
        free(r->history_file);
        r->history_file = NULL;
        return;
    }
    fchmod(file, 0600);
    close(file);
    history(r->history, &event, H_LOAD, r->history_file);
}

/* Saved after each line: the process may be killed while it writes its answer. */
static void history_add(struct line_reader *r, const char *line) {
    HistEvent event;
    if (!r->history || !line[strspn(line, " \t\n")]) return;
    history(r->history, &event, H_ENTER, line);
    if (r->history_file) history(r->history, &event, H_SAVE, r->history_file);
}

/* ---- reading ---- */

static bool edit_open(struct line_reader *r) {
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8")) setlocale(LC_CTYPE, "C.UTF-8");
    int copy = dup(STDERR_FILENO);
    r->out = copy < 0 ? NULL : fdopen(copy, "w"); /* buffered, unlike stderr: one write a keystroke */
    r->edit = r->out ? el_init("outrider", stdin, r->out, stderr) : NULL;
    if (!r->edit) return false;
    watch_signals();
    el_set(r->edit, EL_CLIENTDATA, r);
    el_set(r->edit, EL_EDITOR, "emacs");
    el_set(r->edit, EL_PROMPT_ESC, show_prompt, '\1');
    el_set(r->edit, EL_GETCFN, read_character);
    /* el_set would leak the two names */
    el_wset(r->edit, EL_ADDFN, L"outrider-paste", L"insert a pasted text", paste);
    el_set(r->edit, EL_BIND, "\\e[200~", "outrider-paste", NULL);
    el_set(r->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    history_open(r);
    return true;
}

struct line_reader *line_open(bool editing, bool prompting, const char *history_file) {
    struct line_reader *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->prompting = prompting;
    r->history_file = history_file ? strdup(history_file) : NULL;
    if (editing && !edit_open(r)) {
        line_close(r);
        return NULL;
    }
    return r;
}

static enum line_result read_edited(struct line_reader *r, const char **line, size_t *bytes) {
    int n = 0;
    r->interrupted = r->had_text = false;
    fputs("\033[?2004h", r->out);
    const char *read = el_gets(r->edit, &n);
    fputs("\033[?2004l", r->out);
    if (!read || n <= 0) fputc('\n', r->out);
    fflush(r->out);
    if (r->interrupted) return r->had_text ? LINE_DROPPED : LINE_INTERRUPTED;
    if (!read || n <= 0) return LINE_END;
    *line = read;
    *bytes = (size_t)n;
    return LINE_READ;
}

static enum line_result read_plain(struct line_reader *r, const char **line, size_t *bytes) {
    if (r->prompting) fputs(r->prompt, stderr);
    ssize_t n = getline(&r->plain, &r->plain_room, stdin);
    if (n < 0) return interrupts_seen() ? LINE_INTERRUPTED : LINE_END;
    *line = r->plain;
    *bytes = (size_t)n;
    return LINE_READ;
}

enum line_result line_read(struct line_reader *r, const char *prompt, const char **line, size_t *bytes) {
    r->prompt = prompt;
    enum line_result result = r->edit ? read_edited(r, line, bytes) : read_plain(r, line, bytes);
    if (result != LINE_READ) return result;
    if (*bytes && (*line)[*bytes - 1] == '\n') --*bytes;
    if (r->edit) {
        char *entry = strndup(*line, *bytes);
        if (entry) history_add(r, entry);
        free(entry);
    }
    return LINE_READ;
}

void line_close(struct line_reader *r) {
    if (!r) return;
    if (r->edit) el_end(r->edit);
    if (r->history) history_end(r->history);
    if (r->out) fclose(r->out);
    free(r->history_file);
    free(r->plain);
    free(r);
}

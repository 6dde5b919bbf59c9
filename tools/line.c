/* See line.h. libedit is given our own character reader, for three things it lacks: a Ctrl-C that ends the
 * line without racing the read, bracketed paste (a pasted text is one message, not one per line), and new
 * window sizes without its signal handlers; and functions of ours for Tab and Ctrl-G. While a line is edited
 * the terminal is not in its usual mode; signals that end the process put it back first. */
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
#include <sys/wait.h>
#include <unistd.h>
#include <wchar.h>

#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

enum { HISTORY_LINES = 1000 };

struct line_reader {
    bool prompting, interrupted, typed;
    char *plain; /* getline's buffer */
    size_t plain_room;
    EditLine *edit; /* NULL when not editing */
    int keys;       /* the terminal when editing: never blocks */
    History *history;
    char *history_file; /* owned; NULL for none */
    FILE *out;
    const char *prompt;
    line_completer *complete;
    void *user;
};

/* ---- signals while editing ---- */

static volatile sig_atomic_t window_changed, resumed;

static void restore_and_die(int number) {
    terminal_restore();
    raise(number); /* SA_RESETHAND: the default action follows */
}

static void note(int number) {
    if (number == SIGWINCH) window_changed = 1;
    if (number == SIGCONT) resumed = 1;
}

static void watch_signals(void) {
    terminal_remember();
    struct sigaction die = {.sa_handler = restore_and_die, .sa_flags = SA_RESETHAND};
    sigaction(SIGTERM, &die, NULL);
    sigaction(SIGHUP, &die, NULL);
    sigaction(SIGQUIT, &die, NULL);
    struct sigaction noted = {.sa_handler = note};
    sigaction(SIGWINCH, &noted, NULL);
    sigaction(SIGCONT, &noted, NULL);
}

static void after_resize(EditLine *edit) {
    if (window_changed) el_resize(edit);
    window_changed = 0;
}

/* Cells of a prompt: what stands between two \1 takes none. */
static int prompt_cells(const char *prompt) {
    int cells = 0;
    bool shown = true;
    for (; *prompt; prompt++)
        if (*prompt == '\1')
            shown = !shown;
        else
            cells += shown;
    return cells;
}

/* Rows between the prompt and the cursor in a window of that width, as libedit lays a line out. */
static int rows_above_cursor(EditLine *edit, const char *prompt, int width) {
    const LineInfoW *line = el_wline(edit);
    int row = 0, column = prompt_cells(prompt);
    for (const wchar_t *c = line->buffer; c < line->cursor; c++) {
        int cells = *c == L'\t' ? 8 - column % 8 : wcwidth(*c) < 0 ? 2 : wcwidth(*c);
        bool wraps = *c == L'\n' || column + cells > width;
        if (wraps) row++, column = 0;
        if (*c != L'\n') column += cells;
        if (column >= width) row++, column -= width;
    }
    return row;
}

/* The line is drawn anew where its prompt now stands: most terminals wrap what they show by the new width,
 * xterm and screen leave it as it was. libedit itself would draw it from the cursor's row on, over half of
 * the old. */
static void redraw_resized(EditLine *edit, const struct line_reader *r) {
    bool rewraps = !getenv("XTERM_VERSION") && !getenv("STY");
    int before = 80, after = 80;
    el_get(edit, EL_GETTC, "co", &before);
    after_resize(edit);
    el_get(edit, EL_GETTC, "co", &after);
    int rows = rows_above_cursor(edit, r->prompt, rewraps ? after : before);
    /* row by row: what is cleared from the top of its screen at once, tmux keeps */
    fputs("\033[J\r\033[2K", r->out);
    while (rows-- > 0) fputs("\033[A\033[2K", r->out);
    el_set(edit, EL_REFRESH);
}

static void after_signal(EditLine *edit, const struct line_reader *r) {
    if (window_changed) redraw_resized(edit, r);
    if (!resumed) return;
    resumed = 0;
    el_set(edit, EL_PREP_TERM, 1);
    el_set(edit, EL_REFRESH);
}

/* ---- characters ---- */

/* One byte of input. SIGINT is let in only while waiting, so that none falls between look and wait. The read
 * must not block: a Ctrl-C that comes between wait and read takes away what there was to be read. */
static int read_byte(EditLine *edit, struct line_reader *r, char *byte) {
    sigset_t interrupt, before;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, &before);
    struct pollfd input = {.fd = r->keys, .events = POLLIN};
    ssize_t n = -1;
    for (errno = EAGAIN; n < 0 && (errno == EAGAIN || errno == EINTR) && !interrupts_seen();) {
        int ready = ppoll(&input, 1, NULL, &before);
        if (ready < 0 && errno == EINTR) after_signal(edit, r), errno = EINTR;
        if (ready > 0) n = read(r->keys, byte, 1);
    }
    r->interrupted = interrupts_seen() > 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    return r->interrupted ? -1 : (int)n;
}

static int read_character(EditLine *edit, wchar_t *out) {
    struct line_reader *r;
    el_get(edit, EL_CLIENTDATA, &r);
    mbstate_t state = {0};
    for (;;) {
        char byte;
        int n = read_byte(edit, r, &byte);
        if (n <= 0) return n;
        r->typed = true;
        size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == (size_t)-1) state = (mbstate_t){0}; /* a byte that is no text is dropped */
        if (used <= 1) return 1;
    }
}

/* ---- paste ---- */

struct wide {
    wchar_t *text; /* ends in 0 */
    size_t n, room;
};

static bool wide_add(struct wide *w, wchar_t c) {
    if (w->n + 1 >= w->room) {
        size_t room = w->room ? w->room * 2 : 256;
        wchar_t *grown = realloc(w->text, room * sizeof *grown);
        if (!grown) return false;
        w->text = grown;
        w->room = room;
    }
    w->text[w->n++] = c;
    w->text[w->n] = 0;
    return true;
}

/* Bound to the mark that a terminal sends before a pasted text; takes everything up to the closing mark, and
 * inserts it as one. */
static unsigned char paste(EditLine *edit, wint_t key) {
    static const wchar_t mark[] = L"\033[201~";
    enum { MARK = sizeof mark / sizeof mark[0] - 1 };
    struct wide pasted = {0};
    wchar_t c;
    bool complete = false, room = true;
    (void)key;
    while (!complete && room && el_wgetc(edit, &c) == 1) {
        room = wide_add(&pasted, c == L'\r' ? L'\n' : c);
        complete = pasted.n >= MARK && !wmemcmp(pasted.text + pasted.n - MARK, mark, MARK);
    }
    if (complete) pasted.text[pasted.n -= MARK] = 0;
    int failed = !complete || (pasted.n && el_winsertstr(edit, pasted.text));
    free(pasted.text);
    return failed ? CC_ERROR : CC_REFRESH;
}

/* ---- completion ---- */

void completions_add(struct completions *c, const char *word) {
    char **words = realloc(c->words, (c->n + 1) * sizeof *words);
    char *copy = strdup(word);
    if (words) c->words = words;
    if (words && copy)
        words[c->n++] = copy;
    else
        free(copy);
}

static void completions_free(struct completions *c) {
    for (size_t i = 0; i < c->n; i++) free(c->words[i]);
    free(c->words);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Bytes that all words begin with, never half a character. */
static size_t common_prefix(const struct completions *c) {
    size_t n = strlen(c->words[0]);
    for (size_t i = 1; i < c->n; i++) {
        size_t same = 0;
        while (same < n && c->words[i][same] == c->words[0][same]) same++;
        n = same;
    }
    while (n > 0 && (c->words[0][n] & 0xC0) == 0x80) n--;
    return n;
}

static void list_words(struct line_reader *r, const struct completions *c) {
    size_t widest = 0, column = 0;
    int width = 80;
    el_get(r->edit, EL_GETTC, "co", &width);
    for (size_t i = 0; i < c->n; i++)
        if (strlen(c->words[i]) > widest) widest = strlen(c->words[i]);
    fputs("\r\n", r->out);
    for (size_t i = 0; i < c->n; i++) {
        bool fits = column + 2 * (widest + 2) <= (size_t)width;
        fprintf(r->out, "%-*s", (int)widest + 2, c->words[i]);
        column = fits ? column + widest + 2 : 0;
        if (!fits && i + 1 < c->n) fputs("\r\n", r->out);
    }
    fputs("\r\n", r->out);
}

static unsigned char complete(EditLine *edit, wint_t key) {
    struct line_reader *r;
    (void)key;
    el_get(edit, EL_CLIENTDATA, &r);
    const LineInfo *line = el_line(edit);
    char *text = strndup(line->buffer, (size_t)(line->cursor - line->buffer));
    struct completions found = {0};
    unsigned char result = CC_ERROR;
    if (!text) return result;
    if (r->complete) r->complete(r->user, text, &found);
    if (found.n) {
        qsort(found.words, found.n, sizeof *found.words, by_name);
        size_t have = strlen(text + found.from), n = common_prefix(&found);
        char *more = n > have ? strndup(found.words[0] + have, n - have) : NULL;
        if (more) el_insertstr(edit, more);
        if (!more && found.n > 1) list_words(r, &found);
        result = more ? CC_REFRESH : found.n > 1 ? CC_REDISPLAY : CC_NORM;
        free(more);
    }
    completions_free(&found);
    free(text);
    return result;
}

/* ---- the editor ---- */

static bool write_all(int file, const char *data, size_t bytes) {
    while (bytes) {
        ssize_t n = write(file, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* Ctrl-C in the editor is the editor's. */
static bool run_editor(const char *path) {
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    const char *program = visual && *visual ? visual : editor && *editor ? editor : "vi";
    char command[512];
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    if (snprintf(command, sizeof command, "%s \"$0\"", program) >= (int)sizeof command) return false;
    sigaction(SIGINT, &ignore, &before);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGINT, SIG_DFL);
        dup2(STDERR_FILENO, STDOUT_FILENO); /* answers may go to a file */
        execl("/bin/sh", "sh", "-c", command, path, (char *)NULL);
        _exit(127);
    }
    int status = -1;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    sigaction(SIGINT, &before, NULL);
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* The line gives way to what the file holds, but for the newline at its end. */
static void take_file(EditLine *edit, const char *path) {
    char *text = NULL;
    size_t room = 0;
    FILE *in = fopen(path, "r");
    ssize_t n = in ? getdelim(&text, &room, 0, in) : -1;
    if (in) fclose(in);
    const LineInfoW *line = el_wline(edit);
    int length = (int)(line->lastchar - line->buffer);
    el_cursor(edit, (int)(line->lastchar - line->cursor));
    if (length > 0) el_wdeletestr(edit, length);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r')) text[--n] = '\0';
    if (n > 0) el_insertstr(edit, text);
    free(text);
}

static unsigned char edit_elsewhere(EditLine *edit, wint_t key) {
    const char *folder = getenv("TMPDIR");
    char path[512];
    (void)key;
    if (snprintf(path, sizeof path, "%s/outrider-XXXXXX.txt", folder && *folder ? folder : "/tmp") >=
        (int)sizeof path)
        return CC_ERROR;
    int file = mkstemps(path, 4); /* mode 0600 */
    if (file < 0) return CC_ERROR;
    const LineInfo *line = el_line(edit);
    bool good = write_all(file, line->buffer, (size_t)(line->lastchar - line->buffer));
    close(file);
    el_set(edit, EL_PREP_TERM, 0);
    good = good && run_editor(path);
    el_set(edit, EL_PREP_TERM, 1);
    if (good) take_file(edit, path);
    unlink(path);
    return CC_REDISPLAY;
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
    /* opened anew, for the shell shares what standard input is and must not find it changed */
    const char *terminal = ttyname(STDIN_FILENO);
    r->keys = terminal ? open(terminal, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    if (r->keys < 0) r->keys = STDIN_FILENO;
    watch_signals();
    el_set(r->edit, EL_CLIENTDATA, r);
    el_set(r->edit, EL_EDITOR, "emacs");
    el_set(r->edit, EL_PROMPT_ESC, show_prompt, '\1');
    el_set(r->edit, EL_GETCFN, read_character);
    /* el_set would leak the two names */
    el_wset(r->edit, EL_ADDFN, L"outrider-paste", L"insert a pasted text", paste);
    el_set(r->edit, EL_BIND, "\\e[200~", "outrider-paste", NULL);
    el_wset(r->edit, EL_ADDFN, L"outrider-complete", L"complete a command or a file name", complete);
    el_wset(r->edit, EL_ADDFN, L"outrider-editor", L"edit the line in $EDITOR", edit_elsewhere);
    el_set(r->edit, EL_BIND, "^I", "outrider-complete", NULL);
    el_set(r->edit, EL_BIND, "^G", "outrider-editor", NULL);
    el_set(r->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    history_open(r);
    terminal_wait();
    return true;
}

struct line_reader *line_open(bool editing, bool prompting, const char *history_file,
                              line_completer *complete, void *user) {
    struct line_reader *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->complete = complete;
    r->user = user;
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
    r->interrupted = r->typed = false;
    after_resize(r->edit);            /* of a signal that came while an answer was written */
    el_set(r->edit, EL_PREP_TERM, 1); /* before the prompt: what is typed at it finds the mode of keys */
    fputs("\033[?2004h", r->out);
    const char *read = el_gets(r->edit, &n);
    fputs("\033[?2004l", r->out);
    if (!read || n <= 0) fputc('\n', r->out);
    fflush(r->out);
    terminal_wait();
    if (r->interrupted) return r->typed ? LINE_DROPPED : LINE_INTERRUPTED;
    if (!read || n <= 0) return LINE_END;
    *line = read;
    *bytes = (size_t)n;
    return LINE_READ;
}

static enum line_result read_plain(struct line_reader *r, const char **line, size_t *bytes) {
    if (r->prompting) fputs(r->prompt, stderr);
    ssize_t n = getline(&r->plain, &r->plain_room, stdin);
    if (n < 0) return interrupts_seen() ? LINE_INTERRUPTED : LINE_END;
    if (r->prompting && n == TERMINAL_LINE_BYTES) {
        complain(OUTRIDER_EINVAL,
                 "a line of this terminal ends at %d bytes, and this one may have lost what it had more, so "
                 "nothing was sent: put the text in a file and /read it, or write \"\"\" and several lines",
                 TERMINAL_LINE_BYTES - 1);
        return LINE_DROPPED;
    }
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
    if (r->edit) terminal_restore();
    if (r->history) history_end(r->history);
    if (r->out) fclose(r->out);
    if (r->keys > STDIN_FILENO) close(r->keys);
    free(r->history_file);
    free(r->plain);
    free(r);
}

/* A model file that shrinks while it is mapped: the next read past its end is a SIGBUS, which here becomes
 * the one line and exit code 3 that any bad model gets. The file's name is that of the mapping in
 * /proc/self/maps, which is opened beforehand, so that the handler only reads, writes and leaves. In the
 * program and not in the library: signals are the application's. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "tools/terminal.h"
#include "tools/tools.h"

static int maps = -1; /* a handler has no other place for it */

static uintptr_t read_hex(const char **at) {
    uintptr_t n = 0;
    for (;; ++*at) {
        char c = **at;
        if (c >= '0' && c <= '9')
            n = n << 4 | (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            n = n << 4 | (uintptr_t)(c - 'a' + 10);
        else
            return n;
    }
}

/* The path in a line "begin-end rwxp offset dev inode path" when the address lies in it. */
static const char *path_of(const char *line, uintptr_t address) {
    uintptr_t begin = read_hex(&line);
    line += *line == '-';
    uintptr_t end = read_hex(&line);
    return address >= begin && address < end ? strchr(line, '/') : NULL;
}

/* Line by line, for nothing bounds the whole; a longer line's path is cut. */
static const char *find_path(uintptr_t address, char *line, size_t room) {
    size_t n = 0;
    char chunk[512];
    ssize_t got;
    while ((got = read(maps, chunk, sizeof chunk)) > 0)
        for (ssize_t i = 0; i < got; i++) {
            if (chunk[i] != '\n') {
                if (n + 1 < room) line[n++] = chunk[i];
                continue;
            }
            line[n] = '\0';
            n = 0;
            const char *path = path_of(line, address);
            if (path) return path;
        }
    return NULL;
}

static void say(const char *text) {
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context) {
    char line[1024];
    (void)context;
    const char *path = find_path((uintptr_t)info->si_addr, line, sizeof line);
    if (!path) { /* no file's: a fault of ours, which should be seen as one */
        signal(signal_number, SIG_DFL);
        raise(signal_number);
        return;
    }
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';
    terminal_restore();
    say("outrider: error: ");
    say(path);
    say(": became shorter, or could not be read, while it was in use\n");
    _exit(OUTRIDER_EMODEL);
}

void lost_files_watch(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_RESETHAND};
    maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (maps >= 0) sigaction(SIGBUS, &action, NULL);
}

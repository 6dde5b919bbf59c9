/* The sandbox, tried from inside: a child enters a level and reports what it could still do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/sandbox.h"

/* Each says whether it succeeded, with errno if not. */

static bool closed(int fd) {
    if (fd >= 0) close(fd);
    return fd >= 0;
}
static bool reads_a_file(void) {
    return closed(open("/etc/passwd", O_RDONLY));
}
static bool writes_a_file(void) {
    return closed(open("/tmp/outrider-test-sandbox", O_WRONLY | O_CREAT | O_TRUNC, 0600));
}
static bool empties_a_file(void) {
    return closed(open("/tmp/outrider-test-sandbox", O_RDONLY | O_CREAT | O_TRUNC, 0600));
}
static bool makes_an_unnamed_file(void) {
    return closed(open("/tmp", O_TMPFILE | O_RDWR, 0600));
}
static void *nothing(void *argument) {
    return argument;
}
static bool starts_a_thread(void) {
    pthread_t thread;
    errno = pthread_create(&thread, NULL, nothing, NULL);
    return !errno && pthread_join(thread, NULL) == 0;
}
static bool removes_a_file(void) {
    return unlink("/tmp/outrider-test-sandbox") == 0;
}
static bool looks_at_a_file(void) {
    struct stat s;
    return stat("/etc/passwd", &s) == 0;
}
static bool starts_a_process(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    return child > 0 && waitpid(child, NULL, 0) == child;
}
static bool becomes_a_program(void) { /* succeeds by not coming back; its exit code 0 says so */
    char *arguments[] = {"true", NULL};
    execv("/bin/true", arguments);
    return false;
}
static bool opens_a_socket(void) {
    return closed(socket(AF_INET, SOCK_STREAM, 0));
}
static bool pairs_sockets(void) {
    int pair[2];
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0;
}
static bool traces(void) {
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
}
static bool reads_another_process(void) {
    char byte, *from = &byte;
    struct iovec here = {&byte, 1}, there = {from, 1};
    return process_vm_readv(getppid(), &here, 1, &there, 1, 0) == 1;
}
static bool signals_another_process(void) {
    return kill(getppid(), 0) == 0;
}
static bool maps_code(void) {
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED;
}
static bool makes_code(void) {
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED && mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0;
}
static bool takes_memory(void) {
    char *p = malloc(64 << 20);
    if (p) memset(p, 1, 64 << 20);
    char *q = p ? realloc(p, 128 << 20) : NULL;
    const bool kept = q && q[(64 << 20) - 1] == 1;
    free(q);
    return kept;
}
static bool writes_what_is_open(void) {
    return write(STDERR_FILENO, "", 0) == 0;
}
static bool tells_the_time(void) {
    struct timespec t;
    return clock_gettime(CLOCK_MONOTONIC, &t) == 0 && nanosleep(&(struct timespec){0, 1000}, NULL) == 0;
}

struct attempt {
    bool (*act)(void);
    bool compute, read, files; /* whether it succeeds on these levels */
};
static const struct attempt attempts[] = {
    {reads_a_file, false, true, true},
    {starts_a_thread, false, true, true},
    {empties_a_file, false, false, true},
    {makes_an_unnamed_file, false, false, true},
    {writes_a_file, false, false, true},
    {removes_a_file, false, false, true},
    {looks_at_a_file, false, true, true},
    {starts_a_process, false, false, true},
    {becomes_a_program, false, false, true},
    {opens_a_socket, false, false, false},
    {pairs_sockets, false, false, false},
    {traces, false, false, false},
    {reads_another_process, false, false, false},
    {signals_another_process, false, false, true},
    {maps_code, false, true, true},
    {makes_code, false, true, true},
    {takes_memory, true, true, true},
    {writes_what_is_open, true, true, true},
    {tells_the_time, true, true, true},
};

/* A second thread, which was there before: the filter must hold it too. */
static atomic_int ask, answer;
static bool (*asked)(void);
static void *second_thread(void *unused) {
    (void)unused;
    while (!atomic_load(&ask)) usleep(100);
    atomic_store(&answer, asked() ? 1 : 2);
    return NULL;
}

enum { DID = 0, REFUSED = 1, FAILED_OTHERWISE = 2, NO_SANDBOX = 3 };

static int try_inside(enum sandbox_level level, const struct attempt *a, bool in_thread) {
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        asked = a->act;
        if (in_thread && pthread_create(&thread, NULL, second_thread, NULL)) _exit(FAILED_OTHERWISE);
        if (!sandbox_enter(level)) _exit(NO_SANDBOX);
        if (in_thread) {
            atomic_store(&ask, 1);
            while (!atomic_load(&answer)) sched_yield();
            _exit(atomic_load(&answer) == 1 ? DID : REFUSED);
        }
        _exit(a->act() ? DID : errno == EPERM ? REFUSED : FAILED_OTHERWISE);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void only_what_a_level_allows(void **state) {
    (void)state;
    if (!sandbox_built()) skip();
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
        const struct attempt *a = &attempts[i];
        for (int level = SANDBOX_COMPUTE; level <= SANDBOX_FILES; level++) {
            const bool allowed = level == SANDBOX_COMPUTE ? a->compute
                                 : level == SANDBOX_READ  ? a->read
                                                          : a->files;
            int got = try_inside((enum sandbox_level)level, a, false);
            if (got == NO_SANDBOX) fail_msg("the kernel has no seccomp filters");
            if (got != (allowed ? DID : REFUSED))
                fail_msg("attempt %zu on level %d ends with %d", i, level, got);
        }
    }
}

static void threads_are_held_too(void **state) {
    (void)state;
    if (!sandbox_built()) skip();
    const struct attempt reads = {.act = reads_a_file}, writes = {.act = writes_a_file},
                         speaks = {.act = opens_a_socket};
    assert_int_equal(try_inside(SANDBOX_COMPUTE, &reads, true), REFUSED);
    assert_int_equal(try_inside(SANDBOX_READ, &writes, true), REFUSED);
    assert_int_equal(try_inside(SANDBOX_FILES, &speaks, true), REFUSED);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_what_a_level_allows),
                                       cmocka_unit_test(threads_are_held_too)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

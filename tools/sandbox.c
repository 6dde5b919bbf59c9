/* See sandbox.h: filters of system calls (seccomp), made with libseccomp. Calls are named, not numbered,
 * so that one list serves all architectures; those that an architecture lacks are left out by the library. */
#include "tools/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANDBOX_BUILT false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANDBOX_BUILT false
#endif
#endif
#ifdef WITHOUT_SANDBOX
#define SANDBOX_BUILT false
#endif
#ifndef SANDBOX_BUILT
#define SANDBOX_BUILT true
#endif

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* What is open, memory, threads that there are and their cores, time, signals of one's own, the end. */
static const char *const compute[] = {
    "read",
    "readv",
    "pread64",
    "write",
    "writev",
    "lseek",
    "_llseek",
    "close",
    "fsync",
    "fstat",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "brk",
    "munmap",
    "mremap",
    "madvise",
    "futex",
    "futex_time64",
    "sched_yield",
    "membarrier",
    "clock_gettime",
    "clock_gettime64",
    "gettimeofday",
    "clock_getres",
    "nanosleep",
    "clock_nanosleep",
    "getrandom",
    "getpid",
    "gettid",
    "getrusage",
    "times",
    "sysinfo",
    "sched_getaffinity",
    "sched_setaffinity",
    "getcpu",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigreturn",
    "sigaltstack",
    "restart_syscall",
    "exit",
    "exit_group",
    "rseq",
    "set_robust_list",
};

/* And, to read models, files that no write access is asked for. */
static const char *const reading[] = {
    "mmap",       "mmap2",      "mprotect", "newfstatat", "fstatat64",  "stat",     "lstat",
    "statx",      "access",     "statfs",   "faccessat",  "faccessat2", "readlink", "getcwd",
    "readlinkat", "getdents64", "uname",    "fstatfs",    "fadvise64",
};

/* The network, other processes, the machine. */
static const char *const administration[] = {
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "socketcall",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    "mount",
    "umount",
    "umount2",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsmount",
    "fsconfig",
    "fspick",
    "mount_setattr",
    "pivot_root",
    "chroot",
    "setns",
    "unshare",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "keyctl",
    "add_key",
    "request_key",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "iopl",
    "ioperm",
    "syslog",
    "vhangup",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "setfsuid",
    "setfsgid",
    "capset",
    "mknod",
    "mknodat",
    "open_by_handle_at",
    "personality",
    "fanotify_init",
    "lookup_dcookie",
    "nfsservctl",
    "vm86",
    "vm86old",
    "modify_ldt",
};

/* False when a rule was refused for another reason than that this architecture has no such call. */
static bool add(scmp_filter_ctx filter, uint32_t action, const char *name) {
    int call = seccomp_syscall_resolve_name(name);
    if (call == __NR_SCMP_ERROR) return true;
    int error = seccomp_rule_add(filter, action, call, 0);
    return error == 0 || error == -EDOM;
}

static bool add_all(scmp_filter_ctx filter, uint32_t action, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!add(filter, action, names[i])) return false;
    return true;
}

/* Memory that is not executable, and fstat as the C library asks it. */
static bool add_narrow_rules(scmp_filter_ctx filter) {
    int error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                                 SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    error |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    error |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                              SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
    return error == 0;
}

/* Files opened to read, and the threads of an engine: clone3's flags are out of a filter's sight, so the C
 * library is sent on to clone. */
static bool add_reading_rules(scmp_filter_ctx filter) {
    const scmp_datum_t writing = O_ACCMODE | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
    int error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                                 SCMP_A2(SCMP_CMP_MASKED_EQ, writing, O_RDONLY));
    error |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(open), 1,
                              SCMP_A1(SCMP_CMP_MASKED_EQ, writing, O_RDONLY));
    error |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                              SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    error |= seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return error == 0 && add_all(filter, SCMP_ACT_ALLOW, reading, COUNT(reading));
}

/* Calls that depend on what they are asked for. */
static bool add_compute_rules(scmp_filter_ctx filter) {
    static const unsigned terminal[] = {TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, FIONREAD};
    int error = 0;
    /* abort */
    error |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                              SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    error |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GETFL, 0));
    for (size_t i = 0; i < COUNT(terminal); i++)
        error |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                  SCMP_A1(SCMP_CMP_EQ, terminal[i], 0));
    return error == 0;
}

bool sandbox_built(void) {
    return SANDBOX_BUILT;
}

bool sandbox_enter(enum sandbox_level level) {
    if (!SANDBOX_BUILT) return false;
    const bool listed_only = level != SANDBOX_FILES;
    scmp_filter_ctx filter = seccomp_init(listed_only ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_ALLOW);
    if (!filter) return false;
    /* TSYNC: the workers too. no_new_privs is the library's default. */
    bool good = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) == 0;
    /* Some kernels tie a mitigation to seccomp that slows loads after stores; nothing here is for it to hide.
     */
    good = good && seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1) == 0;
    if (listed_only)
        good = good && add_all(filter, SCMP_ACT_ALLOW, compute, COUNT(compute)) &&
               add_compute_rules(filter) &&
               (level == SANDBOX_READ ? add_reading_rules(filter) : add_narrow_rules(filter));
    else
        good = good && add_all(filter, SCMP_ACT_ERRNO(EPERM), administration, COUNT(administration));
    good = good && seccomp_load(filter) == 0;
    seccomp_release(filter);
    return good;
}

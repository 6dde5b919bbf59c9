/* How every room reports failure: a status, and one line of text for a person.
 *
 * The line is kept per thread (like dlerror's), overwritten by the next failure on that thread, and read
 * through outrider_error(). It names what is wrong and where: file and field, flag, or both counts. It is
 * UTF-8 and never holds a newline or a control character, because parts of it may come from an untrusted
 * file.
 */
#ifndef OUTRIDER_STATUS_H
#define OUTRIDER_STATUS_H

#include "runtime/outrider.h"

/* Records the message and yields `code`, so that a failure is one line: return fail(OUTRIDER_EMODEL, "...").
 * A macro, so that compilers see that a failed call never goes on. */
#define fail(code, ...) (status_record(__VA_ARGS__), (code))
/* As fail, for a host allocation of `bytes` for `what`. */
#define fail_memory(what, bytes)                                                                             \
    fail(OUTRIDER_ENOMEM, "out of memory: %zu bytes for %s", (size_t)(bytes), what)

/* As fail, with what the system says of `path` in errno; where it lacks memory, that is no fault of the file. */
#define fail_errno(code, path)                                                                               \
    fail(errno == ENOMEM ? OUTRIDER_ENOMEM : (code), "%s: %s", path, strerror(errno))

void status_record(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

/* OUTRIDER_ENOMEM unless `bytes` bytes are to be had now: asked in front of a library that does not survive
 * it when memory runs out within. */
outrider_status memory_probe(const char *what, size_t bytes);

/* Forwards a failure to the caller. */
#define TRY(call)                                                                                            \
    do {                                                                                                     \
        outrider_status try_status_ = (call);                                                                \
        if (try_status_ != OUTRIDER_OK) return try_status_;                                                  \
    } while (0)

/* Forwards a failure to the cleanup label of the function, which returns `status`. */
#define TRY_GOTO(label, call)                                                                                \
    do {                                                                                                     \
        status = (call);                                                                                     \
        if (status != OUTRIDER_OK) goto label;                                                               \
    } while (0)

/* a * b and a + b without wrapping: false when the true result does not fit. */
static inline bool mul_fits(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool add_fits(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

#endif

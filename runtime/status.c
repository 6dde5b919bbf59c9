/* The thread's last error message. The one mutable state at file scope: per thread, and only text. */
#include "runtime/status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[512];

outrider_status fail(outrider_status code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    return code;
}

outrider_status fail_memory(const char *what, size_t bytes) {
    return fail(OUTRIDER_ENOMEM, "out of memory: %zu bytes for %s", bytes, what);
}

const char *outrider_error(void) { return message; }

/* The thread's last error message. The one mutable state at file scope: per thread, and only text. */
#include "runtime/status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[512];

void status_record(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
}

const char *outrider_error(void) {
    return message;
}

/* The thread's last error message. The one mutable state at file scope: per thread, and only text. */
#include "runtime/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/utf8.h"

static _Thread_local char message[512];

/* Files may name tensors as they like: what is no UTF-8 (a character cut at the end, too) and what could
 * drive a terminal, C1 controls among it, becomes question marks. */
static void make_printable(char *line) {
    size_t n = strlen(line);
    for (size_t i = 0; i < n;) {
        int length = utf8_check((const unsigned char *)line + i, n - i);
        uint32_t c = length > 0 ? utf8_code_point((const unsigned char *)line + i, length) : 0;
        size_t bytes = length > 0 ? (size_t)length : 1;
        if (c < 0x20 || (c >= 0x7F && c < 0xA0)) memset(line + i, '?', bytes);
        i += bytes;
    }
}

void status_record(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    make_printable(message);
}

outrider_status memory_probe(const char *what, size_t bytes) {
    void *probe = malloc(bytes);
    if (!probe) return fail_memory(what, bytes);
    free(probe);
    return OUTRIDER_OK;
}

const char *outrider_error(void) {
    return message;
}

/* How the command line tells a failure: one line on standard error. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/text.h"
#include "tools/tools.h"

int complain(int code, const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    make_printable(line);
    fprintf(stderr, "outrider: error: %s\n", line);
    return code;
}

int tell(outrider_status status) {
    return status ? complain((int)status, "%s", outrider_error()) : 0;
}

int complain_memory(void) {
    return complain(OUTRIDER_ENOMEM, "out of memory");
}

int complain_file(const char *path) {
    if (errno == ENOMEM) return complain_memory();
    return complain(OUTRIDER_EFAIL, "%s: %s", path, strerror(errno));
}

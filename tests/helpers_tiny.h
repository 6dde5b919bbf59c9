/* The tiny model of tests/tiny_model.py, for programs that open engines by the thousand. */
#ifndef OUTRIDER_HELPERS_TINY_H
#define OUTRIDER_HELPERS_TINY_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/outrider.h"

/* Its folder; `make test` writes it beside the test programs. */
static inline const char *tiny_folder(void) {
    static char path[512];
    const char *build = getenv("BUILD");
    snprintf(path, sizeof path, "%s/tests/tiny", build ? build : "build");
    if (access(path, R_OK)) {
        fprintf(stderr, "%s is missing: python3 tests/tiny_model.py %s\n", path, path);
        exit(1);
    }
    return path;
}

/* A pair of it with itself, on one thread. */
static inline outrider_engine_options tiny_options(int32_t sessions) {
    outrider_engine_options o = outrider_engine_defaults();
    o.model = o.draft = tiny_folder();
    o.device = "cpu", o.threads = 1, o.max_sessions = sessions, o.ctx_size = 256, o.page_size = 16;
    return o;
}

#endif

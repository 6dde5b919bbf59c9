/* Sessions that ride together, for the tests of what a batch writes. */
#ifndef OUTRIDER_TESTS_HELPERS_BATCH_H
#define OUTRIDER_TESTS_HELPERS_BATCH_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "runtime/outrider.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != OUTRIDER_OK) fail_msg(#call ": %s", outrider_error());                                 \
    } while (0)

/* The first n of the test prompts, owned by the caller; false when there are fewer. */
static inline bool read_prompts(char **prompts, int n) {
    FILE *f = fopen("tests/data/prompts.jsonl", "r");
    char line[4096];
    int read = 0;
    for (; f && read < n && fgets(line, sizeof line, f); read++) {
        json_t *o = json_loads(line, 0, NULL);
        prompts[read] = strdup(json_string_value(json_object_get(o, "prompt")));
        json_decref(o);
    }
    if (f) fclose(f);
    return read == n;
}

/* Rounds of all n sessions until none runs any more. */
static inline void write_to_the_end(outrider_session *const *s, size_t n) {
    for (bool running = true; running;) {
        OK(outrider_round(s, n));
        running = false;
        for (size_t i = 0; i < n; i++) running |= outrider_session_stop(s[i]) == OUTRIDER_RUNNING;
    }
}

/* Every page is back in the pool. */
static inline void expect_no_page_leaked(const outrider_engine *e) {
    outrider_engine_info info;
    OK(outrider_engine_get_info(e, &info));
    assert_int_equal(info.pages_free, info.pages);
}

#endif

/* Long runs of the tiny pair: chat turns and batched prompts of random length, with stops and cancels. Every
 * so often the very conversation and the very batch of the beginning are written again: the same text, no
 * page leaked, and memory no larger than after the first tenth. `make endurance TURNS=10000 PROMPTS=100000`.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/helpers_tiny.h"

enum { BATCH = 8, TEXT = 1 << 14, SLACK = 1 << 20 };

static uint32_t seed = 1;
static uint32_t next(uint32_t below) {
    seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5; /* xorshift, Marsaglia 2003 */
    return seed % below;
}

static void check(outrider_status status) {
    if (status == OUTRIDER_OK) return;
    fprintf(stderr, "%s\n", outrider_error());
    exit(1);
}
static void die(const char *what) {
    fprintf(stderr, "FAIL: %s\n", what);
    exit(1);
}

static void make_prompt(char *text, uint32_t most) {
    static const char *const words[] = {"the ", "a", "b ", "th", "\xC3\xA9 ", "\n", ". "};
    size_t n = 1 + next(most);
    *text = '\0';
    while (n-- > 0) strcat(text, words[next(sizeof words / sizeof *words)]);
}

static outrider_session *open_session(outrider_engine *e) {
    static const char *const stops[] = {"the", "\xEF\xBF\xBD\xEF\xBF\xBD"};
    outrider_settings set = outrider_settings_defaults(e);
    outrider_session *s;
    set.seed = next(1000), set.n_predict = (int32_t)next(24), set.draft_n = (int32_t)next(5) - 1;
    set.temperature = next(3) ? 0.7f : 0, set.accept = OUTRIDER_ACCEPT_COUPLED;
    set.stop = stops, set.n_stop = next(3);
    check(outrider_session_open(e, &set, &s));
    return s;
}

static void take(outrider_session *s, char *out, size_t *n) {
    size_t bytes;
    const char *text = outrider_session_take_text(s, &bytes);
    if (bytes > TEXT - *n) bytes = TEXT - *n;
    memcpy(out + *n, text, bytes);
    *n += bytes;
}

/* A conversation of a few turns, some broken off; returns how many. */
static int converse(outrider_engine *e, char *out, size_t *n) {
    outrider_session *s = open_session(e);
    int turns = 1 + (int)next(4);
    char prompt[512];
    for (int i = 0; i < turns; i++) {
        make_prompt(prompt, 12);
        check(outrider_session_append_message(s, "user", prompt, strlen(prompt)));
        int cancel = next(4) ? 1000 : (int)next(4);
        while (outrider_session_stop(s) == OUTRIDER_RUNNING && cancel-- > 0) {
            check(outrider_round(&s, 1));
            take(s, out, n);
        }
        if (outrider_session_stop(s) == OUTRIDER_STOP_CONTEXT) break;
    }
    outrider_session_close(s);
    return turns;
}

/* A batch, some of it left early; returns how many prompts. */
static int ride(outrider_engine *e, char *out, size_t *n) {
    outrider_session *s[BATCH];
    char prompt[1024];
    for (int i = 0; i < BATCH; i++) {
        s[i] = open_session(e);
        make_prompt(prompt, 40);
        check(outrider_session_append_text(s[i], prompt, strlen(prompt)));
    }
    int rounds = next(5) ? 60 : (int)next(6);
    while (rounds-- > 0) check(outrider_round(s, BATCH));
    for (int i = 0; i < BATCH; i++) take(s[i], out, n), outrider_session_close(s[i]);
    return BATCH;
}

static void endure(const char *name, outrider_engine *e, int (*run)(outrider_engine *, char *, size_t *),
                   long most) {
    static char first[TEXT], text[TEXT];
    size_t first_n = 0, n, settled = 0;
    long done = 0, next_report = most / 10;
    seed = 7;
    run(e, first, &first_n);
    while (done < most) {
        n = 0;
        done += run(e, text, &n);
        if (done < next_report) continue;
        uint32_t kept = seed;
        seed = 7, n = 0;
        run(e, text, &n);
        seed = kept;
        if (n != first_n || memcmp(text, first, n) != 0) die("another text than the first time");
        outrider_engine_info info;
        check(outrider_engine_get_info(e, &info));
        if (info.pages_free != info.pages) die("pages are leaked");
        size_t in_use = mallinfo2().uordblks + mallinfo2().hblkhd;
        if (!settled) settled = in_use;
        if (in_use > settled + SLACK) die("memory grows");
        printf("%s: %ld of %ld, %zu bytes in use\n", name, done, most, in_use);
        fflush(stdout);
        next_report += most / 10;
    }
}

int main(int argc, char **argv) {
    outrider_engine_options o = tiny_options(BATCH);
    outrider_engine *e;
    long turns = argc > 1 ? atol(argv[1]) : 10000, prompts = argc > 2 ? atol(argv[2]) : 100000;
    o.ctx_size = 512;
    check(outrider_engine_open(&o, &e));
    endure("turns", e, converse, turns);
    endure("prompts", e, ride, prompts);
    outrider_engine_close(e);
    return 0;
}

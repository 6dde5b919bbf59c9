/* A complete program on the public API: writes the text that follows a prompt, token run by token run.
 *
 *     cc example.c $(pkg-config --cflags --libs outrider) -o example
 *     ./example VERIFIER DRAFT "Once upon a time"
 */
#include <outrider.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(outrider_status status) {
    if (status == OUTRIDER_OK) return;
    fprintf(stderr, "%s\n", outrider_error());
    exit((int)status);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s VERIFIER DRAFT PROMPT\n", argv[0]);
        return OUTRIDER_EINVAL;
    }
    outrider_engine_options options = outrider_engine_defaults();
    options.model = argv[1];
    options.draft = argv[2];
    outrider_engine *engine;
    check(outrider_engine_open(&options, &engine));

    outrider_settings settings = outrider_settings_defaults(engine);
    settings.temperature = 0;
    settings.n_predict = 32;
    outrider_session *session;
    check(outrider_session_open(engine, &settings, &session));
    check(outrider_session_append_text(session, argv[3], strlen(argv[3])));
    while (outrider_session_stop(session) == OUTRIDER_RUNNING) {
        size_t bytes;
        check(outrider_round(&session, 1));
        const char *text = outrider_session_take_text(session, &bytes);
        fwrite(text, 1, bytes, stdout);
    }

    outrider_stats stats;
    outrider_session_stats(session, &stats);
    fprintf(stderr, "%d tokens in %d verifier passes\n", stats.n_predict, stats.n_verify);
    outrider_session_close(session);
    outrider_engine_close(engine);
    return 0;
}

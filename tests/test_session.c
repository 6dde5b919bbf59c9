/* What a session keeps its word on between answers: turns of a conversation, settings changed while it
 * writes, and what others may share of it. On the shipped pair. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/outrider.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != OUTRIDER_OK) fail_msg(#call ": %s", outrider_error());                                 \
    } while (0)

static const char STORY[] = "Once upon a time there was a young prince who lived in a castle by the sea, and";

static outrider_engine *open_engine(int32_t sessions) {
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.draft = "weights/tale/draft", o.device = "cpu", o.threads = 2;
    o.max_sessions = sessions, o.ctx_size = 512, o.page_size = 16;
    OK(outrider_engine_open(&o, &e));
    return e;
}

static outrider_session *open_session(outrider_engine *e, int32_t n_predict, int32_t k) {
    outrider_settings s = outrider_settings_defaults(e);
    outrider_session *session;
    s.temperature = 0, s.n_predict = n_predict, s.ignore_eos = true, s.draft_n = k;
    OK(outrider_session_open(e, &s, &session));
    return session;
}

static void say(outrider_session *s, const char *role, const char *text) {
    OK(outrider_session_append_message(s, role, text, strlen(text)));
}

static void write_answer(outrider_session *s) {
    while (outrider_session_stop(s) == OUTRIDER_RUNNING) OK(outrider_round(&s, 1));
}

/* The bytes of all tokens from `from` on; control tokens have none. */
static void text_from(const outrider_engine *e, const outrider_session *s, size_t from, char *out) {
    size_t n, bytes;
    const int32_t *tokens = outrider_session_tokens(s, &n);
    for (size_t i = from; i < n; i++, out += bytes) {
        const char *piece = outrider_token_bytes(e, tokens[i], &bytes);
        memcpy(out, piece, bytes);
    }
    *out = '\0';
}

/* A system turn behind an answer waits for the next turn, and is written with it. */
static void a_system_turn_between_turns_is_kept(void **state) {
    (void)state;
    outrider_engine *e = open_engine(1);
    outrider_session *s = open_session(e, 8, 0);
    char text[4000];
    size_t n;
    say(s, "user", "Tell me a tale.");
    write_answer(s);
    outrider_session_tokens(s, &n);
    say(s, "system", "Speak of the sea.");
    say(s, "system", "And of ships.");
    say(s, "user", "Go on.");
    text_from(e, s, n, text);
    const char *sea = strstr(text, "Speak of the sea."), *ships = strstr(text, "And of ships.");
    assert_non_null(sea);
    assert_true(ships > sea && strstr(text, "Go on.") > ships);
    outrider_session_close(s);
    outrider_engine_close(e);
}

/* A turn that is taken back and said anew leaves no trace: the answer before it is open in between. */
static void a_turn_can_be_taken_back(void **state) {
    (void)state;
    outrider_engine *e = open_engine(1);
    int32_t want[512];
    size_t n, answered, want_n = 0;
    for (int detour = 0; detour < 2; detour++) {
        outrider_session *s = open_session(e, 8, 0);
        say(s, "user", "Tell me a tale.");
        write_answer(s);
        outrider_session_tokens(s, &answered);
        if (detour) {
            say(s, "user", "Another one.");
            write_answer(s);
            OK(outrider_session_truncate(s, answered));
        }
        say(s, "user", "Go on.");
        const int32_t *tokens = outrider_session_tokens(s, &n);
        if (!detour) memcpy(want, tokens, n * sizeof *tokens), want_n = n;
        assert_int_equal(n, want_n);
        assert_memory_equal(tokens, want, n * sizeof *tokens);
        outrider_session_close(s);
    }
    outrider_engine_close(e);
}

/* A limit that is lowered under an answer in progress holds at once. */
static void a_lowered_limit_holds(void **state) {
    (void)state;
    outrider_engine *e = open_engine(1);
    for (int32_t k = 0; k <= 4; k += 4) {
        outrider_session *s = open_session(e, 100, k);
        outrider_settings set = outrider_settings_defaults(e);
        outrider_stats stats;
        OK(outrider_session_append_text(s, STORY, strlen(STORY)));
        do {
            OK(outrider_round(&s, 1));
            outrider_session_stats(s, &stats);
        } while (stats.n_predict < 10);
        int32_t written = stats.n_predict;
        set.temperature = 0, set.n_predict = 5, set.draft_n = k;
        OK(outrider_session_set(s, &set));
        write_answer(s);
        assert_int_equal(outrider_session_stop(s), OUTRIDER_STOP_LENGTH);
        outrider_session_stats(s, &stats);
        assert_int_equal(stats.n_predict, written);
        outrider_session_close(s);
    }
    outrider_engine_close(e);
}

/* What was written is not shared as if it had been read: a device may read prompts with other products, and a
 * prompt's place in the cache must not depend on who else is there. */
static void only_what_was_read_is_shared(void **state) {
    (void)state;
    outrider_engine *e = open_engine(2);
    outrider_session *a = open_session(e, 100, 4), *b = open_session(e, 4, 0);
    outrider_stats stats;
    size_t n_prompt, n;
    OK(outrider_session_append_text(a, STORY, strlen(STORY)));
    OK(outrider_session_append_text(a, STORY, strlen(STORY)));
    outrider_session_tokens(a, &n_prompt);
    write_answer(a);
    const int32_t *tokens = outrider_session_tokens(a, &n);
    OK(outrider_session_append(b, tokens, n));
    write_answer(b);
    outrider_session_stats(b, &stats);
    assert_int_equal(stats.n_cached, n_prompt);
    assert_int_equal(stats.n_prompt, n - n_prompt);
    outrider_session_close(a);
    outrider_session_close(b);
    outrider_engine_close(e);
}

/* Proposals behind the end of the answer are not counted as accepted: the counts add up to the tokens. */
static void counts_add_up(void **state) {
    (void)state;
    static const char *const stops[] = {".", ","};
    outrider_engine *e = open_engine(1);
    for (int32_t k = 1; k <= 8; k++) {
        outrider_session *s = open_session(e, 100, k);
        outrider_settings set = outrider_settings_defaults(e);
        outrider_stats stats;
        set.temperature = 0, set.stop = stops, set.n_stop = 2, set.draft_n = k;
        OK(outrider_session_set(s, &set));
        OK(outrider_session_append_text(s, STORY, strlen(STORY)));
        write_answer(s);
        outrider_session_stats(s, &stats);
        assert_in_range(stats.n_verify + stats.draft_n_accepted - stats.n_predict, 0, 1);
        outrider_session_close(s);
    }
    outrider_engine_close(e);
}

/* Copies a file of the draft's folder; of `tensor`, where one is named, all values become NaN (BF16). */
static void copy_file(const char *folder, const char *name, const char *tensor) {
    char path[256];
    size_t begin, end;
    snprintf(path, sizeof path, "weights/tale/draft/%s", name);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    size_t bytes = (size_t)ftell(in);
    char *data = malloc(bytes + 1);
    assert_non_null(data);
    rewind(in);
    assert_int_equal(fread(data, 1, bytes, in), bytes);
    data[bytes] = '\0';
    fclose(in);
    if (tensor) {
        uint64_t header;
        memcpy(&header, data, 8);
        const char *at = memmem(data + 8, header, tensor, strlen(tensor));
        assert_non_null(at);
        assert_int_equal(sscanf(strstr(at, "data_offsets"), "data_offsets\":[%zu,%zu", &begin, &end), 2);
        memset(data + 8 + header + begin, 0xFF, end - begin);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, bytes, out), bytes);
    fclose(out);
    free(data);
}

/* A draft whose logits are no numbers costs time, never the text. */
static void a_broken_draft_changes_nothing(void **state) {
    (void)state;
    static const char *const files[] = {"config.json", "generation_config.json", "tokenizer.model",
                                        "tokenizer_config.json", "model.safetensors"};
    char folder[] = "/tmp/outrider_test_XXXXXX", path[256];
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 5; i++) copy_file(folder, files[i], i == 4 ? "\"model.norm.weight\"" : NULL);
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.draft = folder, o.device = "cpu", o.threads = 2, o.ctx_size = 512;
    OK(outrider_engine_open(&o, &e));
    for (int greedy = 0; greedy < 2; greedy++) {
        int32_t want[512];
        size_t n, want_n = 0;
        for (int32_t k = 0; k <= 4; k += 4) {
            outrider_settings set = outrider_settings_defaults(e);
            outrider_session *s;
            set.temperature = greedy ? 0 : 0.8f, set.accept = OUTRIDER_ACCEPT_COUPLED, set.seed = 7;
            set.n_predict = 24, set.draft_n = k, set.drafters = OUTRIDER_DRAFT_MODEL;
            OK(outrider_session_open(e, &set, &s));
            OK(outrider_session_append_text(s, STORY, strlen(STORY)));
            write_answer(s);
            const int32_t *tokens = outrider_session_tokens(s, &n);
            if (k == 0) memcpy(want, tokens, n * sizeof *tokens), want_n = n;
            assert_int_equal(n, want_n);
            assert_memory_equal(tokens, want, n * sizeof *tokens);
            outrider_session_close(s);
        }
    }
    outrider_engine_close(e);
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        remove(path);
    }
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_system_turn_between_turns_is_kept),
        cmocka_unit_test(a_turn_can_be_taken_back),
        cmocka_unit_test(a_lowered_limit_holds),
        cmocka_unit_test(only_what_was_read_is_shared),
        cmocka_unit_test(counts_add_up),
        cmocka_unit_test(a_broken_draft_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A whole model folder in one input: a byte that names a file, its length in four (little-endian), its bytes,
 * and so on; what is not there is taken from the tiny model. What opens must write two tokens. */
#include "tests/helpers_fuzz.h"

static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.model",
                                    "tokenizer_config.json", "model.safetensors"};
enum { FILES = sizeof names / sizeof *names };

static void generate(outrider_engine *e) {
    outrider_settings settings = outrider_settings_defaults(e);
    outrider_session *s;
    settings.n_predict = 2;
    settings.seed = 1;
    settings.draft_n = 2;
    if (outrider_session_open(e, &settings, &s) != OUTRIDER_OK) fuzz_die("a session");
    /* Numbers that are no logits, and no token for the text, are failures of a round, not of the program. */
    outrider_status status = outrider_session_append_text(s, "the ab", 6);
    while (status == OUTRIDER_OK && outrider_session_stop(s) == OUTRIDER_RUNNING)
        status = outrider_round(&s, 1);
    outrider_session_close(s);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    bool written[FILES] = {false};
    while (bytes >= 5) {
        size_t which = data[0] % FILES, n = (size_t)data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16;
        data += 5, bytes -= 5;
        if (n > bytes) n = bytes;
        fuzz_write(names[which], data, n);
        written[which] = true;
        data += n, bytes -= n;
    }
    for (int i = 0; i < FILES; i++)
        if (!written[i]) fuzz_copy_tiny(names[i]);
    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = fuzz_folder(), o.device = "cpu", o.threads = 1, o.ctx_size = 64, o.page_size = 16;
    outrider_status status = outrider_engine_open(&o, &e);
    if (status == OUTRIDER_OK)
        generate(e);
    else if (status != OUTRIDER_EINVAL) /* a context of fewer than 64 tokens: our own wish was wrong */
        fuzz_refused(status, "");
    outrider_engine_close(e);
}

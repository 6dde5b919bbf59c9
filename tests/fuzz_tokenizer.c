/* tokenizer.json, a NUL, text, a NUL, tokenizer_config.json. A tokenizer that opens encodes the text without
 * a control token, or says in one line that a pattern of its own takes too long; every piece has its bytes.
 */
#include "tests/helpers_fuzz.h"

#include "tokenizer/tokenizer.h"

static void encode(const struct tokenizer *t, const char *text, size_t bytes) {
    struct token_list list = {0};
    outrider_status status = tokenizer_encode(t, text, bytes, &list);
    if (status != OUTRIDER_OK) fuzz_refused(status, "pattern");
    if (status != OUTRIDER_OK && list.n) fuzz_die("half a text is left");
    for (size_t i = 0; i < list.n; i++) {
        if (list.ids[i] < 0 || list.ids[i] >= tokenizer_size(t)) fuzz_die("an id past the vocabulary");
        if (tokenizer_is_control(t, list.ids[i])) fuzz_die("text yields a control token");
    }
    token_list_free(&list);
}

static void use(const struct tokenizer *t, const char *text, size_t n) {
    static const char usual[] = "It's 42 <tool>\n\n e\xCC\x81 \xE4\xB8\xAD\xFF";
    char spelled[80];
    encode(t, usual, sizeof usual - 1);
    encode(t, text, n);
    for (int32_t id = 0; id < tokenizer_size(t) && id < 1000; id++) {
        size_t bytes;
        if (!tokenizer_piece(t, id, false, &bytes)) fuzz_die("a piece without a text");
        tokenizer_spell(t, id, spelled);
    }
    if (tokenizer_difference(t, t) != -1) fuzz_die("it differs from itself");
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    size_t n, text_bytes;
    const uint8_t *file = fuzz_part(&data, &bytes, &n), *text = fuzz_part(&data, &bytes, &text_bytes);
    fuzz_write("tokenizer.json", file, n);
    if (bytes)
        fuzz_write("tokenizer_config.json", data, bytes);
    else
        fuzz_remove("tokenizer_config.json");
    struct tokenizer *t;
    outrider_status status = tokenizer_open(fuzz_folder(), &t);
    if (status == OUTRIDER_OK) {
        use(t, (const char *)text, text_bytes);
        tokenizer_close(t);
    } else {
        fuzz_refused(status, "tokenizer");
    }
}

/* tokenizer_config.json, a NUL, chat_template.jinja, beside a good tokenizer.model. A tokenizer that opens
 * encodes text, finds its markers, and its template is recognised or not. */
#include "tests/helpers_fuzz.h"

#include "tokenizer/tokenizer.h"

static const char PIECES[] =
    "\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x07\x0a\x03<s>\x18\x03\x0a\x08\x0a\x04</s>\x18\x03"
    "\x0a\x03\x0a\x01"
    "a"
    "\x0a\x05\x0a\x03\xE2\x96\x81"
    "\x12\x02\x18\x02";

static void use(const struct tokenizer *t) {
    static const char text[] = "a <s> aa\xFF";
    struct token_list list = {0};
    enum chat_kind kind;
    if (tokenizer_encode(t, text, sizeof text - 1, &list) != OUTRIDER_OK) fuzz_die("encode");
    for (size_t i = 0; i < list.n; i++)
        if (tokenizer_is_control(t, list.ids[i])) fuzz_die("text yields a control token");
    token_list_free(&list);
    for (int32_t id = 0; id < tokenizer_size(t) && id < 100; id++) {
        size_t bytes;
        if (!tokenizer_piece(t, id, false, &bytes)) fuzz_die("a piece without a text");
    }
    if (chat_detect(tokenizer_chat_template(t), &kind) == OUTRIDER_OK) chat_end_token(t, kind);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static bool ready;
    if (!ready) fuzz_write("tokenizer.model", PIECES, sizeof PIECES - 1);
    ready = true;
    size_t n;
    const uint8_t *part = fuzz_part(&data, &bytes, &n);
    fuzz_write("tokenizer_config.json", part, n);
    if (bytes)
        fuzz_write("chat_template.jinja", data, bytes);
    else
        fuzz_remove("chat_template.jinja");
    struct tokenizer *t;
    outrider_status status = tokenizer_open(fuzz_folder(), &t);
    if (status == OUTRIDER_OK) {
        use(t);
        tokenizer_close(t);
    } else {
        fuzz_refused(status, "tokenizer");
    }
}

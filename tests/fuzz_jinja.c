/* A chat template, a NUL, then roles and words of a conversation. It is refused with a line that names the
 * way out, or renders text of which every byte is the template's or that of one of the messages. */
#include "tests/helpers_fuzz.h"

#include "tokenizer/jinja.h"

enum { MAX_MESSAGES = 8 };

static char *terminated(const uint8_t *data, size_t bytes) {
    char *text = malloc(bytes + 1);
    if (!text) abort();
    if (bytes) memcpy(text, data, bytes);
    text[bytes] = '\0';
    return text;
}

static size_t read_messages(const uint8_t *data, size_t bytes, struct chat_message *messages) {
    size_t n = 0;
    while (bytes > 0 && n < MAX_MESSAGES) {
        enum chat_role role = (enum chat_role)(*data % 3);
        size_t length;
        data++, bytes--;
        const uint8_t *text = fuzz_part(&data, &bytes, &length);
        messages[n++] = (struct chat_message){role, (const char *)text, length};
    }
    return n;
}

static void expect_origins(const struct jinja_text *text, size_t n_messages) {
    if (text->bytes[text->n]) fuzz_die("no end");
    for (size_t i = 0; i < text->n; i++)
        if (text->from[i] > n_messages) fuzz_die("a byte of no message");
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    struct chat_message messages[MAX_MESSAGES];
    size_t source_bytes;
    const uint8_t *part = fuzz_part(&data, &bytes, &source_bytes);
    char *source = terminated(part, source_bytes);
    size_t n = read_messages(data, bytes, messages);
    for (int open = 0; open < 2; open++) {
        struct jinja_input in = {messages, n, "<s>", "</s>", open, 0};
        struct jinja_text text;
        outrider_status status = jinja_render(source, &in, &text);
        if (status == OUTRIDER_OK)
            expect_origins(&text, n);
        else if (status != OUTRIDER_EINVAL || !strstr(outrider_error(), "--chat-template"))
            fuzz_die("a refusal without a way out");
        if (status == OUTRIDER_OK) jinja_text_free(&text);
    }
    free(source);
}

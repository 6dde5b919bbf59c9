/* A conversation in each known template: a byte that names the template, then roles and words. Whatever
 * people say, the control tokens are the template's own: as many as with other words in their place. */
#include "tests/helpers_fuzz.h"

#include "tokenizer/tokenizer.h"

enum { MAX_MESSAGES = 8, KINDS = CHAT_GEMMA + 1 };

static size_t controls(const struct tokenizer *t, enum chat_kind kind, const struct chat_message *messages,
                       size_t n, bool *refused) {
    struct token_list list = {0};
    size_t found = 0;
    *refused = chat_encode(t, kind, messages, n, 0, true, false, false, &list) != OUTRIDER_OK;
    for (size_t i = 0; i < list.n; i++) found += tokenizer_is_control(t, list.ids[i]);
    token_list_free(&list);
    return found;
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static struct tokenizer *t;
    struct chat_message said[MAX_MESSAGES], plain[MAX_MESSAGES];
    size_t n = 0;
    bool refused, plain_refused;
    if (!t && tokenizer_open(fuzz_tiny(), &t) != OUTRIDER_OK) fuzz_die("the tiny model");
    if (bytes < 2) return;
    enum chat_kind kind = (enum chat_kind)(data[0] % KINDS);
    data++, bytes--;
    while (bytes > 0 && n < MAX_MESSAGES) {
        enum chat_role role = (enum chat_role)(*data % 3);
        size_t length;
        data++, bytes--;
        const uint8_t *text = fuzz_part(&data, &bytes, &length);
        said[n] = (struct chat_message){role, (const char *)text, length};
        plain[n++] = (struct chat_message){role, "a", 1};
    }
    size_t a = controls(t, kind, said, n, &refused), b = controls(t, kind, plain, n, &plain_refused);
    if (refused != plain_refused) fuzz_die("words decide whether a conversation is refused");
    if (!refused && a != b) fuzz_die("words yield control tokens");
}

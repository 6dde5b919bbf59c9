/* A conversation in each known template and the model's own: a byte that names the template and where the
 * encoding begins, then roles and words. Whatever people say, the control tokens are the template's own: as
 * many as with other words in their place. */
#include "tests/helpers_fuzz.h"

#include "tokenizer/tokenizer.h"

enum { MAX_MESSAGES = 8, KINDS = CHAT_OWN + 1 };

/* Messages from `from` on, after an answer that is to be closed, with or without its end token. */
struct plan {
    enum chat_kind kind;
    size_t from;
    bool closes, ended;
};

static size_t controls(const struct tokenizer *t, const struct plan *p, const struct chat_message *messages,
                       size_t n, bool *refused) {
    struct token_list list = {0};
    size_t found = 0, from = p->from < n ? p->from : n;
    *refused = chat_encode(t, p->kind, messages, n, from, true, p->closes, p->ended, &list) != OUTRIDER_OK;
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
    const unsigned rest = data[0] / KINDS;
    const struct plan plan = {(enum chat_kind)(data[0] % KINDS), rest >> 2, rest & 1, rest & 2};
    data++, bytes--;
    while (bytes > 0 && n < MAX_MESSAGES) {
        enum chat_role role = (enum chat_role)(*data % 3);
        size_t length;
        data++, bytes--;
        const uint8_t *text = fuzz_part(&data, &bytes, &length);
        said[n] = (struct chat_message){role, (const char *)text, length};
        plain[n++] = (struct chat_message){role, "a", 1};
    }
    size_t a = controls(t, &plan, said, n, &refused), b = controls(t, &plan, plain, n, &plain_refused);
    if (plan.kind != CHAT_OWN && refused != plain_refused) /* a template of its own may look at words */
        fuzz_die("words decide whether a conversation is refused");
    if (!refused && !plain_refused && a != b) fuzz_die("words yield control tokens");
}

/* An interpreter of the part of Jinja that chat templates are written in.
 *
 * Templates are untrusted programs: memory, steps, depth and output are bounded, there is no file or network,
 * and nothing outside the render is changed. Every byte of the text remembers whether it comes from the
 * template or from a message, through every operation, so that only the template's can become control tokens.
 */
#ifndef OUTRIDER_JINJA_H
#define OUTRIDER_JINJA_H

#include <stdint.h>
#include <time.h>

#include "tokenizer/tokenizer.h"

struct jinja_input {
    const struct chat_message *messages;
    size_t n;
    const char *bos, *eos; /* texts of these tokens, "" for none */
    bool open_answer;      /* add_generation_prompt */
    time_t now;            /* for strftime_now, in local time */
};

struct jinja_text {
    char *bytes;
    uint32_t *from; /* [n] 0: of the template; i + 1: of message i */
    size_t n;
};
void jinja_text_free(struct jinja_text *text);

/* Renders the template. OUTRIDER_EINVAL with a line that says what is wrong with it, or what it raised. */
outrider_status jinja_render(const char *source, const struct jinja_input *in, struct jinja_text *out);

#endif

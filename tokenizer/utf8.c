/* UTF-8: recognises well-formed characters, and keeps an output stream made only of them.
 *
 * Invariant of a stream: what it holds is a proper prefix of some well-formed character, so one more byte
 * either extends it, completes it, or shows all of it to be ill-formed, the new byte excepted.
 * Does not normalise, and does not know what a grapheme is. */
#include "tokenizer/utf8.h"

#include <string.h>

#include "tokenizer/tokenizer.h"

int utf8_check(const unsigned char *s, size_t n) {
    unsigned char lead = s[0];
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    /* The second byte's range shuts out overlong forms, surrogates and what lies past U+10FFFF. */
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < length; i++, low = 0x80, high = 0xBF) {
        if (i == n) return 0;
        if (s[i] < low || s[i] > high) return -(int)i;
    }
    return (int)length;
}

uint32_t utf8_code_point(const unsigned char *s, int length) {
    static const unsigned char lead_bits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t c = s[0] & lead_bits[length];
    for (int i = 1; i < length; i++) c = c << 6 | (s[i] & 0x3F);
    return c;
}

bool utf8_is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

static size_t put_replacement(char *out) {
    memcpy(out, "\xEF\xBF\xBD", 3);
    return 3;
}

size_t utf8_push(struct utf8_stream *s, const char *in, size_t bytes, bool end, char *out) {
    size_t written = 0;
    for (size_t i = 0; i < bytes; i++) {
        s->held[s->n++] = (unsigned char)in[i];
        int length = utf8_check(s->held, s->n);
        if (length < 0) {
            written += put_replacement(out + written);
            s->n -= (size_t)-length;
            s->held[0] = (unsigned char)in[i]; /* all that can be left: it may begin a character of its own */
            if (s->n == 0) continue;
            length = utf8_check(s->held, 1);
            if (length < 0) written += put_replacement(out + written), s->n = 0;
        }
        if (length > 0) {
            memcpy(out + written, s->held, s->n);
            written += s->n;
            s->n = 0;
        }
    }
    if (end && s->n > 0) {
        written += put_replacement(out + written);
        s->n = 0;
    }
    return written;
}

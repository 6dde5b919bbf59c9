/* The output stream: a byte that says where the rest is cut, then any bytes. What comes out is valid, and the
 * same however they were cut. */
#include "tests/helpers_fuzz.h"

#include "tokenizer/tokenizer.h"

static size_t push_cut(const uint8_t *data, size_t bytes, unsigned cut, char *out) {
    struct utf8_stream s = {0};
    size_t written = 0, at = 0;
    while (at < bytes) {
        size_t step = 1 + cut % 5;
        cut = cut * 1103515245u + 12345u;
        if (step > bytes - at) step = bytes - at;
        written += utf8_push(&s, (const char *)data + at, step, false, out + written);
        at += step;
    }
    return written + utf8_push(&s, "", 0, true, out + written);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    if (bytes < 1) return;
    unsigned cut = data[0];
    size_t room = 3 * (bytes + 4) + 3;
    char *whole = malloc(room), *parts = malloc(room);
    if (!whole || !parts) abort();
    struct utf8_stream s = {0};
    size_t n = utf8_push(&s, (const char *)data + 1, bytes - 1, true, whole);
    size_t m = push_cut(data + 1, bytes - 1, cut, parts);
    if (n > 3 * (bytes - 1) + 3) fuzz_die("more than promised");
    if (n != m || memcmp(whole, parts, n) != 0) fuzz_die("cuts change the text");
    for (size_t i = 0; i < n;) {
        int length = utf8_check((const unsigned char *)whole + i, n - i);
        if (length <= 0) fuzz_die("no UTF-8");
        i += (size_t)length;
    }
    free(whole);
    free(parts);
}

/* UTF-8 streams: every sequence of up to four bytes out of 26 that stand for all classes of byte, cut at
 * every place, against a second implementation by code point ranges. */
#include "tests/helpers_tokenizer.h"

/* A second opinion, by code point ranges: whether s[0..n) begins some character of `length` bytes. */
static bool begins_character(const unsigned char *s, size_t n, size_t length) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000}, most[] = {0, 0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0}, mask[] = {0, 0x80, 0xE0, 0xF0, 0xF8};
    if ((s[0] & mask[length]) != lead[length]) return false;
    uint32_t low = s[0] & (unsigned char)~mask[length];
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return false;
        low = low << 6 | (s[i] & 0x3F);
    }
    low <<= 6 * (length - n);
    uint32_t high = low | ((1U << 6 * (length - n)) - 1);
    if (low < least[length]) low = least[length];
    if (high > most[length]) high = most[length];
    return low <= high && !(low >= 0xD800 && high <= 0xDFFF);
}

/* The output by the rule of maximal parts. */
static size_t expected_output(const unsigned char *s, size_t n, char *out) {
    size_t written = 0;
    for (size_t i = 0; i < n;) {
        size_t part = 1;
        bool whole = false;
        for (size_t length = 1; length <= 4; length++)
            for (size_t k = 1; k <= length && i + k <= n && begins_character(s + i, k, length); k++) {
                if (k > part) part = k;
                if (k == length) whole = true, part = k;
            }
        memcpy(out + written, whole ? (const char *)s + i : "\xEF\xBF\xBD", whole ? part : 3);
        written += whole ? part : 3;
        i += part;
    }
    return written;
}

/* Pushes s in the parts that the bits of `cuts` divide it into. */
static size_t push_in_parts(const unsigned char *s, size_t n, unsigned cuts, char *out) {
    struct utf8_stream stream = {0};
    size_t written = 0, from = 0;
    for (size_t i = 1; i <= n; i++) {
        if (i < n && !(cuts >> (i - 1) & 1)) continue;
        written += utf8_push(&stream, (const char *)s + from, i - from, false, out + written);
        from = i;
    }
    return written + utf8_push(&stream, NULL, 0, true, out + written);
}

static void streams_stay_utf8_however_they_are_cut(void **state) {
    (void)state;
    static const unsigned char bytes[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF,
                                          0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE,
                                          0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF};
    const size_t kinds = sizeof bytes;
    for (size_t n = 1, all = kinds; n <= 4; n++, all *= kinds)
        for (size_t code = 0; code < all; code++) {
            unsigned char s[4];
            char expected[16], out[16];
            for (size_t i = 0, rest = code; i < n; i++, rest /= kinds) s[i] = bytes[rest % kinds];
            size_t length = expected_output(s, n, expected);
            for (unsigned cuts = 0; cuts < 1U << (n - 1); cuts++)
                if (push_in_parts(s, n, cuts, out) != length || memcmp(out, expected, length) != 0)
                    fail_msg("%02x %02x %02x %02x of %zu, cuts %u", s[0], s[1], s[2], s[3], n, cuts);
        }
}

static void streams_hold_only_what_may_still_become_valid(void **state) {
    (void)state;
    struct utf8_stream s = {0};
    char out[32];
    assert_int_equal(utf8_push(&s, "a\xE2\x96", 3, false, out), 1);
    assert_int_equal(s.n, 2);
    assert_int_equal(utf8_push(&s, "\x81", 1, false, out), 3);
    assert_memory_equal(out, "\xE2\x96\x81", 3);
    assert_int_equal(utf8_push(&s, "\xF0\x9F", 2, true, out), 3); /* one for the part, not one a byte */
    assert_memory_equal(out, "\xEF\xBF\xBD", 3);
    assert_int_equal(s.n, 0);
    assert_int_equal(utf8_push(&s, "", 0, true, out), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_stay_utf8_however_they_are_cut),
        cmocka_unit_test(streams_hold_only_what_may_still_become_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Around the merges: normal forms of long runs of marks, which are sorted here; added tokens with the white
 * space and the words beside them, character by character of Unicode; the cutting into words, and what ends a
 * pattern that takes too long. The clock is this program's. */
#include "tests/helpers_tokenizer.h"
#undef SPACE /* a piece there */

#include <time.h>
#include <utf8proc.h>

#include "tokenizer/internal.h"
#include "tokenizer/split.h"
#include "tokenizer/utf8.h"

/* ---- normal forms ---- */

static size_t put_code_point(char *out, uint32_t c) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

static void expect_form(int form, const char *text, size_t bytes) {
    const struct text_rules rules = {.form = form};
    utf8proc_uint8_t *expected;
    char *got;
    size_t n;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &expected,
                                           (utf8proc_option_t)form);
    assert_true(length >= 0);
    assert_int_equal(normalize(&rules, text, bytes, &got, &n), OUTRIDER_OK);
    assert_int_equal(n, length);
    assert_memory_equal(got, expected, n);
    free(got);
    free(expected);
}

/* As the library alone would write them, which it can as long as they are not too many. */
static void long_runs_of_marks_keep_their_form(void **state) {
    (void)state;
    static const uint32_t marks[] = {0x300, 0x301, 0x323, 0x327, 0x328, 0x345, 0x5B0, 0x591, 0x3099, 0x1D165};
    static const uint32_t starters[] = {'a', 0xE9, 0x304B};
    static const int forms[] = {UTF8PROC_STABLE | UTF8PROC_COMPOSE, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
                                UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT};
    uint64_t seed = 1;
    char text[2048];
    for (int round = 0; round < 200; round++) {
        size_t n = 0;
        for (int run = 0; run < 3; run++) {
            if (round % 7 || run > 0) n += put_code_point(text + n, starters[run]);
            for (int i = 0; i < round % 60; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                n += put_code_point(text + n, marks[(seed >> 33) % 10]);
            }
        }
        for (size_t i = 0; i < 3; i++) expect_form(forms[i], text, n);
    }
}

static void many_marks_take_no_time(void **state) {
    (void)state;
    enum { MARKS = 200000 };
    const struct text_rules rules = {.form = UTF8PROC_STABLE | UTF8PROC_COMPOSE};
    char *text = malloc(2 * MARKS + 1), *got;
    size_t n = 1, length;
    assert_non_null(text);
    text[0] = 'q';
    for (int i = 0; i < MARKS; i++) n += put_code_point(text + n, i % 2 ? 0x323 : 0x301);
    assert_int_equal(normalize(&rules, text, n, &got, &length), OUTRIDER_OK);
    assert_int_equal(length, n);
    assert_memory_equal(got + 1, "\xCC\xA3\xCC\xA3", 4); /* those below come first */
    assert_memory_equal(got + n - 2, "\xCC\x81", 2);
    free(got);
    free(text);
}

/* ---- white space and words ---- */

static bool is_in(uint32_t c, const uint32_t (*ranges)[2], size_t n) {
    for (size_t i = 0; i < n; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

/* Every character: str.isspace() of the templates' language, and Unicode's White_Space. */
static void white_space_is_known_by_character(void **state) {
    (void)state;
    static const uint32_t white[][2] = {
        {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
        {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
    for (uint32_t c = 1; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        char text[8] = "a";
        size_t n = put_code_point(text + 1, c);
        bool expected = is_in(c, white, sizeof white / sizeof *white);
        if (utf8_is_space(c) != (expected || (c >= 0x1C && c <= 0x1F))) fail_msg("U+%04X as str.isspace", c);
        if (spaces_at_end(text, 1 + n) != (expected ? n : 0)) fail_msg("U+%04X at the end", c);
        if (spaces_at_start(text + 1, n) != (expected ? n : 0)) fail_msg("U+%04X at the start", c);
    }
    assert_int_equal(spaces_at_end("", 0), 0);
    assert_int_equal(spaces_at_end(" \t ", 3), 3);
    assert_int_equal(spaces_at_start(" \t ", 3), 3);
    assert_int_equal(spaces_at_end("\xFF ", 2), 1);
    assert_int_equal(spaces_at_end("\x80", 1), 0);
}

/* A tokenizer over characters with a, b, and the added token <x> of these fields. */
static struct tokenizer *open_with_added(const char *fields) {
    char text[512];
    struct tokenizer *t;
    snprintf(text, sizeof text,
             "{\"model\": {\"unk_token\": \"u\", \"vocab\": {\"u\": 0, \"a\": 1, \"b\": 2, \" \": 3}, "
             "\"merges\": []}, \"added_tokens\": [{\"id\": 4, \"content\": \"<x>\"%s}, "
             "{\"id\": 5, \"content\": \"<xy>\"}]}",
             fields);
    put_file("tokenizer.json", text, strlen(text));
    if (tokenizer_open(folder(), &t)) fail_msg("%s", outrider_error());
    drop_file("tokenizer.json");
    return t;
}

static void expect_tokens(const struct tokenizer *t, const char *text, size_t bytes, const char *digits) {
    struct token_list list = {0};
    char got[64] = "";
    assert_int_equal(tokenizer_encode(t, text, bytes, &list), OUTRIDER_OK);
    for (size_t i = 0; i < list.n && i < 60; i++) got[i] = (char)('0' + list.ids[i]);
    if (strcmp(got, digits) != 0) fail_msg("%.*s: %s, not %s", (int)bytes, text, got, digits);
    token_list_free(&list);
}

static void added_tokens_take_what_they_say(void **state) {
    (void)state;
    static const struct {
        const char *fields, *text, *digits;
    } rows[] = {
        {"", "a<x>b", "142"},
        {"", "a<xy>b<x", "15200"},
        {"", " <x> ", "343"},
        {", \"lstrip\": true", "a  <x> b", "1432"},
        {", \"rstrip\": true", "a <x>  b", "1342"},
        {", \"lstrip\": true, \"rstrip\": true", " <x> \xC2\xA0\xE2\x80\xA8 <x>\xE3\x80\x80", "44"},
        {", \"lstrip\": true, \"rstrip\": true", "<x><x>", "44"},
        {", \"single_word\": true", "<x>", "4"},
        {", \"single_word\": true", "a<x>", "1000"},
        {", \"single_word\": true", "<x>b", "0002"},
        {", \"single_word\": true", "a <x> b", "13432"},
        {", \"single_word\": true", "\xFF<x>\xFF", "040"},
        {", \"single_word\": true", "\xC3\xA9<x>", "0000"},
        {", \"single_word\": true", "<x>\xE4\xB8\xAD", "0000"},
        {", \"single_word\": true", "<x>9", "0000"},
        {", \"single_word\": true", "<x>_", "0000"},
        {", \"single_word\": true", "<x>\xCC\x81", "0000"},
        {", \"single_word\": true", "<x>\xE2\x85\xA7", "0000"},
        {", \"single_word\": true", "<x>\xE2\x80\x8C", "0000"},
        {", \"single_word\": true", "<x>\xE2\x80\x8D", "0000"},
        {", \"single_word\": true", "<x>\xE2\x80\x8B", "40"},
        {", \"single_word\": true", "<x>-<x>", "404"},
        {", \"single_word\": true", "<x>\xF0\x9F\x98\x80", "40"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = open_with_added(rows[i].fields);
        expect_tokens(t, rows[i].text, strlen(rows[i].text), rows[i].digits);
        tokenizer_close(t);
    }
}

/* ---- words ---- */

struct words {
    char text[256];
    outrider_status fails; /* at the second word */
    int n;
};

static outrider_status note_word(void *user, const char *text, size_t bytes) {
    struct words *w = user;
    assert_true(bytes > 0);
    strncat(strcat(w->text, w->n++ ? "|" : ""), text, bytes);
    return w->n == 2 ? w->fails : OUTRIDER_OK;
}

static outrider_status split_text(const char *pattern, enum split_keep keep, const char *text,
                                  struct words *w) {
    struct splitter *s;
    assert_int_equal(splitter_create(&s), OUTRIDER_OK);
    if (splitter_add(s, "f", pattern, strlen(pattern), keep)) fail_msg("%s", outrider_error());
    outrider_status status = splitter_run(s, text, strlen(text), note_word, w);
    splitter_destroy(s);
    return status;
}

static void patterns_cut_texts(void **state) {
    (void)state;
    static const struct {
        const char *pattern;
        enum split_keep keep;
        const char *text, *words;
    } rows[] = {
        {",", SPLIT_KEEP_BOTH, "a,b,,c", "a|,|b|,|,|c"},
        {",", SPLIT_KEEP_GAPS, "a,b,,c,", "a|b|c"},
        {"\\w+", SPLIT_KEEP_MATCHES, " ab, cd", "ab|cd"},
        {"\\w+", SPLIT_KEEP_MATCHES, ", ", ""},
        {"x*", SPLIT_KEEP_BOTH, "axxb", "a|xx|b"},
        {"(?=b)", SPLIT_KEEP_BOTH, "abab", "a|ba|b"},
        {"(?=\xC3\xA9)", SPLIT_KEEP_BOTH, "a\xC3\xA9\xC3\xA9", "a|\xC3\xA9|\xC3\xA9"},
        {"(?=c)", SPLIT_KEEP_GAPS, "abc", "ab|c"},
        {"(?=c)", SPLIT_KEEP_MATCHES, "abc", ""},
        {"$", SPLIT_KEEP_BOTH, "abc", "abc"},
        {"a\\Kb", SPLIT_KEEP_BOTH, "abab", "a|b|a|b"},
        {"\\S+", SPLIT_KEEP_MATCHES,
         "a\xE1\xA0\x8E"
         "b c",
         "a\xE1\xA0\x8E"
         "b|c"},
        {"[^\\s]+", SPLIT_KEEP_MATCHES,
         "ab\xC2\xA0"
         "c",
         "ab|c"},
        {"[\\s,]", SPLIT_KEEP_GAPS, "a,b c", "a|b|c"},
        {"\\p{N}{1,3}", SPLIT_KEEP_MATCHES, "12345", "123|45"},
        {"", SPLIT_KEEP_BOTH, NULL, NULL},
    };
    for (size_t i = 0; rows[i].text; i++) {
        struct words w = {0};
        assert_int_equal(split_text(rows[i].pattern, rows[i].keep, rows[i].text, &w), OUTRIDER_OK);
        if (strcmp(w.text, rows[i].words) != 0)
            fail_msg("%s: %s, not %s", rows[i].pattern, w.text, rows[i].words);
        w = (struct words){.fails = OUTRIDER_ENOMEM}; /* and stops where a word cannot be taken */
        bool two = strchr(rows[i].words, '|') != NULL;
        assert_int_equal(split_text(rows[i].pattern, rows[i].keep, rows[i].text, &w),
                         two ? OUTRIDER_ENOMEM : OUTRIDER_OK);
    }
}

static void patterns_have_limits(void **state) {
    (void)state;
    struct splitter *s;
    static char long_pattern[SPLIT_MAX_PATTERN + 1];
    assert_int_equal(splitter_create(&s), OUTRIDER_OK);
    memset(long_pattern, 'a', sizeof long_pattern);
    static const char *const wrong[] = {"(", "\\", "a(?<=b\\K)", "[", "\\C"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(splitter_add(s, "f", wrong[i], strlen(wrong[i]), SPLIT_KEEP_BOTH), OUTRIDER_EMODEL);
        assert_non_null(strstr(outrider_error(), "f: the pattern is no regular expression"));
    }
    assert_int_equal(splitter_add(s, "f", "", 0, SPLIT_KEEP_BOTH), OUTRIDER_EMODEL);
    assert_int_equal(splitter_add(s, "f", long_pattern, sizeof long_pattern, SPLIT_KEEP_BOTH),
                     OUTRIDER_EMODEL);
    for (int i = 0; i < SPLIT_MAX_STAGES; i++)
        assert_int_equal(splitter_add(s, "f", "a", 1, SPLIT_KEEP_BOTH), OUTRIDER_OK);
    assert_int_equal(splitter_add(s, "f", "a", 1, SPLIT_KEEP_BOTH), OUTRIDER_EMODEL);
    splitter_destroy(s);
}

static clock_t elapsed; /* since the last look at the clock */
clock_t __wrap_clock(void);
clock_t __wrap_clock(void) {
    static clock_t now;
    return now += elapsed;
}

static void patterns_run_out_of_time(void **state) {
    (void)state;
    char text[1024];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    for (int slow = 0; slow < 2; slow++) {
        struct splitter *s;
        struct words w = {0};
        elapsed = slow ? 21 * CLOCKS_PER_SEC : 0;
        assert_int_equal(splitter_create(&s), OUTRIDER_OK);
        assert_int_equal(splitter_add(s, "f", "[b-z]|a(?=a)", 12, SPLIT_KEEP_GAPS), OUTRIDER_OK);
        assert_int_equal(splitter_run(s, text, strlen(text), note_word, &w),
                         slow ? OUTRIDER_EMODEL : OUTRIDER_OK);
        if (slow) assert_non_null(strstr(outrider_error(), "takes too long"));
        splitter_destroy(s);
    }
    elapsed = 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_runs_of_marks_keep_their_form),
        cmocka_unit_test(many_marks_take_no_time),
        cmocka_unit_test(white_space_is_known_by_character),
        cmocka_unit_test(added_tokens_take_what_they_say),
        cmocka_unit_test(patterns_cut_texts),
        cmocka_unit_test(patterns_have_limits),
        cmocka_unit_test(patterns_run_out_of_time),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}

/* tokenizer.json against the reference library's ids: small tokenizers with the structure of published
 * families and some two thousand lines each, made by tools/golden_tokenizers.py; damaged files; and what
 * every tokenizer promises: text comes back byte for byte and never yields a control token. */
#include "tests/helpers_tokenizer.h"

#include <time.h>

#include "tokenizer/utf8.h"

#define GOLDEN "tests/golden/tokenizers"

static const struct family {
    const char *name;
    bool bytes_return; /* decoding gives every text back: no normal form, no marker for spaces */
} FAMILIES[] = {{"gpt2", true},   {"llama3", true}, {"qwen2", false},   {"tekken", true}, {"o200k", true},
                {"other", false}, {"phi3", false},  {"mistral", false}, {"gemma", false}, {"words", false}};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

static struct tokenizer *open_family(const char *name) {
    char path[128];
    struct tokenizer *t;
    snprintf(path, sizeof path, GOLDEN "/%s", name);
    if (tokenizer_open(path, &t) != OUTRIDER_OK) fail_msg("%s", outrider_error());
    return t;
}

/* A line of lines.txt in place: \xHH is a byte, a backslash one too. Returns its length. */
static size_t unescape(char *line) {
    size_t n = 0;
    for (const char *c = line; *c; n++) {
        unsigned byte;
        if (sscanf(c, "\\x%2x", &byte) == 1)
            line[n] = (char)byte, c += 4;
        else
            line[n] = *c++;
    }
    return n;
}

static unsigned hash_ids(const struct token_list *list) {
    unsigned h = 0x811C9DC5;
    for (size_t i = 0; i < list->n; i++)
        for (int shift = 0; shift < 32; shift += 8)
            h = (h ^ ((uint32_t)list->ids[i] >> shift & 0xFF)) * 0x01000193u;
    return h & 0xFFFFFF;
}

static void expect_ids(const struct tokenizer *t, const char *name, const char *text, size_t n, FILE *ids,
                       bool returns, int number) {
    unsigned expected;
    struct token_list list = {0};
    assert_int_equal(fscanf(ids, "%x", &expected), 1);
    assert_int_equal(tokenizer_encode(t, text, n, &list), OUTRIDER_OK);
    if (hash_ids(&list) != expected) {
        fprintf(stderr, "%s, line %d: %.*s\n ", name, number, (int)(n < 200 ? n : 200), text);
        for (size_t i = 0; i < list.n && i < 60; i++) fprintf(stderr, " %d", list.ids[i]);
        fail_msg("%s, line %d: other ids than the reference's", name, number);
    }
    if (returns) {
        size_t bytes;
        char *back = decode(t, &list, &bytes);
        assert_int_equal(bytes, n);
        assert_memory_equal(back, text, n);
        free(back);
    }
    for (size_t i = 0; i < list.n; i++) assert_false(tokenizer_is_control(t, list.ids[i]));
    token_list_free(&list);
}

static void compare_family(const struct family *f) {
    static const char *const repeated[] = {"a", " ", "\n", "1", "\xC3\xA9", "\xE4\xB8\xAD"};
    struct tokenizer *t = open_family(f->name);
    char path[128], *line = NULL;
    snprintf(path, sizeof path, GOLDEN "/%s/ids.txt", f->name);
    FILE *lines = fopen(GOLDEN "/lines.txt", "r"), *ids = fopen(path, "r");
    assert_non_null(lines);
    assert_non_null(ids);
    size_t capacity = 0;
    int number = 0;
    while (getline(&line, &capacity, lines) > 0) {
        line[strcspn(line, "\n")] = 0;
        expect_ids(t, f->name, line, unescape(line), ids, f->bytes_return, ++number);
    }
    assert_true(number > 2000);
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++) {
        size_t step = strlen(repeated[i]), n = (1 << 20) / step * step;
        char *text = malloc(n);
        for (size_t at = 0; at < n; at += step) memcpy(text + at, repeated[i], step);
        clock_t began = clock();
        expect_ids(t, f->name, text, n, ids, f->bytes_return, ++number);
        assert_true((double)(clock() - began) / CLOCKS_PER_SEC < 10);
        free(text);
    }
    fclose(lines);
    fclose(ids);
    free(line);
    tokenizer_close(t);
}

static void ids_are_those_of_the_reference(void **state) {
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++) compare_family(&FAMILIES[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

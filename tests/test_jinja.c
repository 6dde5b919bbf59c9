/* The interpreter of chat templates against the reference (jinja2): the published templates of the families
 * over several conversations, and small programs for each part of the language; tools/golden_templates.py
 * makes the records. Then what the reference does not know: which bytes are the template's, and that nothing
 * runs for ever. */
#include "tokenizer/jinja_value.h"
#undef fail /* cmocka has one of its own */

#include "tests/helpers_tokenizer.h"

#include "tokenizer/jinja.h"

static void renderings_are_those_of_the_reference(void **state) {
    (void)state;
    json_t *root = json_load_file("tests/golden/templates.json", 0, NULL), *t, *render;
    const json_t *conversations = json_object_get(root, "conversations");
    size_t i, k, wrong = 0, n = 0;
    assert_non_null(root);
    setenv("TZ", "UTC", 1);
    json_array_foreach(json_object_get(root, "templates"), i, t) {
        const char *source = json_string_value(json_object_get(t, "source"));
        json_array_foreach(json_object_get(t, "renders"), k, render) {
            struct chat_message messages[8];
            struct jinja_text text;
            size_t count = read_messages(
                json_array_get(conversations, (size_t)json_integer_value(json_array_get(render, 0))),
                messages);
            struct jinja_input in = {messages, count, "<s>", "</s>", json_is_true(json_array_get(render, 1)),
                                     0};
            const char *expected = json_string_value(json_array_get(render, 2));
            bool good = jinja_render(source, &in, &text) == OUTRIDER_OK;
            if (good != (expected != NULL) || (good && strcmp(text.bytes, expected) != 0)) {
                printf("%s, render %zu: %.300s\n  ours   %s\n  theirs %s\n",
                       json_string_value(json_object_get(t, "name")), k, source,
                       good ? text.bytes : outrider_error(), expected ? expected : "(an error)");
                wrong++;
            }
            if (!good) assert_non_null(strstr(outrider_error(), "--chat-template"));
            jinja_text_free(&text);
            n++;
        }
    }
    json_decref(root);
    assert_true(n > 200);
    assert_int_equal(wrong, 0);
}

/* Each byte of a message is known as such, whatever the template does with it. */
static void messages_keep_their_origin(void **state) {
    (void)state;
    static const char *const templates[] = {
        "{{ messages[1].content }}",
        "<{{ messages[1].content | trim | upper }}>",
        ("{% set ns = namespace(a='') %}{% for c in messages[1].content %}{% set ns.a = ns.a + c %}{% endfor "
         "%}{{ ns.a }}"),
        "{{ messages[1].content.replace('B', 'x')[::-1] }}",
        "{{ messages[1].content.split('B') | join('|') | tojson }}",
        "{% set t %}[{{ messages[1].content }}]{% endset %}{{ t ~ 1 }}",
        "{% macro m(x) %}({{ x.title() }}){% endmacro %}{{ m(messages[1].content) }}",
        "{{ messages | tojson }}",
        "{{ {'a': messages[1].content} | tojson(indent=2) }}",
    };
    const struct chat_message messages[] = {{CHAT_SYSTEM, "", 0}, {CHAT_USER, "QBZQ", 4}};
    const struct jinja_input in = {messages, 2, "", "", false, 0};
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        struct jinja_text text;
        if (jinja_render(templates[i], &in, &text) != OUTRIDER_OK) fail_msg("%s", outrider_error());
        size_t own = 0;
        for (size_t k = 0; k < text.n; k++) {
            bool of_message = strchr("QBZqbz", text.bytes[k]) != NULL;
            assert_int_equal(text.from[k], of_message ? 2 : 0);
            own += of_message;
        }
        assert_true(own >= 3);
        jinja_text_free(&text);
    }
}

/* What the reference renders and this interpreter does not: one line, which names it. */
static void what_is_not_supported_is_named(void **state) {
    (void)state;
    static const struct {
        const char *source, *says;
    } rows[] = {
        {"{{ [1] < [2] }}", "compares what has no order (<)"},
        {"{{ 'a' * 3 }}", "does not go together"},
        {"{{ 3037000500 * 3037000500 }}", "too large"},
        {"{{ (-9223372036854775807 - 1) // -1 }}", "too large"},
        {"{{ -(-9223372036854775807 - 1) }}", "the negative"},
        {"{{ '9223372036854775808' | int }}", "too large"},
        {"{{ 1.5 }}", "unexpected \"5\""},
        {"{{ 1 / 2 }}", "unexpected \"/\""},
        {"{{ 2 ** 3 }}", "unexpected \"**\""},
        {"{{ 'abc'['a':] }}", "a slice by what is no number"},
        {"{{ 5[1:] }}", "a slice of what is neither"},
        {"{% for a, b in ['xy'] %}{% endfor %}", "no pair"},
        {"{{ 'abc'.replace('', '-') }}", "replaces an empty string"},
        {"{{ 'a' | items | list }}", "items of what is no mapping"},
        {"{{ dict({'a': 1}) }}", "dict takes names only"},
        {"{{ strftime_now(5) }}", "a short format"},
        {"{{ [1] | tojson(indent=17) }}", "an indent from 0 to 16"},
        {"{{ [1] | tojson(indent=-1) }}", "an indent from 0 to 16"},
        {"{{ [1] | tojson(indent=' ') }}", "an indent from 0 to 16"},
        {"{{ ['a'] | join(',', attribute=0) }}", "join takes an attribute by its name"},
        {"{{ [1] | map('map') | list }}", "map takes an attribute or a filter"},
        {"{{ [1, 2] }}", "only tojson can"},
        {"{{ {'a': 1} }}", "only tojson can"},
        {"{% macro m() %}{% endmacro %}{{ m }}", "only tojson can"},
        {"{{ range }}", "only tojson can"},
        {"{{ {1: 2} }}", "a key that is no string"},
        {"{% set a, b = 1, 2 %}", "unexpected \",\""},
        {"{{ '\\101' }}", "the escape \\1"},
        {"{{ '\\N{DASH}' }}", "the escape \\N"},
        {"{{ '\\ud800' }}", "an escape \\u of no character"},
        {"{{ '\\x00' }}", "an escape \\x of no character"},
        {"{% raw %}{% endraw %}", "the statement \"raw\" is not known"},
        {"{% filter upper %}{% endfilter %}", "the statement \"filter\""},
        {"{% for a in [1] %}{{ loop.cycle('x') }}{% endfor %}", "no method cycle"},
        {"{{ f(1, 2, 3, 4, 5, 6, 7, 8, 9) }}", "too many arguments"},
        {"{{ raise_exception('Only users here') }}", "Only users here"},
    };
    const struct jinja_input in = {NULL, 0, "", "", false, 0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct jinja_text text;
        if (jinja_render(rows[i].source, &in, &text) != OUTRIDER_EINVAL) fail_msg("%s", rows[i].source);
        if (!strstr(outrider_error(), rows[i].says) || strchr(outrider_error(), '\n'))
            fail_msg("%s says: %s", rows[i].source, outrider_error());
    }
}

/* ---- errors at every place ---- */

static void expect_text_or_line(const char *source, const struct jinja_input *in) {
    struct jinja_text text;
    outrider_status status = jinja_render(source, in, &text);
    if (status == OUTRIDER_OK) return jinja_text_free(&text);
    assert_int_equal(status, OUTRIDER_EINVAL);
    assert_non_null(strstr(outrider_error(), "--chat-template"));
    assert_null(strchr(outrider_error(), '\n'));
}

/* Each template cut short, and with a character too many, at each place (of the families' at some). */
static void mutilated_templates_end_in_a_line(void **state) {
    (void)state;
    json_t *root = json_load_file("tests/golden/templates.json", 0, NULL), *t;
    const struct chat_message messages[] = {{CHAT_SYSTEM, " Be. ", 5}, {CHAT_USER, "Who?", 4}};
    const struct jinja_input in = {messages, 2, "<s>", "</s>", true, 0};
    size_t i;
    assert_non_null(root);
    json_array_foreach(json_object_get(root, "templates"), i, t) {
        const char *source = json_string_value(json_object_get(t, "source"));
        size_t n = strlen(source), step = 1 + n / 256;
        char *bad = malloc(n + 2);
        assert_non_null(bad);
        for (size_t at = 0; at < n; at += step) {
            memcpy(bad, source, at);
            bad[at] = 0;
            expect_text_or_line(bad, &in);
            for (const char *c = "'@}"; *c; c++) {
                bad[at] = *c;
                memcpy(bad + at + 1, source + at, n - at + 1);
                expect_text_or_line(bad, &in);
            }
        }
        free(bad);
    }
    json_decref(root);
}

/* What may reach a limit does so at the k-th time, wherever that is: this program's own versions stand in
 * front of the interpreter's. */
static long until_limit = -1;

static bool at_limit(void) {
    return until_limit == 0 || (until_limit > 0 && --until_limit == 0);
}
#define LIMITED(name, arguments, ...)                                                                        \
    outrider_status __real_##name arguments;                                                                 \
    outrider_status __wrap_##name arguments;                                                                 \
    outrider_status __wrap_##name arguments {                                                                \
        if (!at_limit()) return __real_##name(__VA_ARGS__);                                                  \
        status_record("at its limit");                                                                       \
        return OUTRIDER_EINVAL;                                                                              \
    }
LIMITED(take_step, (struct render * r), r)
LIMITED(list_create, (struct render * r, struct value *out), r, out)
LIMITED(list_push, (struct render * r, struct list *list, struct value v), r, list, v)
LIMITED(dict_create, (struct render * r, struct dict **out), r, out)
LIMITED(dict_set, (struct render * r, struct dict *d, struct str key, struct value v), r, d, key, v)
LIMITED(buffer_add, (struct render * r, struct buffer *b, struct str s), r, b, s)
void *__real_arena_take(struct arena *a, size_t bytes);
void *__wrap_arena_take(struct arena *a, size_t bytes);
void *__wrap_arena_take(struct arena *a, size_t bytes) {
    return at_limit() ? NULL : __real_arena_take(a, bytes);
}

static void limits_end_in_a_line_wherever_they_are(void **state) {
    (void)state;
    json_t *root = json_load_file("tests/golden/templates.json", 0, NULL), *t;
    const struct chat_message messages[] = {
        {CHAT_SYSTEM, " Be. ", 5}, {CHAT_USER, "Who?", 4}, {CHAT_ASSISTANT, "<think>a</think>b", 17}};
    const struct jinja_input in = {messages, 3, "<s>", "</s>", true, 0};
    size_t i, reached = 0;
    assert_non_null(root);
    json_array_foreach(json_object_get(root, "templates"), i, t) {
        const char *source = json_string_value(json_object_get(t, "source"));
        for (long k = 1;; k += 1 + k / 128) { /* each of the first, then some */
            struct jinja_text text;
            until_limit = k;
            outrider_status status = jinja_render(source, &in, &text);
            bool limited = until_limit == 0;
            until_limit = -1;
            jinja_text_free(&text);
            if (!limited) break;
            assert_int_equal(status, OUTRIDER_EINVAL);
            if (!strstr(outrider_error(), "at its limit") && !strstr(outrider_error(), "too much memory"))
                fail_msg("limit %ld of %s: %s", k, source, outrider_error());
            reached++;
        }
    }
    json_decref(root);
    assert_true(reached > 10000);
}

static void nothing_runs_for_ever(void **state) {
    (void)state;
    static const char *const hostile[] = {
        "{% for a in range(999999999) %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "{{ 9223372036854775807 + 1 }}",
        ("{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}"
         "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}"),
        ("{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(9999) %}{% set ns.a = [ns.a] %}"
         "{% set ns.b = [ns.b] %}{% endfor %}{{ ns.a == ns.b }}"),
        ("{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}"
         "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}"),
        "{{ 99999999999999999999 }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}",
    };
    char deep[4096];
    const struct jinja_input in = {NULL, 0, "", "", false, 0};
    struct jinja_text text;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        if (jinja_render(hostile[i], &in, &text) != OUTRIDER_EINVAL) fail_msg("%s", hostile[i]);
        assert_non_null(strstr(outrider_error(), "--chat-template"));
    }
    for (const char *c = "([{-"; *c; c++) { /* nested without end */
        memset(deep, *c, sizeof deep);
        memcpy(deep, "{{ ", 3);
        deep[sizeof deep - 1] = 0;
        assert_int_equal(jinja_render(deep, &in, &text), OUTRIDER_EINVAL);
    }
    deep[0] = 0;
    for (int i = 0; i < 200; i++) strcat(deep, "{% if true %}");
    assert_int_equal(jinja_render(deep, &in, &text), OUTRIDER_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renderings_are_those_of_the_reference),
        cmocka_unit_test(messages_keep_their_origin),
        cmocka_unit_test(what_is_not_supported_is_named),
        cmocka_unit_test(mutilated_templates_end_in_a_line),
        cmocka_unit_test(limits_end_in_a_line_wherever_they_are),
        cmocka_unit_test(nothing_runs_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

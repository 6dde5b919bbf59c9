/* The interpreter of chat templates against the reference (jinja2): the published templates of the families
 * over several conversations, and small programs for each part of the language; tools/golden_templates.py
 * makes the records. Then what the reference does not know: which bytes are the template's, and that nothing
 * runs for ever. */
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
        "{% set ns = namespace(a='') %}{% for c in messages[1].content %}{% set ns.a = ns.a + c %}{% endfor "
        "%}{{ ns.a }}",
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

static void nothing_runs_for_ever(void **state) {
    (void)state;
    static const char *const hostile[] = {
        "{% for a in range(999999999) %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "{{ 9223372036854775807 + 1 }}",
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
        cmocka_unit_test(nothing_runs_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

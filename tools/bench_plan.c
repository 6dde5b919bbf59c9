/* What a measurement is asked to cover: lists of numbers, and prompts. The built-in prompts are openings of
 * prose, because the acceptance of random tokens says nothing about real text. */
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"

static const char *const openings[] = {
    "Once upon a time there was a young prince who lived in a castle by the sea, and",
    "The captain looked at the map for a long while. At last he said,",
    "It was late in the autumn when the old schoolmaster received a letter from his brother, and",
    "\"You cannot mean to leave us tonight,\" cried the girl, running after him down the",
    "The road climbed slowly through the pine woods until the travellers could see",
    "My father was a watchmaker in a small town, and from my earliest years I",
    "When the storm had passed, the fishermen went down to the beach and found",
    "There are few pleasures so simple as that of sitting before a good fire while",
};

/* ---- lists ---- */

static int bad_list(const char *spelled, const char *text, int32_t min, int32_t max) {
    return complain(OUTRIDER_EINVAL,
                    "%s: '%s' is no list of numbers from %d to %d, such as 1,2,4-8+2; at most %d of them",
                    spelled, text, min, max, BENCH_LIST);
}

/* One item at *at: N, FIRST-LAST or FIRST-LAST+STEP. */
static bool parse_item(const char **at, long *first, long *last, long *step) {
    char *end;
    *first = strtol(*at, &end, 10);
    if (end == *at) return false;
    *last = *first;
    *step = 1;
    if (*end == '-') *last = strtol(*at = end + 1, &end, 10);
    if (*end == '+') *step = strtol(*at = end + 1, &end, 10);
    bool whole = end != *at && (*end == ',' || !*end);
    *at = end;
    return whole && *step > 0 && *step <= INT32_MAX && *last >= *first;
}

int bench_parse_list(const char *spelled, const char *text, int32_t min, int32_t max,
                     struct bench_list *out) {
    const char *at = text;
    out->n = 0;
    for (;;) {
        long first, last, step;
        size_t word = strcspn(at, ",");
        bool is_auto =
            min == -1 && ((word == 4 && !memcmp(at, "auto", 4)) || (word == 2 && !memcmp(at, "-1", 2)));
        if (is_auto) {
            first = last = -1;
            step = 1;
            at += word;
        } else if (!parse_item(&at, &first, &last, &step) || first < 0 || last > max) {
            return bad_list(spelled, text, min, max);
        }
        for (long value = first; value <= last; value += step) {
            if (out->n == BENCH_LIST) return bad_list(spelled, text, min, max);
            out->value[out->n++] = (int32_t)value;
        }
        if (!*at) return 0;
        at++;
    }
}

/* ---- prompts ---- */

static int add_prompt(struct bench_prompts *p, const char *text, size_t bytes) {
    struct text *grown = realloc(p->text, (p->n + 1) * sizeof *grown);
    if (!grown) return complain_memory();
    p->text = grown;
    p->text[p->n] = (struct text){0};
    return text_append(&p->text[p->n++], text, bytes);
}

static int parse_line(const char *path, size_t number, const char *line, size_t bytes,
                      struct bench_prompts *out) {
    json_error_t error;
    json_t *root = json_loadb(line, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root) return complain(OUTRIDER_EFAIL, "%s: line %zu: %s", path, number, error.text);
    const json_t *prompt = json_object_get(root, "prompt");
    int code = json_is_string(prompt)
                   ? add_prompt(out, json_string_value(prompt), json_string_length(prompt))
                   : complain(OUTRIDER_EFAIL, "%s: line %zu: no string \"prompt\"", path, number);
    json_decref(root);
    return code;
}

static int parse_lines(const char *path, const struct text *file, struct bench_prompts *out) {
    size_t number = 0;
    for (size_t at = 0; at < file->bytes;) {
        const char *line = file->data + at;
        size_t bytes = strcspn(line, "\n");
        number++;
        if (line[strspn(line, " \t\r")] != '\n' && bytes) CHECK(parse_line(path, number, line, bytes, out));
        at += bytes + 1;
    }
    return out->n ? 0 : complain(OUTRIDER_EFAIL, "%s: there are no prompts in it", path);
}

int bench_read_prompts(const char *path, struct bench_prompts *out) {
    struct text file = {0};
    if (!path) {
        for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++)
            CHECK(add_prompt(out, openings[i], strlen(openings[i])));
        return 0;
    }
    int code = text_read_file(&file, path);
    if (!code) code = parse_lines(path, &file, out);
    text_clear(&file);
    return code;
}

void bench_free_prompts(struct bench_prompts *p) {
    for (size_t i = 0; i < p->n; i++) text_clear(&p->text[i]);
    free(p->text);
}

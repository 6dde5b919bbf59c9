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
        } else if (!parse_item(&at, &first, &last, &step) || first < (min > 0 ? min : 0) || last > max) {
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

size_t bench_ways(const struct bench_list *k, int32_t own_layers, int32_t layers, bool sweep,
                  struct bench_way out[BENCH_WAYS]) {
    const int32_t stride = sweep ? (layers - 1 + BENCH_SWEPT - 1) / BENCH_SWEPT : 1,
                  first = sweep ? stride : own_layers, last = sweep ? layers - 1 : own_layers;
    size_t n = 0;
    out[n++] = (struct bench_way){0, own_layers};
    for (int32_t of = first; of <= last; of += stride)
        for (size_t i = 0; i < k->n; i++)
            if (k->value[i] != 0) out[n++] = (struct bench_way){k->value[i], of};
    return n;
}

int bench_parse_rules(const char *text, struct bench_list *out) {
    static const char *const names[BENCH_RULES] = {[OUTRIDER_ACCEPT_REJECTION] = "rejection",
                                                   [OUTRIDER_ACCEPT_BLOCK] = "block",
                                                   [OUTRIDER_ACCEPT_COUPLED] = "coupled"};
    bool all = strcmp(text, "all") == 0, wanted[BENCH_RULES] = {all, all, all};
    for (const char *at = text; !all; at++) {
        size_t word = strcspn(at, ","), i = 0;
        while (i < BENCH_RULES && (strlen(names[i]) != word || memcmp(names[i], at, word) != 0)) i++;
        if (i == BENCH_RULES)
            return complain(OUTRIDER_EINVAL, "--spec-accept: '%s' is no list of rejection, block, coupled",
                            text);
        wanted[i] = true;
        at += word;
        if (!*at) break;
    }
    out->n = 0;
    for (int32_t i = 0; i < BENCH_RULES; i++)
        if (wanted[i]) out->value[out->n++] = i;
    return 0;
}

/* ---- prompts ---- */

static int add_prompt(struct bench_prompts *p, const char *text, size_t bytes) {
    struct text *grown = realloc(p->text, (p->n + 1) * sizeof *grown);
    if (!grown) return complain_memory();
    p->text = grown;
    p->text[p->n] = (struct text){0};
    return text_append(&p->text[p->n++], text, bytes);
}

static int read_line(void *user, size_t number, json_t *object) {
    const json_t *prompt = json_object_get(object, "prompt");
    if (json_is_string(prompt))
        return add_prompt(user, json_string_value(prompt), json_string_length(prompt));
    return complain(OUTRIDER_EFAIL, "the prompts: line %zu: no string \"prompt\"", number);
}

int bench_read_prompts(const char *path, struct bench_prompts *out) {
    if (path) return json_lines(path, read_line, out);
    for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++)
        CHECK(add_prompt(out, openings[i], strlen(openings[i])));
    return 0;
}

void bench_free_prompts(struct bench_prompts *p) {
    for (size_t i = 0; i < p->n; i++) text_clear(&p->text[i]);
    free(p->text);
}

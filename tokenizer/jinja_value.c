/* Values of the interpreter: see jinja_value.h. Text is counted in characters, as in the templates' language.
 */
#include "tokenizer/jinja_value.h"

#include <stdio.h>

#include "tokenizer/jinja_text.h"
#include "tokenizer/utf8.h"

outrider_status take_step(struct render *r) {
    if (++r->steps <= JINJA_STEPS) return OUTRIDER_OK;
    return jinja_fail("takes more than %d steps", JINJA_STEPS);
}

static outrider_status no_memory(void) {
    return jinja_fail("needs too much memory");
}

/* Room for one more of `size` bytes in an array of the arena. */
static outrider_status grow(struct render *r, void **array, size_t size, size_t n, size_t *capacity,
                            size_t more) {
    size_t needed, bytes;
    if (!add_fits(n, more, &needed)) return no_memory();
    if (needed <= *capacity) return OUTRIDER_OK;
    size_t bigger = needed < 8 ? 8 : needed * 2;
    if (!mul_fits(bigger, size, &bytes)) return no_memory();
    void *grown = arena_take(&r->arena, bytes);
    if (!grown) return no_memory();
    if (n > 0) memcpy(grown, *array, n * size);
    *array = grown;
    *capacity = bigger;
    return OUTRIDER_OK;
}

/* ---- lists, dicts, text under way ---- */

outrider_status list_create(struct render *r, struct value *out) {
    *out = (struct value){.kind = V_LIST, .list = arena_take(&r->arena, sizeof *out->list)};
    return out->list ? OUTRIDER_OK : no_memory();
}

outrider_status list_push(struct render *r, struct list *list, struct value v) {
    TRY(take_step(r));
    TRY(grow(r, (void **)&list->items, sizeof *list->items, list->n, &list->capacity, 1));
    list->items[list->n++] = v;
    return OUTRIDER_OK;
}

outrider_status dict_create(struct render *r, struct dict **out) {
    *out = arena_take(&r->arena, sizeof **out);
    return *out ? OUTRIDER_OK : no_memory();
}

const struct value *dict_get(const struct dict *d, struct str key) {
    for (size_t i = 0; i < d->n; i++)
        if (str_equal(d->keys[i], key)) return &d->values[i];
    return NULL;
}

outrider_status dict_set(struct render *r, struct dict *d, struct str key, struct value v) {
    struct value *old = (struct value *)dict_get(d, key);
    r->steps += (int64_t)d->n / 8;
    TRY(take_step(r));
    if (old) return *old = v, OUTRIDER_OK;
    size_t capacity = d->capacity;
    TRY(grow(r, (void **)&d->keys, sizeof *d->keys, d->n, &capacity, 1));
    TRY(grow(r, (void **)&d->values, sizeof *d->values, d->n, &d->capacity, 1));
    d->keys[d->n] = key;
    d->values[d->n++] = v;
    return OUTRIDER_OK;
}

outrider_status buffer_add(struct render *r, struct buffer *b, struct str s) {
    size_t capacity = b->capacity;
    TRY(grow(r, (void **)&b->bytes, 1, b->n, &capacity, s.n));
    TRY(grow(r, (void **)&b->from, sizeof *b->from, b->n, &b->capacity, s.n));
    if (s.n > 0) memcpy(b->bytes + b->n, s.at, s.n);
    for (size_t i = 0; i < s.n; i++) b->from[b->n + i] = s.from ? s.from[i] : s.origin;
    b->n += s.n;
    r->steps += (int64_t)(s.n / 64);
    return take_step(r);
}

outrider_status buffer_take(struct render *r, const struct buffer *b, struct value *out) {
    (void)r;
    *out = (struct value){.kind = V_STRING, .text = {b->n ? b->bytes : "", b->n, b->from, 0}};
    return OUTRIDER_OK;
}

/* ---- text ---- */

struct str str_part(struct str s, size_t begin, size_t end) {
    return (struct str){s.at + begin, end - begin, s.from ? s.from + begin : NULL, s.origin};
}

size_t str_character(struct str s, size_t at) {
    int n = utf8_check((const unsigned char *)s.at + at, s.n - at);
    return n > 0 ? (size_t)n : 1;
}

size_t str_length(struct str s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i += str_character(s, i)) n++;
    return n;
}

/* Where each character begins, and the end behind them. */
static outrider_status offsets_of(struct render *r, struct str s, size_t **out, size_t *n) {
    size_t bytes;
    *n = str_length(s);
    if (!mul_fits(*n + 1, sizeof **out, &bytes) || !(*out = arena_take(&r->arena, bytes))) return no_memory();
    size_t k = 0;
    for (size_t i = 0; i < s.n; i += str_character(s, i)) (*out)[k++] = i;
    (*out)[k] = s.n;
    return OUTRIDER_OK;
}

/* ---- what values are ---- */

bool value_true(struct value v) {
    switch (v.kind) {
    case V_UNDEFINED:
    case V_NONE:
        return false;
    case V_BOOL:
    case V_INT:
        return v.number != 0;
    case V_STRING:
        return v.text.n > 0;
    case V_LIST:
        return v.list->n > 0;
    case V_DICT:
        return v.dict->is_namespace || v.dict->n > 0;
    default:
        return true;
    }
}

static bool are_numbers(struct value a, struct value b) {
    return (a.kind == V_INT || a.kind == V_BOOL) && (b.kind == V_INT || b.kind == V_BOOL);
}

static outrider_status equal(struct render *r, struct value a, struct value b, int depth, bool *out);

static outrider_status equal_lists(struct render *r, const struct list *a, const struct list *b, int depth,
                                   bool *out) {
    *out = a == b || a->n == b->n;
    for (size_t i = 0; a != b && *out && i < a->n; i++) TRY(equal(r, a->items[i], b->items[i], depth, out));
    return OUTRIDER_OK;
}

static outrider_status equal_dicts(struct render *r, const struct dict *a, const struct dict *b, int depth,
                                   bool *out) {
    *out = a == b || (a->n == b->n && !a->is_namespace && !b->is_namespace);
    for (size_t i = 0; a != b && *out && i < a->n; i++) {
        const struct value *other = dict_get(b, a->keys[i]);
        r->steps += (int64_t)b->n / 8;
        *out = other != NULL;
        if (other) TRY(equal(r, a->values[i], *other, depth, out));
    }
    return OUTRIDER_OK;
}

static outrider_status equal(struct render *r, struct value a, struct value b, int depth, bool *out) {
    TRY(take_step(r));
    if (depth > JINJA_DEPTH) return jinja_fail("nested too deeply");
    *out = false;
    if (are_numbers(a, b)) return *out = a.number == b.number, OUTRIDER_OK;
    if (a.kind != b.kind) return OUTRIDER_OK;
    switch (a.kind) {
    case V_LIST:
        return equal_lists(r, a.list, b.list, depth + 1, out);
    case V_DICT:
        return equal_dicts(r, a.dict, b.dict, depth + 1, out);
    case V_MACRO:
        return *out = a.macro == b.macro, OUTRIDER_OK;
    case V_STRING:
    case V_FUNCTION:
        return *out = str_equal(a.text, b.text), OUTRIDER_OK;
    default: /* none, or not defined */
        return *out = true, OUTRIDER_OK;
    }
}

outrider_status value_equal(struct render *r, struct value a, struct value b, bool *out) {
    return equal(r, a, b, 0, out);
}

outrider_status value_string(struct render *r, struct value v, struct value *out) {
    char digits[24];
    const char *text = v.kind == V_NONE ? "None" : v.kind == V_UNDEFINED ? "" : v.number ? "True" : "False";
    if (v.kind == V_STRING) return *out = v, OUTRIDER_OK;
    if (v.kind == V_LIST || v.kind == V_DICT || v.kind == V_MACRO || v.kind == V_FUNCTION)
        return jinja_fail("writes a list or a mapping as text; only tojson can");
    *out = (struct value){.kind = V_STRING, .text = str_of(text)};
    if (v.kind != V_INT) return OUTRIDER_OK;
    int n = snprintf(digits, sizeof digits, "%lld", (long long)v.number);
    char *copy = arena_take(&r->arena, (size_t)n + 1);
    if (!copy) return no_memory();
    memcpy(copy, digits, (size_t)n);
    out->text = (struct str){copy, (size_t)n, NULL, 0};
    return OUTRIDER_OK;
}

/* ---- operators ---- */

outrider_status value_compare(struct render *r, struct value a, struct value b, struct str sign,
                              struct value *out) {
    int order;
    bool holds;
    if (str_is(sign, "==") || str_is(sign, "!=")) {
        TRY(value_equal(r, a, b, &holds));
        holds ^= sign.at[0] == '!';
    } else {
        if (are_numbers(a, b)) {
            order = (a.number > b.number) - (a.number < b.number);
        } else if (a.kind == V_STRING && b.kind == V_STRING) {
            size_t shared = a.text.n < b.text.n ? a.text.n : b.text.n;
            order = memcmp(a.text.at, b.text.at, shared);
            if (order == 0) order = (a.text.n > b.text.n) - (a.text.n < b.text.n);
        } else {
            return jinja_fail("compares what has no order (%.*s)", SHOWN(sign));
        }
        holds = sign.at[0] == '<' ? order < 0 : order > 0;
        holds |= sign.n == 2 && order == 0;
    }
    *out = (struct value){.kind = V_BOOL, .number = holds};
    return OUTRIDER_OK;
}

outrider_status value_contains(struct render *r, struct value in, struct value v, bool *found) {
    *found = false;
    if (in.kind == V_STRING && v.kind == V_STRING)
        *found = v.text.n == 0 || memmem(in.text.at, in.text.n, v.text.at, v.text.n) != NULL;
    else if (in.kind == V_LIST)
        for (size_t i = 0; i < in.list->n && !*found; i++) TRY(value_equal(r, in.list->items[i], v, found));
    else if (in.kind == V_DICT)
        *found = v.kind == V_STRING && dict_get(in.dict, v.text);
    else if (in.kind != V_UNDEFINED)
        return jinja_fail("looks for something in what holds nothing");
    return OUTRIDER_OK;
}

outrider_status value_join(struct render *r, struct value a, struct value b, struct value *out) {
    struct buffer both = {0};
    TRY(value_string(r, a, &a));
    TRY(value_string(r, b, &b));
    TRY(buffer_add(r, &both, a.text));
    TRY(buffer_add(r, &both, b.text));
    return buffer_take(r, &both, out);
}

static outrider_status add_lists(struct render *r, const struct list *a, const struct list *b,
                                 struct value *out) {
    TRY(list_create(r, out));
    for (size_t i = 0; i < a->n; i++) TRY(list_push(r, out->list, a->items[i]));
    for (size_t i = 0; i < b->n; i++) TRY(list_push(r, out->list, b->items[i]));
    return OUTRIDER_OK;
}

outrider_status value_arithmetic(struct render *r, enum node_kind kind, struct value a, struct value b,
                                 struct value *out) {
    if (kind == N_ADD && a.kind == V_STRING && b.kind == V_STRING) return value_join(r, a, b, out);
    if (kind == N_ADD && a.kind == V_LIST && b.kind == V_LIST) return add_lists(r, a.list, b.list, out);
    bool numbers = are_numbers(a, b);
    if (!numbers && (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED))
        return jinja_fail("%.*s is undefined", SHOWN(a.kind == V_UNDEFINED ? a.text : b.text));
    if (!numbers) return jinja_fail("adds or multiplies what does not go together");
    int64_t x = a.number, y = b.number, z = 0;
    bool wrong = false;
    if (kind == N_ADD) wrong = __builtin_add_overflow(x, y, &z);
    if (kind == N_SUBTRACT) wrong = __builtin_sub_overflow(x, y, &z);
    if (kind == N_MULTIPLY) wrong = __builtin_mul_overflow(x, y, &z);
    if (kind == N_DIVIDE || kind == N_MODULO) {
        wrong = y == 0 || (x == INT64_MIN && y == -1);
        int64_t down = !wrong && x % y != 0 && (x < 0) != (y < 0); /* rounded down, as the language does */
        if (!wrong) z = kind == N_DIVIDE ? x / y - down : x % y + down * y;
    }
    if (wrong) return jinja_fail("a number that is too large, or a division by zero");
    *out = (struct value){.kind = V_INT, .number = z};
    return OUTRIDER_OK;
}

outrider_status value_member(struct value of, struct str name, struct value *out) {
    *out = (struct value){.kind = V_UNDEFINED, .text = name};
    if (of.kind == V_UNDEFINED) return jinja_fail("%.*s is undefined", SHOWN(of.text));
    const struct value *v = of.kind == V_DICT ? dict_get(of.dict, name) : NULL;
    if (v) *out = *v;
    return OUTRIDER_OK;
}

outrider_status value_index(struct render *r, struct value of, struct value at, struct value *out) {
    if (at.kind == V_STRING) return value_member(of, at.text, out);
    if (of.kind == V_UNDEFINED) return jinja_fail("%.*s is undefined", SHOWN(of.text));
    *out = (struct value){.kind = V_UNDEFINED, .text = str_of("an item")};
    if (at.kind != V_INT) return OUTRIDER_OK;
    if (of.kind == V_LIST) {
        int64_t n = (int64_t)of.list->n, i = at.number < 0 ? at.number + n : at.number;
        if (i >= 0 && i < n) *out = of.list->items[i];
    } else if (of.kind == V_STRING) {
        size_t *offsets, n;
        TRY(offsets_of(r, of.text, &offsets, &n));
        int64_t i = at.number < 0 ? at.number + (int64_t)n : at.number;
        if (i >= 0 && i < (int64_t)n)
            *out = (struct value){.kind = V_STRING, .text = str_part(of.text, offsets[i], offsets[i + 1])};
    }
    return OUTRIDER_OK;
}

/* A bound of a slice of n items, as the language clips it. */
static int64_t bound(struct value v, int64_t n, int64_t otherwise, bool down) {
    if (v.kind != V_INT) return otherwise;
    int64_t i = v.number < 0 ? v.number + n : v.number;
    int64_t low = down ? -1 : 0, high = down ? n - 1 : n;
    return i < low ? low : i > high ? high : i;
}

outrider_status value_slice(struct render *r, struct value of, const struct value part[3],
                            struct value *out) {
    size_t *offsets = NULL, length = 0;
    struct buffer text = {0};
    if (of.kind == V_STRING)
        TRY(offsets_of(r, of.text, &offsets, &length));
    else if (of.kind == V_LIST)
        length = of.list->n;
    else
        return jinja_fail("a slice of what is neither text nor a list");
    int64_t n = (int64_t)length, step = part[2].kind == V_INT ? part[2].number : 1;
    if (step == 0 || step > n + 1 || step < -n - 1) step = step > 0 ? n + 1 : step < 0 ? -n - 1 : 0;
    if (step == 0) return jinja_fail("a slice with step 0");
    int64_t begin = bound(part[0], n, step > 0 ? 0 : n - 1, step < 0);
    int64_t end = bound(part[1], n, step > 0 ? n : -1, step < 0);
    if (of.kind == V_STRING && step == 1) {
        if (end < begin) end = begin;
        *out = (struct value){.kind = V_STRING, .text = str_part(of.text, offsets[begin], offsets[end])};
        return OUTRIDER_OK;
    }
    TRY(list_create(r, out));
    for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
        if (of.kind == V_LIST)
            TRY(list_push(r, out->list, of.list->items[i]));
        else
            TRY(buffer_add(r, &text, str_part(of.text, offsets[i], offsets[i + 1])));
    }
    return of.kind == V_LIST ? OUTRIDER_OK : buffer_take(r, &text, out);
}

outrider_status value_items(struct render *r, struct value of, struct value *out) {
    if (of.kind == V_LIST) return *out = of, OUTRIDER_OK;
    TRY(list_create(r, out));
    if (of.kind == V_UNDEFINED) return OUTRIDER_OK;
    if (of.kind == V_DICT) {
        for (size_t i = 0; i < of.dict->n; i++)
            TRY(list_push(r, out->list, (struct value){.kind = V_STRING, .text = of.dict->keys[i]}));
        return OUTRIDER_OK;
    }
    if (of.kind != V_STRING) return jinja_fail("a loop over what holds nothing");
    for (size_t i = 0, n; i < of.text.n; i += n) {
        n = str_character(of.text, i);
        TRY(list_push(r, out->list, (struct value){.kind = V_STRING, .text = str_part(of.text, i, i + n)}));
    }
    return OUTRIDER_OK;
}

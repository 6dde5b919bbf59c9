/* What templates may call: methods, functions, filters and tests, as far as chat templates use them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "tokenizer/jinja_text.h"
#include "tokenizer/jinja_value.h"
#include "tokenizer/utf8.h"

static struct value boolean(bool b) {
    return (struct value){.kind = V_BOOL, .number = b};
}
static struct value integer(int64_t n) {
    return (struct value){.kind = V_INT, .number = n};
}
static struct value string(struct str s) {
    return (struct value){.kind = V_STRING, .text = s};
}

const struct value *argument(const struct arguments *args, size_t place, const char *name) {
    for (size_t i = 0; i < args->n; i++)
        if (name && str_is(args->names[i], name)) return &args->values[i];
    return place < args->n && args->names[place].n == 0 ? &args->values[place] : NULL;
}

static bool is_one_of(struct str name, const char *const *names) {
    for (; *names; names++)
        if (str_is(name, *names)) return true;
    return false;
}

static bool is_string(const struct value *v) {
    return v && v->kind == V_STRING;
}

/* ---- text ---- */

static bool is_among(struct str c, const struct value *set) {
    if (set) return memmem(set->text.at, set->text.n, c.at, c.n) != NULL;
    int n = utf8_check((const unsigned char *)c.at, c.n);
    return n > 0 && utf8_is_space(utf8_code_point((const unsigned char *)c.at, n));
}

static struct str strip(struct str s, const struct value *set, bool head, bool tail) {
    size_t begin = 0, end = 0;
    if (!is_string(set)) set = NULL;
    while (head && begin < s.n) {
        size_t n = str_character(s, begin);
        if (!is_among(str_part(s, begin, begin + n), set)) break;
        begin += n;
    }
    for (size_t i = end = begin; i < s.n;) {
        size_t n = str_character(s, i);
        if (!tail || !is_among(str_part(s, i, i + n), set)) end = i + n;
        i += n;
    }
    return str_part(s, begin, end);
}

/* Whether a word begins behind this character: for the filter title behind a space or some brackets, for the
 * method behind what is no letter. */
static bool starts_word(utf8proc_int32_t c, bool filter) {
    utf8proc_category_t category = utf8proc_category(c);
    if (filter) return utf8_is_space((uint32_t)c) || (c > 0 && c < 128 && strchr("-({[<", c));
    return category < UTF8PROC_CATEGORY_LU || category > UTF8PROC_CATEGORY_LO;
}

static outrider_status change_case(struct render *r, struct str s, struct str how, bool filter,
                                   struct value *out) {
    struct buffer b = {0};
    bool start = true, title = str_is(how, "title"), capitalize = str_is(how, "capitalize");
    for (size_t i = 0, n; i < s.n; i += n) {
        n = str_character(s, i);
        unsigned char changed[4];
        struct str c = str_part(s, i, i + n);
        int length = utf8_check((const unsigned char *)c.at, n);
        if (length > 0) {
            utf8proc_int32_t point = (utf8proc_int32_t)utf8_code_point((const unsigned char *)c.at, length);
            utf8proc_int32_t to = str_is(how, "upper")             ? utf8proc_toupper(point)
                                  : (title || capitalize) && start ? utf8proc_totitle(point)
                                                                   : utf8proc_tolower(point);
            utf8proc_ssize_t bytes = utf8proc_encode_char(to, changed);
            start = title && starts_word(point, filter);
            c = (struct str){(char *)changed, (size_t)bytes, NULL, c.from ? c.from[0] : c.origin};
        }
        TRY(buffer_add(r, &b, c));
    }
    return buffer_take(r, &b, out);
}

static const char *find(struct str s, size_t from, struct str what) {
    return what.n == 0 ? NULL : memmem(s.at + from, s.n - from, what.at, what.n);
}

static outrider_status replace(struct render *r, struct str s, const struct arguments *args,
                               struct value *out) {
    const struct value *old = argument(args, 0, NULL), *new = argument(args, 1, NULL),
                       *most = argument(args, 2, "count");
    struct buffer b = {0};
    if (!is_string(old) || !is_string(new)) return jinja_fail("replace takes two strings");
    if (old->text.n == 0) return jinja_fail("replaces an empty string");
    int64_t left = most && most->kind == V_INT && most->number >= 0 ? most->number : INT64_MAX;
    size_t at = 0;
    for (const char *hit; left > 0 && (hit = find(s, at, old->text)); left--) {
        size_t place = (size_t)(hit - s.at);
        TRY(buffer_add(r, &b, str_part(s, at, place)));
        TRY(buffer_add(r, &b, new->text));
        at = place + old->text.n;
    }
    TRY(buffer_add(r, &b, str_part(s, at, s.n)));
    return buffer_take(r, &b, out);
}

static outrider_status split(struct render *r, struct str s, const struct arguments *args,
                             struct value *out) {
    const struct value *by = argument(args, 0, "sep"), *most = argument(args, 1, "maxsplit");
    int64_t left = most && most->kind == V_INT && most->number >= 0 ? most->number : INT64_MAX;
    size_t at = 0;
    TRY(list_create(r, out));
    if (!is_string(by)) { /* at white space, of which none is left */
        for (s = strip(s, NULL, true, left == INT64_MAX); s.n > 0; left--) {
            size_t end = 0, n;
            for (; end < s.n && left > 0; end += n) {
                n = str_character(s, end);
                if (is_among(str_part(s, end, end + n), NULL)) break;
            }
            if (left == 0) end = s.n;
            TRY(list_push(r, out->list, string(str_part(s, 0, end))));
            s = strip(str_part(s, end, s.n), NULL, true, false);
        }
        return OUTRIDER_OK;
    }
    if (by->text.n == 0) return jinja_fail("split by an empty string");
    for (const char *hit; left > 0 && (hit = find(s, at, by->text)); left--) {
        TRY(list_push(r, out->list, string(str_part(s, at, (size_t)(hit - s.at)))));
        at = (size_t)(hit - s.at) + by->text.n;
    }
    return list_push(r, out->list, string(str_part(s, at, s.n)));
}

static bool has_affix(struct str s, struct str affix, bool end) {
    return affix.n <= s.n && memcmp(end ? s.at + s.n - affix.n : s.at, affix.at, affix.n) == 0;
}

static outrider_status affix(struct str s, const struct arguments *args, bool end, struct value *out) {
    const struct value *v = argument(args, 0, NULL);
    bool found = is_string(v) && has_affix(s, v->text, end);
    if (v && v->kind == V_LIST)
        for (size_t i = 0; i < v->list->n; i++)
            found |= is_string(&v->list->items[i]) && has_affix(s, v->list->items[i].text, end);
    *out = boolean(found);
    return OUTRIDER_OK;
}

static outrider_status string_method(struct render *r, struct str s, struct str name,
                                     const struct arguments *args, struct value *out) {
    const struct value *first = argument(args, 0, NULL);
    if (str_is(name, "strip")) return *out = string(strip(s, first, true, true)), OUTRIDER_OK;
    if (str_is(name, "lstrip")) return *out = string(strip(s, first, true, false)), OUTRIDER_OK;
    if (str_is(name, "rstrip")) return *out = string(strip(s, first, false, true)), OUTRIDER_OK;
    if (str_is(name, "upper") || str_is(name, "lower") || str_is(name, "title") || str_is(name, "capitalize"))
        return change_case(r, s, name, false, out);
    if (str_is(name, "split")) return split(r, s, args, out);
    if (str_is(name, "replace")) return replace(r, s, args, out);
    if (str_is(name, "startswith")) return affix(s, args, false, out);
    if (str_is(name, "endswith")) return affix(s, args, true, out);
    if (str_is(name, "find") && is_string(first)) {
        const char *hit = find(s, 0, first->text);
        *out = integer(hit             ? (int64_t)str_length(str_part(s, 0, (size_t)(hit - s.at)))
                       : first->text.n ? -1
                                       : 0);
        return OUTRIDER_OK;
    }
    return jinja_fail("a string has no method %.*s here", SHOWN(name));
}

/* ---- mappings ---- */

/* what: 'k' keys, 'v' values, 'i' both as pairs. */
static outrider_status entries(struct render *r, const struct dict *d, char what, struct value *out) {
    TRY(list_create(r, out));
    for (size_t i = 0; i < d->n; i++) {
        struct value pair;
        if (what == 'k') TRY(list_push(r, out->list, string(d->keys[i])));
        if (what == 'v') TRY(list_push(r, out->list, d->values[i]));
        if (what != 'i') continue;
        TRY(list_create(r, &pair));
        TRY(list_push(r, pair.list, string(d->keys[i])));
        TRY(list_push(r, pair.list, d->values[i]));
        TRY(list_push(r, out->list, pair));
    }
    return OUTRIDER_OK;
}

outrider_status call_method(struct render *r, struct value of, struct str name, const struct arguments *args,
                            struct value *out) {
    TRY(take_step(r));
    if (of.kind == V_STRING) return string_method(r, of.text, name, args, out);
    if (of.kind == V_UNDEFINED) return jinja_fail("%.*s is undefined", SHOWN(of.text));
    if (of.kind != V_DICT) return jinja_fail("there is no method %.*s here", SHOWN(name));
    const struct value *key = argument(args, 0, NULL), *otherwise = argument(args, 1, NULL);
    if (str_is(name, "get") && key) {
        const struct value *v = is_string(key) ? dict_get(of.dict, key->text) : NULL;
        *out = v ? *v : otherwise ? *otherwise : (struct value){.kind = V_NONE};
        return OUTRIDER_OK;
    }
    if (str_is(name, "keys")) return entries(r, of.dict, 'k', out);
    if (str_is(name, "values")) return entries(r, of.dict, 'v', out);
    if (str_is(name, "items")) return entries(r, of.dict, 'i', out);
    return jinja_fail("a mapping has no method %.*s here", SHOWN(name));
}

/* ---- functions ---- */

static outrider_status range(struct render *r, const struct arguments *args, struct value *out) {
    int64_t bounds[3] = {0, 0, 1};
    for (size_t i = 0; i < args->n && i < 3; i++) {
        if (args->values[i].kind != V_INT) return jinja_fail("range takes numbers");
        bounds[i] = args->values[i].number;
    }
    if (args->n == 1) bounds[1] = bounds[0], bounds[0] = 0;
    int64_t i = bounds[0], step = bounds[2];
    if (step == 0) return jinja_fail("range with step 0");
    TRY(list_create(r, out));
    while (step > 0 ? i < bounds[1] : i > bounds[1]) {
        TRY(list_push(r, out->list, integer(i)));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return OUTRIDER_OK;
}

static outrider_status now(struct render *r, const struct arguments *args, struct value *out) {
    char format[64], text[256];
    struct tm tm;
    const struct value *v = argument(args, 0, NULL);
    if (!is_string(v) || v->text.n >= sizeof format) return jinja_fail("strftime_now takes a short format");
    memcpy(format, v->text.at, v->text.n);
    format[v->text.n] = 0;
    localtime_r(&r->input->now, &tm);
    size_t n = strftime(text, sizeof text, format, &tm);
    char *copy = arena_take(&r->arena, n + 1);
    if (!copy) return jinja_fail("needs too much memory");
    memcpy(copy, text, n);
    *out = string((struct str){copy, n, NULL, 0});
    return OUTRIDER_OK;
}

outrider_status call_function(struct render *r, struct str name, const struct arguments *args,
                              struct value *out) {
    const struct value *first = argument(args, 0, NULL);
    TRY(take_step(r));
    if (str_is(name, "raise_exception") && is_string(first))
        return jinja_fail("%.*s", first->text.n < 300 ? (int)first->text.n : 300, first->text.at);
    if (str_is(name, "raise_exception")) return jinja_fail("raises what is no text");
    if (str_is(name, "strftime_now")) return now(r, args, out);
    if (str_is(name, "range")) return range(r, args, out);
    *out = (struct value){.kind = V_DICT};
    TRY(dict_create(r, &out->dict));
    out->dict->is_namespace = str_is(name, "namespace");
    for (size_t i = 0; i < args->n; i++) {
        if (args->names[i].n == 0) return jinja_fail("%.*s takes names only", SHOWN(name));
        TRY(dict_set(r, out->dict, args->names[i], args->values[i]));
    }
    return OUTRIDER_OK;
}

/* ---- tojson ---- */

static outrider_status put(struct render *r, struct buffer *b, const char *text) {
    return buffer_add(r, b, str_of(text));
}

static outrider_status json_string_of(struct render *r, struct buffer *b, struct str s) {
    TRY(put(r, b, "\""));
    for (size_t i = 0; i < s.n; i++) {
        static const char plain[] = "\"\\\n\r\t\b\f", escaped[] = "\"\\nrtbf";
        char code[8] = {s.at[i]};
        const char *known = s.at[i] ? strchr(plain, s.at[i]) : NULL;
        size_t n = 1;
        if (known)
            n = (size_t)snprintf(code, sizeof code, "\\%c", escaped[known - plain]);
        else if ((unsigned char)s.at[i] < 0x20)
            n = (size_t)snprintf(code, sizeof code, "\\u%04x", (unsigned)(unsigned char)s.at[i]);
        TRY(buffer_add(r, b, (struct str){code, n, NULL, s.from ? s.from[i] : s.origin}));
    }
    return put(r, b, "\"");
}

static outrider_status new_line(struct render *r, struct buffer *b, int64_t indent, int depth) {
    if (indent < 0) return OUTRIDER_OK;
    TRY(put(r, b, "\n"));
    for (int64_t i = 0; i < indent * depth; i++) TRY(put(r, b, " "));
    return OUTRIDER_OK;
}

static outrider_status json_of(struct render *r, struct buffer *b, struct value v, int64_t indent,
                               int depth) {
    if (depth > JINJA_DEPTH) return jinja_fail("nested too deeply");
    if (v.kind == V_STRING) return json_string_of(r, b, v.text);
    if (v.kind == V_NONE) return put(r, b, "null");
    if (v.kind == V_BOOL) return put(r, b, v.number ? "true" : "false");
    if (v.kind == V_INT) {
        TRY(value_string(r, v, &v));
        return buffer_add(r, b, v.text);
    }
    if (v.kind != V_LIST && v.kind != V_DICT) return jinja_fail("tojson of what JSON cannot hold");
    bool list = v.kind == V_LIST;
    size_t n = list ? v.list->n : v.dict->n;
    TRY(put(r, b, list ? "[" : "{"));
    for (size_t i = 0; i < n; i++) {
        if (i > 0) TRY(put(r, b, indent < 0 ? ", " : ","));
        TRY(new_line(r, b, indent, depth + 1));
        if (!list) TRY(json_string_of(r, b, v.dict->keys[i]));
        if (!list) TRY(put(r, b, ": "));
        TRY(json_of(r, b, list ? v.list->items[i] : v.dict->values[i], indent, depth + 1));
    }
    if (n > 0) TRY(new_line(r, b, indent, depth));
    return put(r, b, list ? "]" : "}");
}

static outrider_status to_json(struct render *r, struct value v, const struct arguments *args,
                               struct value *out) {
    const struct value *indent = argument(args, 0, "indent");
    struct buffer b = {0};
    bool indents = indent && indent->kind != V_NONE;
    if (indents && (indent->kind != V_INT || indent->number < 0 || indent->number > 16))
        return jinja_fail("tojson takes an indent from 0 to 16");
    TRY(json_of(r, &b, v, indents ? indent->number : -1, 0));
    return buffer_take(r, &b, out);
}

/* ---- filters ---- */

static outrider_status join(struct render *r, struct value v, const struct arguments *args,
                            struct value *out) {
    const struct value *given = argument(args, 0, "d"), *attribute = argument(args, 1, "attribute");
    struct value between = string(str_of(""));
    struct buffer b = {0};
    if (given) TRY(value_string(r, *given, &between));
    if (attribute && !is_string(attribute)) return jinja_fail("join takes an attribute by its name");
    TRY(value_items(r, v, &v));
    for (size_t i = 0; i < v.list->n; i++) {
        struct value text = v.list->items[i];
        if (i > 0) TRY(buffer_add(r, &b, between.text));
        if (attribute) TRY(value_member(text, attribute->text, &text));
        TRY(value_string(r, text, &text));
        TRY(buffer_add(r, &b, text.text));
    }
    return buffer_take(r, &b, out);
}

/* select, reject, selectattr, rejectattr: items that pass a test, or whose attribute does. */
static outrider_status choose(struct render *r, struct str name, struct value v, const struct arguments *args,
                              struct value *out) {
    bool by_attribute = name.n > 6, keeps = name.at[0] == 's';
    size_t place = by_attribute ? 1 : 0;
    const struct value *attribute = argument(args, 0, NULL), *test = argument(args, place, NULL);
    struct arguments rest = {0};
    for (size_t i = place + 1; i < args->n; i++) rest.values[rest.n++] = args->values[i];
    if (by_attribute && !is_string(attribute)) return jinja_fail("%.*s takes a name", SHOWN(name));
    TRY(value_items(r, v, &v));
    TRY(list_create(r, out));
    for (size_t i = 0; i < v.list->n; i++) {
        struct value item = v.list->items[i], passes;
        if (by_attribute) TRY(value_member(item, attribute->text, &item));
        if (is_string(test))
            TRY(apply_test(r, test->text, item, &rest, &passes));
        else
            passes = boolean(value_true(item));
        if ((passes.number != 0) == keeps) TRY(list_push(r, out->list, v.list->items[i]));
    }
    return OUTRIDER_OK;
}

static outrider_status map(struct render *r, struct value v, const struct arguments *args,
                           struct value *out) {
    const struct value *attribute = argument(args, JINJA_ARGUMENTS, "attribute"),
                       *filter = argument(args, 0, NULL);
    const struct arguments none = {0};
    TRY(value_items(r, v, &v));
    TRY(list_create(r, out));
    for (size_t i = 0; i < v.list->n; i++) {
        struct value item = v.list->items[i];
        if (is_string(attribute))
            TRY(value_member(item, attribute->text, &item));
        else if (is_string(filter) && !str_is(filter->text, "map"))
            TRY(apply_filter(r, filter->text, item, &none, &item));
        else
            return jinja_fail("map takes an attribute or a filter");
        TRY(list_push(r, out->list, item));
    }
    return OUTRIDER_OK;
}

static outrider_status length(struct value v, struct value *out) {
    if (v.kind == V_STRING) return *out = integer((int64_t)str_length(v.text)), OUTRIDER_OK;
    if (v.kind == V_LIST) return *out = integer((int64_t)v.list->n), OUTRIDER_OK;
    if (v.kind == V_DICT) return *out = integer((int64_t)v.dict->n), OUTRIDER_OK;
    if (v.kind == V_UNDEFINED) return *out = integer(0), OUTRIDER_OK;
    return jinja_fail("the length of what has none");
}

/* A number, or text that is one and nothing else (with a fraction, which is cut off); else the default. */
static outrider_status to_int(struct value v, const struct arguments *args, struct value *out) {
    const struct value *otherwise = argument(args, 0, "default");
    char digits[32], *end;
    *out = otherwise ? *otherwise : integer(0);
    if (v.kind == V_INT || v.kind == V_BOOL) return *out = integer(v.number), OUTRIDER_OK;
    if (v.kind != V_STRING) return OUTRIDER_OK;
    struct str s = strip(v.text, NULL, true, true);
    if (s.n == 0 || s.n >= sizeof digits) return OUTRIDER_OK;
    memcpy(digits, s.at, s.n);
    digits[s.n] = 0;
    if (strspn(digits, "+-.0123456789eE") < s.n) return OUTRIDER_OK;
    double n = strtod(digits, &end);
    if (*end) return OUTRIDER_OK;
    if (fabs(n) >= 0x1p63) return jinja_fail("a number that is too large");
    *out = integer(strpbrk(digits, ".eE") ? (int64_t)n : strtoll(digits, NULL, 10));
    return OUTRIDER_OK;
}

static outrider_status items(struct render *r, struct value v, struct value *out) {
    if (v.kind == V_UNDEFINED) return list_create(r, out);
    return v.kind == V_DICT ? entries(r, v.dict, 'i', out) : jinja_fail("items of what is no mapping");
}

static outrider_status list_filter(struct render *r, struct str name, struct value v, struct value *out) {
    TRY(value_items(r, v, &v));
    size_t n = v.list->n;
    if (str_is(name, "list")) return *out = v, OUTRIDER_OK;
    if (str_is(name, "reverse")) {
        TRY(list_create(r, out));
        for (size_t i = n; i-- > 0;) TRY(list_push(r, out->list, v.list->items[i]));
        return OUTRIDER_OK;
    }
    *out = (struct value){.kind = V_UNDEFINED, .text = name};
    if (n > 0) *out = v.list->items[str_is(name, "first") ? 0 : n - 1];
    return OUTRIDER_OK;
}

static outrider_status text_filter(struct render *r, struct str name, struct value v,
                                   const struct arguments *args, struct value *out) {
    TRY(value_string(r, v, &v));
    if (str_is(name, "trim"))
        return *out = string(strip(v.text, argument(args, 0, NULL), true, true)), OUTRIDER_OK;
    if (str_is(name, "replace")) return replace(r, v.text, args, out);
    if (str_is(name, "string") || str_is(name, "safe")) return *out = v, OUTRIDER_OK;
    return change_case(r, v.text, name, true, out);
}

outrider_status apply_filter(struct render *r, struct str name, struct value v, const struct arguments *args,
                             struct value *out) {
    static const char *const texts[] = {"trim",  "replace", "string",     "safe", "upper",
                                        "lower", "title",   "capitalize", NULL};
    static const char *const lists[] = {"list", "reverse", "first", "last", NULL};
    static const char *const choices[] = {"select", "reject", "selectattr", "rejectattr", NULL};
    TRY(take_step(r));
    if (str_is(name, "default") || str_is(name, "d")) {
        const struct value *otherwise = argument(args, 0, "default_value"),
                           *falsy = argument(args, 1, "boolean");
        bool missing = v.kind == V_UNDEFINED || (falsy && value_true(*falsy) && !value_true(v));
        *out = !missing ? v : otherwise ? *otherwise : string(str_of(""));
        return OUTRIDER_OK;
    }
    if (is_one_of(name, texts)) return text_filter(r, name, v, args, out);
    if (is_one_of(name, lists)) return list_filter(r, name, v, out);
    if (is_one_of(name, choices)) return choose(r, name, v, args, out);
    if (str_is(name, "length") || str_is(name, "count")) return length(v, out);
    if (str_is(name, "join")) return join(r, v, args, out);
    if (str_is(name, "map")) return map(r, v, args, out);
    if (str_is(name, "int")) return to_int(v, args, out);
    if (str_is(name, "items")) return items(r, v, out);
    if (str_is(name, "tojson")) return to_json(r, v, args, out);
    return jinja_fail("the filter \"%.*s\" is not known", SHOWN(name));
}

/* ---- tests ---- */

/* What is asked of two values; *known tells whether the test is one of them. */
static outrider_status test_pair(struct render *r, struct str name, struct value v, struct value with,
                                 bool *known, bool *holds) {
    static const char *const equals[] = {"equalto", "eq", "==", NULL};
    bool number = v.kind == V_INT || v.kind == V_BOOL, other = with.kind == V_INT || with.kind == V_BOOL;
    *known = true;
    if (is_one_of(name, equals)) return value_equal(r, v, with, holds);
    if (str_is(name, "in")) return value_contains(r, with, v, holds);
    if (str_is(name, "ne")) {
        TRY(value_equal(r, v, with, holds));
        return *holds = !*holds, OUTRIDER_OK;
    }
    *known = str_is(name, "divisibleby");
    if (!*known) return OUTRIDER_OK;
    if (!number || !other || with.number == 0) return jinja_fail("divisibleby takes numbers, and none is 0");
    *holds = with.number == -1 || v.number % with.number == 0; /* the least number by -1 overflows */
    return OUTRIDER_OK;
}

outrider_status apply_test(struct render *r, struct str name, struct value v, const struct arguments *args,
                           struct value *out) {
    const struct value *with = argument(args, 0, NULL);
    bool number = v.kind == V_INT || v.kind == V_BOOL,
         many = v.kind == V_LIST || v.kind == V_STRING || v.kind == V_DICT;
    const struct {
        const char *name;
        bool holds;
    } tests[] = {{"defined", v.kind != V_UNDEFINED},
                 {"undefined", v.kind == V_UNDEFINED},
                 {"none", v.kind == V_NONE},
                 {"string", v.kind == V_STRING},
                 {"mapping", v.kind == V_DICT},
                 {"iterable", many || v.kind == V_UNDEFINED},
                 {"sequence", many || v.kind == V_UNDEFINED},
                 {"number", number},
                 {"integer", v.kind == V_INT},
                 {"float", false},
                 {"boolean", v.kind == V_BOOL},
                 {"true", v.kind == V_BOOL && v.number},
                 {"false", v.kind == V_BOOL && !v.number},
                 {"callable", v.kind == V_MACRO || v.kind == V_FUNCTION},
                 {"odd", number && v.number % 2 != 0},
                 {"even", number && v.number % 2 == 0}};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (str_is(name, tests[i].name)) return *out = boolean(tests[i].holds), OUTRIDER_OK;
    bool known = false, holds = false;
    if (with) TRY(test_pair(r, name, v, *with, &known, &holds));
    if (known) return *out = boolean(holds), OUTRIDER_OK;
    return jinja_fail("the test \"%.*s\" is not known, or has nothing to compare with", SHOWN(name));
}

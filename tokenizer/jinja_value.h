/* Values of the interpreter and what can be done with them. Not for others than jinja*.c. */
#ifndef OUTRIDER_JINJA_VALUE_H
#define OUTRIDER_JINJA_VALUE_H

#include <string.h>

#include "tokenizer/jinja_internal.h"

enum value_kind { V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_STRING, V_LIST, V_DICT, V_MACRO, V_FUNCTION };

struct value {
    enum value_kind kind;
    int64_t number;  /* of bools too */
    struct str text; /* also the name of what is undefined, and of a function */
    struct list *list;
    struct dict *dict;
    const struct node *macro;
};

struct list {
    struct value *items;
    size_t n, capacity;
};

struct dict { /* in the order of insertion; few entries, so they are searched one by one */
    struct str *keys;
    struct value *values;
    size_t n, capacity;
    bool is_namespace;
};

struct buffer {
    char *bytes;
    uint32_t *from;
    size_t n, capacity;
};

struct scope {
    struct scope *outer;
    struct dict *names;
};

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

struct render {
    const struct jinja_input *input;
    struct arena arena;
    struct scope *scope, *globals;
    struct buffer *out;
    int depth;
    int64_t steps;
};

struct arguments {
    size_t n;
    struct str names[JINJA_ARGUMENTS]; /* n = 0: by place */
    struct value values[JINJA_ARGUMENTS];
};

#define SHOWN(s) (s).n < 40 ? (int)(s).n : 40, (s).at

static inline struct str str_of(const char *text) {
    return (struct str){text, strlen(text), NULL, 0};
}
static inline bool str_equal(struct str a, struct str b) {
    return a.n == b.n && memcmp(a.at, b.at, a.n) == 0;
}
static inline bool str_is(struct str a, const char *text) {
    return str_equal(a, str_of(text));
}

outrider_status take_step(struct render *r);
/* The argument at a place, or by name where that is given; NULL when there is none. */
const struct value *argument(const struct arguments *args, size_t place, const char *name);

outrider_status list_create(struct render *r, struct value *out);
outrider_status list_push(struct render *r, struct list *list, struct value v);
outrider_status dict_create(struct render *r, struct dict **out);
outrider_status dict_set(struct render *r, struct dict *d, struct str key, struct value v);
const struct value *dict_get(const struct dict *d, struct str key);
outrider_status buffer_add(struct render *r, struct buffer *b, struct str s);
outrider_status buffer_take(struct render *r, const struct buffer *b, struct value *out);

bool value_true(struct value v);
outrider_status value_equal(struct render *r, struct value a, struct value b, bool *out);
outrider_status value_string(struct render *r, struct value v, struct value *out);
outrider_status value_compare(struct render *r, struct value a, struct value b, struct str sign,
                              struct value *out);
outrider_status value_contains(struct render *r, struct value in, struct value v, bool *found);
outrider_status value_join(struct render *r, struct value a, struct value b, struct value *out);
outrider_status value_arithmetic(struct render *r, enum node_kind kind, struct value a, struct value b,
                                 struct value *out);
outrider_status value_member(struct value of, struct str name, struct value *out);
outrider_status value_index(struct render *r, struct value of, struct value at, struct value *out);
outrider_status value_slice(struct render *r, struct value of, const struct value part[3], struct value *out);
outrider_status value_items(struct render *r, struct value of, struct value *out); /* what a loop goes over */

outrider_status call_method(struct render *r, struct value of, struct str name, const struct arguments *args,
                            struct value *out);
outrider_status call_function(struct render *r, struct str name, const struct arguments *args,
                              struct value *out);
outrider_status apply_filter(struct render *r, struct str name, struct value v, const struct arguments *args,
                             struct value *out);
outrider_status apply_test(struct render *r, struct str name, struct value v, const struct arguments *args,
                           struct value *out);

#endif

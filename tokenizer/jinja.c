/* Runs templates; see jinja.h. Values live in the render's arena; strings carry where their bytes come from.
 */
#include "tokenizer/jinja.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/jinja_value.h"

static outrider_status run(struct render *r, const struct node *list, enum flow *flow);
static outrider_status eval(struct render *r, const struct node *n, struct value *out);

void jinja_text_free(struct jinja_text *text) {
    free(text->bytes);
    free(text->from);
    *text = (struct jinja_text){0};
}

/* ---- names ---- */

static struct value lookup(const struct render *r, struct str name) {
    for (const struct scope *s = r->scope; s; s = s->outer) {
        const struct value *v = dict_get(s->names, name);
        if (v) return *v;
    }
    static const char *const functions[] = {"raise_exception", "strftime_now", "namespace", "range", "dict"};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (str_is(name, functions[i])) return (struct value){.kind = V_FUNCTION, .text = name};
    return (struct value){.kind = V_UNDEFINED, .text = name};
}

static outrider_status assign(struct render *r, struct str name, struct value v) {
    return dict_set(r, r->scope->names, name, v);
}

static outrider_status push_scope(struct render *r, struct scope *s, struct scope *outer) {
    *s = (struct scope){.outer = outer};
    TRY(dict_create(r, &s->names));
    r->scope = s;
    return OUTRIDER_OK;
}

/* ---- expressions ---- */

static outrider_status eval_list(struct render *r, const struct node *n, struct value *out) {
    TRY(list_create(r, out));
    for (const struct node *e = n->list; e; e = e->next) {
        struct value v;
        TRY(eval(r, e->a, &v));
        TRY(list_push(r, out->list, v));
    }
    return OUTRIDER_OK;
}

static outrider_status eval_dict(struct render *r, const struct node *n, struct value *out) {
    *out = (struct value){.kind = V_DICT};
    TRY(dict_create(r, &out->dict));
    for (const struct node *e = n->list; e; e = e->next) {
        struct value key, v;
        TRY(eval(r, e->b, &key));
        TRY(eval(r, e->a, &v));
        if (key.kind != V_STRING) return jinja_fail("a key that is no string");
        TRY(dict_set(r, out->dict, key.text, v));
    }
    return OUTRIDER_OK;
}

static outrider_status eval_arguments(struct render *r, const struct node *list, struct arguments *args) {
    args->n = 0;
    for (const struct node *e = list; e; e = e->next) {
        if (args->n == JINJA_ARGUMENTS) return jinja_fail("too many arguments");
        args->names[args->n] = e->keyword;
        TRY(eval(r, e->a, &args->values[args->n]));
        args->n++;
    }
    return OUTRIDER_OK;
}

static outrider_status call_macro(struct render *r, const struct node *macro, const struct arguments *args,
                                  struct value *out) {
    struct scope scope, *caller = r->scope;
    size_t place = 0;
    TRY(push_scope(r, &scope, r->globals));
    for (const struct node *p = macro->c; p; p = p->next, place++) {
        struct value v = {.kind = V_UNDEFINED, .text = p->name};
        const struct value *given = argument(args, place, NULL);
        for (size_t i = 0; i < args->n; i++)
            if (args->names[i].n && str_equal(args->names[i], p->name)) given = &args->values[i];
        if (given)
            v = *given;
        else if (p->a)
            TRY(eval(r, p->a, &v));
        TRY(assign(r, p->name, v));
    }
    struct buffer *outer = r->out, inner = {0};
    enum flow flow = FLOW_ON;
    r->out = &inner;
    TRY(run(r, macro->list, &flow));
    r->out = outer;
    r->scope = caller;
    return buffer_take(r, &inner, out);
}

static outrider_status eval_call(struct render *r, const struct node *n, struct value *out) {
    struct arguments args;
    struct value callee;
    TRY(eval_arguments(r, n->list, &args));
    if (n->a->kind == N_MEMBER) {
        TRY(eval(r, n->a->a, &callee));
        return call_method(r, callee, n->a->name, &args, out);
    }
    TRY(eval(r, n->a, &callee));
    if (callee.kind == V_MACRO) return call_macro(r, callee.macro, &args, out);
    if (callee.kind == V_FUNCTION) return call_function(r, callee.text, &args, out);
    return jinja_fail("%.*s is no function", SHOWN(n->a->name));
}

static outrider_status eval_slice(struct render *r, const struct node *n, struct value *out) {
    struct value of, parts[3] = {{0}};
    const struct node *const nodes[] = {n->b, n->c, n->list};
    TRY(eval(r, n->a, &of));
    for (int i = 0; i < 3; i++) {
        if (nodes[i]) TRY(eval(r, nodes[i], &parts[i]));
        if (nodes[i] && parts[i].kind != V_INT && parts[i].kind != V_NONE)
            return jinja_fail("a slice by what is no number");
    }
    return value_slice(r, of, parts, out);
}

static outrider_status eval_logic(struct render *r, const struct node *n, struct value *out) {
    TRY(eval(r, n->a, out));
    if (value_true(*out) == (n->kind == N_OR)) return OUTRIDER_OK;
    return eval(r, n->b, out);
}

static outrider_status eval_binary(struct render *r, const struct node *n, struct value *out) {
    struct value a, b;
    bool found;
    TRY(eval(r, n->a, &a));
    TRY(eval(r, n->b, &b));
    switch (n->kind) {
    case N_COMPARE:
        return value_compare(r, a, b, n->name, out);
    case N_IN:
    case N_NOT_IN:
        TRY(value_contains(r, b, a, &found));
        *out = (struct value){.kind = V_BOOL, .number = found == (n->kind == N_IN)};
        return OUTRIDER_OK;
    case N_JOIN:
        return value_join(r, a, b, out);
    default:
        return value_arithmetic(r, n->kind, a, b, out);
    }
}

static outrider_status eval_node(struct render *r, const struct node *n, struct value *out) {
    struct value a, b;
    struct arguments args;
    *out = (struct value){.kind = V_NONE};
    switch (n->kind) {
    case N_STRING:
        *out = (struct value){.kind = V_STRING, .text = n->name};
        return OUTRIDER_OK;
    case N_INT:
        *out = (struct value){.kind = V_INT, .number = n->number};
        return OUTRIDER_OK;
    case N_TRUE:
    case N_FALSE:
        *out = (struct value){.kind = V_BOOL, .number = n->kind == N_TRUE};
        return OUTRIDER_OK;
    case N_NONE:
        return OUTRIDER_OK;
    case N_NAME:
        *out = lookup(r, n->name);
        return OUTRIDER_OK;
    case N_LIST:
        return eval_list(r, n, out);
    case N_DICT:
        return eval_dict(r, n, out);
    case N_NOT:
        TRY(eval(r, n->a, &a));
        *out = (struct value){.kind = V_BOOL, .number = !value_true(a)};
        return OUTRIDER_OK;
    case N_NEGATE:
        TRY(eval(r, n->a, &a));
        if (a.kind != V_INT || a.number == INT64_MIN) return jinja_fail("the negative of what is no number");
        *out = (struct value){.kind = V_INT, .number = -a.number};
        return OUTRIDER_OK;
    case N_AND:
    case N_OR:
        return eval_logic(r, n, out);
    case N_IF_ELSE:
        TRY(eval(r, n->b, &a));
        if (value_true(a)) return eval(r, n->a, out);
        if (n->c) return eval(r, n->c, out);
        *out = (struct value){.kind = V_UNDEFINED};
        return OUTRIDER_OK;
    case N_MEMBER:
        TRY(eval(r, n->a, &a));
        return value_member(a, n->name, out);
    case N_INDEX:
        TRY(eval(r, n->a, &a));
        TRY(eval(r, n->b, &b));
        return value_index(r, a, b, out);
    case N_SLICE:
        return eval_slice(r, n, out);
    case N_CALL:
        return eval_call(r, n, out);
    case N_FILTER:
        TRY(eval(r, n->a, &a));
        TRY(eval_arguments(r, n->list, &args));
        return apply_filter(r, n->name, a, &args, out);
    case N_TEST:
        TRY(eval(r, n->a, &a));
        TRY(eval_arguments(r, n->list, &args));
        TRY(apply_test(r, n->name, a, &args, out));
        out->number ^= n->number;
        return OUTRIDER_OK;
    default:
        return eval_binary(r, n, out);
    }
}

static outrider_status eval(struct render *r, const struct node *n, struct value *out) {
    TRY(take_step(r));
    if (++r->depth > 4 * JINJA_DEPTH) return jinja_fail("nested too deeply");
    TRY(eval_node(r, n, out));
    r->depth--;
    return OUTRIDER_OK;
}

/* ---- statements ---- */

static outrider_status set_loop(struct render *r, const struct list *items, size_t i) {
    struct value loop = {.kind = V_DICT};
    const struct {
        const char *name;
        struct value v;
    } fields[] = {{"index", {.kind = V_INT, .number = (int64_t)i + 1}},
                  {"index0", {.kind = V_INT, .number = (int64_t)i}},
                  {"revindex", {.kind = V_INT, .number = (int64_t)(items->n - i)}},
                  {"revindex0", {.kind = V_INT, .number = (int64_t)(items->n - i) - 1}},
                  {"length", {.kind = V_INT, .number = (int64_t)items->n}},
                  {"first", {.kind = V_BOOL, .number = i == 0}},
                  {"last", {.kind = V_BOOL, .number = i + 1 == items->n}},
                  {"previtem", i > 0 ? items->items[i - 1] : (struct value){.kind = V_UNDEFINED}},
                  {"nextitem", i + 1 < items->n ? items->items[i + 1] : (struct value){.kind = V_UNDEFINED}}};
    TRY(dict_create(r, &loop.dict));
    for (size_t k = 0; k < sizeof fields / sizeof *fields; k++)
        TRY(dict_set(r, loop.dict, str_of(fields[k].name), fields[k].v));
    return assign(r, str_of("loop"), loop);
}

static outrider_status set_targets(struct render *r, const struct node *n, struct value item) {
    if (!n->c) return assign(r, n->name, item);
    if (item.kind != V_LIST || item.list->n != 2) return jinja_fail("an item of a loop is no pair");
    TRY(assign(r, n->name, item.list->items[0]));
    return assign(r, n->c->name, item.list->items[1]);
}

/* The items that the loop's condition lets through. */
static outrider_status choose_items(struct render *r, const struct node *n, struct value *items) {
    struct value all, keep;
    struct scope scope, *outer = r->scope;
    TRY(eval(r, n->a, &all));
    TRY(value_items(r, all, &all));
    *items = all;
    if (!n->b) return OUTRIDER_OK;
    TRY(list_create(r, items));
    TRY(push_scope(r, &scope, outer));
    for (size_t i = 0; i < all.list->n; i++) {
        TRY(set_targets(r, n, all.list->items[i]));
        TRY(eval(r, n->b, &keep));
        if (value_true(keep)) TRY(list_push(r, items->list, all.list->items[i]));
    }
    r->scope = outer;
    return OUTRIDER_OK;
}

static outrider_status run_for(struct render *r, const struct node *n, enum flow *flow) {
    struct value items;
    struct scope scope, *outer = r->scope;
    TRY(choose_items(r, n, &items));
    if (items.list->n == 0) return run(r, n->otherwise, flow);
    for (size_t i = 0; i < items.list->n && *flow != FLOW_BREAK; i++) {
        *flow = FLOW_ON;
        TRY(push_scope(r, &scope, outer)); /* what is set inside is gone with each turn */
        TRY(set_loop(r, items.list, i));
        TRY(set_targets(r, n, items.list->items[i]));
        TRY(run(r, n->list, flow));
    }
    *flow = FLOW_ON;
    r->scope = outer;
    return OUTRIDER_OK;
}

static outrider_status run_if(struct render *r, const struct node *n, enum flow *flow) {
    for (; n; n = n->b) {
        struct value v = {.kind = V_BOOL, .number = true};
        if (n->a) TRY(eval(r, n->a, &v));
        if (value_true(v)) return run(r, n->list, flow);
    }
    return OUTRIDER_OK;
}

static outrider_status run_set(struct render *r, const struct node *n) {
    struct value v, target;
    if (n->kind == N_SET) {
        TRY(eval(r, n->a, &v));
    } else {
        struct buffer *outer = r->out, inner = {0};
        enum flow flow = FLOW_ON;
        r->out = &inner;
        TRY(run(r, n->list, &flow));
        r->out = outer;
        TRY(buffer_take(r, &inner, &v));
    }
    if (!n->c) return assign(r, n->name, v);
    target = lookup(r, n->name);
    if (target.kind != V_DICT || !target.dict->is_namespace)
        return jinja_fail("%.*s is no namespace", SHOWN(n->name));
    return dict_set(r, target.dict, n->c->name, v);
}

static outrider_status run_one(struct render *r, const struct node *n, enum flow *flow) {
    struct value v;
    switch (n->kind) {
    case N_TEXT:
        return buffer_add(r, r->out, n->name);
    case N_PRINT:
        TRY(eval(r, n->a, &v));
        TRY(value_string(r, v, &v));
        return buffer_add(r, r->out, v.text);
    case N_IF:
        return run_if(r, n, flow);
    case N_FOR:
        return run_for(r, n, flow);
    case N_MACRO:
        return assign(r, n->name, (struct value){.kind = V_MACRO, .macro = n});
    case N_BREAK:
    case N_CONTINUE:
        *flow = n->kind == N_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return OUTRIDER_OK;
    default:
        return run_set(r, n);
    }
}

static outrider_status run(struct render *r, const struct node *list, enum flow *flow) {
    if (++r->depth > 4 * JINJA_DEPTH) return jinja_fail("nested too deeply");
    for (const struct node *n = list; n && *flow == FLOW_ON; n = n->next) {
        TRY(take_step(r));
        TRY(run_one(r, n, flow));
    }
    r->depth--;
    return OUTRIDER_OK;
}

/* ---- the whole ---- */

static outrider_status set_messages(struct render *r, const struct jinja_input *in) {
    static const char *const roles[] = {"system", "user", "assistant"};
    struct value messages;
    TRY(list_create(r, &messages));
    for (size_t i = 0; i < in->n; i++) {
        const struct chat_message *m = &in->messages[i];
        struct value v = {.kind = V_DICT};
        struct str text = {m->text, m->bytes, NULL, (uint32_t)i + 1};
        TRY(dict_create(r, &v.dict));
        TRY(dict_set(r, v.dict, str_of("role"),
                     (struct value){.kind = V_STRING, .text = str_of(roles[m->role])}));
        TRY(dict_set(r, v.dict, str_of("content"), (struct value){.kind = V_STRING, .text = text}));
        TRY(list_push(r, messages.list, v));
    }
    return assign(r, str_of("messages"), messages);
}

static outrider_status set_inputs(struct render *r, const struct jinja_input *in) {
    const struct value none = {.kind = V_NONE};
    TRY(set_messages(r, in));
    TRY(assign(r, str_of("tools"), none));
    TRY(assign(r, str_of("documents"), none));
    TRY(assign(r, str_of("add_generation_prompt"),
               (struct value){.kind = V_BOOL, .number = in->open_answer}));
    TRY(assign(r, str_of("bos_token"), (struct value){.kind = V_STRING, .text = str_of(in->bos)}));
    return assign(r, str_of("eos_token"), (struct value){.kind = V_STRING, .text = str_of(in->eos)});
}

static outrider_status copy_out(const struct buffer *b, struct jinja_text *out) {
    out->bytes = malloc(b->n + 1);
    out->from = malloc((b->n + 1) * sizeof *out->from);
    if (!out->bytes || !out->from) {
        jinja_text_free(out);
        return fail_memory("a rendered chat", b->n);
    }
    if (b->n) memcpy(out->bytes, b->bytes, b->n);
    if (b->n) memcpy(out->from, b->from, b->n * sizeof *out->from);
    out->bytes[b->n] = 0;
    out->n = b->n;
    return OUTRIDER_OK;
}

outrider_status jinja_render(const char *source, const struct jinja_input *in, struct jinja_text *out) {
    enum { MEMORY = 32 << 20, MEMORY_A_BYTE = 128 }; /* with the copy of what is written, 64 MB */
    size_t bytes = 0;
    for (size_t i = 0; i < in->n; i++)
        if (!add_fits(bytes, in->messages[i].bytes, &bytes)) return fail_memory("a chat", SIZE_MAX);
    struct render r = {.input = in, .arena = {.left = MEMORY}};
    if (!mul_fits(bytes, MEMORY_A_BYTE, &bytes) || !add_fits(r.arena.left, bytes, &r.arena.left))
        return fail_memory("a chat", SIZE_MAX);
    struct scope globals;
    struct buffer text = {0};
    struct node *program = NULL;
    enum flow flow = FLOW_ON;
    outrider_status status;
    *out = (struct jinja_text){0};
    r.globals = &globals;
    r.out = &text;
    TRY_GOTO(cleanup, jinja_parse(&r.arena, source, &program));
    TRY_GOTO(cleanup, push_scope(&r, &globals, NULL));
    TRY_GOTO(cleanup, set_inputs(&r, in));
    TRY_GOTO(cleanup, run(&r, program, &flow));
    status = copy_out(&text, out);
cleanup:
    arena_free(&r.arena);
    /* the template's limit is its own fault, the machine's is not */
    if (status != OUTRIDER_OK && r.arena.starved) return fail_memory("a chat template", 0);
    return status;
}

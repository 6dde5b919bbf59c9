/* Templates into trees; see jinja.h. White space as Hugging Face sets it: trim_blocks and lstrip_blocks. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "tokenizer/jinja_internal.h"

enum token_kind { T_END, T_NAME, T_STRING, T_INT, T_SIGN };

struct parser {
    struct arena *arena;
    const char *source, *at, *close; /* where it reads; what closes the tag that is being read */
    enum token_kind kind;
    struct str text; /* of the token */
    int64_t number;
    int depth, chain, braces; /* braces: of mappings that are open, where }} closes no tag */
    bool line_starts;         /* the text that follows begins a line */
    bool trims;               /* the text that follows is to lose the white space at its start */
    bool drops_newline;
};

/* ---- memory ---- */

struct block {
    struct block *next;
    max_align_t data[];
};

void *arena_take(struct arena *a, size_t bytes) {
    size_t total = bytes + sizeof(struct block);
    if (bytes > SIZE_MAX / 2 || total > a->left) return NULL;
    struct block *b = calloc(1, total);
    if (!b) return a->starved = true, NULL;
    a->left -= total;
    b->next = a->blocks;
    a->blocks = b;
    return b->data;
}

void arena_free(struct arena *a) {
    while (a->blocks) {
        struct block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
}

static outrider_status make(struct parser *p, enum node_kind kind, struct node **out) {
    *out = arena_take(p->arena, sizeof **out);
    if (!*out) return jinja_fail("needs too much memory");
    (*out)->kind = kind;
    (*out)->name = p->text;
    return OUTRIDER_OK;
}

/* ---- tokens of a tag ---- */

/* An escape behind its backslash, written to `out` (at most 4 bytes): characters, or their numbers in \x41,
 * \u0041 and \U00000041. Of others the backslash is text. */
static outrider_status read_escape(const char **at, char *out, size_t *n) {
    static const char known[] = "n\nt\tr\r\\\\''\"\"a\ab\bf\fv\v", wide[] = "xuU";
    const char *c = *at, *one = strchr(known, *c), *width = strchr(wide, *c);
    *at = c + 1;
    if (one && (one - known) % 2 == 0) return out[(*n)++] = one[1], OUTRIDER_OK;
    if (isdigit((unsigned char)*c) || *c == 'N') return jinja_fail("the escape \\%c in a string", *c);
    if (!width) return out[(*n)++] = '\\', out[(*n)++] = *c, OUTRIDER_OK;
    uint32_t point = 0;
    const int digits = 2 << (width - wide);
    for (int i = 0; i < digits; i++) {
        const char digit = (*at)[0];
        if (!isxdigit((unsigned char)digit))
            return jinja_fail("an escape \\%c without %d digits", *c, digits);
        point =
            point << 4 | (uint32_t)(isdigit((unsigned char)digit) ? digit - '0' : (digit | 32) - 'a' + 10);
        ++*at;
    }
    if (point == 0 || !utf8proc_codepoint_valid((utf8proc_int32_t)point))
        return jinja_fail("an escape \\%c of no character", *c);
    *n += (size_t)utf8proc_encode_char((utf8proc_int32_t)point, (utf8proc_uint8_t *)out + *n);
    return OUTRIDER_OK;
}

static outrider_status read_string(struct parser *p) {
    char quote = *p->at++;
    const char *end = p->at;
    while (*end && *end != quote) end += end[0] == '\\' && end[1] ? 2 : 1;
    if (!*end) return jinja_fail("a string without an end");
    char *text = arena_take(p->arena, (size_t)(end - p->at) + 1);
    if (!text) return jinja_fail("needs too much memory");
    size_t n = 0;
    for (const char *c = p->at; c < end;) {
        if (*c != '\\')
            text[n++] = *c++;
        else
            TRY((c++, read_escape(&c, text, &n)));
    }
    p->at = end + 1;
    p->kind = T_STRING;
    p->text = (struct str){text, n, NULL, 0};
    return OUTRIDER_OK;
}

static outrider_status next(struct parser *p) {
    static const char *const doubled[] = {"==", "!=", "<=", ">=", "//", "**"};
    while (isspace((unsigned char)*p->at)) p->at++;
    const char *c = p->at;
    size_t close = strlen(p->close);
    if (!*c) return jinja_fail("a tag without an end");
    bool closes = strncmp(c, p->close, close) == 0 ||
                  ((*c == '-' || *c == '+') && strncmp(c + 1, p->close, close) == 0);
    if (closes && p->braces == 0) return p->kind = T_END, p->text.n = 0, OUTRIDER_OK;
    if (*c == '\'' || *c == '"') return read_string(p);
    size_t n = 0;
    if (isdigit((unsigned char)*c)) {
        for (p->number = 0; isdigit((unsigned char)c[n]); n++)
            if (__builtin_mul_overflow(p->number, 10, &p->number) ||
                __builtin_add_overflow(p->number, c[n] - '0', &p->number))
                return jinja_fail("a number that is too large");
        p->kind = T_INT;
    } else if (isalpha((unsigned char)*c) || *c == '_') {
        while (isalnum((unsigned char)c[n]) || c[n] == '_') n++;
        p->kind = T_NAME;
    } else {
        n = 1;
        for (size_t i = 0; i < sizeof doubled / sizeof *doubled; i++)
            if (strncmp(c, doubled[i], 2) == 0) n = 2;
        p->kind = T_SIGN;
        p->braces += *c == '{';
        p->braces -= *c == '}' && p->braces > 0;
    }
    p->text = (struct str){c, n, NULL, 0};
    p->at += n;
    return OUTRIDER_OK;
}

static bool token_is(const struct parser *p, const char *text) {
    return (p->kind == T_NAME || p->kind == T_SIGN) && p->text.n == strlen(text) &&
           memcmp(p->text.at, text, p->text.n) == 0;
}

static outrider_status accept(struct parser *p, const char *text, bool *found) {
    *found = token_is(p, text);
    return *found ? next(p) : OUTRIDER_OK;
}

static outrider_status expect(struct parser *p, const char *text) {
    bool found;
    TRY(accept(p, text, &found));
    return found ? OUTRIDER_OK
                 : jinja_fail("%s is expected before \"%.24s\"", text,
                              p->kind == T_END ? p->close : p->text.at);
}

/* ---- expressions, loosest first ---- */

static outrider_status expression(struct parser *p, struct node **out);
static outrider_status unary(struct parser *p, bool filters, struct node **out);

static outrider_status unexpected(const struct parser *p) {
    return jinja_fail("unexpected \"%.*s\"",
                      p->kind == T_END ? 2
                      : p->text.n < 24 ? (int)p->text.n
                                       : 24,
                      p->kind == T_END ? p->close : p->text.at);
}

/* Links elements up to `end`, with keywords ("name=") or pairs ("key: value", key in c) where allowed. */
static outrider_status elements(struct parser *p, const char *end, char form, struct node **list) {
    bool done;
    TRY(accept(p, end, &done));
    while (!done) {
        struct node *e, *value = NULL;
        TRY(expression(p, &e));
        bool pair = form && token_is(p, form == '=' ? "=" : ":");
        if (form == ':' && !pair) return unexpected(p);
        if (pair) {
            if (form == '=' && e->kind != N_NAME) return unexpected(p);
            TRY(next(p));
            TRY(expression(p, &value));
        }
        struct node *item;
        TRY(make(p, N_LIST, &item)); /* a: the element, b: the key of a pair */
        item->a = value ? value : e;
        item->b = form == ':' ? e : NULL;
        if (value && form == '=') item->keyword = e->name;
        *list = item;
        list = &item->next;
        bool comma;
        TRY(accept(p, ",", &comma));
        if (!comma) {
            TRY(expect(p, end));
            return OUTRIDER_OK;
        }
        TRY(accept(p, end, &done));
    }
    return OUTRIDER_OK;
}

static outrider_status primary(struct parser *p, struct node **out) {
    static const struct {
        const char *name;
        enum node_kind kind;
    } constants[] = {{"true", N_TRUE},   {"True", N_TRUE}, {"false", N_FALSE},
                     {"False", N_FALSE}, {"none", N_NONE}, {"None", N_NONE}};
    if (p->kind == T_STRING) {
        TRY(make(p, N_STRING, out));
        TRY(next(p));
        while (p->kind == T_STRING) { /* neighbours are one */
            struct str a = (*out)->name, b = p->text;
            char *both = arena_take(p->arena, a.n + b.n + 1);
            if (!both) return jinja_fail("needs too much memory");
            memcpy(both, a.at, a.n);
            memcpy(both + a.n, b.at, b.n);
            (*out)->name = (struct str){both, a.n + b.n, NULL, 0};
            TRY(next(p));
        }
        return OUTRIDER_OK;
    }
    if (p->kind == T_INT) {
        TRY(make(p, N_INT, out));
        (*out)->number = p->number;
        return next(p);
    }
    if (p->kind == T_NAME) {
        TRY(make(p, N_NAME, out));
        for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
            if (token_is(p, constants[i].name)) (*out)->kind = constants[i].kind;
        return next(p);
    }
    bool list = token_is(p, "["), dict = token_is(p, "{");
    if (list || dict) {
        TRY(make(p, list ? N_LIST : N_DICT, out));
        TRY(next(p));
        return elements(p, list ? "]" : "}", list ? 0 : ':', &(*out)->list);
    }
    if (!token_is(p, "(")) return unexpected(p);
    TRY(next(p));
    TRY(expression(p, out));
    if (!token_is(p, ",")) return expect(p, ")");
    struct node *first = *out, *item; /* a tuple */
    TRY(make(p, N_LIST, out));
    TRY(make(p, N_LIST, &item));
    item->a = first;
    (*out)->list = item;
    TRY(next(p));
    return elements(p, ")", 0, &item->next);
}

/* a[b], a[b:c] with the step in list; a slice's missing parts are NULL. */
static outrider_status subscript(struct parser *p, struct node **out) {
    struct node *n, *step;
    bool colon;
    TRY(make(p, N_INDEX, &n));
    n->a = *out;
    *out = n;
    TRY(next(p));
    if (!token_is(p, ":")) TRY(expression(p, &n->b));
    TRY(accept(p, ":", &colon));
    if (!colon) return expect(p, "]");
    n->kind = N_SLICE;
    if (!token_is(p, "]") && !token_is(p, ":")) TRY(expression(p, &n->c));
    TRY(accept(p, ":", &colon));
    if (colon && !token_is(p, "]")) {
        TRY(expression(p, &step));
        n->list = step;
    }
    return expect(p, "]");
}

static outrider_status call(struct parser *p, struct node **out) {
    struct node *n;
    TRY(make(p, N_CALL, &n));
    n->a = *out;
    *out = n;
    TRY(next(p));
    return elements(p, ")", '=', &n->list);
}

static outrider_status postfix(struct parser *p, struct node **out) {
    for (struct node *n;;) {
        if (token_is(p, ".")) {
            TRY(next(p));
            if (p->kind != T_NAME) return unexpected(p);
            TRY(make(p, N_MEMBER, &n));
            n->a = *out;
            *out = n;
            TRY(next(p));
        } else if (token_is(p, "[")) {
            TRY(subscript(p, out));
        } else if (token_is(p, "(")) {
            TRY(call(p, out));
        } else {
            return OUTRIDER_OK;
        }
    }
}

/* A filter or test by name, over a, with arguments in list; a test's `number` says that it is negated. */
static outrider_status filter(struct parser *p, bool test, struct node **out) {
    struct node *n;
    bool negated = false;
    TRY(next(p));
    if (test) TRY(accept(p, "not", &negated));
    if (p->kind != T_NAME) return unexpected(p);
    TRY(make(p, test ? N_TEST : N_FILTER, &n));
    n->a = *out;
    n->number = negated;
    *out = n;
    TRY(next(p));
    if (token_is(p, "(")) {
        TRY(next(p));
        return elements(p, ")", '=', &n->list);
    }
    static const char *const ends[] = {"else", "or", "and", "is", "if", "in", "not"};
    bool argument = test && (p->kind == T_STRING || p->kind == T_INT || p->kind == T_NAME ||
                             token_is(p, "[") || token_is(p, "{"));
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) argument &= !token_is(p, ends[i]);
    if (!argument) return OUTRIDER_OK;
    TRY(make(p, N_LIST, &n->list));
    TRY(primary(p, &n->list->a));
    return postfix(p, &n->list->a);
}

static outrider_status unary(struct parser *p, bool filters, struct node **out) {
    if (token_is(p, "-")) {
        if (++p->depth > JINJA_DEPTH) return jinja_fail("nested too deeply");
        TRY(make(p, N_NEGATE, out));
        TRY(next(p));
        TRY(unary(p, false, &(*out)->a));
        p->depth--;
    } else {
        TRY(primary(p, out));
    }
    TRY(postfix(p, out));
    while (filters) {
        if (token_is(p, "|"))
            TRY(filter(p, false, out));
        else if (token_is(p, "is"))
            TRY(filter(p, true, out));
        else if (token_is(p, "("))
            TRY(call(p, out));
        else
            break;
    }
    return OUTRIDER_OK;
}

static outrider_status binary(struct parser *p, int level, struct node **out) {
    static const struct {
        int level;
        const char *sign;
        enum node_kind kind;
    } operators[] = {{0, "or", N_OR},     {1, "and", N_AND},    {3, "==", N_COMPARE}, {3, "!=", N_COMPARE},
                     {3, "<", N_COMPARE}, {3, ">", N_COMPARE},  {3, "<=", N_COMPARE}, {3, ">=", N_COMPARE},
                     {3, "in", N_IN},     {3, "not", N_NOT_IN}, {4, "+", N_ADD},      {4, "-", N_SUBTRACT},
                     {5, "~", N_JOIN},    {6, "*", N_MULTIPLY}, {6, "//", N_DIVIDE},  {6, "%", N_MODULO}};
    if (level == 7) return unary(p, true, out);
    if (level == 2 && token_is(p, "not")) {
        if (++p->depth > JINJA_DEPTH) return jinja_fail("nested too deeply");
        TRY(make(p, N_NOT, out));
        TRY(next(p));
        TRY(binary(p, 2, &(*out)->a));
        p->depth--;
        return OUTRIDER_OK;
    }
    TRY(binary(p, level + 1, out));
    for (size_t i = 0; i < sizeof operators / sizeof *operators;) {
        if (operators[i].level != level || !token_is(p, operators[i].sign)) {
            i++;
            continue;
        }
        struct node *n;
        TRY(make(p, operators[i].kind, &n));
        n->a = *out;
        *out = n;
        TRY(next(p));
        if (n->kind == N_NOT_IN) TRY(expect(p, "in"));
        TRY(binary(p, level + 1, &n->b));
        i = 0;
    }
    return OUTRIDER_OK;
}

static outrider_status expression(struct parser *p, struct node **out) {
    if (++p->depth > JINJA_DEPTH) return jinja_fail("nested too deeply");
    TRY(binary(p, 0, out));
    bool conditional;
    TRY(accept(p, "if", &conditional));
    if (conditional) { /* a if b else c */
        struct node *n;
        TRY(make(p, N_IF_ELSE, &n));
        n->a = *out;
        *out = n;
        TRY(binary(p, 0, &n->b));
        bool otherwise;
        TRY(accept(p, "else", &otherwise));
        if (otherwise) TRY(expression(p, &n->c));
    }
    p->depth--;
    return OUTRIDER_OK;
}

/* ---- statements ---- */

static outrider_status close_tag(struct parser *p) {
    if (p->kind != T_END) return unexpected(p);
    p->trims = *p->at == '-';
    p->drops_newline = *p->at != '+' && strcmp(p->close, "}}") != 0;
    p->at += (*p->at == '-' || *p->at == '+') + 2;
    return OUTRIDER_OK;
}

/* What a tag takes of the text behind it; remembers whether that ended a line. */
static const char *skip_behind_tag(struct parser *p, const char *from, const char *end) {
    const char *begin = from;
    if (p->trims)
        while (from < end && isspace((unsigned char)*from)) from++;
    else if (p->drops_newline && from < end && *from == '\n')
        from++;
    if (p->at != p->source) p->line_starts = from > begin && from[-1] == '\n';
    p->trims = p->drops_newline = false;
    return from;
}

static const char *skip_before_tag(const struct parser *p, const char *from, const char *end) {
    const char *line = end;
    if (!*end) return end;
    if (end[2] == '-') {
        while (end > from && isspace((unsigned char)end[-1])) end--;
        return end;
    }
    if (end[1] == '{' || end[2] == '+') return end;
    while (line > from && line[-1] != '\n' && isspace((unsigned char)line[-1])) line--;
    return (line > from ? line[-1] == '\n' : p->line_starts) ? line : end;
}

/* The text up to the next tag, as trim_blocks, lstrip_blocks and the signs in tags leave it. */
static outrider_status text(struct parser *p, struct node ***list) {
    const char *end = p->at;
    while (*end && !(end[0] == '{' && end[1] && strchr("{%#", end[1]))) end++;
    const char *from = skip_behind_tag(p, p->at, end);
    p->at = end;
    end = skip_before_tag(p, from, end);
    if (end == from) return OUTRIDER_OK;
    p->text = (struct str){from, (size_t)(end - from), NULL, 0};
    TRY(make(p, N_TEXT, *list));
    *list = &(**list)->next;
    return OUTRIDER_OK;
}

static outrider_status body(struct parser *p, struct node **list);

/* Reads a body and the tag that ends it, whose name is left as the token. */
static outrider_status block(struct parser *p, struct node **list) {
    if (++p->depth > JINJA_DEPTH) return jinja_fail("nested too deeply");
    TRY(close_tag(p));
    TRY(body(p, list));
    p->depth--;
    return *p->at ? OUTRIDER_OK : jinja_fail("a block without an end");
}

/* a: the condition, list: the body, b: what follows an elif or else. */
static outrider_status if_block(struct parser *p, struct node **out) {
    TRY(make(p, N_IF, out));
    TRY(expression(p, &(*out)->a));
    TRY(block(p, &(*out)->list));
    bool found;
    if (token_is(p, "elif")) {
        if (++p->chain > 1000) return jinja_fail("too many branches");
        TRY(next(p));
        return if_block(p, &(*out)->b);
    }
    TRY(accept(p, "else", &found));
    if (found) {
        TRY(make(p, N_IF, &(*out)->b)); /* without a condition */
        TRY(block(p, &(*out)->b->list));
    }
    return expect(p, "endif");
}

/* name and c: one or two targets, a: the list, b: a condition, list: the body. */
static outrider_status for_block(struct parser *p, struct node **out) {
    struct node *n, *otherwise = NULL;
    bool found;
    TRY(make(p, N_FOR, out));
    n = *out;
    if (p->kind != T_NAME) return unexpected(p);
    TRY(next(p));
    TRY(accept(p, ",", &found));
    if (found) {
        if (p->kind != T_NAME) return unexpected(p);
        TRY(make(p, N_NAME, &n->c));
        TRY(next(p));
    }
    TRY(expect(p, "in"));
    TRY(binary(p, 0, &n->a));
    TRY(accept(p, "if", &found));
    if (found) TRY(expression(p, &n->b));
    TRY(block(p, &n->list));
    TRY(accept(p, "else", &found));
    if (found) TRY(block(p, &otherwise));
    TRY(expect(p, "endfor"));
    n->otherwise = otherwise;
    return OUTRIDER_OK;
}

/* name: the target, c: its attribute, a: the value; or list: the text of a block. */
static outrider_status set_block(struct parser *p, struct node **out) {
    bool found;
    TRY(make(p, N_SET, out));
    if (p->kind != T_NAME) return unexpected(p);
    TRY(next(p));
    TRY(accept(p, ".", &found));
    if (found) {
        if (p->kind != T_NAME) return unexpected(p);
        TRY(make(p, N_NAME, &(*out)->c));
        TRY(next(p));
    }
    TRY(accept(p, "=", &found));
    if (found) return expression(p, &(*out)->a);
    (*out)->kind = N_SET_BLOCK;
    TRY(block(p, &(*out)->list));
    return expect(p, "endset");
}

/* c: the parameters, of name and default a; list: the body. */
static outrider_status macro_block(struct parser *p, struct node **out) {
    TRY(make(p, N_MACRO, out));
    if (p->kind != T_NAME) return unexpected(p);
    TRY(next(p));
    TRY(expect(p, "("));
    bool done, found;
    struct node **list = &(*out)->c;
    TRY(accept(p, ")", &done));
    while (!done) {
        if (p->kind != T_NAME) return unexpected(p);
        TRY(make(p, N_NAME, list));
        TRY(next(p));
        TRY(accept(p, "=", &found));
        if (found) TRY(expression(p, &(*list)->a));
        list = &(*list)->next;
        TRY(accept(p, ",", &found));
        if (!found && !token_is(p, ")")) return unexpected(p);
        TRY(accept(p, ")", &done));
    }
    TRY(block(p, &(*out)->list));
    return expect(p, "endmacro");
}

static bool ends_a_body(const struct parser *p) {
    static const char *const names[] = {"elif",   "else",     "endif",        "endfor",
                                        "endset", "endmacro", "endgeneration"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (token_is(p, names[i])) return true;
    return false;
}

static outrider_status statement(struct parser *p, struct node **out) {
    struct str name = p->text;
    bool is_if = token_is(p, "if"), is_for = token_is(p, "for"), is_set = token_is(p, "set"),
         is_macro = token_is(p, "macro"), is_break = token_is(p, "break"),
         is_continue = token_is(p, "continue"), is_generation = token_is(p, "generation");
    if (p->kind != T_NAME) return unexpected(p);
    TRY(next(p));
    if (is_if)
        TRY(if_block(p, out));
    else if (is_for)
        TRY(for_block(p, out));
    else if (is_set)
        TRY(set_block(p, out));
    else if (is_macro)
        TRY(macro_block(p, out));
    else if (is_break || is_continue)
        TRY(make(p, is_break ? N_BREAK : N_CONTINUE, out));
    else if (is_generation) { /* marks the answer for training; an if without a condition */
        TRY(make(p, N_IF, out));
        TRY(block(p, &(*out)->list));
        TRY(expect(p, "endgeneration"));
    } else
        return jinja_fail("the statement \"%.*s\" is not known", name.n < 24 ? (int)name.n : 24, name.at);
    return close_tag(p);
}

static outrider_status comment(struct parser *p) {
    const char *end = strstr(p->at, "#}");
    if (!end) return jinja_fail("a comment without an end");
    p->trims = end > p->at + 1 && end[-1] == '-';
    p->drops_newline = true;
    p->at = end + 2;
    return OUTRIDER_OK;
}

/* Statements up to the end, or up to a tag that ends a body, whose name is then the token. */
static outrider_status body(struct parser *p, struct node **list) {
    for (;;) {
        TRY(text(p, &list));
        if (!*p->at) return OUTRIDER_OK;
        char kind = p->at[1];
        p->at += 2;
        if (kind == '#') {
            TRY(comment(p));
            continue;
        }
        if (*p->at == '-' || *p->at == '+') p->at++;
        p->close = kind == '{' ? "}}" : "%}";
        TRY(next(p));
        if (kind == '{') {
            TRY(make(p, N_PRINT, list));
            TRY(expression(p, &(*list)->a));
            TRY(close_tag(p));
        } else {
            if (ends_a_body(p)) return OUTRIDER_OK;
            TRY(statement(p, list));
        }
        list = &(*list)->next;
    }
}

outrider_status jinja_parse(struct arena *a, const char *source, struct node **out) {
    size_t n = 0;
    char *copy = arena_take(a, strlen(source) + 1);
    if (!copy) return jinja_fail("needs too much memory");
    for (const char *c = source; *c; c++)
        if (c[0] != '\r' || c[1] != '\n') copy[n++] = *c == '\r' ? '\n' : *c;
    if (n > 0 && copy[n - 1] == '\n') copy[--n] = 0;
    struct parser p = {.arena = a, .source = copy, .at = copy, .close = "%}", .line_starts = true};
    TRY(body(&p, out));
    return *p.at ? unexpected(&p) : OUTRIDER_OK;
}

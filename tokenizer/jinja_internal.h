/* What the parser and the evaluator of jinja.h share. All memory of a render is one arena's. */
#ifndef OUTRIDER_JINJA_INTERNAL_H
#define OUTRIDER_JINJA_INTERNAL_H

#include <stdbool.h>

#include "runtime/status.h"
#include "tokenizer/jinja.h"

enum { JINJA_DEPTH = 64, JINJA_ARGUMENTS = 8 };
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
enum { JINJA_STEPS = 20000 }; /* a fuzzer has better to do than to watch loops */
#else
enum { JINJA_STEPS = 2000000 };
#endif

/* Text with its origin: all of it from `origin`, or each byte from from[i]. */
struct str {
    const char *at;
    size_t n;
    const uint32_t *from; /* NULL: all of `origin` */
    uint32_t origin;
};

struct arena {
    struct block *blocks;
    size_t left;  /* of the limit */
    bool starved; /* the machine had less than that */
};
void *arena_take(struct arena *a, size_t bytes); /* zeroed; NULL past the limit */
void arena_free(struct arena *a);

enum node_kind {
    /* expressions */
    N_STRING,
    N_INT,
    N_TRUE,
    N_FALSE,
    N_NONE,
    N_NAME,
    N_LIST,
    N_DICT,
    N_NOT,
    N_NEGATE,
    N_AND,
    N_OR,
    N_COMPARE,
    N_IN,
    N_NOT_IN,
    N_ADD,
    N_SUBTRACT,
    N_JOIN,
    N_MULTIPLY,
    N_DIVIDE,
    N_MODULO,
    N_IF_ELSE,
    N_MEMBER,
    N_INDEX,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    /* statements */
    N_TEXT,
    N_PRINT,
    N_IF,
    N_FOR,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_BREAK,
    N_CONTINUE
};

/* One kind of node for all: what a, b, c and the list hold is said at the parser's functions. */
struct node {
    enum node_kind kind;
    struct str name; /* of names, members, filters; operators; text */
    int64_t number;
    struct node *a, *b, *c;
    struct node *list, *next; /* elements, arguments, or a body, linked */
    struct node *otherwise;   /* of a loop over nothing */
    struct str keyword;       /* of an argument */
};

/* Parses a template into a list of statements. */
outrider_status jinja_parse(struct arena *a, const char *source, struct node **out);

#define JINJA_BAD "the chat template (another can be named with --chat-template)"
#define jinja_fail(...) fail(OUTRIDER_EINVAL, JINJA_BAD ": " __VA_ARGS__)

#endif

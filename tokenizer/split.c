/* Pre-tokenization; see split.h. The regular expressions are PCRE2's.
 *
 * A pattern comes from an untrusted file. Those of published models are known by their exact text, and only
 * they are compiled to machine code; others are interpreted with a bound on the steps of a match and on the
 * time of a text, for a pattern can be written to take forever.
 *
 * White space: the reference's engine and PCRE2 differ on one character (U+180E), so \s and \S outside of
 * negated sets are written out. */
#include "tokenizer/split.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "runtime/status.h"
#include "tokenizer/utf8.h"

enum { MATCH_LIMIT = 1000000, HEAP_LIMIT_KIB = 64 << 10, TEXT_SECONDS = 20, MATCHES_A_LOOK = 256 };

struct stage {
    pcre2_code *code;
    enum split_keep keep;
    bool known;
};

struct splitter {
    struct stage stages[SPLIT_MAX_STAGES];
    int n;
};

/* ---- patterns of published models ---- */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define CONTRACTIONS_BY_LETTER "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define WORDS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define SIGNS_AND_SPACES "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix)                                                                                        \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix
#define PATHS_AND_SPACES "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const char GPT2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char LLAMA3[] = CONTRACTIONS WORDS "\\p{N}{1,3}" SIGNS_AND_SPACES;
static const char QWEN2[] = CONTRACTIONS WORDS "\\p{N}" SIGNS_AND_SPACES;
static const char TEKKEN[] = CASED("") "|\\p{N}" PATHS_AND_SPACES;
static const char O200K[] = CASED(CONTRACTIONS "?") "|\\p{N}{1,3}" PATHS_AND_SPACES;
const char *const SPLIT_GPT2 = GPT2;

static const char *const KNOWN[] = {
    GPT2,
    LLAMA3,
    QWEN2,
    TEKKEN,
    O200K,
    CONTRACTIONS_BY_LETTER WORDS "\\p{N}{1,3}" SIGNS_AND_SPACES,
    CONTRACTIONS_BY_LETTER WORDS "\\p{N}" SIGNS_AND_SPACES,
    /* cl100k_base, as conversions of its models write it */
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
    /* single digits and signs, as this room writes other kinds of pre-tokenizer */
    "\\p{N}",
    "\\p{N}+",
    "[\\x21-\\x2F\\x3A-\\x40\\x5B-\\x60\\x7B-\\x7E]|\\p{P}",
    "(?:[\\x21-\\x2F\\x3A-\\x40\\x5B-\\x60\\x7B-\\x7E]|\\p{P})+",
};
enum { N_KNOWN = sizeof KNOWN / sizeof *KNOWN };

const char *split_pattern_of(const char *pre) {
    static const struct {
        const char *name, *pattern;
    } names[] = {
        {"default", GPT2},    {"gpt-2", GPT2},       {"gpt2", GPT2},       {"llama3", LLAMA3},
        {"llama-v3", LLAMA3}, {"llama-bpe", LLAMA3}, {"dbrx", LLAMA3},     {"smaug-bpe", LLAMA3},
        {"falcon3", LLAMA3},  {"qwen2", QWEN2},      {"stablelm2", QWEN2}, {"deepseek-r1-qwen", QWEN2},
        {"megrez", QWEN2},    {"tekken", TEKKEN},    {"gpt-4o", O200K},    {"llama4", O200K},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(pre, names[i].name) == 0) return names[i].pattern;
    return NULL;
}

/* ---- compiling ---- */

#define WHITE_SPACE                                                                                          \
    "\\x{9}-\\x{D} \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

/* Copies the pattern with \s and \S written out; `out` holds bytes * sizeof WHITE_SPACE + 1. */
static size_t write_out_spaces(const char *pattern, size_t bytes, char *out) {
    size_t n = 0;
    bool set = false;
    for (size_t i = 0; i < bytes; i++) {
        const char *written = NULL;
        char c = pattern[i];
        if (c == '\\' && i + 1 < bytes) {
            char escaped = pattern[i + 1];
            if (escaped == 's') written = set ? WHITE_SPACE : "[" WHITE_SPACE "]";
            if (escaped == 'S' && !set) written = "[^" WHITE_SPACE "]";
            if (!written) out[n++] = c, out[n++] = escaped;
            i++;
        } else {
            set = set ? c != ']' : c == '[';
            out[n++] = c;
        }
        if (!written) continue;
        memcpy(out + n, written, strlen(written));
        n += strlen(written);
    }
    return n;
}

outrider_status splitter_create(struct splitter **out) {
    *out = calloc(1, sizeof **out);
    return *out ? OUTRIDER_OK : fail_memory("a pre-tokenizer", sizeof **out);
}

void splitter_destroy(struct splitter *s) {
    if (!s) return;
    for (int i = 0; i < s->n; i++) pcre2_code_free(s->stages[i].code);
    free(s);
}

int splitter_stages(const struct splitter *s) {
    return s->n;
}

static bool is_known(const char *pattern, size_t bytes) {
    for (int i = 0; i < N_KNOWN; i++)
        if (strlen(KNOWN[i]) == bytes && memcmp(KNOWN[i], pattern, bytes) == 0) return true;
    return false;
}

static outrider_status compile(const char *field, const char *pattern, size_t bytes, pcre2_code **out) {
    char *written = malloc(bytes * sizeof WHITE_SPACE + sizeof WHITE_SPACE);
    if (!written) return fail_memory("a pattern", bytes);
    size_t n = write_out_spaces(pattern, bytes, written);
    int error;
    PCRE2_SIZE at;
    *out = pcre2_compile((PCRE2_SPTR)written, n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at,
                         NULL);
    free(written);
    if (*out) return OUTRIDER_OK;
    if (error == PCRE2_ERROR_HEAP_FAILED) return fail_memory("a pattern", bytes);
    char why[128] = "";
    pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
    return fail(OUTRIDER_EMODEL, "%s: the pattern is no regular expression: %s", field, why);
}

outrider_status splitter_add(struct splitter *s, const char *field, const char *pattern, size_t bytes,
                             enum split_keep keep) {
    if (s->n == SPLIT_MAX_STAGES)
        return fail(OUTRIDER_EMODEL, "%s: more than %d stages", field, SPLIT_MAX_STAGES);
    if (bytes == 0 || bytes > SPLIT_MAX_PATTERN)
        return fail(OUTRIDER_EMODEL, "%s: a pattern of %zu bytes; must be 1 to %d", field, bytes,
                    SPLIT_MAX_PATTERN);
    struct stage *stage = &s->stages[s->n];
    *stage = (struct stage){.keep = keep, .known = is_known(pattern, bytes)};
    TRY(compile(field, pattern, bytes, &stage->code));
    s->n++;
    /* Where no memory may be made executable, it is interpreted. */
    if (stage->known) pcre2_jit_compile(stage->code, PCRE2_JIT_COMPLETE);
    return OUTRIDER_OK;
}

/* ---- running ---- */

struct run {
    const struct splitter *s;
    split_word *word;
    void *user;
    pcre2_match_context *limits;
    pcre2_match_data *data[SPLIT_MAX_STAGES];
    clock_t started;
    unsigned matches;
};

/* The processor time of the whole process is a cheap bound, and only unknown patterns are held to it. */
static outrider_status check_time(struct run *r) {
    if (++r->matches % MATCHES_A_LOOK != 0) return OUTRIDER_OK;
    if ((clock() - r->started) / CLOCKS_PER_SEC < TEXT_SECONDS) return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL, "the tokenizer's pattern takes too long: more than %d s for one text",
                TEXT_SECONDS);
}

static outrider_status next_match(struct run *r, int stage, const char *text, size_t bytes, size_t from,
                                  size_t *begin, size_t *end) {
    const struct stage *st = &r->s->stages[stage];
    pcre2_match_data *data = r->data[stage];
    uint32_t options = PCRE2_NO_UTF_CHECK;
    *begin = *end = bytes;
    if (!st->known) TRY(check_time(r));
    int got =
        pcre2_match(st->code, (PCRE2_SPTR)text, bytes, from, options, data, st->known ? NULL : r->limits);
    if (got == PCRE2_ERROR_JIT_STACKLIMIT)
        got = pcre2_match(st->code, (PCRE2_SPTR)text, bytes, from, options | PCRE2_NO_JIT, data, r->limits);
    if (got == PCRE2_ERROR_NOMATCH) return OUTRIDER_OK;
    if (got == PCRE2_ERROR_NOMEMORY) return fail_memory("the tokenizer's pattern", bytes);
    if (got < 0) {
        char why[128] = "";
        pcre2_get_error_message(got, (PCRE2_UCHAR *)why, sizeof why);
        return fail(OUTRIDER_EMODEL, "the tokenizer's pattern cannot be matched: %s", why);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(data);
    if (span[0] > span[1] || span[0] < from) /* \K in a look-around */
        return fail(OUTRIDER_EMODEL, "the tokenizer's pattern matches backwards");
    *begin = span[0];
    *end = span[1];
    return OUTRIDER_OK;
}

static outrider_status run_stage(struct run *r, int stage, const char *text, size_t bytes) {
    if (bytes == 0) return OUTRIDER_OK;
    if (stage == r->s->n) return r->word(r->user, text, bytes);
    enum split_keep keep = r->s->stages[stage].keep;
    for (size_t done = 0, from = 0; done < bytes;) {
        size_t begin, end;
        TRY(next_match(r, stage, text, bytes, from, &begin, &end));
        if (keep != SPLIT_KEEP_MATCHES) TRY(run_stage(r, stage + 1, text + done, begin - done));
        if (keep != SPLIT_KEEP_GAPS) TRY(run_stage(r, stage + 1, text + begin, end - begin));
        done = from = end;
        /* An empty match cuts, and the search goes on behind the next character. */
        if (begin == end && end < bytes)
            from = end + (size_t)utf8_check((const unsigned char *)text + end, bytes - end);
        if (begin == end && from >= bytes && done < bytes) {
            if (keep != SPLIT_KEEP_MATCHES) TRY(run_stage(r, stage + 1, text + done, bytes - done));
            break;
        }
    }
    return OUTRIDER_OK;
}

outrider_status splitter_run(const struct splitter *s, const char *text, size_t bytes, split_word *word,
                             void *user) {
    struct run r = {.s = s, .word = word, .user = user, .started = clock()};
    outrider_status status = OUTRIDER_OK;
    bool ready = (r.limits = pcre2_match_context_create(NULL)) != NULL;
    for (int i = 0; i < s->n; i++) ready &= (r.data[i] = pcre2_match_data_create(1, NULL)) != NULL;
    if (ready) {
        pcre2_set_match_limit(r.limits, MATCH_LIMIT);
        pcre2_set_heap_limit(r.limits, HEAP_LIMIT_KIB);
        status = run_stage(&r, 0, text, bytes);
    } else {
        status = fail_memory("matching a pattern", bytes);
    }
    for (int i = 0; i < s->n; i++) pcre2_match_data_free(r.data[i]);
    pcre2_match_context_free(r.limits);
    return status;
}

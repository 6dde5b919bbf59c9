/* Byte-pair encoding; see bpe.h.
 *
 * Both tables are open hash tables of at most half load. Their keys come from an untrusted file, which could
 * be made to collide, so a chain of more than MAX_CHAIN places is an error and not a wait. */
#include "tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "tokenizer/precheck.h"
#include "tokenizer/tokenizer.h"

enum { MAX_CHAIN = 1024 };

struct merge {
    int32_t left, right; /* left < 0: a free place */
    uint32_t rank;
    int32_t merged;
};

struct bpe {
    const char *path; /* borrowed while it is built */
    struct piece *const *pieces;
    int32_t *words; /* [word_mask + 1] ids by text, -1 for a free place */
    size_t word_mask;
    struct merge *merges; /* [merge_mask + 1] */
    size_t merge_mask;
    uint32_t ranks;
};

/* ---- tables ---- */

static uint64_t mix(uint64_t x) { /* the finalizer of MurmurHash3 */
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCDu;
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53u;
    return x ^ x >> 33;
}

static uint64_t hash_text(const char *text, size_t bytes) {
    uint64_t h = bytes, word;
    for (; bytes >= 8; text += 8, bytes -= 8) {
        memcpy(&word, text, 8);
        h = mix(h ^ word) + 0x9E3779B97F4A7C15u;
    }
    word = 0;
    memcpy(&word, text, bytes);
    return mix(h ^ word);
}

/* A power of two that holds n at half load. */
static size_t table_size(size_t n) {
    size_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

static outrider_status add_word(struct bpe *b, int32_t id) {
    const struct piece *p = &(*b->pieces)[id];
    size_t at = hash_text(p->text, p->bytes) & b->word_mask, chain = 0;
    for (; b->words[at] >= 0; at = (at + 1) & b->word_mask)
        if (++chain > MAX_CHAIN)
            return fail(OUTRIDER_EMODEL, "%s: vocabulary: too many tokens collide", b->path);
    b->words[at] = id;
    return OUTRIDER_OK;
}

outrider_status bpe_create(const char *path, struct piece *const *pieces, int32_t n, struct bpe **out) {
    struct bpe *b = calloc(1, sizeof *b);
    size_t size = table_size((size_t)n);
    *out = b;
    if (!b || !(b->words = malloc(size * sizeof *b->words)))
        return fail_memory("the table of tokens", size * sizeof *b->words);
    memset(b->words, -1, size * sizeof *b->words);
    b->word_mask = size - 1;
    b->path = path;
    b->pieces = pieces;
    for (int32_t id = 0; id < n; id++)
        if ((*pieces)[id].bytes > 0) TRY(add_word(b, id));
    return OUTRIDER_OK;
}

void bpe_destroy(struct bpe *b) {
    if (!b) return;
    free(b->words);
    free(b->merges);
    free(b);
}

static bool is_word(const struct piece *p) {
    return p->type != PIECE_CONTROL && !(p->flags & PIECE_LITERAL);
}

int32_t bpe_find(const struct bpe *b, const char *text, size_t bytes, bool words) {
    size_t at = hash_text(text, bytes) & b->word_mask;
    for (int32_t id; (id = b->words[at]) >= 0; at = (at + 1) & b->word_mask) {
        const struct piece *p = &(*b->pieces)[id];
        if (p->bytes == bytes && memcmp(p->text, text, bytes) == 0 && (!words || is_word(p))) return id;
    }
    return -1;
}

static size_t merge_place(const struct bpe *b, int32_t left, int32_t right) {
    return mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right) & b->merge_mask;
}

static const struct merge *find_merge(const struct bpe *b, int32_t left, int32_t right) {
    size_t at = merge_place(b, left, right);
    for (; b->merges[at].left >= 0; at = (at + 1) & b->merge_mask)
        if (b->merges[at].left == left && b->merges[at].right == right) return &b->merges[at];
    return NULL;
}

outrider_status bpe_reserve(struct bpe *b, size_t merges) {
    if (merges > BPE_MAX_MERGES)
        return fail(OUTRIDER_EMODEL, "%s: merges: %zu of them; at most %d", b->path, merges, BPE_MAX_MERGES);
    size_t size = table_size(merges);
    if (!(b->merges = malloc(size * sizeof *b->merges)))
        return fail_memory("the table of merges", size * sizeof *b->merges);
    b->merge_mask = size - 1;
    for (size_t i = 0; i < size; i++) b->merges[i].left = -1;
    return OUTRIDER_OK;
}

outrider_status bpe_add_merge(struct bpe *b, int32_t left, int32_t right, int32_t merged) {
    const struct merge m = {left, right, b->ranks++, merged};
    const struct piece *pieces = *b->pieces;
    if (!is_word(&pieces[left]) || !is_word(&pieces[right]) || !is_word(&pieces[merged])) return OUTRIDER_OK;
    size_t at = merge_place(b, left, right), chain = 0;
    for (; b->merges[at].left >= 0; at = (at + 1) & b->merge_mask) {
        if (b->merges[at].left == left && b->merges[at].right == right) break;
        if (++chain > MAX_CHAIN) return fail(OUTRIDER_EMODEL, "%s: merges: too many collide", b->path);
    }
    b->merges[at] = m;
    return OUTRIDER_OK;
}

/* ---- a word ---- */

/* A linked list in an array; a symbol merged into its left neighbour has id -1. */
struct bpe_symbol {
    int32_t id, prev, next;
};

/* The symbol at `at` and the one after it may become `merged`. Stale when they no longer would. */
struct bpe_candidate {
    uint32_t rank;
    int32_t at, merged;
};

void bpe_scratch_free(struct bpe_scratch *s) {
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}

outrider_status bpe_push(struct bpe_scratch *s, int32_t id) {
    if (s->n == s->capacity) {
        size_t capacity = s->capacity ? s->capacity * 2 : 256;
        struct bpe_symbol *grown = realloc(s->symbols, capacity * sizeof *grown);
        if (!grown) return fail_memory("the symbols of a word", capacity * sizeof *grown);
        s->symbols = grown;
        s->capacity = capacity;
    }
    int32_t at = (int32_t)s->n++;
    s->symbols[at] = (struct bpe_symbol){id, at - 1, at + 1};
    return OUTRIDER_OK;
}

bool bpe_is_last(const struct bpe_scratch *s, int32_t id) {
    return s->symbols[s->n - 1].id == id;
}

static bool is_before(const struct bpe_candidate *a, const struct bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void sift_down(struct bpe_candidate *heap, size_t n, size_t i) {
    struct bpe_candidate moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_before(&heap[child + 1], &heap[child])) child++;
        if (!is_before(&heap[child], &moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void sift_up(struct bpe_candidate *heap, size_t i) {
    struct bpe_candidate moved = heap[i];
    for (; i > 0 && is_before(&moved, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = moved;
}

/* Room for every candidate there can be: one a pair of neighbours, and two more for each merge. */
static outrider_status reserve_heap(struct bpe_scratch *s) {
    size_t needed = 3 * s->n;
    if (needed <= s->heap_capacity) return OUTRIDER_OK;
    needed = needed < 1024 ? 1024 : needed;
    struct bpe_candidate *grown = realloc(s->heap, needed * sizeof *grown);
    if (!grown) return fail_memory("the merges of a word", needed * sizeof *grown);
    s->heap = grown;
    s->heap_capacity = needed;
    return OUTRIDER_OK;
}

/* Puts the pair that begins at symbol `at` behind the heap, if it merges; true if so. */
static bool propose(const struct bpe *b, struct bpe_scratch *s, int32_t at) {
    const struct bpe_symbol *left = &s->symbols[at];
    if (left->next == (int32_t)s->n) return false;
    const struct merge *m = find_merge(b, left->id, s->symbols[left->next].id);
    if (m) s->heap[s->heap_n++] = (struct bpe_candidate){m->rank, at, m->merged};
    return m != NULL;
}

static void propose_again(const struct bpe *b, struct bpe_scratch *s, int32_t at) {
    if (at >= 0 && propose(b, s, at)) sift_up(s->heap, s->heap_n - 1);
}

static void apply(const struct bpe *b, struct bpe_scratch *s, struct bpe_candidate c) {
    struct bpe_symbol *left = &s->symbols[c.at];
    if (left->id < 0 || left->next == (int32_t)s->n) return;
    struct bpe_symbol *right = &s->symbols[left->next];
    const struct merge *m = find_merge(b, left->id, right->id);
    if (!m || m->merged != c.merged) return;
    left->id = m->merged;
    left->next = right->next;
    right->id = -1;
    if (left->next < (int32_t)s->n) s->symbols[left->next].prev = c.at;
    propose_again(b, s, left->prev);
    propose_again(b, s, c.at);
}

outrider_status bpe_merge(const struct bpe *b, struct bpe_scratch *s, struct token_list *out) {
    TRY(reserve_heap(s));
    s->heap_n = 0;
    for (size_t i = 0; i + 1 < s->n; i++) propose(b, s, (int32_t)i);
    for (size_t i = s->heap_n / 2; i-- > 0;) sift_down(s->heap, s->heap_n, i);
    while (s->heap_n > 0) {
        struct bpe_candidate best = s->heap[0];
        s->heap[0] = s->heap[--s->heap_n];
        if (s->heap_n > 1) sift_down(s->heap, s->heap_n, 0);
        apply(b, s, best);
    }
    outrider_status status = OUTRIDER_OK;
    for (int32_t i = 0; i < (int32_t)s->n && status == OUTRIDER_OK; i = s->symbols[i].next)
        status = token_list_push(out, s->symbols[i].id);
    s->n = 0;
    return status;
}

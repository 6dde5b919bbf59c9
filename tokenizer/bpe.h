/* Byte-pair encoding (Sennrich et al. 2016): the merges of a model, and their application to one word. */
#ifndef OUTRIDER_BPE_H
#define OUTRIDER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"

struct bpe;
struct piece;
struct token_list;

enum { BPE_MAX_MERGES = 1 << 21 };

/* An empty set of merges over the n pieces at *pieces, which are borrowed, may be moved, and must keep their
 * texts. `path` is for messages. Finding pieces works from here on; of equal texts the first is found. */
outrider_status bpe_create(const char *path, struct piece *const *pieces, int32_t n, struct bpe **out);
void bpe_destroy(struct bpe *b); /* NULL is fine */

/* Id of a piece by its text, -1 when there is none; `words` leaves out those that no text may yield. */
int32_t bpe_find(const struct bpe *b, const char *text, size_t bytes, bool words);

/* Adds merges in the order of their ranks: the pair of ids becomes `merged`. Those from or to a control piece
 * are dropped, so that no text can yield one: types must be final. A pair given twice has its last rank. */
outrider_status bpe_reserve(struct bpe *b, size_t merges);
outrider_status bpe_add_merge(struct bpe *b, int32_t left, int32_t right, int32_t merged);

/* What bpe_merge works in; starts zeroed and may be used again and again, by one thread. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t capacity, heap_capacity, n, heap_n;
};
void bpe_scratch_free(struct bpe_scratch *s);

/* Appends a symbol to the word in s. */
outrider_status bpe_push(struct bpe_scratch *s, int32_t id);
bool bpe_is_last(const struct bpe_scratch *s, int32_t id); /* of a word that is not empty */
/* Merges the word, always the pair of lowest rank and of these the leftmost, appends its ids to out and
 * empties it. O(n log n) in its symbols. */
outrider_status bpe_merge(const struct bpe *b, struct bpe_scratch *s, struct token_list *out);

#endif

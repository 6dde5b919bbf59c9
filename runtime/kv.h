/* The paged cache of both models: which pages a sequence owns and how much of them each model has filled.
 *
 * A page id names one slot of page_size tokens in the verifier's pool and the same slot in the draft's, so
 * one table and one reference count a page serve both. A sequence has one length for each model: the tokens
 * whose keys and values are in place. Position p of a sequence lies in page table[p / page_size], place p %
 * page_size.
 *
 *     table of a slot:  [ 7 ][ 2 ][ 9 ][ - ]       refs: page 7 -> 2 (shared with a fork), 2 -> 1, 9 -> 1
 *     verifier length:   ....  ....  ..             draft length:  ....  ....
 *
 * Only positions from a model's length on are ever written, and only after kv_reserve made their pages the
 * sequence's own: a shared page that still holds wanted tokens is copied first (copy on write). kv_truncate
 * is the only rollback; it lowers lengths and returns pages, it never copies.
 *
 * This file knows pages and lengths only, no device: the copying of a page's content is a callback, and the
 * keys and values themselves are model.c's. */
#ifndef OUTRIDER_KV_H
#define OUTRIDER_KV_H

#include "runtime/outrider.h"

enum { KV_MODELS = 2 }; /* indexed by outrider_which */

struct kv;

struct kv_options {
    int32_t slots;                                           /* sequences at most */
    int32_t max_len;                                         /* tokens a sequence at most */
    int32_t page_size;                                       /* tokens a page */
    int32_t pages;                                           /* in the pool */
    void (*copy_page)(void *user, int32_t to, int32_t from); /* both models, all layers */
    void *user;
};

outrider_status kv_create(const struct kv_options *options, struct kv **out);
void kv_destroy(struct kv *kv);

/* A free slot with lengths 0; OUTRIDER_ENOMEM when all are taken. */
outrider_status kv_acquire(struct kv *kv, int32_t *slot);
void kv_release(struct kv *kv, int32_t slot);

/* Makes positions [length, length + n) writable for a model. All or nothing: OUTRIDER_ENOMEM, and nothing has
 * changed, when the pool has too few free pages. n <= max_len - length. */
outrider_status kv_reserve(struct kv *kv, int32_t slot, outrider_which model, int32_t n);
/* The model has filled n more positions, reserved before. */
void kv_advance(struct kv *kv, int32_t slot, outrider_which model, int32_t n);
/* Lowers each length that is above len to len, and frees the pages that nothing uses. */
void kv_truncate(struct kv *kv, int32_t slot, int32_t len);
/* Gives the empty slot `to` the content of `from`, sharing all pages. Cut it with kv_truncate to share a
 * prefix only. */
void kv_fork(struct kv *kv, int32_t from, int32_t to);

int32_t kv_len(const struct kv *kv, int32_t slot, outrider_which model);
int32_t kv_pages_free(const struct kv *kv);
int32_t kv_pages_held(const struct kv *kv, int32_t slot); /* shared ones too */
int32_t kv_pages_for(const struct kv *kv, int32_t len);

/* The tables [slots][stride], and a counter that grows with every change to them. */
const int32_t *kv_tables(const struct kv *kv, int32_t *stride);
uint64_t kv_version(const struct kv *kv);

/* NULL when every invariant holds, otherwise which does not. For tests. */
const char *kv_check(const struct kv *kv);

#endif

/* Pages, tables and lengths (see kv.h). Invariants, which kv_check tests:
 * - a page's reference count is the number of table entries that name it; 0 exactly when it is on the free
 * list;
 * - a sequence holds at least the pages its longer length needs;
 * - no table names a page twice. */
#include "runtime/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"

struct sequence {
    bool used;
    int32_t pages; /* entries of the table in use */
    int32_t len[KV_MODELS];
};

struct kv {
    struct kv_options o;
    int32_t stride; /* table entries a slot */
    struct sequence *seq;
    int32_t *tables;
    int32_t *refs;
    int32_t *free, n_free; /* a stack of free page ids */
    uint64_t version;
};

static int32_t pages_for(const struct kv *kv, int32_t len) {
    return (len + kv->o.page_size - 1) / kv->o.page_size;
}
static int32_t *table_of(const struct kv *kv, int32_t slot) {
    return kv->tables + (size_t)slot * kv->stride;
}

static int32_t longest(const struct sequence *s) {
    return s->len[OUTRIDER_VERIFIER] > s->len[OUTRIDER_DRAFT] ? s->len[OUTRIDER_VERIFIER]
                                                              : s->len[OUTRIDER_DRAFT];
}

static void unref(struct kv *kv, int32_t page) {
    assert(kv->refs[page] > 0);
    if (--kv->refs[page] == 0) kv->free[kv->n_free++] = page;
}

static int32_t take_page(struct kv *kv) {
    int32_t page = kv->free[--kv->n_free];
    kv->refs[page] = 1;
    return page;
}

outrider_status kv_create(const struct kv_options *options, struct kv **out) {
    *out = NULL;
    struct kv *kv = calloc(1, sizeof *kv);
    if (!kv) return fail_memory("the page cache", sizeof *kv);
    kv->o = *options;
    kv->stride = pages_for(kv, options->max_len);
    kv->seq = calloc((size_t)options->slots, sizeof *kv->seq);
    kv->tables = calloc((size_t)options->slots * (size_t)kv->stride, sizeof *kv->tables);
    kv->refs = calloc((size_t)options->pages, sizeof *kv->refs);
    kv->free = calloc((size_t)options->pages, sizeof *kv->free);
    if (!kv->seq || !kv->tables || !kv->refs || !kv->free) {
        size_t entries = (size_t)options->slots * (size_t)kv->stride + 2 * (size_t)options->pages;
        kv_destroy(kv);
        return fail_memory("page tables", entries * sizeof(int32_t));
    }
    for (int32_t i = options->pages - 1; i >= 0; i--) kv->free[kv->n_free++] = i;
    *out = kv;
    return OUTRIDER_OK;
}

void kv_destroy(struct kv *kv) {
    if (!kv) return;
    free(kv->seq);
    free(kv->tables);
    free(kv->refs);
    free(kv->free);
    free(kv);
}

outrider_status kv_acquire(struct kv *kv, int32_t *slot) {
    for (int32_t i = 0; i < kv->o.slots; i++) {
        if (kv->seq[i].used) continue;
        kv->seq[i] = (struct sequence){.used = true};
        *slot = i;
        return OUTRIDER_OK;
    }
    return fail(OUTRIDER_ENOMEM,
                "all %d sessions of this engine are in use; open it with a larger max_sessions", kv->o.slots);
}

void kv_release(struct kv *kv, int32_t slot) {
    kv_truncate(kv, slot, 0);
    kv->seq[slot].used = false;
}

outrider_status kv_reserve(struct kv *kv, int32_t slot, outrider_which model, int32_t n) {
    struct sequence *s = &kv->seq[slot];
    int32_t *table = table_of(kv, slot);
    int32_t len = s->len[model], end = pages_for(kv, len + n);
    assert(s->used && n >= 0 && len + n <= kv->o.max_len);

    int32_t first = len / kv->o.page_size, need = end > s->pages ? end - s->pages : 0;
    for (int32_t i = first; i < end && i < s->pages; i++) need += kv->refs[table[i]] > 1;
    if (need > kv->n_free)
        return fail(OUTRIDER_ENOMEM, "the cache is full: %d more pages of %d tokens needed, %d free", need,
                    kv->o.page_size, kv->n_free);
    if (need == 0) return OUTRIDER_OK;

    kv->version++;
    for (int32_t i = first; i < end && i < s->pages; i++) {
        int32_t shared = table[i];
        if (kv->refs[shared] == 1) continue;
        table[i] = take_page(kv);
        /* The other model, or this one before len, may have tokens here that stay wanted. */
        if (i * kv->o.page_size < longest(s)) kv->o.copy_page(kv->o.user, table[i], shared);
        unref(kv, shared);
    }
    while (s->pages < end) table[s->pages++] = take_page(kv);
    return OUTRIDER_OK;
}

void kv_advance(struct kv *kv, int32_t slot, outrider_which model, int32_t n) {
    struct sequence *s = &kv->seq[slot];
    s->len[model] += n;
    assert(pages_for(kv, s->len[model]) <= s->pages);
}

void kv_truncate(struct kv *kv, int32_t slot, int32_t len) {
    struct sequence *s = &kv->seq[slot];
    for (int m = 0; m < KV_MODELS; m++)
        if (s->len[m] > len) s->len[m] = len;
    int32_t keep = pages_for(kv, longest(s));
    if (s->pages > keep) kv->version++;
    while (s->pages > keep) unref(kv, table_of(kv, slot)[--s->pages]);
}

void kv_fork(struct kv *kv, int32_t from, int32_t to) {
    struct sequence *f = &kv->seq[from], *t = &kv->seq[to];
    assert(f->used && t->used && t->pages == 0);
    int32_t keep = pages_for(kv, longest(f)); /* pages reserved but not filled are not shared */
    memcpy(table_of(kv, to), table_of(kv, from), (size_t)keep * sizeof *kv->tables);
    memcpy(t->len, f->len, sizeof t->len);
    t->pages = keep;
    for (int32_t i = 0; i < keep; i++) kv->refs[table_of(kv, to)[i]]++;
    kv->version++;
}

int32_t kv_len(const struct kv *kv, int32_t slot, outrider_which model) {
    return kv->seq[slot].len[model];
}
int32_t kv_pages_free(const struct kv *kv) {
    return kv->n_free;
}
int32_t kv_pages_held(const struct kv *kv, int32_t slot) {
    return kv->seq[slot].pages;
}
int32_t kv_pages_for(const struct kv *kv, int32_t len) {
    return pages_for(kv, len);
}
uint64_t kv_version(const struct kv *kv) {
    return kv->version;
}

const int32_t *kv_tables(const struct kv *kv, int32_t *stride) {
    *stride = kv->stride;
    return kv->tables;
}

/* GCOVR_EXCL_BR_START: what it looks for does not happen */
const char *kv_check(const struct kv *kv) {
    int32_t *counted = calloc((size_t)kv->o.pages, sizeof *counted);
    const char *wrong = counted ? NULL : "no memory to check";
    for (int32_t slot = 0; slot < kv->o.slots && !wrong; slot++) {
        const struct sequence *s = &kv->seq[slot];
        const int32_t *table = table_of(kv, slot);
        if (!s->used && s->pages) wrong = "a released slot holds pages";
        if (s->pages < pages_for(kv, longest(s))) wrong = "a sequence is longer than its pages";
        if (s->pages > kv->stride || longest(s) > kv->o.max_len) wrong = "a sequence is too long";
        for (int32_t i = 0; i < s->pages && !wrong; i++) {
            if (table[i] < 0 || table[i] >= kv->o.pages)
                wrong = "a table names no page";
            else
                counted[table[i]]++;
            for (int32_t j = 0; j < i && !wrong; j++)
                if (table[i] == table[j]) wrong = "a table names a page twice";
        }
    }
    int32_t n_free = 0;
    for (int32_t p = 0; p < kv->o.pages && !wrong; p++) {
        if (counted[p] != kv->refs[p]) wrong = "a reference count is not the number of its users";
        n_free += kv->refs[p] == 0;
    }
    if (!wrong && n_free != kv->n_free) wrong = "pages are leaked";
    for (int32_t i = 0; i < kv->n_free && !wrong; i++)
        if (kv->refs[kv->free[i]] != 0) wrong = "a used page is on the free list";
    free(counted);
    return wrong;
}
/* GCOVR_EXCL_BR_STOP */

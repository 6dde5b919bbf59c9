/* The page cache against plain arrays: every sequence's wanted content is kept beside it, pages hold real
 * numbers, and each random step is followed by the invariant checker and a comparison of all that is visible.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/kv.h"

enum { SLOTS = 6, MAX_LEN = 300, PAGE = 16, PAGES = 60 };

struct world {
    struct kv *kv;
    int32_t content[KV_MODELS][PAGES][PAGE]; /* what the device would hold */
    int32_t wanted[SLOTS][KV_MODELS][MAX_LEN];
    int32_t len[SLOTS][KV_MODELS];
    bool used[SLOTS];
    int copies;
};

static void copy_page(void *user, int32_t to, int32_t from) {
    struct world *w = user;
    w->copies++;
    for (int m = 0; m < KV_MODELS; m++)
        memcpy(w->content[m][to], w->content[m][from], sizeof w->content[m][to]);
}

static void open_world(struct world *w, int32_t pages) {
    memset(w, 0, sizeof *w);
    struct kv_options o = {SLOTS, MAX_LEN, PAGE, pages, copy_page, w};
    assert_int_equal(kv_create(&o, &w->kv), OUTRIDER_OK);
}

static int32_t *place(struct world *w, int slot, int model, int32_t position) {
    int32_t stride;
    const int32_t *tables = kv_tables(w->kv, &stride);
    return &w->content[model][tables[slot * stride + position / PAGE]][position % PAGE];
}

static void check_world(struct world *w) {
    const char *wrong = kv_check(w->kv);
    if (wrong) fail_msg("%s", wrong);
    for (int s = 0; s < SLOTS; s++)
        for (int m = 0; m < KV_MODELS && w->used[s]; m++) {
            assert_int_equal(kv_len(w->kv, s, (outrider_which)m), w->len[s][m]);
            for (int32_t i = 0; i < w->len[s][m]; i++)
                assert_int_equal(*place(w, s, m, i), w->wanted[s][m][i]);
        }
}

static outrider_status append(struct world *w, int s, int m, int32_t n, int32_t value) {
    outrider_status status = kv_reserve(w->kv, s, (outrider_which)m, n);
    if (status != OUTRIDER_OK) return status;
    for (int32_t i = 0; i < n; i++) {
        int32_t at = w->len[s][m] + i;
        *place(w, s, m, at) = w->wanted[s][m][at] = value + i;
    }
    kv_advance(w->kv, s, (outrider_which)m, n);
    w->len[s][m] += n;
    return OUTRIDER_OK;
}

static void cut(struct world *w, int s, int32_t len) {
    kv_truncate(w->kv, s, len);
    for (int m = 0; m < KV_MODELS; m++)
        if (w->len[s][m] > len) w->len[s][m] = len;
}

static uint32_t next(uint32_t *state) {
    *state ^= *state << 13, *state ^= *state >> 17, *state ^= *state << 5;
    return *state;
}

static int pick_used(const struct world *w, uint32_t *rng) {
    int s = (int)(next(rng) % SLOTS);
    for (int i = 0; i < SLOTS; i++)
        if (w->used[(s + i) % SLOTS]) return (s + i) % SLOTS;
    return -1;
}

static void random_step(struct world *w, uint32_t *rng) {
    int32_t slot;
    int s = pick_used(w, rng), m = (int)(next(rng) % KV_MODELS);
    switch (next(rng) % 8) {
    case 0:
        if (kv_acquire(w->kv, &slot) != OUTRIDER_OK) break;
        w->used[slot] = true;
        memset(w->len[slot], 0, sizeof w->len[slot]);
        break;
    case 1:
        if (s < 0 || next(rng) % 4) break;
        kv_release(w->kv, s);
        w->used[s] = false;
        break;
    case 2: /* fork, whole or a prefix */
        if (s < 0 || kv_acquire(w->kv, &slot) != OUTRIDER_OK) break;
        w->used[slot] = true;
        kv_fork(w->kv, s, slot);
        memcpy(w->wanted[slot], w->wanted[s], sizeof w->wanted[s]);
        memcpy(w->len[slot], w->len[s], sizeof w->len[s]);
        if (next(rng) % 2 && w->len[s][0]) cut(w, slot, (int32_t)(next(rng) % (uint32_t)w->len[s][0]));
        break;
    case 3: { /* roll back, often to a page border and its neighbours */
        if (s < 0 || w->len[s][0] == 0) break;
        int32_t border = w->len[s][0] / PAGE * PAGE + (int32_t)(next(rng) % 3) - 1;
        if (next(rng) % 2) border = (int32_t)(next(rng) % (uint32_t)(w->len[s][0] + 1));
        cut(w, s, border < 0 ? 0 : border);
        break;
    }
    default: {
        if (s < 0) break;
        int32_t n = (int32_t)(next(rng) % 24), room = MAX_LEN - w->len[s][m], before = kv_pages_free(w->kv);
        if (n > room) n = room;
        if (append(w, s, m, n, (int32_t)(next(rng) & 0xffffff)) != OUTRIDER_OK)
            assert_int_equal(kv_pages_free(w->kv), before);
    }
    }
}

static void random_steps(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, PAGES);
    uint32_t rng = 12345;
    for (int i = 0; i < 10000; i++) {
        random_step(&w, &rng);
        check_world(&w);
    }
    assert_true(w.copies > 100);
    for (int s = 0; s < SLOTS; s++)
        if (w.used[s]) kv_release(w.kv, s), w.used[s] = false;
    check_world(&w);
    assert_int_equal(kv_pages_free(w.kv), PAGES);
    kv_destroy(w.kv);
}

/* ---- rounds, as runtime/scheduler.c drives the cache ---- */

enum { MOST = 8, ROUNDS = 10000 };

struct text {
    int32_t token[MAX_LEN + 1], n;
};

/* Model m reads the text's tokens, of which `proposed` follow those of t->n, up to place `end`. */
static outrider_status read_up_to(struct world *w, int s, int m, const struct text *t,
                                  const int32_t *proposed, int32_t end) {
    int32_t from = w->len[s][m];
    outrider_status status = kv_reserve(w->kv, s, (outrider_which)m, end - from);
    if (status != OUTRIDER_OK) return status;
    for (int32_t i = from; i < end; i++)
        *place(w, s, m, i) = w->wanted[s][m][i] = i < t->n ? t->token[i] : proposed[i - t->n];
    kv_advance(w->kv, s, (outrider_which)m, end - from);
    w->len[s][m] = end;
    return OUTRIDER_OK;
}

/* One session's part of a round in which any number of proposals is accepted. Without room for the draft
 * nothing is proposed; without room for the verifier the session waits. */
static void random_round(struct world *w, int s, struct text *t, uint32_t *rng) {
    int32_t room = MAX_LEN - t->n, k = (int32_t)(next(rng) % (MOST + 1)), proposed[MOST];
    if (k > room) k = room;
    for (int32_t i = 0; i < k; i++) proposed[i] = (int32_t)(next(rng) & 0xffffff);
    if (k > 0 && read_up_to(w, s, OUTRIDER_DRAFT, t, proposed, t->n - 1 + k) != OUTRIDER_OK) k = 0;
    if (read_up_to(w, s, OUTRIDER_VERIFIER, t, proposed, t->n + k) != OUTRIDER_OK) {
        cut(w, s, t->n - 1);
        return;
    }
    int32_t accepted = (int32_t)(next(rng) % (uint32_t)(k + 1)); /* the last is the verifier's own */
    if (next(rng) % 4 == 0) accepted = k;
    memcpy(t->token + t->n, proposed, (size_t)accepted * sizeof *proposed);
    t->n += accepted;
    if (t->n < MAX_LEN) t->token[t->n++] = (int32_t)(next(rng) & 0xffffff);
    cut(w, s, t->n - 1);
    assert_int_equal(w->len[s][OUTRIDER_VERIFIER], t->n - 1);
}

/* Joins, stops or forks: between rounds, and not often. */
static void come_or_go(struct world *w, struct text *t, uint32_t *rng) {
    int32_t slot;
    int s = pick_used(w, rng);
    uint32_t what = next(rng) % 16;
    if (s >= 0 && (t[s].n >= MAX_LEN || what == 0)) {
        kv_release(w->kv, s);
        w->used[s] = false;
    } else if (what == 1 && s >= 0 && kv_acquire(w->kv, &slot) == OUTRIDER_OK) {
        w->used[slot] = true;
        kv_fork(w->kv, s, slot);
        memcpy(w->wanted[slot], w->wanted[s], sizeof w->wanted[s]);
        memcpy(w->len[slot], w->len[s], sizeof w->len[s]);
        t[slot] = t[s];
    } else if (what < 5 && kv_acquire(w->kv, &slot) == OUTRIDER_OK) {
        w->used[slot] = true;
        memset(w->len[slot], 0, sizeof w->len[slot]);
        t[slot].n = 1 + (int32_t)(next(rng) % (3 * PAGE));
        for (int32_t i = 0; i < t[slot].n; i++) t[slot].token[i] = (int32_t)(next(rng) & 0xffffff);
    }
}

static void random_rounds(void **state) {
    (void)state;
    static struct world w;
    static struct text texts[SLOTS];
    open_world(&w, PAGES);
    uint32_t rng = 777;
    int full = 0;
    for (int round = 0; round < ROUNDS; round++) {
        come_or_go(&w, texts, &rng);
        for (int s = 0; s < SLOTS; s++) {
            if (!w.used[s]) continue;
            random_round(&w, s, &texts[s], &rng);
            full += w.len[s][OUTRIDER_VERIFIER] < texts[s].n - 1;
        }
        check_world(&w);
    }
    assert_true(full > 100 && w.copies > 100);
    for (int s = 0; s < SLOTS; s++)
        if (w.used[s]) kv_release(w.kv, s), w.used[s] = false;
    check_world(&w);
    assert_int_equal(kv_pages_free(w.kv), PAGES);
    kv_destroy(w.kv);
}

static void borders(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, PAGES);
    int32_t slot;
    assert_int_equal(kv_acquire(w.kv, &slot), OUTRIDER_OK);
    w.used[slot] = true;
    for (int32_t len = PAGE - 1; len <= 3 * PAGE + 1; len += len % PAGE == 1 ? PAGE - 2 : 1) {
        assert_int_equal(append(&w, slot, OUTRIDER_VERIFIER, len, len), OUTRIDER_OK);
        assert_int_equal(PAGES - kv_pages_free(w.kv), (len + PAGE - 1) / PAGE);
        for (int32_t keep = len; keep >= 0; keep--) {
            cut(&w, slot, keep);
            check_world(&w);
            assert_int_equal(PAGES - kv_pages_free(w.kv), (keep + PAGE - 1) / PAGE);
        }
    }
    kv_destroy(w.kv);
}

/* A fork that writes leaves the other as it was, and copies only the page where they part. */
static void copy_on_write(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, PAGES);
    int32_t a, b;
    assert_int_equal(kv_acquire(w.kv, &a), OUTRIDER_OK);
    assert_int_equal(kv_acquire(w.kv, &b), OUTRIDER_OK);
    w.used[a] = w.used[b] = true;
    append(&w, a, OUTRIDER_VERIFIER, 2 * PAGE + 5, 100);
    append(&w, a, OUTRIDER_DRAFT, PAGE + 3, 500);
    kv_fork(w.kv, a, b);
    memcpy(w.wanted[b], w.wanted[a], sizeof w.wanted[a]);
    memcpy(w.len[b], w.len[a], sizeof w.len[a]);
    assert_int_equal(PAGES - kv_pages_free(w.kv), 3);
    append(&w, b, OUTRIDER_VERIFIER, 1, 900);
    assert_int_equal(w.copies, 1);
    append(&w, b, OUTRIDER_DRAFT, 2, 950); /* the draft parts a page earlier */
    assert_int_equal(w.copies, 2);
    append(&w, a, OUTRIDER_VERIFIER, 1, 300); /* alone on its last page now */
    assert_int_equal(w.copies, 2);
    check_world(&w);
    kv_destroy(w.kv);
}

static void a_full_pool_changes_nothing(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, 4);
    int32_t a, b;
    assert_int_equal(kv_acquire(w.kv, &a), OUTRIDER_OK);
    assert_int_equal(kv_acquire(w.kv, &b), OUTRIDER_OK);
    w.used[a] = w.used[b] = true;
    assert_int_equal(append(&w, a, OUTRIDER_VERIFIER, 3 * PAGE, 1), OUTRIDER_OK);
    assert_int_equal(append(&w, b, OUTRIDER_VERIFIER, 2 * PAGE, 1), OUTRIDER_ENOMEM);
    assert_non_null(strstr(outrider_error(), "1 free"));
    assert_int_equal(kv_pages_free(w.kv), 1);
    assert_int_equal(append(&w, b, OUTRIDER_VERIFIER, PAGE, 1), OUTRIDER_OK);
    check_world(&w);
    kv_destroy(w.kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_steps), cmocka_unit_test(random_rounds),
                                       cmocka_unit_test(borders), cmocka_unit_test(copy_on_write),
                                       cmocka_unit_test(a_full_pool_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

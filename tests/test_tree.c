/* Trees of proposals: their shapes, the way through one, and that a tree's rows have the bits of chains. */
#include "tests/helpers_runner.h"

#include <math.h>

#include "runtime/tree.h"

/* ---- shapes ---- */

static void check_links(const struct tree *t) {
    int32_t children = 0;
    for (int32_t i = 0; i < t->n; i++)
        for (int32_t j = 0; j < TREE_WIDTH; j++) {
            const int32_t child = t->child[i][j];
            if (child < 0) continue;
            children++;
            assert_int_equal(t->parent[child], i);
            assert_int_equal(t->level[child], t->level[i] + 1);
            assert_true(j == 0 || t->child[i][j - 1] == child - 1);
        }
    assert_int_equal(children, t->n - 1);
}

static void shapes_hold_together(void **state) {
    (void)state;
    for (int32_t depth = 1; depth < TREE_ROWS; depth++)
        for (int32_t rows = 2; rows <= TREE_ROWS; rows++) {
            struct tree t;
            tree_shape(depth, rows, &t);
            assert_in_range(t.depth, 1, depth);
            assert_true(t.n == rows || (depth == 1 && t.n == 1 + TREE_WIDTH));
            check_links(&t);
            assert_int_equal(t.begin[t.depth + 1], t.n);
            int32_t seen = 0;
            for (int32_t i = 0; i < t.n; i++) {
                assert_in_range(i, t.begin[t.level[i]], t.begin[t.level[i] + 1] - 1);
                assert_in_range(t.offset[i], 0, t.n - 1);
                assert_false(seen >> t.offset[i] & 1);
                seen |= 1 << t.offset[i];
            }
            /* first choices lie in order */
            for (int32_t i = 0, level = 0; i >= 0; i = t.child[i][0], level++)
                assert_int_equal(t.offset[i], level);
        }
}

static void deeper_and_wider_where_it_pays(void **state) {
    (void)state;
    struct tree t;
    tree_shape(4, 5, &t); /* the chain comes first, as long as its end is likelier than a second choice */
    assert_int_equal(t.depth, 4);
    tree_shape(1, 16, &t);
    assert_int_equal(t.n, 1 + TREE_WIDTH);
    tree_shape(3, 16, &t);
    assert_int_equal(t.depth, 3);
    assert_true(t.begin[2] - t.begin[1] > 1 && t.child[0][1] > 0);
}

static void the_way_follows_the_picks(void **state) {
    (void)state;
    struct tree t;
    tree_shape(3, 12, &t);
    int32_t token[TREE_ROWS], pick[TREE_ROWS], way[TREE_ROWS], places[TREE_ROWS * TREE_ROWS];
    tree_places(&t, 100, places);
    for (int32_t i = 0; i < t.n; i++) token[i] = 50 + i;
    for (int32_t leaf = 1; leaf < t.n; leaf++) {
        int32_t want[TREE_ROWS], n = t.level[leaf];
        for (int32_t i = 0; i < t.n; i++) pick[i] = -5;
        for (int32_t at = leaf, i = n; i > 0; at = t.parent[at])
            want[--i] = at, pick[t.parent[at]] = token[at];
        assert_int_equal(tree_walk(&t, token, pick, way), n);
        assert_memory_equal(way, want, (size_t)n * sizeof *way);
        assert_int_equal(places[leaf * TREE_ROWS], 100);
        for (int32_t i = 0; i < n; i++)
            assert_int_equal(places[leaf * TREE_ROWS + 1 + i], 100 + t.offset[want[i]]);
        assert_int_equal(places[leaf * TREE_ROWS + n + 1], -1);
    }
    pick[0] = 7;
    assert_int_equal(tree_walk(&t, token, pick, way), 0);
    token[1] = token[2] = pick[0]; /* a draft without other choices names one twice */
    assert_true(tree_walk(&t, token, pick, way) >= 1 && way[0] == 1);
}

/* ---- bits ---- */

enum { CONTEXT = 320 };

struct tree_run {
    struct runner r;
    struct tree t;
    int32_t history, *path; /* backend memory */
    int32_t places[TREE_ROWS * TREE_ROWS];
    int32_t tokens[CONTEXT];  /* before the tree */
    int32_t token[TREE_ROWS]; /* of its rows */
    float *logits;            /* [rows][vocab] */
};

static const float *row(const struct tree_run *x, const float *logits, int32_t i) {
    return logits + (size_t)i * (size_t)x->r.model->config.vocab_size;
}

static size_t row_bytes(const struct tree_run *x) {
    return (size_t)x->r.model->config.vocab_size * sizeof(float);
}

/* Rows [first, first + n) of the tree, which stand by level; their logits go to x->logits. */
static void run_tree(struct tree_run *x, int32_t first, int32_t n) {
    int32_t position[TREE_ROWS];
    for (int32_t i = 0; i < n; i++) position[i] = x->history + x->t.level[first + i];
    run_rows(&x->r, x->token + first, position, n, false, x->path + first * TREE_ROWS, NULL, n);
    memcpy(x->logits + (size_t)first * (row_bytes(x) / sizeof(float)), x->r.logits, (size_t)n * row_bytes(x));
}

/* Its way stays: moved to where the positions are. Pages lie backwards. */
static void keep_way(struct tree_run *x, const int32_t *rows, int32_t n) {
    struct kv_place from[TREE_ROWS], to[TREE_ROWS];
    for (int32_t i = 0; i < n; i++) {
        const int32_t was = x->history + x->t.offset[rows[i]], is = x->history + i;
        from[i] = (struct kv_place){x->r.pages - 1 - was / GOLDEN_PAGE, was % GOLDEN_PAGE};
        to[i] = (struct kv_place){x->r.pages - 1 - is / GOLDEN_PAGE, is % GOLDEN_PAGE};
    }
    model_move(x->r.model, n, from, to);
}

static void check_leaf(struct tree_run *x, int32_t leaf, bool keep) {
    int32_t rows[TREE_ROWS], n = x->t.level[leaf] + 1;
    for (int32_t at = leaf, i = n; i > 0; at = x->t.parent[at]) rows[--i] = at;
    for (int32_t i = 0; i < n; i++) x->tokens[x->history + i] = x->token[rows[i]];
    x->tokens[x->history + n] = 7;
    float *behind = malloc(row_bytes(x));
    assert_non_null(behind);
    if (keep) {
        keep_way(x, rows, n);
        run_pass(&x->r, x->tokens, x->history + n, 1, false, NULL, 1);
        memcpy(behind, x->r.logits, row_bytes(x));
    }
    run_pass(&x->r, x->tokens, x->history, n, false, NULL, n);
    for (int32_t i = 0; i < n; i++)
        if (memcmp(row(x, x->logits, rows[i]), row(x, x->r.logits, i), row_bytes(x)))
            fail_msg("history %d: row %d of the tree differs from its chain", x->history, rows[i]);
    run_pass(&x->r, x->tokens, x->history + n, 1, false, NULL, 1);
    if (keep && memcmp(behind, x->r.logits, row_bytes(x)))
        fail_msg("history %d: what follows row %d differs when it was moved", x->history, leaf);
    free(behind);
}

static void check_history(struct tree_run *x, int32_t history) {
    x->history = history;
    tree_places(&x->t, history, x->places);
    x->r.ops->upload(x->r.be, x->path, x->places, sizeof x->places);
    for (int32_t i = 0; i < CONTEXT; i++) x->tokens[i] = (i * 131 + 11) % 500;
    for (int32_t i = 0; i < x->t.n; i++) x->token[i] = (i * 57 + 3) % 500;
    if (history) run_pass(&x->r, x->tokens, 0, history, false, NULL, 0);
    /* as the verifier reads it, in one pass */
    for (int32_t leaf = x->t.n - 1; leaf > 0; leaf -= 3) {
        run_tree(x, 0, x->t.n);
        check_leaf(x, leaf, true);
    }
    /* and as the draft does, level by level */
    for (int32_t l = 0; l <= x->t.depth; l++) run_tree(x, x->t.begin[l], x->t.begin[l + 1] - x->t.begin[l]);
    for (int32_t leaf = 1; leaf < x->t.n; leaf += 2) check_leaf(x, leaf, false);
}

static void check_pair(const char *device, const char *folder, enum dtype cache) {
    struct tree_run x = {.history = 0};
    runner_open(&x.r, device, folder, cache, CONTEXT, CONTEXT, TREE_ROWS);
    x.path = device_ints(&x.r, TREE_ROWS * TREE_ROWS);
    x.logits = malloc(TREE_ROWS * row_bytes(&x));
    assert_non_null(x.logits);
    tree_shape(5, TREE_ROWS, &x.t);
    static const int32_t histories[] = {0, 6, 27, 121, 250}; /* in a page, over its border, in later splits */
    for (size_t i = 0; i < sizeof histories / sizeof *histories; i++) check_history(&x, histories[i]);
    x.r.ops->release(x.r.be, x.path);
    free(x.logits);
    runner_close(&x.r);
}

static void rows_have_the_bits_of_chains(void **state) {
    (void)state;
    const char *device = getenv("GOLDEN_DEVICE");
    static const enum dtype caches[] = {DTYPE_F16, DTYPE_F32, DTYPE_Q8_0};
    for (size_t i = 0; i < 3; i++) {
        check_pair(device ? device : "cpu", "weights/tale/draft", caches[i]);
        if (!device) check_pair("cpu:portable", "weights/tale/draft", caches[i]);
    }
    check_pair(device ? device : "cpu", "weights/tale/verifier", DTYPE_F16);
}

/* ---- the next choices ---- */

static void top_takes_them_in_order(void **state) {
    (void)state;
    const struct ops *ops;
    struct backend *be;
    must(ops_open("cpu", 2, &ops, &be));
    enum { N = 2, VOCAB = 70 };
    float logits[N * VOCAB];
    for (int32_t i = 0; i < N * VOCAB; i++) logits[i] = -3;
    logits[17] = logits[40] = 5, logits[69] = 4;                        /* a tie, by index */
    logits[VOCAB + 3] = NAN, logits[VOCAB + 68] = 1, logits[VOCAB] = 2; /* NaN counts as the least */
    const int32_t to[N * TREE_WIDTH] = {0, 1, 2, 3, -1, 5, -1, 6};
    int32_t token[7];
    for (int i = 0; i < 7; i++) token[i] = -9;
    ops->top(be, logits, N, VOCAB, to, token);
    const int32_t want[7] = {17, 40, 69, 0, -9, 68, 2};
    assert_memory_equal(token, want, sizeof want);
    ops->close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_hold_together),         cmocka_unit_test(deeper_and_wider_where_it_pays),
        cmocka_unit_test(the_way_follows_the_picks),    cmocka_unit_test(top_takes_them_in_order),
        cmocka_unit_test(rows_have_the_bits_of_chains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

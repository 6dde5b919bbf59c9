/* The arithmetic of tree.h: no model, no device. */
#include "runtime/tree.h"

/* How often the draft's first, second .. choice is what the verifier writes: of the shipped pair, greedy. */
static const double RANK_SHARE[TREE_WIDTH] = {0.78, 0.11, 0.035, 0.02};

/* The likeliest proposal that the tree lacks: behind which node, the next of its ranks. */
static int32_t next_parent(const struct tree *t, const int32_t *children, const double *reach,
                           int32_t depth) {
    int32_t best = -1;
    double most = 0;
    for (int32_t i = 0; i < t->n; i++) {
        if (t->level[i] == depth || children[i] == TREE_WIDTH) continue;
        const double is = reach[i] * RANK_SHARE[children[i]];
        if (is > most) most = is, best = i;
    }
    return best;
}

/* Puts rows by level, in a level by parent and rank; `t` has them in the order in which they were found. */
static void sort(struct tree *t) {
    struct tree by_level = {.n = t->n, .depth = t->depth, .parent = {-1}};
    int32_t found[TREE_ROWS] = {0}; /* of each row, which it was */
    int32_t n = 1, behind = t->depth + 1;
    for (int32_t row = 0; row < n; row++) {
        const int32_t level = by_level.level[row];
        if (row == 0 || level > by_level.level[row - 1]) by_level.begin[level] = row;
        for (int32_t j = 0; j < TREE_WIDTH; j++) {
            const int32_t child = t->child[found[row]][j];
            by_level.child[row][j] = child < 0 ? -1 : n;
            if (child < 0) continue;
            const bool first_choice = j == 0 && by_level.offset[row] == level;
            found[n] = child;
            by_level.level[n] = level + 1;
            by_level.parent[n] = row;
            by_level.offset[n++] = first_choice ? level + 1 : behind++;
        }
    }
    by_level.begin[t->depth + 1] = n;
    *t = by_level;
}

void tree_shape(int32_t depth, int32_t rows, struct tree *t) {
    double reach[TREE_ROWS] = {1};
    int32_t children[TREE_ROWS] = {0};
    *t = (struct tree){.n = 1};
    for (int32_t i = 0; i < TREE_ROWS; i++)
        for (int32_t j = 0; j < TREE_WIDTH; j++) t->child[i][j] = -1;
    for (int32_t p; t->n < rows && (p = next_parent(t, children, reach, depth)) >= 0; t->n++) {
        reach[t->n] = reach[p] * RANK_SHARE[children[p]];
        t->level[t->n] = t->level[p] + 1;
        t->child[p][children[p]++] = t->n;
        if (t->level[t->n] > t->depth) t->depth = t->level[t->n];
    }
    sort(t);
}

void tree_places(const struct tree *t, int32_t root, int32_t *places) {
    for (int32_t i = 0; i < t->n; i++) {
        int32_t *way = places + i * TREE_ROWS;
        for (int32_t j = t->level[i] + 1; j < TREE_ROWS; j++) way[j] = -1;
        for (int32_t j = 0; i > 0 && j < t->level[i]; j++) way[j] = places[t->parent[i] * TREE_ROWS + j];
        way[t->level[i]] = root + t->offset[i];
    }
}

int32_t tree_walk(const struct tree *t, const int32_t *token, const int32_t *pick, int32_t *way) {
    int32_t n = 0;
    for (int32_t at = 0; n < t->depth; way[n++] = at) {
        int32_t next = -1;
        for (int32_t j = TREE_WIDTH - 1; j >= 0; j--)
            if (t->child[at][j] >= 0 && token[t->child[at][j]] == pick[at]) next = t->child[at][j];
        if (next < 0) break;
        at = next;
    }
    return n;
}

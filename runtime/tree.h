/* Trees of proposals (Miao et al. 2024, Cai et al. 2024): several candidates for a place, so that the
 * verifier may leave the draft's first choice and still go on.
 *
 * A tree's rows are the last token written, its root, and the proposals. The draft writes a level in one
 * step: behind each row of the level before as many of its likeliest tokens as the shape says. The verifier
 * reads all rows in one pass, each seeing its own way from the root only (ops.h, struct rows), and its
 * argmaxes lead from the root along the proposals that it would have written.
 *
 * The shape is that with most expected tokens for its number of rows, were each rank of the draft's choices
 * right as often as RANK_SHARE says. Rows stand by level, in a level by parent and rank. The way of first
 * choices lies in the cache where a chain's proposals would, and the others behind it; so what stays of it
 * stays where it is, and of another way each proposal is moved to its position. */
#ifndef OUTRIDER_TREE_H
#define OUTRIDER_TREE_H

#include "kernels/ops.h"

enum { TREE_LEVELS = 6 }; /* most that are used */

struct tree {
    int32_t n, depth;             /* rows; levels of proposals */
    int32_t begin[TREE_ROWS + 1]; /* row where a level begins; the root is level 0; [depth + 1] is n */
    int32_t level[TREE_ROWS];
    int32_t parent[TREE_ROWS];            /* row; -1 of the root */
    int32_t child[TREE_ROWS][TREE_WIDTH]; /* rows by rank, -1 for none */
    int32_t offset[TREE_ROWS];            /* place in the cache, from the root's */
};

/* The best of at most `rows` rows and `depth` levels; 2 <= rows <= TREE_ROWS, 1 <= depth. */
void tree_shape(int32_t depth, int32_t rows, struct tree *t);
/* The most levels, at most `limit`, of those that trees are used with: few, since a device records each pass
 * that looks another way, and more seldom pay. */
static inline int32_t tree_levels(int32_t limit) {
    return limit >= TREE_LEVELS ? TREE_LEVELS : limit == 5 ? 4 : limit;
}
/* Rows of the best with so many levels, 0 for none. */
static inline int32_t tree_rows(int32_t depth) {
    return depth == 0 ? 1 : depth == 1 ? 1 + TREE_WIDTH : TREE_ROWS;
}
/* Of each row and position from the root's on, `root`, the place where the row's way has it; -1 behind the
 * row itself. places: [t->n][TREE_ROWS] */
void tree_places(const struct tree *t, int32_t root, int32_t *places);
/* The rows of the proposals that the verifier would have written: behind a row, the one whose token is the
 * row's pick. Returns how many. token, pick: [t->n]; way: [t->depth] */
int32_t tree_walk(const struct tree *t, const int32_t *token, const int32_t *pick, int32_t *way);

#endif

/* How many tokens to propose: the K with the most expected tokens a second, 0 included.
 *
 * Of a session and a drafter it follows how often the proposal at each place stays, given that those before
 * it did. A run that was accepted whole says nothing about the place after it (it is censored), so only
 * places that were tested count. Of the machine it knows what a draft step and a verify of 1..R rows cost:
 * measured once at the start, and corrected by how long real rounds take. With a(i) the acceptance at place
 * i,
 *
 *     tokens(K) = 1 + a(1) + a(1) a(2) + ... + a(1) ... a(K)        seconds(K) = K draft + verify(K + 1)
 *
 * and K is where tokens(K) / seconds(K) is greatest. A drafter of which nothing stayed yet proposes one token
 * at a time; while the best K is 0, or another drafter promises more, one proposal is tried now and then,
 * more rarely each time it does not help. So a useless draft costs about one plain round, and less than one
 * part in a hundred from then on. Drafters take turns by what each promises.
 *
 * Exactness: K is chosen before the round draws any random number, from what earlier rounds wrote and how
 * long they took; and no round uses a number that an earlier one has looked at (sampler.h). So given K each
 * rule (accept.h) is exact, whatever chose it. With the coupled rule and at temperature 0 not even the text
 * of a seed depends on K; with the others it may, and is then as likely as any other. */
#ifndef OUTRIDER_CONTROLLER_H
#define OUTRIDER_CONTROLLER_H

#include "runtime/tree.h"

/* Who proposes. N-grams cost nothing, each of the others a step a token; the draft model's chain and its tree
 * count as two. */
enum drafter { DRAFTER_NGRAM, DRAFTER_SELF, DRAFTER_MODEL, DRAFTER_TREE, DRAFTERS };

enum { COST_ROWS = 64 }; /* rows whose cost is known; beyond, it grows as between the last two */

/* What a round does, as far as its time depends on it. */
struct round_shape {
    int32_t k;               /* proposals of the session that has most */
    int32_t rows;            /* of the verifier's pass */
    int32_t steps[DRAFTERS]; /* of each; n-grams' are free */
    bool sampling;           /* rows are sampled from, which takes longer than their argmax */
};
/* `sessions` sessions with K proposals each, or K levels of a tree. */
static inline struct round_shape round_shape(int32_t sessions, int32_t k, enum drafter by, bool sampling) {
    const int32_t rows = by == DRAFTER_TREE ? tree_rows(k) : k + 1;
    struct round_shape shape = {.k = k, .rows = sessions * rows, .sampling = sampling};
    shape.steps[by] = k;
    return shape;
}

/* Fading sums over the rounds of a K: what they took over what they should have. */
struct cost_seen {
    double weight, sum;
};

/* Of the machine and pair; one an engine. Microseconds. */
struct costs {
    bool known;
    double verify[COST_ROWS + 1]; /* by rows; [0] unused */
    double step[DRAFTERS];        /* one; 0 for n-grams */
    double draft_read;            /* a token of those that the draft model reads without proposing */
    double scale[2];              /* [sampling] real rounds against these, running mean over all */
    double level[2];              /* [sampling] mean of what is seen: what is taken for a K that is not */
    struct cost_seen seen[2][DRAFTERS][OUTRIDER_MAX_DRAFT + 1]; /* [sampling][by][K], against that mean */
};

/* Fills the table from measurements at a few row counts, ascending, the first of one row; and of a step. */
void costs_set(struct costs *c, int32_t n, const int32_t *rows, const double *us, double draft_us,
               double self_us);
double costs_verify(const struct costs *c, int32_t rows);
/* What a round should take, up to a factor common to all rounds that sample, or do not. */
double costs_round(const struct costs *c, struct round_shape round);
/* What one took. */
void costs_observe(struct costs *c, struct round_shape round, double us);

/* Whether a draft that promises `gain` should read `lag` tokens first, in an answer of which about `left`
 * tokens are still to be written after `idle` rounds without it. A draft that promises nothing may read in
 * the time that tries may take. */
bool costs_worth_reading(const struct costs *c, double gain, int32_t lag, int32_t left, int32_t idle,
                         bool sampling);

/* Of a session and a drafter. Zeroed to begin with. */
struct controller {
    double tested[OUTRIDER_MAX_DRAFT], stayed[OUTRIDER_MAX_DRAFT]; /* fading counts by place */
    double prior;    /* acceptance assumed before anything is seen; 0: that of a fair draft */
    int32_t tries;   /* rounds with proposals, up to a few */
    int32_t in_vain; /* rounds since something stayed, up to a few more */
    int32_t idle;    /* rounds since the last of them that it might have had */
    bool helped;     /* the last proposals were not in vain: try again at once */
    double missed,
        caught; /* fading counts of trees: places where the first choice fell, and another stayed */
};

/* Acceptance at place i, given the places before it were accepted. */
double controller_acceptance(const struct controller *c, int32_t i);
/* The K to use, at most `limit`, when `sessions` like this one share the round; and in *gain the tokens a
 * second it promises, as a multiple of plain decoding's: 1 with K = 0, when it promises nothing. The draft
 * model's chain and tree have one controller. */
int32_t controller_choose(const struct controller *c, const struct costs *costs, int32_t sessions,
                          int32_t limit, enum drafter by, bool sampling, double *gain);
/* Whether it is worth a try of one proposal none the less, where the best of the others, plain decoding among
 * them, promises `gain`. N-grams need none: they are judged by the text that is written in any case. */
bool controller_try(const struct controller *c, const struct costs *costs, int32_t sessions, int32_t limit,
                    enum drafter by, bool sampling, double gain);
/* Of k proposals, `accepted` stayed; so the place after them was tested too. Proposals that were not used can
 * be judged by the text that was written in their place: k is then the places it reaches. */
void controller_observe(struct controller *c, int32_t k, int32_t accepted);
/* Something else than proposals says that it is of no use: it promises nothing until tries, which plain
 * rounds pay for, show otherwise. */
void controller_doubt(struct controller *c);
/* The same of a tree of k levels: of the draft's first choices so many stayed, and of all it proposed. */
void controller_observe_tree(struct controller *c, int32_t k, int32_t first_choices, int32_t accepted);

#endif

/* The proposer that needs no model: text often repeats itself, so what followed the last few tokens before
 * may follow them again (prompt lookup, Saxena 2023; n-gram matching over prompt and answer alike).
 *
 * It looks for the longest earlier occurrence of the text's end, the latest one among equals, and proposes
 * what came after it. As a draft it is certain of its proposals: q is 1 for each, which the acceptance rules
 * take like any other q. */
#include "runtime/engine.h"

enum { MIN_MATCH = 3, MAX_MATCH = 24 };

/* How many tokens before `end` equal those before `at`, up to MAX_MATCH; at < end. */
static int32_t match_length(const int32_t *tokens, int32_t at, int32_t end) {
    int32_t n = 0;
    while (n < MAX_MATCH && n < at && tokens[at - 1 - n] == tokens[end - 1 - n]) n++;
    return n;
}

int32_t ngram_propose(const int32_t *tokens, int32_t n, int32_t limit, int32_t *proposed, int32_t *length) {
    int32_t best = MIN_MATCH - 1, from = -1;
    for (int32_t at = n - 1; at >= MIN_MATCH && best < MAX_MATCH; at--) {
        if (tokens[at - 1] != tokens[n - 1]) continue;
        int32_t matched = match_length(tokens, at, n);
        if (matched > best) best = matched, from = at;
    }
    *length = best;
    if (from < 0) return 0;
    /* A repetition shorter than what is asked for goes round: what follows its end is its beginning. */
    for (int32_t i = 0; i < limit; i++)
        proposed[i] = from + i < n ? tokens[from + i] : proposed[from + i - n];
    return limit;
}

/* Of a class: the shortest match, and the share of first proposals that stay before anything is seen (what
 * tales and repeated text gave; a wrong one costs a few rounds). */
static const struct {
    int32_t shortest;
    double prior;
} classes[NGRAM_CLASSES] = {{MIN_MATCH, 0.35}, {5, 0.5}, {8, 0.7}, {14, 0.85}};

void ngram_look(outrider_session *s, int32_t limit) {
    int32_t length;
    s->n_ngram = ngram_propose(s->tokens, s->n, limit, s->ngram, &length);
    if (s->n_ngram == 0) return;
    for (s->ngram_class = NGRAM_CLASSES - 1; length < classes[s->ngram_class].shortest;) s->ngram_class--;
    s->ngram_controller[s->ngram_class].prior = classes[s->ngram_class].prior;
}

void ngram_learn(outrider_session *s, const int32_t *written, int32_t n) {
    int32_t reach = n < s->n_ngram ? n : s->n_ngram, same = 0;
    while (same < reach && written[same] == s->ngram[same]) same++;
    if (reach > 0) controller_observe(&s->ngram_controller[s->ngram_class], reach, same);
}

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

int32_t ngram_propose(const int32_t *tokens, int32_t n, int32_t limit, int32_t *proposed) {
    int32_t best = MIN_MATCH - 1, from = -1;
    for (int32_t at = n - 1; at >= MIN_MATCH && best < MAX_MATCH; at--) {
        if (tokens[at - 1] != tokens[n - 1]) continue;
        int32_t length = match_length(tokens, at, n);
        if (length > best) best = length, from = at;
    }
    if (from < 0) return 0;
    /* A repetition shorter than what is asked for goes round: what follows its end is its beginning. */
    for (int32_t i = 0; i < limit; i++)
        proposed[i] = from + i < n ? tokens[from + i] : proposed[from + i - n];
    return limit;
}

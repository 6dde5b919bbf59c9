/* The answer of `outrider run` as JSON: one object at the end (--json), or an event a line (--jsonl):
 *
 *     {"event": "prompt", "n_read": 512, "n_prompt": 1200}      a chunk of a long prompt is read
 *     {"event": "tokens", "tokens": [262, 410], "sources": ["draft", "verifier"], "text": "the king"}
 *     {"event": "end", "n_prompt": ..., "stop": "eos", ...}     as --json, without text and tokens
 *
 * Text follows its tokens when it is certain: whole characters, no stop string. With --logprobs both have
 * "logprobs": [{"token": 262, "text": "the", "logprob": -0.1, "top": [{...}, ...]}, ...].
 */
#ifndef OUTRIDER_RUN_JSON_H
#define OUTRIDER_RUN_JSON_H

#include <jansson.h>

#include "tools/tools.h"

/* The event of a round; the session had `before` tokens, and text became certain. */
int write_round(const outrider_engine *engine, const outrider_session *session, size_t before,
                const char *text, size_t bytes);
/* Text that became certain when the answer was ended: an event without tokens. */
int write_rest(const char *text, size_t bytes);
/* The object of --json, or the last event; NULL without memory. */
json_t *result_json(const outrider_engine *engine, const outrider_session *session, const char *text,
                    size_t bytes, uint64_t seed, bool event);
int write_result(const outrider_engine *engine, const outrider_session *session, const char *text,
                 size_t bytes, uint64_t seed, bool event);

#endif

/* Pre-tokenization: cuts a text into the words that byte-pair merges never cross, by regular expressions. */
#ifndef OUTRIDER_SPLIT_H
#define OUTRIDER_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/outrider.h"

struct splitter;

enum { SPLIT_MAX_STAGES = 8, SPLIT_MAX_PATTERN = 8192 };

/* What a stage keeps of a text: what its pattern matches, what lies between, or both, each a piece. */
enum split_keep { SPLIT_KEEP_BOTH, SPLIT_KEEP_MATCHES, SPLIT_KEEP_GAPS };

outrider_status splitter_create(struct splitter **out);
void splitter_destroy(struct splitter *s); /* NULL is fine */

/* Appends a stage, which cuts what the stages before it left. A pattern of the published models (by exact
 * text) runs as compiled code; any other one is interpreted, within limits. `field` is for messages. */
outrider_status splitter_add(struct splitter *s, const char *field, const char *pattern, size_t bytes,
                             enum split_keep keep);

int splitter_stages(const struct splitter *s);

/* The pattern of a GGUF file's tokenizer.ggml.pre; NULL when the name is unknown. */
const char *split_pattern_of(const char *pre);
extern const char *const SPLIT_GPT2; /* the one that ByteLevel implies */

/* Calls `word` for each piece of n bytes of well-formed UTF-8, in order, until one call fails. Safe from
 * several threads at once. */
typedef outrider_status split_word(void *user, const char *text, size_t bytes);
outrider_status splitter_run(const struct splitter *s, const char *text, size_t bytes, split_word *word,
                             void *user);

#endif

/* The numbers of an answer, in words for a person and as JSON.
 *
 * acceptance rate        accepted / proposed tokens
 * mean acceptance length 1 + accepted / verifier passes: tokens a pass writes, the verifier's own one counted
 * rate per position i    passes that accepted place i / verifier passes; one plus their sum is the mean
 * length
 */
#ifndef OUTRIDER_REPORT_H
#define OUTRIDER_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "runtime/outrider.h"
#include "tools/terminal.h"

double clock_ms(void); /* of a clock that only goes forward */
double cpu_ms(void);   /* processor time of all threads */
double per_second(int32_t tokens, double ms);
double mean_length(const outrider_stats *s);
double acceptance(const outrider_stats *s);
/* Places at which anything was proposed. */
int positions(const outrider_stats *s);

/* Sums counts and times; for a measurement over several answers. */
void stats_add(outrider_stats *sum, const outrider_stats *s);

/* Why the answer ended; "interrupt" when it had not. */
const char *stop_word(const outrider_session *session);

/* Who drafts, in words. */
enum { DRAFT_BYTES = 80 };
void report_draft(const outrider_engine_info *info, char out[DRAFT_BYTES]);
void report_answer(FILE *out, const outrider_stats *s, const char *stop, uint64_t seed);
void report_details(FILE *out, const outrider_engine_info *info, const outrider_stats *s);
/* A bar for each number of accepted tokens. */
void report_runs(FILE *out, const outrider_stats *s);
/* Times faster than plain decoding, by the costs that the controller measured; 0: not known. */
double speed_up(const outrider_stats *s);
/* "[ Prompt: 812.3 t/s | Generation: 57 tokens, 1388.2 t/s, 2.31x plain | accepted ... ]" */
void report_line(FILE *out, const outrider_stats *s);

/* Writes text in the colour of who wrote it. */
int write_span(FILE *out, const struct palette *colors, outrider_source source, const char *text,
               size_t bytes);
/* "(proposed by the draft, by earlier text, the verifier's own)" */
void report_legend(FILE *out, const struct palette *colors);
/* A bar while a long prompt is read; gone once the answer has begun. */
void report_reading(struct progress *bar, const outrider_session *session);

json_t *report_timings(const outrider_stats *s);
json_t *report_positions(const outrider_stats *s);

#endif

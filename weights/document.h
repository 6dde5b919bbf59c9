/* JSON objects out of untrusted files, and fields out of them with their type and range checked.
 *
 * Parsing refuses duplicate keys, more than 64 levels, more than 2^20 values and
 * more than 2^18 objects, so that memory stays a small
 * multiple of the file whatever it holds. A field that is absent or null leaves *out as the caller set it.
 */
#ifndef OUTRIDER_DOCUMENT_H
#define OUTRIDER_DOCUMENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"

struct document {
    char *path; /* owned; for messages */
    json_t *root;
};

/* Reads dir/name, whose top level must be an object. `found` as in map_open. */
outrider_status document_open(const char *dir, const char *name, bool *found, struct document *out);
void document_close(struct document *doc); /* zeroed is fine */

/* Parses text that came from `path` and must be an object; json_decref it. */
outrider_status document_parse(const char *path, const void *text, size_t bytes, json_t **out);
/* The same with a limit of its own to the number of values. */
outrider_status document_parse_large(const char *path, const void *text, size_t bytes, size_t max_values,
                                     json_t **out);

json_t *document_get(const struct document *doc, const char *key); /* NULL when absent or null */
outrider_status document_int(const struct document *doc, const char *key, int32_t min, int32_t max,
                             int32_t *out);
/* Limits hold for the value as a float: 1e300 and 1e-300 are neither finite nor positive in one. */
outrider_status document_float(const struct document *doc, const char *key, float min, float max, float *out);
outrider_status document_bool(const struct document *doc, const char *key, bool *out);
outrider_status document_text(const struct document *doc, const char *key, const char **out); /* borrowed */

#endif

/* The sentencepiece library behind C calls: no exception passes, and it only ever encodes. */
#ifndef OUTRIDER_SENTENCEPIECE_SHIM_H
#define OUTRIDER_SENTENCEPIECE_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/outrider.h"

#ifdef __cplusplus
extern "C" {
#endif

struct spm;
struct token_list;

/* From a model that precheck_write made. `pieces` is how many it has. */
outrider_status spm_open(const char *model, size_t bytes, int32_t pieces, struct spm **out);
void spm_close(struct spm *s);

/* Appends the ids of well-formed UTF-8 (NUL included). Safe from several threads at once. */
outrider_status spm_encode(const struct spm *s, const char *text, size_t bytes, struct token_list *out);

#ifdef __cplusplus
}
#endif
#endif

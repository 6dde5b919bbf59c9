/* The two directions of outrider_convert. */
#ifndef OUTRIDER_CONVERT_H
#define OUTRIDER_CONVERT_H

#include "weights/dtype.h"
#include "weights/gguf_write.h"
#include "weights/weights.h"

struct conversion {
    const outrider_convert_options *options;
    const char *from; /* a path */
    enum dtype type;
};
void conversion_report(const struct conversion *c, size_t done, size_t total);
/* Element type of a tensor in the output. */
enum dtype conversion_type(const struct conversion *c, const struct tensor *t);

/* No engine opens a model otherwise: shapes are config's, and there are no more tokens than it counts. */
outrider_status conversion_check(const char *path, const struct model_config *config,
                                 const struct weights *w);
/* What was written, before it gets its name: one form may not hold all that the other does. */
outrider_status conversion_verify(const struct conversion *c, const char *written);

outrider_status convert_to_gguf(const struct conversion *c);   /* convert_gguf.c */
outrider_status convert_to_folder(const struct conversion *c); /* convert_folder.c */

/* Metadata of the tokenizer of folder `dir`, and its chat template; `vocab_size` tokens, those that the
 * tokenizer has not named as padding. convert_tokenizer.c */
outrider_status convert_tokenizer(const char *dir, const struct model_config *config, struct gguf_header *h);

#endif

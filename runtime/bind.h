/* From a folder's tensors to a model's bound weights. Inside runtime/: for model.c. */
#ifndef OUTRIDER_BIND_H
#define OUTRIDER_BIND_H

#include "runtime/model.h"

/* What a matrix is for decides how it is held. The embedding is gathered, a row a token: nothing is gained by
 * making it smaller. */
enum use { EMBEDDING, LAYER, HEAD };

/* The element type that a matrix of k columns is held in, f8 where kernels read that, and what a tensor is by
 * its name. */
enum dtype bind_type(enum use use, enum quant quant, enum dtype file, int64_t k, bool f8);
enum use bind_use(const struct tensor *t);

/* Every tensor that the configuration needs is there in its shape, and there is none that nothing computes
 * with. OUTRIDER_EMODEL names the first that is not so. */
outrider_status bind_check(const struct model_config *config, const struct weights *weights);

/* Binds embedding, head, final norm and layers; m->layers is there and zeroed, the RoPE tables are too. On
 * failure some are bound, and bind_release is still to be called. */
outrider_status bind_weights(struct model *m, void (*progress)(void *user, double done, double total),
                             void *user);
void bind_release(struct model *m);

#endif

/* From a folder's tensors to a model's bound weights. Inside runtime/: for model.c. */
#ifndef OUTRIDER_BIND_H
#define OUTRIDER_BIND_H

#include "runtime/model.h"

/* What a matrix is for decides how it is held. The embedding is gathered, a row a token: nothing is gained by
 * making it smaller. */
enum use { EMBEDDING, LAYER, HEAD };

/* The element type that a matrix of k columns is held in, and what a tensor is by its name. */
enum dtype bind_type(enum use use, enum quant quant, enum dtype file, int64_t k);
enum use bind_use(const struct tensor *t);

/* Every tensor of the folder must be one that is computed with: a bias, another norm or a layer more than
 * config.json counts would make it another model, one that writes worse in silence. */
outrider_status bind_refuse_unknown(const struct model *m);

/* Binds embedding, head, final norm and layers; m->layers is there and zeroed, the RoPE tables are too. On
 * failure some are bound, and bind_release is still to be called. */
outrider_status bind_weights(struct model *m, void (*progress)(void *user, double share), void *user);
void bind_release(struct model *m);

#endif

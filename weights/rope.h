/* The RoPE settings of a config.json, in their several spellings. */
#ifndef OUTRIDER_WEIGHTS_ROPE_H
#define OUTRIDER_WEIGHTS_ROPE_H

#include "weights/document.h"
#include "weights/weights.h"

/* Fills m->rope and m->rope_local; head_dim and max_position_embeddings are already there. A kind of scaling
 * that is not among enum rope_type, and a field without sense, is OUTRIDER_EMODEL. */
outrider_status rope_config_read(const struct document *doc, struct model_config *m);

#endif

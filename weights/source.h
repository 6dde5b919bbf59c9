/* What kind of model a path names. */
#ifndef OUTRIDER_SOURCE_H
#define OUTRIDER_SOURCE_H

#include "runtime/outrider.h"

/* The GGUF file of the model at `path`: the file itself, or the one that a folder without safetensors holds
 * (the first of a split one), to free. NULL when `path` is to be read as a folder in Hugging Face's layout,
 * also when nothing is there. OUTRIDER_EMODEL for a folder with several GGUF models. */
outrider_status source_gguf(const char *path, char **file);

#endif

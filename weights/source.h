/* What kind of model a path names. */
#ifndef OUTRIDER_SOURCE_H
#define OUTRIDER_SOURCE_H

#include <stdbool.h>

#include "runtime/outrider.h"

/* The GGUF file of the model at `path`: the file itself, or the one that a folder without safetensors holds
 * (the first of a split one), to free. NULL when `path` is to be read as a folder in Hugging Face's layout,
 * also when nothing is there. OUTRIDER_EMODEL for a folder with several GGUF models. */
outrider_status source_gguf(const char *path, char **file);

/* Whether a file's name is that of a GGUF model: none of the later parts of a split one, nor the projector
 * beside a model that sees. */
bool source_is_gguf(const char *name);

#endif

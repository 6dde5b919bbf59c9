/* Names of models in the local Hugging Face cache. Nothing is ever downloaded.
 *
 * Source: the layout that huggingface_hub documents as "Understand caching".
 */
#ifndef OUTRIDER_HUB_H
#define OUTRIDER_HUB_H

#include "runtime/outrider.h"

/* The path of a model, to free. What exists as a path is that path. Else ORG/NAME, ORG/NAME@REVISION or
 * ORG/NAME:PART is looked for in the cache ($HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub,
 * ~/.cache/huggingface/hub): the folder of its snapshot, or with PART the one GGUF file whose name holds it.
 * All files of the snapshot must lie within the repository's folder of the cache. OUTRIDER_EMODEL when it is
 * not there, with the command that downloads it. */
outrider_status hub_resolve(const char *name, char **path);

#endif

/* From a GGUF model's metadata to the JSON that its folder would have had. */
#ifndef OUTRIDER_GGUF_CONFIG_H
#define OUTRIDER_GGUF_CONFIG_H

#include <jansson.h>

#include "weights/gguf.h"

/* What config.json and generation_config.json would say; the caller's to json_decref. config.c checks them as
 * it checks those of a folder. */
outrider_status gguf_config(const struct gguf *g, json_t **config, json_t **generation);

/* The files of the model's tokenizer: tokenizer_config.json and tokenizer.model (gguf_tokenizer.c), or, where
 * `model` stays NULL, tokenizer.json, which tokenizer_gguf_json of the tokenizer's room makes. */
struct tokenizer_files {
    json_t *config, *json;
    unsigned char *model;
    size_t model_bytes;
};
outrider_status gguf_tokenizer(const struct gguf *g, struct tokenizer_files *out);
void tokenizer_files_free(struct tokenizer_files *files);

/* A text of the file as JSON, the caller's to json_decref; `what` names it in the line where it is not UTF-8.
 */
outrider_status gguf_json_text(const struct gguf *g, struct gguf_string s, const char *what, json_t **out);

/* model_type of Hugging Face for a general.architecture, and back; NULL when the family is not known. */
const char *gguf_model_type(struct gguf_string architecture);
const char *gguf_architecture(const char *model_type);

#endif

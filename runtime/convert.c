/* outrider_convert: which way, and in which types. */
#include "runtime/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "runtime/bind.h"
#include "runtime/status.h"
#include "tokenizer/tokenizer.h"
#include "weights/hub.h"
#include "weights/source.h"

void conversion_report(const struct conversion *c, size_t done, size_t total) {
    if (c->options->progress)
        c->options->progress(c->options->progress_user, "converting", (double)done, (double)total);
}

outrider_status conversion_check(const char *path, const struct model_config *config,
                                 const struct weights *w) {
    struct tokenizer *t;
    TRY(bind_check(config, w));
    TRY(tokenizer_open(path, &t));
    const int32_t n = tokenizer_size(t);
    tokenizer_close(t);
    if (n <= config->vocab_size) return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL, "%s: the tokenizer has %d pieces, the model's vocab_size is %d", path, n,
                config->vocab_size);
}

static outrider_status read_back(const char *path) {
    struct model_config config;
    struct generation_config generation;
    struct weights *w;
    TRY(config_read(path, &config, &generation));
    TRY(weights_open(path, &w));
    outrider_status status = conversion_check(path, &config, w);
    weights_close(w);
    return status;
}

outrider_status conversion_verify(const struct conversion *c, const char *written) {
    outrider_status status = read_back(written);
    if (status != OUTRIDER_EMODEL) return status;
    char why[256];
    snprintf(why, sizeof why, "%s", outrider_error());
    return fail(OUTRIDER_EMODEL, "%s: has no place in the other form: %s", c->from, why);
}

static bool fits(enum dtype type, const struct tensor *t) {
    return t->shape[t->n_dims - 1] % (int64_t)dtype_block(type) == 0;
}

enum dtype conversion_type(const struct conversion *c, const struct tensor *t) {
    enum dtype type = c->type;
    if (t->n_dims != 2) return DTYPE_F32;
    bool outside =
        strcmp(t->name, "lm_head.weight") == 0 || strcmp(t->name, "model.embed_tokens.weight") == 0;
    if (outside && dtype_is_quantized(type)) type = DTYPE_Q8_0;
    if (!fits(type, t)) type = DTYPE_Q8_0;
    return fits(type, t) ? type : DTYPE_BF16;
}

static outrider_status find_type(const char *name, bool to_gguf, enum dtype *out) {
    for (int t = 0; t < DTYPES; t++)
        if (strcasecmp(name, dtype_name((enum dtype)t)) == 0 && t != DTYPE_F8 && t != DTYPE_E4M3 &&
            (to_gguf || !dtype_is_quantized((enum dtype)t))) {
            *out = (enum dtype)t;
            return OUTRIDER_OK;
        }
    return fail(OUTRIDER_EINVAL, "type %s: there are f32, f16, bf16%s", name,
                to_gguf ? ", q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k and q6_k" : " in a folder");
}

static outrider_status convert_path(struct conversion *c) {
    const char *output = c->options->output;
    size_t n = strlen(output);
    const bool to_gguf = n > 5 && strcmp(output + n - 5, ".gguf") == 0;
    char *file;
    struct stat st;
    TRY(find_type(c->options->type, to_gguf, &c->type));
    if (lstat(output, &st) == 0)
        return fail(OUTRIDER_EINVAL, "%s: exists already; remove it, or name another output", output);
    TRY(source_gguf(c->from, &file));
    const bool from_gguf = file;
    free(file);
    if (to_gguf && from_gguf)
        return fail(OUTRIDER_EINVAL, "%s is a GGUF model already; name a folder", c->from);
    if (!to_gguf && !from_gguf)
        return fail(OUTRIDER_EINVAL, "%s is a folder already; name a .gguf file", c->from);
    return to_gguf ? convert_to_gguf(c) : convert_to_folder(c);
}

outrider_status outrider_convert(const outrider_convert_options *o) {
    char *path;
    if (!o->model || !o->output || !o->type)
        return fail(OUTRIDER_EINVAL, "a conversion needs a model, an output and a type");
    TRY(hub_resolve(o->model, &path));
    struct conversion c = {.options = o, .from = path};
    outrider_status status = convert_path(&c);
    free(path);
    return status;
}

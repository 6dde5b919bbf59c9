/* config.json, a NUL, generation_config.json: refused, or every number within the limits that weights.h
 * states. */
#include "tests/helpers_fuzz.h"

#include <math.h>

#include "weights/weights.h"

static void check_rope(const struct rope_config *r) {
    if (!isfinite(r->theta) || !isfinite(r->factor) || !isfinite(r->attention_factor))
        fuzz_die("a RoPE of none");
}

static void check(const struct model_config *c) {
    const int32_t sizes[] = {c->vocab_size,          c->hidden_size,         c->intermediate_size,
                             c->num_attention_heads, c->num_key_value_heads, c->max_position_embeddings};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] < 1 || sizes[i] > 1 << 24) fuzz_die("a size out of its limits");
    if (c->num_hidden_layers < 1 || c->num_hidden_layers > 1024) fuzz_die("layers");
    if (c->head_dim < 2 || c->head_dim > 512 || c->head_dim % 2) fuzz_die("head_dim");
    if (c->num_attention_heads % c->num_key_value_heads) fuzz_die("heads");
    if (!(c->rms_norm_eps > 0) || !isfinite(c->embedding_scale) || !isfinite(c->attention_scale))
        fuzz_die("a number that is none");
    check_rope(&c->rope);
    check_rope(&c->rope_local);
    if (c->n_eos < 0 || c->n_eos > CONFIG_MAX_EOS) fuzz_die("eos");
    for (int32_t i = 0; i < c->n_eos; i++)
        if (c->eos_token_id[i] < 0 || c->eos_token_id[i] >= c->vocab_size)
            fuzz_die("an eos past the vocabulary");
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    struct model_config model;
    struct generation_config generation;
    size_t n;
    const uint8_t *part = fuzz_part(&data, &bytes, &n);
    fuzz_write("config.json", part, n);
    fuzz_write("generation_config.json", bytes ? data : (const uint8_t *)"{}", bytes ? bytes : 2);
    outrider_status status = config_read(fuzz_folder(), &model, &generation);
    if (status == OUTRIDER_OK)
        check(&model);
    else
        fuzz_refused(status, "config.json");
}

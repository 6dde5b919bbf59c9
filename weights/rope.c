/* The RoPE settings of a config.json; see rope.h.
 *
 * Older files have rope_theta and an object rope_scaling; newer ones one object, rope_parameters, with both,
 * or one such object for each type of layer. The derived values (attention_factor above all) follow the
 * reference implementation, so that what is kept here needs no more interpretation.
 */
#include "weights/rope.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "runtime/status.h"

static const struct kind {
    const char *name;
    enum rope_type type;
} kinds[] = {
    {"default", ROPE_DEFAULT}, {"linear", ROPE_LINEAR}, {"llama3", ROPE_LLAMA3},
    {"yarn", ROPE_YARN},       {"longrope", ROPE_LONG}, {"su", ROPE_LONG},
};

static outrider_status read_type(const struct document *doc, const char *object, enum rope_type *type) {
    const char *name = "default";
    TRY(document_text(doc, "type", &name));
    TRY(document_text(doc, "rope_type", &name));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, kinds[i].name) == 0) {
            *type = kinds[i].type;
            return OUTRIDER_OK;
        }
    return fail(OUTRIDER_EMODEL, "%s: %s \"%.40s\" is not supported (linear, llama3, yarn, longrope)",
                doc->path, object, name);
}

static outrider_status read_factors(const struct document *doc, const char *key, int32_t n, float *out) {
    json_t *list = document_get(doc, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return fail(OUTRIDER_EMODEL, "%s: %s is not a list of head_dim / 2 = %d numbers", doc->path, key, n);
    for (int32_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        out[i] = (float)json_number_value(value);
        if (!json_is_number(value) || !(out[i] > 0 && out[i] <= FLT_MAX))
            return fail(OUTRIDER_EMODEL, "%s: %s[%d] is not a positive number", doc->path, key, i);
    }
    return OUTRIDER_OK;
}

static outrider_status read_llama3(const struct document *doc, struct rope_config *r) {
    TRY(document_float(doc, "low_freq_factor", FLT_MIN, 1e6f, &r->low_freq_factor));
    TRY(document_float(doc, "high_freq_factor", FLT_MIN, 1e6f, &r->high_freq_factor));
    if (!(r->low_freq_factor > 0 && r->low_freq_factor < r->high_freq_factor))
        return fail(OUTRIDER_EMODEL, "%s: low_freq_factor %g is not below high_freq_factor %g", doc->path,
                    r->low_freq_factor, r->high_freq_factor);
    return OUTRIDER_OK;
}

static float yarn_scale(float factor, float mscale) {
    return factor <= 1 ? 1 : 0.1f * mscale * logf(factor) + 1;
}

static outrider_status read_yarn(const struct document *doc, struct rope_config *r) {
    float mscale = 0, all = 0;
    r->beta_fast = 32, r->beta_slow = 1, r->truncate = true;
    TRY(document_float(doc, "beta_fast", FLT_MIN, 1e6f, &r->beta_fast));
    TRY(document_float(doc, "beta_slow", FLT_MIN, 1e6f, &r->beta_slow));
    TRY(document_bool(doc, "truncate", &r->truncate));
    TRY(document_float(doc, "mscale", 0, 1e3f, &mscale));
    TRY(document_float(doc, "mscale_all_dim", 0, 1e3f, &all));
    if (!(r->theta > 1)) return fail(OUTRIDER_EMODEL, "%s: rope_theta is 1, yarn needs more", doc->path);
    r->attention_factor = mscale > 0 && all > 0 ? yarn_scale(r->factor, mscale) / yarn_scale(r->factor, all)
                                                : yarn_scale(r->factor, 1);
    return OUTRIDER_OK;
}

static outrider_status read_long(const struct document *doc, int32_t half, struct rope_config *r) {
    if (document_get(doc, "long_mscale"))
        return fail(OUTRIDER_EMODEL, "%s: long_mscale is not supported", doc->path);
    TRY(read_factors(doc, "short_factor", half, r->short_factor));
    TRY(read_factors(doc, "long_factor", half, r->long_factor));
    const float original = (float)r->original_max_position_embeddings;
    r->attention_factor = r->factor <= 1 ? 1 : sqrtf(1 + logf(r->factor) / logf(original));
    return OUTRIDER_OK;
}

/* One object of settings, called `object` in messages; r->theta is what holds unless it says otherwise. */
static outrider_status read_scaling(const struct document *doc, const char *object,
                                    const struct model_config *m, struct rope_config *r) {
    float part = 1;
    r->factor = r->attention_factor = 1;
    if (!doc->root) return OUTRIDER_OK;
    if (!json_is_object(doc->root))
        return fail(OUTRIDER_EMODEL, "%s: %s is not an object", doc->path, object);
    TRY(read_type(doc, object, &r->type));
    TRY(document_float(doc, "partial_rotary_factor", 0, 1, &part));
    if (part != 1)
        return fail(OUTRIDER_EMODEL, "%s: partial_rotary_factor %g is not supported", doc->path, part);
    TRY(document_float(doc, "rope_theta", 1, FLT_MAX, &r->theta));
    if (r->type == ROPE_DEFAULT) return OUTRIDER_OK;

    int32_t *original = &r->original_max_position_embeddings;
    TRY(document_int(doc, "original_max_position_embeddings", 2, 1 << 24, original));
    if (*original == 0 && r->type != ROPE_YARN && r->type != ROPE_LINEAR)
        return fail(OUTRIDER_EMODEL, "%s: original_max_position_embeddings is missing", doc->path);
    const bool derived = r->type == ROPE_LONG || (r->type == ROPE_YARN && *original);
    if (*original == 0) *original = m->max_position_embeddings;
    if (derived) r->factor = fmaxf(1, (float)m->max_position_embeddings / (float)*original);
    if (!derived && !document_get(doc, "factor"))
        return fail(OUTRIDER_EMODEL, "%s: %s has no factor", doc->path, object);
    TRY(document_float(doc, "factor", 1, 1e6f, &r->factor));
    if (r->type == ROPE_LLAMA3) TRY(read_llama3(doc, r));
    if (r->type == ROPE_YARN) TRY(read_yarn(doc, r));
    if (r->type == ROPE_LONG) TRY(read_long(doc, m->head_dim / 2, r));
    if (r->type == ROPE_LINEAR) return OUTRIDER_OK;
    return document_float(doc, "attention_factor", FLT_MIN, 1e3f, &r->attention_factor);
}

outrider_status rope_config_read(const struct document *doc, struct model_config *m) {
    const struct family *f = &m->family;
    float theta = f->rope_theta ? f->rope_theta : 10000, local = f->local_theta, part = 1;
    int32_t original = 0;
    TRY(document_float(doc, "rope_theta", 1, FLT_MAX, &theta));
    if (local) TRY(document_float(doc, "rope_local_base_freq", 1, FLT_MAX, &local));
    TRY(document_float(doc, "partial_rotary_factor", 0, 1, &part));
    TRY(document_int(doc, "original_max_position_embeddings", 2, 1 << 24, &original));
    if (part != 1)
        return fail(OUTRIDER_EMODEL, "%s: partial_rotary_factor %g is not supported", doc->path, part);

    const char *object = document_get(doc, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    const struct document all = {doc->path, document_get(doc, object)};
    struct document global = all, sliding = {doc->path, NULL};
    if (document_get(&all, "full_attention")) {
        global.root = document_get(&all, "full_attention");
        sliding.root = document_get(&all, "sliding_attention");
    }
    m->rope = (struct rope_config){.theta = theta, .original_max_position_embeddings = original};
    TRY(read_scaling(&global, object, m, &m->rope));
    m->rope_local = m->rope;
    if (!local && !sliding.root) return OUTRIDER_OK;
    m->rope_local = (struct rope_config){.theta = local ? local : theta};
    return read_scaling(&sliding, object, m, &m->rope_local);
}

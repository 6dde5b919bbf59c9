/* A folder to a GGUF file: metadata from the configuration, rows of queries and keys in pairs for the Llama
 * family, norms of Gemma with their 1 added, as other programs expect them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert.h"
#include "runtime/rope.h"
#include "runtime/status.h"
#include "weights/gguf_config.h"
#include "weights/names.h"
#include "weights/quants.h"

struct job {
    const struct conversion *c;
    struct model_config config;
    struct weights *weights;
    struct naming naming;
    const char *architecture;
    struct gguf_header header;
    struct new_file file;
};

/* ---- metadata ---- */

struct key {
    char text[96];
};
static const char *key_of(const struct job *j, const char *name, struct key *key) {
    snprintf(key->text, sizeof key->text, "%s.%s", j->architecture, name);
    return key->text;
}

static void put_size(struct job *j, const char *name, int64_t value) {
    struct key key;
    gguf_put_int(&j->header, key_of(j, name, &key), GGUF_UINT32, value);
}

static void put_number(struct job *j, const char *name, float value) {
    struct key key;
    gguf_put_float(&j->header, key_of(j, name, &key), value);
}

static outrider_status put_scaling(struct job *j) {
    static const char *const names[] = {[ROPE_DEFAULT] = NULL,
                                        [ROPE_LINEAR] = "linear",
                                        [ROPE_LLAMA3] = NULL,
                                        [ROPE_YARN] = "yarn",
                                        [ROPE_LONG] = "longrope"};
    const struct rope_config *r = &j->config.rope;
    struct key key;
    if (r->type == ROPE_LLAMA3 &&
        (r->low_freq_factor != 1 || r->high_freq_factor != 4 || r->original_max_position_embeddings != 8192))
        return fail(OUTRIDER_EMODEL, "%s: rope_scaling: a GGUF file can hold Llama 3's own numbers only",
                    j->c->from);
    if (!names[r->type]) return OUTRIDER_OK;
    gguf_put_text(&j->header, key_of(j, "rope.scaling.type", &key), names[r->type], strlen(names[r->type]));
    put_number(j, "rope.scaling.factor", r->factor);
    if (r->type == ROPE_LINEAR) return OUTRIDER_OK;
    put_size(j, "rope.scaling.original_context_length", r->original_max_position_embeddings);
    put_number(j, "rope.scaling.attn_factor", r->attention_factor);
    if (r->type != ROPE_YARN) return OUTRIDER_OK;
    put_number(j, "rope.scaling.yarn_beta_fast", r->beta_fast);
    put_number(j, "rope.scaling.yarn_beta_slow", r->beta_slow);
    return OUTRIDER_OK;
}

static outrider_status put_metadata(struct job *j) {
    const struct model_config *m = &j->config;
    const char *slash = strrchr(j->c->from, '/'), *name = slash && slash[1] ? slash + 1 : j->c->from;
    gguf_put_text(&j->header, "general.architecture", j->architecture, strlen(j->architecture));
    gguf_put_text(&j->header, "general.type", "model", 5);
    gguf_put_text(&j->header, "general.name", name, strlen(name));
    put_size(j, "vocab_size", m->vocab_size);
    put_size(j, "context_length", m->max_position_embeddings);
    put_size(j, "embedding_length", m->hidden_size);
    put_size(j, "block_count", m->num_hidden_layers);
    put_size(j, "feed_forward_length", m->intermediate_size);
    put_size(j, "attention.head_count", m->num_attention_heads);
    put_size(j, "attention.head_count_kv", m->num_key_value_heads);
    put_size(j, "attention.key_length", m->head_dim);
    put_size(j, "attention.value_length", m->head_dim);
    put_size(j, "rope.dimension_count", m->head_dim);
    put_number(j, "rope.freq_base", m->rope.theta);
    put_number(j, "attention.layer_norm_rms_epsilon", m->rms_norm_eps);
    if (m->sliding_window > 0) put_size(j, "attention.sliding_window", m->sliding_window);
    if (m->attn_logit_softcapping != 0) put_number(j, "attn_logit_softcapping", m->attn_logit_softcapping);
    if (m->final_logit_softcapping != 0) put_number(j, "final_logit_softcapping", m->final_logit_softcapping);
    gguf_put_int(&j->header, "general.quantization_version", GGUF_UINT32, 2);
    return put_scaling(j);
}

/* ---- tensors ---- */

static size_t bytes_as(enum dtype type, const struct tensor *t) {
    size_t rows = 1;
    for (int32_t i = 0; i + 1 < t->n_dims; i++) rows *= (size_t)t->shape[i];
    return rows * dtype_row_bytes(type, t->n_dims ? (size_t)t->shape[t->n_dims - 1] : 1);
}

/* Tensors that say again what the configuration says. */
static bool is_left_out(const struct tensor *t) {
    return strstr(t->name, "rotary_emb.inv_freq");
}

static outrider_status put_tensors(struct job *j) {
    char name[NAMES_MAX];
    for (size_t i = 0; i < weights_count(j->weights); i++) {
        const struct tensor *t = weights_at(j->weights, i);
        const enum dtype type = conversion_type(j->c, t);
        if (is_left_out(t)) continue;
        if (t->n_dims < 1 || t->n_dims > 2 || t->bytes == 0 || !name_to_gguf(&j->naming, t->name, name) ||
            strlen(name) > 63)
            return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\" has no place in a GGUF file", t->file,
                        t->name);
        gguf_put_tensor(&j->header, name, type, t->n_dims, t->shape, bytes_as(type, t));
    }
    return OUTRIDER_OK;
}

/* The factors that a reader divides the frequencies by. */
static void put_rope_tensors(struct job *j, const char *names[2], const float *factors[2], float *own) {
    const struct rope_config *r = &j->config.rope;
    const int32_t half = j->config.head_dim / 2;
    const int64_t shape = half;
    names[0] = names[1] = NULL;
    if (r->type == ROPE_LLAMA3) {
        struct rope_config plain = {.theta = r->theta};
        float scaled[CONFIG_MAX_HEAD_DIM / 2], usual[CONFIG_MAX_HEAD_DIM / 2];
        rope_frequencies(r, j->config.head_dim, 1, scaled);
        rope_frequencies(&plain, j->config.head_dim, 1, usual);
        for (int32_t i = 0; i < half; i++) own[i] = usual[i] / scaled[i];
        names[0] = "rope_freqs.weight", factors[0] = own;
    } else if (r->type == ROPE_LONG) {
        names[0] = "rope_factors_long.weight", factors[0] = r->long_factor;
        names[1] = "rope_factors_short.weight", factors[1] = r->short_factor;
    }
    for (int i = 0; i < 2 && names[i]; i++)
        gguf_put_tensor(&j->header, names[i], DTYPE_F32, 1, &shape, (size_t)half * sizeof(float));
}

/* Rows of a head from two halves to pairs that rotate together. */
static outrider_status write_paired(struct job *j, const char *rows, size_t n, size_t row_bytes,
                                    size_t head_rows) {
    const size_t half = head_rows / 2;
    for (size_t i = 0; i < n; i++) {
        const size_t in_head = i % head_rows, from = i - in_head + in_head % 2 * half + in_head / 2;
        TRY(new_file_write(&j->file, rows + from * row_bytes, row_bytes));
    }
    return OUTRIDER_OK;
}

static outrider_status write_matrix(struct job *j, const struct tensor *t) {
    const enum dtype type = conversion_type(j->c, t);
    const size_t bytes = bytes_as(type, t), n = (size_t)t->shape[0];
    bool keys;
    char *rows = malloc(bytes);
    if (!rows) return fail_memory(t->name, bytes);
    outrider_status status = weights_rows(t, type, 0, rows);
    if (status == OUTRIDER_OK && name_has_pairs(&j->naming, t->name, &keys))
        status = write_paired(j, rows, n, bytes / n, (size_t)j->config.head_dim);
    else if (status == OUTRIDER_OK)
        status = new_file_write(&j->file, rows, bytes);
    free(rows);
    return status == OUTRIDER_OK ? gguf_write_padding(&j->file, bytes) : status;
}

static outrider_status write_vector(struct job *j, const struct tensor *t) {
    const size_t n = (size_t)t->shape[0], bytes = n * sizeof(float);
    bool keys;
    float *values = malloc(bytes);
    if (!values) return fail_memory(t->name, bytes);
    outrider_status status = weights_vector(t, values);
    for (size_t i = 0; name_has_one_added(&j->naming, t->name) && i < n; i++) values[i] += 1;
    if (status == OUTRIDER_OK && name_has_pairs(&j->naming, t->name, &keys))
        status = write_paired(j, (char *)values, n, sizeof *values, (size_t)j->config.head_dim);
    else if (status == OUTRIDER_OK)
        status = new_file_write(&j->file, values, bytes);
    free(values);
    return status == OUTRIDER_OK ? gguf_write_padding(&j->file, bytes) : status;
}

static outrider_status write_tensors(struct job *j) {
    size_t done = 0, all = weights_bytes(j->weights);
    for (size_t i = 0; i < weights_count(j->weights); i++) {
        const struct tensor *t = weights_at(j->weights, i);
        if (is_left_out(t)) continue;
        TRY(t->n_dims == 1 ? write_vector(j, t) : write_matrix(j, t));
        done += t->bytes;
        conversion_report(j->c, done, all);
    }
    return OUTRIDER_OK;
}

/* ---- all ---- */

static outrider_status write_file(struct job *j) {
    const char *names[2];
    const float *factors[2];
    float own[CONFIG_MAX_HEAD_DIM / 2];
    const size_t bytes = (size_t)j->config.head_dim / 2 * sizeof(float);
    TRY(put_metadata(j));
    TRY(convert_tokenizer(j->c->from, &j->config, &j->header));
    TRY(put_tensors(j));
    put_rope_tensors(j, names, factors, own);
    TRY(new_file_open(j->c->options->output, NEW_FILE_SHARED, &j->file));
    TRY(gguf_write_header(&j->header, &j->file));
    TRY(write_tensors(j));
    for (int i = 0; i < 2 && names[i]; i++) {
        TRY(new_file_write(&j->file, factors[i], bytes));
        TRY(gguf_write_padding(&j->file, bytes));
    }
    TRY(conversion_verify(j->c, j->file.temporary));
    return new_file_finish(&j->file);
}

outrider_status convert_to_gguf(const struct conversion *c) {
    struct job j = {.c = c};
    struct generation_config generation;
    TRY(config_read(c->from, &j.config, &generation));
    j.architecture = gguf_architecture(j.config.model_type);
    if (!j.architecture)
        return fail(OUTRIDER_EMODEL, "%s: model_type %s has no GGUF architecture", c->from,
                    j.config.model_type);
    j.naming = naming_of(j.architecture);
    TRY(weights_open(c->from, &j.weights));
    outrider_status status = conversion_check(c->from, &j.config, j.weights);
    if (status == OUTRIDER_OK) status = write_file(&j);
    new_file_drop(&j.file);
    gguf_header_free(&j.header);
    weights_close(j.weights);
    return status;
}

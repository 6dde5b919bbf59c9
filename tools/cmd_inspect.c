/* outrider inspect: what a model is and, with a draft, what the pair needs. Reads the folders' headers only.
 */
#include <stdio.h>
#include <string.h>

#include "tools/options.h"
#include "tools/setup.h"
#include "tools/text.h"
#include "tools/tools.h"

enum { MIB = 1 << 20 };

static void print_model(const char *role, const char *folder, const outrider_model_info *m) {
    printf("%s: %s\n", role, folder);
    printf("  kind        %s, %s weights", m->model_type, m->file_dtype);
    if (strcmp(m->dtype, m->file_dtype) != 0) printf(", held as %s", m->dtype);
    if (strcmp(m->file_dtype, "e4m3") == 0) printf(" (as bf16 on a card)");
    printf("\n");
    printf("  shape       %d layers of %d, feed-forward %d, vocabulary %d\n", m->num_hidden_layers,
           m->hidden_size, m->intermediate_size, m->vocab_size);
    printf("  attention   %d heads of %d, %d for keys and values\n", m->num_attention_heads, m->head_dim,
           m->num_key_value_heads);
    printf("  context     %d tokens\n", m->max_position_embeddings);
    printf("  parameters  %.1f million\n", (double)m->parameters / 1e6);
    printf("  weights     %.1f MiB in the files, %.1f MiB in memory, %.1f MiB read for each token\n",
           (double)m->weight_bytes / MIB, (double)m->memory_bytes / MIB, (double)m->streamed_bytes / MIB);
    for (int32_t i = 0; i < m->n_types; i++)
        printf("  %s %d tensors of %s, %.1f MiB\n", i == 0 ? "types      " : "           ",
               m->types[i].tensors, m->types[i].dtype, (double)m->types[i].bytes / MIB);
    printf("  cache       %llu bytes a token\n", (unsigned long long)m->cache_bytes_per_token);
}

static void print_entry(void *user, const char *key, const char *value) {
    bool *begun = user;
    printf("  %s %s = %s\n", *begun ? "           " : "metadata   ", key, value);
    *begun = true;
}

static int print_metadata(const char *model) {
    bool begun = false;
    return tell(outrider_inspect_metadata(model, print_entry, &begun));
}

static void add_entry(void *user, const char *key, const char *value) {
    json_object_set_new(user, key, json_text(value, strlen(value)));
}

/* The tensors' types, and the metadata where there are some. */
static int add_contents(json_t *model, const char *name, const outrider_model_info *m) {
    json_t *types = json_object(), *metadata = json_object();
    for (int32_t i = 0; i < m->n_types; i++)
        json_object_set_new(
            types, m->types[i].dtype,
            json_pack("{s:i, s:I}", "tensors", m->types[i].tensors, "bytes", (json_int_t)m->types[i].bytes));
    json_object_set_new(model, "types", types);
    int code = tell(outrider_inspect_metadata(name, add_entry, metadata));
    if (json_object_size(metadata))
        json_object_set_new(model, "metadata", metadata);
    else
        json_decref(metadata);
    return code;
}

static json_t *model_json(const char *folder, const outrider_model_info *m) {
    return json_pack("{s:o, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:s, s:I}",
                     "model", json_text(folder, strlen(folder)), "model_type", m->model_type, "dtype",
                     m->dtype, "vocab_size", m->vocab_size, "hidden_size", m->hidden_size,
                     "intermediate_size", m->intermediate_size, "num_hidden_layers", m->num_hidden_layers,
                     "num_attention_heads", m->num_attention_heads, "num_key_value_heads",
                     m->num_key_value_heads, "head_dim", m->head_dim, "max_position_embeddings",
                     m->max_position_embeddings, "parameters", (json_int_t)m->parameters, "weight_bytes",
                     (json_int_t)m->weight_bytes, "streamed_bytes", (json_int_t)m->streamed_bytes,
                     "cache_bytes_per_token", (json_int_t)m->cache_bytes_per_token, "file_dtype",
                     m->file_dtype, "memory_bytes", (json_int_t)m->memory_bytes);
}

struct need {
    int64_t ctx_size, known; /* tokens: the context's, and what both models know at most */
    uint64_t weights, cache;
};

/* Both models at the context asked for, or at the one that run and chat take unasked. */
static struct need pair_need(const struct options *o, const outrider_model_info *v,
                             const outrider_model_info *d) {
    int64_t known = v->max_position_embeddings;
    if (d->max_position_embeddings && d->max_position_embeddings < known) known = d->max_position_embeddings;
    int64_t asked = o->values[OPT_CTX_SIZE].integer, usual = known < 8192 ? known : 8192;
    struct need need = {
        .ctx_size = asked ? asked : usual, .known = known, .weights = v->memory_bytes + d->memory_bytes};
    need.cache = (uint64_t)need.ctx_size * (v->cache_bytes_per_token + d->cache_bytes_per_token);
    return need;
}

static int write_inspection(const struct pair *pair, const outrider_model_info *v,
                            const outrider_model_info *d, const struct need *need) {
    json_t *result = json_pack("{s:o, s:I, s:I, s:I, s:I}", "verifier", model_json(pair->model, v),
                               "ctx_size", (json_int_t)need->ctx_size, "need_weight_bytes",
                               (json_int_t)need->weights, "need_cache_bytes", (json_int_t)need->cache,
                               "need_bytes", (json_int_t)(need->weights + need->cache));
    if (!result) return complain_memory();
    int code = add_contents(json_object_get(result, "verifier"), pair->model, v);
    if (pair->draft[0]) {
        json_object_set_new(result, "draft", model_json(pair->draft, d));
        if (!code) code = add_contents(json_object_get(result, "draft"), pair->draft, d);
    }
    if (code) {
        json_decref(result);
        return code;
    }
    return write_json(stdout, result, JSON_INDENT(2));
}

int cmd_inspect(struct options *o) {
    struct pair pair;
    outrider_model_info verifier = {0}, draft = {0};
    const char *k = o->values[OPT_CACHE_TYPE].text, *v = o->values[OPT_CACHE_TYPE_V].text;
    CHECK(setup_pair(o, &pair));
    CHECK(setup_sandbox(o, NULL, false));
    CHECK(tell(outrider_inspect(pair.model, k, v, o->values[OPT_QUANT].text, &verifier)));
    if (pair.draft[0])
        CHECK(tell(outrider_inspect(pair.draft, k, v, o->values[OPT_DRAFT_QUANT].text, &draft)));
    struct need need = pair_need(o, &verifier, &draft);
    if (o->values[OPT_JSON].integer) return write_inspection(&pair, &verifier, &draft, &need);
    print_model("verifier", pair.model, &verifier);
    CHECK(print_metadata(pair.model));
    if (pair.draft[0]) {
        print_model("draft", pair.draft, &draft);
        CHECK(print_metadata(pair.draft));
    }
    printf("memory for a context of %lld tokens: %.1f MiB of weights and %.1f MiB of cache\n",
           (long long)need.ctx_size, (double)need.weights / MIB, (double)need.cache / MIB);
    if (need.known > need.ctx_size)
        printf("run and chat take that context unless -c says more: %lld tokens are known\n",
               (long long)need.known);
    if (pair.draft[0] && draft.max_position_embeddings < verifier.max_position_embeddings)
        printf("the draft knows fewer positions than the verifier and bounds the context\n");
    return 0;
}

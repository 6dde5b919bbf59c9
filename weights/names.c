/* The table of names; see names.h. Source: tensor_mapping.py of the `gguf` package, and what
 * convert_hf_to_gguf.py of llama.cpp does to each family's tensors. */
#include "weights/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum which { ALL, GEMMA, OTHERS, FUSED, APART };

static const struct name {
    const char *gguf, *hf;
    enum which which;
} outside[] =
    {
        {"token_embd", "model.embed_tokens", ALL},
        {"output_norm", "model.norm", ALL},
        {"output", "lm_head", ALL},
},
  inside[] = {
      {"attn_norm", "input_layernorm", ALL},
      {"attn_q", "self_attn.q_proj", ALL},
      {"attn_k", "self_attn.k_proj", ALL},
      {"attn_v", "self_attn.v_proj", ALL},
      {"attn_qkv", "self_attn.qkv_proj", ALL},
      {"attn_output", "self_attn.o_proj", ALL},
      {"attn_q_norm", "self_attn.q_norm", ALL},
      {"attn_k_norm", "self_attn.k_norm", ALL},
      {"post_attention_norm", "post_attention_layernorm", GEMMA},
      {"ffn_norm", "pre_feedforward_layernorm", GEMMA},
      {"post_ffw_norm", "post_feedforward_layernorm", GEMMA},
      {"ffn_norm", "post_attention_layernorm", OTHERS},
      {"ffn_gate", "mlp.gate_proj", APART},
      {"ffn_up", "mlp.up_proj", APART},
      {"ffn_up", "mlp.gate_up_proj", FUSED},
      {"ffn_down", "mlp.down_proj", ALL},
};

struct naming naming_of(const char *architecture) {
    return (struct naming){.gemma = strncmp(architecture, "gemma", 5) == 0,
                           .fused = strcmp(architecture, "phi3") == 0,
                           .pairs = strcmp(architecture, "llama") == 0};
}

static bool applies(const struct naming *naming, enum which which) {
    return which == ALL || which == (naming->gemma ? GEMMA : OTHERS) ||
           which == (naming->fused ? FUSED : APART);
}

/* Translates `stem` + ".weight" or ".bias" behind `prefix` by a table, in either direction. */
static bool translate(const struct naming *naming, const struct name *table, size_t n, bool to_hf,
                      const char *name, const char *prefix, char out[NAMES_MAX]) {
    const char *kind = strrchr(name, '.');
    if (!kind || (strcmp(kind, ".weight") != 0 && strcmp(kind, ".bias") != 0)) return false;
    for (size_t i = 0; i < n; i++) {
        const char *from = to_hf ? table[i].gguf : table[i].hf, *to = to_hf ? table[i].hf : table[i].gguf;
        if (strlen(from) != (size_t)(kind - name) || memcmp(from, name, strlen(from)) != 0) continue;
        if (!applies(naming, table[i].which)) continue;
        snprintf(out, NAMES_MAX, "%s%s%s", prefix, to, kind);
        return true;
    }
    return false;
}

/* The part of the name behind `prefix`, a number and a dot; NULL when it has not this form. */
static const char *layer_of(const char *name, const char *prefix, long *layer) {
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return NULL;
    if (name[n] == '0' && name[n + 1] != '.')
        return NULL; /* one spelling a layer, or two names would be one */
    char *end;
    *layer = strtol(name + n, &end, 10);
    return *end == '.' && *layer <= 99999 ? end + 1 : NULL;
}

static bool name_across(const struct naming *naming, bool to_hf, const char *name, char out[NAMES_MAX]) {
    static const char *const prefixes[] = {"blk.", "model.layers."};
    long layer;
    char prefix[32];
    const char *inner = layer_of(name, prefixes[to_hf ? 0 : 1], &layer);
    if (!inner) return translate(naming, outside, sizeof outside / sizeof *outside, to_hf, name, "", out);
    snprintf(prefix, sizeof prefix, "%s%ld.", prefixes[to_hf ? 1 : 0], layer);
    return translate(naming, inside, sizeof inside / sizeof *inside, to_hf, inner, prefix, out);
}

bool name_to_hf(const struct naming *naming, const char *gguf, char out[NAMES_MAX]) {
    snprintf(out, NAMES_MAX, "%s", gguf);
    return name_across(naming, true, gguf, out);
}

bool name_to_gguf(const struct naming *naming, const char *hf, char out[NAMES_MAX]) {
    snprintf(out, NAMES_MAX, "%s", hf);
    return name_across(naming, false, hf, out);
}

bool name_has_pairs(const struct naming *naming, const char *hf, bool *keys) {
    *keys = strstr(hf, ".self_attn.k_proj.");
    return naming->pairs && (*keys || strstr(hf, ".self_attn.q_proj."));
}

bool name_has_one_added(const struct naming *naming, const char *hf) {
    size_t n = strlen(hf), tail = strlen("norm.weight");
    return naming->gemma && n >= tail && strcmp(hf + n - tail, "norm.weight") == 0;
}

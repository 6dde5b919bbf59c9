/* The table of model families; see family.h. */
#include "weights/family.h"

#include <stddef.h>
#include <string.h>

#define GEMMA                                                                                                \
    .windowed = WINDOW_CYCLE, .window = 4096, .post_norms = true, .norm_plus_one = true, .gelu = true,       \
    .scaled_embedding = true, .tied = true, .query_pre_attn_scalar = 256

/* Biases that config.json switches on (attention_bias, mlp_bias) are added by config.c. */
#define FAMILIES(ROW)                                                                                        \
    ROW("llama", .windowed = WINDOW_NEVER)                                                                   \
    ROW("mistral", .windowed = WINDOW_ALL)                                                                   \
    ROW("qwen2", .windowed = WINDOW_UPPER, .window = 4096, .qkv_bias = true)                                 \
    ROW("qwen3", .windowed = WINDOW_UPPER, .window = 4096, .qk_norm = true)                                  \
    ROW("gemma2", GEMMA, .cycle = 2, .attn_logit_softcapping = 50, .final_logit_softcapping = 30)            \
    ROW("gemma3_text", GEMMA, .cycle = 6, .qk_norm = true, .rope_theta = 1e6f, .local_theta = 1e4f)          \
    ROW("phi3", .windowed = WINDOW_ALL, .fused = true)

#define ENTRY(name, ...) {name, __VA_ARGS__},
static const struct family families[] = {FAMILIES(ENTRY)};

#define NAME(name, ...) ", " name
static const char names[] = FAMILIES(NAME);

const struct family *family_find(const char *model_type) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
    return NULL;
}

const char *family_names(void) {
    return names + 2;
}

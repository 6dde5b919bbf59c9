/* See scales.h. NAME.weight has its scales in NAME.weight_scale, or weight_scale_inv, which in spite of its
 * name is a factor too (transformers, vLLM, compressed-tensors, FBGEMM). */
#include "weights/scales.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"

enum { BLOCK = 128, NAME_MAX_BYTES = 256 };

static const char *const suffixes[] = {".weight_scale", ".weight_scale_inv"};
/* Of activations and of the cache, which stay as they are here. */
static const char *const unused[] = {".input_scale", ".input_scale_ub", ".activation_scale", ".k_scale",
                                     ".v_scale"};

/* What stands before the suffix; 0 when the name does not end in it. */
static size_t stem(const char *name, const char *suffix) {
    const size_t n = strlen(name), end = strlen(suffix);
    return n > end && strcmp(name + n - end, suffix) == 0 ? n - end : 0;
}

/* NULL when there is none; *several when both names are there. */
static const struct tensor *find_scale(const struct tensor_list *list, const struct tensor *t,
                                       bool *several) {
    const size_t n = stem(t->name, ".weight");
    const struct tensor *found = NULL;
    char name[NAME_MAX_BYTES];
    *several = false;
    for (size_t i = 0; n > 0 && i < sizeof suffixes / sizeof *suffixes; i++) {
        if (snprintf(name, sizeof name, "%.*s%s", (int)n, t->name, suffixes[i]) >= (int)sizeof name) continue;
        const struct tensor *s = tensor_list_find(list, name);
        *several |= s && found;
        if (s) found = s;
    }
    return found;
}

static int64_t blocks(int64_t n) {
    return n / BLOCK + (n % BLOCK > 0);
}

static outrider_status attach(const struct tensor_list *list, struct tensor *t) {
    if (t->n_dims != 2 || t->shape[0] < 1 || t->shape[1] < 1)
        return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\": F8_E4M3 is read in matrices only", t->file,
                    t->name);
    bool several;
    const struct tensor *s = find_scale(list, t, &several);
    if (several)
        return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\" has both a weight_scale and a weight_scale_inv",
                    t->file, t->name);
    if (!s)
        return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\" is F8_E4M3 and has no weight_scale", t->file,
                    t->name);
    const int64_t n = t->shape[0], k = t->shape[1], rows = s->shape[0], cols = s->shape[1];
    t->scales = (struct scales){.data = s->data, .dtype = s->dtype, .cols = (size_t)k, .stride = 1};
    if (s->n_dims <= 2 && rows == 1 && cols == 1)
        t->scales.rows = (size_t)n;
    else if (s->n_dims <= 2 && rows == n && cols == 1)
        t->scales.rows = 1;
    else if (s->n_dims == 2 && rows == blocks(n) && cols == blocks(k))
        t->scales.rows = t->scales.cols = BLOCK, t->scales.stride = (size_t)cols;
    else
        return fail(
            OUTRIDER_EMODEL,
            "%s: tensor \"%.100s\": its shape is neither one scale, nor one for each row, nor one for "
            "each block of 128 by 128",
            s->file, s->name);
    if (s->dtype != DTYPE_E4M3) return OUTRIDER_OK;
    return fail(OUTRIDER_EMODEL, "%s: tensor \"%.100s\": scales are F32, F16 or BF16", s->file, s->name);
}

static bool is_scale(const struct tensor_list *list, const struct tensor *t) {
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char name[NAME_MAX_BYTES];
        const size_t n = stem(t->name, suffixes[i]);
        if (n == 0 || snprintf(name, sizeof name, "%.*s.weight", (int)n, t->name) >= (int)sizeof name)
            continue;
        const struct tensor *of = tensor_list_find(list, name);
        return of && of->dtype == DTYPE_E4M3;
    }
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        if (stem(t->name, unused[i])) return true;
    return false;
}

outrider_status scales_attach(struct tensor_list *list) {
    size_t kept = 0, floats = 0;
    bool *dropped = calloc(list->n + 1, sizeof *dropped);
    if (!dropped) return fail_memory("the list of tensors", list->n);
    outrider_status status = OUTRIDER_OK;
    for (size_t i = 0; i < list->n; i++) {
        if (list->at[i].dtype != DTYPE_E4M3) continue;
        TRY_GOTO(done, attach(list, &list->at[i]));
        floats++;
    }
    for (size_t i = 0; i < list->n && floats > 0; i++) dropped[i] = is_scale(list, &list->at[i]);
    for (size_t i = 0; i < list->n; i++) {
        if (dropped[i])
            free((char *)list->at[i].name);
        else
            list->at[kept++] = list->at[i];
    }
    list->n = kept;
done:
    free(dropped);
    return status;
}

/* Opens what a pair needs and owns it: backend, both models, tokenizer, page cache; and the calls of the
 * public API that concern the engine rather than a session. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/engine.h"
#include "runtime/status.h"
#include "weights/gguf.h"
#include "weights/hub.h"
#include "weights/source.h"

const char *outrider_version(void) {
    return OUTRIDER_VERSION;
}

outrider_engine_options outrider_engine_defaults(void) {
    return (outrider_engine_options){.device = "auto",
                                     .max_sessions = 1,
                                     .page_size = 64,
                                     .cache_type = "f16",
                                     .quant = "none",
                                     .draft_quant = "none"};
}

static outrider_settings built_in_settings(void) {
    return (outrider_settings){.temperature = 0.8f,
                               .top_k = 40,
                               .top_p = 0.95f,
                               .min_p = 0.05f,
                               .repeat_penalty = 1,
                               .repeat_last_n = 64,
                               .n_predict = -1,
                               .draft_n = -1,
                               .drafters = OUTRIDER_DRAFT_MODEL | OUTRIDER_DRAFT_NGRAM | OUTRIDER_DRAFT_SELF,
                               .accept = OUTRIDER_ACCEPT_BLOCK};
}

static outrider_settings model_settings(const struct generation_config *g) {
    outrider_settings s = built_in_settings();
    if (!isnan(g->temperature)) s.temperature = g->temperature;
    if (!isnan(g->top_p)) s.top_p = g->top_p;
    if (!isnan(g->min_p)) s.min_p = g->min_p;
    if (!isnan(g->repetition_penalty)) s.repeat_penalty = g->repetition_penalty;
    if (g->top_k >= 0) s.top_k = g->top_k;
    if (g->do_sample == 0) s.temperature = 0;
    return s;
}

outrider_settings outrider_settings_defaults(const outrider_engine *e) {
    return e ? model_settings(&e->model[OUTRIDER_VERIFIER]->generation) : built_in_settings();
}

outrider_status outrider_model_settings(const char *folder, outrider_settings *settings) {
    struct model_config c;
    struct generation_config g;
    TRY(config_read(folder, &c, &g));
    *settings = model_settings(&g);
    return OUTRIDER_OK;
}

/* ---- opening ---- */

struct cache_types {
    enum dtype k, v;
};

static outrider_status cache_type(const char *name, enum dtype *type) {
    if (strcmp(name, "f16") == 0) return *type = DTYPE_F16, OUTRIDER_OK;
    if (strcmp(name, "f32") == 0) return *type = DTYPE_F32, OUTRIDER_OK;
    if (strcmp(name, "q8") == 0 || strcmp(name, "q8_0") == 0) return *type = DTYPE_Q8_0, OUTRIDER_OK;
    return fail(OUTRIDER_EINVAL, "cache type %s: there are f16, f32 and q8", name);
}

/* Of keys and of values, which without a name of their own are kept as keys are. */
static outrider_status cache_types(const char *k, const char *v, struct cache_types *out) {
    TRY(cache_type(k, &out->k));
    return cache_type(v ? v : k, &out->v);
}

static outrider_status check_options(const outrider_engine_options *o) {
    if (!o->model) return fail(OUTRIDER_EINVAL, "no model is named");
    if (o->threads < 0 || o->threads > 1024)
        return fail(OUTRIDER_EINVAL, "threads %d: must be from 0 to 1024", o->threads);
    if (o->ctx_size < 0)
        return fail(OUTRIDER_EINVAL, "context size %d: must be 0 (the model's) or more", o->ctx_size);
    if (o->cache_tokens < 0)
        return fail(OUTRIDER_EINVAL, "cache tokens %d: must be 0 (all contexts) or more", o->cache_tokens);
    if (o->max_sessions < 1 || o->max_sessions > 4096)
        return fail(OUTRIDER_EINVAL, "max sessions %d: must be from 1 to 4096", o->max_sessions);
    if (o->page_size < 16 || o->page_size > 256 || (o->page_size & (o->page_size - 1)))
        return fail(OUTRIDER_EINVAL, "page size %d: must be 16, 32, 64, 128 or 256", o->page_size);
    return OUTRIDER_OK;
}

struct load {
    const outrider_engine_options *options;
    const char *stage;
};

static void report(void *user, double done, double total) {
    const struct load *l = user;
    if (l->options->progress) l->options->progress(l->options->progress_user, l->stage, done, total);
}

static void copy_page(void *user, int32_t to, int32_t from) {
    outrider_engine *e = user;
    for (int m = 0; m < KV_MODELS; m++)
        if (e->model[m]) model_copy_page(e->model[m], to, from);
}

/* Pages of the pool: every session's whole context, or what cache_tokens says, at least one session's. */
static outrider_status count_pages(outrider_engine *e, const outrider_engine_options *o) {
    int32_t per_session = (e->ctx_size + o->page_size - 1) / o->page_size;
    int32_t asked = o->cache_tokens / o->page_size + (o->cache_tokens % o->page_size > 0);
    bool limited = o->cache_tokens > 0;
    int32_t spare =
        (OUTRIDER_MAX_DRAFT + o->page_size) / o->page_size; /* for the meters, when sessions hold all */
    if (limited) e->pages = asked > per_session ? asked : per_session;
    if ((!limited && __builtin_mul_overflow(per_session, o->max_sessions, &e->pages)) ||
        __builtin_add_overflow(e->pages, spare, &e->pages))
        return fail(OUTRIDER_ENOMEM, "context %d for %d sessions: more pages than can be counted",
                    e->ctx_size, o->max_sessions);
    return OUTRIDER_OK;
}

/* The context: what was asked for, at most what both models know; unasked, that limit up to DEFAULT_CONTEXT,
 * for a cache of a hundred thousand tokens is nothing to take from people by surprise. */
enum { DEFAULT_CONTEXT = 8192 };

static outrider_status choose_context(outrider_engine *e, const outrider_engine_options *o) {
    struct model_config c;
    struct generation_config g;
    const char *folders[] = {o->model, o->draft};
    e->ctx_size = o->ctx_size ? o->ctx_size : DEFAULT_CONTEXT;
    e->ctx_origin = o->ctx_size ? OUTRIDER_CTX_ASKED : OUTRIDER_CTX_DEFAULT;
    for (int i = 0; i < KV_MODELS; i++) {
        if (!folders[i]) continue;
        TRY(config_read(folders[i], &c, &g));
        if (o->ctx_size > c.max_position_embeddings)
            return fail(OUTRIDER_EINVAL, "context size %d: %s knows %d positions, so give at most that",
                        o->ctx_size, folders[i], c.max_position_embeddings);
        if (o->ctx_size > 0 || c.max_position_embeddings >= e->ctx_size) continue;
        e->ctx_size = c.max_position_embeddings;
        e->ctx_origin = i == OUTRIDER_VERIFIER ? OUTRIDER_CTX_VERIFIER : OUTRIDER_CTX_DRAFT;
    }
    return count_pages(e, o);
}

static outrider_status open_model(outrider_engine *e, const outrider_engine_options *o, outrider_which which,
                                  struct cache_types cache) {
    int32_t batched = o->max_sessions < MAX_BATCH_SESSIONS ? o->max_sessions : MAX_BATCH_SESSIONS;
    int32_t verify_rows = batched * (OUTRIDER_MAX_DRAFT + 1);
    enum quant quant;
    TRY(quant_by_name(which == OUTRIDER_VERIFIER ? o->quant : o->draft_quant, &quant));
    if (quant == QUANT_F8 && !e->ops->f8_weights)
        return fail(OUTRIDER_EINVAL, "quantisation fp8: %s has no kernels for it; q8 takes 3%% more",
                    e->ops->name);
    static const char *const stages[][KV_MODELS] = {{"loading the verifier", "loading the draft"},
                                                    {"quantising the verifier", "quantising the draft"}};
    struct load load = {o, stages[quant != QUANT_NONE][which]};
    struct model_options mo = {.folder = which == OUTRIDER_VERIFIER ? o->model : o->draft,
                               .id = which,
                               .ops = e->ops,
                               .be = e->be,
                               .cache_k = cache.k,
                               .cache_v = cache.v,
                               .quant = quant,
                               .threads = o->threads,
                               .page_size = o->page_size,
                               .pages = e->pages,
                               .ctx_size = e->ctx_size,
                               .max_rows = verify_rows > PREFILL_CHUNK ? verify_rows : PREFILL_CHUNK,
                               .max_logits = verify_rows > SCORE_CHUNK ? verify_rows : SCORE_CHUNK,
                               .progress = report,
                               .user = &load};
    return model_open(&mo, &e->model[which]);
}

/* Heads are padded to round sizes, one model's more than the other's. Only what both have, which is all that
 * the tokenizer has, is ever proposed or sampled. */
static outrider_status share_vocabulary(outrider_engine *e, const outrider_engine_options *o) {
    struct model *v = e->model[OUTRIDER_VERIFIER], *d = e->model[OUTRIDER_DRAFT];
    int32_t shared =
        v->config.vocab_size < d->config.vocab_size ? v->config.vocab_size : d->config.vocab_size;
    if (tokenizer_size(e->tokenizer) > shared)
        return fail(OUTRIDER_EMODEL,
                    "%s cannot draft for %s: the tokenizer has %d pieces, vocab_size is %d and %d", o->draft,
                    o->model, tokenizer_size(e->tokenizer), d->config.vocab_size, v->config.vocab_size);
    TRY(model_limit_vocabulary(v, shared));
    return model_limit_vocabulary(d, shared);
}

outrider_status outrider_engine_self_layers(outrider_engine *e, int32_t layers) {
    const struct model *v = e->model[OUTRIDER_VERIFIER];
    const int32_t has = v->config.num_hidden_layers, n = layers == -1 ? (has + 1) / 2 : layers;
    if (n < 0 || n > has)
        return fail(OUTRIDER_EINVAL, "self layers %d: the model has %d; -1 stands for half of them", n, has);
    model_close(e->model[OUTRIDER_SELF]);
    e->model[OUTRIDER_SELF] = NULL;
    e->costs.known = false;
    return n == 0 ? OUTRIDER_OK : model_prefix(v, OUTRIDER_SELF, n, &e->model[OUTRIDER_SELF]);
}

/* A draft serves a verifier when every token means the same to both. */
static outrider_status check_pair(outrider_engine *e, const outrider_engine_options *o) {
    const struct model *v = e->model[OUTRIDER_VERIFIER], *d = e->model[OUTRIDER_DRAFT];
    if (tokenizer_size(e->tokenizer) > v->config.vocab_size)
        return fail(OUTRIDER_EMODEL, "%s: the tokenizer has %d pieces, the model's vocab_size is %d",
                    o->model, tokenizer_size(e->tokenizer), v->config.vocab_size);
    if (!d) return OUTRIDER_OK;
    struct tokenizer *t;
    TRY(tokenizer_open(o->draft, &t));
    int32_t differs = tokenizer_difference(e->tokenizer, t);
    outrider_status status = OUTRIDER_OK;
    char ours[80], theirs[80];
    if (differs >= 0)
        status = fail(OUTRIDER_EMODEL,
                      "%s cannot draft for %s: their tokenizers differ from piece %d on, %s against %s",
                      o->draft, o->model, differs, tokenizer_spell(t, differs, theirs),
                      tokenizer_spell(e->tokenizer, differs, ours));
    tokenizer_close(t);
    return status == OUTRIDER_OK ? share_vocabulary(e, o) : status;
}

static outrider_status choose_chat(outrider_engine *e, const outrider_engine_options *o) {
    outrider_status named = OUTRIDER_EINVAL;
    if (o->chat_template) {
        named = chat_by_name(o->chat_template, &e->chat);
        if (named != OUTRIDER_OK && access(o->chat_template, F_OK) != 0) return named;
        if (named != OUTRIDER_OK) TRY(tokenizer_read_template(e->tokenizer, o->chat_template));
    }
    if (named != OUTRIDER_OK && chat_detect(tokenizer_chat_template(e->tokenizer), &e->chat) != OUTRIDER_OK)
        e->chat = CHAT_OWN; /* what is wrong with it is a matter for those who chat only */
    e->chat_end = chat_end_token(e->tokenizer, e->chat);
    return OUTRIDER_OK;
}

static outrider_status open_engine(const outrider_engine_options *o, outrider_engine **out) {
    struct cache_types cache;
    TRY(check_options(o));
    TRY(cache_types(o->cache_type, o->cache_type_v, &cache));
    outrider_engine *e = calloc(1, sizeof *e);
    if (!e) return fail_memory("an engine", sizeof *e);
    e->options = *o;
    outrider_status status;
    if (o->cost_cache && !(e->cost_cache = strdup(o->cost_cache))) {
        status = fail_memory("a path", strlen(o->cost_cache));
        goto cleanup;
    }
    TRY_GOTO(cleanup, choose_context(e, o));
    TRY_GOTO(cleanup, tokenizer_open(o->model, &e->tokenizer));
    TRY_GOTO(cleanup, choose_chat(e, o));
    TRY_GOTO(cleanup, ops_open(o->device, o->threads, &e->ops, &e->be));
    if (cache.k != cache.v && !e->ops->mixed_cache) {
        status = fail(OUTRIDER_EINVAL, "cache type %s for keys and %s for values: on %s both must be one",
                      o->cache_type, o->cache_type_v, e->ops->name);
        goto cleanup;
    }
    TRY_GOTO(cleanup, open_model(e, o, OUTRIDER_VERIFIER, cache));
    if (o->draft) TRY_GOTO(cleanup, open_model(e, o, OUTRIDER_DRAFT, cache));
    TRY_GOTO(cleanup, check_pair(e, o));
    TRY_GOTO(cleanup, outrider_engine_self_layers(e, o->self_layers));
    struct kv_options kv = {.slots = slots_of(e),
                            .max_len = e->ctx_size,
                            .page_size = o->page_size,
                            .pages = e->pages,
                            .copy_page = copy_page,
                            .user = e};
    TRY_GOTO(cleanup, kv_create(&kv, &e->kv));
    TRY_GOTO(cleanup, batch_create(e, e->model[OUTRIDER_VERIFIER]->max_rows));
    if (!(e->order = calloc((size_t)o->max_sessions, sizeof(outrider_session *)))) {
        status = fail_memory("the order of sessions", (size_t)o->max_sessions * sizeof *e->order);
        goto cleanup;
    }
    for (int32_t i = 1; i <= TREE_LEVELS; i++) tree_shape(tree_levels(i), TREE_ROWS, &e->trees[i]);
    *out = e;
    return OUTRIDER_OK;
cleanup:
    outrider_engine_close(e);
    return status;
}

/* From here on models are paths. */
outrider_status outrider_engine_open(const outrider_engine_options *o, outrider_engine **out) {
    char *model = NULL, *draft = NULL;
    outrider_engine_options resolved = *o;
    outrider_status status = OUTRIDER_OK;
    *out = NULL;
    if (o->model) TRY_GOTO(done, hub_resolve(o->model, &model));
    if (o->draft) TRY_GOTO(done, hub_resolve(o->draft, &draft));
    resolved.model = model;
    resolved.draft = draft;
    status = open_engine(&resolved, out);
done:
    free(model);
    free(draft);
    return status;
}

void outrider_engine_close(outrider_engine *e) {
    if (!e) return;
    batch_destroy(e);
    for (int m = 0; m < MODELS; m++) model_close(e->model[m]);
    kv_destroy(e->kv);
    tokenizer_close(e->tokenizer);
    if (e->be) e->ops->close(e->be);
    free(e->cost_cache);
    free(e->order);
    free(e);
}

/* ---- description ---- */

outrider_status outrider_inspect(const char *model, const char *cache, const char *cache_v,
                                 const char *quant_name, outrider_model_info *info) {
    struct cache_types types;
    enum quant quant;
    TRY(cache_types(cache, cache_v, &types));
    TRY(quant_by_name(quant_name, &quant));
    char *path;
    TRY(hub_resolve(model, &path));
    outrider_status status = model_inspect(path, types.k, types.v, quant, info);
    free(path);
    return status;
}

outrider_status outrider_inspect_metadata(const char *model,
                                          void (*entry)(void *user, const char *key, const char *value),
                                          void *user) {
    enum { SHOWN = 200 };
    char *path = NULL, *file = NULL, key[128], value[SHOWN];
    struct gguf *g = NULL;
    outrider_status status;
    TRY_GOTO(done, hub_resolve(model, &path));
    TRY_GOTO(done, source_gguf(path, &file));
    if (file) TRY_GOTO(done, gguf_open(file, &g));
    for (size_t i = 0; g && i < gguf_count(g); i++) {
        const struct gguf_value *v = gguf_at(g, i);
        snprintf(key, sizeof key, "%.*s", (int)(v->key.bytes < sizeof key ? v->key.bytes : sizeof key),
                 v->key.at);
        gguf_show(v, value, sizeof value);
        entry(user, key, value);
    }
done:
    gguf_close(g);
    free(file);
    free(path);
    return status;
}

outrider_status outrider_engine_get_info(const outrider_engine *e, outrider_engine_info *info) {
    const struct model *self = e->model[OUTRIDER_SELF];
    *info = (outrider_engine_info){.has_draft = e->model[OUTRIDER_DRAFT],
                                   .self_layers = self ? self->config.num_hidden_layers : 0,
                                   .ctx_size = e->ctx_size,
                                   .ctx_origin = e->ctx_origin,
                                   .max_sessions = e->options.max_sessions,
                                   .page_size = e->options.page_size,
                                   .pages = e->pages,
                                   .pages_free = kv_pages_free(e->kv),
                                   .chat_template = chat_name(e->chat)};
    model_info(e->model[OUTRIDER_VERIFIER], &info->verifier);
    if (info->has_draft) model_info(e->model[OUTRIDER_DRAFT], &info->draft);
    info->cache_bytes = (info->verifier.cache_bytes_per_token + info->draft.cache_bytes_per_token) *
                        (uint64_t)e->options.page_size * (uint64_t)e->pages;
    e->ops->describe(e->be, info->device, sizeof info->device);
    return OUTRIDER_OK;
}

/* ---- tokens ---- */

outrider_status outrider_tokenize(const outrider_engine *e, const char *text, size_t bytes, int32_t **ids,
                                  size_t *n) {
    struct token_list list = {0};
    *ids = NULL;
    *n = 0;
    outrider_status status = tokenizer_encode(e->tokenizer, text, bytes, &list);
    if (status != OUTRIDER_OK) {
        token_list_free(&list);
        return status;
    }
    *ids = list.ids;
    *n = list.n;
    return OUTRIDER_OK;
}

const char *outrider_token_bytes(const outrider_engine *e, int32_t token, size_t *bytes) {
    return tokenizer_piece(e->tokenizer, token, false, bytes);
}

/* ---- meters ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { MAX_REPEATS = 1000, SLOW_PASS_MS = 50 }; /* one pass that slow is measurement enough */

double worked_ms(const outrider_engine *e) {
    struct timespec t;
    if (e->ops->round_times || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) != 0) return now_ms();
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Of one pass, by a clock or the device's own; `reading` wants no logits. What lies in the cache does not
 * matter to the time, only how much is read; the slot has room for it. */
static outrider_status pass_ms(outrider_engine *e, int32_t slot, outrider_which which, int32_t rows,
                               int32_t depth, bool reading, double (*clock)(const outrider_engine *),
                               double *ms) {
    double start = clock(e);
    batch_clear(e);
    for (int32_t r = 0; r < rows; r++)
        batch_add(e, slot, depth + r, (r * 37 + 11) % e->model[which]->config.vocab_size);
    batch_upload(e);
    batch_pass(e, which, 0, rows, reading ? 0 : rows, reading);
    if (!e->ops->round_times) {
        TRY(e->ops->sync(e->be));
        *ms = clock(e) - start;
        return OUTRIDER_OK;
    }
    int32_t one;
    double busy_us, waited;
    TRY(e->ops->download(e->be, &one, batch_tokens(e), sizeof one));
    e->ops->round_times(e->be, &busy_us, &waited);
    *ms = busy_us * 1e-3;
    return OUTRIDER_OK;
}

/* Whose part of the cache a model reads and fills: its own, the own layers the verifier's. */
static outrider_which cache_of(outrider_which which) {
    return which == OUTRIDER_SELF ? OUTRIDER_VERIFIER : which;
}

static double passed_ms(const outrider_engine *e) {
    (void)e;
    return now_ms();
}

static outrider_status time_pass(outrider_engine *e, outrider_which which, int32_t rows, int32_t depth,
                                 int32_t warm_up, int32_t repeats, double *us) {
    double times[MAX_REPEATS];
    int32_t slot;
    TRY(kv_acquire(e->kv, &slot));
    outrider_status status = kv_reserve(e->kv, slot, cache_of(which), depth + rows);
    int32_t n = 0;
    for (int32_t i = -warm_up; n < repeats && status == OUTRIDER_OK; i++) {
        double took = 0;
        status = pass_ms(e, slot, which, rows, depth, false, passed_ms, &took);
        if (i >= 0 || took > SLOW_PASS_MS) times[n++] = took * 1e3;
        if (took > SLOW_PASS_MS) break;
    }
    kv_release(e->kv, slot);
    TRY(status);
    qsort(times, (size_t)n, sizeof *times, by_value);
    *us = times[n / 2];
    return OUTRIDER_OK;
}

outrider_status outrider_time_pass(outrider_engine *e, outrider_which which, int32_t rows, int32_t depth,
                                   int32_t repeats, double *us) {
    if (!e->model[which]) return fail(OUTRIDER_EINVAL, "the engine has no such draft");
    if (rows < 1 || rows > SCORE_CHUNK || depth < 0 || depth > e->ctx_size - rows || repeats < 1 ||
        repeats > MAX_REPEATS)
        return fail(OUTRIDER_EINVAL, "cannot time %d rows at depth %d, %d times", rows, depth, repeats);
    return time_pass(e, which, rows, depth, 2, repeats, us);
}

/* What the controller times: passes of the verifier over so many rows, then a step of the draft, and a pass
 * of it that reads. */
static const int32_t timed_rows[] = {1, 2, 4, 8, OUTRIDER_MAX_DRAFT + 1};
enum { TIMED = sizeof timed_rows / sizeof *timed_rows, TIMED_READ = 64 };

static outrider_status time_least(outrider_engine *e, int32_t slot, outrider_which which, int32_t rows,
                                  bool reading, double *us) {
    double ms;
    TRY(pass_ms(e, slot, which, rows, 0, reading, worked_ms, &ms));
    if (*us == 0 || ms * 1e3 < *us) *us = ms * 1e3;
    return OUTRIDER_OK;
}

/* The least of several passes each, in turns: a machine that is busy for a while makes some of each slow, so
 * that their ratios hold. Short, for it is time taken from the first answer ever; what it gets wrong, the
 * rounds that follow correct. */
static outrider_status time_turns(outrider_engine *e, int32_t slot, int32_t n, int32_t n_read, double *us,
                                  double draft_us[DRAFT_COSTS], bool *busy) {
    enum { TURNS = 9, ENOUGH_WORK_MS = 100, ENOUGH_MS = 400 };
    double start = now_ms(), worked = worked_ms(e);
    for (int32_t turn = 0; turn < TURNS; turn++) {
        if (turn > 0 && (worked_ms(e) - worked > ENOUGH_WORK_MS || now_ms() - start > ENOUGH_MS)) break;
        for (int32_t i = 0; i < n; i++)
            TRY(time_least(e, slot, OUTRIDER_VERIFIER, timed_rows[i], false, &us[i]));
        if (e->model[OUTRIDER_SELF]) TRY(time_least(e, slot, OUTRIDER_SELF, 1, false, &draft_us[SELF_STEP]));
        if (!e->model[OUTRIDER_DRAFT]) continue;
        TRY(time_least(e, slot, OUTRIDER_DRAFT, 1, false, &draft_us[DRAFT_STEP]));
        TRY(time_least(e, slot, OUTRIDER_DRAFT, n_read, true, &draft_us[DRAFT_READ]));
    }
    draft_us[DRAFT_READ] /= n_read;
    *busy = now_ms() - start > 1.3 * (worked_ms(e) - worked);
    return OUTRIDER_OK;
}

outrider_status outrider_engine_measure(outrider_engine *e) {
    double us[TIMED] = {0}, draft_us[DRAFT_COSTS] = {0};
    int32_t n = 0, slot, n_read = TIMED_READ < e->ctx_size ? TIMED_READ : e->ctx_size;
    bool busy = false;
    if (e->costs.known) return OUTRIDER_OK;
    e->unusual = true;
    while (n < TIMED && timed_rows[n] <= e->ctx_size) n++;
    if (!costs_load(e, n, us, draft_us)) {
        memset(us, 0, sizeof us);
        memset(draft_us, 0, sizeof draft_us);
        TRY(kv_acquire(e->kv, &slot));
        outrider_status status = kv_reserve(e->kv, slot, OUTRIDER_VERIFIER, timed_rows[n - 1]);
        if (status == OUTRIDER_OK && e->model[OUTRIDER_DRAFT])
            status = kv_reserve(e->kv, slot, OUTRIDER_DRAFT, n_read);
        if (status == OUTRIDER_OK) status = time_turns(e, slot, n, n_read, us, draft_us, &busy);
        kv_release(e->kv, slot);
        TRY(status);
        costs_save(e, n, us, draft_us, busy);
    }
    costs_set(&e->costs, n, timed_rows, us, draft_us[DRAFT_STEP], draft_us[SELF_STEP]);
    e->costs.draft_read = draft_us[DRAFT_READ];
    return OUTRIDER_OK;
}

outrider_status outrider_read_bandwidth(outrider_engine *e, size_t bytes, double *gb_per_s) {
    return e->ops->read_bandwidth(e->be, bytes, gb_per_s);
}

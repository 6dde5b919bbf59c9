/* See setup.h. The shipped pair is looked for beside the running program, so that a build tree and an
 * installed tree both work wherever they were moved. */
#include "tools/setup.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/sandbox.h"
#include "tools/terminal.h"

/* ---- models ---- */

static bool find_shipped(char folder[PATH_MAX]) {
    static const char *const places[] = {"/../share/outrider/tale", "/../weights/tale",
                                         "/../../weights/tale"};
    char program[PATH_MAX], guess[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) return false;
    program[n] = '\0';
    *strrchr(program, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(guess, sizeof guess, "%s%s", program, places[i]);
        if (realpath(guess, folder)) return true;
    }
    return false;
}

static int copy_path(char out[PATH_MAX], const char *folder, const char *below) {
    if (snprintf(out, PATH_MAX, "%s%s", folder, below) < PATH_MAX) return 0;
    return complain(OUTRIDER_EINVAL, "the path of the model is longer than %d bytes", PATH_MAX - 1);
}

int setup_pair(const struct options *o, struct pair *out) {
    const char *model = o->values[OPT_MODEL].text;
    const char *draft = o->values[OPT_MODEL_DRAFT].text;
    const int64_t type = o->values[OPT_SPEC_TYPE].integer;
    char shipped[PATH_MAX];
    *out = (struct pair){0};
    if (!model && !find_shipped(shipped))
        return complain(OUTRIDER_EMODEL, "the shipped models are not beside the program; name one with -m");
    CHECK(copy_path(out->model, model ? model : shipped, model ? "" : "/verifier"));
    if (type != SPEC_AUTO && type != SPEC_NONE && (type & (SPEC_AUTO | SPEC_NONE)))
        return complain(OUTRIDER_EINVAL, "--spec-type %s: auto and none stand alone",
                        o->values[OPT_SPEC_TYPE].text);
    if (!(type & (SPEC_AUTO | SPEC_DRAFT))) return 0;
    if (draft) return copy_path(out->draft, draft, "");
    if (!model) return copy_path(out->draft, shipped, "/draft");
    if (type & SPEC_DRAFT) return complain(OUTRIDER_EINVAL, "--spec-type draft needs a draft model: -md DIR");
    return 0;
}

static uint32_t drafters(const struct option_value *type) {
    const int64_t of = type->integer == SPEC_AUTO ? SPEC_DRAFT | SPEC_NGRAM | SPEC_SELF : type->integer;
    return (of & SPEC_DRAFT ? OUTRIDER_DRAFT_MODEL : 0) | (of & SPEC_NGRAM ? OUTRIDER_DRAFT_NGRAM : 0) |
           (of & SPEC_SELF ? OUTRIDER_DRAFT_SELF : 0);
}

static void give(const struct options *o, enum option_id id, int32_t *out) {
    if (o->values[id].given) *out = (int32_t)o->values[id].integer;
}

/* A chat may have branches: their own parts and what they share find room for one more context (of at most
 * 8192 tokens) than a single conversation takes. */
static void size_sessions(const struct options *o, int32_t sessions, outrider_engine_options *options) {
    enum { USUAL = 8192 };
    int64_t ctx = o->values[OPT_CTX_SIZE].integer, spare = ctx > 0 && ctx < USUAL ? ctx : USUAL;
    options->max_sessions = 1;
    /* Of a batch who has ended stays until the next has shared its pages. */
    if (o->values[OPT_BATCH].given) options->max_sessions = (int32_t)o->values[OPT_PARALLEL].integer + 1;
    if (o->command == CMD_CHAT) {
        options->max_sessions = CHAT_SESSIONS;
        int64_t tokens = (ctx > 0 ? ctx : USUAL) + spare;
        options->cache_tokens = tokens > INT32_MAX ? INT32_MAX : (int32_t)tokens;
    }
    give(o, OPT_CACHE_TOKENS, &options->cache_tokens);
    if (sessions > options->max_sessions) options->max_sessions = sessions;
}

/* A draft that shortens the context does so by name. */
static void say_who_bounds(const outrider_engine *engine) {
    outrider_engine_info info;
    if (outrider_engine_get_info(engine, &info) || info.ctx_origin != OUTRIDER_CTX_DRAFT) return;
    fprintf(
        stderr,
        "note: the context is %d tokens, all that the draft knows; the verifier knows %d (--spec-type ngram "
        "or none leaves the draft out)\n",
        info.ctx_size, info.verifier.max_position_embeddings);
}

int setup_engine(const struct options *o, outrider_engine **out) {
    return setup_engine_for(o, 1, out);
}

int setup_engine_for(const struct options *o, int32_t sessions, outrider_engine **out) {
    struct pair pair;
    outrider_engine_options options = outrider_engine_defaults();
    CHECK(setup_pair(o, &pair));
    struct progress bar = progress_begin(o);
    options.model = pair.model;
    options.draft = pair.draft[0] ? pair.draft : NULL;
    size_sessions(o, sessions, &options);
    if (o->values[OPT_DEVICE].given) options.device = o->values[OPT_DEVICE].text;
    options.cache_type = o->values[OPT_CACHE_TYPE].text;
    options.cache_type_v = o->values[OPT_CACHE_TYPE_V].text;
    options.quant = o->values[OPT_QUANT].text;
    options.draft_quant = o->values[OPT_DRAFT_QUANT].text;
    options.chat_template = o->values[OPT_CHAT_TEMPLATE].text;
    give(o, OPT_CTX_SIZE, &options.ctx_size);
    give(o, OPT_THREADS, &options.threads);
    if (o->values[OPT_SPEC_TYPE].integer & SPEC_SELF) options.self_layers = -1;
    if (drafters(&o->values[OPT_SPEC_TYPE]) & OUTRIDER_DRAFT_SELF)
        give(o, OPT_SELF_LAYERS, &options.self_layers);
    give(o, OPT_PAGE_SIZE, &options.page_size);
    char costs[4096];
    if (setup_user_file("XDG_CACHE_HOME", ".cache", "costs", costs, sizeof costs)) options.cost_cache = costs;
    options.progress = progress_bytes;
    options.progress_user = &bar;
    outrider_status status = outrider_engine_open(&options, out);
    progress_end(&bar);
    CHECK(tell(status));
    say_who_bounds(*out);
    return 0;
}

int setup_sandbox(const struct options *o, outrider_engine *engine, bool automatic) {
    enum { AUTO, ON, OFF };
    const int64_t wanted = o->values[OPT_SANDBOX].integer;
    if (wanted == OFF) return 0;
    if (automatic) {
        struct progress bar = progress_begin(o);
        bar.drawn = bar.live && fputs("timing this machine ...", stderr) >= 0;
        outrider_status status = outrider_engine_measure(engine);
        progress_end(&bar);
        CHECK(tell(status));
    }
    outrider_engine_info info = {.device = "cpu"};
    if (engine) CHECK(tell(outrider_engine_get_info(engine, &info)));
    const bool reads_on = o->command & (CMD_EVAL | CMD_CHECK | CMD_INSPECT);
    enum sandbox_level level = reads_on ? SANDBOX_READ : SANDBOX_COMPUTE;
    if (o->command & (CMD_CHAT | CMD_CONVERT) || strncmp(info.device, "cpu", 3) != 0) level = SANDBOX_FILES;
    if (sandbox_enter(level)) return 0;
    if (wanted == AUTO) return 0;
    return complain(OUTRIDER_EFAIL, "--sandbox: %s",
                    sandbox_built() ? "the kernel has no seccomp filters" : "not in a build with sanitizers");
}

bool user_file_path(const char *env, const char *fallback, const char *name, char *out, size_t size) {
    const char *folder = getenv(env), *home = getenv("HOME");
    bool given = folder && folder[0] == '/';
    if (!given && (!home || home[0] != '/')) return false; /* an empty one would mean the root folder */
    int n = given ? snprintf(out, size, "%s/outrider/%s", folder, name)
                  : snprintf(out, size, "%s/%s/outrider/%s", home, fallback, name);
    return n >= 0 && (size_t)n < size;
}

bool setup_user_file(const char *env, const char *fallback, const char *name, char *out, size_t size) {
    if (!user_file_path(env, fallback, name, out, size)) return false;
    for (char *slash = out; (slash = strchr(slash + 1, '/'));) {
        *slash = '\0';
        bool there = !mkdir(out, 0700) || errno == EEXIST;
        *slash = '/';
        if (!there) return false;
    }
    return true;
}

/* ---- settings ---- */

static int parse_bias(const char *text, outrider_logit_bias *out) {
    char *end;
    long long token = strtoll(text, &end, 10);
    const char *bias = *end == '=' ? end + 1 : end;
    bool separated = end > text && (*end == '=' || *end == '+' || *end == '-');
    float value = separated ? strtof(bias, &end) : 0;
    if (!separated || end == bias || *end || value != value || token < 0 || token > INT32_MAX)
        return complain(OUTRIDER_EINVAL, "--logit-bias: '%s' is not ID=BIAS, a token number and a number",
                        text);
    *out = (outrider_logit_bias){(int32_t)token, value};
    return 0;
}

static int set_biases(const struct option_value *v, outrider_settings *out) {
    if (!v->n) return 0;
    outrider_logit_bias *biases = calloc(v->n, sizeof *biases);
    if (!biases) return complain_memory();
    for (size_t i = 0; i < v->n; i++) {
        int code = parse_bias(v->list[i], &biases[i]);
        if (!code) continue;
        free(biases);
        return code;
    }
    out->logit_bias = biases;
    out->n_logit_bias = v->n;
    return 0;
}

static int set_seed(int64_t given, outrider_settings *out) {
    uint32_t random;
    out->seed = (uint64_t)given;
    if (given >= 0) return 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return complain(OUTRIDER_EFAIL, "--seed: the system gives no random number");
    out->seed = random;
    return 0;
}

static void give_number(const struct options *o, enum option_id id, float *out) {
    if (o->values[id].given) *out = (float)o->values[id].number;
}

int setup_settings(const struct options *o, const outrider_engine *engine, outrider_settings *out) {
    const struct option_value *v = o->values;
    *out = outrider_settings_defaults(engine);
    give_number(o, OPT_TEMP, &out->temperature);
    give(o, OPT_TOP_K, &out->top_k);
    give_number(o, OPT_TOP_P, &out->top_p);
    give_number(o, OPT_MIN_P, &out->min_p);
    give_number(o, OPT_REPEAT_PENALTY, &out->repeat_penalty);
    give(o, OPT_REPEAT_LAST_N, &out->repeat_last_n);
    give_number(o, OPT_PRESENCE_PENALTY, &out->presence_penalty);
    give_number(o, OPT_FREQUENCY_PENALTY, &out->frequency_penalty);
    give(o, OPT_PREDICT, &out->n_predict);
    give(o, OPT_SPEC_DRAFT_N_MAX, &out->draft_n);
    give(o, OPT_LOGPROBS, &out->n_logprobs);
    out->drafters = drafters(&v[OPT_SPEC_TYPE]);
    if (v[OPT_SPEC_TREE].integer && out->drafters & OUTRIDER_DRAFT_MODEL)
        out->drafters |= OUTRIDER_DRAFT_TREE;
    out->ignore_eos = v[OPT_IGNORE_EOS].integer;
    out->stop = (const char *const *)v[OPT_STOP].list;
    out->n_stop = v[OPT_STOP].n;
    /* Who names a seed expects one text for it, and only the coupled rule gives that with any K. */
    bool seeded = v[OPT_SEED].given && v[OPT_SEED].integer >= 0 && !v[OPT_SPEC_ACCEPT].given;
    out->accept = (outrider_accept_rule)v[OPT_SPEC_ACCEPT].integer;
    if (seeded || v[OPT_REPRODUCIBLE].integer) out->accept = OUTRIDER_ACCEPT_COUPLED;
    CHECK(set_seed(v[OPT_SEED].text ? v[OPT_SEED].integer : -1, out));
    return set_biases(&v[OPT_LOGIT_BIAS], out);
}

bool setup_default(enum option_id id, const outrider_settings *model, char *out, size_t size,
                   bool *of_model) {
    outrider_settings built_in = outrider_settings_defaults(NULL);
    const struct {
        enum option_id id;
        double model, built_in;
    } values[] = {
        {OPT_TEMP, model->temperature, built_in.temperature},
        {OPT_TOP_K, model->top_k, built_in.top_k},
        {OPT_TOP_P, model->top_p, built_in.top_p},
        {OPT_MIN_P, model->min_p, built_in.min_p},
        {OPT_REPEAT_PENALTY, model->repeat_penalty, built_in.repeat_penalty},
        {OPT_REPEAT_LAST_N, model->repeat_last_n, built_in.repeat_last_n},
        {OPT_PRESENCE_PENALTY, model->presence_penalty, built_in.presence_penalty},
        {OPT_FREQUENCY_PENALTY, model->frequency_penalty, built_in.frequency_penalty},
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        if (values[i].id != id) continue;
        snprintf(out, size, "%g", values[i].model);
        *of_model = values[i].model != values[i].built_in;
        return true;
    }
    return false;
}

void setup_settings_free(outrider_settings *settings) {
    free((void *)settings->logit_bias);
}

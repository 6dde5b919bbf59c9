/* outrider check: proves on this machine, by trying, that a pair's speculative answers are the plain ones.
 * Each row of the table puts prompts to one session, once plain and once for each K, and compares tokens and
 * stop reasons. A row in which nothing was proposed has proved nothing, and says so. One engine is open at a
 * time: the pair's, then the pair's with a small context, then the verifier with itself as its draft. Without
 * a draft the proposals are n-grams; each prompt is then put twice over, so that there is something to find.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"
#include "tools/setup.h"
#include "tools/terminal.h"

enum { FEW = 4, ALL_K = 9, FIXED_K = 4, SEEDS = 3, BORDER_TOKENS = 24, MAX_CONTROL = 256 };

static const int32_t all_k[ALL_K] = {1, 2, 3, 4, 5, 6, 7, 8, -1}, fixed_k[] = {FIXED_K}, self_k[] = {1, 4, 8};

struct tokens {
    int32_t *ids; /* owned */
    size_t n;
    size_t n_prompt; /* of them, before the answer */
    outrider_stop stop;
};

struct row {
    size_t answers;
    size_t stops[OUTRIDER_STOP_FAILED + 1]; /* of the plain answers, by reason */
    int64_t proposed, accepted;
    char tried[160], wrong[160]; /* wrong: empty when all was as it should be */
};

struct check {
    const struct options *options;
    outrider_engine *engine;
    outrider_session *session;
    outrider_engine_info info;
    outrider_settings greedy; /* what the rows vary */
    struct tokens *prompts;
    size_t n_prompts, n_few;
    struct row row; /* the one being tried */
    struct progress bar;
    const char *name; /* of the row */
    size_t steps;     /* answers that the row will ask for */
};

/* ---- one answer ---- */

static int copy_tokens(const struct check *c, struct tokens *out) {
    const int32_t *ids = outrider_session_tokens(c->session, &out->n);
    out->ids = malloc((out->n + 1) * sizeof *ids);
    if (!out->ids) return complain_memory();
    memcpy(out->ids, ids, out->n * sizeof *ids);
    return 0;
}

static int ask(struct check *c, const outrider_settings *settings, int32_t k, const struct tokens *prompt,
               struct tokens *out) {
    outrider_settings s = *settings;
    outrider_stats stats;
    s.draft_n = k;
    CHECK(tell(outrider_session_truncate(c->session, 0)));
    CHECK(tell(outrider_session_set(c->session, &s)));
    CHECK(tell(outrider_session_append(c->session, prompt->ids, prompt->n)));
    while (outrider_session_stop(c->session) == OUTRIDER_RUNNING) CHECK(tell(outrider_round(&c->session, 1)));
    out->stop = outrider_session_stop(c->session);
    out->n_prompt = prompt->n;
    outrider_session_stats(c->session, &stats);
    c->row.proposed += stats.draft_n;
    c->row.accepted += stats.draft_n_accepted;
    c->row.answers++;
    progress_count(&c->bar, c->name, (double)c->row.answers, (double)c->steps, "answers");
    return copy_tokens(c, out);
}

/* Keeps the row's first difference. */
static void compare(struct row *row, const struct tokens *plain, const struct tokens *other, int32_t k) {
    size_t at = 0, n = plain->n < other->n ? plain->n : other->n;
    char with[16] = "auto";
    while (at < n && plain->ids[at] == other->ids[at]) at++;
    bool same = at == plain->n && at == other->n && plain->stop == other->stop;
    if (same || row->wrong[0]) return;
    if (k > 0) snprintf(with, sizeof with, "%d", k);
    snprintf(row->wrong, sizeof row->wrong,
             "K %s: differs after %zu tokens behind a prompt of %zu; it stopped by %s, plain by %s", with,
             at - plain->n_prompt, plain->n_prompt, outrider_stop_name(other->stop),
             outrider_stop_name(plain->stop));
}

/* The prompt's plain answer, and beside it those with each of k. */
static int same_answers(struct check *c, const outrider_settings *s, const struct tokens *prompt,
                        const int32_t *k, size_t n_k) {
    struct tokens plain = {0};
    int code = ask(c, s, 0, prompt, &plain);
    if (!code) c->row.stops[plain.stop]++;
    for (size_t i = 0; i < n_k && !code; i++) {
        struct tokens other = {0};
        code = ask(c, s, k[i], prompt, &other);
        if (!code) compare(&c->row, &plain, &other, k[i]);
        free(other.ids);
    }
    free(plain.ids);
    return code;
}

static int over_prompts(struct check *c, const outrider_settings *s, const int32_t *k, size_t n_k) {
    c->steps = c->row.answers + c->n_prompts * (n_k + 1);
    for (size_t i = 0; i < c->n_prompts; i++) CHECK(same_answers(c, s, &c->prompts[i], k, n_k));
    return 0;
}

/* The prompt and as much of its plain answer as make n tokens. */
static int stretch(struct check *c, const struct tokens *prompt, size_t n, struct tokens *out) {
    struct tokens head = {.ids = prompt->ids, .n = prompt->n < n ? prompt->n : n};
    outrider_settings s = c->greedy;
    s.n_predict = (int32_t)(n - head.n) + 1;
    CHECK(ask(c, &s, 0, &head, out));
    if (out->n < n) return complain(OUTRIDER_EFAIL, "%zu tokens of text were wanted, %zu came", n, out->n);
    out->n = n;
    return 0;
}

/* ---- the rows ---- */

static int try_greedy(struct check *c) {
    static const int32_t levels[] = {1, 3, 6};
    outrider_settings trees = c->greedy;
    trees.drafters |= OUTRIDER_DRAFT_TREE;
    CHECK(over_prompts(c, &c->greedy, all_k, ALL_K));
    if (c->info.has_draft) CHECK(over_prompts(c, &trees, levels, sizeof levels / sizeof *levels));
    snprintf(c->row.tried, sizeof c->row.tried, "%zu prompts, K 1 to 8 and auto%s, %d tokens", c->n_prompts,
             c->info.has_draft ? ", trees of 1, 3 and 6 levels" : "", c->greedy.n_predict);
    return 0;
}

/* Answers that begin one token before a page is full, when it is, and one behind. */
static int border(struct check *c, const struct tokens *prompt) {
    size_t page = (size_t)c->info.page_size;
    outrider_settings s = c->greedy;
    struct tokens text = {0};
    s.n_predict = BORDER_TOKENS;
    int code = stretch(c, prompt, page + 1, &text);
    for (text.n = page - 1; text.n <= page + 1 && !code; text.n++)
        code = same_answers(c, &s, &text, fixed_k, 1);
    free(text.ids);
    return code;
}

static int try_borders(struct check *c) {
    c->steps = c->n_few * 7;
    for (size_t i = 0; i < c->n_few; i++) CHECK(border(c, &c->prompts[i]));
    snprintf(c->row.tried, sizeof c->row.tried,
             "%zu prompts of %d, %d and %d tokens, K %d, %lld proposals rolled back", c->n_few,
             c->info.page_size - 1, c->info.page_size, c->info.page_size + 1, FIXED_K,
             (long long)(c->row.proposed - c->row.accepted));
    return 0;
}

/* Control tokens, among them the ones that end a text, made likelier so that texts do end. */
static size_t control_tokens(const struct check *c, outrider_logit_bias *out, float bias) {
    size_t n = 0, bytes;
    for (int32_t id = 0; id < c->info.verifier.vocab_size && n < MAX_CONTROL; id++) {
        outrider_token_bytes(c->engine, id, &bytes);
        if (!bytes) out[n++] = (outrider_logit_bias){id, bias};
    }
    return n;
}

static int end_of_text(struct check *c, const struct tokens *prompt) {
    outrider_logit_bias biases[MAX_CONTROL];
    outrider_settings s = c->greedy;
    s.ignore_eos = false;
    s.logit_bias = biases;
    for (float bias = 0; bias <= 12; bias += 4) {
        s.n_logit_bias = control_tokens(c, biases, bias);
        CHECK(same_answers(c, &s, prompt, fixed_k, 1));
    }
    s.n_logit_bias = 0;
    for (s.n_predict = 1; s.n_predict <= 5; s.n_predict++) CHECK(same_answers(c, &s, prompt, fixed_k, 1));
    return 0;
}

static int try_ends(struct check *c) {
    c->steps = c->n_few * 18;
    for (size_t i = 0; i < c->n_few; i++) CHECK(end_of_text(c, &c->prompts[i]));
    snprintf(c->row.tried, sizeof c->row.tried,
             "%zu prompts, K %d, %zu texts ended by the model, %zu after a length", c->n_few, FIXED_K,
             c->row.stops[OUTRIDER_STOP_EOS], c->row.stops[OUTRIDER_STOP_LENGTH]);
    return 0;
}

static int try_seeds(struct check *c) {
    outrider_settings s = c->greedy;
    s.temperature = 0.8f;
    s.accept = OUTRIDER_ACCEPT_COUPLED;
    c->steps = SEEDS * (ALL_K + 1);
    for (s.seed = 1; s.seed <= SEEDS; s.seed++)
        CHECK(same_answers(c, &s, &c->prompts[s.seed % c->n_prompts], all_k, ALL_K));
    snprintf(c->row.tried, sizeof c->row.tried,
             "%d seeds at temperature 0.8, coupled, K 0 to 8 and auto, %d tokens", SEEDS, s.n_predict);
    return 0;
}

static int fill_context(struct check *c, const struct tokens *prompt) {
    outrider_settings s = c->greedy;
    struct tokens text = {0};
    s.n_predict = -1;
    int code = stretch(c, prompt, (size_t)c->info.ctx_size - BORDER_TOKENS, &text);
    if (!code) code = same_answers(c, &s, &text, all_k, ALL_K);
    free(text.ids);
    return code;
}

static int try_context(struct check *c) {
    struct row *row = &c->row;
    c->steps = c->n_few * (ALL_K + 2);
    for (size_t i = 0; i < c->n_few; i++) CHECK(fill_context(c, &c->prompts[i]));
    snprintf(row->tried, sizeof row->tried, "%zu prompts to the end of %d tokens, K 1 to 8 and auto",
             c->n_few, c->info.ctx_size);
    if (row->stops[OUTRIDER_STOP_CONTEXT] != c->n_few && !row->wrong[0])
        snprintf(row->wrong, sizeof row->wrong, "plain decoding did not stop at the end of the context");
    return 0;
}

static int try_self(struct check *c) {
    enum { N = sizeof self_k / sizeof *self_k };
    outrider_settings s = c->greedy;
    struct row *row = &c->row;
    s.drafters = OUTRIDER_DRAFT_MODEL;
    CHECK(over_prompts(c, &s, self_k, N));
    /* Equal distributions: no rule may reject. */
    s.temperature = 0.8f;
    for (int rule = OUTRIDER_ACCEPT_REJECTION; rule <= OUTRIDER_ACCEPT_COUPLED; rule++) {
        struct tokens answer = {0};
        s.accept = (outrider_accept_rule)rule;
        int code = ask(c, &s, FIXED_K, &c->prompts[0], &answer);
        free(answer.ids);
        if (code) return code;
    }
    snprintf(row->tried, sizeof row->tried,
             "the verifier as its own draft, %zu prompts, K 1, 4 and 8, then each rule at temperature 0.8",
             c->n_prompts);
    if (row->accepted != row->proposed && !row->wrong[0])
        snprintf(row->wrong, sizeof row->wrong, "%lld of its proposals were rejected",
                 (long long)(row->proposed - row->accepted));
    return 0;
}

/* ---- engines ---- */

enum kind { PAIR, SMALL, SELF };

static const struct {
    const char *name;
    enum kind kind;
    int (*try)(struct check *c);
} rows[] = {
    {"greedy identity", PAIR, try_greedy}, {"page borders", PAIR, try_borders},
    {"end of text", PAIR, try_ends},       {"seeds", PAIR, try_seeds},
    {"context end", SMALL, try_context},   {"draft = verifier", SELF, try_self},
};
enum { ROWS = sizeof rows / sizeof rows[0] };

static void close_engine(struct check *c) {
    outrider_session_close(c->session);
    outrider_engine_close(c->engine);
    c->session = NULL;
    c->engine = NULL;
}

/* Changes the options for a kind; the values of the pair's engine are in c->info. */
static int vary(const struct check *c, enum kind kind, struct options *o) {
    struct pair pair;
    char text[16];
    if (kind == SMALL) {
        snprintf(text, sizeof text, "%d", c->info.page_size + 2 * BORDER_TOKENS);
        return option_assign(o, OPT_CTX_SIZE, "--ctx-size", text);
    }
    if (kind == PAIR) return 0;
    CHECK(setup_pair(o, &pair));
    CHECK(option_assign(o, OPT_MODEL_DRAFT, "--model-draft", pair.model));
    return option_assign(o, OPT_DRAFT_QUANT, "--draft-quant", o->values[OPT_QUANT].text);
}

static int open_engine(struct check *c, enum kind kind) {
    struct options o;
    close_engine(c);
    int code = options_copy(c->options, &o);
    if (!code) code = vary(c, kind, &o);
    if (!code) code = setup_engine(&o, &c->engine);
    if (!code && kind == PAIR) code = setup_sandbox(&o, c->engine, false); /* the first; it holds on */
    options_free(&o);
    if (code) return code;
    CHECK(tell(outrider_engine_get_info(c->engine, &c->info)));
    c->greedy = outrider_settings_defaults(c->engine);
    c->greedy.temperature = 0;
    c->greedy.ignore_eos = true;
    c->greedy.drafters = OUTRIDER_DRAFT_MODEL | OUTRIDER_DRAFT_NGRAM;
    c->greedy.n_predict = (int32_t)c->options->values[OPT_CHECK_PREDICT].integer;
    return tell(outrider_session_open(c->engine, &c->greedy, &c->session));
}

/* ---- the command ---- */

/* The session's tokens of a text, twice over where only n-grams can propose. */
static int read_prompt(struct check *c, const struct text *text, struct tokens *out) {
    CHECK(tell(outrider_session_truncate(c->session, 0)));
    for (int i = c->info.has_draft; i < 2; i++)
        CHECK(tell(outrider_session_append_text(c->session, text->data, text->bytes)));
    return copy_tokens(c, out);
}

static int read_prompts(struct check *c) {
    struct bench_prompts texts = {0};
    int code = bench_read_prompts(c->options->values[OPT_BENCH_PROMPTS].text, &texts);
    c->prompts = calloc(texts.n + 1, sizeof *c->prompts);
    if (!code && !c->prompts) code = complain_memory();
    for (size_t i = 0; i < texts.n && !code; i++)
        code = read_prompt(c, &texts.text[i], &c->prompts[c->n_prompts++]);
    c->n_few = c->n_prompts < FEW ? c->n_prompts : FEW;
    bench_free_prompts(&texts);
    return code;
}

static int begin(struct check *c) {
    CHECK(open_engine(c, PAIR));
    int32_t least = c->info.page_size + 2 * BORDER_TOKENS;
    if (c->info.ctx_size < least)
        return complain(OUTRIDER_EINVAL,
                        "--ctx-size: a context of %d is too small to check pages of %d tokens; it takes %d",
                        c->info.ctx_size, c->info.page_size, least);
    if (!c->options->values[OPT_JSON].integer)
        printf("verifier %s; %s%s; %s\n", c->info.verifier.model_type,
               c->info.has_draft ? "draft " : "no draft: proposals are n-grams", c->info.draft.model_type,
               c->info.device);
    return read_prompts(c);
}

struct verdict {
    int failed, unproved;
};

/* Tries one row and prints it, or appends it to `list`. */
static int try_row(struct check *c, size_t i, json_t *list, struct verdict *verdict) {
    struct row *row = &c->row;
    *row = (struct row){0};
    c->name = rows[i].name;
    c->bar = progress_begin(c->options);
    int code = rows[i].try(c);
    progress_end(&c->bar);
    if (code) return code;
    const bool proved = row->proposed && !row->wrong[0];
    verdict->failed += row->wrong[0] != 0;
    verdict->unproved += !proved && !row->wrong[0];
    if (c->options->values[OPT_JSON].integer) {
        json_t *entry = json_pack("{s:s, s:b, s:b, s:s, s:I, s:I, s:I, s:s}", "name", c->name, "ok",
                                  !row->wrong[0], "proved", proved, "tried", row->tried, "n_answers",
                                  (json_int_t)row->answers, "draft_n", (json_int_t)row->proposed,
                                  "draft_n_accepted", (json_int_t)row->accepted, "wrong", row->wrong);
        return json_array_append_new(list, entry) ? complain_memory() : 0;
    }
    printf("  %-17s %-8s %s; %lld of %lld proposals accepted\n", c->name,
           row->wrong[0] ? "FAILED"
           : proved      ? "ok"
                         : "unproved",
           row->tried, (long long)row->accepted, (long long)row->proposed);
    if (row->wrong[0]) printf("  %-17s          %s\n", "", row->wrong);
    return flush_output(stdout);
}

static int try_rows(struct check *c, json_t *list) {
    struct verdict verdict = {0, 0};
    bool draft = c->info.has_draft;
    enum kind open = PAIR;
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].kind != open) CHECK(open_engine(c, open = rows[i].kind));
        CHECK(try_row(c, i, list, &verdict));
    }
    if (c->options->values[OPT_JSON].integer)
        CHECK(write_json(stdout,
                         json_pack("{s:b, s:b, s:b, s:s, s:O}", "ok", !verdict.failed, "proved",
                                   !verdict.failed && !verdict.unproved, "has_draft", draft, "device",
                                   c->info.device, "checks", list),
                         JSON_INDENT(2)));
    else
        puts(verdict.failed ? "no: do not trust this pair on this machine"
             : verdict.unproved
                 ? "nothing wrong, but where nothing was proposed nothing is proved: give longer "
                   "answers (-n) or other prompts (--prompts)"
                 : "yes: every speculative answer was the plain one");
    return verdict.failed ? OUTRIDER_EFAIL : 0;
}

int cmd_check(struct options *o) {
    struct check c = {.options = o};
    json_t *list = json_array();
    int code = list ? begin(&c) : complain_memory();
    if (!code) code = try_rows(&c, list);
    for (size_t i = 0; i < c.n_prompts; i++) free(c.prompts[i].ids);
    free(c.prompts);
    json_decref(list);
    close_engine(&c);
    return code;
}

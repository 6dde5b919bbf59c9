/* outrider run --batch: many prompts from a file of JSON lines, served by continuous batching. Up to -np
 * sequences ride in each round; when one ends, the next prompt takes its place. A line's fields are the names
 * of run's own options and override them for that prompt. All lines are read and checked before a model is
 * loaded; nothing that was asked for goes missing: each prompt has one line in the output, a failed one says
 * why. */
#include <stdlib.h>
#include <string.h>

#include "tools/options.h"
#include "tools/report.h"
#include "tools/run_json.h"
#include "tools/setup.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

struct request {
    size_t line;
    json_t *fields; /* as the line has them */
    json_t *result; /* until it is written */
    bool done;
};

/* A session and the request it serves; one that has ended stays open until its place is needed, because the
 * next prompt may share its pages. */
struct seat {
    outrider_session *session;
    struct request *request; /* NULL when it has ended */
    struct text answer;
    uint64_t seed;
};

struct batch_run {
    const struct options *options;
    const char *path;
    struct request *requests;
    size_t n, begun, done, written, failed;
    outrider_engine *engine;
    struct seat *seats;
    size_t n_seats, n_parallel, active;
    outrider_stats sum;
};

/* ---- requests ---- */

static int assign_text(struct options *o, enum option_id id, const char *spelled, const char *text,
                       bool add) {
    return add ? option_add(o, id, spelled, text) : option_assign(o, id, spelled, text);
}

/* A JSON value in the form in which it would stand on the command line. */
static int assign_value(struct options *o, enum option_id id, const char *spelled, const json_t *value,
                        bool add) {
    char number[64];
    switch (json_typeof(value)) {
    case JSON_STRING:
        if (strlen(json_string_value(value)) < json_string_length(value))
            return complain(OUTRIDER_EINVAL, "%s: holds a NUL", spelled);
        return assign_text(o, id, spelled, json_string_value(value), add);
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        return assign_text(o, id, spelled, number, add);
    case JSON_REAL:
        snprintf(number, sizeof number, "%.17g", json_real_value(value));
        return assign_text(o, id, spelled, number, add);
    case JSON_TRUE:
    case JSON_FALSE:
        return assign_text(o, id, spelled, json_is_true(value) ? "on" : "off", add);
    default:
        return complain(OUTRIDER_EINVAL, "%s: neither text, number, true nor false", spelled);
    }
}

static int assign_field(struct options *o, enum option_id id, const char *spelled, json_t *value) {
    if (json_is_null(value)) return option_reset(o, id), 0;
    if (!json_is_array(value) || option_spec(id)->kind != KIND_LIST)
        return assign_value(o, id, spelled, value, false);
    for (size_t i = 0; i < json_array_size(value); i++)
        CHECK(assign_value(o, id, spelled, json_array_get(value, i), i > 0));
    return 0;
}

/* What belongs to one prompt, as opposed to the engine or the output. */
static bool is_per_prompt(enum option_id id) {
    const char *group = id < N_OPTIONS ? option_spec(id)->group : "";
    return !strcmp(group, "length") || !strcmp(group, "sampling") || !strcmp(group, "speculation");
}

/* A field that is an option, into *o; the others are used from where they are. */
static int read_field(const struct batch_run *b, const struct request *r, const char *key, json_t *value,
                      struct options *o) {
    char name[64], spelled[256];
    snprintf(spelled, sizeof spelled, "%.100s: line %zu: %.100s", b->path, r->line, key);
    snprintf(name, sizeof name, "%s", key);
    for (char *c = name; *c; c++)
        if (*c == '_') *c = '-';
    if (!strcmp(key, "id")) return 0;
    if (!strcmp(key, "prompt"))
        return json_is_string(value) ? 0 : complain(OUTRIDER_EINVAL, "%s: must be text", spelled);
    enum option_id id = option_find(CMD_RUN, name, true, false);
    if (is_per_prompt(id)) return assign_field(o, id, spelled, value);
    const char *nearest = id == N_OPTIONS ? option_nearest(CMD_RUN, name) : NULL;
    if (nearest) return complain(OUTRIDER_EINVAL, "%s: no such field; did you mean %s?", spelled, nearest);
    return complain(OUTRIDER_EINVAL,
                    "%s: %s; there are prompt, id, and run's options of length, sampling and "
                    "speculation",
                    spelled, id == N_OPTIONS ? "no such field" : "the same for all prompts");
}

/* The run's options with the line's own; *o is for options_free also on failure. */
static int request_options(const struct batch_run *b, const struct request *r, struct options *o) {
    const char *key;
    json_t *value;
    CHECK(options_copy(b->options, o));
    json_object_foreach(r->fields, key, value) CHECK(read_field(b, r, key, value, o));
    return 0;
}

/* All lines are looked at before the first is answered, and only the lines are kept: options take far more.
 */
static int read_request(void *user, size_t line, json_t *object) {
    struct batch_run *b = user;
    struct request *grown = realloc(b->requests, (b->n + 1) * sizeof *grown);
    if (!grown) return complain_memory();
    b->requests = grown;
    struct request *r = &b->requests[b->n++];
    *r = (struct request){.line = line, .fields = json_incref(object)};
    if (!json_is_object(object) || !json_object_get(object, "prompt"))
        return complain(OUTRIDER_EINVAL, "%s: line %zu: no object with a \"prompt\"", b->path, line);
    struct options options;
    outrider_settings settings = {0};
    int code = request_options(b, r, &options);
    if (!code) code = setup_settings(&options, NULL, &settings);
    setup_settings_free(&settings);
    options_free(&options);
    return code;
}

/* ---- results ---- */

static int finish(struct batch_run *b, struct request *r, json_t *result) {
    if (!result) return complain_memory();
    json_object_set_new(result, "index", json_integer(r - b->requests));
    json_t *id = json_object_get(r->fields, "id"); /* given back as it came */
    if (id) json_object_set(result, "id", id);
    r->result = result;
    r->done = true;
    b->done++;
    if (b->options->values[OPT_UNORDERED].integer) {
        r->result = NULL;
        return write_json(stdout, result, JSON_COMPACT);
    }
    while (b->written < b->n && b->requests[b->written].done) {
        struct request *next = &b->requests[b->written++];
        json_t *line = next->result;
        next->result = NULL;
        CHECK(write_json(stdout, line, JSON_COMPACT));
    }
    return 0;
}

/* This prompt failed; the others go on. */
static int finish_failed(struct batch_run *b, struct request *r) {
    const char *why = outrider_error();
    b->failed++;
    return finish(b, r, json_pack("{s:o}", "error", json_text(why, strlen(why))));
}

static int leave(struct batch_run *b, struct seat *seat) {
    struct request *r = seat->request;
    outrider_stats stats;
    outrider_session_stats(seat->session, &stats);
    stats_add(&b->sum, &stats);
    b->sum.n_reread += stats.n_reread;
    seat->request = NULL;
    b->active--;
    if (outrider_session_stop(seat->session) == OUTRIDER_STOP_FAILED) return finish_failed(b, r);
    return finish(b, r,
                  result_json(b->engine, seat->session, seat->answer.data ? seat->answer.data : "",
                              seat->answer.bytes, seat->seed, false));
}

/* ---- rounds ---- */

static int open_seat(struct batch_run *b, struct seat *seat, struct request *r) {
    struct options options;
    outrider_settings settings = {0};
    const json_t *prompt = json_object_get(r->fields, "prompt");
    outrider_session_close(seat->session);
    seat->session = NULL;
    int code = request_options(b, r, &options);
    if (!code) code = setup_settings(&options, b->engine, &settings);
    outrider_status status = code ? OUTRIDER_OK : outrider_session_open(b->engine, &settings, &seat->session);
    setup_settings_free(&settings);
    options_free(&options);
    CHECK(code);
    if (status == OUTRIDER_OK)
        status = outrider_session_append_text(seat->session, json_string_value(prompt),
                                              json_string_length(prompt));
    if (status == OUTRIDER_EINVAL) return finish_failed(b, r);
    CHECK(tell(status));
    text_clear(&seat->answer);
    seat->request = r;
    seat->seed = settings.seed;
    b->active++;
    return 0;
}

/* Seats that have ended are taken in turn, so that the last to end stays open longest. */
static int fill_seats(struct batch_run *b) {
    while (b->active < b->n_parallel && b->begun < b->n) {
        struct seat *seat = &b->seats[b->begun % b->n_seats];
        while (seat->request) seat = seat + 1 < b->seats + b->n_seats ? seat + 1 : b->seats;
        CHECK(open_seat(b, seat, &b->requests[b->begun++]));
    }
    return 0;
}

static int take_texts(struct batch_run *b, bool all) {
    for (size_t i = 0; i < b->n_seats; i++) {
        struct seat *seat = &b->seats[i];
        if (!seat->request) continue;
        size_t bytes;
        const char *text = outrider_session_take_text(seat->session, &bytes);
        CHECK(text_append(&seat->answer, text, bytes));
        if (all || outrider_session_stop(seat->session) != OUTRIDER_RUNNING) CHECK(leave(b, seat));
    }
    return 0;
}

static int one_round(struct batch_run *b, outrider_session **riding) {
    size_t n = 0, failed = 0;
    for (size_t i = 0; i < b->n_seats; i++)
        if (b->seats[i].request) riding[n++] = b->seats[i].session;
    outrider_status status = outrider_round(riding, n);
    for (size_t i = 0; i < n; i++) failed += outrider_session_stop(riding[i]) == OUTRIDER_STOP_FAILED;
    return status == OUTRIDER_EFAIL && failed ? 0 : tell(status);
}

static int serve(struct batch_run *b) {
    outrider_session **riding = calloc(b->n_seats, sizeof(outrider_session *));
    struct progress bar = progress_begin(b->options);
    int code = riding ? 0 : complain_memory();
    while (!code && b->done < b->n && !interrupts_seen()) {
        char stage[48];
        snprintf(stage, sizeof stage, "%zu of %zu", b->done, b->n);
        progress_count(&bar, stage, (double)b->done, (double)b->n, "prompts");
        code = fill_seats(b);
        if (!code && b->active) code = one_round(b, riding);
        if (!code) code = take_texts(b, false);
    }
    progress_end(&bar);
    if (!code && interrupts_seen()) code = take_texts(b, true);
    free(riding);
    return code;
}

static void report(const struct batch_run *b, double ms) {
    fprintf(
        stderr,
        "%zu of %zu prompts: %d tokens in %.1f s, %.1f t/s; read %d prompt tokens, %d more from the cache",
        b->done, b->n, b->sum.n_predict, ms / 1e3, per_second(b->sum.n_predict, ms), b->sum.n_prompt,
        b->sum.n_cached);
    if (b->sum.n_reread) fprintf(stderr, "; %d again after waits for room (--cache-tokens)", b->sum.n_reread);
    if (b->sum.draft_n)
        fprintf(stderr, "; accepted %.0f%%, mean length %.2f", 100 * acceptance(&b->sum),
                mean_length(&b->sum));
    fputc('\n', stderr);
}

static int serve_all(struct batch_run *b) {
    b->n_parallel = (size_t)b->options->values[OPT_PARALLEL].integer;
    b->n_seats = b->n_parallel + 1;
    b->seats = calloc(b->n_seats, sizeof *b->seats);
    if (!b->seats) return complain_memory();
    CHECK(setup_engine(b->options, &b->engine));
    CHECK(setup_sandbox(b->options, b->engine, b->options->values[OPT_SPEC_TYPE].integer != SPEC_NONE));
    interrupts_watch(2);
    double start = clock_ms();
    CHECK(serve(b));
    report(b, clock_ms() - start);
    if (interrupts_seen()) return EXIT_INTERRUPTED;
    if (b->failed)
        return complain(OUTRIDER_EFAIL, "%zu of %zu prompts failed; their lines say why", b->failed, b->n);
    return 0;
}

static void close_all(struct batch_run *b) {
    for (size_t i = 0; b->seats && i < b->n_seats; i++) {
        outrider_session_close(b->seats[i].session);
        text_clear(&b->seats[i].answer);
    }
    free(b->seats);
    outrider_engine_close(b->engine);
    for (size_t i = 0; i < b->n; i++) {
        json_decref(b->requests[i].fields);
        json_decref(b->requests[i].result);
    }
    free(b->requests);
}

int run_batch(struct options *o) {
    const char *path = o->values[OPT_BATCH].text;
    struct batch_run b = {.options = o, .path = strcmp(path, "-") ? path : "standard input"};
    int code = json_lines(path, read_request, &b);
    if (!code) code = serve_all(&b);
    close_all(&b);
    return code;
}

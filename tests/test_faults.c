/* Memory that runs out: the k-th allocation fails, for every k, once and from then on, while a pair is
 * loaded, writes, chats, rides in a batch, and a conversation is saved and loaded. Each time: no crash,
 * nothing leaked, OUTRIDER_ENOMEM with a line, or success with the very result of a run without faults; and
 * what was open before works as before. The same for the device's allocations.
 *
 * This program's own malloc stands in front of the C library's for all code in the process, so that
 * allocations inside libraries fail too. Under AddressSanitizer it forwards to the sanitizer's, which then
 * looks for leaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#include "kernels/ops.h"
#include "tokenizer/jinja.h"
#include "tokenizer/internal.h"
#include "tokenizer/sentencepiece_shim.h"
#include "tests/helpers_tiny.h"
#include "tools/chat.h"
#include "tools/setup.h"
#include "weights/gguf_config.h"
#include "weights/hub.h"
#include "weights/source.h"

/* ---- allocations that fail ---- */

static long until_fault = -1; /* allocations that still succeed; negative: all do */
static int forever, faults;
static long live, leaked; /* blocks allocated and not freed: now, and by the last run */

#if defined(__SANITIZE_ADDRESS__)
enum { COUNTS_BLOCKS = 0 }; /* strdup and others of the sanitizer do not pass by here */
/* The sanitizer's own: to look them up would take memory while it sets itself up. */
void *__interceptor_malloc(size_t bytes);
void *__interceptor_calloc(size_t n, size_t bytes);
void *__interceptor_realloc(void *p, size_t bytes);
void *__interceptor_aligned_alloc(size_t alignment, size_t bytes);
int __interceptor_posix_memalign(void **p, size_t alignment, size_t bytes);
void __interceptor_free(void *p);
#define REAL(name, type) static const __typeof__(type) real = __interceptor_##name
#else
enum { COUNTS_BLOCKS = 1 };
#define REAL(name, type)                                                                                     \
    static __typeof__(type) real;                                                                            \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)
#endif

static int must_fail(void) {
    if (!COUNTS_BLOCKS && gettid() != getpid()) return 0; /* a thread that begins is the sanitizer's first */
    if (until_fault < 0 || until_fault-- > 0) return 0;
    until_fault = forever ? 0 : -1;
    faults++;
    errno = ENOMEM;
    return 1;
}

static void *counted(void *p) {
    live += p != NULL;
    return p;
}
void *malloc(size_t bytes) {
    REAL(malloc, void *(*)(size_t));
    return must_fail() ? NULL : counted(real(bytes));
}
void *calloc(size_t n, size_t bytes) {
    REAL(calloc, void *(*)(size_t, size_t));
    return must_fail() ? NULL : counted(real(n, bytes));
}
void *realloc(void *p, size_t bytes) {
    REAL(realloc, void *(*)(void *, size_t));
    if (must_fail()) return NULL;
    void *moved = real(p, bytes);
    live += !p && moved;
    return moved;
}
void *aligned_alloc(size_t alignment, size_t bytes) {
    REAL(aligned_alloc, void *(*)(size_t, size_t));
    return must_fail() ? NULL : counted(real(alignment, bytes));
}
int posix_memalign(void **p, size_t alignment, size_t bytes) {
    REAL(posix_memalign, int (*)(void **, size_t, size_t));
    if (must_fail()) return ENOMEM;
    int code = real(p, alignment, bytes);
    live += code == 0;
    return code;
}
void free(void *p) {
    REAL(free, void (*)(void *));
    live -= p != NULL;
    real(p);
}

/* Two libraries do not survive it when memory runs out within them (jansson's parser aborts, sentencepiece's
 * model crashes), which is why all that they may take is asked for before they are called. They get theirs
 * here. */
#define WITHOUT_FAULTS(type, call)                                                                           \
    long saved = until_fault;                                                                                \
    until_fault = -1;                                                                                        \
    type result = call;                                                                                      \
    until_fault = saved;                                                                                     \
    return result

json_t *__real_json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *error);
json_t *__wrap_json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *error);
json_t *__wrap_json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *error) {
    WITHOUT_FAULTS(json_t *, __real_json_loadb(text, bytes, flags, error));
}
outrider_status __real_spm_open(const char *model, size_t bytes, int32_t pieces, struct spm **out);
outrider_status __wrap_spm_open(const char *model, size_t bytes, int32_t pieces, struct spm **out);
outrider_status __wrap_spm_open(const char *model, size_t bytes, int32_t pieces, struct spm **out) {
    WITHOUT_FAULTS(outrider_status, __real_spm_open(model, bytes, pieces, out));
}
outrider_status __real_spm_encode(const struct spm *s, const char *text, size_t bytes,
                                  struct token_list *out);
outrider_status __wrap_spm_encode(const struct spm *s, const char *text, size_t bytes,
                                  struct token_list *out);
outrider_status __wrap_spm_encode(const struct spm *s, const char *text, size_t bytes,
                                  struct token_list *out) {
    WITHOUT_FAULTS(outrider_status, __real_spm_encode(s, text, bytes, out));
}

/* ---- a device whose allocations fail ---- */

outrider_status __real_ops_open(const char *device, int32_t threads, const struct ops **ops,
                                struct backend **be);
outrider_status __wrap_ops_open(const char *device, int32_t threads, const struct ops **ops,
                                struct backend **be);

static long until_device_fault = -1;
static struct ops scarce;
static const struct ops *plenty;

static outrider_status device_fault(void) {
    if (until_device_fault < 0 || until_device_fault-- > 0) return OUTRIDER_OK;
    until_device_fault = forever ? 0 : -1;
    faults++;
    return OUTRIDER_ENOMEM;
}
static outrider_status scarce_alloc(struct backend *be, size_t bytes, void **out) {
    outrider_status status = device_fault();
    return status ? status : plenty->alloc(be, bytes, out);
}
static outrider_status scarce_weight(struct backend *be, const void *host, enum dtype dtype, int32_t n,
                                     int32_t k, struct matrix *out) {
    outrider_status status = device_fault();
    return status ? status : plenty->weight(be, host, dtype, n, k, out);
}
static outrider_status scarce_reserve(struct backend *be, int32_t max_rows, int32_t max_width) {
    outrider_status status = device_fault();
    return status ? status : plenty->reserve(be, max_rows, max_width);
}

outrider_status __wrap_ops_open(const char *device, int32_t threads, const struct ops **ops,
                                struct backend **be) {
    outrider_status status = __real_ops_open(device, threads, &plenty, be);
    if (status != OUTRIDER_OK) return status;
    scarce = *plenty;
    scarce.alloc = scarce_alloc, scarce.weight = scarce_weight, scarce.reserve = scarce_reserve;
    *ops = &scarce;
    return OUTRIDER_OK;
}

/* ---- what is done while memory runs out: a status, and what came out as text ---- */

struct scene {
    outrider_engine *engine; /* opened without faults; NULL for those that open one */
    char text[4096];
    size_t n;
};
typedef outrider_status scene_fn(struct scene *s);

#define TRY_SCENE(call)                                                                                      \
    do {                                                                                                     \
        status = (call);                                                                                     \
        if (status != OUTRIDER_OK) goto done;                                                                \
    } while (0)

static void note(struct scene *scene, const char *text, size_t bytes) {
    if (bytes > sizeof scene->text - scene->n) bytes = sizeof scene->text - scene->n;
    memcpy(scene->text + scene->n, text, bytes);
    scene->n += bytes;
}

static void note_file(struct scene *scene, const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s is missing", path);
    scene->n += fread(scene->text + scene->n, 1, sizeof scene->text - scene->n, f);
    fclose(f);
}

static outrider_settings settings_of(const outrider_engine *e, float temperature) {
    static const char *const stops[] = {"@@@", "###"};
    outrider_settings set = outrider_settings_defaults(e);
    set.temperature = temperature, set.seed = 5, set.n_predict = 6, set.draft_n = 3, set.ignore_eos = true;
    set.stop = stops, set.n_stop = 2, set.accept = OUTRIDER_ACCEPT_COUPLED;
    return set;
}

static outrider_status finish(struct scene *scene, outrider_session *const *sessions, size_t n) {
    for (int rounds = 0; rounds < 40; rounds++) {
        outrider_status status = outrider_round(sessions, n);
        if (status != OUTRIDER_OK) return status;
    }
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        const char *text = outrider_session_take_text(sessions[i], &bytes);
        note(scene, text, bytes);
        assert_int_equal(outrider_session_stop(sessions[i]), OUTRIDER_STOP_LENGTH);
    }
    return OUTRIDER_OK;
}

static outrider_status load(struct scene *scene) {
    outrider_engine_options o = tiny_options(2);
    outrider_engine *e;
    outrider_model_info info;
    outrider_status status = outrider_engine_open(&o, &e);
    outrider_engine_close(e);
    if (status == OUTRIDER_OK) status = outrider_inspect(o.model, "f16", NULL, NULL, &info);
    note(scene, status ? "" : "loaded", status ? 0 : 6);
    return status;
}

static outrider_status generate(struct scene *scene) {
    outrider_settings set = settings_of(scene->engine, 0.8f);
    outrider_session *s = NULL;
    outrider_status status;
    TRY_SCENE(outrider_session_open(scene->engine, &set, &s));
    TRY_SCENE(outrider_session_append_text(s, "the \xFF a", 7));
    TRY_SCENE(finish(scene, &s, 1));
done:
    outrider_session_close(s);
    return status;
}

static outrider_status converse(struct scene *scene) {
    outrider_settings set = settings_of(scene->engine, 0);
    outrider_session *s = NULL;
    outrider_status status;
    TRY_SCENE(outrider_session_open(scene->engine, &set, &s));
    TRY_SCENE(outrider_session_append_message(s, "system", "be", 2));
    for (int turn = 0; turn < 2; turn++) {
        TRY_SCENE(outrider_session_append_message(s, "user", "the ab", 6));
        TRY_SCENE(finish(scene, &s, 1));
    }
    set.temperature = 0.5f;
    TRY_SCENE(outrider_session_set(s, &set));
done:
    outrider_session_close(s);
    return status;
}

static outrider_status ride(struct scene *scene) {
    outrider_settings set = settings_of(scene->engine, 0);
    outrider_session *s[3] = {NULL};
    int32_t *ids = NULL;
    float nll[8];
    size_t n;
    outrider_status status;
    TRY_SCENE(outrider_session_open(scene->engine, &set, &s[0]));
    TRY_SCENE(outrider_session_open(scene->engine, &set, &s[1]));
    TRY_SCENE(outrider_session_append_text(s[0], "the the the the the the the", 27));
    TRY_SCENE(outrider_session_append_text(s[1], "the a b", 7));
    TRY_SCENE(finish(scene, s, 2));
    TRY_SCENE(outrider_session_fork(s[0], &s[2]));
    TRY_SCENE(outrider_session_append_text(s[2], "b", 1));
    TRY_SCENE(finish(scene, s + 2, 1));
    TRY_SCENE(outrider_tokenize(scene->engine, "a b", 3, &ids, &n));
    TRY_SCENE(outrider_score(scene->engine, ids, n < 8 ? n : 8, nll));
done:
    free(ids);
    for (int i = 0; i < 3; i++) outrider_session_close(s[i]);
    return status;
}

/* Of the command line: its settings, a conversation saved and loaded. */
static outrider_status save_and_load(struct scene *scene) {
    static const char saved[] = "/tmp/outrider-faults.json";
    char *argv[] = {"chat",   "-m", (char *)tiny_folder(), "--stop", "###",
                    "--seed", "5",  "--logit-bias",        "9=-1"};
    struct options options;
    struct chat c = {.options = &options, .engine = scene->engine};
    outrider_settings set = settings_of(scene->engine, 0);
    outrider_status status = options_parse(&options, CMD_CHAT, sizeof argv / sizeof *argv, argv);
    if (status != OUTRIDER_OK) goto done;
    TRY_SCENE(outrider_session_open(scene->engine, &set, &c.session));
    TRY_SCENE(chat_apply(&c, true));
    TRY_SCENE(chat_load(&c, "tests/data/chat.json"));
    TRY_SCENE(chat_save(&c, saved));
    until_fault = -1; /* what follows is the test's */
    note_file(scene, saved);
done:
    outrider_session_close(c.session);
    setup_settings_free(&c.settings);
    turns_free(c.turns, c.n_turns);
    options_free(&options);
    remove(saved);
    remove("/tmp/outrider-faults.json.cache");
    return status;
}

/* ---- readers and writers of files ---- */

#define GGUF "/dev/shm/outrider-faults.gguf" /* where writing to the disk takes no time */
#define FOLDER "/dev/shm/outrider-faults"

static void remove_folder(void) {
    static const char *const names[] = {"config.json", "generation_config.json", "model.safetensors",
                                        "tokenizer.model", "tokenizer_config.json"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, FOLDER "/%s", names[i]);
        remove(path);
    }
    rmdir(FOLDER);
}

static outrider_status to_gguf(struct scene *scene) {
    outrider_convert_options o = {.model = tiny_folder(), .output = GGUF, .type = "bf16"};
    remove(GGUF);
    outrider_status status = outrider_convert(&o);
    note(scene, status ? "" : "written", status ? 0 : 7);
    return status;
}

static outrider_status load_gguf(struct scene *scene) {
    outrider_engine_options o = tiny_options(1);
    outrider_engine *e;
    o.model = GGUF, o.draft = NULL;
    outrider_status status = outrider_engine_open(&o, &e);
    outrider_engine_close(e);
    note(scene, status ? "" : "loaded", status ? 0 : 6);
    return status;
}

static outrider_status to_folder(struct scene *scene) {
    outrider_convert_options o = {.model = GGUF, .output = FOLDER, .type = "bf16"};
    outrider_status status = outrider_convert(&o);
    if (status != OUTRIDER_OK) return status;
    until_fault = -1; /* what follows is the test's */
    note_file(scene, FOLDER "/config.json");
    note_file(scene, FOLDER "/tokenizer_config.json");
    remove_folder();
    return OUTRIDER_OK;
}

/* Of a GGUF file of one family: its configuration, the files of its tokenizer, its tokenizer. */
static outrider_status translate(struct scene *scene) {
    struct gguf *g;
    json_t *config = NULL, *generation = NULL;
    outrider_status status = gguf_open(GGUF, &g);
    if (status != OUTRIDER_OK) return status;
    status = gguf_config(g, &config, &generation);
    gguf_close(g);
    if (status != OUTRIDER_OK) return status;
    until_fault = -1; /* what follows is the test's */
    scene->n += json_dumpb(config, scene->text, sizeof scene->text, JSON_COMPACT);
    scene->n += json_dumpb(generation, scene->text + scene->n, sizeof scene->text - scene->n, JSON_COMPACT);
    json_decref(config);
    json_decref(generation);
    return OUTRIDER_OK;
}

static outrider_status tokenizer_files(struct scene *scene) {
    struct gguf *g;
    struct tokenizer_files files = {0};
    outrider_status status = gguf_open(GGUF, &g);
    if (status != OUTRIDER_OK) return status;
    status = gguf_tokenizer(g, &files);
    if (status == OUTRIDER_OK && !files.model) status = tokenizer_gguf_json(g, &files.json);
    gguf_close(g);
    until_fault = -1; /* what follows is the test's */
    if (status == OUTRIDER_OK) {
        size_t bytes = files.model ? files.model_bytes : json_dumpb(files.json, NULL, 0, JSON_COMPACT);
        note(scene, (const char *)&bytes, sizeof bytes);
    }
    tokenizer_files_free(&files);
    return status;
}

static outrider_status tokenizer_of_gguf(struct scene *scene) {
    struct tokenizer *t;
    outrider_status status = tokenizer_open(GGUF, &t);
    if (status != OUTRIDER_OK) return status;
    const int32_t n = tokenizer_size(t);
    note(scene, (const char *)&n, sizeof n);
    tokenizer_close(t);
    return OUTRIDER_OK;
}

/* The tokenizers of the golden folder, the one that this names. */
static const char *family;

static outrider_status read_tokenizer(struct scene *scene) {
    static const char text[] = "It's 42 <tool>\n\n e\xCC\x81 \xE4\xB8\xAD\xFF <s>";
    struct tokenizer *t = NULL;
    struct token_list list = {0};
    char path[128];
    snprintf(path, sizeof path, "tests/golden/tokenizers/%s", family);
    outrider_status status = tokenizer_open(path, &t);
    if (status == OUTRIDER_OK) status = tokenizer_encode(t, text, sizeof text - 1, &list);
    if (status == OUTRIDER_OK) note(scene, (const char *)list.ids, list.n * sizeof *list.ids);
    if (status == OUTRIDER_OK || t) tokenizer_close(t);
    token_list_free(&list);
    return status;
}

static const char *chat_template;

static outrider_status render(struct scene *scene) {
    static const struct chat_message messages[] = {{CHAT_SYSTEM, "Be brief.\n", 10},
                                                   {CHAT_USER, " Who? \xE6\x97\xA5", 9},
                                                   {CHAT_ASSISTANT, "<think>\nHm.\n</think>\nI.", 23},
                                                   {CHAT_USER, "no", 2}};
    const struct jinja_input in = {messages, 4, "<s>", "</s>", true, 0};
    struct jinja_text text;
    outrider_status status = jinja_render(chat_template, &in, &text);
    if (status == OUTRIDER_EINVAL) { /* what the template raises by itself is an outcome too */
        note(scene, outrider_error(), strlen(outrider_error()));
        return OUTRIDER_OK;
    }
    if (status != OUTRIDER_OK) return status;
    note(scene, text.bytes, text.n);
    jinja_text_free(&text);
    return OUTRIDER_OK;
}

/* A name of the Hugging Face cache, and what lies in a folder. */
static outrider_status find_model(struct scene *scene) {
    char *model = NULL, *file = NULL;
    outrider_status status = hub_resolve("org/name:q8", &model);
    if (status == OUTRIDER_OK) status = source_gguf(FOLDER "/models--org--name/snapshots/main", &file);
    if (status == OUTRIDER_OK) note(scene, model, strlen(model));
    if (status == OUTRIDER_OK) note(scene, file, strlen(file));
    free(model);
    free(file);
    return status;
}

/* A chat in one of the templates' forms, written whole and then one turn on. */
static struct tokenizer *chat_tokenizer;
static enum chat_kind chat_form;

/* Tokens that the list has before, so that it must grow at each place where one is added. */
static int32_t tokens_before;

static void fill(struct token_list *list) {
    long saved = until_fault;
    until_fault = -1;
    for (int32_t i = 0; i < tokens_before; i++) assert_int_equal(token_list_push(list, i), OUTRIDER_OK);
    until_fault = saved;
}

static outrider_status encode(struct scene *scene) {
    static const char text[] = "It's 42 <tool> a \n\n e\xCC\x81 \xE4\xB8\xAD\xFF\xFE <s> the";
    struct token_list list = {0};
    fill(&list);
    outrider_status status = tokenizer_encode(chat_tokenizer, text, sizeof text - 1, &list);
    if (status == OUTRIDER_OK) note(scene, (const char *)list.ids, list.n * sizeof *list.ids);
    token_list_free(&list);
    return status;
}

static outrider_status write_chat(struct scene *scene) {
    static const struct chat_message messages[] = {{CHAT_SYSTEM, "Be brief.\n", 10},
                                                   {CHAT_USER, " Who? \xE6\x97\xA5", 9},
                                                   {CHAT_ASSISTANT, "<think>\nHm.\n</think>\nI.", 23},
                                                   {CHAT_USER, "no", 2},
                                                   {CHAT_ASSISTANT, "<think>\nHm.\n</think>\nI.", 23}};
    struct token_list list = {0};
    fill(&list);
    outrider_status status =
        chat_encode(chat_tokenizer, chat_form, messages, 5, 0, false, false, false, &list);
    if (status == OUTRIDER_OK)
        status = chat_encode(chat_tokenizer, chat_form, messages, 4, 3, true, true, false, &list);
    if (status == OUTRIDER_OK) note(scene, (const char *)list.ids, list.n * sizeof *list.ids);
    token_list_free(&list);
    return status;
}

/* ---- every k ---- */

struct fault_row {
    const char *name;
    scene_fn *run;
    int opens;  /* itself; else an engine is there */
    int coarse; /* every k at first, then with growing steps: the many allocations of a vocabulary are alike
                 */
};

static void expect_same(const struct scene *got, const struct scene *want, long k) {
    if (got->n != want->n || memcmp(got->text, want->text, want->n) != 0)
        fail_msg("fault %ld was survived, but with another result: '%.*s' for '%.*s'", k, (int)got->n,
                 got->text, (int)want->n, want->text);
}

/* One run with the fault armed; true when it came that far. */
static int run_armed(const struct fault_row *row, struct scene *scene, const struct scene *want,
                     long *counter, long k) {
    long before = live;
    scene->n = 0, faults = 0, *counter = k;
    outrider_status status = row->run(scene);
    *counter = -1;
    if (status != OUTRIDER_OK) {
        if (status != OUTRIDER_ENOMEM) fail_msg("fault %ld: status %d: %s", k, status, outrider_error());
        if (!faults) fail_msg("out of memory without a fault");
    } else {
        expect_same(scene, want, k);
    }
    int seen = faults;
    leaked = live - before;
    return seen;
}

/* What the C++ library sets up for its first exception is no leak: a leak comes again. */
static int run_leakless(const struct fault_row *row, struct scene *scene, const struct scene *want,
                        long *counter, long k) {
    int seen = run_armed(row, scene, want, counter, k);
    if (COUNTS_BLOCKS && leaked) run_armed(row, scene, want, counter, k);
    if (COUNTS_BLOCKS && leaked) fail_msg("fault %ld leaks %ld blocks", k, leaked);
    return seen;
}

static void every_k(const struct fault_row *row, long *counter) {
    outrider_engine_options o = tiny_options(3);
    struct scene scene = {0}, want = {0};
    if (!row->opens && outrider_engine_open(&o, &scene.engine)) fail_msg("%s", outrider_error());
    want.engine = scene.engine;
    for (int warm = 0; warm < 2; warm++) { /* the first run also makes what libraries keep for good */
        want.n = 0;
        if (row->run(&want)) fail_msg("%s", outrider_error());
    }
    for (forever = 0; forever < 2; forever++) {
        long k = 0;
        while (run_leakless(row, &scene, &want, counter, k)) {
            k += row->coarse ? 1 + k / 32 : 1;
            if (k % 16 == 0 || !row->opens) { /* and all is as it was */
                scene.n = 0;
                if (row->run(&scene)) fail_msg("after fault %ld: %s", k, outrider_error());
                expect_same(&scene, &want, k);
            }
        }
        print_message("%s: %ld faults, %s\n", row->name, k, forever ? "for ever" : "once");
        assert_true(k > 0);
    }
    forever = 0;
    outrider_engine_info info;
    if (scene.engine) {
        assert_int_equal(outrider_engine_get_info(scene.engine, &info), OUTRIDER_OK);
        assert_int_equal(info.pages_free, info.pages);
    }
    outrider_engine_close(scene.engine);
}

static void host_memory(void **state) {
    every_k(*state, &until_fault);
}
static void device_memory(void **state) {
    every_k(*state, &until_device_fault);
}

static void files(void **state) {
    (void)state;
    static const struct fault_row rows[] = {
        {"to GGUF", to_gguf, 1, 0}, {"load GGUF", load_gguf, 1, 0}, {"to a folder", to_folder, 1, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) every_k(&rows[i], &until_fault);
    remove(GGUF);
}

static void families(void **state) {
    (void)state;
    static const char *const names[] = {"llama", "phi3", "gemma3_text", "qwen2"};
    static const struct fault_row rows[] = {{"configuration", translate, 1, 0},
                                            {"tokenizer's files", tokenizer_files, 1, 1},
                                            {"tokenizer", tokenizer_of_gguf, 1, 1}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        const char *build = getenv("BUILD");
        snprintf(path, sizeof path, "%s/tests/families/%s", build ? build : "build", names[i]);
        const outrider_convert_options o = {.model = path, .output = GGUF, .type = "bf16"};
        remove(GGUF);
        if (outrider_convert(&o)) fail_msg("%s", outrider_error());
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) every_k(&rows[k], &until_fault);
    }
    remove(GGUF);
}

static void tokenizers(void **state) {
    (void)state;
    static const char *const names[] = {"llama3", "other", "phi3", "words", "gemma"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct fault_row row = {names[i], read_tokenizer, 1, 0};
        family = names[i];
        every_k(&row, &until_fault);
    }
}

static void names(void **state) {
    (void)state;
    const struct fault_row row = {"a model's name", find_model, 1, 0};
    assert_int_equal(
        system("d=" FOLDER "/models--org--name/snapshots/main && mkdir -p $d && touch $d/m-q8.gguf"), 0);
    setenv("HF_HUB_CACHE", FOLDER, 1);
    every_k(&row, &until_fault);
    unsetenv("HF_HUB_CACHE");
    assert_int_equal(system("rm -r " FOLDER), 0);
}

static void lists_that_grow(void **state) {
    (void)state;
    static const char *const paths[] = {"llama3", "other", "phi3", "words", "gemma", "mistral", NULL};
    const struct fault_row texts = {"text", encode, 1, 0}, chat = {"chat", write_chat, 1, 0};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char path[128];
        snprintf(path, sizeof path, "tests/golden/tokenizers/%s", paths[i] ? paths[i] : "");
        if (tokenizer_open(paths[i] ? path : tiny_folder(), &chat_tokenizer))
            fail_msg("%s", outrider_error());
        for (tokens_before = 0; tokens_before < 64; tokens_before++) every_k(&texts, &until_fault);
        chat_form = CHAT_QWEN3;
        for (tokens_before = 0; tokens_before < 64; tokens_before += 3) every_k(&chat, &until_fault);
        tokenizer_close(chat_tokenizer);
    }
    tokens_before = 0;
}

static void chats(void **state) {
    (void)state;
    const struct fault_row row = {"chat", write_chat, 1, 0};
    if (tokenizer_open(tiny_folder(), &chat_tokenizer)) fail_msg("%s", outrider_error());
    for (chat_form = CHAT_ZEPHYR; chat_form <= CHAT_OWN; chat_form++) every_k(&row, &until_fault);
    tokenizer_close(chat_tokenizer);
}

static void templates(void **state) {
    (void)state;
    json_t *root = json_load_file("tests/golden/templates.json", 0, NULL), *t;
    size_t i;
    assert_non_null(root);
    json_array_foreach(json_object_get(root, "templates"), i, t) {
        const struct fault_row row = {json_string_value(json_object_get(t, "name")), render, 1, 0};
        chat_template = json_string_value(json_object_get(t, "source"));
        every_k(&row, &until_fault);
    }
    json_decref(root);
}

int main(void) {
    static const struct fault_row rows[] = {{"load", load, 1, 0},
                                            {"generate", generate, 0, 0},
                                            {"converse", converse, 0, 0},
                                            {"batch", ride, 0, 0},
                                            {"save and load", save_and_load, 0, 0}};
    const struct CMUnitTest tests[] = {
        {"host memory: load", host_memory, NULL, NULL, (void *)&rows[0]},
        {"host memory: generate", host_memory, NULL, NULL, (void *)&rows[1]},
        {"host memory: converse", host_memory, NULL, NULL, (void *)&rows[2]},
        {"host memory: batch", host_memory, NULL, NULL, (void *)&rows[3]},
        {"host memory: save and load", host_memory, NULL, NULL, (void *)&rows[4]},
        cmocka_unit_test(files),
        cmocka_unit_test(families),
        cmocka_unit_test(tokenizers),
        cmocka_unit_test(names),
        cmocka_unit_test(lists_that_grow),
        cmocka_unit_test(chats),
        cmocka_unit_test(templates),
        {"device memory: load", device_memory, NULL, NULL, (void *)&rows[0]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

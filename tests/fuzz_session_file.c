/* The file of outrider_session_save, loaded into an engine with the tiny pair. Fingerprints of 1 stand for
 * this engine's, and where only the checksum is wrong it is put right, so that all behind it is tried too.
 * What is refused leaves an empty session; what loads is saved again as the same file, is cut somewhere,
 * forked, and goes on writing.
 */
#include "runtime/session_file.c" /* for its own steps */
#include "tests/helpers_fuzz.h"

static outrider_engine *engine;
static outrider_session *session;
static char path[128], again[128];

static void open_pair(void) {
    outrider_engine_options o = outrider_engine_defaults();
    o.model = o.draft = fuzz_tiny();
    o.device = "cpu", o.threads = 1, o.max_sessions = 2, o.ctx_size = 64, o.page_size = 16;
    if (outrider_engine_open(&o, &engine)) fuzz_die("the tiny model");
    outrider_settings set = outrider_settings_defaults(engine);
    set.n_predict = 3, set.draft_n = 2, set.seed = 1;
    if (outrider_session_open(engine, &set, &session)) fuzz_die("a session");
    snprintf(path, sizeof path, "%s/chat.json", fuzz_folder());
    snprintf(again, sizeof again, "%s/saved.json", fuzz_folder());
}

/* Reads up to the checksum; what was read is forgotten. False when there is nothing to mend. */
static bool find_checksum(uint64_t *hash) {
    struct header h;
    struct stream f = {.path = path, .hash = HASH_START, .page = page_buffer(engine)};
    f.file = open(path, O_RDONLY | O_CLOEXEC);
    if (f.file < 0 || !f.page) abort();
    bool good = !get_header(engine, &f, &h) && !get_tokens(session, &f, h.n) && !get_turns(session, &f, &h);
    for (int m = 0; m < KV_MODELS && good; m++) good = !get_cache(session, &f, &h, m);
    *hash = f.hash;
    close(f.file);
    free(f.page);
    session_restart(session, 0);
    return good;
}

static void mend(uint8_t *data, size_t bytes) {
    struct header h;
    uint64_t hash;
    memcpy(&h, data, sizeof h);
    for (int m = 0; m < KV_MODELS; m++)
        if (h.model[m] == 1) h.model[m] = fingerprint(engine, m);
    memcpy(data, &h, sizeof h);
    fuzz_write("chat.json", data, bytes);
    if (!find_checksum(&hash)) return;
    memcpy(data + bytes - sizeof hash, &hash, sizeof hash);
    fuzz_write("chat.json", data, bytes);
}

static void go_on(outrider_session *s) {
    bool going = !outrider_session_append_message(s, "user", "the", 3);
    while (going && outrider_session_stop(s) == OUTRIDER_RUNNING)
        going = !outrider_round(&s, 1); /* a forged cache may leave no token possible */
}

static void use(uint64_t id) {
    uint64_t same;
    size_t n;
    outrider_session *fork;
    outrider_session_tokens(session, &n);
    if (outrider_session_save(session, again, &same)) fuzz_die("what was loaded does not save");
    session_restart(session, 0);
    if (outrider_session_load(session, again, &id)) fuzz_die("what was saved does not load");
    if (id != same) fuzz_die("saving changes a session");
    if (outrider_session_fork(session, &fork) || outrider_session_truncate(fork, id % (n + 1)))
        fuzz_die("what was loaded cannot be cut");
    go_on(fork);
    outrider_session_close(fork);
    go_on(session);
    session_restart(session, 0);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    size_t n;
    uint64_t id;
    if (!engine) open_pair();
    uint8_t *file = malloc(bytes + 1);
    if (!file) abort();
    if (bytes) memcpy(file, data, bytes);
    fuzz_write("chat.json", file, bytes);
    if (bytes >= sizeof(struct header) + sizeof(uint64_t)) mend(file, bytes);
    free(file);
    outrider_status status = outrider_session_load(session, path, &id);
    if (status == OUTRIDER_OK) {
        use(id);
        return;
    }
    if (status != OUTRIDER_EFAIL && status != OUTRIDER_EMODEL && status != OUTRIDER_EINVAL)
        fuzz_die("status");
    if (!strstr(outrider_error(), "chat.json")) fuzz_die("the line does not name the file");
    outrider_session_tokens(session, &n);
    if (n) fuzz_die("a refused file leaves tokens");
}

/* Saved conversations: one JSON object,
 *
 *     {"format": "outrider chat 1", "settings": {"temp": "0.5", "stop": ["###"]},
 *      "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
 *
 * with a message of role "system" first where there is one. Settings are those that were given, as a user
 * writes them, so that a loaded one passes the same checks as a typed one. Models are not named: a
 * conversation can be continued with another.
 *
 * Beside FILE stands FILE.cache, the session as the library saves it, and in FILE
 *
 *     "cache": {"id": "CHECKSUM OF FILE.cache", "of": "CHECKSUM OF messages", "turns": [[0, 12], [40, 55]]}
 *
 * where each turn and its answer begin. If anything about it does not fit (another model, an edited message,
 * a file gone), the text is read anew. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/new_file.h"
#include "tools/chat.h"

static const char format[] = "outrider chat 1";
enum { MAX_FILE_BYTES = 64 << 20, PARSED_BYTES = 128 }; /* memory for a byte of JSON, at most */

/* ---- save ---- */

/* Without memory the makers of JSON give NULL, and taking NULL in is a failure: nothing is left out in
 * silence. */

static json_t *message_json(const char *role, const char *text, size_t bytes) {
    return json_pack("{s:s, s:o}", "role", role, "content", json_text(bytes ? text : "", bytes));
}

static json_t *messages_json(const struct chat *c) {
    const char *system = c->options->values[OPT_SYSTEM_PROMPT].text;
    json_t *messages = json_array();
    int failed = 0;
    if (system) failed |= json_array_append_new(messages, message_json("system", system, strlen(system)));
    for (size_t i = 0; i < c->n_turns; i++) {
        const struct turn *t = &c->turns[i];
        failed |= json_array_append_new(messages, message_json("user", t->user.data, t->user.bytes));
        failed |= json_array_append_new(messages, message_json("assistant", t->answer.data, t->answer.bytes));
    }
    if (!failed) return messages;
    json_decref(messages);
    return NULL;
}

static json_t *value_json(const struct option_spec *s, const struct option_value *v) {
    if (s->kind != KIND_LIST) return json_text(v->text, strlen(v->text));
    json_t *list = json_array();
    int failed = 0;
    for (size_t i = 0; i < v->n; i++)
        failed |= json_array_append_new(list, json_text(v->list[i], strlen(v->list[i])));
    if (!failed) return list;
    json_decref(list);
    return NULL;
}

static json_t *settings_json(const struct chat *c) {
    json_t *settings = json_object();
    int failed = 0;
    for (int id = 0; id < N_OPTIONS; id++) {
        const struct option_spec *s = option_spec(id);
        const struct option_value *v = &c->options->values[id];
        if (v->given && chat_may_set(id)) failed |= json_object_set_new(settings, s->name, value_json(s, v));
    }
    if (!failed) return settings;
    json_decref(settings);
    return NULL;
}

static int replace_file(const char *path, const char *data, size_t bytes) {
    struct new_file f;
    outrider_status status = new_file_open(path, NEW_FILE_PRIVATE, &f);
    if (!status) status = new_file_write(&f, data, bytes);
    if (!status) status = new_file_finish(&f);
    new_file_drop(&f);
    return tell(status);
}

static void note(const char *what) {
    fprintf(stderr, "note: %s\n", what);
}

static bool cache_path(const char *path, char out[4096]) {
    return snprintf(out, 4096, "%s.cache", path) < 4096;
}

static int add_to_hash(const char *text, size_t bytes, void *data) {
    uint64_t *hash = data;
    for (size_t i = 0; i < bytes; i++) *hash = (*hash ^ (unsigned char)text[i]) * 1099511628211u;
    return 0;
}

/* FNV-1a of the messages as JSON; false without memory. */
static bool messages_checksum(const json_t *messages, char out[17]) {
    uint64_t hash = 14695981039346656037u;
    if (json_dump_callback(messages, add_to_hash, &hash, JSON_COMPACT)) return false;
    snprintf(out, 17, "%016" PRIx64, hash);
    return true;
}

static json_t *places_json(const struct chat *c) {
    json_t *turns = json_array();
    for (size_t i = 0; turns && i < c->n_turns; i++)
        if (json_array_append_new(turns, json_pack("[I, I]", (json_int_t)c->turns[i].begin,
                                                   (json_int_t)c->turns[i].answer_begin))) {
            json_decref(turns);
            return NULL;
        }
    return turns;
}

/* Writes FILE.cache; *out is what FILE says of it, or NULL when there is nothing to keep, or no room for it
 * on the disk, which is told and no failure: the text is kept in any case. */
static int save_cache(const struct chat *c, const char *path, const json_t *messages, json_t **out) {
    char file[4096], id[17], of[17];
    uint64_t checksum;
    *out = NULL;
    if (!c->n_turns || !cache_path(path, file)) return 0;
    outrider_status status = outrider_session_save(c->session, file, &checksum);
    if (status == OUTRIDER_ENOMEM) return tell(status);
    if (status) {
        fprintf(stderr, "note: the cache is not saved: %s\n", outrider_error());
        return 0;
    }
    snprintf(id, sizeof id, "%016" PRIx64, checksum);
    json_t *places = messages_checksum(messages, of) ? places_json(c) : NULL;
    *out = places ? json_pack("{s:s, s:s, s:o}", "id", id, "of", of, "turns", places) : NULL;
    return *out ? 0 : complain_memory();
}

struct dump {
    struct text text;
    int code; /* kept here, for not every failure comes back through jansson */
};

static int add_to_dump(const char *text, size_t bytes, void *data) {
    struct dump *dump = data;
    if (!dump->code) dump->code = text_append(&dump->text, text, bytes);
    return dump->code;
}

static int write_root(const char *path, const json_t *root) {
    struct dump dump = {0};
    if (json_dump_callback(root, add_to_dump, &dump, JSON_INDENT(2)) && !dump.code)
        dump.code = complain_memory();
    int code = dump.code ? dump.code : replace_file(path, dump.text.data, dump.text.bytes);
    text_clear(&dump.text);
    return code;
}

int chat_save(const struct chat *c, const char *path) {
    struct stat s;
    if (!stat(path, &s) && !S_ISREG(s.st_mode))
        return complain(OUTRIDER_EFAIL, "%s: not a regular file", path);
    json_t *messages = messages_json(c), *cache;
    if (!messages) return complain_memory();
    int failed = save_cache(c, path, messages, &cache);
    if (failed) {
        json_decref(messages);
        return failed;
    }
    json_t *root =
        json_pack("{s:s, s:o, s:o}", "format", format, "settings", settings_json(c), "messages", messages);
    if (root && cache && json_object_set(root, "cache", cache)) {
        json_decref(root);
        root = NULL;
    }
    json_decref(cache);
    int code = root ? write_root(path, root) : complain_memory();
    json_decref(root);
    return code;
}

/* ---- load ---- */

static int bad(const char *path, const char *field) {
    return complain(OUTRIDER_EFAIL, "%s: %s is not that of a saved conversation", path, field);
}

static int read_json(const char *path, json_t **out) {
    struct stat s;
    if (stat(path, &s)) return complain_file(path);
    if (!S_ISREG(s.st_mode) || s.st_size > MAX_FILE_BYTES)
        return complain(OUTRIDER_EFAIL, "%s: no regular file of at most %d bytes", path, MAX_FILE_BYTES);
    struct text text = {0};
    json_error_t error;
    int code = text_read_file(&text, path);
    /* the parser does not survive it when memory runs out within, so all it may take is asked for first */
    void *probe = code ? NULL : malloc(text.bytes * PARSED_BYTES + 1);
    if (!code && !probe) code = complain_memory();
    free(probe);
    if (!code && !(*out = json_loadb(text.data, text.bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error)))
        code = complain(OUTRIDER_EFAIL, "%s: line %d: %s; it is not what /save wrote", path, error.line,
                        error.text);
    text_clear(&text);
    return code;
}

/* The text of a setting; NULL for what is none. One with a NUL inside would be cut at it. */
static const char *setting_text(const json_t *value) {
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

static int load_setting(struct options *o, const char *path, const char *name, const json_t *value) {
    enum option_id id = option_find(CMD_CHAT, name, true, false);
    if (id == N_OPTIONS || !chat_may_set(id)) return bad(path, "settings");
    if (setting_text(value)) return option_assign(o, id, name, setting_text(value));
    if (!json_is_array(value)) return bad(path, "settings");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *text = setting_text(json_array_get(value, i));
        if (!text) return bad(path, "settings");
        CHECK(option_add(o, id, name, text));
    }
    return 0;
}

static int load_settings(struct options *o, const char *path, json_t *settings) {
    const char *name;
    json_t *value;
    if (!json_is_object(settings)) return bad(path, "settings");
    for (int id = 0; id < N_OPTIONS; id++)
        if (chat_may_set(id) || id == OPT_SYSTEM_PROMPT) option_reset(o, id);
    json_object_foreach(settings, name, value) CHECK(load_setting(o, path, name, value));
    return 0;
}

/* The content of messages[i], which must be of `role`; NULL when it is not. */
static const json_t *content(const json_t *messages, size_t i, const char *role) {
    const json_t *message = json_array_get(messages, i);
    const char *is = json_string_value(json_object_get(message, "role"));
    const json_t *text = json_object_get(message, "content");
    return is && !strcmp(is, role) && json_is_string(text) ? text : NULL;
}

static int append_json(struct text *t, const json_t *string) {
    return text_append(t, json_string_value(string), json_string_length(string));
}

static int load_messages(struct chat *c, const char *path, const json_t *messages) {
    if (!json_is_array(messages)) return bad(path, "messages");
    const json_t *system = content(messages, 0, "system");
    if (system && strlen(json_string_value(system)) != json_string_length(system))
        return bad(path, "messages");
    size_t first = system ? 1 : 0, n = json_array_size(messages) - first;
    if (system) CHECK(option_assign(c->options, OPT_SYSTEM_PROMPT, "system", json_string_value(system)));
    if (n % 2) return bad(path, "messages");
    c->turns = calloc(n / 2 + 1, sizeof *c->turns);
    if (!c->turns) return complain_memory();
    for (size_t i = 0; i < n; i += 2) {
        const json_t *user = content(messages, first + i, "user");
        const json_t *answer = content(messages, first + i + 1, "assistant");
        if (!user || !answer) return bad(path, "messages");
        struct turn *turn = &c->turns[c->n_turns++];
        if (append_json(&turn->user, user) || append_json(&turn->answer, answer)) return OUTRIDER_ENOMEM;
    }
    return 0;
}

/* Where turns and answers begin, as FILE says; they must rise, and lie within the n tokens of the session. */
static bool load_places(struct chat *c, const json_t *places, size_t n) {
    json_int_t before = 0;
    if (json_array_size(places) != c->n_turns) return false;
    for (size_t i = 0; i < c->n_turns; i++) {
        const json_t *pair = json_array_get(places, i);
        json_int_t begin = json_integer_value(json_array_get(pair, 0));
        json_int_t answer = json_integer_value(json_array_get(pair, 1));
        if (begin < before || answer <= begin || answer > (json_int_t)n) return false;
        c->turns[i].begin = (size_t)begin;
        c->turns[i].answer_begin = (size_t)answer;
        before = answer;
    }
    return true;
}

/* The session from FILE.cache; false leaves it empty. */
static bool load_cache(struct chat *c, const char *path, const json_t *root) {
    const json_t *cache = json_object_get(root, "cache");
    const char *id = json_string_value(json_object_get(cache, "id"));
    const char *of = json_string_value(json_object_get(cache, "of"));
    char file[4096], found[17];
    uint64_t checksum;
    size_t n;
    if (!id || !of || !cache_path(path, file)) return false;
    if (!messages_checksum(json_object_get(root, "messages"), found) || strcmp(of, found)) {
        note("the messages were edited: they are read anew");
        return false;
    }
    if (outrider_session_load(c->session, file, &checksum)) {
        fprintf(stderr, "note: the text is read anew: %s\n", outrider_error());
        return false;
    }
    snprintf(found, sizeof found, "%016" PRIx64, checksum);
    outrider_session_tokens(c->session, &n);
    if (!strcmp(id, found) && load_places(c, json_object_get(cache, "turns"), n)) return true;
    note("the cache beside the file is not of this conversation: the text is read anew");
    outrider_session_truncate(c->session, 0);
    return false;
}

static int load_json(struct chat *c, const char *path, const json_t *root) {
    const char *is = json_string_value(json_object_get(root, "format"));
    if (!is || strcmp(is, format)) return bad(path, "format");
    CHECK(load_settings(c->options, path, json_object_get(root, "settings")));
    CHECK(load_messages(c, path, json_object_get(root, "messages")));
    CHECK(chat_apply(c, c->options->values[OPT_SEED].given));
    c->stats = (outrider_stats){0};
    return load_cache(c, path, root) ? 0 : chat_replay(c);
}

/* The loaded conversation, in a session of its own, in place of the present one; takes `before`, the present
 * options. */
static int replace(struct chat *c, const char *path, const json_t *root, struct options *before) {
    struct chat old = *c;
    outrider_session *fresh;
    int code = tell(outrider_session_open(c->engine, &c->settings, &fresh));
    if (code) {
        options_free(before);
        return code;
    }
    c->session = fresh;
    c->turns = NULL;
    c->n_turns = 0;
    code = load_json(c, path, root);
    if (!code) {
        options_free(before);
        turns_free(old.turns, old.n_turns);
        outrider_session_close(old.session);
        return 0;
    }
    turns_free(c->turns, c->n_turns);
    outrider_session_close(fresh);
    options_free(c->options);
    *c->options = *before;
    c->session = old.session;
    c->turns = old.turns;
    c->n_turns = old.n_turns;
    c->seed = old.seed;
    chat_apply(c, false); /* held before, so they hold again */
    c->stats = old.stats;
    return code;
}

int chat_load(struct chat *c, const char *path) {
    json_t *root;
    struct options before;
    CHECK(read_json(path, &root));
    int code = options_copy(c->options, &before);
    if (!code)
        code = replace(c, path, root, &before);
    else
        options_free(&before);
    json_decref(root);
    return code;
}

/* A saved conversation, loaded into a chat with a tiny model: refused and nothing has changed, or taken over;
 * then it is saved, loaded and saved again, and both files are the same. */
#include "tests/helpers_fuzz.h"

#include "tools/chat.h"
#include "tools/setup.h"

static struct options options;

static void open_chat(struct chat *c) {
    char *argv[] = {"chat", "-m", (char *)fuzz_tiny(), "--device", "cpu", "-t", "1", "--seed", "1"};
    outrider_settings settings;
    c->options = &options;
    if (options_parse(&options, CMD_CHAT, sizeof argv / sizeof *argv, argv) ||
        setup_engine(&options, &c->engine))
        fuzz_die("the tiny model");
    settings = outrider_settings_defaults(c->engine);
    if (outrider_session_open(c->engine, &settings, &c->session) || chat_apply(c, true))
        fuzz_die("a session");
}

static char *read_back(const char *name, size_t *n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t room;
    if (!f) fuzz_die("nothing was saved");
    *n = (size_t)getdelim(&text, &room, EOF, f);
    fclose(f);
    return text;
}

static void save_and_load(struct chat *c, const char *first, const char *again) {
    size_t n, m;
    if (chat_save(c, first) || chat_load(c, first) || chat_save(c, again))
        fuzz_die("what was loaded does not save");
    char *a = read_back("saved.json", &n), *b = read_back("chat.json", &m);
    if (n != m || memcmp(a, b, n) != 0) fuzz_die("saving changes a conversation");
    free(a);
    free(b);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static struct chat c;
    char path[128], saved[128];
    if (!c.engine) open_chat(&c);
    snprintf(path, sizeof path, "%s/chat.json", fuzz_folder());
    snprintf(saved, sizeof saved, "%s/saved.json", fuzz_folder());
    fuzz_write("chat.json", data, bytes);
    size_t turns = c.n_turns;
    if (chat_load(&c, path) == 0)
        save_and_load(&c, saved, path);
    else if (c.n_turns != turns)
        fuzz_die("a refused file changes the conversation");
}

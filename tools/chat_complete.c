/* What Tab offers in a conversation: commands, keys and values of settings, file names, branches. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/chat.h"

static void offer(struct completions *out, const char *begun, const char *word) {
    if (!strncmp(word, begun, strlen(begun))) completions_add(out, word);
}

static void offer_commands(struct completions *out, const char *begun, const char *behind) {
    char word[64];
    for (size_t i = 0; chat_command_name(i); i++) {
        snprintf(word, sizeof word, "%s%s", chat_command_name(i), behind);
        offer(out, begun, word);
    }
}

/* Words of a list like a|b|c. */
static void offer_choices(struct completions *out, const char *begun, const char *list) {
    char word[64];
    while (*list) {
        size_t n = strcspn(list, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, list);
        offer(out, begun, word);
        list += n + (list[n] == '|');
    }
}

static void offer_keys(struct completions *out, const char *begun) {
    char word[64];
    offer(out, begun, "system ");
    for (int id = 0; id < N_OPTIONS; id++) {
        if (!chat_may_set(id)) continue;
        snprintf(word, sizeof word, "%s ", option_spec(id)->name);
        offer(out, begun, word);
    }
}

/* `rest` is a key, or a key and what its value begins with. */
static void offer_settings(struct completions *out, const char *rest, size_t at) {
    char key[64];
    size_t n = strcspn(rest, " =");
    if (!rest[n]) {
        offer_keys(out, rest);
        return;
    }
    if (n >= sizeof key) return;
    memcpy(key, rest, n);
    key[n] = '\0';
    enum option_id id = option_find(CMD_CHAT, key, true, false);
    const char *value = rest + n + strspn(rest + n, " =");
    out->from = at + (size_t)(value - rest);
    if (id == N_OPTIONS || !chat_may_set(id)) return;
    const struct option_spec *s = option_spec(id);
    if (s->kind == KIND_CHOICE) offer_choices(out, value, s->argument);
    if (s->kind == KIND_FLAG) offer_choices(out, value, "on|off");
}

static void offer_branches(const struct chat *c, struct completions *out, const char *begun) {
    for (size_t i = 0; i < c->n_branches; i++) offer(out, begun, c->branches[i].name);
}

/* ---- files ---- */

static bool is_folder(const char *folder, const char *name) {
    char path[4096];
    struct stat s;
    return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && !stat(path, &s) &&
           S_ISDIR(s.st_mode);
}

/* The folder of a path that is being typed, ~/ for the home folder. */
static void folder_of(const char *path, size_t bytes, char *out, size_t size) {
    const char *home = getenv("HOME");
    if (!bytes)
        snprintf(out, size, ".");
    else if (home && !strncmp(path, "~/", 2))
        snprintf(out, size, "%s/%.*s", home, (int)bytes - 2, path + 2);
    else
        snprintf(out, size, "%.*s", (int)bytes, path);
}

/* Hidden files only once their dot is typed. */
static void offer_files(struct completions *out, const char *path, size_t at) {
    const char *slash = strrchr(path, '/'), *begun = slash ? slash + 1 : path;
    char folder[4096], word[300];
    folder_of(path, (size_t)(begun - path), folder, sizeof folder);
    out->from = at + (size_t)(begun - path);
    DIR *entries = opendir(folder);
    for (struct dirent *e; entries && (e = readdir(entries));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (e->d_name[0] == '.' && begun[0] != '.') continue;
        snprintf(word, sizeof word, "%s%s", e->d_name, is_folder(folder, e->d_name) ? "/" : "");
        offer(out, begun, word);
    }
    if (entries) closedir(entries);
}

/* ---- by command ---- */

static bool is_one_of(const char *name, size_t n, const char *list) {
    for (size_t word; (word = strcspn(list, " ")) > 0; list += word + strspn(list + word, " "))
        if (word == n && !memcmp(list, name, n)) return true;
    return false;
}

void chat_complete(void *chat, const char *text, struct completions *out) {
    const struct chat *c = chat;
    if (text[0] != '/') return;
    size_t n = strcspn(text + 1, " ");
    const char *argument = text + 1 + n + strspn(text + 1 + n, " ");
    out->from = 1;
    if (!text[1 + n]) {
        offer_commands(out, text + 1, " ");
        return;
    }
    out->from = (size_t)(argument - text);
    if (is_one_of(text + 1, n, "read save load glob")) offer_files(out, argument, out->from);
    if (is_one_of(text + 1, n, "set")) offer_settings(out, argument, out->from);
    if (is_one_of(text + 1, n, "switch drop")) offer_branches(c, out, argument);
    if (is_one_of(text + 1, n, "help ?")) offer_commands(out, argument, "");
    if (is_one_of(text + 1, n, "spec")) offer_choices(out, argument, "on|off|show|hide");
}

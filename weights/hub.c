/* See hub.h. Invariant: of a name, only letters, digits, '-', '_' and '.' ever become part of a path, and
 * never as "." or ".."; what a ref says is a commit's hash or nothing. */
#include "weights/hub.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/status.h"
#include "weights/map.h"
#include "weights/source.h"

enum { PART_MAX = 96 };

struct name {
    char org[PART_MAX + 1], repo[PART_MAX + 1], revision[PART_MAX + 1];
    const char *part; /* of a file's name; NULL for none */
};

/* ---- names ---- */

/* Takes characters up to one of `ends`; false when some are not allowed, or too few or many. */
static bool take_part(const char **at, const char *ends, char out[PART_MAX + 1]) {
    size_t n = strcspn(*at, ends);
    if (n == 0 || n > PART_MAX || **at == '.' || **at == '-') return false;
    memcpy(out, *at, n);
    out[n] = '\0';
    *at += n;
    if (strstr(out, "..") || strstr(out, "--")) return false;
    return strspn(out, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") == n;
}

static bool parse_name(const char *text, struct name *out) {
    *out = (struct name){.revision = "main"};
    if (!take_part(&text, "/", out->org) || *text++ != '/') return false;
    if (!take_part(&text, "@:", out->repo)) return false;
    if (*text == '@' && (text++, !take_part(&text, ":", out->revision))) return false;
    if (*text == ':') out->part = text + 1;
    return out->part ? *out->part && strlen(out->part) <= PART_MAX : !*text;
}

/* ---- the cache ---- */

static bool cache_folder(char out[PATH_MAX]) {
    static const struct {
        const char *variable, *below;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = getenv(places[i].variable);
        if (value && *value) return snprintf(out, PATH_MAX, "%s%s", value, places[i].below) < PATH_MAX;
    }
    return false;
}

static outrider_status fail_missing(const struct name *n, const char *text, const char *cache) {
    bool main = strcmp(n->revision, "main") == 0;
    return fail(
        OUTRIDER_EMODEL,
        "%s: no such path, and no such model in the Hugging Face cache %.200s; to download it: hf download "
        "%s/%s%s%s",
        text, cache, n->org, n->repo, main ? "" : " --revision ", main ? "" : n->revision);
}

/* The hash in a ref's file, or nothing. */
static outrider_status read_ref(const char *repo, const char *revision, char hash[PART_MAX + 1]) {
    char path[PATH_MAX];
    struct mapping map;
    struct stat st;
    hash[0] = '\0';
    if (snprintf(path, sizeof path, "%s/refs/%s", repo, revision) >= PATH_MAX || stat(path, &st))
        return OUTRIDER_OK;
    TRY(map_open_path(path, &map));
    size_t n = 0;
    while (n < map.bytes && n < PART_MAX && strchr("0123456789abcdef", map.data[n]) && map.data[n]) n++;
    bool ends = n == map.bytes || (n + 1 == map.bytes && map.data[n] == '\n');
    memcpy(hash, map.data, n);
    hash[n] = '\0';
    map_close(&map);
    return n >= 7 && ends ? OUTRIDER_OK : fail(OUTRIDER_EMODEL, "%s: not the hash of a commit", path);
}

/* ---- the snapshot ---- */

static bool lies_within(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && path[n] == '/';
}

/* Files are links into blobs; one that leads elsewhere is not of this model. One that leads nowhere is left
 * to those who read it. */
static outrider_status check_links(const char *snapshot, const char *repo) {
    char path[PATH_MAX], real[PATH_MAX];
    DIR *folder = opendir(snapshot);
    if (!folder) return fail_errno(OUTRIDER_EMODEL, snapshot);
    outrider_status status = OUTRIDER_OK;
    for (struct dirent *e; status == OUTRIDER_OK && (e = readdir(folder));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (snprintf(path, sizeof path, "%s/%s", snapshot, e->d_name) >= PATH_MAX) continue;
        if (realpath(path, real) && !lies_within(real, repo))
            status = fail(OUTRIDER_EMODEL, "%s: a link out of the model's folder in the cache", path);
    }
    closedir(folder);
    return status;
}

/* The one GGUF file, or the first of a split one, whose name holds `part`. */
static outrider_status find_part(const char *snapshot, const char *part, char **path) {
    DIR *folder = opendir(snapshot);
    if (!folder) return fail_errno(OUTRIDER_EMODEL, snapshot);
    outrider_status status = OUTRIDER_OK;
    for (struct dirent *e; status == OUTRIDER_OK && (e = readdir(folder));) {
        if (!source_is_gguf(e->d_name) || !strcasestr(e->d_name, part)) continue;
        if (*path)
            status = fail(OUTRIDER_EMODEL, "%s: %.100s and %.100s both have \"%s\" in their names", snapshot,
                          strrchr(*path, '/') + 1, e->d_name, part);
        else if (asprintf(path, "%s/%s", snapshot, e->d_name) < 0)
            *path = NULL, status = fail_memory("a path", PATH_MAX);
    }
    closedir(folder);
    if (status == OUTRIDER_OK && !*path)
        status = fail(OUTRIDER_EMODEL, "%s: no GGUF file with \"%s\" in its name", snapshot, part);
    return status;
}

static outrider_status find_snapshot(const struct name *n, const char *text, char repo[PATH_MAX],
                                     char snapshot[PATH_MAX]) {
    char cache[PATH_MAX], guess[PATH_MAX], hash[PART_MAX + 1];
    if (!cache_folder(cache)) snprintf(cache, sizeof cache, "(HOME is not set)");
    if (snprintf(guess, sizeof guess, "%s/models--%s--%s", cache, n->org, n->repo) >= PATH_MAX ||
        !realpath(guess, repo))
        return fail_missing(n, text, cache);
    TRY(read_ref(repo, n->revision, hash));
    if (snprintf(guess, sizeof guess, "%s/snapshots/%s", repo, hash[0] ? hash : n->revision) >= PATH_MAX ||
        !realpath(guess, snapshot))
        return fail_missing(n, text, cache);
    if (!lies_within(snapshot, repo))
        return fail(OUTRIDER_EMODEL, "%s: a link out of the model's folder in the cache", guess);
    return OUTRIDER_OK;
}

outrider_status hub_resolve(const char *text, char **path) {
    struct name name;
    struct stat st;
    char repo[PATH_MAX], snapshot[PATH_MAX];
    *path = NULL;
    if (stat(text, &st) == 0 || !parse_name(text, &name)) {
        *path = strdup(text);
        return *path ? OUTRIDER_OK : fail_memory("a path", strlen(text) + 1);
    }
    TRY(find_snapshot(&name, text, repo, snapshot));
    TRY(check_links(snapshot, repo));
    if (name.part) {
        outrider_status status = find_part(snapshot, name.part, path);
        if (status != OUTRIDER_OK) free(*path), *path = NULL;
        return status;
    }
    *path = strdup(snapshot);
    return *path ? OUTRIDER_OK : fail_memory("a path", strlen(snapshot) + 1);
}

/* Names in a Hugging Face cache made here: which folder counts, what a ref and a snapshot may say, and that
 * nothing outside the repository's folder is ever named. */
#include "tests/helpers_weights.h"

#include "weights/hub.h"

#define HASH "0123456789abcdef0123456789abcdef01234567"
#define OTHER "fedcba9876543210fedcba9876543210fedcba98"

static struct folder folder; /* the cache, and whatever lies beside it */

static void sh(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void sh(const char *format, ...) {
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    if (system(command)) fail_msg("%s", command);
}

static const char *const variables[] = {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"};

/* cache/models--org--name with two files, links into its blobs. */
static int clear(void **state) {
    (void)state;
    for (size_t i = 0; i < 4; i++) unsetenv(variables[i]);
    sh("rm -rf %s/*; cd %s && mkdir -p cache/models--org--name/blobs cache/models--org--name/refs "
       "cache/models--org--name/snapshots/" HASH,
       folder.path, folder.path);
    sh("cd %s/cache/models--org--name && printf " HASH " >refs/main && echo x >blobs/b && "
       "ln -s ../../blobs/b snapshots/" HASH "/a-Q8_0.gguf && ln -s ../../blobs/b snapshots/" HASH
       "/a-Q4_K_M.gguf",
       folder.path);
    setenv("HF_HUB_CACHE", folder_file(&folder, "cache"), 1);
    return 0;
}

static void assert_finds(const char *name, const char *end) {
    char *path;
    if (hub_resolve(name, &path)) fail_msg("%s", outrider_error());
    size_t n = strlen(path), m = strlen(end);
    if (n < m || strcmp(path + n - m, end) != 0) fail_msg("%s is %s, not %s", name, path, end);
    free(path);
}

static void assert_refuses(const char *name, const char *says) {
    char *path;
    assert_refused(hub_resolve(name, &path), "org", says);
    assert_null(path);
}

static void finds(void **state) {
    (void)state;
    assert_finds("org/name", "/models--org--name/snapshots/" HASH);
    assert_finds("org/name@main", "/snapshots/" HASH);
    assert_finds("org/name@" HASH, "/snapshots/" HASH);
    assert_finds("org/name:q4_k_m", "/snapshots/" HASH "/a-Q4_K_M.gguf");
    assert_finds("org/name@main:Q8", "/a-Q8_0.gguf");
    assert_refuses("org/name:Q", "both have \"Q\" in their names");
    assert_refuses("org/name:Q6", "no GGUF file with \"Q6\"");
}

static void revisions(void **state) {
    (void)state;
    sh("cd %s/cache/models--org--name && mkdir snapshots/" OTHER " && echo " OTHER " >refs/v2", folder.path);
    assert_finds("org/name@v2", "/snapshots/" OTHER);
    assert_refuses("org/name@v3", "hf download org/name --revision v3");
}

static void order_of_caches(void **state) {
    (void)state;
    static const char *const below[] = {"", "/hub", "/huggingface/hub", "/.cache/huggingface/hub"};
    for (int i = 3; i >= 0; i--) { /* each wins over those after it */
        char at[64], end[256];
        snprintf(at, sizeof at, "place%d", i);
        unsetenv("HF_HUB_CACHE");
        sh("mkdir -p %s/%s%s && cp -a %s/cache/* %s/%s%s/", folder.path, at, below[i], folder.path,
           folder.path, at, below[i]);
        setenv(variables[i], folder_file(&folder, at), 1);
        snprintf(end, sizeof end, "/%s%s/models--org--name/snapshots/" HASH, at, below[i]);
        assert_finds("org/name", end);
    }
}

static void path_wins(void **state) {
    (void)state;
    char old[512];
    assert_non_null(getcwd(old, sizeof old));
    sh("mkdir -p %s/org/name", folder.path);
    assert_int_equal(chdir(folder.path), 0);
    assert_finds("org/name", "org/name");
    assert_finds("./org/name", "./org/name");
    assert_int_equal(chdir(old), 0);
    assert_finds("/nonexistent/name", "/nonexistent/name"); /* no name: left to those who open it */
}

static void missing(void **state) {
    (void)state;
    assert_refuses("org/other", "to download it: hf download org/other");
    sh("rm -r %s/cache/models--org--name/snapshots", folder.path);
    assert_refuses("org/name", "hf download org/name");
    for (size_t i = 0; i < 4; i++) unsetenv(variables[i]);
    assert_refuses("org/name", "HOME is not set");
}

/* What is no name is a path, and never leads into the cache. */
static void odd_names(void **state) {
    (void)state;
    static const char *const names[] = {"org/../name",
                                        "../org/name",
                                        "org/..",
                                        "org/.name",
                                        "org",
                                        "org/name/more",
                                        "/org/name",
                                        "org/",
                                        "/",
                                        "",
                                        "org/na me",
                                        "org/na\nme",
                                        "org/name@",
                                        "org/name@..",
                                        "org/name:",
                                        "o--g/name",
                                        "-org/name",
                                        "org/n\xc3\xa4",
                                        "org/name@a/b",
                                        "models--org--name"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path;
        assert_int_equal(hub_resolve(names[i], &path), OUTRIDER_OK);
        assert_string_equal(path, names[i]);
        free(path);
    }
    char name[300];
    memset(name, 'a', sizeof name);
    name[150] = '/';
    name[299] = '\0';
    assert_finds(name, name);
}

static void bad_refs(void **state) {
    (void)state;
    static const char *const texts[] = {"../../../etc", "main", HASH "/..", HASH "\\nx", "0123", (" " HASH)};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        sh("printf '%s' >%s/cache/models--org--name/refs/main", texts[i], folder.path);
        assert_refuses("org/name", "not the hash of a commit");
    }
    sh("cd %s/cache/models--org--name/refs && rm main && mkfifo main", folder.path);
    assert_refuses("org/name", "not a regular file");
}

/* A variable that is empty says nothing; a path that no file can have is the path of no model. */
static void odd_caches(void **state) {
    (void)state;
    static char long_path[5000];
    char below[512];
    snprintf(below, sizeof below, "%s", folder_file(&folder, "cache"));
    for (size_t i = 0; i < 3; i++) setenv(variables[i], "", 1);
    sh("mkdir -p %s/home/.cache/huggingface && cp -a %s %s/home/.cache/huggingface/hub", folder.path, below,
       folder.path);
    setenv("HOME", folder_file(&folder, "home"), 1);
    assert_finds("org/name", "/home/.cache/huggingface/hub/models--org--name/snapshots/" HASH);
    for (size_t n = 4080; n < 4999; n += 300) {
        memset(long_path, '/', n);
        long_path[n] = '\0';
        setenv("HF_HUB_CACHE", long_path, 1);
        assert_refuses("org/name", "hf download org/name");
    }
}

/* A snapshot without its folder, a file in its place, a ref that no name can hold. */
static void odd_snapshots(void **state) {
    (void)state;
    char hex[301];
    memset(hex, 'a', 300);
    hex[300] = '\0';
    sh("printf %s >%s/cache/models--org--name/refs/main", hex, folder.path);
    assert_refuses("org/name", "not the hash of a commit");
    sh("printf " OTHER " >%s/cache/models--org--name/refs/main", folder.path);
    assert_refuses("org/name", "hf download org/name");
    sh("cd %s/cache/models--org--name && echo x >snapshots/" OTHER, folder.path);
    assert_refuses("org/name", "Not a directory");
    sh("cd %s/cache/models--org--name/snapshots && rm " OTHER " && mkdir " OTHER " && ln -s gone " OTHER
       "/config.json",
       folder.path);
    assert_finds("org/name", "/snapshots/" OTHER); /* the link to nothing is its reader's to report */
    assert_refuses("org/name:Q8", "no GGUF file with \"Q8\"");
}

static void links_outside(void **state) {
    (void)state;
    sh("cd %s/cache/models--org--name/snapshots/" HASH " && ln -s /etc/passwd config.json", folder.path);
    assert_refuses("org/name", "a link out of the model's folder");
    assert_refuses("org/name:Q8", "a link out of the model's folder");
    sh("cd %s/cache/models--org--name/snapshots/" HASH
       " && ln -sf ../../../models--org--name2/blobs/b config.json && "
       "mkdir -p ../../../models--org--name2/blobs && echo x >../../../models--org--name2/blobs/b",
       folder.path);
    assert_refuses("org/name", "a link out of the model's folder");
    sh("cd %s/cache/models--org--name && rm -r snapshots/" HASH
       " && mkdir ../away && ln -s ../../away snapshots/" HASH,
       folder.path);
    assert_refuses("org/name", "a link out of the model's folder");
}

int main(void) {
    static struct test_list tests;
    folder = folder_make();
    ADD(&tests, finds);
    ADD(&tests, revisions);
    ADD(&tests, order_of_caches);
    ADD(&tests, path_wins);
    ADD(&tests, missing);
    ADD(&tests, odd_names);
    ADD(&tests, bad_refs);
    ADD(&tests, odd_caches);
    ADD(&tests, odd_snapshots);
    ADD(&tests, links_outside);
    int failed = test_run(&tests, "hub");
    sh("rm -rf %s", folder.path);
    return failed;
}

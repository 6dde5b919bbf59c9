/* Runs a fuzz target over files and folders of files, without libFuzzer:
 *
 *     fuzz_NAME [--prefixes] [--flips N] FILE|FOLDER...
 *
 * --prefixes tries every prefix of every file too, --flips each file with one bit flipped, N times. Prints
 * how many inputs the target survived; a failure is a crash. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct plan {
    int prefixes;
    size_t flips, inputs;
};

static void die(const char *what) {
    perror(what);
    exit(2);
}

/* From a block of just its size, so that a sanitizer sees one byte too far. */
static void try(struct plan *plan, const uint8_t *data, size_t bytes) {
    uint8_t *copy = malloc(bytes ? bytes : 1);
    if (!copy) die("malloc");
    if (bytes) memcpy(copy, data, bytes);
    LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
    plan->inputs++;
}

static void try_file(struct plan *plan, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) die(path);
    size_t bytes = (size_t)ftell(f);
    uint8_t *data = malloc(bytes + 1);
    rewind(f);
    if (!data || fread(data, 1, bytes, f) != bytes) die(path);
    fclose(f);
    try(plan, data, bytes);
    for (size_t n = 0; plan->prefixes && n < bytes; n++) try(plan, data, n);
    uint32_t seed = 7;
    for (size_t i = 0; bytes && i < plan->flips; i++) {
        seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5; /* xorshift, Marsaglia 2003 */
        size_t bit = seed % (8 * bytes);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        try(plan, data, bytes);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(data);
}

static void try_folder(struct plan *plan, const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        try_file(plan, path);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.') try_file(plan, file);
    }
    closedir(dir);
}

int main(int argc, char **argv) {
    struct plan plan = {0};
    if (!freopen("/dev/null", "w", stdout)) die("/dev/null"); /* what a target prints */
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--prefixes"))
            plan.prefixes = 1;
        else if (!strcmp(argv[i], "--flips") && i + 1 < argc)
            plan.flips = strtoul(argv[++i], NULL, 10);
        else
            try_folder(&plan, argv[i]);
    }
    fprintf(stderr, "%zu inputs\n", plan.inputs);
    return plan.inputs == 0;
}

/* What the controller measured, kept between runs: one small text file a machine and pair, so that only the
 * first answer ever pays for the measurements.
 *
 * The first line is the key in full (how many numbers, machine, device, shapes); a file with another key, or
 * with anything that is not a list of sane numbers, is as good as none. A file that cannot be written is no
 * failure either: the next run measures again. Written beside and renamed, so that a reader never sees half
 * of one. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/engine.h"

enum { KEY_BYTES = 512, PATH_BYTES = 4096 };
/* Seconds that a measurement is believed, and one that was taken while others used the machine. */
enum { MAX_AGE = 7 * 24 * 3600, MAX_AGE_BUSY = 600 };
#ifdef __SANITIZE_ADDRESS__
static const char BUILD_KIND[] = "sanitized"; /* many times slower than what others run */
#else
static const char BUILD_KIND[] = "plain";
#endif

static void make_key(const outrider_engine *e, int32_t n, char *key) {
    char host[64] = "", device[128];
    const struct model *self = e->model[OUTRIDER_SELF];
    outrider_model_info v = {0}, d = {0};
    gethostname(host, sizeof host - 1);
    e->ops->describe(e->be, device, sizeof device);
    model_info(e->model[OUTRIDER_VERIFIER], &v);
    if (e->model[OUTRIDER_DRAFT]) model_info(e->model[OUTRIDER_DRAFT], &d);
    snprintf(key, KEY_BYTES,
             "outrider %s %s least costs 3; %d; %s; %s; %s %" PRIu64 " in %d layers; %s %" PRIu64
             " in %d layers; own %d",
             OUTRIDER_VERSION, BUILD_KIND, n, host, device, v.dtype, v.streamed_bytes, v.num_hidden_layers,
             d.dtype, d.streamed_bytes, d.num_hidden_layers, self ? self->config.num_hidden_layers : 0);
}

static bool make_path(const outrider_engine *e, const char *key, char *path) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (const char *c = key; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    int n = e->cost_cache ? snprintf(path, PATH_BYTES, "%s/costs-%016" PRIx64, e->cost_cache, hash) : 0;
    return n > 0 && n < PATH_BYTES - 16;
}

static bool sane(double us) {
    return isfinite(us) && us >= 0 && us < 1e9;
}

/* A regular file and its age; opened without waiting, so that a pipe put in its place hangs nobody. */
static FILE *open_file(const char *path, double *age) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return NULL;
    bool good = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (good) *age = difftime(time(NULL), st.st_mtime);
    FILE *f = good ? fdopen(fd, "r") : NULL;
    if (!f) close(fd);
    return f;
}

bool costs_load(outrider_engine *e, int32_t n, double *us, double draft_us[DRAFT_COSTS]) {
    char key[KEY_BYTES], path[PATH_BYTES], line[KEY_BYTES + 2];
    make_key(e, n, key);
    double age = 0, busy = 0;
    FILE *f = make_path(e, key, path) ? open_file(path, &age) : NULL;
    if (!f) return false;
    bool good =
        fgets(line, sizeof line, f) && strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == '\n';
    for (int32_t i = 0; i < n && good; i++) good = fscanf(f, "%lf", &us[i]) == 1 && sane(us[i]) && us[i] > 0;
    for (int i = 0; i < DRAFT_COSTS && good; i++)
        good = fscanf(f, "%lf", &draft_us[i]) == 1 && sane(draft_us[i]);
    good = good && fscanf(f, "%lf", &busy) == 1 && age < (busy > 0 ? MAX_AGE_BUSY : MAX_AGE);
    fclose(f);
    return good;
}

void costs_save(const outrider_engine *e, int32_t n, const double *us, const double draft_us[DRAFT_COSTS],
                bool busy) {
    char key[KEY_BYTES], path[PATH_BYTES], beside[PATH_BYTES];
    make_key(e, n, key);
    if (!make_path(e, key, path)) return;
    snprintf(beside, sizeof beside, "%.*s.%d", PATH_BYTES - 16, path, (int)getpid());
    if (mkdir(e->cost_cache, 0700) != 0 && errno != EEXIST) return;
    FILE *f = fopen(beside, "w");
    if (!f) return;
    fprintf(f, "%s\n", key);
    for (int32_t i = 0; i < n; i++) fprintf(f, "%.3f\n", us[i]);
    for (int i = 0; i < DRAFT_COSTS; i++) fprintf(f, "%.3f\n", draft_us[i]);
    fprintf(f, "%d\n", busy);
    bool written = fflush(f) == 0 && !ferror(f);
    if (fclose(f) != 0 || !written || rename(beside, path) != 0) unlink(beside);
}

/* Picks the backend by name, once. The only place that knows which backends this build has. */
#include "kernels/ops.h"

#include <string.h>

#include "runtime/status.h"

/* "cpu:avx2" for prefix "cpu" gives "avx2", "cpu" gives "", anything else NULL. */
static const char *name_after(const char *device, const char *prefix) {
    size_t n = strlen(prefix);
    if (strncmp(device, prefix, n) != 0) return NULL;
    if (device[n] == '\0') return device + n;
    return device[n] == ':' ? device + n + 1 : NULL;
}

outrider_status ops_open(const char *device, int32_t threads, const struct ops **ops, struct backend **be) {
    const char *name;
    if ((name = name_after(device, "cpu"))) return cpu_open(name, threads, ops, be);
#ifdef OUTRIDER_CUDA
    if ((name = name_after(device, "cuda"))) return cuda_open(name, ops, be);
    if (strcmp(device, "auto") == 0 && cuda_open("", ops, be) == OUTRIDER_OK) return OUTRIDER_OK;
#else
    if (name_after(device, "cuda"))
        return fail(OUTRIDER_ENOMEM, "device %s: this build has no CUDA (make CUDA=1 with the toolkit)",
                    device);
#endif
    if (strcmp(device, "auto") == 0) return cpu_open("", threads, ops, be);
    return fail(OUTRIDER_EINVAL, "device %s: unknown; there are auto, cpu[:isa], cuda[:N]", device);
}

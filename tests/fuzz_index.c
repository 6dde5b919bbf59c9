/* model.safetensors.index.json, beside two good shards. */
#include "tests/helpers_fuzz.h"

#include "weights/weights.h"

static void write_shard(const char *name, const char *tensor) {
    char file[256];
    int n = snprintf(file + 8, sizeof file - 8,
                     "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", tensor);
    uint64_t length = (uint64_t)n;
    memcpy(file, &length, 8); /* little-endian machines only, like the tests' */
    memset(file + 8 + n, 0, 8);
    fuzz_write(name, file, (size_t)n + 16);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static bool ready;
    if (!ready) write_shard("a.safetensors", "x"), write_shard("b.safetensors", "y");
    ready = true;
    fuzz_write("model.safetensors.index.json", data, bytes);
    struct weights *w;
    outrider_status status = weights_open(fuzz_folder(), &w);
    if (status != OUTRIDER_OK) {
        fuzz_refused(status, fuzz_folder());
        return;
    }
    if (!weights_find(w, "x") && !weights_find(w, "y")) fuzz_die("an index without its tensors");
    weights_close(w);
}

/* A GGUF file: its metadata and tensors, then its configuration in Hugging Face's spelling. Refused with a
 * line, or every byte of every tensor can be read. */
#include "tests/helpers_fuzz.h"

#include "weights/gguf.h"
#include "weights/weights.h"

static unsigned touch(const struct tensor *t) {
    unsigned sum = 0;
    for (size_t i = 0; i < t->bytes; i++) sum += ((const unsigned char *)t->data)[i];
    return sum;
}

static void read_values(const struct gguf *g) {
    for (size_t i = 0; i < gguf_count(g); i++) {
        struct gguf_value v = *gguf_at(g, i);
        char key[64];
        int64_t n;
        float x;
        bool b;
        struct gguf_string text;
        snprintf(key, sizeof key, "%.*s", (int)(v.key.bytes < 63 ? v.key.bytes : 63), v.key.at);
        gguf_int(g, key, 0, INT64_MAX, &n);
        gguf_float(g, key, -1e9f, 1e9f, &x);
        gguf_bool(g, key, &b);
        gguf_text(g, key, &text);
        for (size_t k = 0; v.is_array && v.type == GGUF_STRING && k < v.n; k++) gguf_next_string(&v);
    }
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static volatile unsigned seen;
    char path[128];
    struct gguf *g;
    struct weights *w;
    struct model_config model;
    struct generation_config generation;
    if (bytes == 0) return;
    fuzz_write("model.gguf", data, bytes);
    snprintf(path, sizeof path, "%s/model.gguf", fuzz_folder());
    outrider_status status = gguf_open(path, &g);
    if (status != OUTRIDER_OK) {
        fuzz_refused(status, "model.gguf");
        return;
    }
    read_values(g);
    gguf_close(g);
    status = weights_open(path, &w);
    if (status == OUTRIDER_OK) {
        for (size_t i = 0; i < weights_count(w); i++) seen = seen + touch(weights_at(w, i));
        weights_close(w);
    } else {
        fuzz_refused(status, "model.gguf");
    }
    status = config_read(path, &model, &generation);
    if (status != OUTRIDER_OK) fuzz_refused(status, "model.gguf");
}

/* A GGUF file: its metadata, its tensors widened to f32, its configuration in Hugging Face's spelling, and
 * its tokenizer. Each is refused with a line, or every element of every tensor can be read, and text becomes
 * tokens that are no control tokens. */
#include "tests/helpers_fuzz.h"

#include "tokenizer/internal.h"
#include "weights/gguf.h"
#include "weights/weights.h"

/* As the engine reads them: a matrix by rows, anything else as a vector. */
static void widen(struct weights *w, const struct tensor *t) {
    const void *rows;
    if (t->n_dims == 2) {
        if (weights_hold(w, t, DTYPE_F32, 1, &rows) != OUTRIDER_OK) fuzz_die("a matrix");
        return;
    }
    float *out = malloc(t->bytes / dtype_bytes(t->dtype) * dtype_block(t->dtype) * sizeof *out + 1);
    if (!out || weights_vector(t, out) != OUTRIDER_OK) fuzz_die("a vector");
    free(out);
}

static void read_tensors(const char *path) {
    struct weights *w;
    outrider_status status = weights_open(path, &w);
    if (status != OUTRIDER_OK) {
        fuzz_refused(status, "model.gguf");
        return;
    }
    for (size_t i = 0; i < weights_count(w); i++) widen(w, weights_at(w, i));
    weights_close(w);
}

static void encode(const struct tokenizer *t) {
    static const char text[] = "It's 42 ab <tool>\n\n e\xCC\x81 \xFF";
    struct token_list list = {0};
    if (tokenizer_encode(t, text, sizeof text - 1, &list) != OUTRIDER_OK) fuzz_die("encode");
    for (size_t i = 0; i < list.n; i++)
        if (tokenizer_is_control(t, list.ids[i])) fuzz_die("text yields a control token");
    token_list_free(&list);
}

/* And what convert makes of its merges. */
static void read_tokenizer(const char *path, const struct gguf *g) {
    struct tokenizer *t;
    json_t *json;
    outrider_status status = tokenizer_open(path, &t);
    if (status != OUTRIDER_OK) {
        fuzz_refused(status, "model.gguf");
        return;
    }
    encode(t);
    status = t->bpe ? tokenizer_gguf_json(g, &json) : OUTRIDER_OK;
    if (status != OUTRIDER_OK)
        fuzz_refused(status, "model.gguf");
    else if (t->bpe)
        json_decref(json);
    tokenizer_close(t);
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
    char path[128];
    struct gguf *g;
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
    read_tensors(path);
    read_tokenizer(path, g);
    gguf_close(g);
    status = config_read(path, &model, &generation);
    if (status != OUTRIDER_OK) fuzz_refused(status, "model.gguf");
}

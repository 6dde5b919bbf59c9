/* A safetensors file: refused with a line, or every byte of every tensor can be read. */
#include "tests/helpers_fuzz.h"

#include "weights/safetensors.h"

static unsigned touch(const struct tensor *t) {
    unsigned sum = 0;
    for (size_t i = 0; i < t->bytes; i++) sum += ((const unsigned char *)t->data)[i];
    return sum;
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static volatile unsigned seen;
    struct mapping file = {.path = "model.safetensors", .data = data, .bytes = bytes};
    struct tensor_list list = {0};
    if (bytes == 0) return; /* a mapping is never empty */
    outrider_status status = safetensors_read(&file, &list);
    if (status == OUTRIDER_OK)
        for (size_t i = 0; i < list.n; i++) seen = seen + touch(&list.at[i]);
    else
        fuzz_refused(status, "model.safetensors");
    tensor_list_free(&list);
}

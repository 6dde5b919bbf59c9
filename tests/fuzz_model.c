/* A whole model folder, as fuzz_write_model takes it: refused with a line, or it writes two tokens. */
#include "tests/helpers_fuzz.h"

void fuzz_one(const uint8_t *data, size_t bytes) {
    fuzz_write_model(data, bytes);
    outrider_engine_options o = fuzz_engine_options(fuzz_folder());
    outrider_engine *e;
    outrider_status status = outrider_engine_open(&o, &e);
    if (status == OUTRIDER_OK)
        fuzz_generate(e);
    else if (status != OUTRIDER_EINVAL) /* a context of fewer than 64 tokens: our own wish was wrong */
        fuzz_refused(status, "");
    outrider_engine_close(e);
}

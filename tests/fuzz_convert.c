/* Conversion: a byte that says which way and to which type, then a GGUF file or a folder as fuzz_write_model
 * takes it. Refused with a line and nothing is left, or an engine opens what was written and writes two
 * tokens.
 */
#include "tests/helpers_fuzz.h"

#include <sys/stat.h>

static char file[128], back[128];

static bool is_there(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

static void remove_converted(void) {
    static const char *const names[] = {"config.json",     "generation_config.json", "model.safetensors",
                                        "tokenizer.model", "tokenizer.json",         "tokenizer_config.json"};
    char path[48];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "converted/%s", names[i]);
        fuzz_remove(path);
    }
    rmdir(back);
}

static bool convert(const char *from, const char *to, const char *type) {
    const outrider_convert_options o = {.model = from, .output = to, .type = type};
    outrider_status status = outrider_convert(&o);
    if (status == OUTRIDER_OK) return true;
    fuzz_refused(status, "");
    if (is_there(to)) fuzz_die("a refused conversion leaves something");
    return false;
}

static void expect_model(const char *path) {
    outrider_engine_options o = fuzz_engine_options(path);
    outrider_engine *e;
    outrider_status status = outrider_engine_open(&o, &e);
    if (status == OUTRIDER_OK)
        fuzz_generate(e);
    else if (status != OUTRIDER_EINVAL)
        fuzz_die("what was converted does not open");
    outrider_engine_close(e);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    static const char *const types[] = {"bf16", "f16",  "f32",  "q8_0", "q4_0", "q4_1",
                                        "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"};
    if (bytes < 2) return;
    snprintf(file, sizeof file, "%s/model.gguf", fuzz_folder());
    snprintf(back, sizeof back, "%s/converted", fuzz_folder());
    const unsigned to_folder = data[0] % 2, type = data[0] / 2;
    const char *from = to_folder ? file : fuzz_folder(), *to = to_folder ? back : file;
    fuzz_remove("model.gguf");
    if (to_folder)
        fuzz_write("model.gguf", data + 1, bytes - 1);
    else
        fuzz_write_model(data + 1, bytes - 1);
    if (convert(from, to, types[type % (to_folder ? 3 : 11)])) expect_model(to);
    remove_converted();
}

/* tokenizer.model: through our check, and what passes it through the sentencepiece library. */
#include "tests/helpers_fuzz.h"

#include "tokenizer/precheck.h"
#include "tokenizer/sentencepiece_shim.h"
#include "tokenizer/tokenizer.h"

static void encode(const struct spm *library, const struct sp_model *m) {
    static const char text[] = " the old ab </s> <0x41>\xC3\xA9\0 zz  \xE2\x96\x81\n";
    struct token_list list = {0};
    if (spm_encode(library, text, sizeof text - 1, &list) != OUTRIDER_OK) fuzz_die("encode");
    for (size_t i = 0; i < list.n; i++) {
        if (list.ids[i] < 0 || list.ids[i] >= m->n) fuzz_die("an id past the pieces");
        if (m->pieces[list.ids[i]].type == PIECE_CONTROL) fuzz_die("text yields a control token");
    }
    token_list_free(&list);
}

void fuzz_one(const uint8_t *data, size_t bytes) {
    struct sp_model m;
    struct spm *library = NULL;
    char *rewritten;
    size_t n;
    outrider_status status = precheck_read("tokenizer.model", data, bytes, &m);
    if (status != OUTRIDER_OK) {
        fuzz_refused(status, "tokenizer.model");
        return;
    }
    if (precheck_write(&m, &rewritten, &n) != OUTRIDER_OK) fuzz_die("write");
    status = spm_open(rewritten, n, m.n, &library);
    if (status == OUTRIDER_OK)
        encode(library, &m);
    else
        fuzz_refused(status, "tokenizer.model");
    spm_close(library);
    free(rewritten);
    precheck_free(&m);
}

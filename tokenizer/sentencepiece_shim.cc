/* The one C++ file: the sentencepiece library behind a C interface.
 *
 * Every exception becomes a status here. Reading model files, white space, invalid bytes and decoding are not
 * left to the library: precheck.c and tokenizer.c do them. */
#include "tokenizer/sentencepiece_shim.h"

#include <exception>
#include <memory>
#include <new>
#include <vector>

#include <sentencepiece_processor.h>

extern "C" {
#include "runtime/status.h"
#include "tokenizer/tokenizer.h"
}

struct spm {
    ::sentencepiece::SentencePieceProcessor processor;
};

/* Does `work`; what the library throws becomes a status. */
template <typename Work>
static outrider_status guarded(outrider_status otherwise, const char *what, size_t bytes, Work work) {
    try {
        return work();
        /* GCOVR_EXCL_START: a model that passed the check of precheck.c makes the library throw nothing that
         * is known, and when memory runs out within it, it mostly crashes (see test_faults.c) */
    } catch (const std::bad_alloc &) {
        return fail_memory(what, bytes);
    } catch (const std::exception &e) {
        return fail(otherwise, "%s: refused by sentencepiece: %s", what, e.what());
    } catch (...) {
        return fail(otherwise, "%s: refused by sentencepiece", what);
    }
    /* GCOVR_EXCL_STOP */
}

extern "C" outrider_status spm_open(const char *model, size_t bytes, int32_t pieces, struct spm **out) {
    return guarded(OUTRIDER_EMODEL, "tokenizer.model", bytes, [&]() -> outrider_status {
        auto s = std::make_unique<struct spm>();
        const auto status = s->processor.LoadFromSerializedProto({model, bytes});
        if (!status.ok())
            return fail(OUTRIDER_EMODEL, "tokenizer.model: refused by sentencepiece: %s",
                        status.error_message());
        if (s->processor.GetPieceSize() != pieces) // GCOVR_EXCL_BR_LINE: as precheck.c counts them
            return fail(OUTRIDER_EMODEL, "tokenizer.model: sentencepiece sees %d pieces, the file has %d",
                        s->processor.GetPieceSize(), pieces);
        *out = s.release();
        return OUTRIDER_OK;
    });
}

extern "C" void spm_close(struct spm *s) {
    delete s;
}

extern "C" outrider_status spm_encode(const struct spm *s, const char *text, size_t bytes,
                                      struct token_list *out) {
    return guarded(OUTRIDER_EFAIL, "a text", bytes, [&]() -> outrider_status {
        std::vector<int> ids;
        const auto status = s->processor.Encode({text, bytes}, &ids);
        if (!status.ok()) // GCOVR_EXCL_BR_LINE: of a loaded model it always is
            return fail(OUTRIDER_EFAIL, "sentencepiece cannot encode: %s", status.error_message());
        for (int id : ids) TRY(token_list_push(out, id));
        return OUTRIDER_OK;
    });
}

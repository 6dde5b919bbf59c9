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

extern "C" outrider_status spm_open(const char *model, size_t bytes, int32_t pieces, struct spm **out) {
    try {
        auto s = std::make_unique<struct spm>();
        const auto status = s->processor.LoadFromSerializedProto({model, bytes});
        if (!status.ok())
            return fail(OUTRIDER_EMODEL, "tokenizer.model: refused by sentencepiece: %s",
                        status.error_message());
        if (s->processor.GetPieceSize() != pieces)
            return fail(OUTRIDER_EMODEL, "tokenizer.model: sentencepiece sees %d pieces, the file has %d",
                        s->processor.GetPieceSize(), pieces);
        *out = s.release();
        return OUTRIDER_OK;
    } catch (const std::bad_alloc &) {
        return fail_memory("the sentencepiece model", bytes);
    } catch (const std::exception &e) {
        return fail(OUTRIDER_EMODEL, "tokenizer.model: refused by sentencepiece: %s", e.what());
    } catch (...) {
        return fail(OUTRIDER_EMODEL, "tokenizer.model: refused by sentencepiece");
    }
}

extern "C" void spm_close(struct spm *s) {
    delete s;
}

extern "C" outrider_status spm_encode(const struct spm *s, const char *text, size_t bytes,
                                      struct token_list *out) {
    try {
        std::vector<int> ids;
        const auto status = s->processor.Encode({text, bytes}, &ids);
        if (!status.ok())
            return fail(OUTRIDER_EFAIL, "sentencepiece cannot encode: %s", status.error_message());
        for (int id : ids) TRY(token_list_push(out, id));
        return OUTRIDER_OK;
    } catch (const std::bad_alloc &) {
        return fail_memory("encoding a text", bytes);
    } catch (const std::exception &e) {
        return fail(OUTRIDER_EFAIL, "sentencepiece cannot encode: %s", e.what());
    } catch (...) {
        return fail(OUTRIDER_EFAIL, "sentencepiece cannot encode");
    }
}

/* Stands between an untrusted tokenizer.model (a ModelProto of protobuf) and the sentencepiece library, whose
 * packaged version has memory faults on hostile models: parses the file with every length checked, then
 * writes a new model from what was understood. The library never sees the file.
 *
 * Invariants: nothing is read outside file[0..n). All that the result points at lies inside it. Every piece
 * is 1 to 512 bytes of well-formed UTF-8 without NUL, no two pieces are equal, exactly one is unknown, and
 * either all 256 bytes have a piece or none has. Deliberately left out: normalization by character map
 * (Llama, Mistral and Gemma files have none; a file with one is refused), the WORD and CHAR models, and white
 * space kept as a suffix. */
#include "tokenizer/precheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "tokenizer/utf8.h"

/* ---- protobuf ---- */

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct reader {
    const unsigned char *at, *end;
};

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value;      /* of a varint or fixed field */
    struct reader bytes; /* of a length-delimited field */
};

static size_t left(const struct reader *r) {
    return (size_t)(r->end - r->at);
}

static bool read_varint(struct reader *r, uint64_t *out) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (left(r) == 0) return false;
        unsigned char byte = *r->at++;
        if (shift == 63 && byte > 1) return false; /* a 65th bit */
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_fixed(struct reader *r, size_t bytes, uint64_t *out) {
    if (left(r) < bytes) return false;
    *out = 0;
    for (size_t i = 0; i < bytes; i++) *out |= (uint64_t)r->at[i] << (8 * i);
    r->at += bytes;
    return true;
}

static bool read_field(struct reader *r, struct field *f) {
    uint64_t key, length;
    if (!read_varint(r, &key) || key > UINT32_MAX || key >> 3 == 0) return false;
    *f = (struct field){.number = (uint32_t)(key >> 3), .wire = (enum wire)(key & 7)};
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(r, &f->value);
    case WIRE_FIXED64:
        return read_fixed(r, 8, &f->value);
    case WIRE_FIXED32:
        return read_fixed(r, 4, &f->value);
    case WIRE_BYTES:
        if (!read_varint(r, &length) || length > left(r)) return false;
        f->bytes = (struct reader){r->at, r->at + length};
        r->at += length;
        return true;
    }
    return false; /* groups, and wire types that do not exist */
}

/* ---- one message at a time ---- */

/* Where the parser is, for messages: path, and the message's name with the number of a piece. */
struct place {
    const char *path, *message;
    int32_t piece; /* -1 outside of pieces */
};

static outrider_status bad(const struct place *p, const char *field, const char *what) {
    if (p->piece >= 0) return fail(OUTRIDER_EMODEL, "%s: pieces[%d]%s: %s", p->path, p->piece, field, what);
    return fail(OUTRIDER_EMODEL, "%s: %s%s: %s", p->path, p->message, field, what);
}

static outrider_status next_field(struct reader *r, struct field *f, const struct place *p) {
    return read_field(r, f) ? OUTRIDER_OK : bad(p, "", "malformed protobuf field");
}

static outrider_status get_bool(const struct field *f, const struct place *p, const char *name, bool *out) {
    if (f->wire != WIRE_VARINT) return bad(p, name, "not a number");
    *out = f->value != 0;
    return OUTRIDER_OK;
}

static outrider_status get_int(const struct field *f, const struct place *p, const char *name, int32_t *out) {
    if (f->wire != WIRE_VARINT) return bad(p, name, "not a number");
    int64_t value = (int64_t)f->value;
    if (value < INT32_MIN || value > INT32_MAX) return bad(p, name, "number out of range");
    *out = (int32_t)value;
    return OUTRIDER_OK;
}

static outrider_status get_text(const struct field *f, const struct place *p, const char *name,
                                const char **text, size_t *bytes) {
    if (f->wire != WIRE_BYTES) return bad(p, name, "not a string");
    size_t n = left(&f->bytes);
    if (n > PRECHECK_MAX_PIECE) return bad(p, name, "longer than 512 bytes");
    for (size_t i = 0; i < n;) {
        if (f->bytes.at[i] == 0) return bad(p, name, "holds a NUL byte");
        int length = utf8_check(f->bytes.at + i, n - i);
        if (length <= 0) return bad(p, name, "not valid UTF-8");
        i += (size_t)length;
    }
    *text = (const char *)f->bytes.at;
    *bytes = n;
    return OUTRIDER_OK;
}

static outrider_status get_score(const struct field *f, const struct place *p, float *out) {
    if (f->wire != WIRE_FIXED32) return bad(p, ".score", "not a float");
    uint32_t bits = (uint32_t)f->value;
    memcpy(out, &bits, sizeof bits);
    /* Far beyond any log probability or rank, and small enough that sums over a long text stay finite. */
    if (!isfinite(*out) || fabsf(*out) > 1e9F) return bad(p, ".score", "not a finite number within 1e9");
    return OUTRIDER_OK;
}

static outrider_status read_piece(struct reader r, const struct place *p, struct piece *out) {
    *out = (struct piece){.type = PIECE_NORMAL};
    while (left(&r) > 0) {
        struct field f;
        size_t bytes;
        int32_t type = 0;
        TRY(next_field(&r, &f, p));
        if (f.number == 1) {
            TRY(get_text(&f, p, ".piece", &out->text, &bytes));
            out->bytes = (uint16_t)bytes;
        } else if (f.number == 2) {
            TRY(get_score(&f, p, &out->score));
        } else if (f.number == 3) {
            TRY(get_int(&f, p, ".type", &type));
            if (type < PIECE_NORMAL || type > PIECE_BYTE) return bad(p, ".type", "unknown type");
            out->type = (uint8_t)type;
        }
    }
    return out->bytes > 0 ? OUTRIDER_OK : bad(p, ".piece", "missing or empty");
}

/* trainer_spec as far as it matters after training. */
struct trainer {
    int32_t model_type, unk_id, bos_id, eos_id, pad_id;
    bool whitespace_suffix;
};
enum { MODEL_UNIGRAM = 1, MODEL_BPE = 2 };

static outrider_status read_trainer(struct reader r, const char *path, struct trainer *t,
                                    struct sp_model *m) {
    struct place p = {path, "trainer_spec", -1};
    while (left(&r) > 0) {
        struct field f;
        TRY(next_field(&r, &f, &p));
        switch (f.number) {
        case 3:
            TRY(get_int(&f, &p, ".model_type", &t->model_type));
            break;
        case 24:
            TRY(get_bool(&f, &p, ".treat_whitespace_as_suffix", &t->whitespace_suffix));
            break;
        case 35:
            TRY(get_bool(&f, &p, ".byte_fallback", &m->byte_fallback));
            break;
        case 40:
            TRY(get_int(&f, &p, ".unk_id", &t->unk_id));
            break;
        case 41:
            TRY(get_int(&f, &p, ".bos_id", &t->bos_id));
            break;
        case 42:
            TRY(get_int(&f, &p, ".eos_id", &t->eos_id));
            break;
        case 43:
            TRY(get_int(&f, &p, ".pad_id", &t->pad_id));
            break;
        case 44:
            TRY(get_text(&f, &p, ".unk_surface", &m->unk_surface, &m->unk_surface_bytes));
            break;
        }
    }
    return OUTRIDER_OK;
}

static outrider_status read_normalizer(struct reader r, const char *path, const char *name,
                                       struct sp_model *m) {
    struct place p = {path, name, -1};
    while (left(&r) > 0) {
        struct field f;
        TRY(next_field(&r, &f, &p));
        switch (f.number) {
        case 2:
            if (f.wire != WIRE_BYTES || left(&f.bytes) > 0)
                return bad(&p, ".precompiled_charsmap",
                           "not empty; only identity normalization is supported");
            break;
        case 3:
            TRY(get_bool(&f, &p, ".add_dummy_prefix", &m->add_dummy_prefix));
            break;
        case 4:
            TRY(get_bool(&f, &p, ".remove_extra_whitespaces", &m->remove_extra_whitespaces));
            break;
        case 5:
            TRY(get_bool(&f, &p, ".escape_whitespaces", &m->escape_whitespaces));
            break;
        }
    }
    return OUTRIDER_OK;
}

static outrider_status submessage(const struct field *f, const char *path, const char *name) {
    struct place p = {path, name, -1};
    return f->wire == WIRE_BYTES ? OUTRIDER_OK : bad(&p, "", "not a message");
}

static outrider_status read_model(const char *path, struct reader r, struct trainer *t, struct sp_model *m) {
    const struct place file = {path, "ModelProto", -1};
    while (left(&r) > 0) {
        struct field f;
        TRY(next_field(&r, &f, &file));
        if (f.number == 1) {
            struct place p = {path, "pieces", m->n};
            TRY(submessage(&f, path, "pieces"));
            TRY(read_piece(f.bytes, &p, &m->pieces[m->n]));
            m->n++;
        } else if (f.number == 2) {
            TRY(submessage(&f, path, "trainer_spec"));
            TRY(read_trainer(f.bytes, path, t, m));
        } else if (f.number == 3) {
            TRY(submessage(&f, path, "normalizer_spec"));
            TRY(read_normalizer(f.bytes, path, "normalizer_spec", m));
        } else if (f.number ==
                   5) { /* would change decoded text, so it must be as empty; its flags do nothing */
            struct sp_model unused;
            TRY(submessage(&f, path, "denormalizer_spec"));
            TRY(read_normalizer(f.bytes, path, "denormalizer_spec", &unused));
        }
    }
    return OUTRIDER_OK;
}

/* ---- the whole ---- */

/* The number of pieces in the file, so that the table is allocated once and to size. */
static outrider_status count_pieces(const char *path, struct reader r, size_t *out) {
    const struct place file = {path, "ModelProto", -1};
    size_t n = 0;
    while (left(&r) > 0) {
        struct field f;
        TRY(next_field(&r, &f, &file));
        n += f.number == 1;
    }
    if (n == 0) return bad(&file, "", "no pieces");
    if (n > PRECHECK_MAX_PIECES)
        return fail(OUTRIDER_EMODEL, "%s: pieces: %zu of them; at most %d", path, n, PRECHECK_MAX_PIECES);
    *out = n;
    return OUTRIDER_OK;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "<0xHH>" stands for; -1 for any other text. */
static int byte_of(const struct piece *p) {
    if (p->bytes != 6 || memcmp(p->text, "<0x", 3) != 0 || p->text[5] != '>') return -1;
    int high = hex_digit(p->text[3]), low = hex_digit(p->text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static outrider_status check_types(const char *path, struct sp_model *m) {
    int32_t byte_pieces = 0;
    m->unk = -1;
    for (int32_t id = 0; id < m->n; id++) {
        struct place p = {path, "pieces", id};
        const struct piece *piece = &m->pieces[id];
        if (piece->type == PIECE_UNKNOWN) {
            if (m->unk >= 0) return bad(&p, ".type", "a second unknown piece");
            m->unk = id;
        } else if (piece->type == PIECE_BYTE) {
            int byte = byte_of(piece);
            if (byte < 0) return bad(&p, ".piece", "a byte piece that is not <0x00> to <0xFF>");
            m->byte_ids[byte] = id;
            byte_pieces++;
        }
    }
    /* Texts are distinct, so 256 byte pieces are all the bytes. */
    struct place all = {path, "pieces", -1};
    if (m->unk < 0) return bad(&all, "", "no unknown piece");
    if (byte_pieces != (m->byte_fallback ? 256 : 0))
        return fail(OUTRIDER_EMODEL, "%s: pieces: %d byte pieces, but trainer_spec.byte_fallback is %s", path,
                    byte_pieces, m->byte_fallback ? "true" : "false");
    return OUTRIDER_OK;
}

/* By length, then by bytes: any order will do, and lengths are quick to tell apart. */
static int compare_text(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    return a_bytes == b_bytes ? memcmp(a, b, a_bytes) : a_bytes < b_bytes ? -1 : 1;
}

static int compare_ids(const void *a, const void *b, void *pieces) {
    const struct piece *p = (const struct piece *)pieces + *(const int32_t *)a;
    const struct piece *q = (const struct piece *)pieces + *(const int32_t *)b;
    return compare_text(p->text, p->bytes, q->text, q->bytes);
}

static outrider_status sort_and_check_distinct(const char *path, struct sp_model *m) {
    for (int32_t id = 0; id < m->n; id++) m->sorted[id] = id;
    qsort_r(m->sorted, (size_t)m->n, sizeof *m->sorted, compare_ids, m->pieces);
    for (int32_t i = 1; i < m->n; i++)
        if (compare_ids(&m->sorted[i - 1], &m->sorted[i], m->pieces) == 0)
            return fail(OUTRIDER_EMODEL, "%s: pieces[%d].piece: the same as pieces[%d]", path, m->sorted[i],
                        m->sorted[i - 1]);
    return OUTRIDER_OK;
}

/* An id of trainer_spec must be a piece; one that is no control piece is not used as such. */
static outrider_status check_id(const char *path, const struct sp_model *m, const char *name, int32_t id,
                                int32_t *control) {
    struct place p = {path, "trainer_spec", -1};
    if (id >= m->n) return bad(&p, name, "past the last piece");
    *control = id >= 0 && m->pieces[id].type == PIECE_CONTROL ? id : -1;
    return OUTRIDER_OK;
}

static outrider_status check_trainer(const char *path, const struct trainer *t, struct sp_model *m) {
    struct place p = {path, "trainer_spec", -1};
    int32_t ignored;
    if (t->model_type != MODEL_UNIGRAM && t->model_type != MODEL_BPE)
        return bad(&p, ".model_type", "only UNIGRAM (1) and BPE (2) are supported");
    if (t->whitespace_suffix) return bad(&p, ".treat_whitespace_as_suffix", "not supported");
    m->unigram = t->model_type == MODEL_UNIGRAM;
    TRY(check_id(path, m, ".unk_id", t->unk_id, &ignored));
    TRY(check_id(path, m, ".bos_id", t->bos_id, &m->bos));
    TRY(check_id(path, m, ".eos_id", t->eos_id, &m->eos));
    return check_id(path, m, ".pad_id", t->pad_id, &ignored);
}

outrider_status precheck_read(const char *path, const unsigned char *file, size_t n, struct sp_model *out) {
    outrider_status status;
    struct reader r = {file, file + n};
    struct trainer trainer = {.model_type = MODEL_UNIGRAM, .bos_id = 1, .eos_id = 2, .pad_id = -1};
    size_t pieces = 0;
    *out = (struct sp_model){.add_dummy_prefix = true,
                             .remove_extra_whitespaces = true,
                             .escape_whitespaces = true,
                             .unk_surface = " \xE2\x81\x87 ",
                             .unk_surface_bytes = 5};
    if (n > PRECHECK_MAX_FILE) return fail(OUTRIDER_EMODEL, "%s: %zu bytes; at most 64 MiB", path, n);
    TRY(count_pieces(path, r, &pieces));
    out->pieces = calloc(pieces, sizeof *out->pieces);
    out->sorted = calloc(pieces, sizeof *out->sorted);
    if (!out->pieces || !out->sorted) {
        status = fail_memory("the table of pieces", pieces * sizeof *out->pieces);
        goto failed;
    }
    TRY_GOTO(failed, read_model(path, r, &trainer, out));
    TRY_GOTO(failed, sort_and_check_distinct(path, out));
    TRY_GOTO(failed, check_types(path, out));
    TRY_GOTO(failed, check_trainer(path, &trainer, out));
    return OUTRIDER_OK;
failed:
    precheck_free(out);
    return status;
}

outrider_status precheck_index(const char *path, struct sp_model *m) {
    m->sorted = calloc((size_t)m->n, sizeof *m->sorted);
    if (!m->sorted) return fail_memory("the table of pieces", (size_t)m->n * sizeof *m->sorted);
    TRY(sort_and_check_distinct(path, m));
    return check_types(path, m);
}

void precheck_free(struct sp_model *m) {
    free(m->pieces);
    free(m->sorted);
    m->pieces = NULL;
    m->sorted = NULL;
}

int32_t precheck_find(const struct sp_model *m, const char *text, size_t bytes) {
    int32_t low = 0, high = m->n;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        const struct piece *p = &m->pieces[m->sorted[middle]];
        int order = compare_text(p->text, p->bytes, text, bytes);
        if (order == 0) return m->sorted[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

/* ---- the model for the library ---- */

enum { NAME_MAX_BYTES = 24, PIECE_OVERHEAD = 24 }; /* tags, lengths, score and type take at most 19 */

static char *put_varint(char *at, uint32_t value) {
    for (; value >= 0x80; value >>= 7) *at++ = (char)(value | 0x80);
    *at++ = (char)value;
    return at;
}

static char *put_number(char *at, uint32_t field, uint32_t value) {
    return put_varint(put_varint(at, field << 3 | WIRE_VARINT), value);
}

static char *put_bytes(char *at, uint32_t field, const char *bytes, size_t n) {
    at = put_varint(put_varint(at, field << 3 | WIRE_BYTES), (uint32_t)n);
    memcpy(at, bytes, n);
    return at + n;
}

static char *put_piece(char *at, int32_t id, const struct piece *p) {
    char message[PRECHECK_MAX_PIECE + PIECE_OVERHEAD], name[NAME_MAX_BYTES];
    const char *text = p->text;
    size_t bytes = p->bytes;
    /* BPE looks up single characters among all names, so a control piece called "a" would match one. */
    if (p->type == PIECE_CONTROL) text = name, bytes = (size_t)sprintf(name, "<control %d>", id);
    if (p->type == PIECE_UNKNOWN) text = "<unknown>", bytes = 9;

    uint32_t score;
    memcpy(&score, &p->score, sizeof score);
    char *end = put_varint(put_bytes(message, 1, text, bytes), 2 << 3 | WIRE_FIXED32);
    for (int i = 0; i < 4; i++) *end++ = (char)(score >> (8 * i));
    end = put_number(end, 3, p->type);
    return put_bytes(at, 1, message, (size_t)(end - message));
}

outrider_status precheck_write(const struct sp_model *m, char **bytes, size_t *n) {
    size_t capacity = 256;
    for (int32_t id = 0; id < m->n; id++) capacity += m->pieces[id].bytes + NAME_MAX_BYTES + PIECE_OVERHEAD;
    char *start = malloc(capacity), *at = start;
    if (!start) return fail_memory("the sentencepiece model", capacity);
    for (int32_t id = 0; id < m->n; id++) at = put_piece(at, id, &m->pieces[id]);

    char spec[64], *end = put_number(spec, 3, m->unigram ? MODEL_UNIGRAM : MODEL_BPE);
    end = put_number(end, 35, m->byte_fallback);
    at = put_bytes(at, 2, spec, (size_t)(end - spec));
    end = put_bytes(spec, 1, "identity", 8);
    end = put_number(end, 3, false); /* add_dummy_prefix */
    end = put_number(end, 4, false); /* remove_extra_whitespaces */
    end = put_number(end, 5, m->escape_whitespaces);
    at = put_bytes(at, 3, spec, (size_t)(end - spec));
    *bytes = start;
    *n = (size_t)(at - start);
    return OUTRIDER_OK;
}

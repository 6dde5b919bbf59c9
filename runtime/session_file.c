/* A session in a file (outrider_session_save and _load):
 *
 *     header | tokens | sources | turns | their texts | the verifier's cache | the draft's cache | checksum
 *
 * in the machine's own byte order, for a cache only serves the machine that wrote it. A model's cache is, for
 * each layer, the keys and then the values of each page in use, as they lie in the pool, places past the
 * sequence's length zeroed: they may hold what another conversation left.
 *
 * Reading trusts nothing: the header is checked against the engine and against the file's size before
 * anything is allocated by it, contents as they come, the checksum at the end. The checksum guards against
 * damage, not malice; a forged cache can spoil the text of its own session, and so is shared with no other.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/engine.h"
#include "runtime/new_file.h"
#include "runtime/rope.h"
#include "runtime/status.h"

static const char MAGIC[8] = "ORSESS1";

struct header {
    char magic[8];
    uint64_t model[KV_MODELS];       /* fingerprints; 0: no such model */
    uint64_t cache_bytes[KV_MODELS]; /* of each model's part of the file */
    uint64_t text_bytes;             /* of all turns together */
    int32_t page_size, n, len[KV_MODELS];
    int32_t n_turns, turns_encoded, answer_open, reserved;
};

struct turn_record {
    int32_t role, begin;
    uint64_t bytes;
};

/* ---- checksums ---- */

static const uint64_t HASH_START = 14695981039346656037u, HASH_PRIME = 1099511628211u;

/* FNV-1a over words of eight bytes, with the high half folded in; the last word is padded with zeros. */
static uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes) {
    const char *at = data;
    while (bytes > 0) {
        uint64_t word = 0;
        size_t n = bytes < 8 ? bytes : 8;
        memcpy(&word, at, n);
        h = (h ^ word) * HASH_PRIME;
        h ^= h >> 32;
        at += n;
        bytes -= n;
    }
    return h;
}

static uint64_t hash_tensor(uint64_t h, const struct tensor *t) {
    enum { SAMPLES = 8, SAMPLE_BYTES = 64 };
    h = hash_bytes(h, t->name, strlen(t->name));
    h = hash_bytes(h, t->shape, sizeof t->shape);
    uint64_t size[] = {t->bytes, (uint64_t)t->dtype};
    h = hash_bytes(h, size, sizeof size);
    size_t step = t->bytes / SAMPLES;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t left = t->bytes - i * step;
        h = hash_bytes(h, (const char *)t->data + i * step, left < SAMPLE_BYTES ? left : SAMPLE_BYTES);
    }
    const struct scales *s = &t->scales;
    if (!s->data) return h;
    const size_t blocks = ((size_t)t->shape[0] + s->rows - 1) / s->rows;
    return hash_bytes(h, s->data, blocks * s->stride * dtype_bytes(s->dtype));
}

/* What the bits of a model's cache depend on: its shape, samples of every tensor, the cache's form, and the
 * device and its kernels (all of the device's line but its last part, which counts threads or the like). */
static uint64_t fingerprint(const outrider_engine *e, int which) {
    const struct model *m = e->model[which];
    if (!m) return 0;
    const struct model_config *c = &m->config;
    char device[128];
    e->ops->describe(e->be, device, sizeof device);
    char *last = strrchr(device, ',');
    if (last) *last = '\0';
    int32_t shape[] = {c->vocab_size,
                       c->hidden_size,
                       c->intermediate_size,
                       c->num_hidden_layers,
                       c->num_attention_heads,
                       c->num_key_value_heads,
                       c->head_dim,
                       (int32_t)m->layers[0].kv.k_dtype};
    int32_t types[] = {(int32_t)m->quant, (int32_t)m->layers[0].attention.q.dtype,
                       (int32_t)m->layers[0].mlp.gate.dtype, (int32_t)m->embedding.dtype,
                       (int32_t)m->layers[0].kv.v_dtype};
    float numbers[] = {c->rms_norm_eps, c->rope.attention_factor}, frequency[CONFIG_MAX_HEAD_DIM / 2];
    rope_frequencies(&c->rope, c->head_dim, e->ctx_size, frequency);
    uint64_t h = hash_bytes(HASH_START, device, strlen(device));
    h = hash_bytes(h, shape, sizeof shape);
    h = hash_bytes(h, types, sizeof types);
    h = hash_bytes(h, numbers, sizeof numbers);
    h = hash_bytes(h, frequency, (size_t)(c->head_dim / 2) * sizeof *frequency);
    for (size_t i = 0; i < weights_count(m->weights); i++) h = hash_tensor(h, weights_at(m->weights, i));
    return h ? h : 1;
}

/* ---- one page of one layer's keys or values ---- */

static int32_t pages_in_use(const outrider_engine *e, int32_t len) {
    return (len + e->options.page_size - 1) / e->options.page_size;
}

/* Bytes of a model's part of the file. */
static bool cache_bytes(const outrider_engine *e, int which, int32_t len, size_t *bytes) {
    const struct model *m = e->model[which];
    *bytes = 0;
    if (!m) return len == 0;
    const struct kv_layer *kv = &m->layers[0].kv;
    const size_t both = model_page_bytes(m, kv->k_dtype) + model_page_bytes(m, kv->v_dtype);
    return mul_fits(both, (size_t)pages_in_use(e, len), bytes) &&
           mul_fits(*bytes, (size_t)m->config.num_hidden_layers, bytes);
}

/* Zeroes the places of a page from `used` on. */
static void clear_unused(const struct model *m, enum dtype type, char *page, int32_t used) {
    const int32_t dim = m->config.head_dim, size = m->page_size;
    const size_t head = kv_head_bytes(type, size, dim), all = kv_head_bytes(type, 1, dim),
                 place = type == DTYPE_Q8_0 ? (size_t)dim : all, scales = all - place;
    if (used >= size) return;
    for (int32_t h = 0; h < m->config.num_key_value_heads; h++, page += head) {
        memset(page + (size_t)used * place, 0, (size_t)(size - used) * place);
        memset(page + (size_t)size * place + (size_t)used * scales, 0, (size_t)(size - used) * scales);
    }
}

struct stream {
    int file;             /* of a load */
    struct new_file *out; /* of a save */
    const char *path;
    uint64_t hash;
    char *page;
};

static outrider_status file_error(const struct stream *f) {
    return fail_errno(OUTRIDER_EFAIL, f->path);
}

/* Calls `visit` with the place in the pool of each page's keys and values, in the file's order. */
static outrider_status each_page(const outrider_session *s, int which, int32_t len, struct stream *f,
                                 outrider_status (*visit)(const struct model *m, struct stream *f,
                                                          enum dtype type, char *place, int32_t used)) {
    const outrider_engine *e = s->engine;
    const struct model *m = e->model[which];
    int32_t stride, pages = pages_in_use(e, len);
    const int32_t *table = kv_tables(e->kv, &stride) + (size_t)s->slot * (size_t)stride;
    for (int32_t l = 0; m && l < m->config.num_hidden_layers; l++) {
        const struct kv_layer *kv = &m->layers[l].kv;
        const enum dtype types[] = {kv->k_dtype, kv->v_dtype};
        char *pools[] = {kv->k, kv->v};
        for (int part = 0; part < 2; part++)
            for (int32_t i = 0; i < pages; i++)
                TRY(visit(m, f, types[part],
                          pools[part] + (size_t)table[i] * model_page_bytes(m, types[part]),
                          len - i * m->page_size));
    }
    return OUTRIDER_OK;
}

static char *page_buffer(const outrider_engine *e) {
    size_t most = 0;
    for (int i = 0; i < KV_MODELS; i++) {
        const struct model *m = e->model[i];
        const size_t k = m ? model_page_bytes(m, m->layers[0].kv.k_dtype) : 0,
                     v = m ? model_page_bytes(m, m->layers[0].kv.v_dtype) : 0;
        if (k > most) most = k;
        if (v > most) most = v;
    }
    return malloc(most);
}

/* ---- save ---- */

static outrider_status put(struct stream *f, const void *data, size_t bytes) {
    f->hash = hash_bytes(f->hash, data, bytes);
    return new_file_write(f->out, data, bytes);
}

static outrider_status put_page(const struct model *m, struct stream *f, enum dtype type, char *place,
                                int32_t used) {
    TRY(m->ops->download(m->be, f->page, place, model_page_bytes(m, type)));
    clear_unused(m, type, f->page, used);
    return put(f, f->page, model_page_bytes(m, type));
}

static outrider_status put_turns(const outrider_session *s, struct stream *f) {
    for (size_t i = 0; i < s->n_turns; i++) {
        const struct turn *t = &s->turns[i];
        struct turn_record record = {(int32_t)t->message.role, (int32_t)t->begin, t->message.bytes};
        TRY(put(f, &record, sizeof record));
    }
    for (size_t i = 0; i < s->n_turns; i++) TRY(put(f, s->turns[i].message.text, s->turns[i].message.bytes));
    return OUTRIDER_OK;
}

static outrider_status put_session(const outrider_session *s, struct stream *f) {
    const outrider_engine *e = s->engine;
    struct header h = {.page_size = e->options.page_size,
                       .n = s->n,
                       .n_turns = (int32_t)s->n_turns,
                       .turns_encoded = (int32_t)s->turns_encoded,
                       .answer_open = s->answer_open};
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    for (int m = 0; m < KV_MODELS; m++) {
        size_t bytes;
        h.model[m] = fingerprint(e, m);
        h.len[m] = kv_len(e->kv, s->slot, (outrider_which)m);
        cache_bytes(e, m, h.len[m], &bytes); /* it is in memory, so it fits */
        h.cache_bytes[m] = bytes;
    }
    for (size_t i = 0; i < s->n_turns; i++) h.text_bytes += s->turns[i].message.bytes;
    TRY(put(f, &h, sizeof h));
    TRY(put(f, s->tokens, (size_t)s->n * sizeof *s->tokens));
    TRY(put(f, s->sources, (size_t)s->n));
    TRY(put_turns(s, f));
    for (int m = 0; m < KV_MODELS; m++) TRY(each_page(s, m, h.len[m], f, put_page));
    uint64_t hash = f->hash;
    TRY(put(f, &hash, sizeof hash));
    f->hash = hash; /* of what stands before it */
    return OUTRIDER_OK;
}

outrider_status outrider_session_save(const outrider_session *s, const char *path, uint64_t *id) {
    struct new_file out = {.file = -1};
    struct stream f = {.path = path, .out = &out, .hash = HASH_START, .page = page_buffer(s->engine)};
    outrider_status status = f.page ? new_file_open(path, NEW_FILE_PRIVATE, &out) : fail_memory("a page", 0);
    if (status == OUTRIDER_OK) status = put_session(s, &f);
    if (status == OUTRIDER_OK) status = new_file_finish(&out);
    new_file_drop(&out);
    free(f.page);
    if (status == OUTRIDER_OK && id) *id = f.hash;
    return status;
}

/* ---- load ---- */

static outrider_status damaged(const struct stream *f, const char *what) {
    return fail(OUTRIDER_EFAIL, "%s: %s is not that of a saved session", f->path, what);
}

static outrider_status get(struct stream *f, void *data, size_t bytes) {
    char *at = data;
    for (size_t left = bytes; left > 0;) {
        ssize_t n = read(f->file, at, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return file_error(f);
        if (n == 0) return damaged(f, "the length");
        at += n;
        left -= (size_t)n;
    }
    f->hash = hash_bytes(f->hash, data, bytes);
    return OUTRIDER_OK;
}

static outrider_status get_page(const struct model *m, struct stream *f, enum dtype type, char *place,
                                int32_t used) {
    (void)used;
    TRY(get(f, f->page, model_page_bytes(m, type)));
    m->ops->upload(m->be, place, f->page, model_page_bytes(m, type));
    return OUTRIDER_OK;
}

/* Bytes that are of no use here, but part of the checksum. */
static outrider_status skip(struct stream *f, uint64_t bytes) {
    char chunk[4096]; /* a multiple of hash_bytes' words */
    while (bytes > 0) {
        size_t n = bytes < sizeof chunk ? (size_t)bytes : sizeof chunk;
        TRY(get(f, chunk, n));
        bytes -= n;
    }
    return OUTRIDER_OK;
}

static bool counts_fit(const struct header *h, const outrider_engine *e) {
    bool good = h->n >= 0 && h->n <= e->ctx_size && h->n_turns >= 0 && h->turns_encoded >= 0 &&
                h->turns_encoded <= h->n_turns && (h->answer_open == 0 || h->turns_encoded > 0) &&
                (uint32_t)h->answer_open <= 1;
    for (int m = 0; m < KV_MODELS; m++) good &= h->len[m] >= 0 && h->len[m] <= (h->n > 0 ? h->n - 1 : 0);
    return good;
}

/* The length that the file must have by its header; false when the header contradicts itself. */
static bool file_size(const struct header *h, const outrider_engine *e, uint64_t *size) {
    uint64_t most = (uint64_t)1 << 62;
    for (int m = 0; m < KV_MODELS; m++) {
        size_t bytes;
        bool mine = h->model[m] == fingerprint(e, m);
        if (h->cache_bytes[m] > most / 4) return false;
        if (mine && (!cache_bytes(e, m, h->len[m], &bytes) || bytes != h->cache_bytes[m])) return false;
    }
    if (h->text_bytes > most / 4) return false;
    *size = sizeof *h + (uint64_t)h->n * (sizeof(int32_t) + 1) +
            (uint64_t)h->n_turns * sizeof(struct turn_record) + h->text_bytes + h->cache_bytes[0] +
            h->cache_bytes[1] + sizeof(uint64_t);
    return true;
}

static outrider_status get_header(const outrider_engine *e, struct stream *f, struct header *h) {
    struct stat st;
    uint64_t size;
    if (fstat(f->file, &st) != 0) return file_error(f);
    if (!S_ISREG(st.st_mode)) return fail(OUTRIDER_EFAIL, "%s: not a regular file", f->path);
    TRY(get(f, h, sizeof *h));
    if (memcmp(h->magic, MAGIC, sizeof MAGIC) != 0) return damaged(f, "the beginning");
    if (h->model[OUTRIDER_VERIFIER] != fingerprint(e, OUTRIDER_VERIFIER) ||
        h->page_size != e->options.page_size)
        return fail(OUTRIDER_EMODEL, "%s: saved with another model, device, cache type or page size",
                    f->path);
    if (h->n > e->ctx_size)
        return fail(OUTRIDER_EINVAL, "%s: %d tokens, the context holds %d", f->path, h->n, e->ctx_size);
    if (!counts_fit(h, e) || !file_size(h, e, &size)) return damaged(f, "a count");
    if (size != (uint64_t)st.st_size) return damaged(f, "the length");
    return OUTRIDER_OK;
}

static outrider_status get_tokens(outrider_session *s, struct stream *f, int32_t n) {
    int32_t vocab = s->engine->model[OUTRIDER_VERIFIER]->config.vocab_size;
    TRY(get(f, s->tokens, (size_t)n * sizeof *s->tokens));
    TRY(get(f, s->sources, (size_t)n));
    for (int32_t i = 0; i < n; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= vocab || s->sources[i] > OUTRIDER_BY_NGRAM)
            return damaged(f, "a token");
    return OUTRIDER_OK;
}

/* The records' texts, in order, into turns that own them. */
static outrider_status get_texts(outrider_session *s, struct stream *f, const struct turn_record *records,
                                 size_t n, uint64_t left) {
    for (size_t i = 0; i < n; i++) {
        if (records[i].bytes > left || records[i].role < CHAT_SYSTEM || records[i].role > CHAT_ASSISTANT ||
            records[i].begin < (i ? records[i - 1].begin : 0))
            return damaged(f, "a turn");
        left -= records[i].bytes;
        char *text = malloc((size_t)records[i].bytes + 1);
        if (!text) return fail_memory("a turn", (size_t)records[i].bytes);
        struct chat_message m = {(enum chat_role)records[i].role, text, (size_t)records[i].bytes};
        s->turns[s->n_turns++] = (struct turn){m, (size_t)records[i].begin};
        TRY(get(f, text, m.bytes));
        text[m.bytes] = '\0';
    }
    return left == 0 ? OUTRIDER_OK : damaged(f, "a turn");
}

static outrider_status get_turns(outrider_session *s, struct stream *f, const struct header *h) {
    size_t n = (size_t)h->n_turns; /* the file is as long as its counts say, so this much is there */
    struct turn_record *records = malloc((n + 1) * sizeof *records);
    struct turn *turns = realloc(s->turns, (n + 1) * sizeof *turns);
    if (turns) s->turns = turns;
    outrider_status status = OUTRIDER_OK;
    if (!records || !turns) status = fail_memory("the turns", (n + 1) * sizeof *turns);
    if (status == OUTRIDER_OK) status = get(f, records, n * sizeof *records);
    if (status == OUTRIDER_OK && n > 0 && records[n - 1].begin > h->n) status = damaged(f, "a turn");
    if (status == OUTRIDER_OK) status = get_texts(s, f, records, n, h->text_bytes);
    free(records);
    return status;
}

/* A system turn waits for the one behind it; all others are written, or taking them back would leave an
 * answer open to nobody. */
static bool turns_fit(const outrider_session *s, const struct header *h) {
    for (size_t i = (size_t)h->turns_encoded; i < s->n_turns; i++)
        if (s->turns[i].message.role != CHAT_SYSTEM) return false;
    return true;
}

static outrider_status get_cache(outrider_session *s, struct stream *f, const struct header *h, int which) {
    outrider_engine *e = s->engine;
    outrider_which model = (outrider_which)which;
    if (!e->model[which] || h->model[which] != fingerprint(e, which)) return skip(f, h->cache_bytes[which]);
    TRY(kv_reserve(e->kv, s->slot, model, h->len[which]));
    TRY(each_page(s, which, h->len[which], f, get_page));
    kv_advance(e->kv, s->slot, model, h->len[which]);
    return OUTRIDER_OK;
}

static outrider_status get_session(outrider_session *s, struct stream *f) {
    struct header h;
    TRY(get_header(s->engine, f, &h));
    TRY(get_tokens(s, f, h.n));
    TRY(get_turns(s, f, &h));
    if (!turns_fit(s, &h)) return damaged(f, "a turn");
    for (int m = 0; m < KV_MODELS; m++) TRY(get_cache(s, f, &h, m));
    uint64_t expected = f->hash, found;
    TRY(get(f, &found, sizeof found));
    if (found != expected) return damaged(f, "the checksum");
    f->hash = expected;
    TRY(s->engine->ops->sync(s->engine->be));
    s->n = h.n;
    s->n_read = 0;
    s->n_known = h.len[OUTRIDER_VERIFIER];
    s->turns_encoded = (size_t)h.turns_encoded;
    s->answer_open = h.answer_open;
    return OUTRIDER_OK;
}

outrider_status outrider_session_load(outrider_session *s, const char *path, uint64_t *id) {
    if (s->n > 0 || s->n_turns > 0) return fail(OUTRIDER_EINVAL, "%s: the session is not empty", path);
    struct stream f = {.path = path, .hash = HASH_START, .page = page_buffer(s->engine)};
    if (!f.page) return fail_memory("a page", 0);
    f.file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe in its place hangs nobody */
    outrider_status status = f.file < 0 ? file_error(&f) : get_session(s, &f);
    free(f.page);
    if (f.file >= 0) close(f.file);
    /* begins a new answer behind what there is, or after a failure in an empty session */
    size_t n = status == OUTRIDER_OK ? (size_t)s->n : 0;
    session_restart(s, n);
    if (status == OUTRIDER_OK && id) *id = f.hash;
    return status;
}

/* Tokenizer: texts that must survive, files that must be refused, configurations that must be followed.
 *
 * With arguments it is a tool for test_tokenizer_oracle.py: `encode FOLDER` reads texts as lines of
 * hexadecimal and prints their ids, `decode FOLDER` does the reverse. */
#include "tests/helpers_tokenizer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "tokenizer/precheck.h"
#include "tokenizer/sentencepiece_shim.h"

static struct tokenizer *open_good(const char *bytes, size_t n, const char *config) {
    struct tokenizer *t = NULL;
    if (open_model(bytes, n, config, &t) != OUTRIDER_OK) fail_msg("%s", outrider_error());
    return t;
}

static struct tokenizer *open_shipped(void) {
    struct tokenizer *t = NULL;
    if (tokenizer_open(SHIPPED, &t) != OUTRIDER_OK) fail_msg("%s", outrider_error());
    return t;
}

static void expect_ids(const struct tokenizer *t, const char *text, size_t bytes, const int32_t *ids,
                       size_t n) {
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, text, bytes, &list), OUTRIDER_OK);
    assert_int_equal(list.n, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(list.ids[i], ids[i]);
    token_list_free(&list);
}
#define EXPECT_IDS(t, text, ...)                                                                             \
    expect_ids(t, LITERAL(text), (const int32_t[]){__VA_ARGS__},                                             \
               sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void expect_round_trip(const struct tokenizer *t, const char *text, size_t bytes) {
    struct token_list list = {0};
    size_t n;
    assert_int_equal(tokenizer_encode(t, text, bytes, &list), OUTRIDER_OK);
    char *back = decode(t, &list, &n);
    assert_int_equal(n, bytes);
    assert_memory_equal(back, text, bytes);
    for (size_t i = 0; i < list.n; i++) assert_false(tokenizer_is_control(t, list.ids[i]));
    free(back);
    token_list_free(&list);
}

static char *read_whole(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*n + 1);
    assert_int_equal(fread(bytes, 1, *n, f), *n);
    fclose(f);
    return bytes;
}

/* splitmix64: the same damage on every machine. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

/* ---- the shipped model ---- */

static void shipped_model_is_what_it_should_be(void **state) {
    (void)state;
    struct tokenizer *t = open_shipped();
    size_t n;
    assert_int_equal(tokenizer_size(t), 8192);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_add_bos(t));
    assert_non_null(strstr(tokenizer_chat_template(t), "<|assistant|>"));
    assert_int_equal(tokenizer_control(t, "</s>"), 2);
    assert_int_equal(tokenizer_control(t, "<unk>"), -1);
    assert_int_equal(tokenizer_control(t, "<|user|>"), -1);
    assert_int_equal(tokenizer_marker(t, LITERAL("<|user|>")), 4);
    assert_int_equal(tokenizer_marker(t, LITERAL("he")), -1);
    assert_true(tokenizer_is_control(t, 1));
    assert_false(tokenizer_is_control(t, 0));
    assert_false(tokenizer_is_control(t, -1));
    assert_false(tokenizer_is_control(t, 8192));
    for (int32_t byte = 0; byte < 256; byte++) {
        const char *piece = tokenizer_piece(t, 6 + byte, false, &n);
        assert_int_equal(n, 1);
        assert_int_equal((unsigned char)piece[0], byte);
    }
    tokenizer_piece(t, 2, false, &n);
    assert_int_equal(n, 0);
    tokenizer_piece(t, 8192, false, &n); /* a padded head may pick it */
    assert_int_equal(n, 0);
    tokenizer_piece(t, -1, false, &n);
    assert_int_equal(n, 0);
    tokenizer_close(t);
}

static void held_out_text_survives(void **state) {
    (void)state;
    struct tokenizer *t = open_shipped();
    size_t n;
    char *text = read_whole("tests/data/held-out.txt", &n);
    expect_round_trip(t, text, n);
    free(text);
    tokenizer_close(t);
}

static void every_one_and_two_bytes_survive(void **state) {
    (void)state;
    struct tokenizer *t = open_shipped();
    for (int i = 0; i < 256; i++) expect_round_trip(t, (const char[]){(char)i}, 1);
    for (int i = 0; i < 65536; i++) expect_round_trip(t, (const char[]){(char)(i >> 8), (char)i}, 2);
    tokenizer_close(t);
}

static void noise_survives(void **state) {
    (void)state;
    struct tokenizer *t = open_shipped();
    uint64_t seed = 1;
    for (int round = 0; round < 300; round++) {
        char noise[64];
        for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)next_random(&seed);
        /* U+2581 stands for the space in this vocabulary, so it alone comes back as something else. */
        if (!memmem(noise, sizeof noise, "\xE2\x96\x81", 3)) expect_round_trip(t, noise, sizeof noise);
    }
    tokenizer_close(t);
}

static void long_texts_are_cut_without_a_trace(void **state) {
    (void)state;
    struct tokenizer *t = open_shipped();
    size_t n, copies = 4;
    char *text = read_whole("tests/data/held-out.txt", &n), *whole = malloc(copies * n);
    for (size_t i = 0; i < copies; i++) memcpy(whole + i * n, text, n);
    struct token_list once = {0}, all = {0};
    assert_int_equal(tokenizer_encode(t, text, n, &once), OUTRIDER_OK);
    assert_int_equal(tokenizer_encode(t, whole, copies * n, &all), OUTRIDER_OK);
    /* The text ends in a newline, which no piece but its byte's holds, so the copies are encoded each alone.
     */
    assert_int_equal(text[n - 1], '\n');
    assert_int_equal(all.n, copies * once.n);
    for (size_t i = 0; i < all.n; i++) assert_int_equal(all.ids[i], once.ids[i % once.n]);
    token_list_free(&once);
    token_list_free(&all);
    free(whole);
    free(text);
    tokenizer_close(t);
}

/* The tokens of `head` and then `unit` often enough to pass the length of a part. */
static size_t count_ids(const struct tokenizer *t, const char *head, const char *unit, size_t copies) {
    struct token_list list = {0};
    size_t n = strlen(head), step = strlen(unit), ids;
    char *text = malloc(n + copies * step);
    memcpy(text, head, n);
    for (size_t i = 0; i < copies; i++) memcpy(text + n + i * step, unit, step);
    assert_int_equal(tokenizer_encode(t, text, n + copies * step, &list), OUTRIDER_OK);
    ids = list.n;
    free(text);
    token_list_free(&list);
    return ids;
}

static void parts_meet_only_where_no_piece_reaches(void **state) {
    (void)state;
    const size_t copies = 70000;
    /* With pieces of two spaces, a run of them must stay whole, however the spaces are written. */
    struct tokenizer *t =
        open_good(LITERAL(PIECES "\x0a\x08\x0a\x06\xE2\x96\x81\xE2\x96\x81" BPE PLAIN), NULL);
    assert_int_equal(count_ids(t, "a", " ", copies), 1 + copies / 2);
    assert_int_equal(count_ids(t, "a", "\xE2\x96\x81 ", copies), 1 + copies);
    assert_int_equal(count_ids(t, "", "b ", copies), 2 * copies);
    tokenizer_close(t);
    /* With a piece of a letter and the space behind it, there is no place to cut. */
    t = open_good(LITERAL(PIECES "\x0a\x06\x0a\x04"
                                 "b\xE2\x96\x81" BPE PLAIN),
                  NULL);
    assert_int_equal(count_ids(t, "", "b ", copies), copies);
    tokenizer_close(t);
}

static void two_megabytes_of_one_character_are_no_trouble(void **state) {
    (void)state;
    struct tokenizer *t = open_shipped();
    size_t n = 2 << 20;
    char *text = malloc(n);
    for (const char *c = "a \n\xFF"; *c; c++) {
        struct token_list list = {0};
        memset(text, *c, n);
        assert_int_equal(tokenizer_encode(t, text, n, &list), OUTRIDER_OK);
        assert_true(list.n > 0 && list.n <= n);
        assert_in_range(tokenizer_least(t, n), 1, list.n);
        token_list_free(&list);
    }
    assert_int_equal(tokenizer_least(t, 1000), 0); /* soon read */
    free(text);
    tokenizer_close(t);
}

static void text_never_yields_a_control_token(void **state) {
    (void)state;
    struct tokenizer *t = open_shipped();
    const char text[] = "<s></s><unk>\n</s> </s>a<s>b [</s>] <s";
    expect_round_trip(t, LITERAL(text));
    tokenizer_close(t);

    /* BPE looks single characters up by name, whatever the piece's type. */
    t = open_good(LITERAL(UNK BOS EOS "\x0a\x05\x0a\x01"
                                      "a\x18\x03" B BPE PLAIN),
                  NULL);
    EXPECT_IDS(t, "ab", 0, 4);
    assert_int_equal(tokenizer_control(t, "a"), 3);
    tokenizer_close(t);

    /* A user-defined piece that the configuration calls special is a control piece from then on. */
    t = open_good(LITERAL(PIECES "\x0a\x08\x0a\x04<aa>\x18\x04" BPE PLAIN), NULL);
    EXPECT_IDS(t, "<aa>", 7);
    tokenizer_close(t);
    t = open_good(LITERAL(PIECES "\x0a\x08\x0a\x04<aa>\x18\x04" BPE PLAIN),
                  "{\"added_tokens_decoder\": {\"7\": {\"content\": \"<aa>\", \"special\": true}}}");
    EXPECT_IDS(t, "<aa>", 0, 3, 3, 0);
    assert_int_equal(tokenizer_control(t, "<aa>"), 7);
    tokenizer_close(t);
}

/* ---- white space and bytes on small models ---- */

#define NORMALIZER(prefix, squeeze, escape) "\x1a\x06\x18" prefix "\x20" squeeze "\x28" escape

static void white_space_follows_the_model(void **state) {
    (void)state;
    struct tokenizer *t = open_good(LITERAL(GOOD), NULL);
    EXPECT_IDS(t, " ab  a ", ID_SPACE, ID_AB, ID_SPACE, ID_SPACE, ID_A, ID_SPACE);
    expect_ids(t, "", 0, NULL, 0);
    assert_int_equal(tokenizer_least(t, 1 << 20), 0); /* bytes that are no UTF-8 are one <unk> */
    tokenizer_close(t);

    t = open_good(LITERAL(PIECES BPE NORMALIZER("\x01", "\x00", "\x01")), NULL); /* as Llama 2 */
    EXPECT_IDS(t, "ab", ID_SPACE, ID_AB);
    EXPECT_IDS(t, " ab", ID_SPACE, ID_SPACE, ID_AB);
    EXPECT_IDS(t,
               "\xFF"
               "ab\xFF\xFF"
               "b",
               ID_SPACE, ID_UNK, ID_AB, ID_UNK, ID_B); /* one prefix, at the start */
    expect_ids(t, "", 0, NULL, 0);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode_next(t, "ab", 2, &list), OUTRIDER_OK);
    assert_int_equal(list.n, 1);
    token_list_free(&list);
    tokenizer_close(t);

    t = open_good(LITERAL(PIECES BPE NORMALIZER("\x01", "\x01", "\x01")), NULL);
    EXPECT_IDS(t, "  ab \xFF  a  ", ID_SPACE, ID_AB, ID_SPACE, ID_UNK, ID_SPACE, ID_A);
    expect_ids(t, LITERAL("   "), NULL, 0);
    expect_ids(t, LITERAL(" \xE2\x96\x81 "), NULL, 0);
    assert_int_equal(tokenizer_least(t, 1 << 20), 0); /* white space may be nothing */
    tokenizer_close(t);

    t = open_good(LITERAL(PIECES BPE NORMALIZER("\x00", "\x00", "\x00")), NULL);
    EXPECT_IDS(t, "a b", ID_A, ID_UNK,
               ID_B); /* the space is a character like any other, here without piece */
    tokenizer_close(t);
}

static void first_piece_drops_the_dummy_prefix(void **state) {
    (void)state;
    size_t n;
    struct tokenizer *t = open_good(LITERAL(PIECES BPE NORMALIZER("\x01", "\x00", "\x01")), NULL);
    tokenizer_piece(t, ID_SPACE, true, &n);
    assert_int_equal(n, 0);
    assert_memory_equal(tokenizer_piece(t, ID_SPACE, false, &n), " ", 1);
    assert_int_equal(n, 1);
    assert_memory_equal(tokenizer_piece(t, ID_AB, true, &n), "ab", 2);
    assert_int_equal(n, 2);
    assert_memory_equal(tokenizer_piece(t, ID_UNK, true, &n), " \xE2\x81\x87 ", 5);
    assert_int_equal(n, 5);
    tokenizer_close(t);

    t = open_good(LITERAL(GOOD), NULL);
    tokenizer_piece(t, ID_SPACE, true, &n);
    assert_int_equal(n, 1);
    tokenizer_close(t);
}

static void byte_fallback_covers_what_has_no_piece(void **state) {
    (void)state;
    struct model_bytes m = model_with_bytes(LITERAL(PLAIN));
    struct tokenizer *t = open_good(m.bytes, m.n, NULL);
    EXPECT_IDS(t, "ab\xC3\xA9", ID_AB, N_PIECES + 0xC3, N_PIECES + 0xA9); /* well-formed, without a piece */
    EXPECT_IDS(t,
               "a\xC3"
               "b",
               ID_A, N_PIECES + 0xC3, ID_B);
    EXPECT_IDS(t, "\0", N_PIECES);
    EXPECT_IDS(t, "<0x41>", N_PIECES + '<', N_PIECES + '0', N_PIECES + 'x', N_PIECES + '4', N_PIECES + '1',
               N_PIECES + '>');
    tokenizer_close(t);
    free(m.bytes);
}

static void unusual_but_lawful_files_open(void **state) {
    (void)state;
    /* unknown fields of every wire type, in the file and in a piece */
    struct tokenizer *t = open_good(LITERAL("\xF8\x01\x05\xF9\x01"
                                            "12345678\xFA\x01\x02hi\xFD\x01"
                                            "1234" UNK BOS EOS "\x0a\x06\x0a\x01"
                                            "a\xF8\x01\x05" B SPACE AB BPE PLAIN),
                                    NULL);
    EXPECT_IDS(t, "ab", ID_AB);
    tokenizer_close(t);
    /* messages and scalars given twice: the last counts; self-test data is not run */
    t = open_good(LITERAL("\x12\x02\x18\x01" PIECES BPE "\x1a\x02\x18\x01" PLAIN "\x22\x08\x0a\x06\x0a\x01"
                          "a\x12\x01"
                          "b"),
                  NULL);
    EXPECT_IDS(t, "ab", ID_AB);
    tokenizer_close(t);
    /* Unigram prefers the better sum: "ab" -1 against 0 for its parts */
    t = open_good(LITERAL(PIECES PLAIN), NULL);
    EXPECT_IDS(t, "ab", ID_A, ID_B);
    tokenizer_close(t);
    /* trainer_spec names what is no control piece */
    t = open_good(LITERAL(PIECES "\x12\x08\x18\x02\xC8\x02\x03\xD0\x02\x02" PLAIN), NULL);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_eos(t), ID_EOS);
    assert_false(tokenizer_add_bos(t));
    tokenizer_close(t);
}

/* ---- files that must be refused ---- */

struct bad_file {
    const char *says; /* must be in the message, beside the file's name */
    const char *bytes;
    size_t n;
};
#define BAD(says, bytes)                                                                                     \
    { says, LITERAL(bytes) }
#define TEXT_OF_2(two) UNK "\x0a\x04\x0a\x02" two
#define TYPE_OF_A(type)                                                                                      \
    UNK "\x0a\x05\x0a\x01"                                                                                   \
        "a\x18" type
#define SCORE_OF_A(score)                                                                                    \
    UNK "\x0a\x08\x0a\x01"                                                                                   \
        "a\x15" score

static const struct bad_file BAD_FILES[] = {
    BAD("no pieces", ""),
    BAD("no pieces", BPE PLAIN),
    BAD("malformed", "\x0a"),
    BAD("malformed", "\x0a\x7f"),
    BAD("malformed", GOOD "\x0a"),
    BAD("malformed", GOOD "\xff"),
    BAD("malformed", GOOD "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), /* a varint of 11 bytes */
    BAD("malformed", GOOD "\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), /* of 65 bits and more */
    BAD("malformed", GOOD "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), /* a length of 2^64 - 1 */
    BAD("malformed", GOOD "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),     /* of 2^63 - 1 */
    BAD("malformed", GOOD "\x0a\xff\xff\xff\xff\x0f"),                     /* of 2^32 - 1 */
    BAD("malformed", GOOD "\xfa\xff\xff\xff\x80\x01\x00"),                 /* a key past 32 bits */
    BAD("malformed", GOOD "\x02\x00"),                                     /* field number 0 */
    BAD("malformed", GOOD "\x0b"),                                         /* a group begins, */
    BAD("malformed", GOOD "\x0c"),                                         /* ends */
    BAD("malformed", GOOD "\x0e"),                                         /* wire type 6 */
    BAD("malformed", GOOD "\x0f"),                                         /* wire type 7 */
    BAD("malformed", GOOD "\x31\x00\x00\x00\x00\x00\x00\x00"),             /* 7 bytes of 8 */
    BAD("malformed", GOOD "\x35\x00\x00\x00"),                             /* 3 bytes of 4 */
    BAD("malformed", GOOD "\x30"),                                         /* no byte of a varint */
    BAD("pieces: not a message", "\x08\x01"),
    BAD("trainer_spec: not a message", PIECES "\x10\x01"),
    BAD("normalizer_spec: not a message", PIECES "\x18\x01"),
    BAD("denormalizer_spec: not a message", PIECES "\x28\x01"),
    BAD("pieces[1].piece: missing or empty", UNK "\x0a\x00"),
    BAD("pieces[1].piece: missing or empty", UNK "\x0a\x02\x0a\x00"),
    BAD("pieces[1].piece: missing or empty", UNK "\x0a\x05\x15\x00\x00\x00\x00"),
    BAD("pieces[1].piece: not a string", UNK "\x0a\x02\x08\x01"),
    BAD("pieces[1].piece: holds a NUL", TEXT_OF_2("a\0")),
    BAD("pieces[1].piece: not valid UTF-8", TEXT_OF_2("a\xff")),
    BAD("pieces[1].piece: not valid UTF-8", TEXT_OF_2("\xc0\x80")),                  /* overlong */
    BAD("pieces[1].piece: not valid UTF-8", TEXT_OF_2("\xe2\x96")),                  /* unfinished */
    BAD("pieces[1].piece: not valid UTF-8", UNK "\x0a\x05\x0a\x03\xed\xa0\x80"),     /* a surrogate */
    BAD("pieces[1].piece: not valid UTF-8", UNK "\x0a\x06\x0a\x04\xf4\x90\x80\x80"), /* past U+10FFFF */
    BAD("pieces[1]: malformed", UNK "\x0a\x03\x0a\x02"
                                    "a"), /* longer than its message */
    BAD("pieces[1]: malformed", UNK "\x0a\x05\x0a\x01"
                                    "a\x15\x00"),
    BAD("pieces[1].score: not a finite", SCORE_OF_A("\x00\x00\xc0\x7f")), /* NaN */
    BAD("pieces[1].score: not a finite", SCORE_OF_A("\x00\x00\x80\x7f")), /* infinity */
    BAD("pieces[1].score: not a finite", SCORE_OF_A("\x00\x00\x80\xff")),
    BAD("pieces[1].score: not a finite", SCORE_OF_A("\xff\xff\x7f\x7f")), /* 3.4e38 */
    BAD("pieces[1].score: not a float", UNK "\x0a\x05\x0a\x01"
                                            "a\x10\x01"),
    BAD("pieces[1].type: unknown type", TYPE_OF_A("\x00")),
    BAD("pieces[1].type: unknown type", TYPE_OF_A("\x07")),
    BAD("pieces[1].type: unknown type", UNK "\x0a\x0e\x0a\x01"
                                            "a\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), /* -1 */
    BAD("pieces[1].type: number out of range", UNK "\x0a\x09\x0a\x01"
                                                   "a\x18\x80\x80\x80\x80\x10"), /* 2^32 */
    BAD("pieces[1].type: not a number", UNK "\x0a\x06\x0a\x01"
                                            "a\x1a\x01\x01"),
    BAD("no unknown piece", BOS EOS A BPE),
    BAD("pieces[1].type: a second unknown", TYPE_OF_A("\x02")),
    BAD("pieces[7].piece: the same as pieces[3]", PIECES A BPE),
    BAD("pieces[4].piece: the same as pieces[3]", UNK BOS EOS A "\x0a\x05\x0a\x01"
                                                                "a\x18\x03" BPE),
    BAD("1 byte pieces, but trainer_spec.byte_fallback is false",
        PIECES "\x0a\x0a\x0a\x06<0x41>\x18\x06" BPE),
    BAD("0 byte pieces, but trainer_spec.byte_fallback is true", PIECES FALLBACK),
    BAD("pieces[7].piece: a byte piece that is not", PIECES "\x0a\x0a\x0a\x06<0xab>\x18\x06" FALLBACK),
    BAD("pieces[7].piece: a byte piece that is not", PIECES "\x0a\x0a\x0a\x06<0x-1>\x18\x06" FALLBACK),
    BAD("pieces[7].piece: a byte piece that is not", PIECES "\x0a\x09\x0a\x05<0x1>\x18\x06" FALLBACK),
    BAD("pieces[1].piece: a byte piece that is not", TYPE_OF_A("\x06")),
    BAD("trainer_spec.model_type: only", PIECES "\x12\x02\x18\x03" PLAIN), /* WORD */
    BAD("trainer_spec.model_type: only", PIECES "\x12\x02\x18\x04" PLAIN), /* CHAR */
    BAD("trainer_spec.model_type: only", PIECES "\x12\x02\x18\x00" PLAIN),
    BAD("trainer_spec.model_type: not a number", PIECES "\x12\x03\x1a\x01\x02" PLAIN),
    BAD("trainer_spec: malformed", PIECES "\x12\x01\x18" PLAIN),
    BAD("trainer_spec.unk_id: past the last piece", PIECES "\x12\x05\x18\x02\xC0\x02\x07" PLAIN),
    BAD("trainer_spec.bos_id: past the last piece", PIECES "\x12\x05\x18\x02\xC8\x02\x07" PLAIN),
    BAD("trainer_spec.eos_id: past the last piece", PIECES "\x12\x05\x18\x02\xD0\x02\x7f" PLAIN),
    BAD("trainer_spec.pad_id: past the last piece", PIECES "\x12\x05\x18\x02\xD8\x02\x07" PLAIN),
    BAD("trainer_spec.bos_id: number out of range",
        PIECES "\x12\x0a\x18\x02\xC8\x02\x80\x80\x80\x80\x80\x01" PLAIN),
    BAD("trainer_spec.treat_whitespace_as_suffix: not supported",
        PIECES "\x12\x05\x18\x02\xC0\x01\x01" PLAIN),
    BAD("trainer_spec.byte_fallback: not a number", PIECES "\x12\x06\x18\x02\x9A\x02\x01\x01" PLAIN),
    BAD("trainer_spec.unk_surface: holds a NUL", PIECES "\x12\x06\x18\x02\xE2\x02\x01\x00" PLAIN),
    BAD("normalizer_spec.precompiled_charsmap: not empty", PIECES BPE "\x1a\x06\x12\x04\x00\x00\x00\x00"),
    BAD("normalizer_spec.precompiled_charsmap: not empty", PIECES BPE "\x1a\x02\x10\x00"),
    BAD("denormalizer_spec.precompiled_charsmap: not empty", GOOD "\x2a\x03\x12\x01x"),
    BAD("normalizer_spec.add_dummy_prefix: not a number", PIECES BPE "\x1a\x03\x1a\x01\x00"),
};

static void expect_refused(const char *bytes, size_t n, const char *says) {
    struct tokenizer *t = NULL;
    assert_int_equal(open_model(bytes, n, NULL, &t), OUTRIDER_EMODEL);
    assert_null(t);
    if (!strstr(outrider_error(), "tokenizer.model: ") || !strstr(outrider_error(), says))
        fail_msg("expected \"%s\" in \"%s\"", says, outrider_error());
}

static void bad_files_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_FILES / sizeof *BAD_FILES; i++)
        expect_refused(BAD_FILES[i].bytes, BAD_FILES[i].n, BAD_FILES[i].says);
}

static void sizes_have_limits(void **state) {
    (void)state;
    struct tokenizer *t;
    /* a piece of 512 bytes opens, of 513 does not */
    for (size_t bytes = 512; bytes <= 513; bytes++) {
        struct model_bytes m = {0};
        char header[] = {0x0a, (char)((bytes + 3) | 0x80), (char)((bytes + 3) >> 7),
                         0x0a, (char)(bytes | 0x80),       (char)(bytes >> 7)};
        add(&m, LITERAL(PIECES));
        add(&m, header, sizeof header);
        for (size_t i = 0; i < bytes; i++) add(&m, "a", 1);
        add(&m, LITERAL(BPE PLAIN));
        if (bytes == 512)
            tokenizer_close(open_good(m.bytes, m.n, NULL));
        else
            expect_refused(m.bytes, m.n, "pieces[7].piece: longer than 512 bytes");
        free(m.bytes);
    }
    /* one piece too many; the count comes before the table is made */
    struct model_bytes m = {.bytes = malloc(5 * (PRECHECK_MAX_PIECES + 1)),
                            .n = 5 * (PRECHECK_MAX_PIECES + 1)};
    for (size_t i = 0; i < m.n; i += 5) memcpy(m.bytes + i, A, 5);
    expect_refused(m.bytes, m.n, "at most 1048576");
    free(m.bytes);
    /* one byte too many, in a file without blocks */
    char path[128];
    snprintf(path, sizeof path, "%s/tokenizer.model", folder());
    assert_int_equal(truncate(path, PRECHECK_MAX_FILE + 1L), 0);
    assert_int_equal(tokenizer_open(folder(), &t), OUTRIDER_EMODEL);
    assert_non_null(strstr(outrider_error(), "at most 67108864"));
}

static void only_regular_files_are_read(void **state) {
    (void)state;
    struct tokenizer *t;
    char path[128];
    drop_file("tokenizer.model");
    assert_int_equal(tokenizer_open(folder(), &t), OUTRIDER_EMODEL);
    assert_non_null(strstr(outrider_error(), "neither tokenizer.model nor tokenizer.json"));
    snprintf(path, sizeof path, "%s/tokenizer.model", folder());
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(tokenizer_open(folder(), &t), OUTRIDER_EMODEL);
    assert_non_null(strstr(outrider_error(), "not a regular file"));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(tokenizer_open(folder(), &t), OUTRIDER_EMODEL); /* and does not wait for a writer */
    assert_non_null(strstr(outrider_error(), "not a regular file"));
    drop_file("tokenizer.model");
    char long_path[5000];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = 0;
    assert_int_equal(tokenizer_open(long_path, &t), OUTRIDER_EINVAL);
}

/* ---- damage ---- */

static void use_library(const struct spm *library, const struct sp_model *m) {
    struct token_list list = {0};
    assert_int_equal(spm_encode(library, LITERAL(" the old ab </s> <0x41>\xC3\xA9\0 zz"), &list),
                     OUTRIDER_OK);
    for (size_t i = 0; i < list.n; i++) {
        assert_in_range(list.ids[i], 0, m->n - 1);
        assert_int_not_equal(m->pieces[list.ids[i]].type, PIECE_CONTROL);
    }
    token_list_free(&list);
}

/* Reads a model from a heap block of just its size, so that a sanitizer sees one byte too far, and
 * encodes with it where it is lawful. Returns whether it was. */
static bool read_damaged(const char *bytes, size_t n) {
    struct sp_model m;
    struct spm *library = NULL;
    unsigned char *copy = malloc(n ? n : 1);
    char *rewritten = NULL;
    size_t rewritten_bytes;
    memcpy(copy, bytes, n);
    outrider_status status = precheck_read("damaged", copy, n, &m);
    if (status != OUTRIDER_OK) {
        assert_int_equal(status, OUTRIDER_EMODEL);
        assert_non_null(strstr(outrider_error(), "damaged: "));
        free(copy);
        return false;
    }
    assert_int_equal(precheck_write(&m, &rewritten, &rewritten_bytes), OUTRIDER_OK);
    status = spm_open(rewritten, rewritten_bytes, m.n, &library);
    if (status == OUTRIDER_OK)
        use_library(library, &m);
    else
        assert_int_equal(status, OUTRIDER_EMODEL); /* as one without ordinary pieces */
    spm_close(library);
    free(rewritten);
    precheck_free(&m);
    free(copy);
    return status == OUTRIDER_OK;
}

static void every_prefix_is_an_error_or_a_tokenizer(void **state) {
    (void)state;
    struct model_bytes m = model_with_bytes(LITERAL(PLAIN));
    size_t lawful = 0;
    for (size_t n = 0; n <= m.n; n++) lawful += read_damaged(m.bytes, n);
    /* The whole, without normalizer_spec, and with the first ordinary pieces only, as a Unigram. */
    assert_int_equal(lawful, 6);
    free(m.bytes);
}

/* Leaves out the pieces between the first and the last few thousand bytes: 10,000 models are then soon read.
 */
static size_t cut_middle(char *bytes, size_t n) {
    size_t head = 0, tail;
    while (head < 10000) head += 2 + (size_t)bytes[head + 1];
    for (tail = head; n - tail > 2000 && bytes[tail] == 0x0a;) tail += 2 + (size_t)bytes[tail + 1];
    memmove(bytes + head, bytes + tail, n - tail);
    return head + n - tail;
}

static void flipped_bits_are_an_error_or_a_tokenizer(void **state) {
    (void)state;
    size_t n, lawful = 0, flips = 10000, head = 4096, tail = 1024;
    char *bytes = read_whole("weights/tale/verifier/tokenizer.model", &n);
    uint64_t seed = 7;
    n = cut_middle(bytes, n);
    assert_true(read_damaged(bytes, n));
    for (size_t i = 0; i < flips; i++) {
        size_t at = next_random(&seed) % (head + tail), bit = next_random(&seed) % 8;
        if (at >= head) at = n - (head + tail - at);
        bytes[at] ^= (char)(1 << bit);
        lawful += read_damaged(bytes, n);
        bytes[at] ^= (char)(1 << bit);
    }
    assert_in_range(lawful, flips / 100, flips / 2); /* most of them break a byte piece */
    assert_true(read_damaged(bytes, n));
    free(bytes);
}

static void flipped_bits_of_a_small_model(void **state) {
    (void)state;
    struct model_bytes m = model_with_bytes(LITERAL(PLAIN));
    uint64_t seed = 11;
    size_t lawful = 0;
    for (size_t i = 0; i < 10000; i++) {
        size_t at = next_random(&seed) % m.n, bit = next_random(&seed) % 8;
        if (i % 2) at = at % 80; /* half of them where the ordinary pieces are */
        m.bytes[at] ^= (char)(1 << bit);
        lawful += read_damaged(m.bytes, m.n);
        m.bytes[at] ^= (char)(1 << bit);
    }
    assert_true(lawful > 500);
    free(m.bytes);
}

/* ---- tokenizer_config.json ---- */

static void configuration_is_followed(void **state) {
    (void)state;
    struct tokenizer *t = open_good(LITERAL(GOOD), NULL);
    assert_int_equal(tokenizer_bos(t), ID_BOS);
    assert_int_equal(tokenizer_eos(t), ID_EOS);
    assert_true(tokenizer_add_bos(t));
    assert_null(tokenizer_chat_template(t));
    tokenizer_close(t);

    t = open_good(LITERAL(GOOD),
                  "{\"bos_token\": null, \"eos_token\": {\"content\": \"<s>\", \"lstrip\": false},"
                  " \"add_bos_token\": true, \"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"},"
                  " {\"name\": \"default\", \"template\": \"yes\"}]}");
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_eos(t), ID_BOS);
    assert_false(tokenizer_add_bos(t)); /* there is none to add */
    assert_string_equal(tokenizer_chat_template(t), "yes");
    tokenizer_close(t);

    put_file("chat_template.jinja", LITERAL("from its file"));
    t = open_good(LITERAL(GOOD), "{\"add_bos_token\": false, \"chat_template\": \"from the configuration\"}");
    drop_file("chat_template.jinja");
    assert_false(tokenizer_add_bos(t));
    assert_string_equal(tokenizer_chat_template(t), "from its file");
    tokenizer_close(t);
}

static void added_tokens_come_behind_the_pieces(void **state) {
    (void)state;
    size_t n;
    struct tokenizer *t =
        open_good(LITERAL(GOOD), "{\"eos_token\": \"<|im_end|>\", \"added_tokens_decoder\": {"
                                 " \"0\": {\"content\": \"<unk>\", \"special\": true},"
                                 " \"9\": {\"content\": \"<|im_end|>\", \"special\": true},"
                                 " \"7\": {\"content\": \"\\u2581tool\", \"special\": false}}}");
    assert_int_equal(tokenizer_size(t), 10);
    assert_int_equal(tokenizer_eos(t), 9);
    assert_int_equal(tokenizer_control(t, "<|im_end|>"), 9);
    assert_int_equal(tokenizer_control(t, ""), -1); /* the gap at 8 */
    assert_memory_equal(tokenizer_piece(t, 7, false, &n), " tool", 5);
    assert_int_equal(n, 5);
    tokenizer_piece(t, 8, false, &n);
    assert_int_equal(n, 0);
    EXPECT_IDS(t, "a<|im_end|>", ID_A, ID_UNK);
    tokenizer_close(t);
}

static const char *const BAD_CONFIGS[][2] = {
    {"line 1", "{"},
    {"line 1", "{\"bos_token\": null, \"bos_token\": null}"},
    {"not an object", "[]"},
    {"bos_token: \"<x>\" is not a token", "{\"bos_token\": \"<x>\"}"},
    {"bos_token: \"a\" is not a control piece", "{\"bos_token\": \"a\"}"},
    {"eos_token: neither", "{\"eos_token\": 3}"},
    {"eos_token: neither", "{\"eos_token\": {\"text\": \"</s>\"}}"},
    {"add_bos_token: not a boolean", "{\"add_bos_token\": 1}"},
    {"chat_template: neither", "{\"chat_template\": 1}"},
    {"chat_template: neither", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}]}"},
    {"added_tokens_decoder: not an object", "{\"added_tokens_decoder\": []}"},
    {"added_tokens_decoder[\"x\"]: not a token id",
     "{\"added_tokens_decoder\": {\"x\": {\"content\": \"y\"}}}"},
    {"added_tokens_decoder[\"-1\"]: not a token id",
     "{\"added_tokens_decoder\": {\"-1\": {\"content\": \"y\"}}}"},
    {"too far", "{\"added_tokens_decoder\": {\"2000000000\": {\"content\": \"y\"}}}"},
    {"not a token id", "{\"added_tokens_decoder\": {\"99999999999999999999\": {\"content\": \"y\"}}}"},
    {"content is not a string", "{\"added_tokens_decoder\": {\"7\": {}}}"},
    {"content is not a string", "{\"added_tokens_decoder\": {\"7\": {\"content\": \"\"}}}"},
    {"content is not a string", "{\"added_tokens_decoder\": {\"7\": 1}}"},
    {"differs", "{\"added_tokens_decoder\": {\"1\": {\"content\": \"</s>\", \"special\": true}}}"},
};

static void bad_configurations_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_CONFIGS / sizeof *BAD_CONFIGS; i++) {
        struct tokenizer *t = NULL;
        assert_int_equal(open_model(LITERAL(GOOD), BAD_CONFIGS[i][1], &t), OUTRIDER_EMODEL);
        if (!strstr(outrider_error(), "tokenizer_config.json: ") ||
            !strstr(outrider_error(), BAD_CONFIGS[i][0]))
            fail_msg("expected \"%s\" in \"%s\"", BAD_CONFIGS[i][0], outrider_error());
    }
}

/* ---- two tokenizers ---- */

static void difference_names_the_first_id(void **state) {
    (void)state;
    struct tokenizer *verifier = open_shipped(), *draft = NULL;
    assert_int_equal(tokenizer_open("weights/tale/draft", &draft), OUTRIDER_OK);
    assert_int_equal(tokenizer_difference(verifier, draft), -1);
    tokenizer_close(verifier);
    tokenizer_close(draft);

    struct tokenizer *a = open_good(LITERAL(GOOD), NULL);
    struct tokenizer *other_text = open_good(LITERAL(UNK BOS EOS A "\x0a\x03\x0a\x01"
                                                                   "c" SPACE AB BPE PLAIN),
                                             NULL);
    struct tokenizer *other_type = open_good(LITERAL(UNK BOS EOS A B SPACE "\x0a\x06\x0a\x02"
                                                                           "ab\x18\x04" BPE PLAIN),
                                             NULL);
    struct tokenizer *longer = open_good(LITERAL(PIECES "\x0a\x03\x0a\x01"
                                                        "c" BPE PLAIN),
                                         NULL);
    assert_int_equal(tokenizer_difference(a, other_text), 4);
    assert_int_equal(tokenizer_difference(a, other_type), 6);
    assert_int_equal(tokenizer_difference(a, longer), 7);
    assert_int_equal(tokenizer_difference(longer, a), 7);
    tokenizer_close(a);
    tokenizer_close(other_text);
    tokenizer_close(other_type);
    tokenizer_close(longer);
    tokenizer_close(NULL);
}

static void lists_grow(void **state) {
    (void)state;
    struct token_list list = {0};
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(token_list_push(&list, i * 7), OUTRIDER_OK);
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(list.ids[i], i * 7);
    token_list_free(&list);
    assert_null(list.ids);
    assert_int_equal(list.n + list.capacity, 0);
}

/* ---- tool for the oracle ---- */

static int encode_line(const struct tokenizer *t, const char *line) {
    struct token_list list = {0};
    size_t n = strlen(line) / 2;
    char *text = malloc(n + 1);
    for (size_t i = 0; i < n; i++) sscanf(line + 2 * i, "%2hhx", (unsigned char *)text + i);
    outrider_status status = tokenizer_encode(t, text, n, &list);
    for (size_t i = 0; i < list.n; i++) printf("%d ", list.ids[i]);
    printf("\n");
    free(text);
    token_list_free(&list);
    return status;
}

static int decode_line(const struct tokenizer *t, const char *line) {
    char *end;
    bool first = true;
    for (long id = strtol(line, &end, 10); end != line;
         line = end, id = strtol(line, &end, 10), first = false) {
        size_t n;
        const char *piece = tokenizer_piece(t, (int32_t)id, first, &n);
        for (size_t i = 0; i < n; i++) printf("%02x", (unsigned char)piece[i]);
    }
    printf("\n");
    return 0;
}

static int tool(const char *what, const char *dir) {
    struct tokenizer *t;
    char *line = NULL;
    size_t capacity = 0;
    int status = tokenizer_open(dir, &t);
    if (status) return fprintf(stderr, "%s\n", outrider_error()), status;
    while (!status && getline(&line, &capacity, stdin) >= 0) {
        line[strcspn(line, "\n")] = 0;
        status = strcmp(what, "encode") == 0 ? encode_line(t, line) : decode_line(t, line);
    }
    free(line);
    tokenizer_close(t);
    return status;
}

int main(int argc, char **argv) {
    if (argc == 3) return tool(argv[1], argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shipped_model_is_what_it_should_be),
        cmocka_unit_test(held_out_text_survives),
        cmocka_unit_test(every_one_and_two_bytes_survive),
        cmocka_unit_test(noise_survives),
        cmocka_unit_test(long_texts_are_cut_without_a_trace),
        cmocka_unit_test(parts_meet_only_where_no_piece_reaches),
        cmocka_unit_test(two_megabytes_of_one_character_are_no_trouble),
        cmocka_unit_test(text_never_yields_a_control_token),
        cmocka_unit_test(white_space_follows_the_model),
        cmocka_unit_test(first_piece_drops_the_dummy_prefix),
        cmocka_unit_test(byte_fallback_covers_what_has_no_piece),
        cmocka_unit_test(unusual_but_lawful_files_open),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(sizes_have_limits),
        cmocka_unit_test(only_regular_files_are_read),
        cmocka_unit_test(every_prefix_is_an_error_or_a_tokenizer),
        cmocka_unit_test(flipped_bits_are_an_error_or_a_tokenizer),
        cmocka_unit_test(flipped_bits_of_a_small_model),
        cmocka_unit_test(configuration_is_followed),
        cmocka_unit_test(added_tokens_come_behind_the_pieces),
        cmocka_unit_test(bad_configurations_are_refused),
        cmocka_unit_test(difference_names_the_first_id),
        cmocka_unit_test(lists_grow),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}

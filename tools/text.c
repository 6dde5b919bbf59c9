/* See text.h. Nothing here interprets text beyond UTF-8. */
#include "tools/text.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/tools.h"

int text_append(struct text *t, const char *data, size_t bytes) {
    if (bytes >= t->room - t->bytes) {
        size_t room = t->room ? t->room : 256;
        while (room - t->bytes <= bytes)
            if (__builtin_mul_overflow(room, 2, &room)) return complain_memory();
        char *grown = realloc(t->data, room);
        if (!grown) return complain_memory();
        t->data = grown;
        t->room = room;
    }
    if (bytes) memcpy(t->data + t->bytes, data, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = '\0';
    return 0;
}

void text_clear(struct text *t) {
    free(t->data);
    *t = (struct text){0};
}

static int read_stream(struct text *t, FILE *in, const char *name) {
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, in)) > 0) CHECK(text_append(t, chunk, n));
    if (ferror(in)) return complain_file(name);
    return text_append(t, "", 0);
}

static int refuse_cut_lines(const char *data, size_t bytes) {
    for (const char *end, *at = data; bytes && (end = memchr(at, '\n', bytes - (size_t)(at - data)));
         at = end + 1)
        if (end + 1 - at == TERMINAL_LINE_BYTES)
            return complain(OUTRIDER_EINVAL,
                            "standard input: a line of a terminal ends at %d bytes, and this one may have "
                            "lost what it had more: put the text in a file, and name it with -f",
                            TERMINAL_LINE_BYTES - 1);
    return 0;
}

static int read_stdin(struct text *t) {
    const size_t before = t->bytes;
    CHECK(read_stream(t, stdin, "standard input"));
    return isatty(STDIN_FILENO) ? refuse_cut_lines(t->data + before, t->bytes - before) : 0;
}

int text_read_file(struct text *t, const char *path) {
    if (!strcmp(path, "-")) return read_stdin(t);
    FILE *in = fopen(path, "rb");
    if (!in) return complain_file(path);
    int code = read_stream(t, in, path);
    fclose(in);
    return code;
}

/* ---- UTF-8 ---- */

/* Bytes of the character at `s`, 0 when it is none: overlong forms, surrogates and values past U+10FFFF are
 * none. */
static size_t utf8_length(const unsigned char *s, size_t bytes) {
    if (s[0] < 0x80) return 1;
    size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || bytes < length) return 0;
    unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return length;
}

size_t utf8_prefix(const char *data, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        size_t length = utf8_length((const unsigned char *)data + at, bytes - at);
        if (!length) break;
        at += length;
    }
    return at;
}

json_t *json_text(const char *data, size_t bytes) {
    struct text clean = {0};
    json_t *string = NULL;
    for (;;) {
        size_t valid = utf8_prefix(data, bytes);
        if (text_append(&clean, data, valid)) goto done;
        if (valid == bytes) break;
        if (text_append(&clean, "\xEF\xBF\xBD", 3)) goto done;
        data += valid + 1;
        bytes -= valid + 1;
    }
    string = json_stringn_nocheck(clean.data, clean.bytes);
done:
    text_clear(&clean);
    return string;
}

static int parse_line(const char *path, size_t number, const char *line, size_t bytes,
                      int (*each)(void *user, size_t number, json_t *value), void *user) {
    json_error_t error;
    json_t *value = json_loadb(line, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!value)
        return complain(OUTRIDER_EFAIL, "%s: line %zu: %s; a line is an object such as {\"prompt\": \"...\"}",
                        path, number, error.text);
    int code = each(user, number, value);
    json_decref(value);
    return code;
}

int json_lines(const char *path, int (*each)(void *user, size_t number, json_t *value), void *user) {
    struct text file = {0};
    size_t number = 0, found = 0;
    int code = text_read_file(&file, path);
    for (size_t at = 0; !code && at < file.bytes;) {
        const char *line = file.data + at, *end = memchr(line, '\n', file.bytes - at);
        size_t bytes = end ? (size_t)(end - line) : file.bytes - at, blank = 0;
        number++;
        while (blank < bytes && (line[blank] == ' ' || line[blank] == '\t' || line[blank] == '\r')) blank++;
        if (blank < bytes) code = parse_line(path, number, line, bytes, each, user), found++;
        at += bytes + 1;
    }
    text_clear(&file);
    return code || found ? code : complain(OUTRIDER_EFAIL, "%s: there are no prompts in it", path);
}

/* ---- output ---- */

int flush_output(FILE *out) {
    if (!fflush(out) && !ferror(out)) return 0;
    return complain(OUTRIDER_EFAIL, "%s: %s", out == stdout ? "standard output" : "output", strerror(errno));
}

static bool drives_terminal(const unsigned char *s, size_t left) {
    bool c0 = (s[0] < 0x20 && s[0] != '\n' && s[0] != '\t') || s[0] == 0x7F;
    bool c1 = s[0] == 0xC2 && left > 1 && s[1] < 0xA0;
    return c0 || c1;
}

void make_printable(char *line) {
    size_t n = strlen(line);
    for (size_t i = 0; i < n;) {
        size_t length = utf8_length((const unsigned char *)line + i, n - i);
        if (!length || drives_terminal((const unsigned char *)line + i, n - i) || strchr("\n\t", line[i]))
            memset(line + i, '?', length ? length : 1);
        i += length ? length : 1;
    }
}

int write_text(FILE *out, const char *data, size_t bytes) {
    if (!isatty(fileno(out))) {
        fwrite(data, 1, bytes, out);
        return flush_output(out);
    }
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char *s = (const unsigned char *)data + i;
        bool hide = drives_terminal(s, bytes - i);
        if (hide && *s == 0xC2) i++;
        fputc(hide ? '?' : *s, out);
    }
    return flush_output(out);
}

int write_json(FILE *out, json_t *object, size_t flags) {
    if (!object) return complain_memory();
    int failed = json_dumpf(object, out, flags);
    json_decref(object);
    fputc('\n', out);
    CHECK(flush_output(out));
    return failed ? complain_memory() : 0;
}

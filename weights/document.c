/* Checked JSON; see document.h. The parser is jansson's. */
#include "weights/document.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "weights/map.h"

enum { MAX_DEPTH = 64, MAX_VALUES = 1 << 20, MAX_OBJECTS = 1 << 18 };
enum { OBJECT_BYTES = 256, ARRAY_BYTES = 128, VALUE_BYTES = 96 };

/* Bounds what the parser will allocate before it runs: every value but the first follows one of the
 * characters counted here, at the costs that its libraries' structures have. Malformed text is left to the
 * parser. When memory runs out within a word, jansson loses characters in silence or aborts, so all that it
 * may take is asked for. */
static outrider_status check_limits(const char *path, const char *text, size_t bytes, size_t max_values) {
    size_t objects = 0, values = 1, depth = 0, cost = 4 * bytes; /* a word's buffer doubles as it grows */
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            if (c == '"') quoted = false;
            continue;
        }
        quoted = c == '"';
        if (c == '{' || c == '[') depth++;
        if ((c == '}' || c == ']') && depth > 0) depth--;
        values += c == ',' || c == '{' || c == '[';
        objects += c == '{';
        cost += c == '{' ? OBJECT_BYTES : c == '[' ? ARRAY_BYTES : c == ',' ? VALUE_BYTES : 0;
        if (depth > MAX_DEPTH)
            return fail(OUTRIDER_EMODEL, "%s: JSON deeper than %d levels", path, MAX_DEPTH);
        if (values > max_values || objects > MAX_OBJECTS)
            return fail(OUTRIDER_EMODEL, "%s: JSON of more than %zu values or %d objects", path, max_values,
                        MAX_OBJECTS);
    }
    return memory_probe(path, cost);
}

outrider_status document_parse(const char *path, const void *text, size_t bytes, json_t **out) {
    return document_parse_large(path, text, bytes, MAX_VALUES, out);
}

outrider_status document_parse_large(const char *path, const void *text, size_t bytes, size_t max_values,
                                     json_t **out) {
    *out = NULL;
    TRY(check_limits(path, text, bytes, max_values));
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root && (!error.text[0] || json_error_code(&error) == json_error_out_of_memory))
        return fail_memory(path, bytes);
    if (!root) return fail(OUTRIDER_EMODEL, "%s: JSON line %d: %s", path, error.line, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return fail(OUTRIDER_EMODEL, "%s: JSON is not an object", path);
    }
    *out = root;
    return OUTRIDER_OK;
}

outrider_status document_open(const char *dir, const char *name, bool *found, struct document *out) {
    *out = (struct document){0};
    struct mapping map;
    TRY(map_open(dir, name, found, &map));
    if (!map.path) return OUTRIDER_OK;
    outrider_status status = document_parse(map.path, map.data, map.bytes, &out->root);
    if (status == OUTRIDER_OK) {
        out->path = map.path;
        map.path = NULL;
    }
    map_close(&map);
    return status;
}

void document_close(struct document *doc) {
    json_decref(doc->root);
    free(doc->path);
    *doc = (struct document){0};
}

json_t *document_get(const struct document *doc, const char *key) {
    json_t *value = json_object_get(doc->root, key);
    return json_is_null(value) ? NULL : value;
}

outrider_status document_int(const struct document *doc, const char *key, int32_t min, int32_t max,
                             int32_t *out) {
    json_t *value = document_get(doc, key);
    if (!value) return OUTRIDER_OK;
    if (!json_is_integer(value)) return fail(OUTRIDER_EMODEL, "%s: %s is not an integer", doc->path, key);
    json_int_t n = json_integer_value(value);
    if (n < min || n > max)
        return fail(OUTRIDER_EMODEL, "%s: %s is %lld, must be %d to %d", doc->path, key, (long long)n, min,
                    max);
    *out = (int32_t)n;
    return OUTRIDER_OK;
}

outrider_status document_float(const struct document *doc, const char *key, float min, float max,
                               float *out) {
    json_t *value = document_get(doc, key);
    if (!value) return OUTRIDER_OK;
    if (!json_is_number(value)) return fail(OUTRIDER_EMODEL, "%s: %s is not a number", doc->path, key);
    double x = json_number_value(value);
    if (!((float)x >= min && (float)x <= max))
        return fail(OUTRIDER_EMODEL, "%s: %s is %g, must be %g to %g", doc->path, key, x, min, max);
    *out = (float)x;
    return OUTRIDER_OK;
}

outrider_status document_bool(const struct document *doc, const char *key, bool *out) {
    json_t *value = document_get(doc, key);
    if (!value) return OUTRIDER_OK;
    if (!json_is_boolean(value)) return fail(OUTRIDER_EMODEL, "%s: %s is not true or false", doc->path, key);
    *out = json_is_true(value);
    return OUTRIDER_OK;
}

outrider_status document_text(const struct document *doc, const char *key, const char **out) {
    json_t *value = document_get(doc, key);
    if (!value) return OUTRIDER_OK;
    if (!json_is_string(value)) return fail(OUTRIDER_EMODEL, "%s: %s is not a string", doc->path, key);
    *out = json_string_value(value);
    return OUTRIDER_OK;
}

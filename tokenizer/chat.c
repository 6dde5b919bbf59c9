/* Chat templates. A model's template is a program in its own language. Those of well-known families are
 * recognised, by passages that no other known template has, and written here from a table; any other one is
 * interpreted by jinja.c, within limits.
 *
 * A rendering is template text (which may name control tokens) and the users' text (which never can). Runs of
 * plain text between two control tokens are encoded together, as one text; only a run at the very beginning
 * of the conversation gets the dummy prefix of models that have one (Hugging Face's legacy=false).
 * Where a template refuses system turns (Gemma 1 and 2, the first two of Mistral) they are written as its
 * successor writes them, in front of the first user turn. Tools and images are left out. */
#include <stdlib.h>
#include <string.h>

#include "runtime/status.h"
#include "tokenizer/internal.h"
#include "tokenizer/jinja.h"
#include "tokenizer/utf8.h"

/* In template text: {bos} and {eos} are the model's own tokens; each of MARKERS is one token if the model has
 * it, and text otherwise. */
struct chat_template {
    const char *name;
    const char *has[3];   /* passages that make it known, all of them */
    const char *has_not;  /* one that makes it another */
    const char *begin;    /* in front of everything */
    const char *open[3];  /* in front of a turn, by role; no open[CHAT_SYSTEM]: merged into the user's turn */
    const char *close[3]; /* behind a turn; for the assistant what comes in front of its end token */
    const char *end;      /* the assistant's end token */
    const char *after_end; /* what follows it */
    const char *answer;    /* the header of an answer to be generated */
    bool trims;            /* strips white space around the users' text */
    const char *merge[2];  /* around a merged system turn */
    const char *preamble;  /* opens a system turn that is always there */
    const char *system;    /* the system text when nobody gives one; NULL: no system turn then */
    const char *tail;      /* behind a conversation that opens no answer */
    bool thinks;           /* answers may hold <think>thoughts</think>: see put_thoughtful */
};

static const char *const MARKERS[] = {"<|im_start|>",
                                      "<|im_end|>",
                                      "<|start_header_id|>",
                                      "<|end_header_id|>",
                                      "<|eot_id|>",
                                      "<start_of_turn>",
                                      "<end_of_turn>",
                                      "<|system|>",
                                      "<|user|>",
                                      "<|assistant|>",
                                      "[INST]",
                                      "[/INST]",
                                      "<|end|>"};
enum { N_MARKERS = sizeof MARKERS / sizeof *MARKERS };

#define ANGLE_TURNS                                                                                          \
    .open = {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"}, .close = {"{eos}\n", "{eos}\n", ""},          \
    .end = "{eos}", .after_end = "\n", .answer = "<|assistant|>\n"
#define CHATML_TURNS                                                                                         \
    .open = {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},                       \
    .close = {"<|im_end|>\n", "<|im_end|>\n", ""}, .end = "<|im_end|>", .after_end = "\n",                   \
    .answer = "<|im_start|>assistant\n"
#define LLAMA3_TURNS                                                                                         \
    .begin = "{bos}",                                                                                        \
    .open = {"<|start_header_id|>system<|end_header_id|>\n\n",                                               \
             "<|start_header_id|>user<|end_header_id|>\n\n",                                                 \
             "<|start_header_id|>assistant<|end_header_id|>\n\n"},                                           \
    .close = {"<|eot_id|>", "<|eot_id|>", ""}, .end = "<|eot_id|>",                                          \
    .answer = "<|start_header_id|>assistant<|end_header_id|>\n\n", .trims = true
#define PLAIN_MISTRAL                                                                                        \
    .begin = "{bos}", .open = {NULL, "[INST] ", ""}, .close = {NULL, " [/INST]", ""}, .end = "{eos}",        \
    .merge = {"", "\n\n"}

static const struct chat_template TEMPLATES[] = {
    [CHAT_NONE] = {.name = "none"},
    [CHAT_TALE] = {.name = "tale",
                   .has = {"'<|' + m['role'] + '|>", "m['content'] + eos_token + '"},
                   ANGLE_TURNS},
    [CHAT_ZEPHYR] = {.name = "zephyr",
                     .has = {"<|user|>", "<|assistant|>", "message['content'] + eos_token }}\n"},
                     ANGLE_TURNS},
    [CHAT_LLAMA2] = {.name = "llama2",
                     .has = {"<<SYS>>", "bos_token + '[INST] ' + content.strip() + ' [/INST]'",
                             "content.strip() + ' ' + eos_token"},
                     .has_not = "You are",
                     .open = {NULL, "{bos}[INST] ", " "},
                     .close = {NULL, " [/INST]", " "},
                     .end = "{eos}",
                     .trims = true,
                     .merge = {"<<SYS>>\n", "\n<</SYS>>\n\n"}},
    [CHAT_LLAMA3] = {.name = "llama3",
                     .has = {"<|start_header_id|>", "message['content'] | trim + '<|eot_id|>'"},
                     .has_not = "Cutting Knowledge Date",
                     LLAMA3_TURNS},
    /* The template's fixed date, also where a newer one asks the clock: a prompt should not change overnight.
     */
    [CHAT_LLAMA31] = {.name = "llama3.1",
                      .has = {"<|start_header_id|>", "message['content'] | trim + '<|eot_id|>'",
                              "Cutting Knowledge Date: December 2023"},
                      LLAMA3_TURNS,
                      .preamble = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
                      .system = ""},
    [CHAT_CHATML] = {.name = "chatml",
                     .has = {"'<|im_start|>' + message['role'] + '", "message['content'] + '<|im_end|>"},
                     .has_not = "You are",
                     CHATML_TURNS},
    [CHAT_QWEN] = {.name = "qwen2.5",
                   .has = {"<|im_start|>system",
                           "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
                           "message.content + '<|im_end|>'"},
                   CHATML_TURNS,
                   .system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    [CHAT_QWEN3] = {.name = "qwen3",
                    .has = {"loop.last or (not loop.last and reasoning_content)",
                            "'\\n</think>\\n\\n' + content.lstrip('\\n')", "enable_thinking is false"},
                    .has_not = "You are",
                    CHATML_TURNS,
                    .thinks = true},
    [CHAT_MISTRAL] = {.name = "mistral",
                      .has = {"' [INST] ' + system_message", "' [INST] ' + message['content'] + ' [/INST]'",
                              "' ' + message['content'] + eos_token"},
                      .begin = "{bos}",
                      .open = {NULL, " [INST] ", " "},
                      .close = {NULL, " [/INST]", ""},
                      .end = "{eos}",
                      .merge = {"", "\n\n"}},
    [CHAT_MISTRAL_V01] = {.name = "mistral-v0.1",
                          .has = {"'[INST] ' + message['content'] + ' [/INST]'",
                                  "{{ message['content'] + eos_token + ' '"},
                          PLAIN_MISTRAL,
                          .after_end = " "},
    [CHAT_MISTRAL_V02] = {.name = "mistral-v0.2",
                          .has = {"'[INST] ' + message['content'] + ' [/INST]'",
                                  "{{ message['content'] + eos_token"},
                          .has_not = "eos_token + ' '",
                          PLAIN_MISTRAL},
    [CHAT_PHI3] = {.name = "phi3",
                   .has = {"'<|system|>\n' + message['content'] + '<|end|>\n'",
                           "'<|assistant|>\n' + message['content'] + '<|end|>\n'",
                           "{% else %}{{ eos_token }}"},
                   .has_not = "and message['content']",
                   .open = {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
                   .close = {"<|end|>\n", "<|end|>\n", ""},
                   .end = "<|end|>",
                   .after_end = "\n",
                   .answer = "<|assistant|>\n",
                   .tail = "{eos}"},
    [CHAT_GEMMA] = {.name = "gemma",
                    .has = {"'<start_of_turn>' + role + '", "<end_of_turn>", "| trim"},
                    .begin = "{bos}",
                    .open = {NULL, "<start_of_turn>user\n", "<start_of_turn>model\n"},
                    .close = {NULL, "<end_of_turn>\n", ""},
                    .end = "<end_of_turn>",
                    .after_end = "\n",
                    .answer = "<start_of_turn>model\n",
                    .trims = true,
                    .merge = {"", "\n\n"}},
    [CHAT_OWN] = {.name = "own"},
};
enum { N_TEMPLATES = sizeof TEMPLATES / sizeof *TEMPLATES };

/* ---- which one ---- */

const char *chat_name(enum chat_kind kind) {
    return TEMPLATES[kind].name;
}

outrider_status chat_by_name(const char *name, enum chat_kind *kind) {
    char names[256] = "";
    for (int i = 0; i < N_TEMPLATES; i++) {
        if (strcmp(name, TEMPLATES[i].name) == 0) {
            *kind = (enum chat_kind)i;
            return OUTRIDER_OK;
        }
        strcat(strcat(names, i ? ", " : ""), TEMPLATES[i].name);
    }
    return fail(OUTRIDER_EINVAL, "--chat-template %.64s: no such file, and none of %s", name, names);
}

static bool is_known_by(const char *text, const struct chat_template *c) {
    if (!c->has[0] || (c->has_not && strstr(text, c->has_not))) return false;
    for (size_t i = 0; i < sizeof c->has / sizeof *c->has && c->has[i]; i++)
        if (!strstr(text, c->has[i])) return false;
    return true;
}

outrider_status chat_detect(const char *template_text, enum chat_kind *kind) {
    *kind = CHAT_NONE;
    if (!template_text) return OUTRIDER_OK;
    for (int i = 0; i < N_TEMPLATES; i++) {
        if (!is_known_by(template_text, &TEMPLATES[i])) continue;
        *kind = (enum chat_kind)i;
        return OUTRIDER_OK;
    }
    return fail(OUTRIDER_EINVAL,
                "the model's chat_template is not one that is known; name one with --chat-template");
}

/* ---- writing ---- */

/* Gathers plain text until a control token or the end, so that it is encoded as one. */
struct writer {
    const struct tokenizer *t;
    struct token_list *out;
    char *run;
    size_t n, capacity;
    bool start;  /* nothing is written yet, and nothing stood there before */
    bool strips; /* the last token takes the white space behind it */
};

static outrider_status put_text(struct writer *w, const char *text, size_t bytes) {
    size_t needed;
    if (!add_fits(w->n, bytes, &needed)) return fail_memory("a chat", SIZE_MAX);
    if (needed > w->capacity) {
        size_t capacity = needed > SIZE_MAX / 2 ? needed : needed * 2;
        char *grown = realloc(w->run, capacity);
        if (!grown) return fail_memory("a chat", capacity);
        w->run = grown;
        w->capacity = capacity;
    }
    if (bytes > 0) memcpy(w->run + w->n, text, bytes);
    w->n = needed;
    return OUTRIDER_OK;
}

static outrider_status flush(struct writer *w) {
    if (w->n == 0) return OUTRIDER_OK;
    size_t skip = w->strips ? spaces_at_start(w->run, w->n) : 0, n = w->n - skip;
    bool start = w->start;
    w->n = 0;
    w->strips = false;
    if (n == 0) return OUTRIDER_OK;
    w->start = false;
    return (start ? tokenizer_encode : tokenizer_encode_next)(w->t, w->run + skip, n, w->out);
}

/* A caller that begins every session with BOS has written the template's own already. */
static bool is_written(const struct writer *w, int32_t id) {
    const struct token_list *out = w->out;
    return w->start && w->n == 0 && id == tokenizer_bos(w->t) && out->n > 0 && out->ids[out->n - 1] == id;
}

static outrider_status put_token(struct writer *w, int32_t id) {
    uint8_t flags = w->t->model.pieces[id].flags;
    if (is_written(w, id)) return w->start = false, OUTRIDER_OK;
    if (flags & PIECE_LSTRIP) w->n -= spaces_at_end(w->run, w->n);
    TRY(flush(w));
    w->start = false;
    w->strips = (flags & PIECE_RSTRIP) != 0;
    return token_list_push(w->out, id);
}

/* The token named at the start of template text: *id (-1: text, or a model without it) and its length, which
 * is 0 when none is named. */
static size_t named_token(const struct tokenizer *t, const char *text, int32_t *id) {
    *id = -1;
    if (strncmp(text, "{bos}", 5) == 0) return *id = tokenizer_bos(t), 5;
    if (strncmp(text, "{eos}", 5) == 0) return *id = tokenizer_eos(t), 5;
    for (int i = 0; i < N_MARKERS; i++) {
        if (MARKERS[i][0] != *text) continue;
        size_t n = strlen(MARKERS[i]);
        if (strncmp(text, MARKERS[i], n) != 0) continue;
        *id = tokenizer_marker(t, MARKERS[i], n);
        return *id >= 0 ? n : 0;
    }
    return 0;
}

static outrider_status put_template(struct writer *w, const char *text) {
    while (text && *text) {
        int32_t id;
        size_t n = named_token(w->t, text, &id);
        if (n == 0)
            TRY(put_text(w, text, n = 1));
        else if (id >= 0)
            TRY(put_token(w, id));
        text += n;
    }
    return OUTRIDER_OK;
}

/* ---- turns ---- */

static struct chat_message trim(struct chat_message m, bool head) {
    size_t begin = 0, end = 0, i = 0;
    bool inside = !head;
    while (i < m.bytes) {
        const unsigned char *at = (const unsigned char *)m.text + i;
        int length = utf8_check(at, m.bytes - i);
        bool space = length > 0 && utf8_is_space(utf8_code_point(at, length));
        if (!space && !inside) inside = true, begin = i;
        i += length > 0 ? (size_t)length : 1;
        if (!space) end = i;
    }
    return (struct chat_message){m.role, m.text + begin, end > begin ? end - begin : 0};
}

static outrider_status put_system(struct writer *w, const struct chat_template *c, struct chat_message m) {
    if (c->trims) m = trim(m, true);
    TRY(put_template(w, c->open[CHAT_SYSTEM]));
    TRY(put_template(w, c->preamble));
    TRY(put_text(w, m.text, m.bytes));
    return put_template(w, c->close[CHAT_SYSTEM]);
}

/* ---- thoughts, as Qwen 3 writes them ---- */

static bool begins(struct chat_message m, const char *with) {
    const size_t n = strlen(with);
    return m.bytes >= n && memcmp(m.text, with, n) == 0;
}

static bool ends(struct chat_message m, const char *with) {
    const size_t n = strlen(with);
    return m.bytes >= n && memcmp(m.text + m.bytes - n, with, n) == 0;
}

static struct chat_message strip_newlines(struct chat_message m) {
    while (m.bytes > 0 && m.text[0] == '\n') m.text++, m.bytes--;
    while (m.bytes > 0 && m.text[m.bytes - 1] == '\n') m.bytes--;
    return m;
}

/* Where `mark` first (or last) stands in m; m.bytes where it does not. */
static size_t find_mark(struct chat_message m, const char *mark, bool last) {
    const size_t n = strlen(mark);
    size_t found = m.bytes;
    for (size_t at = 0; at + n <= m.bytes; at++)
        if (memcmp(m.text + at, mark, n) == 0) {
            found = at;
            if (!last) break;
        }
    return found;
}

/* Cuts an answer into what was thought and what was said. */
static struct chat_message cut_thought(struct chat_message *answer) {
    static const char begin[] = "<think>", end[] = "</think>";
    struct chat_message thought = *answer;
    thought.bytes = find_mark(*answer, end, false);
    if (thought.bytes == answer->bytes) return thought.bytes = 0, thought;
    const size_t said = find_mark(*answer, end, true) + sizeof end - 1, at = find_mark(thought, begin, true);
    if (at < thought.bytes) thought.text += at + sizeof begin - 1, thought.bytes -= at + sizeof begin - 1;
    answer->text += said;
    answer->bytes -= said;
    while (answer->bytes > 0 && answer->text[0] == '\n') answer->text++, answer->bytes--;
    return strip_newlines(thought);
}

/* The last question; the last turn where there is none. A user's turn that brings a tool's words is no
 * question. */
static size_t last_question(const struct chat_message *messages, size_t n) {
    for (size_t i = n; i-- > 0;)
        if (messages[i].role == CHAT_USER &&
            !(begins(messages[i], "<tool_response>") && ends(messages[i], "</tool_response>")))
            return i;
    return n - 1;
}

/* The words of answer i: thoughts stay in those to the last question, of which the last turn has some even
 * if they are empty. */
static outrider_status put_thoughtful(struct writer *w, const struct chat_message *messages, size_t n,
                                      size_t i) {
    struct chat_message said = messages[i], thought = cut_thought(&said);
    if (i > last_question(messages, n) && (i + 1 == n || thought.bytes > 0)) {
        TRY(put_template(w, "<think>\n"));
        TRY(put_text(w, thought.text, thought.bytes));
        TRY(put_template(w, "\n</think>\n\n"));
        while (said.bytes > 0 && said.text[0] == '\n') said.text++, said.bytes--;
    }
    return put_text(w, said.text, said.bytes);
}

static outrider_status put_turn(struct writer *w, const struct chat_template *c,
                                const struct chat_message *messages, size_t n, size_t i) {
    struct chat_message m = messages[i];
    if (m.role == CHAT_SYSTEM) return c->open[CHAT_SYSTEM] ? put_system(w, c, m) : OUTRIDER_OK;
    bool merges = m.role == CHAT_USER && i == 1 && messages[0].role == CHAT_SYSTEM && !c->open[CHAT_SYSTEM];
    TRY(put_template(w, c->open[m.role]));
    if (merges) {
        TRY(put_template(w, c->merge[0]));
        TRY(put_text(w, messages[0].text, messages[0].bytes));
        TRY(put_template(w, c->merge[1]));
    }
    /* Llama 2 strips system and user text as one, so its user text keeps the white space in front. */
    if (c->trims) m = trim(m, !(merges && c->merge[0][0]));
    if (c->thinks && m.role == CHAT_ASSISTANT)
        TRY(put_thoughtful(w, messages, n, i));
    else
        TRY(put_text(w, m.text, m.bytes));
    TRY(put_template(w, c->close[m.role]));
    if (m.role != CHAT_ASSISTANT) return OUTRIDER_OK;
    TRY(put_template(w, c->end));
    return put_template(w, c->after_end);
}

static outrider_status put_close(struct writer *w, const struct chat_template *c, bool ended) {
    if (!ended) {
        TRY(put_template(w, c->close[CHAT_ASSISTANT]));
        TRY(put_template(w, c->end));
    }
    return put_template(w, c->after_end);
}

static outrider_status put_all(struct writer *w, const struct chat_template *c,
                               const struct chat_message *messages, size_t n, size_t from, bool open_answer,
                               bool close_answer, bool ended) {
    if (from == 0) {
        TRY(put_template(w, c->begin));
        if (c->system && (n == 0 || messages[0].role != CHAT_SYSTEM))
            TRY(put_system(w, c, (struct chat_message){CHAT_SYSTEM, c->system, strlen(c->system)}));
    } else if (close_answer) {
        TRY(put_close(w, c, ended));
    }
    for (size_t i = from; i < n; i++) TRY(put_turn(w, c, messages, n, i));
    /* Behind a system turn alone a question is to come. */
    bool over = !open_answer && n > 0 && messages[n - 1].role != CHAT_SYSTEM;
    TRY(put_template(w, open_answer ? c->answer : over ? c->tail : NULL));
    return flush(w);
}

/* Templates with a merged system turn take one at most, as the first, and then user and assistant by turns;
 * the others take any order. */
static outrider_status check_order(const struct chat_template *c, const struct chat_message *messages,
                                   size_t n) {
    if (c->open[CHAT_SYSTEM]) return OUTRIDER_OK;
    size_t first = n > 0 && messages[0].role == CHAT_SYSTEM;
    for (size_t i = first; i < n; i++)
        if (messages[i].role != ((i - first) % 2 ? CHAT_ASSISTANT : CHAT_USER))
            return fail(OUTRIDER_EINVAL,
                        "message %zu: the chat template %s wants one system turn at most, in front, "
                        "then user and assistant by turns",
                        i + 1, c->name);
    return OUTRIDER_OK;
}

/* ---- the model's own template ---- */

static const char *token_text(const struct tokenizer *t, int32_t id, char out[PRECHECK_MAX_PIECE + 1]) {
    const struct piece *p = id >= 0 ? &t->model.pieces[id] : NULL;
    if (p) memcpy(out, p->text, p->bytes);
    out[p ? p->bytes : 0] = 0;
    return out;
}

/* Renders it; an answer that was generated in place has words that are not known here, which "." stands for.
 */
static outrider_status render(const struct tokenizer *t, const struct chat_message *messages, size_t n,
                              bool open_answer, struct jinja_text *out) {
    char bos[PRECHECK_MAX_PIECE + 1], eos[PRECHECK_MAX_PIECE + 1];
    struct chat_message *copy = calloc(n + 1, sizeof *copy);
    if (!copy) return fail_memory("the turns", n * sizeof *copy);
    for (size_t i = 0; i < n; i++) {
        copy[i] = messages[i];
        if (copy[i].role == CHAT_ASSISTANT && copy[i].bytes == 0) copy[i].text = ".", copy[i].bytes = 1;
    }
    const struct jinja_input in = {.messages = copy,
                                   .n = n,
                                   .bos = token_text(t, t->bos, bos),
                                   .eos = token_text(t, t->eos, eos),
                                   .open_answer = open_answer,
                                   .now = time(NULL)};
    outrider_status status = jinja_render(t->chat_template, &in, out);
    free(copy);
    return status;
}

/* Where template text that begins at `at` ends. */
static size_t template_end(const struct jinja_text *text, size_t at) {
    while (at < text->n && text->from[at] == 0) at++;
    return at;
}

/* Behind the last byte of message i; 0 when the template leaves it out. */
static size_t behind_message(const struct jinja_text *text, size_t i) {
    size_t n = text->n;
    while (n > 0 && text->from[n - 1] != i + 1) n--;
    return n;
}

/* The first control token of the template text at `at`, NULL for none; *end is behind it. */
static const struct added *first_control(const struct tokenizer *t, const struct jinja_text *text, size_t at,
                                         size_t *end) {
    const struct added *token = NULL;
    size_t limit = template_end(text, at);
    while (at < limit && !(token = added_at(&t->controls, text->bytes + at, limit - at))) at++;
    *end = token ? at + token->bytes : limit;
    return token;
}

/* Only template text is searched for control tokens. */
static outrider_status put_rendered(struct writer *w, const struct jinja_text *text, size_t at) {
    for (size_t end; at < text->n; at = end) {
        const struct added *token =
            text->from[at] ? NULL : added_at(&w->t->controls, text->bytes + at, template_end(text, at) - at);
        end = at + (token ? token->bytes : 1);
        TRY(token ? put_token(w, token->id) : put_text(w, text->bytes + at, 1));
    }
    return flush(w);
}

/* Where in the rendering of all messages those from `from` on begin. */
static outrider_status find_rest(const struct tokenizer *t, const struct chat_message *messages, size_t from,
                                 bool close_answer, bool ended, const struct jinja_text *all, size_t *at) {
    struct jinja_text before;
    *at = behind_message(all, from - 1);
    if (*at == 0)
        return fail(OUTRIDER_EINVAL,
                    "the chat template leaves message %zu out, so that the chat cannot go on; "
                    "another can be named with --chat-template",
                    from);
    if (close_answer) {
        size_t end;
        if (ended && first_control(t, all, *at, &end)) *at = end;
        return OUTRIDER_OK;
    }
    TRY(render(t, messages, from, false, &before));
    size_t begin = behind_message(&before, from - 1), n = before.n - begin;
    bool same = begin > 0 && n <= all->n - *at && memcmp(before.bytes + begin, all->bytes + *at, n) == 0;
    jinja_text_free(&before);
    *at += n;
    if (same) return OUTRIDER_OK;
    return fail(OUTRIDER_EINVAL,
                "the chat template writes message %zu differently when others follow; another can "
                "be named with --chat-template",
                from);
}

static outrider_status put_own(struct writer *w, const struct chat_message *messages, size_t n, size_t from,
                               bool open_answer, bool close_answer, bool ended) {
    struct jinja_text text;
    size_t at = 0;
    if (!w->t->chat_template)
        return fail(OUTRIDER_EINVAL, "the model has no chat template; name one with --chat-template");
    TRY(render(w->t, messages, n, open_answer, &text));
    outrider_status status = OUTRIDER_OK;
    if (from > 0) status = find_rest(w->t, messages, from, close_answer, ended, &text, &at);
    if (status == OUTRIDER_OK) status = put_rendered(w, &text, at);
    jinja_text_free(&text);
    return status;
}

/* What the template writes behind an answer. */
static int32_t own_end_token(const struct tokenizer *t) {
    const struct chat_message turns[] = {{CHAT_USER, "x", 1}, {CHAT_ASSISTANT, "y", 1}};
    struct jinja_text text;
    size_t end;
    if (!t->chat_template || render(t, turns, 2, false, &text) != OUTRIDER_OK) return -1;
    size_t at = behind_message(&text, 1);
    const struct added *token = at ? first_control(t, &text, at, &end) : NULL;
    int32_t id = token ? token->id : -1;
    jinja_text_free(&text);
    return id;
}

outrider_status chat_encode(const struct tokenizer *t, enum chat_kind kind,
                            const struct chat_message *messages, size_t n, size_t from, bool open_answer,
                            bool close_answer, bool ended, struct token_list *out) {
    const struct chat_template *c = &TEMPLATES[kind];
    struct writer w = {.t = t, .out = out, .start = from == 0};
    size_t before = out->n;
    if (kind == CHAT_NONE)
        return fail(OUTRIDER_EINVAL, "the model has no chat template; name one with --chat-template");
    if (kind != CHAT_OWN) TRY(check_order(c, messages, n));
    outrider_status status = kind == CHAT_OWN
                                 ? put_own(&w, messages, n, from, open_answer, close_answer, ended)
                                 : put_all(&w, c, messages, n, from, open_answer, close_answer, ended);
    free(w.run);
    if (status != OUTRIDER_OK) out->n = before;
    return status;
}

int32_t chat_end_token(const struct tokenizer *t, enum chat_kind kind) {
    int32_t id = -1;
    if (kind == CHAT_OWN) id = own_end_token(t);
    if (TEMPLATES[kind].end) named_token(t, TEMPLATES[kind].end, &id);
    return id == tokenizer_eos(t) ? -1 : id;
}

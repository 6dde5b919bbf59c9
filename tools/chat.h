/* A conversation at the terminal: shared by cmd_chat.c (turns), chat_commands.c (what begins with a slash)
 * and chat_file.c (saved conversations).
 *
 * The session holds the tokens of the turns; the turns hold their text, so that a conversation can be saved
 * and written into the session anew. Invariant: between commands both tell the same conversation.
 */
#ifndef OUTRIDER_CHAT_H
#define OUTRIDER_CHAT_H

#include "tools/line.h"
#include "tools/options.h"
#include "tools/report.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

struct turn {
    struct text user, answer;
    size_t answer_begin; /* tokens in the session in front of the answer */
};

struct chat {
    struct options *options;
    outrider_engine *engine;
    outrider_session *session;
    outrider_settings settings;
    outrider_engine_info info;
    uint64_t seed;
    bool plain;       /* /spec off */
    bool interactive; /* a person, not a script */
    bool leave;
    struct line_reader *lines;
    struct palette colors; /* of standard error */
    struct text before;    /* read by /read, goes in front of the next message */
    struct turn *turns;
    size_t n_turns;
    outrider_stats stats; /* of the last answer */
};

/* ---- cmd_chat.c ---- */

/* Settings from the options; `reseed` also takes the seed from there. On failure the old ones hold. */
int chat_apply(struct chat *c, bool reseed);
/* Writes all turns into an empty session, as after a change of what comes first. */
int chat_replay(struct chat *c);
/* Answers the last turn. */
int chat_answer(struct chat *c);
int chat_clear(struct chat *c);
void turns_free(struct turn *turns, size_t n);

/* ---- chat_commands.c ---- */

/* A line that begins with '/'; the line is changed. */
int chat_command(struct chat *c, char *line);
/* True for options that /set may change: what an answer depends on, not what was loaded. */
bool chat_may_set(enum option_id id);

/* ---- chat_file.c ---- */

/* Replaces the file in one step: a reader finds the old or the new conversation, never half of one. */
int chat_save(const struct chat *c, const char *path);
/* The file is untrusted; on any failure the conversation and its settings stay as they are. */
int chat_load(struct chat *c, const char *path);

#endif

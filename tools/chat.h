/* A conversation at the terminal: shared by cmd_chat.c (turns), chat_commands.c (what begins with a slash),
 * chat_settings.c (/set and its like), chat_branches.c (/fork, /switch), chat_file.c (saved conversations)
 * and chat_complete.c (Tab).
 *
 * The session holds the tokens of the turns; the turns hold their text, so that a conversation can be saved
 * and written into a session anew. Invariant: between commands both tell the same conversation.
 */
#ifndef OUTRIDER_CHAT_H
#define OUTRIDER_CHAT_H

#include "tools/line.h"
#include "tools/options.h"
#include "tools/report.h"
#include "tools/terminal.h"
#include "tools/text.h"
#include "tools/tools.h"

/* A stretch of an answer that one source wrote. */
struct span {
    outrider_source source;
    size_t bytes;
};

struct turn {
    struct text user, answer;
    size_t begin, answer_begin; /* tokens in the session in front of the turn and of the answer */
    struct span *spans;         /* of the answer; none when it was loaded or read again */
    size_t n_spans;
};

/* A conversation that waits while another goes on. */
struct branch {
    char *name;
    outrider_session *session; /* NULL for the one that goes on: its parts are those of struct chat */
    struct turn *turns;
    size_t n_turns;
    char *system;
    uint64_t seed;
};
enum { MAX_BRANCHES = 8 }; /* see CHAT_SESSIONS of setup.h */

struct chat {
    struct options *options;
    outrider_engine *engine;
    outrider_session *session;
    outrider_settings settings;
    outrider_engine_info info;
    uint64_t seed;
    bool plain;       /* /spec off */
    bool show;        /* /spec show */
    bool interactive; /* a person, not a script */
    bool leave;
    struct line_reader *lines;
    struct palette colors;        /* of standard error */
    struct palette answer_colors; /* of standard output */
    struct text before;           /* read by /read, goes in front of the next message */
    struct turn *turns;
    size_t n_turns;
    outrider_stats stats; /* of the last answer */
    struct branch branches[MAX_BRANCHES];
    size_t n_branches, branch; /* none until the first /fork */
};

/* ---- cmd_chat.c ---- */

/* Settings from the options; `reseed` also takes the seed from there. On failure the old ones hold. */
int chat_apply(struct chat *c, bool reseed);
/* Writes all turns into an empty session, as after a change of what comes first. */
int chat_replay(struct chat *c);
/* Answers the last turn. */
int chat_answer(struct chat *c);
/* Writes the last answer again, coloured by who wrote it. */
int chat_show_answer(struct chat *c);
int chat_clear(struct chat *c);
/* Takes the last turn back. */
int chat_undo(struct chat *c);
/* Drops the n oldest turns; the others are read anew. On failure nothing is forgotten. */
int chat_forget(struct chat *c, size_t n);
void turns_free(struct turn *turns, size_t n);
int turns_copy(const struct turn *from, size_t n, struct turn **out);

/* ---- chat_commands.c ---- */

/* A line that begins with '/'; the line is changed. */
int chat_command(struct chat *c, char *line);
/* The i-th command's name; NULL behind the last. */
const char *chat_command_name(size_t i);
/* What the commands share: a failure unless there is an argument. */
int chat_need(const char *argument, const char *what);

/* ---- chat_settings.c ---- */

/* True for options that /set may change: what an answer depends on, not what was loaded. */
bool chat_may_set(enum option_id id);
int chat_set(struct chat *c, const char *argument);
int chat_show(struct chat *c, const char *argument);
int chat_spec(struct chat *c, const char *argument);
int chat_draft(struct chat *c, const char *argument);

/* ---- chat_branches.c ---- */

int chat_fork(struct chat *c, const char *name);
int chat_switch(struct chat *c, const char *name); /* "" lists */
int chat_drop(struct chat *c, const char *name);
void branches_free(struct chat *c);

/* ---- chat_file.c ---- */

/* Replaces the file in one step: a reader finds the old or the new conversation, never half of one. */
int chat_save(const struct chat *c, const char *path);
/* The file is untrusted; on any failure the conversation and its settings stay as they are. */
int chat_load(struct chat *c, const char *path);

/* ---- chat_complete.c ---- */

/* For line_open: `chat` is the struct chat. */
void chat_complete(void *chat, const char *text, struct completions *out);

#endif

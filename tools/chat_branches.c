/* Branches: conversations side by side, begun from one another, on shared cache pages. The one that goes on
 * lives in struct chat; the others wait in its list with their sessions. Settings are common to all, but for
 * the system prompt and the seed, which are part of a conversation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat.h"

static size_t find_branch(const struct chat *c, const char *name) {
    size_t i = 0;
    while (i < c->n_branches && strcmp(c->branches[i].name, name)) i++;
    return i;
}

static int list_branches(const struct chat *c) {
    if (!c->n_branches) fputs("one conversation; /fork NAME begins another from here\n", stderr);
    for (size_t i = 0; i < c->n_branches; i++) {
        size_t turns = i == c->branch ? c->n_turns : c->branches[i].n_turns;
        fprintf(stderr, "%c %-20s%zu turns\n", i == c->branch ? '*' : ' ', c->branches[i].name, turns);
    }
    return 0;
}

/* The conversation that goes on, put where it waits. */
static int park(struct chat *c) {
    struct branch *b = &c->branches[c->branch];
    const char *system = c->options->values[OPT_SYSTEM_PROMPT].text;
    char *copy = system ? strdup(system) : NULL;
    if (system && !copy) return complain_memory();
    *b = (struct branch){b->name, c->session, c->turns, c->n_turns, copy, c->seed};
    return 0;
}

/* The other way round. What is taken was in force before, so its settings hold. */
static int unpark(struct chat *c, size_t i) {
    struct branch *b = &c->branches[i];
    c->branch = i;
    c->session = b->session;
    c->turns = b->turns;
    c->n_turns = b->n_turns;
    c->seed = b->seed;
    c->stats = (outrider_stats){0};
    int code = 0;
    if (b->system)
        code = option_assign(c->options, OPT_SYSTEM_PROMPT, "system", b->system);
    else
        option_reset(c->options, OPT_SYSTEM_PROMPT);
    free(b->system);
    *b = (struct branch){.name = b->name};
    return code ? code : chat_apply(c, false);
}

static int name_branch(struct chat *c, const char *name) {
    char *copy = strdup(name);
    if (!copy) return complain_memory();
    c->branches[c->n_branches++] = (struct branch){.name = copy};
    return 0;
}

/* A copy of the conversation, on the same cache pages. */
static int copy_branch(const struct chat *c, struct branch *b) {
    CHECK(tell(outrider_session_fork(c->session, &b->session)));
    int code = turns_copy(c->turns, c->n_turns, &b->turns);
    if (code) {
        outrider_session_close(b->session);
        b->session = NULL;
        return code;
    }
    b->n_turns = c->n_turns;
    return 0;
}

int chat_fork(struct chat *c, const char *name) {
    CHECK(chat_need(name, "/fork: a NAME for the new branch"));
    if (strpbrk(name, " \t")) return complain(OUTRIDER_EINVAL, "/fork: a name is one word");
    if (!c->n_branches) CHECK(name_branch(c, "main"));
    if (find_branch(c, name) < c->n_branches)
        return complain(OUTRIDER_EINVAL, "/fork: there is a branch %s; /switch goes to it, /drop ends it",
                        name);
    if (c->n_branches == MAX_BRANCHES)
        return complain(OUTRIDER_EINVAL, "/fork: %d branches at most; /drop NAME ends one", MAX_BRANCHES);
    struct branch fresh = {0};
    CHECK(copy_branch(c, &fresh));
    int code = park(c);
    if (!code) code = name_branch(c, name);
    if (code) {
        outrider_session_close(fresh.session);
        turns_free(fresh.turns, fresh.n_turns);
        c->branches[c->branch] = (struct branch){.name = c->branches[c->branch].name};
        return code;
    }
    const struct branch *from = &c->branches[c->branch];
    struct branch *to = &c->branches[c->n_branches - 1];
    *to = (struct branch){to->name, fresh.session, fresh.turns, fresh.n_turns, NULL, c->seed};
    if (from->system && !(to->system = strdup(from->system))) complain_memory();
    fprintf(stderr, "on branch %s; /switch %s goes back\n", name, from->name);
    return unpark(c, c->n_branches - 1);
}

int chat_switch(struct chat *c, const char *name) {
    if (!*name) return list_branches(c);
    size_t i = find_branch(c, name);
    if (i == c->n_branches)
        return complain(OUTRIDER_EINVAL, "/switch: no branch %s; /switch alone lists them", name);
    if (i != c->branch) {
        CHECK(park(c));
        CHECK(unpark(c, i));
    }
    fprintf(stderr, "on branch %s: %zu turns\n", name, c->n_turns);
    return 0;
}

static void branch_free(struct branch *b) {
    outrider_session_close(b->session);
    turns_free(b->turns, b->n_turns);
    free(b->system);
    free(b->name);
}

int chat_drop(struct chat *c, const char *name) {
    CHECK(chat_need(name, "/drop: the NAME of a branch"));
    size_t i = find_branch(c, name);
    if (i == c->n_branches)
        return complain(OUTRIDER_EINVAL, "/drop: no branch %s; /switch alone lists them", name);
    if (i == c->branch)
        return complain(OUTRIDER_EINVAL, "/drop: you are on %s; /switch to another branch first", name);
    branch_free(&c->branches[i]);
    memmove(&c->branches[i], &c->branches[i + 1], (--c->n_branches - i) * sizeof c->branches[0]);
    if (c->branch > i) c->branch--;
    fprintf(stderr, "branch %s is gone\n", name);
    return 0;
}

void branches_free(struct chat *c) {
    for (size_t i = 0; i < c->n_branches; i++) branch_free(&c->branches[i]);
    c->n_branches = 0;
}

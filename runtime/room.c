/* Room in the cache: who has pages and who waits, when the pool is smaller than all sessions together.
 *
 * Served in the order in which their answers began. A session that needs pages takes them, when none is free,
 * from those that can do without: first from sessions that do not ride in this round, the one that rode
 * longest ago; then from the youngest that does. Whoever loses its pages loses no token: it reads them again
 * when there is room, each by the product that read it first (scheduler.c), so that its text is the
 * same. The pool holds a session of full length, so the oldest always gets on, and so everyone in turn.
 *
 * A session without a place starts only when all its tokens fit beside what the others may soon need, for to
 * be sent away again costs more than to wait. */
#include "runtime/engine.h"

/* Gives back what the session holds; the tokens stay. */
static void send_away(outrider_session *s) {
    kv_truncate(s->engine->kv, s->slot, 0);
    s->admitted = false;
}

static bool rides(const outrider_session *s) {
    return s->rode == s->engine->clock;
}

/* Who gives its pages to s: NULL when all who hold any are older. */
static outrider_session *victim_for(const outrider_session *s) {
    outrider_session *victim = NULL;
    for (outrider_session *o = s->engine->sessions; o; o = o->next) {
        if (o == s || kv_pages_held(s->engine->kv, o->slot) == 0) continue;
        if (rides(o) && o->born < s->born) continue;
        bool sooner = !victim                     ? true
                      : rides(o) != rides(victim) ? !rides(o)
                      : rides(o)                  ? o->born > victim->born
                                                  : o->rode < victim->rode;
        if (sooner) victim = o;
    }
    return victim;
}

outrider_status room_reserve(outrider_session *s, outrider_which which, int32_t n) {
    outrider_status status;
    while ((status = kv_reserve(s->engine->kv, s->slot, which, n)) != OUTRIDER_OK) {
        outrider_session *victim = victim_for(s);
        if (!victim) return status;
        send_away(victim);
    }
    return OUTRIDER_OK;
}

bool room_admit(outrider_session *s, bool first) {
    outrider_engine *e = s->engine;
    if (s->admitted || first) return s->admitted = true;
    int32_t free = kv_pages_free(e->kv) + kv_pages_held(e->kv, s->slot);
    for (const outrider_session *o = e->sessions; o; o = o->next) {
        if (o == s) continue;
        if (!rides(o)) free += kv_pages_held(e->kv, o->slot);
        if (rides(o) && o->admitted) free--; /* its next page */
    }
    int32_t most = s->n + OUTRIDER_MAX_DRAFT + 1;
    return s->admitted = kv_pages_for(e->kv, most < e->ctx_size ? most : e->ctx_size) <= free;
}

outrider_status room_measure(outrider_session *s) {
    outrider_status status;
    while ((status = outrider_engine_measure(s->engine)) == OUTRIDER_ENOMEM) {
        outrider_session *victim = victim_for(s);
        if (!victim) return OUTRIDER_OK;
        send_away(victim);
    }
    return status;
}

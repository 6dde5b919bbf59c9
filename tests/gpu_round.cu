/* Sampling and acceptance on the card against the host's, which must agree in every token and every bit of the
 * distributions: each knob alone and all together, the three rules, sessions side by side, ties, and logits
 * that leave no token. Argument: `brief` for tools that make everything slow. */
#include "tests/helpers_gpu.cuh"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

extern "C" {
#include "runtime/sampler.h"
}

static int failures;

static uint64_t state = 7;
static float uniform() { /* -1 to 1 */
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)(int32_t)(state >> 32) / 2147483648.f;
}
static int below(int n) {
    return std::min((int)((uniform() + 1) / 2 * n), n - 1);
}

/* ---- settings ---- */

static outrider_settings plain_settings() {
    outrider_settings s = {};
    s.temperature = s.top_p = s.repeat_penalty = 1;
    s.repeat_last_n = 64;
    return s;
}

static std::vector<outrider_settings> all_settings() {
    static const outrider_logit_bias bias[] = {{3, 4}, {17, -INFINITY}, {90, 2.5f}, {3, -1}};
    std::vector<outrider_settings> all(11, plain_settings());
    all[1].temperature = .3f;
    all[2].top_k = 40;
    all[3].top_p = .9f;
    all[4].min_p = .05f;
    all[5].repeat_penalty = 1.3f, all[5].repeat_last_n = 3;
    all[6].presence_penalty = .4f, all[6].frequency_penalty = .2f, all[6].repeat_last_n = -1;
    all[7].logit_bias = bias, all[7].n_logit_bias = 4;
    all[8].temperature = 0, all[8].repeat_penalty = 1.1f;
    all[9].temperature = 1.5f, all[9].top_k = 300, all[9].top_p = .5f;
    all[10] = all[9];
    all[10].top_p = .95f, all[10].min_p = .02f, all[10].repeat_penalty = 1.1f, all[10].presence_penalty = .1f;
    all[10].logit_bias = bias, all[10].n_logit_bias = 4;
    return all;
}

/* ---- a round, of sessions whose logits are made up ---- */

struct session {
    outrider_settings settings;
    struct sampler sampler;
    std::vector<int32_t> tokens, proposed;
    int k;
    bool certain;
    std::vector<int> row;
    std::vector<std::vector<float>> draft, verifier; /* [k][vocab], [k + 1][vocab] */
    std::vector<std::vector<float>> q, p;            /* dense, by the host */
    struct accepted accepted;
};

/* Some logits in steps, for ties; a verifier much like the draft, for runs that stay. */
static void make_logits(struct session &s, int vocab, int kind) {
    for (int i = 0; i <= s.k; i++) {
        std::vector<float> draft(vocab), verifier(vocab);
        const int step = below(3) ? 0 : 2;
        for (int v = 0; v < vocab; v++) {
            const float l = 6 * uniform() + 5 * uniform() * uniform() * uniform();
            draft[v] = step ? roundf(l * step) / step : l;
            verifier[v] = draft[v] + (step ? (float)below(2) : .3f * uniform());
        }
        for (int j = 0; j < 4; j++) draft[below(vocab)] = verifier[below(vocab)] = NAN;
        if (kind == 1) verifier[below(vocab)] = INFINITY;
        if (kind == 2 && i == s.k) std::fill(verifier.begin(), verifier.end(), -INFINITY);
        if (kind == 3) std::fill(draft.begin(), draft.end(), NAN);
        if (kind == 4) std::fill(verifier.begin(), verifier.end(), NAN);
        if (i < s.k) s.draft.push_back(draft);
        s.verifier.push_back(verifier);
    }
}

struct listed {
    std::vector<int32_t> id;
    std::vector<float> p;
    struct distribution d;
    listed(int vocab) : id(vocab), p(vocab) {
        d = {0, id.data(), p.data()};
    }
};
static std::vector<float> dense(const struct distribution &d, int vocab) {
    std::vector<float> out(vocab);
    for (int i = 0; i < d.n; i++) out[d.id[i]] = d.p[i];
    return out;
}

/* The round as runtime/draft.c and runtime/scheduler.c have it. */
static void host_round(struct session &s, int vocab) {
    const outrider_settings &set = s.settings;
    const bool equality = set.accept == OUTRIDER_ACCEPT_COUPLED || set.temperature == 0;
    const int n = (int)s.tokens.size();
    std::vector<listed> q(s.k, listed(vocab)), p(s.k + 1, listed(vocab));
    std::vector<float> scratch(vocab);
    auto history = s.tokens;
    for (auto &l : q) l.d = {0, l.id.data(), l.p.data()}; /* copies point into what they were copied from */
    for (auto &l : p) l.d = {0, l.id.data(), l.p.data()};
    for (int i = 0; i < s.k; i++) {
        struct distribution *d = &q[i].d;
        if (s.certain)
            distribution_set(d, s.proposed[i]);
        else if (sampler_distribution(&s.sampler, s.draft[i].data(), history.data(), history.size(), d))
            distribution_set(d, 0);
        if (!s.certain)
            s.proposed[i] = equality
                                ? sampler_gumbel_pick(set.seed, n + i, d)
                                : distribution_draw(d, rng_uniform(set.seed, RNG_PROPOSE, n + i, n));
        s.q.push_back(dense(*d, vocab));
        history.push_back(s.proposed[i]);
    }
    int k = s.k;
    s.accepted = {-1, -1};
    for (int i = 0; i <= k; i++) {
        if (sampler_distribution(&s.sampler, s.verifier[i].data(), history.data(), n + i, &p[i].d)) {
            if (i == 0) return;
            k = i - 1;
            break;
        }
        s.p.push_back(dense(p[i].d, vocab));
    }
    std::vector<struct distribution> qs, ps;
    for (auto &l : q) qs.push_back(l.d);
    for (auto &l : p) ps.push_back(l.d);
    if (equality) {
        std::vector<int32_t> picks;
        for (int i = 0; i <= k; i++) picks.push_back(sampler_gumbel_pick(set.seed, n + i, &ps[i]));
        s.accepted = accept_equal(k, s.proposed.data(), picks.data());
        return;
    }
    std::vector<double> u;
    for (int i = 0; i < k; i++) u.push_back(rng_uniform(set.seed, RNG_ACCEPT, n + i, n));
    s.accepted = (set.accept == OUTRIDER_ACCEPT_BLOCK ? accept_block : accept_rejection)(
        k, s.proposed.data(), qs.data(), ps.data(), u.data(), rng_uniform(set.seed, RNG_FINAL, n, n),
        scratch.data());
}

static struct session make_session(outrider_settings settings, int vocab, int k, int kind) {
    struct session s = {};
    s.settings = settings;
    s.settings.seed = state;
    must(sampler_create(&s.settings, vocab, &s.sampler));
    s.k = k;
    s.certain = k > 0 && kind == 5;
    s.proposed.resize(k);
    for (int32_t &t : s.proposed) t = below(vocab);
    for (int i = 1 + below(90); i > 0; i--) s.tokens.push_back(below(std::min(vocab, 100)));
    make_logits(s, vocab, kind);
    host_round(s, vocab);
    return s;
}

/* ---- the same on the card ---- */

static struct trial trial_of(const struct session &s, std::vector<int32_t> &extra) {
    const outrider_settings &set = s.sampler.s;
    struct trial t = {};
    t.temperature = set.temperature, t.top_p = set.top_p, t.min_p = set.min_p, t.top_k = set.top_k;
    t.repeat_penalty = set.repeat_penalty, t.presence_penalty = set.presence_penalty;
    t.frequency_penalty = set.frequency_penalty;
    t.rule = set.accept, t.seed = set.seed, t.place = (int32_t)s.tokens.size(), t.k = s.k;
    t.certain = s.certain;
    t.window = std::min(sampler_window(&s.sampler), t.place + s.k);
    t.n_history = std::min(t.window, t.place);
    t.bias = (int32_t)extra.size(), t.n_bias = (int32_t)set.n_logit_bias;
    for (int i = 0; i < t.n_bias; i++) extra.push_back(set.logit_bias[i].token);
    for (int i = 0; i < t.n_bias; i++) {
        int32_t bits;
        memcpy(&bits, &set.logit_bias[i].bias, 4);
        extra.push_back(bits);
    }
    t.history = (int32_t)extra.size();
    extra.insert(extra.end(), s.tokens.end() - t.n_history, s.tokens.end());
    for (int j = 0; j <= s.k; j++) t.row[j] = s.row[j];
    return t;
}

template <typename T> static std::vector<T> from_device(const T *p, size_t n) {
    std::vector<T> host(n);
    must(ops->download(be, host.data(), p, n * sizeof(T)));
    return host;
}
static float *logits_on_device(const std::vector<const std::vector<float> *> &rows) {
    std::vector<float> all;
    for (auto *row : rows) all.insert(all.end(), row->begin(), row->end());
    return on_device(all);
}

static bool same_row(const std::vector<float> &got, int row, const std::vector<float> &want) {
    return memcmp(&got[row * want.size()], want.data(), want.size() * 4) == 0;
}

/* Runs the round of sessions that stand in order of falling k, those with certain proposals last. */
static std::string card_round(std::vector<struct session> &sessions, int vocab) {
    int rows = 0, most = 0;
    for (auto &s : sessions) most = std::max(most, s.k);
    for (int block = 0; block <= most; block++)
        for (auto &s : sessions)
            if (block <= s.k) s.row.push_back(rows++);
    std::vector<int32_t> extra(1), tokens(rows, -1);
    std::vector<struct trial> trials;
    std::vector<const std::vector<float> *> verifier(rows);
    for (auto &s : sessions) {
        trials.push_back(trial_of(s, extra));
        for (int j = 0; j <= s.k; j++) verifier[s.row[j]] = &s.verifier[j];
        for (int j = 0; j < s.k && s.certain; j++) tokens[s.row[j + 1]] = s.proposed[j];
    }
    struct trial *trials_device = on_device(trials);
    int32_t *extra_device = on_device(extra), *token = on_device(tokens);
    std::vector<float> poison((size_t)rows * vocab, NAN);
    float *q = on_device(poison), *p = on_device(poison), *logits = logits_on_device(verifier);
    struct verdict *verdicts = (struct verdict *)on_device(std::vector<int32_t>(2 * sessions.size(), -7));

    for (int step = 0; step < most; step++) {
        std::vector<const std::vector<float> *> draft;
        for (auto &s : sessions)
            if (s.k > step && !s.certain) draft.push_back(&s.draft[step]);
        if (draft.empty()) break;
        float *l = logits_on_device(draft);
        ops->propose(be, trials_device, extra_device, (int32_t)draft.size(), step, l, vocab, token, q);
        must(ops->sync(be));
        ops->release(be, l);
    }
    ops->judge(be, trials_device, extra_device, (int32_t)trials.size(), most, logits, vocab, token, q, p,
               verdicts);
    auto got_q = from_device(q, poison.size()), got_p = from_device(p, poison.size());
    auto got_token = from_device(token, tokens.size());
    auto got = from_device(verdicts, sessions.size());
    for (void *device : {(void *)trials_device, (void *)extra_device, (void *)token, (void *)q, (void *)p,
                         (void *)logits, (void *)verdicts})
        ops->release(be, device);

    for (size_t i = 0; i < sessions.size(); i++) {
        const struct session &s = sessions[i];
        const std::string who = "session " + std::to_string(i) + " of " + std::to_string(sessions.size());
        for (int j = 0; j < s.k && !s.certain; j++) {
            if (!same_row(got_q, s.row[j + 1], s.q[j])) return who + ": q of step " + std::to_string(j);
            if (got_token[s.row[j + 1]] != s.proposed[j]) return who + ": proposal " + std::to_string(j);
        }
        for (size_t j = 0; j < s.p.size(); j++)
            if (!same_row(got_p, s.row[j], s.p[j])) return who + ": p of place " + std::to_string(j);
        if (got[i].n != s.accepted.n || got[i].token != s.accepted.token)
            return who + ": kept " + std::to_string(got[i].n) + ", " + std::to_string(got[i].token) +
                   " instead of " + std::to_string(s.accepted.n) + ", " + std::to_string(s.accepted.token);
    }
    return "";
}

/* ---- cases ---- */

static int64_t n_proposed, n_kept;

static void check_round(const char *what, int vocab, const std::vector<outrider_settings> &settings,
                        const std::vector<int> &ks, int kind, int repeats) {
    std::string wrong;
    for (int i = 0; i < repeats && wrong.empty(); i++) {
        std::vector<struct session> sessions;
        for (size_t j = 0; j < settings.size(); j++)
            sessions.push_back(make_session(settings[j], vocab, ks[j % ks.size()], kind));
        wrong = card_round(sessions, vocab);
        for (auto &s : sessions) {
            n_proposed += s.k;
            n_kept += std::max(s.accepted.n, 0);
            sampler_destroy(&s.sampler);
        }
    }
    printf("%s round of %s, vocabulary %d, %zu sessions, K = %d%s%s\n", wrong.empty() ? "ok  " : "FAIL", what,
           vocab, settings.size(), ks[0], wrong.empty() ? "" : ": ", wrong.c_str());
    failures += !wrong.empty();
}

int main(int argc, char **argv) {
    const bool brief = argc > 1 && !strcmp(argv[1], "brief");
    static const char *const rules[] = {"rejection", "block", "coupled"};
    static const char *const kinds[] = {"plain logits", "an infinite logit", "no token at the end",
                                        "a draft of NaN", "a verifier of NaN", "certain proposals"};
    open_card();
    auto settings = all_settings();
    for (int vocab : brief ? std::vector<int>{333} : std::vector<int>{101, 1000, 8192, 128256})
        for (int rule = OUTRIDER_ACCEPT_REJECTION; rule <= OUTRIDER_ACCEPT_COUPLED; rule++) {
            for (auto &s : settings) s.accept = (outrider_accept_rule)rule;
            const int repeats = brief ? 1 : vocab > 8192 ? 2 : 12;
            check_round(rules[rule], vocab, settings, {4}, 0, repeats);
            if (vocab > 8192) continue;
            check_round(rules[rule], vocab, {settings[10]}, {0}, 0, repeats);
            check_round(rules[rule], vocab, {settings[0]}, {16}, 0, repeats);
            check_round(rules[rule], vocab, settings, {5, 5, 5, 3, 3, 2, 1, 1, 0, 0, 0}, 0, repeats);
            for (int kind = 1; kind < 6; kind++)
                check_round((std::string(rules[rule]) + ", " + kinds[kind]).c_str(), vocab,
                            {settings[0], settings[10], settings[2]}, {3}, kind, repeats);
        }
    printf("%lld of %lld proposals kept\n", (long long)n_kept, (long long)n_proposed);
    must(ops->sync(be));
    ops->close(be);
    printf("%d failed\n", failures);
    return failures > 0;
}

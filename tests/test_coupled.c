/* The coupled rule's promise: a seed has one text, whatever K, batch and drafters, and with no draft at all.
 *
 * 200 prompts cut from the held-out text, K from 0 to 8 and automatic, batches of 1 to 16, and to each pair
 * of K and batch one of three seeds. The quick form takes each K once, with few prompts; COUPLED=full takes
 * all pairs (make coupled), COUPLED_PART=i/n every n-th of them, to share them among n processes (best a
 * multiple of the seeds, each of which needs its plain texts). How many texts were compared and how many
 * differ is said at the end. */
#include "tests/helpers_batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROMPTS = 200,
    PROMPT_BYTES = 120,
    MAX_TOKENS = 128,
    CONTEXT = 256,
    MAX_BATCH = 16,
    SEEDS = 3,
    PAIRS = 10 * MAX_BATCH
};

struct text {
    int32_t token[CONTEXT];
    size_t n;
};

static char prompts[PROMPTS][PROMPT_BYTES + 1];
static int n_prompts = 12, n_tokens = 24, n_compared, n_differ;

/* Prompt i begins at the first word of the i-th of equal parts of the text. */
static int cut_prompts(void **state) {
    (void)state;
    static char all[200000];
    FILE *f = fopen("tests/data/held-out.txt", "rb");
    if (!f) return -1;
    size_t bytes = fread(all, 1, sizeof all, f);
    fclose(f);
    for (size_t i = 0; i < PROMPTS; i++) {
        const char *word = memchr(all + i * (bytes / (PROMPTS + 1)), ' ', PROMPT_BYTES);
        if (!word) return -1;
        memcpy(prompts[i], word + 1, PROMPT_BYTES);
        char *last = strrchr(prompts[i], ' ');
        if (last) *last = 0;
    }
    return 0;
}

/* Settings differ from seed to seed, so that filters and penalties have their turn. */
static outrider_settings settings_of(uint64_t seed, int32_t k) {
    outrider_settings s = outrider_settings_defaults(NULL);
    s.accept = OUTRIDER_ACCEPT_COUPLED, s.seed = seed, s.draft_n = k;
    s.n_predict = n_tokens, s.ignore_eos = true;
    s.temperature = seed % 2 ? 0.8f : 1.1f, s.top_k = seed % 2 ? 0 : 40, s.top_p = seed % 2 ? 1 : 0.95f;
    s.repeat_penalty = seed % 2 ? 1 : 1.1f;
    return s;
}

static void write_all(outrider_engine *e, uint64_t seed, int32_t k, int batch, struct text *out) {
    for (int first = 0; first < n_prompts; first += batch) {
        outrider_session *s[MAX_BATCH];
        int n = first + batch <= n_prompts ? batch : n_prompts - first;
        for (int i = 0; i < n; i++) {
            outrider_settings own = settings_of(seed, k);
            OK(outrider_session_open(e, &own, &s[i]));
            OK(outrider_session_append_text(s[i], prompts[first + i], strlen(prompts[first + i])));
        }
        write_to_the_end(s, (size_t)n);
        for (int i = 0; i < n; i++) {
            const int32_t *tokens = outrider_session_tokens(s[i], &out[first + i].n);
            memcpy(out[first + i].token, tokens, out[first + i].n * sizeof *tokens);
            outrider_session_close(s[i]);
        }
    }
    expect_no_page_leaked(e);
}

static void compare(outrider_engine *e, uint64_t seed, int32_t k, int batch, const struct text *plain) {
    static struct text got[PROMPTS];
    write_all(e, seed, k, batch, got);
    for (int i = 0; i < n_prompts; i++, n_compared++) {
        if (got[i].n == plain[i].n &&
            memcmp(got[i].token, plain[i].token, plain[i].n * sizeof *plain[i].token) == 0)
            continue;
        n_differ++;
        print_error("seed %llu, prompt %d: another text with K %d and batch %d\n", (unsigned long long)seed,
                    i, k, batch);
    }
}

/* The quick form takes another batch for each K. */
static bool is_mine(int pair, bool full, int part, int parts) {
    const int k = pair / MAX_BATCH, batch = pair % MAX_BATCH;
    return full ? pair % parts == part : batch == (k + 1) * 3 % MAX_BATCH;
}

static void a_seed_has_one_text(void **state) {
    (void)state;
    static const uint64_t seeds[SEEDS] = {7, 0xfedcba9876543210u, 3};
    static struct text plain[PROMPTS];
    const char *form = getenv("COUPLED"), *part = getenv("COUPLED_PART");
    const bool full = form && strcmp(form, "full") == 0;
    int mine = 0, parts = 1;
    if (part && (sscanf(part, "%d/%d", &mine, &parts) != 2 || parts < 1))
        fail_msg("COUPLED_PART is i/n, not %s", part);
    if (full) n_prompts = PROMPTS, n_tokens = MAX_TOKENS;

    outrider_engine_options o = outrider_engine_defaults();
    outrider_engine *e;
    o.model = "weights/tale/verifier", o.draft = "weights/tale/draft", o.device = "cpu";
    o.threads = full ? 1 : 2, o.max_sessions = MAX_BATCH, o.ctx_size = CONTEXT;
    OK(outrider_engine_open(&o, &e));
    for (int i = 0; i < SEEDS; i++) {
        bool has_plain = false;
        for (int pair = i; pair < PAIRS; pair += SEEDS) {
            const int32_t k = pair / MAX_BATCH - 1;
            const int batch = pair % MAX_BATCH + 1;
            if (!is_mine(pair, full, mine, parts)) continue;
            if (!has_plain) write_all(e, seeds[i], 0, 1, plain);
            has_plain = true;
            compare(e, seeds[i], k, batch, plain);
            if (full)
                fprintf(stderr, "\rK %d, batch %d: %d texts compared, %d differ ", k, batch, n_compared,
                        n_differ);
        }
    }
    print_message("%d texts compared, %d differ\n", n_compared, n_differ);
    assert_int_equal(n_differ, 0);
    assert_true(n_compared > 0);
    outrider_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_seed_has_one_text)};
    return cmocka_run_group_tests(tests, cut_prompts, NULL);
}

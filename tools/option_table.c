/* The option table: one entry an option, in the order in which help shows them. A new option is an id in
 * options.h and a row here; parsing, environment, configuration file, help, manual and completions follow. */
#include "tools/options.h"

#include "tools/tools.h"

#define CMD_LOADS (CMD_RUN | CMD_CHAT | CMD_BENCH | CMD_EVAL | CMD_CHECK)
#define CMD_WRITES (CMD_RUN | CMD_CHAT | CMD_BENCH)
#define CMD_TEXT (CMD_RUN | CMD_CHAT)

static const char of_model[] = "the model's own";

/* clang-format off */
static const struct option_spec table[N_OPTIONS] = {
    [OPT_MODEL] = {"model", "m", NULL, KIND_TEXT, CMD_ALL | CMD_CONVERT, "model", "MODEL",
        .shown = "the shipped pair",
        .help = "the model that writes the text, the verifier: a folder, a GGUF file, or ORG/NAME in the local "
        "Hugging Face cache (ORG/NAME:Q4_K_M for one of several GGUF files)"},
    [OPT_MODEL_DRAFT] = {"model-draft", "md", "draft-model spec-draft-model", KIND_TEXT,
        CMD_WRITES | CMD_INSPECT | CMD_CHECK, "model", "MODEL", .shown = "none; with the shipped pair its draft",
        .help = "the small model that proposes, named likewise; its vocabulary must equal the verifier's"},
    [OPT_CTX_SIZE] = {"ctx-size", "c", NULL, KIND_INT, CMD_ALL, "model", "N", 0, INT32_MAX,
        .shown = "what the models know, up to 8192",
        .help = "tokens that a session can hold; 0 for the default"},
    [OPT_DEVICE] = {"device", NULL, NULL, KIND_TEXT, CMD_LOADS, "model", "NAME", .shown = "auto",
        .help = "auto, cpu, cpu:avx2 (an instruction set), cuda, cuda:1 (a card)"},
    [OPT_THREADS] = {"threads", "t", NULL, KIND_INT, CMD_LOADS, "model", "N", 0, 256, .shown = "one a core",
        .help = "processor threads; 0 for one a core"},
    [OPT_CACHE_TYPE] = {"cache-type", "ctk", "cache-type-k", KIND_CHOICE, CMD_ALL, "model", "f16|f32|q8|q8_0",
        .initial = "f16", .help = "number format of the cache of keys and values; q8 takes 53% of f16: 8 bits and, "
        "for each 32, a scale"},
    [OPT_CACHE_TYPE_V] = {"cache-type-v", "ctv", NULL, KIND_CHOICE, CMD_ALL, "model", "f16|f32|q8|q8_0",
        .shown = "that of the keys", .help = "the same of values alone, on the processor"},
    [OPT_QUANT] = {"quant", NULL, NULL, KIND_CHOICE, CMD_ALL & ~CMD_EVAL, "model", "none|q8|q4|fp8", .initial = "none",
        .help = "hold the model's matrices in about 8 or 4 bits a weight, quantised as they are loaded; fp8 is 8-bit "
        "floats, on the processor only"},
    [OPT_EVAL_QUANT] = {"quant", NULL, NULL, KIND_TEXT, CMD_EVAL, "model", "LIST", .initial = "none",
        .help = "hold the model's matrices as the file has them (none), in about 8 or 4 bits (q8, q4, fp8); "
        "each of several, such as none,q8,q4, is compared with the first"},
    [OPT_EVAL_AB] = {"ab", NULL, NULL, KIND_LIST, CMD_EVAL, "model", "A B", .values = 2,
        .help = "compare two models, or two sets of options in quotes: --ab a.gguf '-m b/ --quant q4'"},
    [OPT_DRAFT_QUANT] = {"draft-quant", NULL, NULL, KIND_CHOICE, CMD_WRITES | CMD_INSPECT | CMD_CHECK,
        "model", "none|q8|q4|fp8", .initial = "none",
        .help = "the same for the draft; changes the speed, never what the verifier writes"},
    [OPT_PAGE_SIZE] = {"page-size", NULL, NULL, KIND_INT, CMD_LOADS, "model", "N", 16, 256,
        .shown = "chosen by the engine", .help = "tokens in a page of the cache: 16, 32, 64, 128 or 256"},
    [OPT_CACHE_TOKENS] = {"cache-tokens", NULL, NULL, KIND_INT, CMD_TEXT, "model", "N", 0, INT32_MAX,
        .shown = "chat: one context and up to 8192 more; --batch: a context for each at once",
        .help = "tokens that the cache holds for all branches of a conversation or prompts of --batch; with "
        "fewer, the youngest prompts wait"},
    [OPT_SANDBOX] = {"sandbox", NULL, NULL, KIND_CHOICE, CMD_ALL | CMD_CONVERT, "model",
        "auto|on|off", .initial = "auto", .help = "once the models are loaded, let the kernel refuse what "
        "the work does not need (files to write, programs, the network); auto: where the kernel can"},

    [OPT_PROMPT] = {"prompt", "p", NULL, KIND_TEXT, CMD_RUN, "prompt", "TEXT",
        .help = "text to go on from; - reads standard input"},
    [OPT_FILE] = {"file", "f", NULL, KIND_TEXT, CMD_RUN | CMD_EVAL, "prompt", "FILE",
        .help = "a file with the text; - reads standard input. Before the text of --prompt"},
    [OPT_IN_PREFIX] = {"in-prefix", NULL, NULL, KIND_TEXT, CMD_RUN, "prompt", "TEXT",
        .help = "text in front of what is piped in and of the file"},
    [OPT_BATCH] = {"batch", NULL, NULL, KIND_TEXT, CMD_RUN, "prompt", "FILE",
        .help = "many prompts, a line {\"prompt\": \"...\", \"n_predict\": 64, ...} each; - reads standard input. "
        "Fields override the options; the result is a line of JSON each, in the same order"},
    [OPT_PARALLEL] = {"parallel", "np", NULL, KIND_INT, CMD_RUN, "prompt", "N", 1, 1024, .initial = "8",
        .help = "prompts of --batch that are answered at once"},
    [OPT_SYSTEM_PROMPT] = {"system-prompt", "sys", NULL, KIND_TEXT, CMD_CHAT, "prompt", "TEXT",
        .help = "what the model is told before the conversation"},
    [OPT_CHAT_TEMPLATE] = {"chat-template", NULL, NULL, KIND_TEXT, CMD_CHAT, "prompt", "NAME|FILE",
        .shown = "as the model says",
        .help = "how turns are written: chatml, llama2, llama3, qwen3, mistral, gemma, phi3, zephyr, tale, "
        "or a file with a template in Jinja"},

    [OPT_PREDICT] = {"predict", "n", "n-predict", KIND_INT, CMD_TEXT, "length", "N", -1, INT32_MAX,
        .initial = "-1", .help = "most tokens to write; -1 until the text or the context ends"},
    [OPT_STOP] = {"stop", NULL, NULL, KIND_LIST, CMD_TEXT, "length", "TEXT",
        .help = "a text that ends the answer and is not part of it; may be given several times"},
    [OPT_IGNORE_EOS] = {"ignore-eos", NULL, NULL, KIND_FLAG, CMD_TEXT, "length",
        .help = "go on when the model ends its text"},

    [OPT_SEED] = {"seed", "s", NULL, KIND_INT, CMD_WRITES, "sampling", "N", -1, 9007199254740991.0,
        .initial = "-1", .help = "start of the random numbers; -1 for a new one each time"},
    [OPT_TEMP] = {"temp", NULL, "temperature", KIND_NUMBER, CMD_WRITES, "sampling", "T", 0, 100,
        .shown = of_model, .help = "0 takes the likeliest token each time; bench takes 0 unless told"},
    [OPT_TOP_K] = {"top-k", NULL, NULL, KIND_INT, CMD_WRITES, "sampling", "K", 0, INT32_MAX,
        .shown = of_model, .help = "keep the K likeliest tokens; 0 keeps all"},
    [OPT_TOP_P] = {"top-p", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "P", 0, 1,
        .shown = of_model, .help = "keep the likeliest tokens up to this share; 1 keeps all"},
    [OPT_MIN_P] = {"min-p", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "P", 0, 1,
        .shown = of_model, .help = "drop tokens less likely than this share of the likeliest; 0 keeps all"},
    [OPT_REPEAT_PENALTY] = {"repeat-penalty", NULL, "repetition-penalty", KIND_NUMBER, CMD_WRITES, "sampling",
        "X", 0.01, 100, .shown = of_model, .help = "weaken tokens seen of late; 1 is off"},
    [OPT_REPEAT_LAST_N] = {"repeat-last-n", NULL, NULL, KIND_INT, CMD_WRITES, "sampling", "N", -1, INT32_MAX,
        .shown = of_model, .help = "tokens that the penalties look back on; -1 for all"},
    [OPT_PRESENCE_PENALTY] = {"presence-penalty", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "X",
        -100, 100, .shown = of_model, .help = "taken from the logit of each token seen of late; 0 is off"},
    [OPT_FREQUENCY_PENALTY] = {"frequency-penalty", NULL, NULL, KIND_NUMBER, CMD_WRITES, "sampling", "X",
        -100, 100, .shown = of_model, .help = "the same, times how often it was seen; 0 is off"},
    [OPT_LOGIT_BIAS] = {"logit-bias", "l", NULL, KIND_LIST, CMD_WRITES, "sampling", "ID=BIAS",
        .help = "added to the logit of a token; -inf forbids it. Also ID+BIAS and ID-BIAS; may be repeated"},

    [OPT_SPEC_TYPE] = {"spec-type", NULL, NULL, KIND_CHOICE, CMD_WRITES, "speculation",
        "auto|draft|ngram|self|none", .initial = "auto", .several = true,
        .help = "who proposes tokens: the draft model; ngram, what followed the same words earlier; self, the "
        "model's own first layers; several with commas between, as it pays; auto, all that there are"},
    [OPT_SELF_LAYERS] = {"self-layers", NULL, NULL, KIND_INT, CMD_WRITES, "speculation", "N", 1, 1 << 16,
        .shown = "half with --spec-type self, else none",
        .help = "the model's own first N layers draft, without a draft model or beside it"},
    [OPT_SPEC_DRAFT_N_MAX] = {"spec-draft-n-max", NULL, "draft-max draft draft-n num-draft-tokens", KIND_INT,
        CMD_TEXT, "speculation", "K", -1, OUTRIDER_MAX_DRAFT, .initial = "-1", .shown = "auto",
        .help = "tokens proposed in a round; 0 for plain decoding, -1 or auto to let the engine choose"},
    [OPT_SPEC_TREE] = {"spec-tree", NULL, NULL, KIND_FLAG, CMD_WRITES, "speculation",
        .help = "with temperature 0, the draft model may propose a tree of up to 15 tokens, K the levels"},
    [OPT_SPEC_ACCEPT] = {"spec-accept", NULL, NULL, KIND_CHOICE, CMD_TEXT, "speculation",
        "rejection|block|coupled", .initial = "block", .shown = "block; coupled when a seed is given",
        .help = "acceptance rule when sampling; coupled gives one text per seed whatever the draft"},
    [OPT_REPRODUCIBLE] = {"reproducible", NULL, NULL, KIND_FLAG, CMD_WRITES, "speculation",
        .help = "the same as --spec-accept coupled, whatever else says otherwise"},

    [OPT_CHECK_PREDICT] = {"predict", "n", "n-predict", KIND_INT, CMD_CHECK | CMD_EVAL, "measurement", "N", 8, 1 << 20,
        .initial = "64", .help = "tokens of an answer, of eval at most"},
    [OPT_BENCH_N_PROMPT] = {"n-prompt", "p", NULL, KIND_TEXT, CMD_BENCH, "measurement", "LIST",
        .initial = "512", .help = "prompt lengths to time, such as 128,512; 0 for none"},
    [OPT_BENCH_N_GEN] = {"n-gen", "n", NULL, KIND_TEXT, CMD_BENCH, "measurement", "LIST", .initial = "128",
        .help = "numbers of tokens to write; 0 for none"},
    [OPT_BENCH_DEPTH] = {"n-depth", "d", NULL, KIND_TEXT, CMD_BENCH, "measurement", "LIST", .initial = "0",
        .help = "tokens that the context already holds when a measurement begins, such as 0,512"},
    [OPT_BENCH_PARALLEL] = {"parallel", "np", NULL, KIND_TEXT, CMD_BENCH, "measurement", "LIST", .initial = "1",
        .help = "answers that are written at once, such as 1,4,16"},
    [OPT_BENCH_DRAFT_N_MAX] = {"spec-draft-n-max", NULL, "draft-max draft draft-n num-draft-tokens",
        KIND_TEXT, CMD_BENCH, "measurement", "LIST", .initial = "auto,2,4,8",
        .help = "tokens proposed in a round, such as auto,1-4,8; 0 for plain decoding alone"},
    [OPT_BENCH_ACCEPT] = {"spec-accept", NULL, NULL, KIND_TEXT, CMD_BENCH, "measurement", "LIST",
        .shown = "block; coupled when a seed is given",
        .help = "acceptance rules when sampling: rejection,block,coupled, or all"},
    [OPT_BENCH_SYNTHETIC] = {"spec-synth-accept", NULL, NULL, KIND_NUMBER, CMD_BENCH, "measurement", "R", 0, 1,
        .shown = "off", .help = "accept a share R of the proposals by drawn numbers, to time what a better or worse "
        "draft would give; the text is then not the verifier's"},
    [OPT_BENCH_SELF_SWEEP] = {"self-sweep", NULL, NULL, KIND_FLAG, CMD_BENCH, "measurement",
        .help = "find the number of the model's own first layers that drafts fastest here (for --self-layers): "
        "each with each K of --spec-draft-n-max, which is then 1,2,4 unless told"},
    [OPT_BENCH_REPETITIONS] = {"repetitions", "r", NULL, KIND_INT, CMD_BENCH, "measurement", "N", 1, 1000,
        .initial = "5", .help = "times that each measurement is taken, plain and speculative in turn"},
    [OPT_BENCH_PROMPTS] = {"prompts", NULL, NULL, KIND_TEXT, CMD_BENCH | CMD_CHECK, "measurement", "FILE",
        .shown = "eight built-in openings",
        .help = "prompts to go on from: a line {\"prompt\": \"...\"} each"},
    [OPT_EVAL_PROMPTS] = {"prompts", NULL, NULL, KIND_TEXT, CMD_EVAL, "measurement", "FILE",
        .help = "answer these too, greedily: how fast, and where the text is that of the first model; a line "
        "{\"prompt\": \"...\"} each"},
    [OPT_BENCH_CLOCK] = {"clock", NULL, NULL, KIND_CHOICE, CMD_BENCH, "measurement", "wall|cpu",
        .initial = "wall", .help = "how answers are timed: cpu is the processor time of all threads, for a machine "
        "that others use too; best with -t 1"},

    [OPT_CONVERT_OUTPUT] = {"output", "o", NULL, KIND_TEXT, CMD_CONVERT, "output", "FILE",
        .help = "what is written: NAME.gguf of a folder, or a new folder of a GGUF model"},
    [OPT_CONVERT_TYPE] = {"type", NULL, "outtype", KIND_TEXT, CMD_CONVERT, "output", "TYPE", .initial = "bf16",
        .help = "type of the matrices: f32, f16, bf16; in a GGUF file also q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, "
        "q5_k, q6_k"},
    [OPT_OUTPUT] = {"output", "o", NULL, KIND_CHOICE, CMD_BENCH, "output", "md|csv|json|jsonl",
        .initial = "md", .help = "form of the result"},
    [OPT_EVAL_OUTPUT] = {"output", "o", NULL, KIND_CHOICE, CMD_EVAL, "output", "md|json",
        .initial = "md", .help = "form of the result"},
    [OPT_JSON] = {"json", NULL, NULL, KIND_FLAG, CMD_RUN | CMD_EVAL | CMD_INSPECT | CMD_CHECK, "output",
        .help = "one JSON object on standard output"},
    [OPT_JSONL] = {"jsonl", NULL, NULL, KIND_FLAG, CMD_RUN, "output",
        .help = "a JSON object a line as the text is written: an event for each round, and one at the end"},
    [OPT_LOGPROBS] = {"logprobs", NULL, NULL, KIND_INT, CMD_RUN, "output", "N", 0, OUTRIDER_MAX_LOGPROBS,
        .initial = "0", .help = "with --json or --jsonl: the log-probability of each token and of the N likeliest"},
    [OPT_UNORDERED] = {"unordered", NULL, NULL, KIND_FLAG, CMD_RUN, "output",
        .help = "write each result of --batch as soon as it is there"},
    [OPT_NO_STREAM] = {"no-stream", NULL, NULL, KIND_FLAG, CMD_TEXT, "output",
        .help = "write the text when it is complete"},
    [OPT_SPEC_SHOW] = {"spec-show", NULL, NULL, KIND_FLAG, CMD_TEXT, "output",
        .help = "colour the text by who wrote each token: draft, earlier text, verifier"},
    [OPT_NO_HISTORY] = {"no-history", NULL, NULL, KIND_FLAG, CMD_CHAT, "output",
        .help = "neither read nor write the file of lines typed before"},
    [OPT_PROGRESS] = {"progress", NULL, NULL, KIND_FLAG, CMD_BENCH, "output",
        .help = "a line on standard error for each measurement"},
    [OPT_COLOR] = {"color", NULL, NULL, KIND_CHOICE, CMD_LOADS, "output", "auto|on|off", .initial = "auto",
        .help = "auto: on a terminal, unless NO_COLOR is set"},
    [OPT_SIMPLE_IO] = {"simple-io", NULL, NULL, KIND_FLAG, CMD_LOADS | CMD_CONVERT, "output",
        .help = "no line editing, colour or progress bar"},
    [OPT_VERBOSE] = {"verbose", "v", NULL, KIND_FLAG, CMD_LOADS, "output",
        .help = "say more on standard error: device, cache, time of each part"},
    [OPT_CONFIG] = {"config", NULL, NULL, KIND_TEXT, CMD_ALL | CMD_CONVERT, "output", "FILE",
        .shown = "outrider/config in $XDG_CONFIG_HOME or ~/.config",
        .help = "file with a line NAME = VALUE for each option to set; /dev/null for none"},
    [OPT_HELP] = {"help", "h", NULL, KIND_FLAG, CMD_ALL | CMD_CONVERT, "output",
        .help = "this help; --help=WORD shows the options that mention WORD"},
};
/* clang-format on */

const struct option_spec *option_spec(enum option_id id) {
    return &table[id];
}

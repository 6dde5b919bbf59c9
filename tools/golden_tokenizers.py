"""Makes the records of tests/test_bpe.c: small tokenizers with the structure of published families (normalizer,
pre-tokenizer pattern, added tokens, decoder), trained here, and for each the ids that the reference library
(pip install tokenizers) gives some two thousand lines.

    python tools/golden_tokenizers.py          # writes tests/golden/tokenizers

Writes lines.txt (one line of text each, with \\xHH for what a line cannot hold) and for each family a folder with
tokenizer.json, tokenizer_config.json and ids.txt: a hash of the ids of each line, then of a megabyte of each of some
characters."""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = "tests/golden/tokenizers"
PROSE = open("tests/data/held-out.txt", encoding="utf-8").read()

# ---- patterns, as the published files have them ----
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATHS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def cased(suffix):
    head = r"[^\r\n\p{L}\p{N}]?"
    return f"{head}{UPPER}*{LOWER}+{suffix}|{head}{UPPER}+{LOWER}*{suffix}"


TEKKEN = cased("") + r"|\p{N}" + PATHS
O200K = cased("(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"|\p{N}{1,3}" + PATHS
UNKNOWN = r"[A-Za-z]+(?=[^A-Z])|\p{Han}|\s|[0-9]{1,4}|(?:\p{P}|\p{S})+|."

# ---- lines ----
CODE = ["for (int i = 0; i < n; i++) sum += a[i];", "def f(x):\n    return x ** 2", "if(a&&b||!c){return 0x1F;}",
        "SELECT * FROM t WHERE id=42;", "<div class=\"x\">\t&nbsp;</div>", "x = {'k': [1, 2.5e-3]}", "a->b::c<T>();",
        "// TODO: fix\r\n\r\n", "\t\t\treturn;\n\n\n    }\n", "https://example.org/a/b?c=d#e", "C:\\dir\\file.txt",
        "HTTPServerError camelCaseName SCREAMING_SNAKE", "../..//path/./x/\n"]  # fmt: skip
WORDS = ["I'm", "you'RE", "they'll", "it'S", "'Tis", "don't", "we'Ve", "x'd", "'s", "'ſ", "’s", "naïve", "café", "Straße",
         "ǅungla", "ﬁne", "ﬆ", "İstanbul", "ΑΒΓ", "привет", "Мир", "שלום", "مرحبا", "हिन्दी", "ไทย", "한국어", "日本語", "中文",
         "テスト", "ひらがな", "𝒳𝓎𝓏", "Ⅻ", "½", "٣٤", "१२३", "①②", "x²", "10,000.50", "1234567", "00", "a1b2", "€5", "§7",
         "…", "—", "«q»", "“q”", "\u200b", "\ufeff", "\u00ad", "\u180e", "\u0085", "\u00a0", "\u2028", "\u3000", "\u2009",
         "_", "__a__", "#@!", "\\", "<|user|>", "<|endoftext|>", "</s>", "<s>", "<unk>", "<0x41>", "<|im_end|>", "<tool>",
         "<note>", "<word>", "<left>", "<right>", "▁", "▁a", "a▁b", "▁▁", "\n\n", "\t"]  # fmt: skip
EMOJI = ["👩‍🚀", "🏴‍☠️", "👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "☺", "🤷🏻‍♂️", "1️⃣", "😀😀"]
MARKS = ["e\u0301", "a\u0323\u0307", "a\u0307\u0323", "\u1100\u1161\u11a8", "q\u0307\u0323\u0304", "\u0344", "\u212b", "\u2126",
         "\uf900", "n\u0303n\u0303", "\u0301", "\u05d0\u05bc\u05b8", "o\u0302\u0323", ">\u0338", "\u0958", "\ufb1d"]  # fmt: skip


def any_character(r):
    """Assigned for long, so that every library's tables know it."""
    low, high = r.choice([(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x621, 0x64A),
                          (0x905, 0x939), (0xE01, 0xE30), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x20A0, 0x20B9),
                          (0x2100, 0x214F), (0x2190, 0x21FF), (0x2460, 0x24FF), (0x3041, 0x3096), (0x30A1, 0x30FA),
                          (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0xFB00, 0xFB06), (0xFF01, 0xFF5E), (0x1D400, 0x1D454),
                          (0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x20000, 0x2A6D6)])  # fmt: skip
    return chr(r.randint(low, high))


def one_line(r):
    kind = r.randrange(13)
    if kind < 2:
        at = r.randrange(len(PROSE) - 100)
        return PROSE[at : at + r.randint(5, 80)]
    if kind == 2:
        return r.choice(CODE) + r.choice(["", " ", "\n"]) + r.choice(CODE)[: r.randint(0, 20)]
    if kind == 3:
        return "".join(r.choice("的一是不了人我在有他这中大来上国日本語にほんごのテキスト、。！？") for _ in range(r.randint(1, 20)))
    if kind == 4:
        return "".join(r.choice(EMOJI + [" ", "a"]) for _ in range(r.randint(1, 8)))
    if kind == 5:
        return "".join(r.choice(MARKS + ["a", " ", "é"]) for _ in range(r.randint(1, 10)))
    if kind == 6:
        return "".join(chr(r.choice([*range(32), 0x7F, 0x85, 0x20, 0x61])) for _ in range(r.randint(1, 12)))
    if kind == 7:
        spaces = "".join(r.choice("    \t\n\r\u00a0\u3000") for _ in range(r.randint(1, 9)))
        return r.choice(["", "a", "1", "."]) + spaces + r.choice(["", "b", "2", "!"]) + " " * r.randint(0, 4)
    if kind == 8:
        return r.choice(["", " ", "-", "$"]) + "".join(r.choice("0123456789.,  ") for _ in range(r.randint(1, 20)))
    if kind == 9:
        return "".join(any_character(r) for _ in range(r.randint(1, 20)))
    if kind == 10:
        return " ".join(r.choice(WORDS) for _ in range(r.randint(1, 6)))
    if kind == 11:
        return "".join(r.choice(WORDS + MARKS + [" ", "  ", "\n"]) for _ in range(r.randint(1, 6)))
    return "".join(r.choice(["a", "b", "ab", " ", "é", "'", "\n", "1"]) for _ in range(r.randint(1, 30)))


def make_lines(n):
    r = random.Random(5)
    return [""] + WORDS + EMOJI + MARKS + CODE + [one_line(r) for _ in range(n)]


def escape(line):
    """What would break a line of the file, and the backslash, as \\xHH of its bytes."""
    plain = "".join(c if c >= " " and c not in "\\\x7f\x85\u2028\u2029" else
                    "".join(f"\\x{b:02x}" for b in c.encode()) for c in line)  # fmt: skip
    return plain


def hash_ids(ids):
    h = 0x811C9DC5
    for i in ids:
        for b in i.to_bytes(4, "little"):
            h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return f"{h & 0xFFFFFF:06x}"


# ---- families ----
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def train(t, size, special, alphabet):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False,
                                  limit_alphabet=len(alphabet) or 200)  # fmt: skip
    r = random.Random(7)
    text = [PROSE[i : i + 400] for i in range(0, 60000, 400)] + CODE * 3 + [one_line(r) for _ in range(2500)]
    text = [line.replace("\0", "") for line in text]  # which no published vocabulary of characters has
    t.train_from_iterator(text, trainer)


def byte_level(split, normalizer=None, ignore_merges=False, invert=False, use_regex=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    steps = [pre_tokenizers.Split(Regex(p), "removed" if invert else "isolated", invert) for p in split]
    t.pre_tokenizer = pre_tokenizers.Sequence(steps + [byte]) if steps else byte
    t.decoder = decoders.ByteLevel()
    train(t, 600, [], ALPHABET)
    return t


def with_words(t, words):
    """Whole words as pieces that no merge makes: what ignore_merges is about."""
    spec = json.loads(t.to_str())
    for word in words:
        spec["model"]["vocab"].setdefault(word, len(spec["model"]["vocab"]))
    return Tokenizer.from_str(json.dumps(spec))


def sentencepiece_like(normalizer, pre_tokenizer, decoder, byte_fallback=True):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    t.normalizer = normalizer
    if pre_tokenizer:
        t.pre_tokenizer = pre_tokenizer
    # trained on words, as sentencepiece does, so that no piece reaches over a space
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    train(trained, 500, [], [])
    spec, learned = json.loads(t.to_str()), json.loads(trained.to_str())["model"]
    vocab = ["<unk>", "<s>", "</s>"] + (BYTES if byte_fallback else [])
    vocab += [piece for piece in learned["vocab"] if piece not in vocab]
    spec["model"]["vocab"] = {piece: i for i, piece in enumerate(vocab)}
    spec["model"]["merges"] = learned["merges"]
    t = Tokenizer.from_str(json.dumps(spec))
    t.decoder = decoder
    t.add_special_tokens([AddedToken(x, normalized=False) for x in ("<unk>", "<s>", "</s>")])
    return t


ADDED = [AddedToken("<tool>", normalized=False), AddedToken("<note>", normalized=True),
         AddedToken("<word>", single_word=True, normalized=False), AddedToken("<left>", lstrip=True, normalized=False),
         AddedToken("<right>", rstrip=True, normalized=False), AddedToken("\n\n", normalized=False)]  # fmt: skip
STRIP = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def families():
    gpt2 = byte_level([], use_regex=True)
    gpt2.add_special_tokens(["<|endoftext|>"])
    llama3 = with_words(byte_level([LLAMA3], ignore_merges=True), ["ĠwatchX", "xyzzy", "Ġquux"])
    llama3.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    template = processors.TemplateProcessing("<|begin_of_text|> $A",
                                             special_tokens=[("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"))])
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    qwen2 = byte_level([QWEN2], normalizers.NFC())
    qwen2.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    qwen2.add_tokens(ADDED)
    tekken = byte_level([TEKKEN])
    o200k = byte_level([O200K], invert=True)
    other = byte_level([r"\p{N}", UNKNOWN], normalizers.NFKC())
    other.add_tokens(ADDED[:3])
    phi3 = sentencepiece_like(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None,
                              decoders.Sequence(STRIP + [decoders.Strip(" ", 1, 0)]))
    phi3.add_special_tokens([AddedToken("<|user|>", rstrip=True, normalized=False)])
    phi3.add_tokens(ADDED)
    mistral = sentencepiece_like(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                                 decoders.Sequence(STRIP + [decoders.Strip(" ", 1, 0)]))
    gemma = sentencepiece_like(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
                               decoders.Sequence(STRIP))
    gemma.add_tokens([AddedToken(x, normalized=False) for x in ("\n\n", "\n\n\n", "▁▁", "\t")])
    words = sentencepiece_like(None, pre_tokenizers.Metaspace(), decoders.Metaspace(), byte_fallback=False)
    return {"gpt2": gpt2, "llama3": llama3, "qwen2": qwen2, "tekken": tekken, "o200k": o200k, "other": other,
            "phi3": phi3, "mistral": mistral, "gemma": gemma, "words": words}  # fmt: skip


def write(name, t, lines):
    folder = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    spec = json.loads(t.to_str())
    if name in ("llama3", "gemma"):  # older files join the two sides
        spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as f:
        json.dump(spec, f, ensure_ascii=False, separators=(",", ":"))
    t = Tokenizer.from_file(f"{folder}/tokenizer.json")
    t.encode_special_tokens = True  # text never yields a special token here
    texts = lines + [c * ((1 << 20) // len(c.encode())) for c in "a \n1é中"]
    with open(f"{folder}/ids.txt", "w") as f:
        for text in texts:
            f.write(hash_ids(t.encode(text, add_special_tokens=False).ids) + "\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    lines = make_lines(2000)
    with open(f"{OUT}/lines.txt", "w", encoding="utf-8") as f:
        f.writelines(escape(line) + "\n" for line in lines)
    for name, t in families().items():
        write(name, t, lines)


if __name__ == "__main__":
    main()

"""The tokenizer against the programs of the sentencepiece package: the same ids as spm_encode and the same text
as spm_decode, on the shipped model and on small ones trained here, which cover what it is not: Unigram, dummy
prefix, removal of white space, no byte fallback, pieces that hold spaces inside.

Drives build/tests/test_tokenizer, which doubles as a tool (see there)."""
import os
import subprocess
import sys
import tempfile

TOOL = os.path.join(os.environ.get("BUILD", "build"), "tests", "test_tokenizer")
SHIPPED = "weights/tale/verifier"
HELD_OUT = open("tests/data/held-out.txt", encoding="utf-8").read()
LINES = [line for line in HELD_OUT.split("\n") if line]
LONG = " ".join(LINES) * 2  # passes the length from which a text is encoded in parts

EDGES = [
    b"", b" ", b"  ", b"   a", b"a   ", b" a  b   c ", b"\t", b"\r", b"a\tb\r", b"a", b"\xc3\xa9", "naïve café".encode(),
    "日本語のテキスト".encode(), "👩‍🚀🏴‍☠️".encode(), "e\u0301".encode(), "\ufffd".encode(), "\ufeffx".encode(), "a\u00a0b".encode(),
    "▁".encode(), " ▁ a▁".encode(), "▁▁a".encode(), b"<s>", b"</s>", b"<unk>", b"a</s>b", b"<0x41>", b"<0x0A>", b"<sep>",
    b"a <sep>b<sep><sep>", b"<|user|>", b" <|user|> x<|assistant|>", b"a\0b", b"\0", b"\0\0 \0", b"a" * 1000,
    b" " * 1000, b"ab " * 1000, b"the" * 777, b"\x7f\x01\x02",
]  # fmt: skip

TRAINED = {
    "unigram": ["--model_type=unigram", "--vocab_size=500", "--byte_fallback=true", "--user_defined_symbols=<sep>"],
    "unigram, white space kept": ["--model_type=unigram", "--vocab_size=400", "--byte_fallback=true",
                                  "--remove_extra_whitespaces=false", "--split_by_whitespace=false"],
    "unigram without byte fallback": ["--model_type=unigram", "--vocab_size=300", "--character_coverage=0.98"],
    "bpe": ["--model_type=bpe", "--vocab_size=600", "--byte_fallback=true", "--user_defined_symbols=<sep>"],
    "bpe, white space kept": ["--model_type=bpe", "--vocab_size=700", "--byte_fallback=true",
                              "--remove_extra_whitespaces=false"],
    "bpe, no dummy prefix": ["--model_type=bpe", "--vocab_size=500", "--add_dummy_prefix=false",
                             "--character_coverage=0.98"],
    "bpe, spaces inside pieces": ["--model_type=bpe", "--vocab_size=700", "--byte_fallback=true",
                                  "--split_by_whitespace=false", "--remove_extra_whitespaces=false"],
}  # fmt: skip

failed = 0


def report(name, differences):
    global failed
    if not differences:
        print("ok", name)
        return
    failed += 1
    print("FAIL", name)
    for what, ours, theirs in differences[:3]:
        print(f"     {what!r:.200}\n     ours   {ours!r:.300}\n     theirs {theirs!r:.300}")


def run(arguments, stdin):
    return subprocess.run(arguments, input=stdin, stdout=subprocess.PIPE, check=True).stdout


def our_ids(folder, texts):
    out = run([TOOL, "encode", folder], b"".join(t.hex().encode() + b"\n" for t in texts))
    return [[int(i) for i in line.split()] for line in out.split(b"\n")[:-1]]


def our_texts(folder, lists):
    out = run([TOOL, "decode", folder], b"".join(b" ".join(b"%d" % i for i in ids) + b"\n" for ids in lists))
    return [bytes.fromhex(line.decode()) for line in out.split(b"\n")[:-1]]


def their_ids(folder, texts):
    model = f"--model={folder}/tokenizer.model"
    out = run(["spm_encode", model, "--output_format=id"], b"".join(t + b"\n" for t in texts))
    return [[int(i) for i in line.split()] for line in out.split(b"\n")[:-1]]


def their_texts(folder, lists):
    lines = b"".join(b" ".join(b"%d" % i for i in ids) + b"\n" for ids in lists)
    return run(["spm_decode", f"--model={folder}/tokenizer.model", "--input_format=id"], lines).split(b"\n")[:-1]


def compare(name, folder):
    texts = [line.encode() for line in LINES] + EDGES + [LONG.encode()]
    ours, theirs = our_ids(folder, texts), their_ids(folder, texts)
    assert len(ours) == len(theirs) == len(texts)
    report(f"{name}: ids of {len(texts)} texts", [d for d in zip(texts, ours, theirs) if d[1] != d[2]])
    # Where a U+2581 is typed, models that remove white space hold on to it, but spm_decode drops it at the start.
    lists = [ids for text, ids in zip(texts, theirs) if "▁".encode() not in text]
    back, their_back = our_texts(folder, lists), their_texts(folder, lists)
    assert len(back) == len(their_back) == len(lists)
    report(f"{name}: the texts again", [d for d in zip(lists, back, their_back) if d[1] != d[2]])


def compare_whole_file():
    """spm_encode works by line. In the shipped model a newline is a byte piece, which joins with nothing."""
    [newline] = our_ids(SHIPPED, [b"\n"])[0]
    by_line = [i for ids in their_ids(SHIPPED, HELD_OUT.encode().split(b"\n")) for i in ids + [newline]][:-1]
    [whole] = our_ids(SHIPPED, [HELD_OUT.encode()])
    report("shipped: the held-out text as a whole", [] if whole == by_line else [("held-out.txt", whole, by_line)])
    [text] = our_texts(SHIPPED, [whole])
    report("shipped: the held-out text again", [] if text == HELD_OUT.encode() else [("held-out.txt", text, "")])


def train(folder, options):
    common = ["--input=tests/data/held-out.txt", f"--model_prefix={folder}/tokenizer", "--num_threads=1",
              "--normalization_rule_name=identity", "--minloglevel=2"]  # fmt: skip
    subprocess.run(["spm_train", *common, *options], check=True, stderr=subprocess.DEVNULL)


compare("shipped", SHIPPED)
compare_whole_file()
for name, options in TRAINED.items():
    with tempfile.TemporaryDirectory() as folder:
        train(folder, options)
        compare(name, folder)
with tempfile.TemporaryDirectory() as folder:
    train(folder, ["--model_type=bpe", "--vocab_size=300", "--normalization_rule_name=nmt_nfkc"])
    refused = subprocess.run([TOOL, "encode", folder], input=b"", capture_output=True)
    says = refused.stderr.decode()
    good = refused.returncode == 3 and "normalizer_spec.precompiled_charsmap" in says
    report("a character map is refused", [] if good else [("nmt_nfkc", refused.returncode, says)])
sys.exit(failed > 0)

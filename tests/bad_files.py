"""Bad model folders, one spoilt thing each: cases() yields (name, spoil, what the line must name), where spoil
changes a folder that tiny_model.py wrote. test_bad_models.py runs the program on them.
"""
import json
import os
import struct

import tiny_model as tiny

CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
WEIGHTS, INDEX, TOKENIZER = "model.safetensors", "model.safetensors.index.json", "tokenizer.model"
NORM, EMBED, Q = "model.norm.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"


# ---- ways to spoil ----

def put(name, data):
    def spoil(folder):
        path = f"{folder}/{name}"
        if os.path.lexists(path):
            os.remove(path)
        with open(path, "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
    return spoil


def good_json(name):
    return json.loads(tiny.files()[name])


def put_field(name, key, value):
    return put(name, json.dumps(dict(good_json(name), **{key: value})))


def raw_field(name, key, text):
    """A value that json.dumps would not write: NaN, 1e999, a duplicate."""
    return put(name, json.dumps(good_json(name))[:-1] + f', "{key}": {text}}}')


def drop_field(name, key):
    document = good_json(name)
    del document[key]
    return put(name, json.dumps(document))


def good_weights():
    file = tiny.files()[WEIGHTS]
    length = struct.unpack("<Q", file[:8])[0]
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def header(change):
    tensors, data = good_weights()
    change(tensors)
    return put(WEIGHTS, tiny.safetensors(tensors, data))


def entry(name, **fields):
    def change(tensors):
        for key, value in fields.items():
            if value is DROPPED:
                del tensors[name][key]
            else:
                tensors[name][key] = value
    return header(change)


def tensor(name, value):
    return header(lambda tensors: tensors.__setitem__(name, value))


def more_weights(name, shape):
    tensors, data = good_weights()
    more = bytes(2 * shape[0] * (shape[1] if len(shape) > 1 else 1))
    tensors[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(more)]}
    return put(WEIGHTS, tiny.safetensors(tensors, data + more))


def rename(old, new):
    return header(lambda tensors: tensors.__setitem__(new, tensors.pop(old)))


def raw_header(text, data=b""):
    text = text if isinstance(text, bytes) else text.encode()
    return put(WEIGHTS, struct.pack("<Q", len(text)) + text + data)


def shards(weight_map, extra=None):
    """The weights as a.safetensors, and an index."""
    def spoil(folder):
        os.rename(f"{folder}/{WEIGHTS}", f"{folder}/a.safetensors")
        document = {"weight_map": weight_map} if weight_map is not DROPPED else {}
        put(INDEX, json.dumps(document))(folder)
        if extra:
            extra(folder)
    return spoil


def full_map(shard="a.safetensors", **changed):
    names = dict.fromkeys((name for name, _ in tiny.shapes()), shard)
    names.update({key.replace("__", "."): value for key, value in changed.items()})
    return names


DROPPED = object()


# ---- safetensors ----

def safetensors_cases():
    file = tiny.files()[WEIGHTS]
    for keep in [1, 7, 8, 9, 100, len(file) // 2, len(file) - 1]:
        yield f"weights cut to {keep} bytes", put(WEIGHTS, file[:keep]), WEIGHTS
    yield "weights with a byte too many", put(WEIGHTS, file + b"\0"), "data_offsets"
    for length in [0, 1, 2**31, 100_000_001, 2**63 - 1, 2**63, 2**64 - 1]:
        yield f"header length {length}", put(WEIGHTS, struct.pack("<Q", length) + file[8:]), WEIGHTS
    for text in ["", "[]", "null", "7", '"x"', " {}", "\ufeff{}", "{", '{"a"', '{"a":}', "{}x", "{\0}", '{"\ud800":1}']:
        data = text.encode("utf-8", "surrogatepass")
        yield f"header {text!r}", raw_header(data), WEIGHTS
    yield "header of no UTF-8", raw_header(b'{"\xff":{}}'), WEIGHTS
    yield "header 65 levels deep", raw_header('{"a":' * 65 + "1" + "}" * 65), "deeper"
    yield "header 100,000 levels deep", raw_header('{"a":' + "[" * 100_000), "deeper"
    yield "header of two million values", raw_header('{"__metadata__":[' + "1," * 2_000_000 + "1]}"), "values"
    yield "a tensor twice", raw_header('{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                       '"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4), WEIGHTS
    yield "a field twice", raw_header('{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                                      b"\0" * 4), WEIGHTS
    for key in ["dtype", "shape", "data_offsets"]:
        yield f"no {key}", entry(NORM, **{key: DROPPED}), NORM
    yield "a field that the format does not know", entry(NORM, color="red"), NORM
    for dtype in ["F64", "I8", "U8", "BOOL", "F8_E5M2", "f32", "", "F" * 1000, 3, None, []]:
        yield f"dtype {str(dtype)[:20]}", entry(NORM, dtype=dtype), "dtype"
    for shape in [16, "16", None, {}, [-1], [16.0], ["16"], [None], [2**31], [2**63 - 1], [2**63 - 1, 2**63 - 1],
                  [2**32, 2**32], [2**62, 4], [2**61, 8], [1, 1, 1, 1, 16], [15], [17], [0], [2**31, 0], [[16]]]:
        yield f"shape {shape}", entry(NORM, shape=shape), NORM
    yield "shape 2^63", entry(NORM, shape=[2**63]), WEIGHTS
    yield "shape 2^64", entry(NORM, shape=[2**64]), WEIGHTS
    begin, end = good_weights()[0][NORM]["data_offsets"]
    for offsets in [begin, None, [], [begin], [begin, end, end], [end, begin], [-1, end], [begin, -1], [begin, 2**62],
                    [begin, end + 2], [begin + 2, end + 2], [begin + 1, end + 1], [0, end - begin], [begin, begin],
                    [float(begin), float(end)], ["0", "1"], [2**63 - 32, 2**63 - 1]]:
        yield f"offsets {offsets}", entry(NORM, data_offsets=offsets), NORM if offsets != [0, 32] else "data_offsets"
    for value in [None, [], "x", 3, {}, {"dtype": "F32"}]:
        yield f"a tensor that is {value}", tensor("x", value), '"x"'
    for value in [[], "x", {"a": 1}, {"a": None}, {"a": {}}]:
        yield f"__metadata__ {value}", tensor("__metadata__", value), "__metadata__"
    yield "a hole between tensors", entry(NORM, shape=[15], data_offsets=[begin, begin + 30]), "data_offsets"
    for name, _ in tiny.shapes():
        yield f"{name} is missing", rename(name, "x" + name), name
    for name, shape in list(tiny.shapes())[2:11]:
        yield f"{name} turned over", entry(name, shape=shape[::-1] if len(set(shape)) > 1 else [1] + shape), name
    yield "a tensor that nothing uses", tensor("model.layers.0.self_attn.q_norm.weight",
                                               {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}), "q_norm"
    yield "rows of a layer that is not there", more_weights("model.layers.7.self_attn.q_proj.weight", [3, tiny.HIDDEN]), \
        "model.layers.7"
    yield "a bias of three", more_weights("model.layers.0.self_attn.q_proj.bias", [3]), "q_proj.bias"
    yield "a name that drives a terminal", rename(NORM, "\x1b[31m\u009b2J\u202e"), NORM
    yield "a name of 100,000 bytes", rename(NORM, "x" * 100_000), NORM


# ---- index ----

def index_cases():
    for name, shard in [("above", "../a.safetensors"), ("absolute", "/etc/passwd"), ("below", "x/a.safetensors"),
                        ("empty", ""), ("dots", ".."), ("a number", 3), ("null", None), ("a list", [])]:
        yield f"a shard {name}", shards(full_map(model__norm__weight=shard)), "weight_map"
    yield "a shard that is not there", shards(full_map(model__norm__weight="b.safetensors")), "b.safetensors"
    yield "a shard that is the folder", shards(full_map(model__norm__weight=".")), "."
    yield "a shard with a NUL", shards(full_map(model__norm__weight="a.safetensors\0")), INDEX
    yield "a shard that is a long name", shards(full_map(model__norm__weight="x" * 5000)), "xxxx"
    yield "an index without a tensor", shards({k: v for k, v in full_map().items() if k != NORM}), "weight_map"
    yield "an index with a tensor too many", shards(full_map(extra="a.safetensors")), "weight_map"
    yield "an index without weight_map", shards(DROPPED), "weight_map"
    for value in [{}, [], None, "a.safetensors", 7]:
        yield f"weight_map {value}", shards(value), "weight_map"
    yield "an index that is no JSON", shards({}, put(INDEX, "weights")), INDEX
    yield "an empty index", shards({}, put(INDEX, "")), INDEX
    yield "an index of a list", shards({}, put(INDEX, "[]")), INDEX

    def other_file(folder):
        os.rename(f"{folder}/a.safetensors", f"{folder}/b.safetensors")
        put("a.safetensors", tiny.safetensors({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
                                              b"\0" * 4))(folder)
    yield "a tensor in another shard", shards(full_map(x="a.safetensors"), other_file), "weight_map"

    def twice(folder):
        with open(f"{folder}/a.safetensors", "rb") as f:
            put("b.safetensors", f.read())(folder)
    yield "tensors in two shards", shards(full_map(model__norm__weight="b.safetensors"), twice), "safetensors"

    def to_itself(folder):
        os.remove(f"{folder}/a.safetensors")
        os.symlink("a.safetensors", f"{folder}/a.safetensors")
    yield "a shard that links to itself", shards(full_map(), to_itself), "a.safetensors"

    def to_device(folder):
        os.remove(f"{folder}/a.safetensors")
        os.symlink("/dev/zero", f"{folder}/a.safetensors")
    yield "a shard that links to a device", shards(full_map(), to_device), "a.safetensors"


# ---- configuration ----

SIZES = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "head_dim", "max_position_embeddings"]


def config_cases():
    for key in SIZES:
        for value in [0, -1, 2**31, 2**63 - 1, 1.5, "16", [], True]:
            yield f"{key} {value}", put_field(CONFIG, key, value), key
    for key in SIZES + ["rms_norm_eps", "rope_theta"]:
        yield f"{key} twice", raw_field(CONFIG, key, "1"), CONFIG
    for text in ["NaN", "Infinity", "-Infinity", "1e999", "1e", "0x10", "2147483648000000000000"]:
        yield f"vocab_size {text}", put(CONFIG, json.dumps(dict(good_json(CONFIG), vocab_size=7_777_777)).replace(
            "7777777", text)), CONFIG
    for key in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "max_position_embeddings", "model_type"]:
        yield f"no {key}", drop_field(CONFIG, key), key
    for key, values in {"rms_norm_eps": [0, -1, 2, 1e-300, "x", None and 0], "rope_theta": [0, -1, 1e300, "x", []],
                        "bos_token_id": [-1, 2**31, 2**24, "1", 1.5], "eos_token_id": [-1, 2**31, 2**24, "2", {}],
                        "tie_word_embeddings": ["yes", 1, []], "attention_bias": ["no", 0],
                        "model_type": ["", "x" * 1000, 3, "../llama"], "hidden_act": ["relu", 3]}.items():
        for value in values:
            if value is not None:
                yield f"{key} {str(value)[:20]}", put_field(CONFIG, key, value), key
    yield "nine ends", put_field(CONFIG, "eos_token_id", list(range(9))), "eos_token_id"
    yield "an end that is none", put_field(CONFIG, "eos_token_id", [2, None]), "eos_token_id"
    yield "heads that do not divide", put_field(CONFIG, "num_key_value_heads", 3), "num_key_value_heads"
    yield "an odd head", put_field(CONFIG, "head_dim", 7), "head_dim"
    yield "a wide head", put_field(CONFIG, "head_dim", 514), "head_dim"
    yield "a layer more", put_field(CONFIG, "num_hidden_layers", 3), "model.layers.2."
    yield "a layer less", put_field(CONFIG, "num_hidden_layers", 1), "model.layers.1."
    yield "1024 layers", put_field(CONFIG, "num_hidden_layers", 1024), "model.layers.2."
    for key in ["hidden_size", "intermediate_size", "vocab_size"]:
        yield f"{key} unlike the tensors", put_field(CONFIG, key, 2**20), "tensor"
    yield "a head of its own that is not there", put_field(CONFIG, "tie_word_embeddings", False), "lm_head"
    for text in ["", " ", "[]", "null", "{", "}", "\0", "{}", "{" * 100_000, '{"a":' * 65 + "1" + "}" * 65, "\xff"]:
        yield f"config {text[:10]!r}", put(CONFIG, text.encode("latin-1")), CONFIG
    for key, values in {"temperature": [-1, 1e300, "x"], "top_p": [0, -1, 1.5, "x"], "top_k": [-1, 2**31, 1.5],
                        "min_p": [-1, 1.5], "repetition_penalty": [0, -1, "x"], "do_sample": ["x", 1],
                        "eos_token_id": [-1, 2**31, "x"]}.items():
        for value in values:
            yield f"generation {key} {value}", put_field(GENERATION, key, value), key
    for text in ["", "[]", "{", '{"top_p":NaN}', '{"top_p":1,"top_p":1}']:
        yield f"generation config {text!r}", put(GENERATION, text), GENERATION


# ---- tokenizer.model ----

def pieces_with(change):
    pieces = tiny.all_pieces()
    change(pieces)
    return put(TOKENIZER, tiny.tokenizer_model(pieces))


def piece_set(i, value):
    return pieces_with(lambda pieces: pieces.__setitem__(i, value))


def tokenizer_cases():
    file, few = tiny.files()[TOKENIZER], b"".join(tiny.piece(*p) for p in tiny.all_pieces())
    for keep in [0, 1, 2, 10, 13, 1000, len(few) - 1]:
        yield f"tokenizer.model cut to {keep} bytes", put(TOKENIZER, file[:keep]), TOKENIZER
    yield "a tokenizer.model of text", put(TOKENIZER, "version https://git-lfs.github.com/spec/v1\n"), TOKENIZER
    yield "a tokenizer.model of zeros", put(TOKENIZER, b"\0" * 1000), TOKENIZER
    yield "a tokenizer.model of ones", put(TOKENIZER, b"\xff" * 1000), TOKENIZER
    yield "no pieces", put(TOKENIZER, tiny.tokenizer_model([])), "pieces"
    yield "no unknown piece", piece_set(0, ("<unk>", tiny.NORMAL)), "unknown"
    yield "two unknown pieces", piece_set(1, ("<s>", tiny.UNKNOWN)), "pieces[1]"
    yield "an empty piece", piece_set(260, ("", tiny.NORMAL)), "pieces[260]"
    yield "a piece of 513 bytes", piece_set(260, ("x" * 513, tiny.NORMAL)), "pieces[260]"
    yield "a piece of 200,000 bytes", piece_set(260, ("x" * 200_000, tiny.NORMAL)), "pieces[260]"
    yield "a piece with a NUL", piece_set(260, ("a\0b", tiny.NORMAL)), "pieces[260]"
    yield "a piece of no UTF-8", piece_set(260, (b"\xff", tiny.NORMAL)), "pieces[260]"
    yield "a piece of a surrogate", piece_set(260, (b"\xed\xa0\x80", tiny.NORMAL)), "pieces[260]"
    yield "a piece cut in a character", piece_set(260, (b"\xe2\x96", tiny.NORMAL)), "pieces[260]"
    yield "two equal pieces", piece_set(261, ("a", tiny.NORMAL)), "pieces["
    yield "a byte piece <0x-1>", piece_set(3, ("<0x-1>", tiny.BYTE)), "pieces[3]"
    yield "a byte piece <0xGG>", piece_set(3, ("<0xGG>", tiny.BYTE)), "pieces[3]"
    yield "a byte piece <0x100>", piece_set(3, ("<0x100>", tiny.BYTE)), "pieces[3]"
    yield "a byte missing", pieces_with(lambda pieces: pieces.pop(3)), "byte"
    yield "a piece more than the vocabulary", pieces_with(lambda pieces: pieces.append(("zz", tiny.NORMAL))), "tokenizer has"
    for kind in [0, 7, 2**31, 2**63]:
        yield f"a piece of type {kind}", piece_set(260, ("x", kind)), "pieces[260]"
    for score in [float("nan"), float("inf"), -float("inf"), 1e30]:
        data = few + tiny.piece("zz", tiny.NORMAL, score) + tiny.tokenizer_model([])
        yield f"a score of {score}", put(TOKENIZER, data), "score"
    for name, tail in {"a score that is a string": tiny.field(1, tiny.field(1, b"zz") + tiny.field(2, b"1")),
                       "a piece that is a number": tiny.field(1, 5),
                       "a piece with a text that is a number": tiny.field(1, tiny.field(1, 5)),
                       "a length of 2^63": b"\x0a" + tiny.varint(2**63), "a length past the end": b"\x0a\x7f",
                       "a length past the piece": tiny.field(1, b"\x0a\x7fx"),
                       "a number of eleven bytes": b"\x08" + b"\xff" * 10 + b"\x01", "a group": b"\x0b\x0c",
                       "a wire type that is none": b"\x0f", "field 0": b"\x00\x01", "a tag alone": b"\x0a",
                       "a cut float": b"\x0d\0\0"}.items():
        yield name, put(TOKENIZER, file + tail), TOKENIZER
    for name, trainer in {"model_type": tiny.field(3, 3), "bos_id": tiny.field(41, 10**6),
                          "eos_id": tiny.field(42, 10**6), "unk_id": tiny.field(40, 2**31),
                          "pad_id": tiny.field(43, 999), "treat_whitespace_as_suffix": tiny.field(24, 1),
                          "byte_fallback": tiny.field(35, b"x"), "unk_surface": tiny.field(44, b"\xff")}.items():
        yield f"trainer_spec.{name}", put(TOKENIZER, tiny.tokenizer_model(trainer=trainer)), name
    charsmap = tiny.field(2, b"\x10\0\0\0" + b"\xff" * 60)
    yield "a character map", put(TOKENIZER, tiny.tokenizer_model(normalizer=charsmap)), "precompiled_charsmap"
    yield "denormalizer", put(TOKENIZER, file + tiny.field(5, charsmap)), "denormalizer_spec"
    yield "trainer_spec is a number", put(TOKENIZER, few + tiny.field(2, 5)), "trainer_spec"


# ---- tokenizer_config.json ----

def tokenizer_config_cases():
    token = {"content": "<|x|>", "special": True}
    for text in ["", "[]", "{", "null", "{}x", '{"a":' * 65 + "1" + "}" * 65, '{"bos_token":"<s>","bos_token":"<s>"}']:
        yield f"tokenizer config {text[:10]!r}", put(TOKENIZER_CONFIG, text), TOKENIZER_CONFIG
    for key in ["bos_token", "eos_token"]:
        for value in [3, [], "gone", "a", {"content": 3}, {}, True]:
            yield f"{key} {value}", put_field(TOKENIZER_CONFIG, key, value), key
    for value in ["yes", 1, []]:
        yield f"add_bos_token {value}", put_field(TOKENIZER_CONFIG, "add_bos_token", value), "add_bos_token"
    for value in [3, True, [], {}, [{"name": "other", "template": "x"}]]:
        yield f"chat_template {value}", put_field(TOKENIZER_CONFIG, "chat_template", value), "chat_template"
    for value in [[], "x", 3]:
        yield f"added_tokens_decoder {value}", put_field(TOKENIZER_CONFIG, "added_tokens_decoder", value), "added"
    for key in ["-1", "x", "", "1x", " 1", "+1", "1000000000", "99999999999999999999999"]:
        yield f"added token {key!r}", put_field(TOKENIZER_CONFIG, "added_tokens_decoder", {key: token}), "added"
    for value in [3, [], {}, {"content": 3}, {"content": ""}, {"content": "x" * 513}, None]:
        yield f"added token is {str(value)[:20]}", put_field(TOKENIZER_CONFIG, "added_tokens_decoder",
                                                             {"3": value}), "added"
    yield "an added token unlike the piece", put_field(TOKENIZER_CONFIG, "added_tokens_decoder", {"1": token}), "added"
    yield "a token past the vocabulary", put_field(TOKENIZER_CONFIG, "added_tokens_decoder", {"300": token}), "token"
    yield "a template of 2 MB", put("chat_template.jinja", "x" * 2_000_000), "chat_template.jinja"


def cases():
    for group in [safetensors_cases, index_cases, config_cases, tokenizer_cases, tokenizer_config_cases]:
        for case in group():
            yield case

"""Text from the C library through ctypes, nothing but Python's own: python3 example.py VERIFIER DRAFT PROMPT

The structures below are those of outrider.h that are passed by value; what is not named here stays in a block
of spare bytes, so that only the fields that are used must be spelled out."""
import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p

lib = ctypes.CDLL("liboutrider.so.0")


class EngineOptions(ctypes.Structure):
    _fields_ = [("model", c_char_p), ("draft", c_char_p), ("device", c_char_p), ("rest", ctypes.c_byte * 512)]


class Settings(ctypes.Structure):
    _fields_ = [("temperature", ctypes.c_float), ("rest", ctypes.c_byte * 508)]


# Both are larger than the library's own: a structure of more than 16 bytes is returned in memory that the caller
# gives, and read through a pointer, so that spare bytes behind it do no harm.
lib.outrider_engine_defaults.restype = EngineOptions
lib.outrider_settings_defaults.restype = Settings
lib.outrider_settings_defaults.argtypes = [c_void_p]
lib.outrider_error.restype = c_char_p
lib.outrider_session_take_text.restype = c_void_p
for name, arguments in {"engine_open": [c_void_p, POINTER(c_void_p)], "engine_close": [c_void_p],
                        "session_open": [c_void_p, c_void_p, POINTER(c_void_p)], "session_close": [c_void_p],
                        "session_append_text": [c_void_p, c_char_p, c_size_t], "session_stop": [c_void_p],
                        "session_take_text": [c_void_p, POINTER(c_size_t)],
                        "round": [POINTER(c_void_p), c_size_t]}.items():
    getattr(lib, f"outrider_{name}").argtypes = arguments


def check(status):
    if status:
        print(lib.outrider_error().decode(), file=sys.stderr)
        sys.exit(status)


def main(model, draft, prompt, words=32):
    options = lib.outrider_engine_defaults()
    options.model, options.draft = model.encode(), draft.encode()
    engine, session, size = c_void_p(), c_void_p(), c_size_t()
    check(lib.outrider_engine_open(byref(options), byref(engine)))
    settings = lib.outrider_settings_defaults(engine)
    settings.temperature = 0
    check(lib.outrider_session_open(engine, byref(settings), byref(session)))
    text = prompt.encode()
    check(lib.outrider_session_append_text(session, text, len(text)))
    for _ in range(words):
        if lib.outrider_session_stop(session):
            break
        check(lib.outrider_round(byref(session), 1))
        at = lib.outrider_session_take_text(session, byref(size))
        sys.stdout.buffer.write(ctypes.string_at(at, size.value))
        sys.stdout.flush()
    lib.outrider_session_close(session)
    lib.outrider_engine_close(engine)


if len(sys.argv) != 4:
    sys.exit(f"usage: {sys.argv[0]} VERIFIER DRAFT PROMPT")
main(*sys.argv[1:])

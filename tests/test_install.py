"""Installs into an empty root and uses what is there: the program without -m, the manual page, the completion, and
a C program built against the library with pkg-config. Then uninstalls."""
import os
import shutil
import subprocess
import tempfile

from checks import check, finish

BUILD = os.environ.get("BUILD", "build")


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **more)


def make(target, root):
    # what the build was made with is already in its objects: nothing is compiled anew
    quiet = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return run("make", "-o", "all", target, f"BUILD={BUILD}", f"DESTDIR={root}", "PREFIX=/opt/outrider", env=quiet)


def clean_environment(prefix):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OUTRIDER")}
    return kept | {"PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig", "LD_LIBRARY_PATH": f"{prefix}/lib"}


def files_below(root):
    return sorted(os.path.relpath(os.path.join(d, f), root) for d, _, names in os.walk(root) for f in names)


def test_program(prefix, work, env):
    text = run(f"{prefix}/bin/outrider", "run", "-p", "Once upon a time", "-n", "8", "--temp", "0", cwd=work, env=env)
    check("the installed program writes without -m", text.returncode == 0 and text.stdout.strip(), text.stderr)
    built = run(f"{BUILD}/outrider", "run", "-p", "Once upon a time", "-n", "8", "--temp", "0", env=env)
    check("and writes what the built one writes", text.stdout == built.stdout, (text.stdout, built.stdout))
    page = open(f"{prefix}/share/man/man1/outrider.1").read()
    check("the manual page names every command", all(f"\\fB{c}\\fR" in page for c in
                                                     ("run", "chat", "bench", "eval", "inspect")))
    page = open(f"{prefix}/share/man/man3/outrider.3").read()
    check("the library's page has every function", all(n in page for n in ("outrider_engine_open(",
          "outrider_round(", "outrider_session_save(", "outrider_stats")), page[:200])
    check("completions of zsh and fish", "--top-k[" in open(f"{prefix}/share/zsh/site-functions/_outrider").read()
          and "-l top-k" in open(f"{prefix}/share/fish/vendor_completions.d/outrider.fish").read())
    script = f"{prefix}/share/bash-completion/completions/outrider"
    words = run("bash", "-c", f". {script}; COMP_WORDS=(outrider run --top); COMP_CWORD=2; _outrider; "
                "echo ${COMPREPLY[@]}")
    check("the completion completes", words.stdout.split() == ["--top-k", "--top-p"], words.stdout + words.stderr)


def test_library(prefix, work, env):
    flags = run("pkg-config", "--cflags", "--libs", "outrider", env=env)
    check("pkg-config knows the library", flags.returncode == 0, flags.stderr)
    sanitizer = ["-fsanitize=address,undefined"] if "asan" in BUILD else []
    program = f"{work}/example"
    built = run(*os.environ.get("CC", "cc").split(), "-std=c11", "-Wall", "-Wextra", "-Werror", *sanitizer, "-o", program,
                os.path.abspath("tests/example.c"), *flags.stdout.split(), cwd=work, env=env)
    check("a program on the public header builds", built.returncode == 0, built.stderr)
    tale = f"{prefix}/share/outrider/tale"
    text = run(program, f"{tale}/verifier", f"{tale}/draft", "Once upon a time", cwd=work, env=env)
    check("and runs", text.returncode == 0 and text.stdout and "32 tokens" in text.stderr, text.stderr)
    cli = run(f"{prefix}/bin/outrider", "run", "-p", "Once upon a time", "-n", "32", "--temp", "0", cwd=work, env=env)
    check("and writes what the command line writes", text.stdout == cli.stdout, (text.stdout, cli.stdout))
    if not sanitizer:  # Python itself is not sanitized
        python = run("/usr/bin/python3", os.path.abspath("tools/example.py"), f"{tale}/verifier", f"{tale}/draft",
                     "Once upon a time", cwd=work, env=env)
        check("so does a Python program", python.returncode == 0 and python.stdout.startswith(text.stdout[:60]),
              (python.stdout, python.stderr))
    bad = run(program, f"{work}/nowhere", f"{tale}/draft", "x", cwd=work, env=env)
    check("a missing model is status 3", bad.returncode == 3 and bad.stderr.strip(), bad.stderr)
    names = run("nm", "-D", "--defined-only", f"{prefix}/lib/liboutrider.so.0")
    strangers = [line.split()[-1] for line in names.stdout.splitlines() if not line.split()[-1].startswith("outrider_")]
    check("the library shows its public names only", not strangers or sanitizer, strangers[:5])


def main():
    root, work = tempfile.mkdtemp(), tempfile.mkdtemp()
    try:
        prefix = f"{root}/opt/outrider"
        done = make("install", root)
        check("make install", done.returncode == 0, done.stderr[-400:])
        if done.returncode == 0:
            env = clean_environment(prefix)
            test_program(prefix, work, env)
            test_library(prefix, work, env)
            done = make("uninstall", root)
            check("make uninstall leaves no file", done.returncode == 0 and not files_below(root), files_below(root))
    finally:
        shutil.rmtree(root)
        shutil.rmtree(work)
    finish()


main()

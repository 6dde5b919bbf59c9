"""What the README shows exists: each command line in it has options that its command knows, and each option, target of
make, file and chapter that it names is there."""
import os
import re
import subprocess

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


README = open("README.md").read()
MAKEFILES = open("Makefile").read() + open("tests/checks.mk").read()
shown = [block.split("#")[0].split(" | ")[-1].strip() for fence in re.findall(r"```sh\n(.*?)```", README, re.S)
         for block in fence.splitlines()]
shown += re.findall(r"`((?:build/)?outrider [a-z]+ [^`]*)`", README)
for line in shown:
    words = line.split()
    if words[:1] == ["make"] or "outrider" not in line:
        continue
    command = words[1]
    known = output(OUTRIDER, command, "--help")
    given = [word.split("=")[0] for word in re.sub(r"\"[^\"]*\"", "TEXT", line).split()[2:] if word.startswith("-")]
    missing = [word for word in given if not re.search(rf"(^|[ ]){re.escape(word)}[ \n]", known)]
    check(line, known and not missing, missing)
flags = set(re.findall(r"`(--[a-z-]+)", README)) - {"--help"}
manual = output(OUTRIDER, "--man").replace("\\-", "-")
check("options that are named are in the manual", not [flag for flag in flags if flag not in manual],
      [flag for flag in flags if flag not in manual])
targets = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", README, re.M))
missing = [target for target in targets if not re.search(rf"^{target}( [a-z-]+)*:", MAKEFILES, re.M)]
check("targets that are named are in the Makefile", len(targets) > 8 and not missing, missing)
files = set(re.findall(r"(?<!build/)\b((?:runtime|kernels|tokenizer|tools|tests|weights)/[\w./-]+\w)", README))
missing = [name for name in files if not os.path.exists(name) and "NAME" not in name]
check("files that are named are there", len(files) > 20 and not missing, missing)
for link in re.findall(r"\]\(#([a-z-]+)\)", README):
    headings = [h.lower().replace(" ", "-") for h in re.findall(r"^## (.*)$", README, re.M)]
    check(f"a link to {link} leads somewhere", link in headings, headings)
finish()

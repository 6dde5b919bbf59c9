"""What the test scripts print: one line a check, as tests/run.sh counts them, and an exit status at the end."""
failed = 0


def check(name, good, detail=""):
    global failed
    failed += not good
    print(f"{'ok' if good else 'FAIL'} {name}" + ("" if good else f": {detail!r}"[:2000]), flush=True)


def finish():
    raise SystemExit(failed > 0)

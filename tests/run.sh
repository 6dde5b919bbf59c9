#!/bin/bash
# Runs every test given (cmocka programs and Python scripts), each with its output shown only when it fails,
# and closes with one line: N passed, N failed. A test is one cmocka case or one "ok"/"FAIL" line of a script.
export BUILD OUTRIDER="$BUILD/outrider"
# a configuration of whoever runs the tests is not theirs
export XDG_CONFIG_HOME=/nonexistent
# The system's own Python is the one that has the packages.
PYTHON=/usr/bin/python3
[ -x $PYTHON ] || PYTHON=python3
passed=0 failed=0
for test; do
    log=$(mktemp)
    start=$(date +%s.%N)
    case $test in
        *.py) $PYTHON "$test" >"$log" 2>&1 ;;
        *) "$test" >"$log" 2>&1 ;;
    esac
    rc=$?
    ok=$(grep -acE '^(\[       OK \]|ok )' "$log")
    bad=$(grep -acE '^(\[  FAILED  \] [A-Za-z_]|FAIL )' "$log")
    # cmocka lists each failure twice: where it happens and in its summary
    [[ $test != *.py ]] && bad=$(((bad + 1) / 2))
    # a crash, a failed set-up or a script that tests nothing, and does not say so, is a failure too
    { [ $rc -ne 0 ] || { [ "$ok" -eq 0 ] && ! grep -aq '^\[  SKIPPED \]' "$log"; }; } && [ "$bad" -eq 0 ] && bad=1
    passed=$((passed + ok)) failed=$((failed + bad))
    printf '%-36s %4d passed %4d failed %7.1f s\n' "$(basename "$test")" "$ok" "$bad" \
        "$(echo "$(date +%s.%N) - $start" | bc -l 2>/dev/null || echo 0)"
    [ "$bad" -gt 0 ] && { echo "--- $test (exit $rc)"; tail -n 60 "$log"; }
    rm -f "$log"
done
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

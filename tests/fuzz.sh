#!/bin/bash
# Runs every fuzz target given under libFuzzer, SECONDS_EACH apiece, from the inputs of fuzz_corpus.py and what
# earlier runs kept in FOLDER; prints executions, covered edges and findings of each. Fails when there is a finding.
FOLDER=${FOLDER:-build/fuzz} SECONDS_EACH=${SECONDS_EACH:-60}
python3 tests/fuzz_corpus.py "$FOLDER/seeds" && python3 tests/tiny_model.py "$FOLDER/tiny" || exit 1
export TINY=$FOLDER/tiny ASAN_OPTIONS=quarantine_size_mb=16:allocator_may_return_null=0
bad=0
printf '%-24s %12s %8s %8s  %s\n' target executions edges corpus findings
for target; do
    name=$(basename "$target")
    mkdir -p "$FOLDER/kept/$name" "$FOLDER/findings"
    log=$FOLDER/$name.log
    case $name in # what takes time with the length of its text gains nothing by it
        fuzz_chat | fuzz_session | fuzz_options) most=1024 ;;
        *) most=65536 ;;
    esac
    # -timeout is a safeguard on loaded machines; the targets hold themselves to a second of processor time
    "$target" -max_total_time="$SECONDS_EACH" -timeout=20 -rss_limit_mb=1024 -close_fd_mask=3 -print_final_stats=1 \
        -max_len="${MAX_LEN:-$most}" -dict="$FOLDER/seeds/$name.dict" -artifact_prefix="$FOLDER/findings/$name-" \
        "$FOLDER/kept/$name" "$FOLDER/seeds/$name" >"$log" 2>&1
    rc=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -aoE 'cov: [0-9]+' "$log" | tail -n 1 | cut -d' ' -f2)
    findings=$(grep -acE '^==[0-9]+==' "$log")
    printf '%-24s %12s %8s %8s  %s\n' "$name" "${runs:-?}" "${edges:-?}" "$(find "$FOLDER/kept/$name" -type f | wc -l)" \
        "$([ $rc -eq 0 ] && echo none || echo "exit $rc, see $log")"
    [ $rc -eq 0 ] || bad=1
done
exit $bad

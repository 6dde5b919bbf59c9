#!/bin/bash
# Runs every fuzz target given under libFuzzer, from the inputs of fuzz_corpus.py and what earlier runs kept in FOLDER;
# prints executions, covered edges and findings of each. Fails when there is a finding.
#   SECONDS_EACH, RUNS   where each target ends, whichever comes first; RUNS=0: no limit
#   SECONDS_ALL          when all of it ends; what has not begun by then runs for a second
#   JOBS                 processes at once; with more than one, several share the RUNS of each slow target
FOLDER=${FOLDER:-build/fuzz} SECONDS_EACH=${SECONDS_EACH:-60} RUNS=${RUNS:-0} JOBS=${JOBS:-1}
python3 tests/fuzz_corpus.py "$FOLDER/seeds" && python3 tests/tiny_model.py "$FOLDER/tiny" || exit 1
# Stacks of allocations cost a tenth; who replays a finding has them.
export TINY=$FOLDER/tiny ASAN_OPTIONS=quarantine_size_mb=16:malloc_context_size=0:allocator_may_return_null=0
END=$(($(date +%s) + ${SECONDS_ALL:-1000000}))
export FOLDER SECONDS_EACH RUNS MAX_LEN END
mkdir -p "$FOLDER/findings"

run() { # TARGET PART PARTS
    local name most=65536 runs=-1 log left
    name=$(basename "$1")
    case $name in # what takes time with the length of its text gains nothing by it
        fuzz_chat) most=256 ;;
        fuzz_session | fuzz_options) most=1024 ;;
        fuzz_jinja) most=4096 ;;
    esac
    [ "$RUNS" -gt 0 ] && runs=$(((RUNS + $3 - 1) / $3))
    left=$((END - $(date +%s)))
    left=$((left > SECONDS_EACH ? SECONDS_EACH : left > 1 ? left : 1))
    mkdir -p "$FOLDER/kept/$name"
    log=$FOLDER/$name-$2.log
    # -timeout is a safeguard on loaded machines; the targets hold themselves to a second of processor time
    "$1" -max_total_time="$left" -runs="$runs" -timeout=20 -rss_limit_mb=1024 -close_fd_mask=1 \
        -print_final_stats=1 -max_len="${MAX_LEN:-$most}" -dict="$FOLDER/seeds/$name.dict" \
        -artifact_prefix="$FOLDER/findings/$name-" "$FOLDER/kept/$name" "$FOLDER/seeds/$name" >"$log" 2>&1
    echo "exit $?" >>"$log"
}
export -f run

rm -f "$FOLDER"/fuzz_*.log
for target; do
    case $(basename "$target") in # by their rates
        fuzz_chat | fuzz_model | fuzz_convert) parts=5 ;;
        fuzz_gguf | fuzz_tokenizer | fuzz_session_file | fuzz_jinja) parts=3 ;;
        *) parts=1 ;;
    esac
    [ "$JOBS" -gt 1 ] || parts=1
    for ((part = 0; part < parts; part++)); do echo "$parts $target $part $parts"; done
done | sort -n -k1,1 -s | cut -d' ' -f2- | xargs -P "$JOBS" -L 1 bash -c 'run "$@"' _

bad=0
printf '%-24s %12s %8s %8s  %s\n' target executions edges corpus findings
for target; do
    name=$(basename "$target")
    logs=("$FOLDER/$name"-[0-9]*.log)
    runs=$(awk '/^stat::number_of_executed_units/ { sum += $2 } END { print sum }' "${logs[@]}")
    edges=$(grep -ahoE 'cov: [0-9]+' "${logs[@]}" | cut -d' ' -f2 | sort -n | tail -n 1)
    found=$(grep -Lx 'exit 0' "${logs[@]}" | tr '\n' ' ')
    printf '%-24s %12s %8s %8s  %s\n' "$name" "${runs:-?}" "${edges:-?}" "$(find "$FOLDER/kept/$name" -type f | wc -l)" \
        "${found:+see $found}$([ -n "$found" ] || echo none)"
    [ -z "$found" ] || bad=1
done
exit $bad

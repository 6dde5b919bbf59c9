#!/bin/bash
# Tests and measures the CUDA backend on this machine's NVIDIA card and closes with one short table: every operation
# against its reference, sanitizers, greedy identity on the shipped pair, then plain and speculative decoding of the
# pair inflated to the shapes of Llama-3.1-8B and Llama-3.2-1B. Needs bash, python3 with torch and safetensors, and
# 20 GB of disk. `make gpu-check` builds what it runs; elsewhere OUTRIDER, GPU_OPS, GPU_ROUND, GPU_BENCH and GOLDEN
# name programs built before.
#   FOLDER=where the logs go (build/gpu-check)   MODELS=where the inflated pair goes (a temporary folder)
#   PARTS="ops sanitize identity speed" what to do
set -uo pipefail
: "${OUTRIDER:=build/outrider}" "${GPU_OPS:=build/tests/gpu_ops}" "${GPU_BENCH:=build/tests/gpu_bench}"
: "${GPU_ROUND:=build/tests/gpu_round}" "${GOLDEN:=build/tests/test_golden}"
: "${FOLDER:=build/gpu-check}"
: "${PARTS:=ops sanitize identity speed}"
mkdir -p "$FOLDER"
if [ -z "${MODELS:-}" ]; then
    MODELS=$(mktemp -d)
    trap 'rm -rf "$MODELS"' EXIT
fi
failed=0
wants() { [[ " $PARTS " == *" $1 "* ]]; }
note() { printf '%-44s %s\n' "$1" "$2" | tee -a "$FOLDER/summary"; }
verdict() { # name, exit code, text
    if [ "$2" -eq 0 ]; then note "$1" "$3"; else failed=1; note "$1" "FAILED  $3"; fi
}
: >"$FOLDER/summary"
note card "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1), $(date -u +%F)"

if wants ops; then
    "$GPU_OPS" >"$FOLDER/ops.log" 2>&1
    verdict "operations" $? "$(grep -c '^ok' "$FOLDER/ops.log") passed, $(grep -c '^FAIL' "$FOLDER/ops.log") failed"
    grep '^FAIL' "$FOLDER/ops.log" | head
    "$GPU_ROUND" >"$FOLDER/round.log" 2>&1
    verdict "sampling and acceptance, host's tokens" $? "$(grep -c '^ok' "$FOLDER/round.log") passed, $(grep -c '^FAIL' "$FOLDER/round.log") failed; $(grep 'proposals kept' "$FOLDER/round.log")"
    grep '^FAIL' "$FOLDER/round.log" | head
    "$GOLDEN" >"$FOLDER/golden.log" 2>&1
    verdict "golden logits" "$(grep -c 'FAILED.*cuda' "$FOLDER/golden.log")" "$(grep -c 'OK.*cuda' "$FOLDER/golden.log") models on the card, $(grep -c 'SKIPPED.*cuda' "$FOLDER/golden.log") skipped"
    "$GPU_BENCH" >"$FOLDER/ops-bench.log" 2>&1
    verdict "operations timed" $? "$(grep -m1 ' 1 rows' "$FOLDER/ops-bench.log" | cut -c1-46); see $FOLDER/ops-bench.log"
fi

if wants sanitize && command -v compute-sanitizer >/dev/null; then
    for check in "memcheck sanitize" "racecheck race"; do
        read -r tool mode <<<"$check"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$GPU_OPS" "$mode" >"$FOLDER/$tool.log" 2>&1
        verdict "$tool" $? "$(grep -E 'SUMMARY' "$FOLDER/$tool.log" | tail -1)"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$GPU_ROUND" brief >"$FOLDER/$tool-round.log" 2>&1
        verdict "$tool, sampling" $? "$(grep -E 'SUMMARY' "$FOLDER/$tool-round.log" | tail -1)"
    done
fi

# One JSON file of `outrider bench` to a line: what is asked for, by name.
figure() {
    python3 - "$@" <<'END'
import json, sys
rows = json.load(open(sys.argv[1]))
plain = next((r for r in rows if r["n_gen"] and "speedup" not in r), None)
spec = [r for r in rows if "speedup" in r]
what = sys.argv[2]
if what == "identical":
    bad = [r["n_draft_max"] for r in spec if not r["identical"]]
    print(f"{len(spec)} settings of K, " + (f"texts differ at K = {bad}" if bad else "all texts equal plain"))
    sys.exit(bool(bad) or not spec)
if what == "plain":
    print(f'{plain["avg_ts"]:.0f} tok/s whole, pass {plain["verify_cost"][0]["us"]:.0f} us = '
          f'{100 * plain["bandwidth_share"]:.1f}% of {plain["read_gb_per_s"]:.0f} GB/s read')
if what == "verify":
    print("  ".join(f'{c["rows"]}: {c["relative"]:.3f}' for c in plain["verify_cost"]) +
          f'   draft step {plain["draft_step_us"]:.0f} us')
if what == "idle":
    # Between passes: what a round takes beyond its draft steps and its verify, timed by themselves.
    verify = {c["rows"]: c["us"] for c in plain["verify_cost"]}
    r = next(r for r in spec if r["n_draft_max"] == 3)
    gaps = r["round_busy_us"] - 3 * plain["draft_step_us"] - verify[4]
    print(f'K=3: host {r["round_idle_us"]:.1f} us, between passes {gaps:.1f} us, of a round of {r["round_busy_us"]:.0f} us')
if what == "prompt":
    print(", ".join(f'{r["avg_ts"]:.0f} tok/s at {r["n_prompt"]}' for r in rows if r["n_prompt"]))
if what == "sampled":
    print(f'plain {plain["avg_ts"]:.0f}, ' + ", ".join(f'K={r["n_draft_max"]} {r["avg_ts"]:.0f} tok/s, a round '
          f'{r["round_busy_us"]:.0f} us and {r["round_idle_us"]:.1f} idle' for r in spec))
if what == "spec":
    best, worst = max(spec, key=lambda r: r["avg_ts"]), min(spec, key=lambda r: r["avg_ts"])
    print(f'best {best["avg_ts"]:.0f} tok/s at K={best["n_draft_max"]} ({best["speedup"]:.2f}x, acceptance '
          f'{100 * best["acceptance"]:.0f}%), worst {worst["speedup"]:.2f}x at K={worst["n_draft_max"]}, '
          + ("texts equal" if all(r["identical"] for r in spec) else "TEXTS DIFFER"))
END
}

if wants identity; then
    "$OUTRIDER" bench --device cuda --prompts tests/data/prompts.jsonl -p 0 -n 256 -r 1 --spec-type draft \
        --spec-draft-n-max 1-8 -o json >"$FOLDER/identity.json" 2>"$FOLDER/identity.err"
    code=$?
    [ $code -eq 0 ] && text=$(figure "$FOLDER/identity.json" identical) || { code=1; text=$(tail -1 "$FOLDER/identity.err"); }
    verdict "greedy, shipped pair, 40 prompts x 256" $code "$text"
    "$OUTRIDER" bench --device cuda --prompts tests/data/prompts.jsonl -p 0 -n 128 -r 1 --spec-type draft --spec-tree \
        --spec-draft-n-max 1-4,6 -o json >"$FOLDER/trees.json" 2>"$FOLDER/trees.err"
    code=$?
    [ $code -eq 0 ] && text=$(figure "$FOLDER/trees.json" identical) || { code=1; text=$(tail -1 "$FOLDER/trees.err"); }
    verdict "greedy trees, shipped pair, 40 x 128" $code "$text"
    "$OUTRIDER" bench --device cuda --prompts tests/data/prompts.jsonl -p 0 -n 128 -r 1 --spec-type draft --temp 0.8 \
        --seed 5 --spec-accept coupled --spec-draft-n-max 1-8 -o json >"$FOLDER/coupled.json" 2>"$FOLDER/coupled.err"
    code=$?
    [ $code -eq 0 ] && text=$(figure "$FOLDER/coupled.json" identical) || { code=1; text=$(tail -1 "$FOLDER/coupled.err"); }
    verdict "coupled at 0.8, shipped pair, 40 x 128" $code "$text"
    for i in $(seq 50); do
        "$OUTRIDER" run --device cuda -n 64 --temp 0.8 --seed 9 -p "The king had" 2>/dev/null | cksum
    done | sort -u >"$FOLDER/repeats"
    verdict "50 runs of one seed" "$(($(wc -l <"$FOLDER/repeats") - 1))" "$(wc -l <"$FOLDER/repeats") different"
fi

if wants speed; then
    for shape in 8b:llama-3.1-8b:verifier 1b:llama-3.2-1b:draft; do
        IFS=: read -r name long small <<<"$shape"
        if [ -e "$MODELS/$name/config.json" ]; then
            note "inflated to $long" "was there already"
            continue
        fi
        python3 tools/inflate.py "weights/tale/$small" "$MODELS/$name" "$long" >"$FOLDER/inflate-$name.log" 2>&1
        verdict "inflated to $long" $? "$(tail -1 "$FOLDER/inflate-$name.log")"
    done
    start=$(date +%s%N)
    "$OUTRIDER" run --device cuda -m "$MODELS/8b" --spec-type none -c 512 -n 1 -p x >"$FOLDER/load.log" 2>&1
    verdict "8B from start to first token" $? "$(($(date +%s%N) / 1000000 - start / 1000000)) ms"
    printf '{"prompt": "%s"}\n' "Once upon a time there was a young prince who lived in a castle by the sea, and" >"$FOLDER/A.jsonl"
    printf '{"prompt": "%s"}\n' "The captain looked at the map for a long while. At last he said," >"$FOLDER/B.jsonl"
    for prompt in A B; do
        "$OUTRIDER" bench --device cuda -m "$MODELS/8b" -md "$MODELS/1b" -c 1024 --prompts "$FOLDER/$prompt.jsonl" \
            -p 512 -n 256 -r 3 --spec-type draft --spec-draft-n-max 1-8 -o json >"$FOLDER/8b-$prompt.json" 2>"$FOLDER/8b-$prompt.err"
        verdict "8B with 1B, prompt $prompt" $? "$(figure "$FOLDER/8b-$prompt.json" spec 2>&1 | tail -1)"
        "$OUTRIDER" bench --device cuda -m "$MODELS/8b" -md "$MODELS/1b" -c 1024 --prompts "$FOLDER/$prompt.jsonl" \
            -p 0 -n 256 -r 3 --spec-type draft --spec-tree --spec-draft-n-max 1-4,6 -o json >"$FOLDER/8b-$prompt-tree.json" 2>"$FOLDER/8b-$prompt-tree.err"
        verdict "8B with 1B, prompt $prompt, trees" $? "$(figure "$FOLDER/8b-$prompt-tree.json" spec 2>&1 | tail -1)"
        "$OUTRIDER" bench --device cuda -m "$MODELS/8b" -md "$MODELS/1b" -c 1024 --prompts "$FOLDER/$prompt.jsonl" \
            -p 0 -n 256 -r 3 --spec-draft-n-max auto -o json >"$FOLDER/8b-$prompt-auto.json" 2>"$FOLDER/8b-$prompt-auto.err"
        verdict "8B, prompt $prompt, draft and n-grams" $? "$(figure "$FOLDER/8b-$prompt-auto.json" spec 2>&1 | tail -1)"
    done
    for prompt in A B; do
        "$OUTRIDER" bench --device cuda -m "$MODELS/8b" -md "$MODELS/1b" --draft-quant q4 -c 1024 \
            --prompts "$FOLDER/$prompt.jsonl" -p 0 -n 256 -r 3 --spec-type draft --spec-draft-n-max 1-8 \
            -o json >"$FOLDER/8b-$prompt-q4.json" 2>"$FOLDER/8b-$prompt-q4.err"
        verdict "8B with 1B in q4, prompt $prompt" $? "$(figure "$FOLDER/8b-$prompt-q4.json" spec 2>&1 | tail -1)"
        "$OUTRIDER" bench --device cuda -m "$MODELS/8b" -md "$MODELS/1b" --draft-quant q4 -c 1024 \
            --prompts "$FOLDER/$prompt.jsonl" -p 0 -n 256 -r 3 --spec-type draft --spec-tree --spec-draft-n-max 1-4,6 \
            -o json >"$FOLDER/8b-$prompt-q4-tree.json" 2>"$FOLDER/8b-$prompt-q4-tree.err"
        verdict "8B with 1B in q4, prompt $prompt, trees" $? "$(figure "$FOLDER/8b-$prompt-q4-tree.json" spec 2>&1 | tail -1)"
    done
    note "1B in q4, a step" "$(figure "$FOLDER/8b-A-q4.json" verify 2>&1 | grep -o 'draft step.*')"
    for quant in q8 q4; do
        "$OUTRIDER" bench --device cuda -m "$MODELS/8b" --quant $quant -c 1024 -p 512 -n 256 -r 3 \
            --prompts "$FOLDER/A.jsonl" --spec-draft-n-max 0 -o json >"$FOLDER/8b-$quant.json" 2>"$FOLDER/8b-$quant.err"
        verdict "8B in $quant, plain" $? "$(figure "$FOLDER/8b-$quant.json" plain 2>&1 | tail -1)"
        note "8B in $quant, rows: over one row" "$(figure "$FOLDER/8b-$quant.json" verify 2>&1 | tail -1)"
    done
    "$OUTRIDER" bench --device cuda -m "$MODELS/1b" -c 1024 -p 512 -n 256 -r 3 --prompts "$FOLDER/A.jsonl" \
        --spec-draft-n-max 0 -o json >"$FOLDER/1b.json" 2>"$FOLDER/1b.err"
    verdict "1B plain" $? "$(figure "$FOLDER/1b.json" plain 2>&1 | tail -1)"
    note "8B plain" "$(figure "$FOLDER/8b-A.json" plain 2>&1 | tail -1)"
    note "8B verify, rows: over one row" "$(figure "$FOLDER/8b-A.json" verify 2>&1 | tail -1)"
    note "8B with 1B, device idle a round" "$(figure "$FOLDER/8b-A.json" idle 2>&1 | tail -1)"
    "$OUTRIDER" bench --device cuda -m "$MODELS/8b" -md "$MODELS/1b" -c 1024 --prompts "$FOLDER/A.jsonl" -p 0 -n 256 -r 2 \
        --spec-type draft --temp 0.8 --spec-draft-n-max 2,4 -o json >"$FOLDER/8b-sampled.json" 2>"$FOLDER/8b-sampled.err"
    verdict "8B with 1B, block rule at 0.8" $? "$(figure "$FOLDER/8b-sampled.json" sampled 2>&1 | tail -1)"
    note "8B prompt reading" "$(figure "$FOLDER/8b-A.json" prompt 2>&1 | tail -1)"
fi
echo
cat "$FOLDER/summary"
exit $failed

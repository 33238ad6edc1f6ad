#!/usr/bin/env bash
# Fuzzes every parser that reads bytes of clients, with stable Rust and a C++ compiler; cargo-fuzz is not needed.
# What was learned stays in fuzz/corpus, what crashed in fuzz/artifacts.
#
# usage: scripts/fuzz.sh [SECONDS per target, default 20] [TARGET…]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: scripts/fuzz.sh [SECONDS] [TARGET…]" >&2; exit 2; }
shift || true
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)

command -v c++ >/dev/null || command -v g++ >/dev/null ||
    { echo "fuzz.sh: libFuzzer is C++: install a C++ compiler (apt install g++)" >&2; exit 2; }

# The longest input of each target: room for its largest seed, no more, so that runs stay fast.
max_len() {
    case $1 in
        client_hello) echo 4096 ;;
        http_head) echo 1024 ;;
        hostname) echo 300 ;;
        exchange | hellos) echo 2048 ;;
        *) echo "fuzz.sh: no target $1" >&2; return 2 ;;
    esac
}
for target in "${targets[@]}"; do
    max_len "$target" >/dev/null
    [[ -d fuzz/seeds/$target ]] || { echo "fuzz.sh: no seeds for $target in fuzz/seeds" >&2; exit 2; }
done

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/fuzz/target}
host=$(rustc -vV | sed -n 's/^host: //p')
# Coverage is in stable LLVM; only its convenient spelling (-Z sanitizer) is not in stable Rust. Naming the host with
# --target keeps these flags away from build scripts and procedural macros.
export RUSTFLAGS="${RUSTFLAGS:-} --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" --bins

# Runs a target; its report is in the folder of its artifacts.
fuzz() {
    local target=$1 corpus=fuzz/corpus/$1 artifacts=fuzz/artifacts/$1
    mkdir -p "$corpus" "$artifacts"
    "$CARGO_TARGET_DIR/$host/release/$target" "$corpus" "fuzz/seeds/$target" \
        -max_total_time="$seconds" -max_len="$(max_len "$target")" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$artifacts/" -print_final_stats=1 >"$artifacts/last-run.log" 2>&1
}

echo "== ${targets[*]}: $seconds s, side by side"
jobs=()
trap 'kill "${jobs[@]}" 2>/dev/null || :' EXIT
for target in "${targets[@]}"; do
    fuzz "$target" &
    jobs+=($!)
done
failed=0
summary=()
for i in "${!targets[@]}"; do
    target=${targets[i]} artifacts=fuzz/artifacts/${targets[i]}
    log=$artifacts/last-run.log
    if wait "${jobs[i]}"; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        cover=$(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
        summary+=("ok     $target: $runs runs, $cover edges covered")
    else
        failed=1
        artifact=$(sed -n 's/.*Test unit written to \(.*\)$/\1/p' "$log" | tail -n 1)
        grep -m 3 -E 'panicked at|ERROR: libFuzzer|SUMMARY' -A 1 "$log" || tail -n 20 "$log"
        summary+=("FAILED $target: input in ${artifact:-(none written)}, log in $log")
    fi
done

echo
printf '%s\n' "${summary[@]}"
exit $failed

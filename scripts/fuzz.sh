#!/usr/bin/env bash
# Fuzzes what reads foreign bytes: every target, or the one that ONLY names, for SECONDS each (60).
# Needs no nightly toolchain: coverage comes from a pass of the stable compiler, libFuzzer from its
# crate. What it learns stays in target/fuzz/corpus; an input that breaks a target is left in
# target/fuzz/artifacts, and belongs into fuzz/regressions/<target>/ with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
seconds=${SECONDS_EACH:-60}
if [ -n "${ONLY:-}" ]; then
    [ -f "fuzz/fuzz_targets/$ONLY.rs" ] || { echo "there is no target $ONLY; see fuzz/fuzz_targets" >&2; exit 2; }
    targets=$ONLY
else
    targets=$(cd fuzz/fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
fi

# Coverage of everything but build scripts and macros, which the explicit --target leaves out.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
export CARGO_TARGET_DIR=$target
bins=()
for name in $targets; do bins+=(--bin "$name"); done
cargo build --manifest-path fuzz/Cargo.toml --target "$triple" "${bins[@]}"

status=0
for name in $targets; do
    echo "== $name"
    seeds=()
    for folder in "fuzz/corpus/$name" "fuzz/regressions/$name"; do
        [ -d "$folder" ] && seeds+=("$folder")
    done
    mkdir -p "$target/corpus/$name" "$target/artifacts/$name"
    "$target/$triple/debug/$name" "$target/corpus/$name" "${seeds[@]}" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=2048 -max_len=65536 -artifact_prefix="$target/artifacts/$name/" -print_final_stats=0 \
        -verbosity=0 2>"$target/$name.log" && echo "nothing found" || { tail -30 "$target/$name.log"; status=1; }
done
exit "$status"

#!/usr/bin/env bash
# Every test, from a machine with nothing but toolchains: installs packages, builds, runs. Ends with
# one line `N passed, N failed, N skipped`. Needs root: machines, namespaces and clusters are real.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "make test starts machines, network namespaces and database clusters and must be run as root" >&2
    exit 1
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
log=$CARGO_TARGET_DIR/test.log
mkdir -p "$CARGO_TARGET_DIR" target
: > "$log"

scripts/packages.sh || exit 1
scripts/build-static.sh || exit 1
scripts/probe.sh > target/skips.txt || exit 1

# A kernel with what this one may lack, for the lab's virtual machines.
[ -d target/vm/boot ] || worlds/fetch-vm.sh target/vm || exit 1
export ATOLL_LAB_VM=$PWD/target/vm
export INSTA_UPDATE=no

# The program and the example app are parts that end-to-end tests run.
cargo build --profile lab -p atoll -p atoll-lab -p atoll-trial || exit 1
scripts/build-examples.sh || exit 1

status=0
cargo test --profile lab --workspace --no-fail-fast 2>&1 | tee "$log"
[ "${PIPESTATUS[0]}" = 0 ] || status=1

if [ -d interop ]; then
    scripts/interop.sh 2>&1 | tee -a "$log"
    [ "${PIPESTATUS[0]}" = 0 ] || status=1
fi

# Both runners end a suite with a line that counts: cargo's `test result:`, ours `interop result:`.
awk -v skipped="$(grep -c . target/skips.txt)" '
    /^(test|interop) result:/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored + skipped }
' "$log" > target/summary.txt
cat target/skips.txt
cat target/summary.txt
exit "$status"

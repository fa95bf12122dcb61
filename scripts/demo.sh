#!/usr/bin/env bash
# Builds what the demo shows, then runs it: a platform of three regions, led to by BGP, in a lab on this machine.
# ONCE=1 ends after the last step, with 0 only if every step held.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "make demo starts servers in network namespaces and must be run as root" >&2
    exit 1
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export ATOLL_GUEST_BIN=${ATOLL_GUEST_BIN:-$PWD/target/static/atoll-guest}
export ATOLL_SHIM_BIN=${ATOLL_SHIM_BIN:-$PWD/target/static/atoll-shim}

scripts/packages.sh
scripts/build-static.sh
scripts/build-examples.sh hello
cargo build --profile lab -p atoll -p atoll-lab -p atoll-trial

once=()
[ -z "${ONCE:-}" ] || once=(--once)
exec "$CARGO_TARGET_DIR/lab/atoll-demo" "${once[@]}"

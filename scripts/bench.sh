#!/usr/bin/env bash
# Measures the optimised program: bench.sh [name]. Writes bench/results/<name>.json and the rows of
# bench/RESULTS.md; ends with 1 if a gate was missed. Wants a machine with nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "make bench starts servers in network namespaces and must be run as root" >&2
    exit 1
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export ATOLL_GUEST_BIN=${ATOLL_GUEST_BIN:-$PWD/target/static/atoll-guest}
export ATOLL_SHIM_BIN=${ATOLL_SHIM_BIN:-$PWD/target/static/atoll-shim}

scripts/packages.sh
scripts/build-static.sh
scripts/build-examples.sh
scripts/bench-images.sh
# What is measured is optimised; what measures need not be.
cargo build --release -p atoll
cargo build --release -p atoll-catalogue --example footprint
cargo build --release -p atoll-dns --example authority
cargo build --release -p atoll-bench-tunnels
cargo build --profile lab -p atoll-lab -p atoll-trial -p atoll-bench

export ATOLL_BIN=$CARGO_TARGET_DIR/release/atoll
export ATOLL_CATALOGUE_FOOTPRINT=$CARGO_TARGET_DIR/release/examples/footprint
export ATOLL_DNS_AUTHORITY=$CARGO_TARGET_DIR/release/examples/authority
export ATOLL_MESH_TUNNEL=$CARGO_TARGET_DIR/release/atoll-tunnel
export ATOLL_BORINGTUN_DEVICE=$CARGO_TARGET_DIR/release/boringtun-device
only=()
[ -z "${1:-}" ] || only=(--only "$1")
exec "$CARGO_TARGET_DIR/lab/atoll-bench" "${only[@]}"

#!/usr/bin/env bash
# Builds the image whose program says when it began, an OCI layout: target/bench/first.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
build=target/static-build
root=target/bench/first-root layout=target/bench/first

CARGO_TARGET_DIR=$build RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
    cargo build --quiet --profile tiny --target $target -p first-instruction

if ! cmp -s "$build/$target/tiny/first-instruction" "$root/first" || [ ! -f "$layout/index.json" ]; then
    rm -rf "$root"
    mkdir -p "$root/tmp"
    cp "$build/$target/tiny/first-instruction" "$root/first"
    scripts/make-image.sh "$root" "$layout" /first
fi

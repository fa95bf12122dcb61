#!/usr/bin/env bash
# Builds the app as a static program, and an image of it alone: target/examples/hello.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=x86_64-unknown-linux-gnu
build=target/static-build

CARGO_TARGET_DIR=$build RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
    cargo build --quiet --profile tiny --target $target -p hello

root=target/examples/hello-root
if ! cmp -s "$build/$target/tiny/hello" "$root/hello" || [ ! -f target/examples/hello/index.json ]; then
    rm -rf "$root"
    mkdir -p "$root/tmp"
    cp "$build/$target/tiny/hello" "$root/hello"
    scripts/make-image.sh "$root" target/examples/hello /hello
fi

#!/bin/sh
# Builds the two small static programs that atoll-driver embeds into target/static:
# atoll-shim and atoll-guest. Does nothing when they are up to date.
set -eu

cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
build=target/static-build
out=target/static

# Linked against the static C library; position dependent, so that no page needs relocating.
CARGO_TARGET_DIR="$build" \
RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
    cargo build --quiet --locked --profile tiny --target "$target" -p atoll-shim -p atoll-guest

mkdir -p "$out"
for program in atoll-shim atoll-guest; do
    built="$build/$target/tiny/$program"
    # An unchanged file keeps its time, so that nothing that embeds it is built again.
    if ! cmp -s "$built" "$out/$program"; then
        cp "$built" "$out/$program.next"
        mv "$out/$program.next" "$out/$program"
    fi
done

#!/usr/bin/env bash
# Builds the examples' images, OCI layouts in target/examples/<name>: build-examples.sh [name]...
# Without names all of them; what is up to date is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- hello node nginx
for name in "$@"; do
    "examples/$name/image.sh"
done

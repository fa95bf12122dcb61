#!/usr/bin/env bash
# Builds the app's image of Debian's Node.js and the one file next to this: target/examples/node.
set -euo pipefail
cd "$(dirname "$0")/../.."
debian=target/examples/node-debian app=target/examples/node-app

scripts/debian-root.sh "$debian" nodejs
rm -rf "$app"
mkdir -p "$app/app"
cp examples/node/server.js "$app/app/"
IMAGE_ENV=NODE_ENV=production IMAGE_WORKDIR=/app IMAGE_USER=nobody IMAGE_CMD=server.js \
    scripts/make-image.sh "$debian:$app" target/examples/node node

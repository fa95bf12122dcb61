#!/usr/bin/env bash
# Builds the image of Debian's nginx, as it is packaged, with the site next to this: target/examples/nginx.
set -euo pipefail
cd "$(dirname "$0")/../.."
debian=target/examples/nginx-debian site=target/examples/nginx-site

scripts/debian-root.sh "$debian" nginx
rm -rf "$site"
mkdir -p "$site/etc/nginx/sites-enabled" "$site/var/www/html" "$site/var/log/nginx"
cp examples/nginx/site.conf "$site/etc/nginx/sites-enabled/"
cp examples/nginx/index.html "$site/var/www/html/"
# Containers' logs are their output.
ln -s /dev/stdout "$site/var/log/nginx/access.log"
ln -s /dev/stderr "$site/var/log/nginx/error.log"
IMAGE_CMD=$'-g\ndaemon off;' scripts/make-image.sh "$debian:$site" target/examples/nginx nginx

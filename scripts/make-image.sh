#!/usr/bin/env bash
# Makes an OCI layout folder of one layer from a root folder, with nothing but tar and sha256sum:
# make-image.sh <root folder> <layout folder> <entrypoint> [argument...]
# Environment for the image comes from IMAGE_ENV, one NAME=value a line.
set -euo pipefail

root=$1 layout=$2
shift 2

rm -rf "$layout"
mkdir -p "$layout/blobs/sha256"

store() { # store <file>: moves it among the blobs, prints "digest size"
    local digest size
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "$layout/blobs/sha256/$digest"
    echo "$digest $size"
}

json_list() { # json_list <word>...
    local sep='' word
    printf '['
    for word in "$@"; do
        word=${word//\\/\\\\}
        printf '%s"%s"' "$sep" "${word//\"/\\\"}"
        sep=,
    done
    printf ']'
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tar --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 -C "$root" -cf "$work/layer" .
read -r layer layer_size < <(store "$work/layer")

mapfile -t environment < <(printf '%s' "${IMAGE_ENV:-}")
environment=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "${environment[@]}")
cat > "$work/config" <<JSON
{"architecture":"amd64","os":"linux","config":{"Env":$(json_list "${environment[@]}"),"Entrypoint":$(json_list "$@"),"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
JSON
read -r config config_size < <(store "$work/config")

cat > "$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:$layer","size":$layer_size}]}
JSON
read -r manifest manifest_size < <(store "$work/manifest")

cat > "$layout/index.json" <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"amd64","os":"linux"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' > "$layout/oci-layout"

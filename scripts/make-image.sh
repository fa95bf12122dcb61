#!/usr/bin/env bash
# Makes an OCI layout folder from root folders, with nothing but tar and sha256sum. The same folders
# always make the same image.
# make-image.sh <root folder>[:<root folder>...] <layout folder> <entrypoint> [argument...]
# Each folder becomes a layer, the lowest first. The environment says more: IMAGE_ENV (NAME=value, one a
# line), IMAGE_CMD (one argument a line), IMAGE_USER, IMAGE_WORKDIR.
set -euo pipefail

IFS=: read -ra roots <<< "$1"
layout=$2
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

# Only root can have made folders whose owners mean something.
owners=()
[ "$(id -u)" = 0 ] || owners=(--owner=0 --group=0)
layers='' diff_ids=()
for root in "${roots[@]}"; do
    tar --sort=name --mtime=@0 --numeric-owner "${owners[@]}" -C "$root" -cf "$work/layer" .
    read -r digest size < <(store "$work/layer")
    diff_ids+=("sha256:$digest")
    layers+="${layers:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:$digest\",\"size\":$size}"
done

mapfile -t environment < <(printf '%s' "${IMAGE_ENV:-}")
mapfile -t cmd < <(printf '%s' "${IMAGE_CMD:-}")
environment=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "${environment[@]}")
cat > "$work/config" <<JSON
{"architecture":"amd64","os":"linux","config":{"Env":$(json_list "${environment[@]}"),"Entrypoint":$(json_list "$@"),"Cmd":$(json_list "${cmd[@]}"),"User":"${IMAGE_USER:-}","WorkingDir":"${IMAGE_WORKDIR:-/}"},"rootfs":{"type":"layers","diff_ids":$(json_list "${diff_ids[@]}")}}
JSON
read -r config config_size < <(store "$work/config")

cat > "$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[$layers]}
JSON
read -r manifest manifest_size < <(store "$work/manifest")

cat > "$layout/index.json" <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"amd64","os":"linux"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' > "$layout/oci-layout"

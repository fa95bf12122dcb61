#!/usr/bin/env bash
# Runs foreign clients against a platform of one node. Ends with `interop result: … N passed; N failed`.
set -uo pipefail
cd "$(dirname "$0")/.."

# A server claims addresses and leaves machines running when it ends: it gets a network of its own.
if [ -z "${INTEROP_ISOLATED:-}" ]; then
    (cd interop/fly/fly-admin && npm ci --silent --no-audit --no-fund) || exit 1
    INTEROP_ISOLATED=1 exec unshare --net --mount -- "$0"
fi
ip link set dev lo up

atoll=${CARGO_TARGET_DIR:-$PWD/target}/lab/atoll
state=$(mktemp -d)
passed=0 failed=0
# The processes of other users read what lies below.
chmod 755 "$state"

"$atoll" up --state "$state/state" --name interop --region ams --api 127.0.0.1:0 --rpc 127.0.0.1:0 \
    --worker-rpc 127.0.0.1:0 --http 127.0.0.1:0 --https 127.0.0.1:0 --backhaul 127.0.0.1:0 \
    --advertise 127.0.0.1 --ready-file "$state/ready" > "$state/log" 2>&1 &
server=$!
cleanup() {
    "$atoll" apps destroy interop --yes > /dev/null 2>&1
    kill "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    local mark
    mark=$(jq -r '.instance[:8]' "$state/state/node.json")
    find /sys/fs/cgroup -maxdepth 2 -type d -name "atoll-$mark" -exec rmdir {} + 2>/dev/null
    rm -rf "$state"
}
trap cleanup EXIT

for _ in $(seq 200); do
    [ -f "$state/ready" ] && break
    kill -0 "$server" 2>/dev/null || { cat "$state/log" >&2; echo "interop result: FAILED. 0 passed; 1 failed"; exit 1; }
    sleep 0.1
done
export ATOLL_API ATOLL_TOKEN
ATOLL_API=$(jq -r .api "$state/ready")
ATOLL_TOKEN=$(cat "$state/state/root.token")

run() { # run <name> <command...>
    if "${@:2}"; then
        passed=$((passed + 1))
        echo "interop $1 ... ok"
    else
        failed=$((failed + 1))
        echo "interop $1 ... FAILED"
    fi
}

fly_admin() {
    (cd interop/fly/fly-admin && node --test --test-reporter=spec lifecycle.test.js)
}

config_of() { # the digest of the configuration of the image in an OCI layout
    local manifest
    manifest=$(jq -r '.manifests[0].digest' "$1/index.json")
    jq -r .config.digest "$1/blobs/sha256/${manifest#sha256:}"
}

registry() { # push with one tool, pull with two others, and find the same image
    local host=${ATOLL_API#http://} layout=$state/pulled
    skopeo copy --quiet --dest-tls-verify=false --dest-creds "any:$ATOLL_TOKEN" \
        oci:target/examples/hello "docker://$host/interop/pushed:v1" &&
        buildah --root "$state/buildah" --runroot "$state/buildah-run" --storage-driver vfs \
            pull --quiet --tls-verify=false --creds "any:$ATOLL_TOKEN" "$host/interop/pushed:v1" > /dev/null &&
        skopeo copy --quiet --src-tls-verify=false --src-creds "any:$ATOLL_TOKEN" \
            "docker://$host/interop/pushed:v1" "oci:$layout" &&
        # Tools pack layers anew; the configuration names their unpacked content.
        [ "$(config_of "$layout")" = "$(config_of target/examples/hello)" ] &&
        ! skopeo inspect --tls-verify=false --creds any:wrong "docker://$host/interop/pushed:v1" > /dev/null 2>&1
}

run "create the app" "$atoll" apps create interop
run "import the image" "$atoll" image import target/examples/hello interop/web:latest
run "skopeo and buildah" registry
run "fly-admin" fly_admin

[ "$failed" = 0 ] && verdict=ok || { verdict=FAILED; cat "$state/log" >&2; }
echo "interop result: $verdict. $passed passed; $failed failed"
[ "$failed" = 0 ]

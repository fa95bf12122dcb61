#!/usr/bin/env bash
# Installs the Debian packages that build, tests and demo use. Does nothing when all are there.
set -euo pipefail
cd "$(dirname "$0")/.."

# What each is for stands in docs/development.md.
packages=(
    iproute2 nftables           # machines' networks, the lab
    iputils-ping                # packets that are counted, in trials
    bird2                       # BGP in the lab's routers and under the guard
    busybox-static              # smallest possible root for driver tests
    skopeo buildah umoci        # foreign image tools that must work with our registry
    postgresql                  # the second engine of the store
    runc                        # the peer in the start benchmark
    wireguard-go iperf3 ethtool # the mesh benchmark: a peer, its load, cards that cut nothing
    wireguard-tools             # the stock client of users' devices, with wireguard-go
    mmdebstrap                  # example images made of Debian packages
    e2fsprogs                   # disks of the lab's virtual machines
    dnsperf                     # asks both DNS servers of the dns benchmark
    knot bind9-dnsutils         # a foreign DNS server and clients that DNS must get along with
    faketime                    # a joining server with another clock
    curl jq ca-certificates
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

[ "$(id -u)" = 0 ] || { echo "these packages are missing and only root can install them: ${missing[*]}" >&2; exit 1; }
# Tests start clusters of their own; the package must not start one.
mkdir -p /etc/postgresql-common
grep -qs '^create_main_cluster = false' /etc/postgresql-common/createcluster.conf ||
    echo 'create_main_cluster = false' >> /etc/postgresql-common/createcluster.conf
# Nor may the routing daemon serve this machine, now or at boot: worlds and guards start their own.
if [[ " ${missing[*]} " == *" bird2 "* ]]; then
    mkdir -p /etc/systemd/system
    [ -e /etc/systemd/system/bird.service ] || ln -s /dev/null /etc/systemd/system/bird.service
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

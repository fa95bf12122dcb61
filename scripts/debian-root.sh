#!/usr/bin/env bash
# Makes a root folder of Debian packages with what they depend on: debian-root.sh <folder> <package>...
# Packages come from where this machine's apt gets them, checked by its keys. They are unpacked, and
# their scripts are not run: users and a shell are all that is added. A folder that was made of the same
# packages is kept, so that only the first build asks the network.
set -euo pipefail

folder=$1
shift
# Any change of this script makes the folders anew.
made_of="$(sha256sum < "$0") $*"
[ "$(cat "$folder.packages" 2>/dev/null)" != "$made_of" ] || exit 0

[ "$(id -u)" = 0 ] || { echo "unpacking Debian packages with their owners needs root" >&2; exit 1; }
sources() {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null || cat /etc/apt/sources.list
}

rm -rf "$folder" "$folder.packages"
packages=base-files,base-passwd,busybox-static
for package in "$@"; do packages+=,$package; done
# What nobody reads in a machine is left out.
exclude=()
for path in doc info lintian locale man; do exclude+=(--dpkgopt="path-exclude=/usr/share/$path/*"); done
if ! said=$(sources | mmdebstrap --quiet --variant=extract --include="$packages" "${exclude[@]}" '' "$folder" - 2>&1); then
    echo "cannot make a root of $*: $said" >&2
    exit 1
fi

# The folders of Debian's own installations, and what the scripts of these packages would have made.
mkdir -p "$folder/proc" "$folder/sys" "$folder/dev" "$folder/bin"
ln -sf busybox "$folder/bin/sh"
for file in passwd group; do cp "$folder/usr/share/base-passwd/$file.master" "$folder/etc/$file"; done
# Device nodes would be of no effect, and what tells of the building machine does not belong here:
# machines get their own.
find "$folder/dev" -mindepth 1 -delete
rm -rf "$folder"/etc/{apt,hostname,resolv.conf}
rm -rf "$folder"/var/{cache,lib}/{apt,dpkg} "$folder"/var/log/*
echo "$made_of" > "$folder.packages"

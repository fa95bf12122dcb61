#!/bin/sh
# Fetches QEMU and Debian's cloud kernel for hosts with kind = "vm" and unpacks them into a folder,
# without installing anything. Name the folder in ATOLL_LAB_VM when running such a world.
set -eu
folder=${1:?usage: fetch-vm.sh <folder>}
mkdir -p "$folder/packages/partial"
packages=$(cd "$folder/packages" && pwd)
apt-get install --yes --quiet --no-install-recommends --download-only --reinstall \
    -o Dir::Cache::archives="$packages" qemu-system-x86 linux-image-cloud-amd64
for package in "$packages"/*.deb; do
    dpkg-deb --extract "$package" "$folder"
done
rm -r "$packages"

#!/usr/bin/env bash
# Prints, one a line, the capabilities that this machine lacks and what is therefore not tested here.
set -u

ip link add dev atl-probe-wg type wireguard 2>/dev/null && ip link del dev atl-probe-wg ||
    echo "kernel-wireguard: no module; the kernel mesh backend is not tested"
grep -qwE 'vmx|svm' /proc/cpuinfo && [ -e /dev/kvm ] ||
    echo "kvm: no hardware virtualisation; Firecracker is not tested"
exit 0

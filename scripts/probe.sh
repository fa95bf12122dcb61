#!/usr/bin/env bash
# Prints, one a line, the capabilities that this machine lacks and what is therefore not tested here.
set -u

grep -qwE 'vmx|svm' /proc/cpuinfo && [ -e /dev/kvm ] ||
    echo "kvm: no hardware virtualisation; Firecracker is not tested"
exit 0

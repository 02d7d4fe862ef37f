#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that the tests and the benchmarks call, if they are missing: a C compiler for
# the race detector, iproute2, and iptables for the benchmark's sidecars.
set -eu
need=()
command -v gcc >/dev/null || need+=(gcc libc6-dev)
command -v ip >/dev/null || need+=(iproute2)
command -v iptables >/dev/null || need+=(iptables)
[ ${#need[@]} -eq 0 ] && exit 0
command -v apt-get >/dev/null || { echo "missing: ${need[*]}; install them by this system's package manager" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "missing: ${need[*]}; as root: apt-get install ${need[*]}" >&2; exit 1; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null

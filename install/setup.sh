#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that the demo, the tests and the benchmarks call, if they are missing.
set -eu
need=()
for c in ip:iproute2 curl:curl wrk:wrk iptables:iptables; do
  command -v "${c%%:*}" >/dev/null || need+=("${c#*:}")
done
[ ${#need[@]} -eq 0 ] && exit 0
command -v apt-get >/dev/null || { echo "missing: ${need[*]}; install them by this system's package manager" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "missing: ${need[*]}; as root: apt-get install ${need[*]}" >&2; exit 1; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null

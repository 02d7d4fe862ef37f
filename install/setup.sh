#!/usr/bin/env bash
# setup.sh [COMMAND...]: installs the Debian or Ubuntu packages of the commands that are missing. Without arguments, of
# those that the tests and the benchmarks call: a C compiler for the race detector, iproute2, procps, iptables for the
# benchmark's sidecars, Chromium and curl for the service map's page.
set -eu
[ $# -gt 0 ] || set -- gcc ip iptables sysctl chromium curl
need=()
for command in "$@"; do
  command -v "$command" >/dev/null && continue
  case $command in
    gcc) need+=(gcc libc6-dev) ;;
    ip) need+=(iproute2) ;;
    promtool) need+=(prometheus) ;;
    sysctl) need+=(procps) ;;
    *) need+=("$command") ;;
  esac
done
[ ${#need[@]} -eq 0 ] && exit 0
command -v apt-get >/dev/null || { echo "missing: ${need[*]}; install them by this system's package manager" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "missing: ${need[*]}; as root: apt-get install ${need[*]}" >&2; exit 1; }
said=$( (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}") 2>&1) || {
  printf '%s\n' "$said" "apt-get cannot install ${need[*]}" >&2
  exit 1
}

#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that the nodes of test/cluster call, if they are missing: the container runtime
# below containerd, CNI plugins, what a kubelet calls, iproute2, and the Prometheus that scrapes the cluster.
set -eu
need=()
for tool in runc conntrack ethtool socat; do command -v $tool >/dev/null || need+=("$tool"); done
command -v ip >/dev/null || need+=(iproute2)
command -v prometheus >/dev/null || need+=(prometheus)
[ -x /usr/lib/cni/bridge ] || need+=(containernetworking-plugins)
[ ${#need[@]} -eq 0 ] && exit 0
command -v apt-get >/dev/null || { echo "missing: ${need[*]}; install them by this system's package manager" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "missing: ${need[*]}; as root: apt-get install ${need[*]}" >&2; exit 1; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null

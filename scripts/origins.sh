#!/usr/bin/env bash
# The origins behind the edge that Debian has not, from PyPI, pinned with their hashes. Says nothing and takes no time when they
# are there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

pins=scripts/origins.txt
installed=$SIGNET_TOOLS/origins
cmp -s "$pins" "$installed/pins.txt" && exit 0

echo "installing $(grep -o '^gunicorn==[^ ]*' "$pins") ..." >&2
rm -rf "$installed.new"
# Debian's own Python, which runs them.
/usr/bin/python3 -m pip install --quiet --root-user-action=ignore --require-hashes --no-deps --only-binary :all: \
  --target "$installed.new" --requirement "$pins" >&2
cp "$pins" "$installed.new/pins.txt"
rm -rf "$installed"
mv "$installed.new" "$installed" # whole or not at all

#!/usr/bin/env bash
# Licences, bans and sources of every dependency (deny.toml). Advisories need a network that we do not have here: staying
# on the newest patch release is the substitute (Cargo.lock).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

deny=$SIGNET_TOOLS/bin/cargo-deny
if [[ ! -x $deny ]]; then
  echo "installing cargo-deny (about 3 min, once) ..."
  if ! install_tool cargo-deny@0.20.2; then
    echo "cargo-deny cannot be installed here; scripts/walls.sh still holds the bans" >&2
    exit 0
  fi
  rm -rf "$SIGNET_TOOLS/build"
fi
cargo fetch --locked --quiet # of every platform: cargo-deny reads them all
"$deny" --offline check licenses bans sources

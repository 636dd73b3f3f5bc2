#!/usr/bin/env bash
# Builds everything that the tests need: the binaries under test, the test binaries, and the mutant proxy.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

# One call with every target, so that it has the features that `cargo test --workspace` will have, and nothing is built twice.
cargo build --locked --workspace --all-targets

# The mutant has the same file name as the real proxy. It is built first and moved aside, then the real one again (only
# linked, its objects are there); the check below would notice if they were ever swapped.
marker=spiffe://cluster.local/ns/mutant/sa/mutant
has_marker() { grep -qF "$marker" "$1"; }
mkdir -p "$(dirname "$SIGNET_MUTANT_PROXY")"
cargo build --locked -p signet-proxy --bins --features mutant-no-san-check
cp --reflink=auto -f "$SIGNET_BIN_DIR/signet-proxy" "$SIGNET_MUTANT_PROXY.new"
mv -f "$SIGNET_MUTANT_PROXY.new" "$SIGNET_MUTANT_PROXY"
cargo build --locked --workspace --all-targets
has_marker "$SIGNET_MUTANT_PROXY" || { echo "the mutant proxy is not a mutant" >&2; exit 1; }
if has_marker "$SIGNET_BIN_DIR/signet-proxy"; then
  echo "signet-proxy was built with a mutant: $SIGNET_BIN_DIR/signet-proxy" >&2
  exit 1
fi

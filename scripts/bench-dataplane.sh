#!/usr/bin/env bash
# Signet's data plane beside HAProxy, nginx and Envoy (tests/bench; docs/bench/README.md). Arguments go to signet-bench run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # where Debian keeps nginx and haproxy
SIGNET_BENCH_ENVOY=$(scripts/bench-tools.sh)
export SIGNET_BENCH_ENVOY
release=$CARGO_TARGET_DIR/$SIGNET_TARGET/release

# All systems: also Signet with X25519 alone, beside the peers that have nothing else. It has the same file name as the real
# proxy: built first and moved aside, then the real one again (only linked where its objects are there). The proof in the
# tables says what each of them negotiated.
if [[ " $* " != *" --systems "* ]]; then
  x25519=$CARGO_TARGET_DIR/bench-x25519/signet-proxy
  mkdir -p "$(dirname "$x25519")"
  cargo build --locked --release -p signet-proxy --bins --features bench-x25519
  cp --reflink=auto -f "$release/signet-proxy" "$x25519.new"
  mv -f "$x25519.new" "$x25519"
  set -- --x25519-proxy "$x25519" "$@"
fi
cargo build --locked --release -p signet-cli -p signet-proxy --bins # as the image is built: the bench adds no feature to it
cargo build --locked --release -p signet-bench --bins
exec "$release/signet-bench" run "$@"

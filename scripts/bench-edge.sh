#!/usr/bin/env bash
# Signet's edge beside HAProxy, nginx and Envoy (tests/bench/src/edge; docs/bench/README.md). Arguments go to signet-bench edge.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # where Debian keeps nginx and haproxy
SIGNET_BENCH_ENVOY=$(scripts/bench-tools.sh)
export SIGNET_BENCH_ENVOY
release=$CARGO_TARGET_DIR/$SIGNET_TARGET/release

cargo build --locked --release -p signet-cli -p signet-gateway --bins # as the image is built
cargo build --locked --release -p signet-bench --bins
exec "$release/signet-bench" edge "$@"

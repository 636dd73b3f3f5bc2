#!/usr/bin/env bash
# Signet's data plane beside HAProxy, nginx and Envoy (tests/bench; docs/bench/README.md). Arguments go to signet-bench run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # where Debian keeps nginx and haproxy
SIGNET_BENCH_ENVOY=$(scripts/bench-tools.sh)
export SIGNET_BENCH_ENVOY
cargo build --locked --release -p signet-cli -p signet-proxy -p signet-bench --bins
exec "$CARGO_TARGET_DIR/$SIGNET_TARGET/release/signet-bench" run "$@"

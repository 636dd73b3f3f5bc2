#!/usr/bin/env bash
# The [bench] lines of docs/acceptance.md but those beside peers, which scripts/bench-dataplane.sh and bench-edge.sh measure. In the
# profile that ships; each leaves docs/bench/<line>.json.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

# The CA's own measurement knows no git: its record gets the commit here.
issue=$(mktemp)
trap 'rm -f "$issue"' EXIT
SIGNET_BENCH_OUT=$issue cargo bench --locked -p signet-ca --bench issue
mkdir -p docs/bench
commit=$(git rev-parse HEAD)
sed "1a\\  \"commit\": \"$commit\"," "$issue" >docs/bench/3.6a.json

export SIGNET_BIN_DIR="$CARGO_TARGET_DIR/$SIGNET_TARGET/release"
cargo build --locked --release -p signet-cli -p signet-proxy -p signet-gateway --bins # as the image is built
cargo build --locked --release -p signet-cluster --bins
cargo test --locked --release -p signet-tests --test bench -- --ignored --test-threads=1 --nocapture "$@"

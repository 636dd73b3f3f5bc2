#!/usr/bin/env bash
# The [bench] lines of docs/acceptance.md: ignored tests of tests/tests/bench.rs. Each leaves docs/bench/<line>.json.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh
export SIGNET_BIN_DIR="$CARGO_TARGET_DIR/release"
cargo build --locked --release -p signet-cli -p signet-proxy --bins
cargo test --locked --release -p signet-tests --test bench -- --ignored --test-threads=1 --nocapture "$@"

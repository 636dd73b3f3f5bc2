#!/usr/bin/env bash
# The [soak] lines of docs/acceptance.md: ignored tests of tests/tests/soak.rs. Each leaves docs/soak/<line>.json.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh
# The promises are about the product, so the product is built as it ships.
export SIGNET_BIN_DIR="$CARGO_TARGET_DIR/$SIGNET_TARGET/release"
cargo build --locked --release -p signet-cli -p signet-proxy --bins
cargo test --locked -p signet-tests --test soak -- --ignored --test-threads=1 --nocapture "$@"

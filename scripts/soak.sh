#!/usr/bin/env bash
# The [soak] lines of docs/acceptance.md: ignored tests of tests/tests/soak.rs, and of tests/cluster/tests/mesh on a cluster of
# their own. Each leaves docs/soak/<line>.json. Arguments select tests by name, as for cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh
# The promises are about the product, so the product is built as it ships.
export SIGNET_BIN_DIR="$CARGO_TARGET_DIR/$SIGNET_TARGET/release"
cargo build --locked --release -p signet-cli -p signet-proxy -p signet-gateway -p signet-cluster --bins
cargo test --locked -p signet-tests --test soak -- --ignored --test-threads=1 --nocapture "$@"

export SIGNET_CLUSTER=soak
cluster=$SIGNET_BIN_DIR/signet-cluster
"$cluster" image-dev "$SIGNET_BIN_DIR"
trap '"$cluster" down' EXIT
"$cluster" up
cargo test --locked --workspace --test mesh -- --ignored --test-threads=1 --nocapture "$@"

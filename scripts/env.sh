# Where things are built; sourced by the other scripts, so that each also works on its own.
# shellcheck shell=bash
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/signet/target}"
# .cargo/config.toml names a target, so cargo builds below its name.
SIGNET_TARGET=$(rustc -vV | sed -n 's/^host: //p')
export SIGNET_TARGET
export SIGNET_BIN_DIR="${SIGNET_BIN_DIR:-$CARGO_TARGET_DIR/$SIGNET_TARGET/debug}"
export SIGNET_MUTANT_PROXY="${SIGNET_MUTANT_PROXY:-$CARGO_TARGET_DIR/mutant/signet-proxy}"
export SIGNET_TOOLS="${SIGNET_TOOLS:-$HOME/.cache/signet/tools}"
export SIGNET_TEST_RESULTS="${SIGNET_TEST_RESULTS:-$HOME/.cache/signet/test-results.txt}"

# install_tool CRATE@VERSION: a program of others, built as they do. RUSTFLAGS, even empty, replaces .cargo/config.toml's.
install_tool() {
  RUSTFLAGS='' CARGO_TARGET_DIR="$SIGNET_TOOLS/build" cargo install --quiet --locked --root "$SIGNET_TOOLS" "$1"
}

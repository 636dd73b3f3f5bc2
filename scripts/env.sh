# Where things are built; sourced by the other scripts, so that each also works on its own.
# shellcheck shell=bash
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/signet/target}"
export SIGNET_BIN_DIR="${SIGNET_BIN_DIR:-$CARGO_TARGET_DIR/debug}"
export SIGNET_MUTANT_PROXY="${SIGNET_MUTANT_PROXY:-$CARGO_TARGET_DIR/mutant/signet-proxy}"
export SIGNET_TOOLS="${SIGNET_TOOLS:-$HOME/.cache/signet/tools}"
export SIGNET_TEST_RESULTS="${SIGNET_TEST_RESULTS:-$HOME/.cache/signet/test-results.txt}"

#!/usr/bin/env bash
# The image that ships, in the release profile: image.sh [ARCHITECTURE...]. One architecture (this machine's by default)
# is an image, several are one index over an image each. Leaves an OCI archive and says where.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

declare -A target_of=([amd64]=x86_64-unknown-linux-gnu [arm64]=aarch64-unknown-linux-gnu)
declare -A compiler_of=([amd64]=x86_64-linux-gnu-gcc [arm64]=aarch64-linux-gnu-gcc)
# What Debian's compiler for another processor consists of, as scripts/apt.sh takes it.
declare -A packages_of=(
  [amd64]="x86_64-linux-gnu-gcc=gcc-x86-64-linux-gnu /usr/x86_64-linux-gnu/lib/libc.a=libc6-dev-amd64-cross"
  [arm64]="aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu /usr/aarch64-linux-gnu/lib/libc.a=libc6-dev-arm64-cross"
)

architectures=("$@")
if ((!${#architectures[@]})); then
  for architecture in "${!target_of[@]}"; do
    [[ ${target_of[$architecture]} != "$SIGNET_TARGET" ]] || architectures=("$architecture")
  done
fi

# All that is missing, before the first minutes of compiling.
for architecture in "${architectures[@]}"; do
  target=${target_of[$architecture]:-}
  [[ -n $target ]] || { echo "image.sh: no architecture $architecture; there are: ${!target_of[*]}" >&2; exit 2; }
  [[ $target != "$SIGNET_TARGET" ]] || continue
  read -ra packages <<<"${packages_of[$architecture]}"
  scripts/apt.sh "${packages[@]}"
  rustup target add "$target" || { echo "image.sh: Rust for $architecture needs: rustup target add $target" >&2; exit 1; }
done

cargo build --locked --workspace --all-targets # all, so that nothing is built twice: CONTRIBUTING.md
binaries=()
for architecture in "${architectures[@]}"; do
  target=${target_of[$architecture]}
  if [[ $target != "$SIGNET_TARGET" ]]; then
    linker=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
    export "$linker=${compiler_of[$architecture]}"
  fi
  echo "building signet and signet-proxy for $architecture (release profile, some minutes) ..." >&2
  cargo build --locked --release --target "$target" -p signet-cli -p signet-proxy -p signet-gateway --bins
  binaries+=("$architecture=$CARGO_TARGET_DIR/$target/release")
done
"$SIGNET_BIN_DIR/signet-cluster" image "${binaries[@]}"

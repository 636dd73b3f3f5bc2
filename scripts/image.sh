#!/usr/bin/env bash
# The image that ships, in the release profile: image.sh [ARCHITECTURE...]. One architecture (this machine's by default)
# is an image, several are one index over an image each. Leaves an OCI archive and says where.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

declare -A target_of=([amd64]=x86_64-unknown-linux-gnu [arm64]=aarch64-unknown-linux-gnu)
declare -A compiler_of=([amd64]=x86_64-linux-gnu-gcc [arm64]=aarch64-linux-gnu-gcc)
declare -A package_of=([amd64]=gcc-x86-64-linux-gnu [arm64]=gcc-aarch64-linux-gnu)

architectures=("$@")
if ((!${#architectures[@]})); then
  for architecture in "${!target_of[@]}"; do
    [[ ${target_of[$architecture]} != "$SIGNET_TARGET" ]] || architectures=("$architecture")
  done
fi

# All that is missing, before the first minutes of compiling.
missing=()
for architecture in "${architectures[@]}"; do
  target=${target_of[$architecture]:-}
  [[ -n $target ]] || { echo "image.sh: no architecture $architecture; there are: ${!target_of[*]}" >&2; exit 2; }
  [[ $target != "$SIGNET_TARGET" ]] || continue
  rustup target list --installed | grep -qx "$target" || missing+=("rustup target add $target")
  command -v "${compiler_of[$architecture]}" >/dev/null || missing+=("apt-get install ${package_of[$architecture]}")
done
if ((${#missing[@]})); then
  echo "image.sh: compiling for another processor needs:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
fi

cargo build --locked -p signet-cluster
binaries=()
for architecture in "${architectures[@]}"; do
  target=${target_of[$architecture]}
  if [[ $target != "$SIGNET_TARGET" ]]; then
    linker=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
    export "$linker=${compiler_of[$architecture]}"
  fi
  echo "building signet and signet-proxy for $architecture (release profile, some minutes) ..." >&2
  cargo build --locked --release --target "$target" -p signet-cli -p signet-proxy --bins
  binaries+=("$architecture=$CARGO_TARGET_DIR/$target/release")
done
"$SIGNET_BIN_DIR/signet-cluster" image "${binaries[@]}"

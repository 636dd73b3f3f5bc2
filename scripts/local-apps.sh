#!/usr/bin/env bash
# Installs JupyterLab and WsgiDAV, which the test of `signet local` in a browser serves, with the versions and hashes of
# tests/cluster/images (made by pin.py there). Prints the directory of their programs; takes no time when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=(tests/cluster/images/requirements-{jupyterlab,wsgidav}.txt)
version=$(cat "${requirements[@]}" | sha256sum | cut -c1-16)
home="$HOME/.cache/signet/local-apps/$version"
if [[ ! -e $home/complete ]]; then
  rm -rf "$home"
  mkdir -p "$(dirname "$home")"
  # Debian's Python, which the requirements are for: what else is on PATH may be of another version.
  /usr/bin/python3 -m venv "$home" >&2
  arguments=()
  for file in "${requirements[@]}"; do arguments+=(--requirement "$file"); done
  "$home/bin/pip" --quiet --disable-pip-version-check install --require-hashes --only-binary=:all: "${arguments[@]}" >&2
  touch "$home/complete"
fi
echo "$home/bin"

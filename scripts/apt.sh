#!/usr/bin/env bash
# Installs the Debian packages whose real programs the tests drive, and those of the arguments (program=package). Says nothing
# and takes no time when all are there.
set -euo pipefail

# program, or a file's path -> package; PATH gets sbin, where Debian keeps nginx
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
declare -A package_of=(
  [curl]=curl
  [nginx]=nginx
  [redis-server]=redis-server
  [redis-cli]=redis-tools
  [psql]=postgresql-client
  [iperf3]=iperf3
  [chromium]=chromium
  [certutil]=libnss3-tools
  [/usr/lib/python3.11/ensurepip/__init__.py]=python3-venv # of scripts/local-apps.sh
  [setpriv]=util-linux
  # origins behind the edge; Python's is what scripts/origins.sh installs
  [node]=nodejs
  [/usr/bin/python3]=python3
  [/usr/lib/python3/dist-packages/pip]=python3-pip
  # DNS servers that take updates signed by TSIG
  [knotd]=knot
  [named]=bind9
  [dig]=bind9-dnsutils
  # the cluster's nodes and what builds them
  [ip]=iproute2
  [nft]=nftables
  [tcpdump]=tcpdump
  [dpkg-deb]=dpkg
  [pip3]=python3-pip # wheels, for its images
  [pkg-config]=pkg-config
  [sysctl]=procps
  [/usr/include/seccomp.h]=libseccomp-dev # of runc
)
for pair in "$@"; do package_of[${pair%%=*}]=${pair#*=}; done

missing=()
for program in "${!package_of[@]}"; do
  [[ -e $program ]] || command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
# The server's programs are not on PATH: /usr/lib/postgresql/<version>/bin/postgres.
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
((${#missing[@]})) || exit 0

cannot() {
  echo "apt.sh: $1" >&2
  echo "apt.sh: the tests drive real programs; install them by hand: ${missing[*]}" >&2
  exit 1
}

command -v apt-get >/dev/null || cannot "this machine has no apt-get"
as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || cannot "not root, and no sudo"
  as_root=(sudo)
fi

# The tests start their own servers, as an unprivileged user: no daemon of the packages may start by itself.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

echo "installing ${missing[*]} ..."
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}
lists=/var/lib/apt/lists
if [[ -z $(find "$lists" -maxdepth 1 -name '*Packages*' -mtime -1 -print -quit 2>/dev/null) ]]; then
  apt_get update || cannot "apt-get update failed"
fi
apt_get install -y --no-install-recommends "${missing[@]}" || cannot "apt-get install failed"

#!/usr/bin/env python3
"""Prints a requirements file: what the named packages need today, each in one version, with the hashes of its wheels for
amd64 and arm64. Debian 12's Python and libc are meant, as in src/images/python.rs; run it with a Python of the same version.

    tests/cluster/images/pin.py jupyterlab ipykernel > tests/cluster/images/requirements-jupyterlab.txt
    tests/cluster/images/pin.py wsgidav cheroot > tests/cluster/images/requirements-wsgidav.txt
"""
import json, subprocess, sys

pins = {}
for machine in ("x86_64", "aarch64"):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-",
           "--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--target=/nonexistent"]
    pip += [f"--platform={libc}_{machine}" for libc in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
    report = json.loads(subprocess.run(pip + sys.argv[1:], check=True, capture_output=True).stdout)
    for package in report["install"]:
        pin = "{name}=={version}".format(**package["metadata"])
        pins.setdefault(pin, {})[package["download_info"]["archive_info"]["hashes"]["sha256"]] = None
print(f"# {' and '.join(sys.argv[1:])}, with all that they need, for CPython 3.11 (Debian 12) on amd64 and arm64. Made by pin.py.")
for pin in sorted(pins, key=str.lower):
    print(pin + "".join(f" \\\n    --hash=sha256:{wheel}" for wheel in pins[pin]))

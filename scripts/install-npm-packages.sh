#!/usr/bin/env bash
# Installs the peers of tests/interop that come from npm, in the versions of its lock file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../tests/interop"

installed=node_modules/.package-lock.json
if [[ -f $installed && ! package-lock.json -nt $installed ]]; then
    exit 0
fi
npm ci --no-audit --no-fund
touch "$installed"

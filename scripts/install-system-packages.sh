#!/usr/bin/env bash
# Installs the Debian packages that groups of tests need, where they are missing.
#
#     scripts/install-system-packages.sh compilers node chromium
#
# What belongs here: tools that come from the system. What does not: npm and Python packages.
# Nothing is skipped: a tool that is missing and cannot be installed is an error.
set -euo pipefail

works_with_sanitizers() {
    command -v "$1" >/dev/null || return 1
    local scratch status=0
    scratch=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$scratch/empty.c"
    # The compiler may be there without the run-time library of the sanitizers.
    "$1" -fsanitize=address,undefined -o "$scratch/empty" "$scratch/empty.c" 2>/dev/null || status=1
    rm -r "$scratch"
    return $status
}

# Each function prints what is missing, as names of packages.
missing_compilers() {
    works_with_sanitizers gcc || echo gcc libc6-dev
    works_with_sanitizers clang-16 || works_with_sanitizers clang || {
        if apt-cache show clang-16 >/dev/null 2>&1; then
            echo clang-16 libclang-rt-16-dev
        else
            echo clang
        fi
    }
}

missing_node() {
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
}

missing_chromium() {
    command -v chromium >/dev/null || echo chromium
}

missing_openssl() {
    command -v openssl >/dev/null || echo openssl
}

has_daemon() {
    command -v "$1" >/dev/null || [[ -x /usr/sbin/$1 ]]
}

# HTTP: tinyproxy with passwords, squid over TLS. SOCKS: microsocks with passwords, dante for version 4.
missing_proxies() {
    has_daemon tinyproxy || echo tinyproxy
    has_daemon squid || echo squid
    has_daemon microsocks || echo microsocks
    has_daemon danted || echo dante-server
}

missing_fronts() {
    has_daemon nginx || echo nginx
    has_daemon haproxy || echo haproxy
}

missing_curl() {
    command -v curl >/dev/null || echo curl
}

missing_packages() {
    local group
    for group in "$@"; do
        "missing_$group"
    done
}

for group in "$@"; do
    if ! declare -F "missing_$group" >/dev/null; then
        echo "$0: no such group: $group" >&2
        exit 2
    fi
done
# Two environments may want something at once: apt-get would give up.
exec 9<"${BASH_SOURCE[0]}"
flock 9
[[ -n $(missing_packages "$@") ]] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "$0: needs $(missing_packages "$@" | tr '\n' ' ')(Debian's names), and there is no apt-get" >&2
    exit 1
fi
as_root=()
if [[ $(id -u) != 0 ]]; then
    as_root=(sudo --non-interactive)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
# Asked again: only an up-to-date list tells which versions there are.
mapfile -t packages < <(missing_packages "$@" | tr ' ' '\n')
echo "installing ${packages[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${packages[@]}" \
    9<&- # a daemon that the installation starts must not keep the lock

if [[ -n $(missing_packages "$@") ]]; then
    echo "$0: still missing: $(missing_packages "$@" | tr '\n' ' ')" >&2
    exit 1
fi

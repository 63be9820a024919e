#!/bin/sh
# Compiles and runs the codec's micro-benchmark: benchmarks/codec/run.sh [compiler]
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${1:-cc}" -std=gnu11 -O3 -Wall -Wextra -Werror -Icsrc -o "$work/codec" benchmarks/codec/codec.c \
    csrc/cpu.c csrc/decoder.c csrc/frame.c csrc/mask.c csrc/pack.c csrc/scratch.c csrc/utf8.c
"$work/codec"

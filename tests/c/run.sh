#!/usr/bin/env bash
# The C tests: tests/c/run.sh [--exhaustive]
#
# Compiles all of csrc/ without a warning, then every tests/c/test_*.c with ASan
# and UBSan, by gcc and by clang, with and without SIMD, and runs it.  Fails if a
# compiler is missing.  --exhaustive adds, without sanitizers, all strings of four
# bytes and many more streams: some minutes.  Threads are tested under TSan, too.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

clang=
for candidate in "${CLANG:-clang-16}" clang; do
    if command -v "$candidate" >"$work/found"; then
        clang=$candidate
        break
    fi
done
gcc=${GCC:-gcc}
if [ -z "$clang" ] || ! command -v "$gcc" >"$work/found"; then
    echo "tests/c/run.sh needs gcc and clang (clang-16 with libclang-rt-16-dev)" >&2
    exit 1
fi

standard=(-std=gnu11 -pthread -Icsrc -Itests/c)
warnings=(-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef
    -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror)
sanitizers=(-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined
    -fno-sanitize-recover=all)
sources=(csrc/[!_]*.c)
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1

for compiler in "$gcc" "$clang"; do
    for simd in "" -DSYNCWS_NO_SIMD; do
        echo "== $compiler $simd"
        objects=()
        for source in "${sources[@]}"; do
            object=$work/$(basename "$source" .c).o
            "$compiler" "${standard[@]}" "${warnings[@]}" ${simd:+"$simd"} -O3 -c "$source" \
                -o "$object"
            "$compiler" "${standard[@]}" "${warnings[@]}" ${simd:+"$simd"} "${sanitizers[@]}" \
                -c "$source" -o "$object"
            objects+=("$object")
        done
        for test in tests/c/test_*.c; do
            program=$work/$(basename "$test" .c)
            "$compiler" "${standard[@]}" "${warnings[@]}" ${simd:+"$simd"} "${sanitizers[@]}" \
                -Wl,--wrap=realloc -o "$program" "$test" tests/c/refusing.c "${objects[@]}"
            timeout 300 "$program"
        done
    done
done

echo "== threads, under TSan"
"$clang" "${standard[@]}" -g -O1 -fsanitize=thread -fno-sanitize-recover=all \
    -o "$work/threads" tests/c/test_channel.c "${sources[@]}"
timeout 300 "$work/threads"

if [ "${1:-}" = --exhaustive ]; then
    echo "== exhaustive"
    for test in test_kernels test_decoder; do
        "$gcc" "${standard[@]}" -O2 -Wl,--wrap=realloc -o "$work/$test" "tests/c/$test.c" \
            tests/c/refusing.c "${sources[@]}"
        "$work/$test" 100000
    done
fi
echo "C tests passed"

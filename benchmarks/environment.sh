#!/bin/sh
# Makes build/benchmarks, an environment with syncws from this tree and all it is compared with.
# PYTHON: the interpreter to use, 3.12 or newer.
set -eu
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" -m venv build/benchmarks
build/benchmarks/bin/pip install --quiet -r benchmarks/requirements.txt -e .
echo 'now run: build/benchmarks/bin/python -m benchmarks.run'

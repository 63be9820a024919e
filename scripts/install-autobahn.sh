#!/usr/bin/env bash
# Installs the Autobahn Testsuite into .tools/autobahn, in the versions of its requirements file.
#
# The suite runs on Python 2.7 only. An interpreter of that version has to be there already:
# as python2.7, or among those of pyenv. Nothing is skipped: without it this is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

requirements=tests/autobahn/requirements.txt
target=.tools/autobahn
if [[ -x $target/bin/wstest ]] && cmp -s $requirements $target/requirements.txt; then
    exit 0
fi

is_python27() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null
}

find_python27() {
    local candidate version
    if is_python27 python2.7; then
        command -v python2.7
        return
    fi
    if command -v pyenv >/dev/null; then
        # A pyenv command on the path answers only for the versions that are in force.
        while read -r version; do
            candidate=$(pyenv prefix "$version")/bin/python2.7
            if is_python27 "$candidate"; then
                echo "$candidate"
                return
            fi
        done < <(pyenv versions --bare | grep -E '^2\.7\.[0-9]+$' | sort -rV)
    fi
    return 1
}

if ! python27=$(find_python27); then
    echo "$0: the Autobahn Testsuite needs Python 2.7: put python2.7 on the path," \
        "or run 'pyenv install 2.7.18'" >&2
    exit 1
fi

rm -rf $target .tools/virtualenv
# The last release line of virtualenv that makes environments for Python 2.7.
python3 -m venv .tools/virtualenv
.tools/virtualenv/bin/python -m pip install --quiet 'virtualenv>=20.21,<20.22'
.tools/virtualenv/bin/python -m virtualenv --quiet --no-periodic-update -p "$python27" $target
# That it is old is known, and said by every command of its pip.
PIP_NO_PYTHON_VERSION_WARNING=1 $target/bin/python -m pip install --quiet -r $requirements
cp $requirements $target/requirements.txt
$target/bin/wstest --autobahnversion

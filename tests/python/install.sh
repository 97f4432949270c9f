#!/usr/bin/env bash
# Installs Python packages, pinned, and prints the Python to run them with:
#
#   install.sh       the library that tables are shared with, into .cache/python/
#   install.sh aws   cfn-lint, and moto, which plays AWS, into .cache/python-aws/
#
# Does nothing when they are there already: the folder's name is a hash of what goes in, and it
# appears by a rename only when it is complete.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
set=${1:+-$1}
cache=$(cd "$here/../.." && pwd)/.cache/python$set
requirements=$here/requirements$set.txt

say() { echo "python: $*" >&2; }

# The pins were tried on Python 3.11. Debian ships ensurepip apart from python3.
find_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13; do
        if "$candidate" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

if ! python=$(find_python); then
    say "needed for $requirements: Python 3.11 to 3.13 with ensurepip (Debian's packages python3"
    say "and python3-venv)"
    exit 1
fi

pins=$("$python" --version | cat - "$0" "$requirements" | sha256sum | cut -c 1-12)
installed=$cache/installed-$pins
mkdir -p "$cache"
exec 9>"$cache/install.lock"
flock 9

if [[ ! -d $installed ]]; then
    # We hold the lock, so what an interrupted installation left is nobody's.
    rm -rf "$cache"/build.* "$cache"/installed-*
    build=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    say "installing $requirements with $("$python" --version)"
    # Only the interpreter and the packages are used, by path: they may be moved.
    "$python" -m venv "$build"
    "$build/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --requirement "$requirements" >&2
    mv "$build" "$installed"
    say "installed in $installed"
fi
echo "$installed/bin/python"

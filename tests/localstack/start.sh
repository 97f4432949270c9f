#!/usr/bin/env bash
# Starts LocalStack on a loopback port: in Docker when an engine answers, else without it.
#
#   start.sh             prints the endpoint and serves it until stopped (Ctrl-C or SIGTERM)
#   start.sh COMMAND...  runs COMMAND with ZAE_LIMITER_TEST_ENDPOINT set, stops, exits as it did
#
# The port is 4566, or another if that is taken; for a command always another.
set -euo pipefail

readonly IMAGE=localstack/localstack:4.8.1
readonly READY_WITHIN_SECONDS=120

here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/localstack

say() { echo "localstack: $*" >&2; }

random_port() { echo $((20000 + RANDOM % 12000)); }
free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$(random_port); done
    echo "$port"
}

# Of each server or command, the process group and what to remove after it; empty until started.
server='' command='' container='' root=''

stop() {
    trap '' INT TERM HUP
    exec 2>/dev/null # bash would report each group that it kills
    if [[ -n $command ]]; then
        kill -TERM -- "-$command"
        for _ in {1..50}; do
            kill -0 -- "-$command" || break
            sleep 0.1
        done
        kill -KILL -- "-$command"
    fi
    [[ -z $container ]] || docker rm --force "$container" >/dev/null
    # All state is in memory, so LocalStack need not take 2 s to shut down; DynamoDB Local ends
    # with it (see ./java).
    [[ -z $server ]] || kill -KILL -- "-$server"
    [[ -z $root ]] || rm -rf "$root"
}
trap 'set +e; stop' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

fail() {
    say "$1; the end of $log:"
    tail -n 40 "$log" >&2
    exit 1
}

port=$(free_port "$( (($#)) && random_port || echo 4566)")
endpoint=http://127.0.0.1:$port
mkdir -p "$cache/logs"
# What old runs left, the killed ones too.
find "$cache" -maxdepth 2 \( -name '*.log' -o -name 'root.*' \) -mtime +7 -prune -exec rm -rf {} +
log=$cache/logs/$port-$$.log

settings=(
    "SERVICES=dynamodb,dynamodbstreams,cloudformation,iam,lambda,s3,sqs,logs,cloudwatch,sts"
    # The new engine fails on resources whose condition is false.
    PROVIDER_OVERRIDE_CLOUDFORMATION=engine-legacy
    # Streams straight from DynamoDB Local, not through an emulated Kinesis.
    PROVIDER_OVERRIDE_DYNAMODB=v2
    PROVIDER_OVERRIDE_DYNAMODBSTREAMS=v2
    DYNAMODB_IN_MEMORY=1
    DYNAMODB_HEAP_SIZE=512m
    DISABLE_EVENTS=1
    SKIP_SSL_CERT_DOWNLOAD=1
    # Queue URLs on the endpoint itself, not on a host name under it.
    SQS_ENDPOINT_STRATEGY=path
    "LS_LOG=${LS_LOG:-warning}"
    "LOCALSTACK_HOST=127.0.0.1:$port"
)

# Each server and command gets a process group of its own, so that all of it can be stopped.
set -m
if timeout 10 docker info >/dev/null 2>&1; then
    docker image inspect "$IMAGE" >/dev/null 2>&1 || docker pull "$IMAGE" >&2
    say "starting $IMAGE"
    container=zae-limiter-test-$$-$port
    docker run --rm --name "$container" --publish "127.0.0.1:$port:4566" "${settings[@]/#/--env=}" \
        "$IMAGE" >"$log" 2>&1 </dev/null &
else
    installed=$("$here/install.sh")
    say "starting LocalStack without Docker"
    root=$(mktemp -d "$cache/root.XXXXXX")
    lib=$root/var/lib/localstack/lib
    mkdir -p "$lib/dynamodb-local" "$lib/java/21/bin" "$root/usr/lib"
    ln -s "$installed/filesystem/usr/lib/localstack" "$root/usr/lib/localstack"
    ln -s "$installed/dynamodb-local" "$lib/dynamodb-local/2"
    ln -s "$here/java" "$lib/java/21/bin/java"
    REAL_JAVA=$(command -v java)
    export REAL_JAVA
    # With OVERRIDE_IN_DOCKER=0 LocalStack keeps to FILESYSTEM_ROOT, also inside some container.
    env "${settings[@]}" OVERRIDE_IN_DOCKER=0 FILESYSTEM_ROOT="$root" CONFIG_DIR="$root" \
        DNS_ADDRESS=0 GATEWAY_LISTEN="127.0.0.1:$port" \
        setpriv --pdeathsig TERM "$installed/venv/bin/python" "$here/serve.py" \
        >"$log" 2>&1 </dev/null &
fi
server=$!

# Ready is when our own server says so (not another on the same port), and DynamoDB, which starts
# with its first request, has answered one.
ready() {
    grep --quiet '^Ready\.' "$log" &&
        curl --silent --fail --noproxy '*' --max-time 20 --output /dev/null "$endpoint" --data '{}' \
            --header 'Content-Type: application/x-amz-json-1.0' \
            --header 'X-Amz-Target: DynamoDB_20120810.ListTables'
}
deadline=$((SECONDS + READY_WITHIN_SECONDS))
until ready; do
    kill -0 "$server" 2>/dev/null || fail "LocalStack ended before it was ready"
    ((SECONDS < deadline)) || fail "LocalStack was not ready within $READY_WITHIN_SECONDS s"
    sleep 0.1
done

if (($#)); then
    say "ready at $endpoint, log in $log"
    ZAE_LIMITER_TEST_ENDPOINT=$endpoint "$@" &
    command=$!
    wait "$command"
else
    echo "$endpoint"
    wait "$server" || fail "LocalStack ended"
fi

#!/bin/sh
# Starts a job on a CI bridge, prints its log while it runs, and ends with its verdict.
#
#   execute-and-follow-job.sh JOB [INSTANCE]
#
# JOB is a unit without `.service`, such as ci-test-hello. With a template (ci-test-build@), INSTANCE is any text, such
# as a branch. Environment:
#   CI_BRIDGE_URL       where the bridge is, such as https://ci.example.com
#   CI_TOKEN_RW         a token that may start the job
#   CI_BRIDGE_INPUTS    the inputs of the job, as JSON such as {"version": "v1.2"} (none)
#   CI_BRIDGE_PATIENCE  how many seconds the bridge may stay out of reach (300)
#
# The log goes to standard output, everything else to standard error. Exit status: 0 the job succeeded; 1 it failed, was
# stopped, was not started, or its end could not be learned; 2 the script was called wrongly.
#
# Needs a POSIX shell, curl 7.55 or newer, sed and awk; no jq.
set -u

say() {
    printf 'ci-bridge: %s\n' "$*" >&2
}

die() {
    say "$*"
    exit 1
}

wrong() {
    say "$*"
    say "usage: CI_BRIDGE_URL=URL CI_TOKEN_RW=TOKEN $0 JOB [INSTANCE]"
    exit 2
}

[ $# -eq 1 ] || [ $# -eq 2 ] || wrong "one job is expected, and an instance if the job is a template"
job=$1
instance=${2-}
url=${CI_BRIDGE_URL-}
url=${url%/}
token=${CI_TOKEN_RW-}
patience=${CI_BRIDGE_PATIENCE:-300}
case $job in
'' | *[!A-Za-z0-9:_.@-]*) wrong "a job is a name of [A-Za-z0-9:_.-] with at most one @; pass other text as INSTANCE" ;;
esac
[ -n "$url" ] || wrong "CI_BRIDGE_URL is not set"
[ -n "$token" ] || wrong "CI_TOKEN_RW is not set"
case $token in
*[!A-Za-z0-9_.~+/=-]*) wrong "CI_TOKEN_RW holds a character that no token has, perhaps a line break" ;;
esac

# As it stands in a URL, each byte escaped.
[ -z "$instance" ] || instance=$(printf %s "$instance" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')

scratch=$(mktemp -d) || exit 1
resume=
# shellcheck disable=SC2317  # The trap reaches it.
finish() {
    rm -rf "$scratch"
    # Until this line the runner takes nothing in the log for a command to itself.
    [ -z "$resume" ] || printf '::%s::\n' "$resume"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# request METHOD PATH [curl options]: one request. Sets status to the HTTP status, or to 000 without a whole answer, and
# curl_status to curl's own. The token goes through a pipe, so that no process list shows it.
request() {
    method=$1
    path=$2
    shift 2
    : >"$scratch/body"
    : >"$scratch/headers"
    status=$(printf 'Authorization: Bearer %s\n' "$token" |
        curl --silent --show-error --connect-timeout 10 --max-time 90 --request "$method" --header @- \
            --output "$scratch/body" --dump-header "$scratch/headers" --write-out '%{http_code}' \
            "$@" "$url/api/job/$job$path${instance:+?instance=$instance}" 2>"$scratch/error")
    curl_status=$?
    [ "$curl_status" -eq 0 ] || status=000
}

# header NAME: the value of a header of the last answer.
header() {
    awk -v name="$1:" '
        tolower($1) == name { sub(/^[^:]*:[ \t]*/, ""); sub(/\r$/, ""); value = $0 }
        END { print value }' "$scratch/headers"
}

# field NAME: a text or a number of the last answer, which is a flat JSON object; nothing for null.
field() {
    tr -d '\r\n' <"$scratch/body" |
        sed -nE 's/.*"'"$1"'" *: *("(([^"\\]|\\.)*)"|(-?[0-9]+)).*/\2\4/p'
}

# Why the last request failed, in one line.
reason() {
    if [ "$status" = 000 ]; then
        tr -d '\r' <"$scratch/error" | head -n 1
    else
        detail=$(field detail)
        printf 'HTTP %s%s\n' "$status" "${detail:+: $detail}"
    fi
}

# read_api PATH [curl options]: a GET that is repeated while the bridge is out of reach. Reading twice harms nothing.
read_api() {
    pause=1
    waited=0
    while :; do
        request GET "$@"
        case $status in
        200) return ;;
        000 | 408 | 429 | 5??) ;;
        *) die "$job: $(reason)" ;;
        esac
        [ "$waited" -lt "$patience" ] || die "$job: the bridge stays out of reach: $(reason)"
        [ "$waited" -gt 0 ] || say "$(reason); trying again for $patience seconds"
        sleep "$pause"
        waited=$((waited + pause))
        pause=$((pause * 2))
        [ "$pause" -le 15 ] || pause=15
    done
}

# Starts the job. With a key the bridge starts it once, however often it is asked; so a start whose answer was lost is sent
# again, for as long as the bridge may stay out of reach.
start() {
    key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    lost=
    pause=1
    waited=0
    set --
    if [ -n "${CI_BRIDGE_INPUTS-}" ]; then
        printf '{"inputs": %s}' "$CI_BRIDGE_INPUTS" >"$scratch/inputs"
        set -- --header "Content-Type: application/json" --data-binary "@$scratch/inputs"
    fi
    while :; do
        request POST "" ${key:+--header "Idempotency-Key: $key"} "$@"
        answer=$status/$curl_status/$(field code)
        case $answer in
        # curl found no address or no connection: the start cannot have reached the bridge.
        000/6/ | 000/7/) ;;
        */history_unavailable)
            # The bridge can't know a key again. If nothing was started, start without; but then only once.
            if [ -z "$lost" ]; then
                [ -n "$key" ] || break
                key=
                continue
            fi
            ;;
        000/* | 408/* | 50[024]/* | 503/*/ | */request_in_progress | */systemd_unreachable | */shutting_down)
            lost=yes
            [ -n "$key" ] || break
            ;;
        *)
            lost=
            break
            ;;
        esac
        [ "$waited" -lt "$patience" ] || break
        [ "$waited" -gt 0 ] || say "$(reason); trying again for $patience seconds"
        sleep "$pause"
        waited=$((waited + pause))
        pause=$((pause * 2))
        [ "$pause" -le 15 ] || pause=15
    done
    [ -z "$lost" ] || die "$job: it is unknown whether the job was started: $(reason)"
    case $answer in
    202/*) ;;
    */busy)
        busy=$(header x-ci-run-id)
        busy=${busy:-$(field run)}
        die "$job: not started: $(reason)${busy:+ (run $busy)}"
        ;;
    *) die "$job: not started: $(reason)" ;;
    esac
    run=$(header x-ci-run-id)
    cursor=$(header x-ci-cursor)
    [ -n "$run" ] || die "$job: started, but the answer names no run; is $url a CI bridge?"
    note_id
}

# Takes the id by which to ask for the run. That of systemd, which is there as soon as the job runs, also counts if the
# bridge is started anew without its history.
note_id() {
    id=$(field invocation_id)
    id=${id:-$run}
}

# Notes in $ended that the run is over, if the state of the run says so.
note_state() {
    [ "$1" != ended ] || ended=yes
}

# Waits up to as many seconds for the end of the run.
await_end() {
    read_api /state --get --data-urlencode "run=$id" --data wait="$1"
    note_state "$(field run_state)"
}

# Whether to ask again for lines that journald has not written yet. Waits before it says yes.
still_late() {
    [ "$(header x-ci-complete)" = false ] || return 1
    late=$((late + 1))
    if [ "$late" -gt 10 ]; then
        say "$job: the last lines of the log may be missing"
        return 1
    fi
    sleep 1
}

# Prints the log until the run has ended and a page that was asked for after its end came back empty.
follow() {
    ended=
    late=0
    # The answer to a start has no cursor while systemd has the job wait for other units.
    while [ -z "$cursor" ] && [ -z "$ended" ]; do
        await_end 50
        cursor=$(field cursor)
        note_id
    done
    [ -n "$cursor" ] || return
    while :; do
        was_ended=$ended
        read_api /tail --get --data-urlencode "run=$id" --data format=text --data-urlencode "cursor=$cursor"
        cat "$scratch/body"
        lines=$(wc -l <"$scratch/body")
        next=$(header x-ci-cursor)
        [ -n "$next" ] || die "$job: the log came without a cursor; is $url a CI bridge?"
        cursor=$next
        note_state "$(header x-ci-run-state)"

        if [ -s "$scratch/body" ]; then
            late=0
        elif [ -n "$was_ended" ]; then
            still_late || return
        fi
        # A long page has a successor. Otherwise wait a second, or less if the run ends.
        [ -n "$ended" ] || [ "$lines" -ge 100 ] || await_end 1
    done
}

# Ends the script with the verdict of the run.
conclude() {
    read_api /state --get --data-urlencode "run=$id"
    result=$(field result)
    exit_code=$(field exit_code)
    signal=$(field signal)
    # A daemon that was asked to stop and did is a success for systemd; for a job it is none.
    if [ "$result" = success ] && [ -z "$signal" ]; then
        say "$job: success (run $run)"
        exit 0
    fi
    say "$job: failed: ${result:-unknown}${exit_code:+, exit code $exit_code}${signal:+, signal $signal} (run $run)"
    exit 1
}

start
say "$job: started (run $run)"
if [ "${GITHUB_ACTIONS-}" = true ]; then
    resume=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '::stop-commands::%s\n' "$resume"
fi
follow
conclude

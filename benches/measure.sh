# shellcheck shell=bash disable=SC2034  # variables for the scripts
# What the scripts here share. They run in a bed, with all of this directory in $bench; benches/run starts them.
set -euo pipefail
bench=${BASH_SOURCE[0]%/*}
url=http://127.0.0.1:8000
gatewayd=http://127.0.0.1:19531/entries
token='' header='' base=''

# Sets the bridge up and starts it. $header lets a request in.
start_bridge() {
    ci-bridge init --prefix ci-test- >/root/init
    systemctl enable --now --quiet ci-bridge
    token=$(grep -o 'cib_rw_[0-9A-Za-z]*' /root/init | head -n 1)
    header="Authorization: Bearer $token"
}

# unit NAME LINE...: a unit of the job NAME, with these lines in its section [Service].
unit() {
    local name=$1
    shift
    printf '%s\n' '[Service]' Type=oneshot LogRateLimitIntervalSec=1us "$@" >"/etc/systemd/system/$name.service"
    systemctl daemon-reload
}

start() {
    curl -fsS -o /dev/null -H "$header" -X POST "$url/api/job/$1"
}

state() {
    curl -fsS -H "$header" "$url/api/job/$1/state?wait=${2-0}"
}

await_end() {
    until [[ $(state "$1" 50 | jq -r .run_state) == ended ]]; do :; done
}

invocation() {
    state "$1" | jq -r .invocation_id
}

# foreign LINES: so many lines of another unit.
foreign() {
    systemd-run --quiet --wait -p LogRateLimitIntervalSec=1us \
        seq -f 'a foreign line, number %.0f, of about eighty characters, as they often are' "$1"
}

# Also waits until journald has read what was printed.
journal_size() {
    journalctl --sync
    echo "$(du -sm /var/log/journal | cut -f 1) MB of journal in $(find /var/log/journal -name '*.journal' | wc -l) files"
}

# same FILE FILE WHAT: nothing is timed that does not give the same lines.
same() {
    cmp "$1" "$2" || { echo "$3: not the same lines" >&2; exit 1; }
}

# requests ROUNDS URL [OPTION...]: the seconds of each. One process and one connection: a request without the start of curl.
requests() {
    local rounds=$1 url=$2 at
    shift 2
    for ((at = 0; at < rounds; at++)); do printf 'url="%s"\noutput=/dev/null\n' "$url"; done >/root/urls
    curl -fsS -g "$@" -w '%{time_total}\n' -K /root/urls
}

# processes ROUNDS COMMAND...: the seconds of each.
processes() {
    local rounds=$1 at before
    shift
    for ((at = 0; at < rounds; at++)); do
        before=${EPOCHREALTIME/./}
        "$@" >/dev/null
        echo "$((${EPOCHREALTIME/./} - before))" | awk '{ printf "%.6f\n", $1 / 1000000 }'
    done
}

head_of_table() {
    base=''
    printf '\n| %s | fastest | median | 99 of 100 | rounds | against the first |\n|---|---|---|---|---|---|\n' "$1"
}

# row WHAT <SECONDS: a row of the table.
row() {
    local figures median
    figures=$(sort -n | awk '
        function time(s) { return s < 1 ? sprintf("%.2f ms", s * 1000) : sprintf("%.2f s", s) }
        { v[NR] = $1 }
        END {
            if (!NR) exit 1
            high = int(NR * 0.99) < 1 ? 1 : int(NR * 0.99)
            if (NR < 100) high = NR
            middle = v[int((NR + 1) / 2)]
            printf "%s %s | %s | %s | %d\n", middle, time(v[1]), time(middle), time(v[high]), NR
        }')
    median=${figures%% *}
    base=${base:-$median}
    printf '| %s | %s | %s |\n' "$1" "${figures#* }" "$(awk -v a="$median" -v b="$base" 'BEGIN { printf "%.2f ×", a / b }')"
}

# memory FIELD: of the bridge, such as VmRSS or VmHWM, in MiB.
memory() {
    awk -v field="$1:" '$1 == field { printf "%.1f MiB", $2 / 1024 }' "/proc/$(pidof ci-bridge)/status"
}

# Forgets the highest memory of the bridge up to now.
forget_peak() {
    echo 5 >"/proc/$(pidof ci-bridge)/clear_refs"
}

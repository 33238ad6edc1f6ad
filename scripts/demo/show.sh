# shellcheck shell=bash
# Prints the steps of the demo, and compares each result with the expected one.

: "${outside:?}" "${dir:?}" "${log:?}" "${config:?}" "${steer:?}" "${users:?}" # set by inside.sh and lab.sh

bold='' dim='' green='' red='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi
steps=0
flows=0

step() {
    steps=$((steps + 1))
    printf '\n%s%2d  %s%s\n' "$bold" $steps "$1" "$plain"
}

# Runs a command in a namespace and shows it; where the real one is long, a short one is shown for it. Sets what it
# printed (out), its exit code (rc) and its milliseconds (took_ms).
run() { # NAMESPACE SHOWN [REAL]
    local began=${EPOCHREALTIME/./}
    printf '    %s%s$ %s%s\n' "$dim" "$1" "$2" "$plain"
    if [[ $1 == client ]]; then flows=$((flows + 1)); fi
    rc=0
    out=$("$1" bash -c "${3:-$2}" 2>&1) || rc=$?
    out=${out//$'\r'/}
    # shellcheck disable=SC2034 # inside.sh reads it
    took_ms=$(((${EPOCHREALTIME/./} - began) / 1000))
    show_output
}
show_output() { if [[ -n $out ]]; then printf '    %s\n' "${out//$'\n'/$'\n'    }"; fi; }

# The exit code is one of these, and each pattern matches a line of the output.
expect() { # CODE[,CODE] PATTERN...
    local pattern codes=$1
    shift
    [[ ,$codes, == *,$rc,* ]] || wrong "exit code $codes, not $rc"
    for pattern in "$@"; do
        grep -qE -- "$pattern" <<<"$out" || wrong "a line that matches $pattern"
    done
}
wrong() {
    printf '%s    This is not as it should be: expected %s%s\n' "$red" "$1" "$plain"
    exit 1
}
because() { printf '  %s✓%s %s\n' "$green" "$plain" "$1"; }

aborted() {
    printf '\n%sThe demo failed.%s\n' "$red" "$plain" >&2
    if [[ -s $dir/log/messages ]]; then
        printf 'The last messages of the gateway:\n' >&2
        tail -n 10 "$dir/log/messages" >&2
    fi
    exit $(($1 == 0 ? 1 : $1))
}

# One bit, the twelfth: CAP_NET_ADMIN.
expect_capabilities() {
    out=$(tr -s '\t' ' ' <"$dir/capabilities")
    rc=0
    expect 0 '^CapEff: 0000000000001000$'
    because "The gateway runs with CAP_NET_ADMIN alone ($out)."
}

logged() { [[ $(wc -l <"$log") -eq $flows ]]; }
show_flows() {
    wait_for "$flows lines of the flow log" logged
    out=$(awk '
        function field(key) {
            if (!match($0, "\"" key "\":(\"[^\"]*\"|[^,}]*)")) { return "?" }
            value = substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
            gsub(/"/, "", value)
            return value == "null" ? "-" : value
        }
        function row(a, b, c, d, e, f, g) { printf "%-8s%-22s%-9s%-18s%-26s%10s%13s\n", a, b, c, d, e, f, g }
        BEGIN { row("tenant", "hostname", "verdict", "outcome", "source", "bytes_down", "duration_ms") }
        { row(field("tenant"), field("hostname"), field("verdict"), field("outcome"), field("source"),
              field("bytes_down"), field("duration_ms")) }
    ' "$log")
    rc=0
    show_output
    expect 0 '^acme +api.example.com +allow +closed +203.0.113.1[6-9]:' '^beta +eu.files.example.net +allow +closed' \
        '^acme +files.example.net +deny +not_allowed +- ' '^acme +api.example.com +allow +upstream_refused '
}

# Leaves all to the user: a shell inside, or if there is no terminal, patience.
play() {
    local namespaces='--mount --pid'
    if ((users <= 65534)); then namespaces="--user --preserve-credentials $namespaces"; fi
    cat <<HELP
${bold}Egret runs on.${plain} In this shell, \`client\`, \`gateway\` and \`server\` before a command run it there:
    client curl -4 https://api.example.com/
    client curl http://intranet.example.org/
    gateway curl -s http://127.0.0.1:9915/metrics
    gateway egret doctor
    gateway $steer status --config $config
    configuration  $config
    flow log       $log
    messages       $dir/log/messages
HELP
    {
        export -p
        printf 'PS1="(egret demo) \\w\\$ "\ncd %s\n' "$dir"
    } >"$dir/rc"
    if [[ -t 0 && -t 1 ]]; then
        say "\`exit\` ends it all."
        env --default-signal=INT,QUIT bash --rcfile "$dir/rc" -i || :
    else
        say "No terminal here, so from another one:  nsenter --target $outside $namespaces bash --rcfile $dir/rc"
        say "Ctrl-C ends it all."
        sleep infinity
    fi
}

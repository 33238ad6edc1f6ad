#!/usr/bin/env bash
# The inner half of scripts/demo.sh, which runs it as the first process of new network, mount and process namespaces:
# builds the lab, goes through the steps, and fails at the first that does not show what it should.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
built=$1
keep=$2
[[ $$ == 1 ]] || { echo "inside.sh is started by scripts/demo.sh" >&2; exit 2; }

trap '' HUP # SIGINT is ignored already; demo.sh sees to both
read -r outside _ </proc/self/stat # this process, as seen where /proc was mounted
mount -t proc proc /proc 2>/dev/null || : # for ps in a kept shell; some containers refuse it
mount -t tmpfs -o mode=755 tmpfs /run
# shellcheck source=scripts/lib.sh
. "$here/../lib.sh"
# shellcheck source=scripts/demo/lab.sh
. "$here/lab.sh"
# shellcheck source=scripts/demo/show.sh
. "$here/show.sh"
trap 'aborted $?' EXIT

build_lab
start_server
start_gateway

say "${bold}Egret between a client and a server, each in a network namespace of its own${plain}"
cat <<'MAP'

    client                           gateway                          server
    10.0.1.2, fd00:1::2  acme   ──►  from 203.0.113.16/30        ──►  nginx on 198.51.100.10
                                     or 2001:db8:100::/120            and 2001:db8:51::a
    10.0.2.2             beta   ──►  from 203.0.113.32           ──►

    acme may reach api.example.com, and beta *.example.net on port 443. Nothing else may leave.

MAP
expect_capabilities

step "Allowed by name"
run client 'curl -sS -4 https://api.example.com/'
expect 0 'asked for api.example.com by 203.0.113.1[6-9]$'
because "nginx sees an address of acme's pool, not the client's. Its certificate is its own: Egret does not end TLS."

step "Allowed by wildcard, for another tenant"
run client 'curl -sS --interface 10.0.2.2 https://eu.files.example.net/'
expect 0 'asked for eu.files.example.net by 203.0.113.32$'
because "*.example.net is beta's, at any depth, and beta leaves from its own address."

if [[ -n $has_ipv6 ]]; then
    step "IPv6"
    run client 'curl -sS -6 https://api.example.com/'
    expect 0 'asked for api.example.com by 2001:db8:100::'
    because "The same rules, the same listener, and the pool's IPv6 addresses."
fi

step "Denied over TLS"
run client 'curl -sS https://files.example.net/'
expect 35 'access.denied'
because "That name is beta's, and this client is acme's. The alert reaches the program's error message at once."

step "Denied over HTTP"
run client 'curl -sS -w "status: %{http_code}\n" http://intranet.example.org/'
expect 0 '^status: 403' '^tenant: acme$' '^reason: not_allowed$'
because "A person can read who refused it, and why."

step "A ClientHello of post-quantum size"
names=$(printf 'x-%0240d,' 1 2 3 4 5 6)
run client 'openssl s_client -4 -connect api.example.com:443 -alpn LONG_LIST -msg' \
    "printf 'GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n' |
     timeout 30 openssl s_client -4 -quiet -connect api.example.com:443 -servername api.example.com -verify_return_error \
        -CAfile $CURL_CA_BUNDLE -alpn ${names}http/1.1 -msg 2>/dev/null |
     grep -a -E 'ClientHello|^HTTP|asked for'"
expect 0 '^HTTP/1.1 200' 'by 203.0.113.1[6-9]$'
hello=$((16#$(sed -n 's/.*\[length \([0-9a-f]*\)\], ClientHello.*/\1/p' <<<"$out")))
((hello > 1600)) || wrong "a ClientHello of more than 1600 bytes"
because "Six long protocol names make it $hello bytes, the size of one with an ML-KEM key share: more than one segment holds."

step "A server that refuses"
run client 'curl -sS -4 https://api.example.com:8443/'
expect 35,56 'reset'
((took_ms < 5000)) || wrong "an answer before a hello or a connection is given up"
because "Nothing listens there, and the client knew after $took_ms ms: no retries, no hanging."

step "What would happen, and why"
run gateway 'egret explain --from 10.0.1.2 --to files.example.net:443'
expect 1 'verdict  denied' 'not_allowed'
because "From the configuration alone; exit code 1 for denied. Made for pull requests."

step "One line a flow"
show_flows
because "A choice of columns of $log, one JSON object a line."

step "Ports, before they run out"
hold_flows 5 eu.files.example.net 10.0.2.2
run gateway "curl -sS http://127.0.0.1:9915/metrics | grep '^egret_pool_port.*beta'" \
    "curl -sS http://127.0.0.1:9915/metrics | grep -E '^egret_pool_port.*pool=\"beta\"'"
expect 0 'capacity.* 10$' 'state="live".* 5$' 'state="held"' 'utilization_ratio.* 0.5$'
because "beta has 10 ports towards each destination, and 5 connections are open to one: half is used."
wait_for "the look at the ports, once a second" shows_hot beta eu.files.example.net
run gateway 'egret ports --pool beta'
expect 0 '^beta +203.0.113.32 +available +10 +5 +0 +5 ' 'eu.files.example.net' 'clients: 10.0.2.2 \(beta\) 5'
because "The same for people, and who has them."
release_flows

step "Without the gateway, nothing leaves"
stop_gateway
run client 'curl -sS -4 --max-time 1 https://api.example.com/'
expect 28
because "The rules stay while Egret is down, and what they catch goes nowhere else."

trap - EXIT
say
if [[ -z $keep ]]; then
    cat <<NEXT
${bold}All as it should be.${plain} Next:
    scripts/demo.sh --keep    the same lab with a shell, to try your own requests in
    docs/install.md           put it on an instance, in monitor mode at first if you like (docs/modes.md)
    docs/policy.md            write rules, ask why something is denied, test a policy in a pull request
NEXT
    exit 0
fi
start_gateway
play

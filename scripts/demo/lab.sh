# shellcheck shell=bash
# The network of the demo, its server and its gateway. /run is a tmpfs of our own, so nothing here outlives us.

: "${here:?}" "${built:?}" # set by inside.sh
dir=/run/egret-demo
# shellcheck disable=SC2034 # show.sh reads it
log=$dir/log/flows.jsonl
steer=$(realpath "$here/../steer.sh")
config=$dir/egret.toml
# Root of this machine sees all its users here; root of an unprivileged user namespace is the only one.
read -r _ _ users </proc/self/uid_map
has_ipv6=
if [[ -e /proc/net/if_inet6 ]]; then has_ipv6=yes; fi

# What the user's environment says of proxies, certificates and languages must not matter.
while read -r variable; do unset "$variable"; done < <(compgen -e | grep -iE '_proxy$|^EGRET|^CURL|^SSL_|^OPENSSL|^LC_' || :)
export LC_ALL=C.UTF-8 HOME=$dir EGRET_CONFIG=$config CURL_CA_BUNDLE=$dir/nginx/cert.pem PATH=$dir/bin:$PATH

wait_for() { # WHAT COMMAND...: until the command succeeds
    local what=$1 until=$((SECONDS + 30))
    shift
    while ((SECONDS < until)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    echo "demo.sh: waited 30 s for $what" >&2
    return 1
}

build_lab() {
    mkdir -p $dir/bin $dir/log $dir/nginx
    install -m 755 "$built" $dir/bin/egret
    install -m 644 "$here/egret.toml" "$here/nginx.conf" $dir
    echo 'max-time = 30' >$dir/.curlrc # no step may hang
    local name
    for name in client gateway server; do
        ip netns add $name
        # `client curl …` runs curl in the client's namespace.
        printf '#!/bin/sh\nexec nsenter --net=/run/netns/%s "$@"\n' $name >$dir/bin/$name
        chmod 755 $dir/bin/$name
        ip -n $name link set lo up
        if [[ -n $has_ipv6 ]]; then $name sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'; fi
    done
    # Both ends are made in one namespace: with equal indices they would take each other for one device.
    ip -n gateway link add c0 type veth peer name c1
    ip -n gateway link add s0 type veth peer name s1
    ip -n gateway link set c1 netns client name c0
    ip -n gateway link set s1 netns server name s0
    # One packet a segment, as on a real wire, so that a large ClientHello arrives in parts.
    ip -n client link set c0 gso_max_segs 1

    ip -n client -batch - <<'IP'
link set c0 up
addr add 10.0.1.2/24 dev c0
addr add 10.0.2.2/24 dev c0
route add default via 10.0.1.1 src 10.0.1.2
IP
    ip -n gateway -batch - <<'IP'
link set c0 up
link set s0 up
addr add 10.0.1.1/24 dev c0
addr add 10.0.2.1/24 dev c0
addr add 198.51.100.1/24 dev s0
route add default via 198.51.100.10
IP
    # It knows the way to the pools and none to the clients.
    ip -n server -batch - <<'IP'
link set s0 up
addr add 198.51.100.10/24 dev s0
route add 203.0.113.0/24 via 198.51.100.1
IP
    if [[ -n $has_ipv6 ]]; then
        ip -n client addr add fd00:1::2/64 dev c0 nodad
        ip -n client route add default via fd00:1::1
        ip -n gateway addr add fd00:1::1/64 dev c0 nodad
        ip -n gateway addr add 2001:db8:51::1/64 dev s0 nodad
        ip -n gateway route add default via 2001:db8:51::a
        ip -n server addr add 2001:db8:51::a/64 dev s0 nodad
        ip -n server route add 2001:db8:100::/56 via 2001:db8:51::1
    fi
    # A link that was set up still drops packets for a moment.
    wait_for "the links" links_are_up
    local host
    {
        echo '127.0.0.1 localhost'
        for host in api.example.com eu.files.example.net files.example.net intranet.example.org; do
            echo "198.51.100.10 $host"
        done
        if [[ -n $has_ipv6 ]]; then echo "2001:db8:51::a api.example.com"; fi
    } >$dir/hosts
    mount --bind $dir/hosts /etc/hosts
}

links_are_up() {
    local name
    for name in client gateway server; do
        if ip -n $name -br link show type veth | grep -qv ' UP '; then return 1; fi
    done
}

start_server() {
    local names
    names=$(sed -n 's/^198.51.100.10 /,DNS:/p' $dir/hosts | tr -d '\n')
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=demo \
        -addext "subjectAltName=${names#,}" -keyout $dir/nginx/key.pem -out $dir/nginx/cert.pem 2>/dev/null
    server nginx -p $dir/nginx -e error.log -c $dir/nginx.conf &
    wait_for "nginx" server curl -sS --resolve api.example.com:443:127.0.0.1 https://api.example.com/
}

# With the rules of the real steering, and with no capability but CAP_NET_ADMIN; where there are other users, as one.
start_gateway() {
    local drop=(setpriv --no-new-privs)
    drop+=("--bounding-set=-all,+net_admin" "--inh-caps=-all,+net_admin" "--ambient-caps=-all,+net_admin")
    if ((users > 65534)); then
        chown 65534:65534 $dir/log
        drop+=(--reuid=65534 --regid=65534 --clear-groups)
    fi
    gateway "$steer" up --config $config --egret $dir/bin/egret
    # shellcheck disable=SC2016 # the inner shell's
    gateway "${drop[@]}" sh -c 'grep CapEff /proc/self/status && exec egret run' >$dir/capabilities 2>>$dir/log/messages &
    gateway_pid=$!
    wait_for "the gateway" gateway curl -sS --fail http://127.0.0.1:9915/readyz
}

stop_gateway() {
    kill -TERM "$gateway_pid"
    wait "$gateway_pid"
}

# COUNT connections to NAME:443 from ADDRESS that stay open and say nothing after their TLS handshake.
hold_flows() {
    local count=$1 i
    mkfifo $dir/silence
    exec 9<>$dir/silence
    held=()
    for ((i = 0; i < count; i++)); do
        client openssl s_client -quiet -connect "$2:443" -bind "$3" <&9 >$dir/held.$i 2>&1 &
        held+=($!)
    done
    wait_for "$count open connections" has_active beta "$count"
}
# Not grep -q: it would leave before curl has written everything, and the pipe would fail.
has_active() { gateway curl -sS http://127.0.0.1:9915/metrics | grep "^egret_flows_active{tenant=\"$1\"} $2$" >/dev/null; }
shows_hot() { gateway egret ports --pool "$1" | grep -F "$2" >/dev/null; }
release_flows() {
    kill "${held[@]}"
    wait "${held[@]}" 2>/dev/null || :
    exec 9<&-
    rm $dir/silence $dir/held.*
    wait_for "the connections to end" has_active beta 0
}

# shellcheck shell=bash
# The machine under test with a client and a server. The server tells its clients their source address, and counts packets
# that reach it from the client's own addresses. /run is a private tmpfs, so that nothing here stays behind.
#
#   client 10.0.1.2, fd00:1::2 ── ens5 [machine] ens6 ── server 198.51.100.10, 2001:db8:51::a

: "${here:?}" "${base:?}" "${built:?}" # set by inside.sh
dir=/run/egret-boot
root=$dir/root # the machine's root directory
tree=$(cd "$here/../.." && pwd)

while read -r variable; do unset "$variable"; done < <(compgen -e | grep -iE '_proxy$|^EGRET_[^B]|^EGRET$|^CURL|^SSL_|^OPENSSL|^LC_' || :)
export LC_ALL=C.UTF-8 HOME=$dir

wait_for() { # SECONDS WHAT COMMAND...: until the command succeeds
    local patience=$1 what=$2 until=$((SECONDS + $1))
    shift 2
    while ((SECONDS < until)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    wrong "waited $patience s for $what"
}
# Ends the scenario.
wrong() {
    printf 'WRONG: %s\n' "$*"
    machine systemctl --failed --no-legend --plain 2>/dev/null | sed 's/^/  failed: /'
    machine journalctl -q -b --no-pager -o short-precise -n 60 -u 'egret*' -u systemd-networkd 2>/dev/null | sed 's/^/  journal: /'
    exit 1
}
expect() { # WHAT COMMAND...
    local what=$1
    shift
    "$@" || wrong "$what"
}
# Expects a line like the pattern in the output of a command, and prints the output otherwise.
expect_line() { # PATTERN COMMAND...
    local pattern=$1 printed
    shift
    printed=$("$@" 2>&1) || :
    grep -qE -- "$pattern" <<<"$printed" || wrong "no line like /$pattern/ of \`$*\`, but: $printed"
}

client() { ip netns exec client "$@"; }
server() { ip netns exec server "$@"; }

make_surroundings() {
    mkdir -p $dir/nginx $dir/upper $dir/work $root
    # Listens on port 8080 too, which is not intercepted.
    sed "s|/run/egret-demo|$dir|; s|listen 80;|listen 80; listen 8080; listen [::]:8080;|" "$here/../demo/nginx.conf" >$dir/nginx.conf
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=boot \
        -addext subjectAltName=DNS:api.example.org,DNS:deb.debian.org -keyout $dir/nginx/key.pem -out $dir/nginx/cert.pem 2>/dev/null
    printf 'silent\nshow-error\nmax-time = 20\ncacert = %s\n' $dir/nginx/cert.pem >$dir/.curlrc
    local name
    for name in client server; do
        ip netns add $name
        ip -n $name link set lo up
        ip netns exec $name sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
    done
    # Packets from the client's addresses were forwarded, and not sent by the gateway.
    server nft -f - <<'RULES' || return
table inet count {
    chain in {
        type filter hook prerouting priority raw;
        ip saddr 10.0.1.0/24 meta l4proto { tcp, udp } th dport { 80, 443 } counter
        ip6 saddr fd00:1::/64 meta l4proto { tcp, udp } th dport { 80, 443 } counter
    }
}
RULES
    server nginx -p $dir/nginx -e error.log -c $dir/nginx.conf &
}

# Makes a fresh network namespace, without the rules, routes and settings of an earlier boot.
make_wires() {
    ip netns del machine 2>/dev/null || :
    wait_for 10 "the old links to go" no_links
    ip netns add machine
    ip -n machine link add ens5 type veth peer name c0
    ip -n machine link add ens6 type veth peer name s0
    ip -n machine link set c0 netns client
    ip -n machine link set s0 netns server
    ip -n client -batch - <<'IP'
link set c0 up
addr add 10.0.1.2/24 dev c0
addr add fd00:1::2/64 dev c0 nodad
route add default via 10.0.1.1
route add default via fd00:1::1
IP
    # The server has a route back to the clients, so that a leaked packet is answered.
    ip -n server -batch - <<'IP'
link set s0 up
addr add 198.51.100.10/24 dev s0
addr add 2001:db8:51::a/64 dev s0 nodad
route add 203.0.113.0/24 via 198.51.100.1
route add 10.0.1.0/24 via 198.51.100.1
route add 2001:db8:100::/56 via 2001:db8:51::1
route add fd00:1::/64 via 2001:db8:51::1
IP
}
no_links() { ! ip -n client link show c0 && ! ip -n server link show s0; }

# A fresh Debian with two interfaces that systemd-networkd configures, as on a cloud's instance.
unpack_machine() {
    mount -t overlay overlay -o "lowerdir=$base,upperdir=$dir/upper,workdir=$dir/work" $root ||
        mount_copy || return
    mkdir -p $root/etc/systemd/network $root/opt/egret
    network ens5 10.0.1.1/24 fd00:1::1/64
    network ens6 198.51.100.1/24 2001:db8:51::1/64 198.51.100.10 2001:db8:51::a
    echo machine >$root/etc/hostname
    mkdir -p $root/etc/systemd/system/multi-user.target.wants $root/var/log/journal
    ln -sf /lib/systemd/system/systemd-networkd.service $root/etc/systemd/system/multi-user.target.wants/
    # Units that are of no use here.
    ln -sf /dev/null $root/etc/systemd/system/apt-daily.timer
    ln -sf /dev/null $root/etc/systemd/system/apt-daily-upgrade.timer
    ln -sf /dev/null $root/etc/systemd/system/systemd-networkd-wait-online.service
    cp -r "$tree"/{scripts,deploy,docs,examples} "$tree"/*.md "$tree"/LICENSE-* $root/opt/egret/
    cp "$built" $root/opt/egret/egret
    strip $root/opt/egret/egret 2>/dev/null || :
}
# The fallback where overlayfs is refused, as in some containers.
mount_copy() { umount $root 2>/dev/null || :; cp -a "$base/." $root/; }
# ROUTER makes the interface a default route.
network() { # INTERFACE ADDRESS ADDRESS [ROUTER...]
    local file=$root/etc/systemd/network/10-$1.network router
    cat >"$file" <<CONF
[Match]
Name=$1
[Network]
Address=$2
IPv6AcceptRA=no
LinkLocalAddressing=ipv6
[Address]
Address=$3
DuplicateAddressDetection=none
CONF
    for router in "${@:4}"; do printf '[Route]\nGateway=%s\n' "$router" >>"$file"; done
}

# Gives the machine its addresses before it boots, as an initramfs or the maker of a container does. Nothing is forwarded yet.
# The broadcast addresses are those that systemd-networkd gives: in Debian 12 it tries without end to change others.
bring_up_links() {
    ip netns exec machine sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding'
    ip -n machine -batch - <<'IP'
link set ens5 up
link set ens6 up
addr add 10.0.1.1/24 brd + dev ens5
addr add fd00:1::1/64 dev ens5 nodad
addr add 198.51.100.1/24 brd + dev ens6
addr add 2001:db8:51::1/64 dev ens6 nodad
IP
}

# Boots the machine, and returns when systemd has finished.
boot() { # [COMMAND]: called before, when the links are there
    make_wires
    "${1:-:}"
    SYSTEMD_NSPAWN_API_VFS_WRITABLE=network SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 \
        systemd-nspawn --quiet --boot --directory=$root --network-namespace-path=/run/netns/machine --register=no \
        --keep-unit --capability=CAP_NET_ADMIN --console=read-only </dev/null >$dir/console 2>&1 &
    echo $! >$dir/nspawn
    wait_for 60 "systemd to boot: $(tail -n 3 $dir/console 2>/dev/null)" booted
}
booted() {
    local state
    state=$(machine systemctl is-system-running 2>/dev/null)
    [[ $state == running || $state == degraded ]]
}
# Shuts the machine down in order.
shut_down() {
    local nspawn
    nspawn=$(cat $dir/nspawn)
    machine systemctl poweroff --no-block
    wait_for 60 "the machine to power off" is_gone "$nspawn"
    rm $dir/nspawn
}
is_gone() { ! kill -0 "$1" 2>/dev/null; }
reboot_machine() { shut_down && boot "$@"; } # [COMMAND]

# The machine's first process, as seen here.
leader() {
    local status
    for status in /proc/[0-9]*/status; do
        if grep -qE '^NSpid:\s+[0-9]+\s+1$' "$status" 2>/dev/null; then
            status=${status#/proc/}
            echo "${status%/status}"
            return 0
        fi
    done
    return 1
}
machine() { # COMMAND...: in the machine
    local pid
    pid=$(leader) || return 125
    nsenter --target "$pid" --all env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb HOME=/root "$@" </dev/null
}

main_pid() { machine systemctl show --property=MainPID --value egret; }
metric() { machine curl -s http://127.0.0.1:9915/metrics | sed -n "s/^$1 //p"; }
metric_is() { [[ $(metric "$1") == "$2" ]]; }

# --- asking

# Requests a URL from the client and prints the server's answer.
ask() { # -4|-6 URL [CURL OPTION...]
    local family=$1 url=$2
    shift 2
    client curl "$family" --resolve "*:80:198.51.100.10,[2001:db8:51::a]" \
        --resolve "*:443:198.51.100.10,[2001:db8:51::a]" "$@" "$url"
}
# The first judged flows: by name, in both families, over TLS too; and one that is denied.
serves() {
    expect_line '^nginx was asked for api.example.org by 203.0.113.1[6-9]$' ask -4 http://api.example.org/
    expect_line '^nginx was asked for api.example.org by 203.0.113.1[6-9]$' ask -4 https://api.example.org/
    expect_line '^nginx was asked for api.example.org by 2001:db8:100::' ask -6 http://api.example.org/
    expect_line '^reason: not_allowed$' ask -4 http://evil.example.org/
    expect_line '^reason: not_allowed$' ask -6 http://evil.example.org/
}
# Succeeds if a request to a port that is not intercepted is forwarded.
is_forwarded() { ask "$1" http://api.example.org:8080/ --resolve '*:8080:198.51.100.10,[2001:db8:51::a]' --max-time 1 2>/dev/null | grep 'by \(10.0.1.2\|fd00:1::2\)' >/dev/null; }
is_served() { ask "$1" http://api.example.org/ --max-time 0.8 | grep 'by \(203.0.113.1[6-9]\|2001:db8:100::\)' >/dev/null; }

# Prints the number of packets that reached the server from the client's own addresses.
leaked() { server nft list table inet count | awk '/counter/ { for (i = 1; i < NF; i++) if ($i == "packets") n += $(i + 1) } END { print n + 0 }'; }
nothing_leaked() {
    local packets
    packets=$(leaked)
    [[ $packets == 0 ]] || wrong "$packets packets of the client have reached the server uninspected"
}
# Sends requests all the time, in both families, over TCP and UDP, until stop_storm.
start_storm() {
    local target
    for target in '-4 http://evil.example.org' '-6 http://evil.example.org' '-4 https://evil.example.org'; do
        # shellcheck disable=SC2086 # two words
        (while :; do ask $target --max-time 0.2; sleep 0.02; done) >/dev/null 2>&1 &
        echo $! >>$dir/storm
    done
    for target in 198.51.100.10 2001:db8:51::a; do
        # shellcheck disable=SC2016 # the inner shell's
        ip netns exec client bash -c 'while :; do echo x >"/dev/udp/$1/443"; sleep 0.05; done' - $target >/dev/null 2>&1 &
        echo $! >>$dir/storm
    done
}
stop_storm() {
    local pid
    [[ -e $dir/storm ]] || return 0
    while read -r pid; do kill "$pid" 2>/dev/null; done <$dir/storm
    rm -f $dir/storm
}

# Holds a connection open during a change of the machine: `hold_flow`, then `flow_lives`, then `end_flow`.
hold_flow() {
    # shellcheck disable=SC2016 # the inner shell's
    coproc FLOW { client bash -c 'exec 3<>/dev/tcp/198.51.100.10/80 && while read -r _; do
        printf "GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n" >&3
        while IFS= read -r -t 10 line <&3; do case $line in nginx*) echo "$line"; break ;; esac; done
    done'; } 2>/dev/null
    flow_lives
}
end_flow() { eval "exec ${FLOW[1]}>&-"; }
flow_lives() {
    local answer=
    echo >&"${FLOW[1]}"
    read -r -t 15 -u "${FLOW[0]}" answer || :
    grep -q '^nginx was asked for api.example.org by 203.0.113.1[6-9]' <<<"$answer" || wrong "the flow that was open ended"
}

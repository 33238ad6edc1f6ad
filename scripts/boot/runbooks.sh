# shellcheck shell=bash disable=SC2016,SC2034 # scripts of sed and of other shells; fails and before are for docs.sh
# The runbooks' commands, in the situation of the alert where it can be brought about in seconds, and else as they are. Each
# page's commands have to show what the situation is, and its remedy, where it is a command, has to end it.

: "${tree:?}" "${problems:?}" # set by machine.sh and docs.sh

# Each runbook has its function here. These have no situation: it takes a fault of the machine or of Egret.
ordinary=(EgretConfigVersionsDiffer EgretFlowLogDropped EgretInternalError EgretSockDiagFailing)
# This one's are Prometheus's.
without_commands=(EgretAbsent EgretResolverFailing)

scenario_runbooks() {
    local page name
    document_lab
    reload_with
    wait_for 10 "service" is_served -4
    for page in "$tree"/docs/runbooks/*.md; do
        name=$(basename "$page" .md)
        case " ${ordinary[*]} " in *" $name "*) eval "situation_$name() { look $name; }" ;; esac
        case " ${without_commands[*]} " in *" $name "*) continue ;; esac
        if [[ $(type -t "situation_$name") != function ]]; then
            problem "$page: there is no situation for it in scripts/boot/runbooks.sh"
            continue
        fi
        local start=$EPOCHREALTIME
        "situation_$name"
        say "$name: $(((${EPOCHREALTIME/./} - ${start/./}) / 1000)) ms"
    done
    all_pages_were_run "$tree"/docs/runbooks/*.md
    small_disk
    serve_again
    ((problems == 0)) || wrong "$problems faults in the runbooks"
}
look() { # ALERT PATTERN...
    local name=$1
    shift
    run_page "docs/runbooks/$name.md" "$@"
}
# Of the gateway that runs.
limit_open_files() { # COUNT
    machine setpriv --reuid=egret --regid=egret --clear-groups prlimit --pid "$(main_pid)" --nofile="$1:"
}
nothing_found='1 journalctl -k'

situation_EgretAcceptErrors() {
    limit_open_files 40
    look EgretAcceptErrors '^LISTEN .*:15001' '^TcpExtListenOverflows' '^TCP: inuse' '^warn +file descriptors +40 '
    machine systemctl restart egret
}
situation_EgretAuditLogErrors() { pages_run+=(docs/runbooks/EgretAuditLogErrors.md); } # small_disk
situation_EgretFlowLogErrors() { pages_run+=(docs/runbooks/EgretFlowLogErrors.md); }

situation_EgretCandidateFellBack() {
    machine sh -c 'sed s/api.example.org/other.example.org/ /etc/egret/egret.toml >/etc/egret/candidate.toml'
    machine egret candidate load /etc/egret/candidate.toml --percent 100 --max-denials 1 >/dev/null
    local each
    for each in 1 2 3 4 5 6; do denied api.example.org; done
    wait_for 5 "the candidate to step back" fell_back
    fails=('1 egret candidate status')
    look EgretCandidateFellBack 'WOULD DENY' 'api.example.org:80 +[0-9]+ flows' '"acme",.*"api.example.org","not_allowed"'
    machine egret candidate drop >/dev/null
}
fell_back() { machine egret candidate status; (($? == 1)); }

situation_EgretConfigFallback() {
    type_wrongly
    machine systemctl restart egret
    machine systemctl restart egret-steering 2>/dev/null
    before=mend_before_reload fails=('1 egret check' '3 systemctl status egret-steering')
    look EgretConfigFallback 'last good configuration' 'egret.toml:[0-9]+:[0-9]+: error: .*"source"' 'last good rules' ' is in force$'
    metric_is egret_config_fallback 0 || problem "EgretConfigFallback: the fallback goes on"
}
mend_before_reload() { case $1 in *'egret reload'*) document_configuration ;; esac }

situation_EgretConfigReloadFailed() {
    type_wrongly
    machine egret reload >/dev/null 2>&1
    before=mend_before_reload fails=('1 egret check')
    look EgretConfigReloadFailed 'egret.toml:[0-9]+:[0-9]+: error: .*"source"' '"change":"reload",.*"result":"refused"' ' is in force$'
    metric_is egret_config_reload_success 1 || problem "EgretConfigReloadFailed: goes on"
}

situation_EgretConnectSlow() {
    # The first SYN of each connection is lost.
    server nft -f - <<'RULES'
table inet slow {
    set seen { type ipv4_addr . inet_service; flags dynamic; timeout 9s; }
    chain in {
        type filter hook prerouting priority 0;
        tcp flags & (syn | ack) == syn ip saddr . tcp sport != @seen add @seen { ip saddr . tcp sport } drop
    }
}
RULES
    denied api.example.org
    server nft delete table inet slow
    look EgretConnectSlow '^ +1 198.51.100.10:80 api.example.org 203.0.113.1' '^TcpExtTCPSynRetrans +[1-9]'
}

situation_EgretDenialSurge() {
    denied files.example.org
    denied files.example.org
    fails=('1 egret explain')
    look EgretDenialSurge 'not_allowed\sfiles.example.org\s-' '^ +[0-9]+ 10.0.1.2$' '^verdict +deny' '^outcome +not_allowed'
}

situation_EgretDialFailed() {
    # Somebody's rule for one destination: with one for all of them the clients would be refused at once.
    machine ip rule add pref 150 from 203.0.113.16/30 to 198.51.100.10 ipproto tcp prohibit
    machine ip rule add pref 150 from 203.0.113.16/30 to 198.51.100.10 iif lo prohibit
    denied api.example.org 2>/dev/null
    fails=('2 ip route get')
    look EgretDialFailed '^ +1 acme\s203.0.113.1.*\sa route, a rule of `ip rule`.*prohibits packets' 'ERROR cannot dial: .*Permission denied'
    machine ip rule del pref 150
    machine ip rule del pref 150
}

situation_EgretDown() {
    machine systemctl stop egret
    fails=('3 systemctl status egret' '7 curl' '1 egret doctor')
    look EgretDown 'Active: inactive' '^ok: 2 tenants' '^FAIL +gateway'
    machine systemctl start egret
    wait_for 10 "service" is_served -4
}

situation_EgretFileDescriptorsNearLimit() {
    hold 3 198.51.100.10 api.example.org
    limit_open_files 64
    look EgretFileDescriptorsNearLimit '^Max open files +64 ' '^ +[0-9]+ .*10\.0\.1\.' '^warn +file descriptors +64 '
    let_go
    machine systemctl restart egret
}

situation_EgretGatewayFull() {
    restart_with 's/^drain.*/&\nmax_flows = 8/'
    hold 4 198.51.100.10 api.example.org
    hold 4 198.51.100.20 api.example.org
    denied api.example.org 2>/dev/null
    look EgretGatewayFull '^max_flows = 8' 'ready .*max_flows=8 ' '^ +4 \[::ffff:10.0.2.2\]' '^ +[0-9]+ 10.0.[12].2$'
    let_go
    restart_with
}

situation_EgretLedgerKernelDifference() { another_program EgretLedgerKernelDifference; }
situation_EgretPortCollisions() { another_program EgretPortCollisions 'ip_local_reserved_ports'; }
another_program() { # ALERT PATTERN...
    machine sh -c 'sleep 20 | curl -s --interface 203.0.113.16 telnet://198.51.100.10:80 & echo $! >/run/other'
    wait_for 5 "the other program's connection" other_is_there
    look "$@" '203.0.113.16:[0-9]+ .*"curl"' '^LISTEN .*:15001'
    machine sh -c 'kill "$(cat /run/other)"'
}
other_is_there() { machine ss -tanp 'src 203.0.113.16' | grep curl; }

situation_EgretMonitorEndsSoon() {
    reload_with 's/^# what .*/mode = "monitor"\nmonitor_until = "2099-12-31"/'
    denied soon.example.org
    look EgretMonitorEndsSoon '^ +1 soon.example.org\snot_allowed\s-$'
    reload_with
}

situation_EgretNotReady() {
    stop_repair
    machine nft flush ruleset
    wait_for 5 "the gateway to notice" not_ready
    look EgretNotReady '^steering is not in place: .*packet rules' 'Active: active'
    machine systemctl start egret-steering-heal.path
    wait_for 10 "steering" ready
}
not_ready() { machine curl -sf http://127.0.0.1:9915/readyz; (($? == 22)); }
ready() { machine curl -sf http://127.0.0.1:9915/readyz; }

situation_EgretPoolWithoutSources() {
    machine sh -c 'for each in 16 17 18 19; do egret ports drain 203.0.113.$each; done' >/dev/null
    fails=('1 egret doctor')
    look EgretPoolWithoutSources '^acme +203.0.113.16 +draining' '^acme +203.0.113.19 +draining'
    machine sh -c 'for each in 16 17 18 19; do egret ports undrain 203.0.113.$each; done' >/dev/null
}
situation_EgretSourceDrained() {
    machine egret ports drain 203.0.113.16 >/dev/null
    look EgretSourceDrained '^acme +203.0.113.16 +draining' '^0$'
    machine egret ports undrain 203.0.113.16 >/dev/null
}
situation_EgretSourceWithdrawn() {
    stop_repair
    machine ip route del local 203.0.113.16/30 dev lo table local
    wait_for 5 "the addresses to be withdrawn" withdrawn
    fails=('1 egret doctor')
    look EgretSourceWithdrawn '^203.0.113.16 via 198.51.100.10 ' '^acme +203.0.113.16 +withdrawn' '^FAIL +IPv4 local routes'
    machine systemctl restart egret-steering
    machine systemctl start egret-steering-heal.path
    wait_for 10 "service" is_served -4
}
withdrawn() { machine egret ports --pool acme | grep '203.0.113.16 *withdrawn'; }

# All ten ports of the pool's one address towards one destination.
full_pool() {
    reload_with 's|203.0.113.16/30|203.0.113.16/32|; s|1024-65535|20000-20009|'
    fill 10 is_hot
}
# Holds so many connections of acme's, asks for one more, and waits until `egret ports` shows them.
fill() { # COUNT CHECK
    hold "$1" 198.51.100.10 api.example.org
    ask -4 https://api.example.org/ >/dev/null 2>&1 # one more
    wait_for 5 "the look at the ports, once a second" "$2"
}
is_hot() { machine egret ports --pool acme | grep '198.51.100.10:443 .*api.example.org'; }
situation_EgretPortAllocationFailures() {
    full_pool
    look EgretPortAllocationFailures '^ +[0-9]+ acme\sacme\sapi.example.org\s198.51.100.10:443$' 'clients: 10.0.1.2 \(acme\) 10' '^ +10 ESTAB'
}
situation_EgretPortsCritical() { look EgretPortsCritical '^acme +203.0.113.16 .* 100.0 %' '198.51.100.10:443 +api.example.org' '^10$'; }
situation_EgretPortsExhaustionSoon() { look EgretPortsExhaustionSoon '10 of 10 in use' '^ +[0-9]+ acme\s10.0.1.2$'; }
situation_EgretPortsHigh() {
    look EgretPortsHigh '10 of 10 in use' 'tenants: acme 10' '^ +[0-9]+ 198.51.100.10:443' '^10$'
    let_go
    reload_with
}

# No situation, and so nothing of it in the kernel's log.
situation_EgretRelayFailed() {
    fails=("$nothing_found")
    look EgretRelayFailed '^TCP: inuse' '^fs.pipe-user-pages-soft' ' 0 failed$'
}

situation_EgretResolverUnavailable() {
    reload_with 's/"deb.debian.org"\]/&\n  destination = "verify"/; 1i [resolver]\nservers = ["198.51.100.10"]'
    denied api.example.org
    look EgretResolverUnavailable '^ +[0-9]+ acme\sapi.example.org\s(no DNS server answered|the DNS servers did not answer)'
    reload_with
}

situation_EgretRestarting() {
    signal KILL
    wait_for 10 "service" is_served -4
    fails=("$nothing_found")
    look EgretRestarting 'Main process exited, code=killed, status=9/KILL' 'Active: active'
}

situation_EgretSteeringLost() {
    stop_repair
    machine nft flush ruleset
    wait_for 5 "the gateway to notice" not_ready
    fails=('1 egret steering status' '3 systemctl status')
    look EgretSteeringLost '^steering is not in place: ' '^FAIL +IPv4 packet rules' 'net.ipv4.conf.ens5.forwarding = '
    wait_for 5 "the remedy to help" ready
    is_served -4 || problem "EgretSteeringLost: no service after its remedy"
}
situation_EgretSteeringRepaired() {
    wait_for 20 "repairs under way" no_repair
    machine nft flush ruleset
    wait_for 5 "the gateway to notice" not_ready
    wait_for 20 "the repair" ready
    wait_for 20 "service" is_served -4
    wait_for 20 "the repair's end" no_repair
    look EgretSteeringRepaired 'ERROR steering is not in place: ' 'Active: active'
}

situation_EgretTenantFlowLimit() {
    reload_with 's/^# what .*/limits = { flows = 2 }/'
    hold 2 198.51.100.10 api.example.org
    denied api.example.org 2>/dev/null
    look EgretTenantFlowLimit 'flows = 2' '^ +2 \[::ffff:10.0.1.2\]' '^ +[0-9]+ 10.0.1.2$'
    let_go
    reload_with
}
tenant_has_ports() { machine egret ports --tenant acme | grep 'clients: 10.0.1.2'; }
situation_EgretTenantPortCeiling() {
    # Other ports than above, which are held for a while.
    reload_with 's/^# what .*/ports_ceiling = 3/; s|203.0.113.16/30|203.0.113.16/32|; s|1024-65535|30000-30009|'
    fill 3 tenant_has_ports
    look EgretTenantPortCeiling 'tenants: acme 3' '^ +[0-9]+ 198.51.100.10:443\s.*10.0.1.2$'
    let_go
    reload_with
}

# Logs on a disk that is full, and the audit log in a file.
small_disk() {
    machine mount -t tmpfs -o size=64k,mode=750,uid="$(machine id -u egret)",gid="$(machine id -g egret)" tmpfs /var/log/egret
    restart_with '$ a [audit]\npath = "/var/log/egret/audit.jsonl"'
    machine egret reload >/dev/null
    run_page docs/audit.md '"change":"start"' '"reload","control",0'
    machine sh -c 'head -c 100k /dev/zero >/var/log/egret/egret.log.1' 2>/dev/null
    # More than fits into what the files have of their last page.
    local denied=(http://evil.example.org/{1..8})
    ask -4 "${denied[@]}" >/dev/null
    machine sh -c 'for each in 1 2 3 4 5 6 7 8 9; do egret ports drain 203.0.113.17; egret ports undrain 203.0.113.17; done' >/dev/null
    before=make_room
    look EgretFlowLogErrors 'flow log.*No space left' ' 100% /var/log/egret$' '^/var/log/egret +tmpfs'
    denied
    wait_for 5 "the flow in the log" machine grep -q evil.example.org /var/log/egret/flows.jsonl
    look EgretAuditLogErrors 'audit log.*No space left' 'not in the audit log.*"change":"drain"'
    machine egret ports drain 203.0.113.17 >/dev/null
    wait_for 5 "the change in the audit log" machine grep -q '"change":"drain"' /var/log/egret/audit.jsonl
    machine umount -l /var/log/egret
}
make_room() {
    case $1 in
        *USR1*) machine rm -f /var/log/egret/egret.log.1 /var/log/egret/flows.jsonl /var/log/egret/audit.jsonl ;;
    esac
}

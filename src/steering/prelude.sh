# What Egret puts into the kernel is told from what others put there by its names: chains EGRET_*, the nftables table
# `inet egret`, and the protocol number 230 on rules and routes. Nothing else is changed or removed.
proto=230
pref=100
state=${EGRET_STEERING_STATE:-/run/egret-steering/state} # root's alone: it is read back as root

say() { printf 'egret steering: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || { say "$1 is missing: apt install $2"; exit 1; }; }

# --- what was there before, one NAME=VALUE a line

# Read by the shell itself, which is quicker than a program for each line.
recorded() {
    if [ ! -f "$state" ]; then return 0; fi
    while IFS= read -r entry; do case $entry in "$1="*) printf '%s\n' "${entry#*=}" ;; esac; done <"$state"
}
is_recorded() {
    if [ ! -f "$state" ]; then return 1; fi
    while IFS= read -r entry; do case $entry in "$1="*) return 0 ;; esac; done <"$state"
    return 1
}
record() { # NAME VALUE
    if is_recorded "$1"; then
        others_of "$1" >"$state.new"
        printf '%s=%s\n' "$1" "$2" >>"$state.new"
        mv "$state.new" "$state"
    else
        printf '%s=%s\n' "$1" "$2" >>"$state"
    fi
}
forget() { # NAME
    if is_recorded "$1"; then
        others_of "$1" >"$state.new"
        mv "$state.new" "$state"
    fi
}
others_of() { while IFS= read -r entry; do case $entry in "$1="*) ;; *) printf '%s\n' "$entry" ;; esac; done <"$state"; }

# --- sysctls

find_sysctl() { # NAME: sets `path`
    path=/proc/sys
    rest=$1.
    while [ -n "$rest" ]; do
        path=$path/${rest%%.*}
        rest=${rest#*.}
    done
}
read_sysctl() { # NAME: sets `path` and `value`
    find_sysctl "$1"
    value=$(tr '\t' ' ' <"$path")
}

set_sysctl() { # NAME VALUE: fails where it cannot be written
    read_sysctl "$1"
    # Our own value from an earlier run is not what was there before.
    if ! is_recorded "set.$1" || [ "$value" != "$(recorded "set.$1")" ]; then record "before.$1" "$value"; fi
    write_path "$2" || return 1
    read_sysctl "$1"
    record "set.$1" "$value"
}
write_path() { { printf '%s\n' "$1" >"$path"; } 2>/dev/null; } # VALUE
at_least() { # NAME VALUE WHY
    find_sysctl "$1"
    if [ ! -e "$path" ]; then say "this kernel has no $1 ($3)"; return; fi
    read_sysctl "$1"
    if [ "$value" -ge "$2" ] || set_sysctl "$1" "$2"; then return; fi
    say "$1 stays $value, since it cannot be written here; $2 is better ($3)"
}
must_be_reservable() { # RANGES
    read_sysctl net.ipv4.ip_local_reserved_ports
    if [ -w "$path" ] || are_reserved "$1"; then return 0; fi
    say "net.ipv4.ip_local_reserved_ports cannot be written here (is /proc/sys read-only?): other programs would take ports of the pools"
    say "nothing was changed; from where it can be written, set it to a list that has $1"
    exit 1
}
are_reserved() { # RANGES: in the list `value`
    printf '%s\n' "$value" "$1" | awk -F , '{
        for (i = 1; i <= NF; i++) {
            first = last = $i; sub(/-.*/, "", first); sub(/.*-/, "", last)
            for (p = first + 0; p <= last + 0; p++) if (NR == 1) there[p] = 1; else if (!(p in there)) exit 1
        }
    }'
}
reserve_ports() { # RANGES: added to what others reserved
    name=net.ipv4.ip_local_reserved_ports
    read_sysctl $name
    # See must_be_reservable.
    if [ ! -w "$path" ]; then return 0; fi
    others=$value
    if is_recorded "set.$name" && [ "$others" = "$(recorded "set.$name")" ]; then others=$(recorded "before.$name"); fi
    set_sysctl $name "${others:+$others,}$1"
}
# Where the record is gone and Egret's rules are there: what can be told from these.
recover_record() {
    mkdir -p "${state%/*}"
    if [ -f "$state" ]; then return 0; fi
    name=net.ipv4.ip_local_reserved_ports
    read_sysctl $name
    now=$value
    pools=$(pool_ports)
    if [ -z "$pools" ]; then
        if ip -N rule show | grep -q "proto $proto"; then
            say "the record of what was there before ($state) is gone, and so are Egret's packet rules: whether ports of the pools are still in $name ($now) is not known"
        fi
        return 0
    fi
    read_sysctl net.ipv4.ip_local_port_range
    range=$value
    # Egret reserves the pools' ports but for the last 4096 ephemeral ones.
    before=$(printf '%s\n' "$now" "$range" "$pools" | awk '
        function ends(range) { first = last = range + 0; if (sub(/.*-/, "", range)) last = range + 0 }
        NR == 1 { n = split($0, ranges, ","); for (i = 1; i <= n; i++) { ends(ranges[i]); for (p = first; p <= last; p++) kept[p] = 1 } }
        NR == 2 { high = $2; low = high - 4095 < $1 ? $1 : high - 4095 }
        NR > 2 { ends($0); for (p = first; p <= last; p++) if (p < low || p > high) delete kept[p] }
        END {
            for (p = 1; p <= 65535; p++) if (p in kept && !((p - 1) in kept)) {
                for (q = p; (q + 1) in kept; q++);
                printf "%s%s", comma, (q > p ? p "-" q : p); comma = ","
            }
        }')
    record "before.$name" "$before"
    record "set.$name" "$now"
    for tool in iptables ip6tables; do
        if ! have "$tool-save" || ! saved "$tool-save" | grep -q '^:EGRET_'; then continue; fi
        case $("$tool" -V) in *nf_tables*) ;; *) continue ;; esac
        record "tables.$tool" "$(saved "$tool-save" | awk '
            /^\*/ { table = substr($0, 2); ours = 0 }
            /^:EGRET_/ { ours = 1 }
            /^COMMIT/ && !ours { printf "%s ", table }')"
        record "input.$tool" no
        record "postrouting.$tool" no
    done
    say "the record of what was there before ($state) is gone; told from Egret's rules, \`down\` takes the pools' ports out of $name, also those that others had reserved too, and leaves net.core.somaxconn, net.ipv4.tcp_migrate_req and net.ipv4.tcp_timestamps as they are"
}
pool_ports() { # as Egret's packet rules in place have them, FIRST-LAST a line
    {
        for tool in iptables iptables-nft iptables-legacy ip6tables ip6tables-nft ip6tables-legacy; do
            if have "$tool-save"; then "$tool-save" 2>/dev/null || :; fi
        done | sed -n 's/^-A EGRET_OUTPUT -s .* --sport \([0-9:]*\) .*/\1/p' | tr : -
        if have nft; then nft list chain inet egret untrack_out 2>/dev/null || :; fi |
            sed -n 's/.* saddr .* tcp sport \([0-9-]*\) notrack.*/\1/p'
    } | sort -u
}
restore_sysctls() {
    [ -f "$state" ] || return 0
    sed -n 's/^set\.\([a-z0-9._]*\)=.*/\1/p' "$state" | while read -r name; do
        read_sysctl "$name"
        if [ "$value" = "$(recorded "set.$name")" ]; then
            write_path "$(recorded "before.$name")" || say "$name cannot be written here; left as it is"
        else
            say "$name was changed by somebody since; left as it is"
        fi
    done
    rm -f "$state"
}

# --- rules and routes; numbers instead of names (-N), whatever /etc/iproute2 calls them

has_ipv6() { [ -e /proc/net/if_inet6 ]; }
has_rules() { [ "$1" = -4 ] || has_ipv6; } # -4|-6
can_route() { # -4|-6
    [ "$1" = -4 ] || { has_ipv6 && [ "$(cat /proc/sys/net/ipv6/conf/lo/disable_ipv6)" = 0 ]; }
}
# What others use, looked at before anything is changed. The cures are keys of the configuration.
must_be_free() { # -4|-6 MARK TABLE
    can_route "$1" || return 0
    foreign=$(ip -N "$1" route show table "$3" 2>/dev/null |
        grep -v -e "proto $proto" -e '^2 default dev lo ' -e '^local default dev lo ' || :)
    if [ -n "$foreign" ]; then
        say "routing table $3 is in use: it has the route \`$(printf '%s\n' "$foreign" | head -n 1 | sed 's/ *$//')\`"
        say "nothing was changed; choose a table that nobody uses: [steering] table, for example $((1000 + $3))"
        exit 1
    fi
    ip -N "$1" rule show | while read -r number rule; do
        # The same rule as ours, put there by hand, does no harm.
        case $rule in
            *"proto $proto"* | "from all fwmark $2 lookup $3" | "from all fwmark $2/$2 lookup $3") continue ;;
            *" lookup $3" | *" lookup $3 "*)
                say "routing table $3 is in use: the rule \`$rule\` at ${number%:} looks packets up in it"
                say "nothing was changed; choose a table that nobody uses: [steering] table, for example $((1000 + $3))"
                exit 1
                ;;
            "not "*) continue ;;
            *" fwmark "*) ;;
            *) continue ;;
        esac
        theirs=${rule##* fwmark }
        theirs=${theirs%% *}
        if [ $((${theirs%/*} & $2)) -ne 0 ]; then
            say "firewall mark $2 is in use: the rule \`$rule\` at ${number%:} has a bit in common with it"
            say "nothing was changed; choose a bit that nobody uses: [steering] mark, for example 0x200000"
            exit 1
        fi
    done
}
must_be_together() { # -4|-6: rules of others between Egret's would be skipped by every packet
    has_rules "$1" || return 0
    ip -N "$1" rule show | while IFS=: read -r at rule; do
        case $rule in *"proto 23"[01]*) continue ;; esac
        if [ "$at" -gt $((pref + 1)) ] && [ "$at" -lt $((pref + 7)) ]; then
            say "the rule \`$(printf %s "$rule" | tr -s ' \t' ' ')\` at $at lies among Egret's at $((pref + 1)) to $((pref + 7)), where packets skip it"
            say "nothing was changed; give it a priority above $((pref + 7)) (below $((pref + 1)) only if it names both \`from\` and \`to\`)"
            exit 1
        fi
    done
}
no_rule_marks() { # MARK: no packet rule of others sets a bit of it. Marks of connections (CONNMARK, ct mark) are others.
    {
        for tool in iptables iptables-legacy ip6tables ip6tables-legacy; do
            if have "$tool-save"; then "$tool-save" 2>/dev/null | grep -v '^-A EGRET_' || :; fi
        done | sed -n 's/.* -j MARK --set-x*mark \(0x[0-9a-f]*\).*/\1 iptables/p'
        # iptables passes over rules of nft's own in tables of its names.
        if have nft; then
            nft list ruleset 2>/dev/null | awk '
                /^table / { in_ours = $2 == "inet" && $3 == "egret" }
                $1 == "chain" { in_chain_of_ours = $2 ~ /^EGRET_/ }
                { gsub(/ct mark set/, "") }
                !in_ours && !in_chain_of_ours && match($0, /(^|[ \t])(meta )?mark set ((meta )?mark (\||or) )?0x[0-9a-f]+/) {
                    found = substr($0, RSTART, RLENGTH); sub(/.*0x/, "0x", found); print found, "nftables"
                }'
        fi
    } | sort -u | while read -r theirs tool; do
        if [ $((theirs & $1)) -ne 0 ]; then
            say "firewall mark $1 is in use: another rule of $tool sets $theirs, which has a bit in common with it"
            say "nothing was changed; choose a bit that nobody uses: [steering] mark, for example 0x200000"
            exit 1
        fi
    done
}
interfaces_exist() { # PATTERN...: says which match nothing. They may come later, and are steered then.
    for wanted; do
        for link in /proc/sys/net/ipv4/conf/*; do
            link=${link##*/}
            # shellcheck disable=SC2254 # a pattern is meant
            case $link in all | default) ;; $wanted) continue 2 ;; esac
        done
        say "no interface is called $wanted: what comes in elsewhere is not intercepted; \`ip -br link\` lists the names"
    done
}
mark_rule() { # -4|-6 MARK TABLE: marked packets are looked up in the table, before any other rule is asked
    want="from all fwmark $2/$2 lookup $3 proto $proto"
    listed=$(ip -N "$1" rule show)
    first=$(printf '%s\n' "$listed" | awk -F : '$1 > 0 && !/proto 23[01]/ { print $1; exit }')
    number=$pref
    if [ -n "$first" ] && [ "$first" -le $pref ]; then number=$((first - 1)); fi
    case "
$listed" in
        *"
$number:"[[:space:]]"$want"*) ;;
        *) ip "$1" rule add pref "$number" fwmark "$2/$2" lookup "$3" protocol $proto ;;
    esac
    printf '%s\n' "$listed" | while read -r at rule; do
        case "$at $rule" in "$number: $want"*) continue ;; esac
        # shellcheck disable=SC2086 # what is shown are the arguments to delete it
        case $rule in *fwmark*"proto $proto"*) ip "$1" rule del pref "${at%:}" $rule ;; esac
    done
}
# Rules of policy routing that keep intercepted ports from being routed on, whatever becomes of the packet rules. Each is
# written as `ip rule add pref` takes it, with numbers for protocols; an interface may be a pattern.
port_rules() { # -4|-6; the rules on standard input, in the order to add them in
    wanted=$(by_interface)
    there=$(port_rules_there "$1")
    {
        printf '%s\n' "$wanted" | while IFS= read -r rule; do
            is_line "$rule" "$there" || printf 'rule add pref %s protocol %s\n' "$rule" $proto
        done
        printf '%s\n' "$there" | while IFS= read -r rule; do
            [ -z "$rule" ] || is_line "$rule" "$wanted" || printf 'rule del pref %s protocol %s\n' "$rule" $proto
        done
    } | ip "$1" -batch -
}
is_line() { # LINE TEXT
    case "
$2
" in *"
$1
"*) return 0 ;; *) return 1 ;; esac
}
# Replaces a pattern by every interface that it covers now. A name may be covered by a pattern too, and by several.
by_interface() {
    while IFS= read -r rule; do
        name=${rule#* iif }
        name=${name%% *}
        case "$rule" in
            *" iif "*\**)
                for link in /proc/sys/net/ipv4/conf/*; do
                    link=${link##*/}
                    # shellcheck disable=SC2254 # a pattern is meant
                    case $link in all | default) ;; $name) printf '%s\n' "${rule%% iif *} iif $link ${rule#* iif * }" ;; esac
                done
                ;;
            *) printf '%s\n' "$rule" ;;
        esac
    done | awk '!seen[$0]++'
}
# A rule whose interface is not there at the moment is listed as detached. Types are shown as numbers: RTN_BLACKHOLE, RTN_PROHIBIT.
port_rules_there() { # -4|-6
    ip -N "$1" rule show | sed -n "/ fwmark /d
        s/ \[detached\]//; s/ \[unresolved\]//; s/ipproto ipproto-/ipproto /; s/^\([0-9]*\):[[:space:]]*/\1 /; s/ from all / /
        / proto $proto *\$/{ s///; s/ 6\$/ blackhole/; s/ 8\$/ prohibit/; p; }"
}
local_route() { # -4|-6 TABLE NETWORK: the table delivers the network locally, unless it does already
    [ -n "$(ip "$1" route show table "$2" type local exact "$3" 2>/dev/null)" ] ||
        ip "$1" route add local "$3" dev lo table "$2" proto $proto
}
keep_routes() { # -4|-6 NETWORK@TABLE...: removes ours that are not among them, and that no connection needs
    family=$1
    shift
    wanted=" $* "
    ip -N "$family" route show table all proto $proto | while read -r line; do
        # shellcheck disable=SC2086 # word by word
        set -- $line
        network=$2
        table=${line##* table }
        table=${table%% *}
        case $wanted in *" $network@$table "*) continue ;; esac
        if has_connections "$network"; then
            say "$network stays local: connections that left by it still live. Once they have ended, the next run removes it"
            continue
        fi
        ip "$family" route del local "$network" dev lo table "$table" proto $proto
    done
}
has_connections() { # NETWORK: as their own address
    case $1 in default) return 1 ;; *:*) set -- "[$1]" ;; esac
    have ss && [ -n "$(ss -Htn src "$1" 2>/dev/null)" ]
}
remove_routing() {
    for family in -4 -6; do
        if [ $family = -6 ] && ! has_ipv6; then continue; fi
        # Those that select packets go first, and the skips last: no packet of others is refused meanwhile.
        for at in 102 104 105 106; do ip $family rule flush pref $at protocol $proto; done
        ip $family rule flush protocol $proto
        ip $family route flush table all proto $proto
    done
}

# --- packet rules

# What one of iptables' tools prints, without its warning that the legacy backend has tables, too.
saved() { # iptables-save|... ARGUMENT...
    { "$@" 2>&1 >&3 | grep -v '^# Warning: .*-legacy tables present' >&2 || :; } 3>&1
}
# Rules are removed with the tool that put them there. Looked at before anything is changed.
must_be_removable() {
    lost=
    for tool in iptables ip6tables nft; do
        if have $tool; then continue; fi
        # The nftables backend of iptables is seen without it, too.
        if is_recorded loaded.$tool || { [ $tool != nft ] && have nft && nft list ruleset 2>/dev/null | grep -q 'chain EGRET_'; }; then
            lost=$tool
        fi
    done
    case $lost in '') return 0 ;; nft) package=nftables ;; *) package=iptables ;; esac
    say "$lost is missing, and Egret's packet rules were put in place with it: apt install $package"
    say "nothing was changed"
    exit 1
}
tables_of() { saved "$1-save" | sed -n 's/^\*//p' | tr '\n' ' '; }

# Each table of the rules on standard input is one transaction: our chains are replaced, and the jumps to them are put
# first (again), so that no other rule lets a packet pass by.
load_iptables() { # iptables|ip6tables ip|ip6
    is_recorded "loaded.$1" || record "loaded.$1" yes
    version=$("$1" -V)
    case $version in
        *nf_tables*)
            is_recorded "tables.$1" || record "tables.$1" "$(tables_of "$1")"
            is_recorded "input.$1" || record "input.$1" "$(has_chain "$2" filter INPUT)"
            is_recorded "postrouting.$1" || record "postrouting.$1" "$(has_chain "$2" mangle POSTROUTING)"
            ;;
    esac
    # All of it is there before the tool starts: the legacy backend holds a lock while it reads.
    rules=$(
        while IFS= read -r line; do
            case $line in
                \**) there=$("$1-save" -t "${line#?}" </dev/null 2>/dev/null || :) ;;
                "-I "*)
                    if is_line "-A ${line#-I }" "$there"; then echo "-D ${line#-I }"; fi
                    ;;
            esac
            printf '%s\n' "$line"
        done
    )
    if ! printf '%s\n' "$rules" | "$1-restore" -w --noflush --test >/dev/null 2>&1; then
        without=$(printf '%s\n' "$rules" | grep -v -e ' -j LOG ')
        if printf '%s\n' "$without" | "$1-restore" -w --noflush --test >/dev/null 2>&1; then
            say "this kernel cannot log packets ($1 LOG): steering does without"
            rules=$without
        fi
    fi
    printf '%s\n' "$rules" | "$1-restore" -w --noflush
    case $version in *nf_tables*) wake_tables "$2" ;; esac
    for tool in $(other_backends "$1"); do remove_iptables "$tool" "$2"; done
}
wake_tables() { # ip|ip6: a table that somebody has switched off (`flags dormant`) keeps its rules, and no packet meets them
    if have nft; then printf "add table $1 %s\n" filter raw mangle | nft -f - || :; fi
}
has_chain() { # ip|ip6 TABLE CHAIN: whether the chain is there; the nftables backend makes it when somebody uses it
    if have nft && nft list chain "$1" "$2" "$3" >/dev/null 2>&1; then echo yes; else echo no; fi
}
# The tools of the backends that this tool does not use: rules that were loaded before the alternative changed.
other_backends() { # iptables|ip6tables
    case $("$1" -V) in *nf_tables*) other=$1-legacy ;; *) other=$1-nft ;; esac
    if have "$other-save"; then echo "$other"; fi
}
remove_every_backend() { # iptables|ip6tables ip|ip6
    if ! have "$1"; then return 0; fi
    for tool in "$1" $(other_backends "$1"); do remove_iptables "$tool" "$2"; done
    forget "loaded.$1"
}
remove_iptables() { # iptables|iptables-nft|iptables-legacy... ip|ip6
    if ! have "$1-save" || ! saved "$1-save" | grep -q '^:EGRET_'; then return 0; fi
    saved "$1-save" | awk '
        /^\*/ { table = $0; declared = hooks = removed = "" }
        /^:EGRET_/ { declared = declared $0 "\n"; removed = removed "-X " substr($1, 2) "\n" }
        /^-A / && !/^-A EGRET_/ && / -[jg] EGRET_/ { sub(/^-A/, "-D"); hooks = hooks $0 "\n" }
        /^COMMIT/ && declared != "" { printf "%s\n%s%s%sCOMMIT\n", table, declared, hooks, removed }
    ' | "$1-restore" -w --noflush
    # The nftables backend made tables for us. Those that nobody else uses by now go too.
    case $("$1" -V) in *nf_tables*) ;; *) return 0 ;; esac
    known=tables.${1%-nft}
    if ! is_recorded "$known" || ! have nft; then return 0; fi
    if [ "$(recorded "input.${1%-nft}")" = no ]; then remove_chain "$1" "$2" filter INPUT; fi
    if [ "$(recorded "postrouting.${1%-nft}")" = no ]; then remove_chain "$1" "$2" mangle POSTROUTING; fi
    for table in $(tables_of "$1"); do
        case " $(recorded "$known")" in *" $table "*) continue ;; esac
        if ! saved "$1-save" -t "$table" | grep -qE '^-A |^:[^ ]+ (DROP|-) '; then nft delete table "$2" "$table"; fi
    done
}
remove_chain() { # iptables|iptables-nft... ip|ip6 TABLE CHAIN: unless somebody uses it by now
    if ! saved "$1-save" -t "$3" | grep -qE "^-A $4 |^:$4 DROP "; then nft delete chain "$2" "$3" "$4" 2>/dev/null || :; fi
}
load_nftables() {
    is_recorded loaded.nft || record loaded.nft yes
    rules=$(cat)
    if ! printf '%s\n' "$rules" | nft -c -f - 2>/dev/null; then
        without=$(printf '%s\n' "$rules" | grep -v -e ' log prefix ')
        if printf '%s\n' "$without" | nft -c -f - 2>/dev/null; then
            say "this kernel cannot log packets (nft log): steering does without"
            rules=$without
        fi
    fi
    printf '%s\n' "$rules" | nft -f -
}
remove_nftables() {
    if have nft && nft list table inet egret >/dev/null 2>&1; then nft delete table inet egret; fi
    forget loaded.nft
}

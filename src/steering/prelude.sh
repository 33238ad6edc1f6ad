# What Egret puts into the kernel is told from what others put there by its names: chains EGRET_*, the nftables table
# `inet egret`, and the protocol number 230 on rules and routes. Nothing else is changed or removed.
proto=230
pref=100
state=${EGRET_STEERING_STATE:-/run/egret-steering/state} # root's alone: it is read back as root

say() { printf 'egret steering: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || { say "$1 is missing: apt install $2"; exit 1; }; }

# --- what was there before, one NAME=VALUE a line

recorded() { if [ -f "$state" ]; then sed -n "s|^$1=||p" "$state"; fi; }
is_recorded() { [ -f "$state" ] && grep -q "^$1=" "$state"; }
record() { # NAME VALUE
    mkdir -p "$(dirname "$state")"
    { if [ -f "$state" ]; then grep -v "^$1=" "$state" || :; fi; printf '%s=%s\n' "$1" "$2"; } >"$state.new"
    mv "$state.new" "$state"
}

# --- sysctls

path_of() { printf '/proc/sys/%s' "$(printf %s "$1" | tr . /)"; }
value_of() { tr '\t' ' ' <"$(path_of "$1")"; }

set_sysctl() { # NAME VALUE
    now=$(value_of "$1")
    # Our own value from an earlier run is not what was there before.
    if ! is_recorded "set.$1" || [ "$now" != "$(recorded "set.$1")" ]; then record "before.$1" "$now"; fi
    printf '%s\n' "$2" >"$(path_of "$1")"
    record "set.$1" "$(value_of "$1")"
}
at_least() { # NAME VALUE WHY
    if [ ! -e "$(path_of "$1")" ]; then say "this kernel has no $1 ($3)"; return; fi
    if [ "$(value_of "$1")" -lt "$2" ]; then set_sysctl "$1" "$2"; fi
}
reserve_ports() { # RANGES: added to what others reserved
    name=net.ipv4.ip_local_reserved_ports
    others=$(value_of $name)
    if is_recorded "set.$name" && [ "$others" = "$(recorded "set.$name")" ]; then others=$(recorded "before.$name"); fi
    set_sysctl $name "${others:+$others,}$1"
}
restore_sysctls() {
    [ -f "$state" ] || return 0
    sed -n 's/^set\.\([a-z0-9._]*\)=.*/\1/p' "$state" | while read -r name; do
        if [ "$(value_of "$name")" = "$(recorded "set.$name")" ]; then
            recorded "before.$name" >"$(path_of "$name")"
        else
            say "$name was changed by somebody since; left as it is"
        fi
    done
    rm -f "$state"
}

# --- rules and routes; numbers instead of names (-N), whatever /etc/iproute2 calls them

has_ipv6() { [ -e /proc/net/if_inet6 ]; }
can_route() { # -4|-6
    [ "$1" = -4 ] || { has_ipv6 && [ "$(cat /proc/sys/net/ipv6/conf/lo/disable_ipv6)" = 0 ]; }
}
mark_rule() { # -4|-6 MARK TABLE: marked packets are looked up in the table
    want="from all fwmark $2/$2 lookup $3 proto $proto"
    ip -N "$1" rule show | grep -qF "$want" ||
        ip "$1" rule add pref $pref fwmark "$2/$2" lookup "$3" protocol $proto
    ip -N "$1" rule show | while read -r number rule; do
        case $rule in "$want"*) continue ;; esac
        # shellcheck disable=SC2086 # what is shown are the arguments to delete it
        case $rule in *"proto $proto"*) ip "$1" rule del pref "${number%:}" $rule ;; esac
    done
}
local_route() { # -4|-6 TABLE NETWORK: the table delivers the network locally, unless it does already
    [ -n "$(ip "$1" route show table "$2" type local exact "$3" 2>/dev/null)" ] ||
        ip "$1" route add local "$3" dev lo table "$2" proto $proto
}
keep_routes() { # -4|-6 NETWORK@TABLE...: removes ours that are not among them
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
        ip "$family" route del local "$network" dev lo table "$table" proto $proto
    done
}
remove_routing() {
    for family in -4 -6; do
        if [ $family = -6 ] && ! has_ipv6; then continue; fi
        ip $family rule flush protocol $proto
        ip $family route flush table all proto $proto
    done
}

# --- packet rules

tables_of() { "$1-save" | sed -n 's/^\*//p' | tr '\n' ' '; }

# Each table of the rules on standard input is one transaction: our chains are replaced, and the jumps to them are put
# first (again), so that no other rule lets a packet pass by.
load_iptables() { # iptables|ip6tables
    is_recorded "tables.$1" || record "tables.$1" "$(tables_of "$1")"
    # All of it is there before the tool starts: the legacy backend holds a lock while it reads, which -C would wait for.
    rules=$(
        while IFS= read -r line; do
            case $line in
                \**) table=${line#?} ;;
                "-I "*)
                    # shellcheck disable=SC2086 # word by word
                    if "$1" -w -t "$table" -C ${line#-I } </dev/null 2>/dev/null; then echo "-D ${line#-I }"; fi
                    ;;
            esac
            printf '%s\n' "$line"
        done
    )
    printf '%s\n' "$rules" | "$1-restore" -w --noflush
}
remove_iptables() { # iptables|ip6tables ip|ip6
    if ! have "$1-save"; then return 0; fi
    "$1-save" | awk '
        /^\*/ { table = $0; declared = hooks = removed = "" }
        /^:EGRET_/ { declared = declared $0 "\n"; removed = removed "-X " substr($1, 2) "\n" }
        /^-A / && !/^-A EGRET_/ && / -[jg] EGRET_/ { sub(/^-A/, "-D"); hooks = hooks $0 "\n" }
        /^COMMIT/ && declared != "" { printf "%s\n%s%s%sCOMMIT\n", table, declared, hooks, removed }
    ' | "$1-restore" -w --noflush
    # The nftables backend made tables for us. Those that nobody else uses by now go too.
    case $("$1" -V) in *nf_tables*) ;; *) return 0 ;; esac
    if ! is_recorded "tables.$1" || ! have nft; then return 0; fi
    for table in $(tables_of "$1"); do
        case " $(recorded "tables.$1")" in *" $table "*) continue ;; esac
        if ! "$1-save" -t "$table" | grep -qE '^-A |^:[^ ]+ (DROP|-) '; then nft delete table "$2" "$table"; fi
    done
}
load_nftables() { nft -f -; }
remove_nftables() {
    if have nft && nft list table inet egret >/dev/null 2>&1; then nft delete table inet egret; fi
}

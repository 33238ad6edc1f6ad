# shellcheck shell=bash
# The scenarios. Each finds Egret installed and serving, and leaves it so.

# shellcheck disable=SC2034 # inside.sh reads it
all_scenarios=(
    install_and_boot
    journal
    permissions
    typo_at_boot
    first_boot_with_a_typo
    restart_with_a_broken_configuration
    networkd_reconfigure
    flushed_rules
    killed_gateway
    stopped_gateway
    upgrade
    slow_boot_with_links_up
    folders_that_cannot_be_made
    purge_and_install_again
    documents
    runbooks
)

: "${root:?}" # set by machine.sh
config=/etc/egret/egret.toml
install() { machine /opt/egret/scripts/install.sh --binary /opt/egret/egret "$@"; }

# The main file, a policy file beside it, and a list of names.
good_configuration() {
    rm -rf "$root"/etc/egret/policy.d "$root"/etc/egret/names.txt
    cat >"$root$config" <<'TOML'
[steering]
interfaces = ["ens5"]
ports = [80, 443]

[flow_log]
path = "/var/log/egret/flows.jsonl"

[[pool]]
name = "default"
addresses = ["203.0.113.16/30", "2001:db8:100::/120"]

[[tenant]]
name = "acme"
sources = ["10.0.1.0/24", "fd00:1::/64"]
pool = "default"

  [[tenant.allow]]
  hosts_file = "names.txt"
TOML
    echo api.example.org >"$root"/etc/egret/names.txt
    mkdir "$root"/etc/egret/policy.d
    cat >"$root"/etc/egret/policy.d/beta.toml <<'TOML'
[[tenant]]
name = "beta"
sources = ["10.0.2.0/24"]
pool = "default"

  [[tenant.allow]]
  hosts = ["beta.example.org"]
TOML
    machine chgrp -R egret /etc/egret
    machine chmod 640 $config /etc/egret/names.txt
    machine chmod 2750 /etc/egret/policy.d
}
type_wrongly() { sed -i 's/^sources = \["10.0.1/source = ["10.0.1/' "$root$config"; }
serve_again() {
    good_configuration
    expect "steering could not be started with the good configuration" machine systemctl restart egret-steering
    expect "the gateway could not be started with the good configuration" machine systemctl restart egret
    wait_for 10 "service with the good configuration" is_served -4
}
forwarding_at_boot() {
    printf 'net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n' >"$root"/etc/sysctl.d/90-forward.conf
}
forward() { machine sh -c "echo $1 >/proc/sys/net/ipv4/ip_forward; echo $1 >/proc/sys/net/ipv6/conf/all/forwarding"; }
signal() { # NAME: to the gateway
    local pid
    pid=$(main_pid)
    [[ $pid -gt 1 ]] || wrong "the gateway does not run"
    machine sh -c "kill -$1 $pid"
}
says_at_priority() { # PRIORITY UNIT PATTERN
    expect_line "$3" machine journalctl -q -b --no-pager -o cat -p "$1" -u "$2"
}

scenario_install_and_boot() {
    expect "Debian could not be unpacked" unpack_machine
    boot
    expect "install.sh failed" install
    good_configuration
    expect "the units could not be started" machine systemctl enable --now egret-steering egret
    serves
    reboot_machine
    wait_for 10 "service after a reboot" is_served -4
    serves
    expect_line '^running$' machine systemctl is-system-running
    expect "the units are not what systemd understands" machine systemd-analyze verify /etc/systemd/system/egret.service \
        /etc/systemd/system/egret-steering.service /etc/systemd/system/egret-guard.service
    expect_line '^→ Overall exposure level for egret.service: [0-3]\.' machine systemd-analyze security egret.service --no-pager
    expect "there is no manual page" machine test -s /usr/share/man/man1/egret-reload.1
    nothing_leaked
}

scenario_journal() {
    says_at_priority info egret '^ *INFO ready '
    machine sh -c 'echo broken >>/etc/egret/policy.d/beta.toml'
    signal HUP
    wait_for 10 "an error in the journal" says_at_priority err egret 'not reloaded'
    # Each line of a message, and what `egret reload` says, when systemd runs it.
    says_at_priority err egret 'beta.toml:8:'
    machine systemctl reload egret && wrong "systemctl reload took a broken file"
    good_configuration
    expect "the good configuration is refused" machine systemctl reload egret
    expect_line '^$' machine sh -c 'journalctl -q -b -o cat -u egret | grep "^20[0-9][0-9]-" | head -n 1; echo'
}

scenario_permissions() {
    # As docs/modes.md has it, by root.
    expect "a copy made by root is no candidate" machine sh -c 'umask 022; cd /etc/egret &&
        cp egret.toml candidate.toml && egret candidate load candidate.toml && egret candidate drop && rm candidate.toml'
    rm -r "$root"/etc/egret/policy.d
    machine sh -c 'umask 022; mkdir /etc/egret/policy.d && printf "[[tenant]]\nname = \"gamma\"\nsources = [\"10.0.3.0/24\"]\npool = \"default\"\n" >/etc/egret/policy.d/gamma.toml'
    expect "a policy file made by root is refused" machine egret reload
    # Where the caller's umask closes it, check says so, and its cure works.
    machine chmod 600 /etc/egret/policy.d/gamma.toml
    expect_line 'gamma.toml: error: the service cannot read it' machine egret check
    machine egret check 2>/dev/null && wrong "egret check passes what the service cannot read"
    # shellcheck disable=SC2016 # in the message
    machine sh -c "$(machine egret check 2>&1 | sed -n 's/.*`\(chgrp .*\)`.*/\1/p')"
    expect "the cure that egret check names does not work" machine egret check
    machine chown -R root:root /etc/egret/policy.d
    machine chmod 700 /etc/egret/policy.d
    expect_line 'policy.d: error: the service cannot read it' machine egret check
    good_configuration
    # However the path is spelled; and what the unit hides.
    machine sh -c 'mv /etc/egret/policy.d/beta.toml /home && ln -s /home/beta.toml /etc/egret/policy.d'
    expect_line 'beta.toml: error: .*egret.service hides /home' machine sh -c 'cd /etc/egret; egret check --config egret.toml'
    machine egret reload 2>/dev/null && wrong "the service reads what its unit hides"
    machine rm /home/beta.toml
    good_configuration
    expect "the good configuration is refused" machine egret reload
}

scenario_typo_at_boot() {
    forwarding_at_boot
    type_wrongly
    start_storm
    reboot_machine
    wait_for 10 "service after a reboot with a typing error" is_served -4
    serves
    stop_storm
    nothing_leaked
    expect "forwarding is not on, so this shows nothing" is_forwarded -4
    expect_line '^degraded$' machine systemctl is-system-running
    expect_line '^failed$' machine systemctl is-failed egret-steering
    says_at_priority err egret-steering 'the last good rules'
    says_at_priority err egret 'last good configuration'
    expect "the metric does not tell" metric_is egret_config_fallback 1
    expect_line '^ready$' machine curl -s http://127.0.0.1:9915/readyz
    expect_line 'last good configuration' machine curl -s http://127.0.0.1:9915/readyz
    good_configuration
    expect "the repaired configuration is refused" machine egret reload
    expect "the metric still tells" metric_is egret_config_fallback 0
    expect "steering does not start with the repaired configuration" machine systemctl restart egret-steering
    expect_line '^running$' machine systemctl is-system-running
    serves
    nothing_leaked
}

scenario_first_boot_with_a_typo() {
    forwarding_at_boot
    type_wrongly
    machine rm -rf /var/lib/egret /var/lib/egret-steering
    start_storm
    reboot_machine
    expect_line '^failed$' machine systemctl is-failed egret-steering
    sleep 1 # of the storm
    is_forwarded -4 && wrong "a machine without rules forwards"
    is_forwarded -6 && wrong "a machine without rules forwards IPv6"
    # Its own traffic goes on.
    expect "the machine reaches nothing itself" machine curl -s -o /dev/null --max-time 5 http://198.51.100.10:8080/
    # Whoever flushes packet rules does not open it.
    machine nft flush ruleset
    is_forwarded -4 && wrong "flushing packet rules opened it"
    stop_storm
    nothing_leaked
    serve_again
    expect "forwarding is still off" is_forwarded -4
    serves
    nothing_leaked
}

scenario_restart_with_a_broken_configuration() {
    local breakage
    for breakage in "sed -i 's/^sources/source/' $config" "chmod 000 $config; chown root:root $config" "rm $config" \
        "echo broken >>/etc/egret/policy.d/beta.toml" "chown -R root:root /etc/egret/policy.d; chmod 700 /etc/egret/policy.d" \
        "rm /etc/egret/names.txt" "printf 'a b c\n' >/etc/egret/names.txt" \
        "sed -i '1i [gateway]\nlisten = \"[::]:1\"' $config"; do
        say "- $breakage"
        machine sh -c "$breakage"
        expect "systemctl restart failed after: $breakage" machine systemctl restart egret
        expect "no service after: $breakage" is_served -4
        expect_line '^active$' machine systemctl is-active egret
        expect "the metric does not tell after: $breakage" metric_is egret_config_fallback 1
        signal KILL
        wait_for 5 "service after the gateway was killed, too" is_served -4
        good_configuration
        expect "the good configuration is refused" machine egret reload
        expect "the metric still tells" metric_is egret_config_fallback 0
    done
    # Also what a reload brought into force, and no start has tried.
    sed -i 's/api.example.org/api.example.org\nmore.example.org/' "$root"/etc/egret/names.txt
    expect "the changed configuration is refused" machine egret reload
    type_wrongly
    expect "systemctl restart failed" machine systemctl restart egret
    expect_line '^nginx was asked for more.example.org' ask -4 http://more.example.org/
    serve_again
}

rules_are_there() {
    machine ip rule show | grep 'fwmark 0x1/0x1 lookup 100' >/dev/null &&
        machine ip -6 rule show | grep 'fwmark 0x1/0x1 lookup 100' >/dev/null &&
        machine ip route show table all type local | grep 203.0.113.16/30 >/dev/null
}
scenario_networkd_reconfigure() {
    local link
    for link in ens5 ens6; do
        expect "networkctl reconfigure failed" machine networkctl reconfigure $link
        wait_for 10 "networkd to configure $link" link_is_configured $link
        expect "the rules are gone after networkctl reconfigure $link" rules_are_there
        serves
    done
    expect "networkd does not restart" machine systemctl restart systemd-networkd
    wait_for 10 "networkd to configure ens5" link_is_configured ens5
    expect "the rules are gone after a restart of networkd" rules_are_there
    serves
    nothing_leaked
}
link_is_configured() { machine networkctl status "$1" | grep 'State: routable (configured)' >/dev/null; }

scenario_flushed_rules() {
    local flush
    forwarding_at_boot
    forward 1
    start_storm
    for flush in "systemctl enable --now nftables" "systemctl restart nftables" "systemctl reload nftables" \
        "systemctl stop nftables" "systemctl disable --now nftables" "nft flush ruleset" \
        "for tool in iptables ip6tables; do for table in raw mangle filter; do \$tool -t \$table -F; done; done"; do
        say "- $flush"
        machine sh -c "$flush" 2>/dev/null
        sleep 1 # of the storm
        nothing_leaked
        # Where nobody watches the rules, whoever flushed them has to put them back.
        [[ -e $root/etc/systemd/system/egret-steering-heal.path ]] || machine systemctl restart egret-steering
        # The gateway asks for repair less and less often, the more often in a row it had to.
        wait_for 60 "service after: $flush" is_served -4
        wait_for 60 "service over IPv6 after: $flush" is_served -6
        nothing_leaked
    done
    stop_storm
    serves
}

scenario_killed_gateway() {
    local start
    start_storm
    signal KILL
    start=$EPOCHREALTIME
    wait_for 10 "service after the gateway was killed" is_served -4
    stop_storm
    say "service was back after $(((${EPOCHREALTIME/./} - ${start/./}) / 1000)) ms"
    serves
    nothing_leaked
}

scenario_stopped_gateway() {
    local pid
    pid=$(main_pid)
    signal STOP
    wait_for 40 "systemd to start a gateway anew that stands still" is_served -4
    [[ $(main_pid) != "$pid" ]] || wrong "it is the same process"
    expect_line "watchdog" machine journalctl -q -b --no-pager -o cat -u egret -g '[Ww]atchdog'
    serves
}

networkd_pid() { machine systemctl show --property=MainPID --value systemd-networkd; }
scenario_upgrade() {
    local networkd
    # systemd-networkd is restarted only if it has not read its setting.
    networkd=$(networkd_pid)
    expect "install.sh failed" install
    [[ $(networkd_pid) == "$networkd" ]] || wrong "systemd-networkd was restarted without need"
    machine touch /etc/systemd/networkd.conf.d/50-egret.conf
    expect "install.sh failed" install
    [[ $(networkd_pid) != "$networkd" ]] || wrong "systemd-networkd has not read its setting, and was not restarted"
    wait_for 10 "networkd to configure ens5" link_is_configured ens5
    hold_flow
    expect "install.sh failed over a running gateway" install
    flow_lives
    # A file that is not egret, or a binary that refuses the configuration, is not installed.
    printf '#!/bin/sh\nexit 1\n' >"$root"/opt/egret/broken
    printf '#!/bin/sh\necho other 1.0\n' >"$root"/opt/egret/other
    chmod 755 "$root"/opt/egret/broken "$root"/opt/egret/other
    local binary
    for binary in broken other; do
        machine /opt/egret/scripts/install.sh --binary /opt/egret/$binary 2>/dev/null && wrong "install.sh took a $binary binary"
    done
    type_wrongly
    machine /opt/egret/scripts/install.sh --binary /opt/egret/egret 2>/dev/null && wrong "install.sh went on with a refused configuration"
    expect "--force does not force" install --force
    good_configuration
    expect "the binary that serves was replaced" machine cmp /opt/egret/egret /usr/bin/egret
    flow_lives
    end_flow
    expect "the units do not restart after an upgrade" machine systemctl restart egret-steering egret
    wait_for 10 "service after an upgrade" is_served -4
    serves
    nothing_leaked
}

# Forwarding is switched on by systemd-sysctl, and steering waits for nftables.service.
scenario_slow_boot_with_links_up() {
    forwarding_at_boot
    machine systemctl enable nftables 2>/dev/null
    mkdir -p "$root"/etc/systemd/system/nftables.service.d
    printf '[Service]\nExecStartPre=/bin/sleep 3\n' >"$root"/etc/systemd/system/nftables.service.d/slow.conf
    start_storm
    reboot_machine bring_up_links
    stop_storm
    nothing_leaked
    expect "forwarding is not on, so this shows nothing" is_forwarded -4
    expect_line '^enabled$' machine systemctl is-enabled egret-guard
    wait_for 10 "service after a slow boot" is_served -4
    serves
    # The guard does nothing beside rules that are in place.
    expect "the guard cannot be started again" machine systemctl restart egret-guard
    expect "the guard blocks a machine that is steered" is_forwarded -4
    rm -r "$root"/etc/systemd/system/nftables.service.d
    machine systemctl disable --now nftables 2>/dev/null
    machine systemctl restart egret-steering
    wait_for 10 "service" is_served -4
    nothing_leaked
}

scenario_folders_that_cannot_be_made() {
    local folder folders='/var/lib/egret /var/lib/egret-steering /var/log/egret'
    machine sh -c "systemctl stop egret; for folder in $folders; do rm -r \$folder; echo >\$folder; done"
    for folder in files read-only; do
        say "- $folder"
        expect "steering does not start" machine systemctl restart egret-steering
        expect "the gateway does not start" machine systemctl restart egret
        wait_for 10 "service" is_served -4
        serves
        machine systemctl stop egret
        machine sh -c "rm -f $folders"
        [[ $folder == read-only ]] || machine sh -c 'mount -t tmpfs -o ro tmpfs /var/lib; mount -t tmpfs -o ro tmpfs /var/log'
    done
    machine umount /var/lib /var/log
    expect "steering does not start" machine systemctl restart egret-steering
    expect "the gateway does not start" machine systemctl restart egret
    serves
    for folder in /var/lib/egret /var/log/egret; do expect_line '^egret egret 750$' machine stat -c '%U %G %a' $folder; done
    expect_line '^root root 700$' machine stat -c '%U %G %a' /var/lib/egret-steering
    expect "no configuration is kept" machine sh -c 'ls /var/lib/egret/* >/dev/null'
    nothing_leaked
}

scenario_purge_and_install_again() {
    local left
    forward 0
    rm -f "$root"/etc/sysctl.d/90-forward.conf
    machine useradd --create-home alice
    machine usermod -aG egret alice
    # Where steering cannot be taken down, the next boot is guarded as before.
    machine sh -c 'mkdir /opt/aside; mv /usr/bin/egret /usr/lib/egret/down.sh /opt/aside'
    machine /opt/egret/scripts/install.sh --uninstall 2>/dev/null && wrong "install.sh leaves rules behind"
    for left in egret egret-steering egret-guard; do expect_line '^enabled$' machine systemctl is-enabled $left; done
    expect "the rules are gone" rules_are_there
    # The binary is not needed.
    machine mv /opt/aside/down.sh /usr/lib/egret
    expect "install.sh --uninstall --purge failed" machine /opt/egret/scripts/install.sh --uninstall --purge
    left=$(machine sh -c 'ls -d /etc/egret* /var/lib/egret* /var/log/egret* /usr/bin/egret /usr/lib/egret /etc/systemd/system/*egret* \
        /etc/systemd/system/*/*egret* /etc/systemd/networkd.conf.d/*egret* /usr/share/man/man1/egret* /usr/share/doc/egret /run/egret* 2>/dev/null
        ip rule; ip -6 rule; ip route show table all; nft list ruleset; getent passwd egret; getent group egret' |
        grep -E 'egret|EGRET|proto 23[01]|fwmark')
    [[ -z $left ]] || wrong "a purge leaves behind: $left"
    expect "install.sh failed after a purge" install
    good_configuration
    expect "the units could not be started" machine systemctl enable --now egret-steering egret
    wait_for 10 "service after a purge" is_served -4
    serves
    nothing_leaked
}

# shellcheck shell=bash
# What is done to the machine. A scenario finds Egret installed and serving, and leaves it so.

# shellcheck disable=SC2034 # inside.sh reads it
all_scenarios=(
    install_and_boot
)

: "${root:?}" # set by machine.sh
config=/etc/egret/egret.toml
install() { machine /opt/egret/scripts/install.sh --binary /opt/egret/egret "$@"; }

good_configuration() {
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
  hosts = ["api.example.org"]
TOML
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
    nothing_leaked
}

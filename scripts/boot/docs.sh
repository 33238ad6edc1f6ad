# shellcheck shell=bash disable=SC2016 # scripts of sed and of other shells
# Runs the commands of the documents: every fenced block of shell commands (```sh) in README.md, docs and docs/runbooks, as it
# stands, in the order of its page. A block runs in the machine, or at the client if its fence says `sh client`. Every command
# has to succeed, unless the page's situation says how it fails. A block of text (```text) directly after it is what it prints:
# each line of it, where `…` stands for anything, and a number or hash for any.

: "${root:?}" "${tree:?}" "${dir:?}" "${config:?}" # set by machine.sh and scenarios.sh

# Blocks whose fence says `sh no-run`, by page and first word, and why.
no_run=(
    'README.md scripts/demo.sh'         # makes a lab of its own, as does the rest of that block
    'docs/reload.md cargo'              # measures for minutes
    'docs/alerts.md cp'                 # is Prometheus's machine's
    'docs/alerts.md sed'                # the same
    'docs/alerts.md promtool'           # the step `alerts` of scripts/test.sh
)

# Blocks of a page: the number of the fence's line, what the fence says, the commands, and the text that they print.
read_page() { # PAGE
    local line number=0 inside='' indent='' info='' body='' start=0 end=-1
    starts=() infos=() bodies=() texts=()
    while IFS= read -r line; do
        number=$((number + 1))
        if [[ -z $inside ]]; then
            [[ $line =~ ^(\ *)'```'(.*)$ ]] || continue
            inside=yes indent=${BASH_REMATCH[1]} info=${BASH_REMATCH[2]} body='' start=$number
        elif [[ $line != "$indent"'```' ]]; then
            body+=${line#"$indent"}$'\n'
        else
            inside=
            case $info in
                sh | 'sh '*)
                    starts+=("$start") infos+=("$info") bodies+=("$body") texts+=('')
                    end=$number
                    ;;
                text) ((start != end + 1)) || texts[-1]=$body ;;
            esac
        fi
    done <"$tree/$1"
}

problems=0
problem() {
    printf 'WRONG: %s\n' "$*"
    problems=$((problems + 1))
}
# What stands in for a build, the archive and a password.
make_stand_ins() {
    mkdir -p "$root"/opt/egret/stand-ins "$root"/opt/egret/target/release
    ln -sf ../../egret "$root"/opt/egret/target/release/egret
    printf '#!/bin/sh\nexec "$@"\n' >"$root"/opt/egret/stand-ins/sudo
    printf '#!/bin/sh\ntest "$*" = "build --release"\n' >"$root"/opt/egret/stand-ins/cargo
    printf '#!/bin/sh\nfor package; do case $package in install | build-essential) ;; *) dpkg -s "$package" >/dev/null || exit ;; esac; done\n' \
        >"$root"/opt/egret/stand-ins/apt
    chmod 755 "$root"/opt/egret/stand-ins/*
}
in_shell() { # machine|client SCRIPT
    case $1 in
        machine) machine timeout 60 bash -c "cd /opt/egret; PATH=/opt/egret/stand-ins:\$PATH; $2" ;;
        client) client timeout 60 bash -c "$2" </dev/null ;;
    esac
}

# How commands of the next page fail, each CODE COMMAND, where COMMAND begins a line of the block. They have to.
fails=()
# What is called before each block of the next page, with its commands.
before=:
printed=
pages_run=()
run_page() { # PAGE [PATTERN...]: what its commands print has a line like each pattern
    local page=$1 block pattern failure
    shift
    read_page "$page"
    printed=
    seen=()
    for block in "${!bodies[@]}"; do
        case ${infos[block]} in
            'sh no-run')
                case " ${no_run[*]/%/|}" in
                    *" $page ${bodies[block]%%[ $'\n']*}|"*) ;;
                    *) problem "$page:${starts[block]}: is not run, and scripts/boot/docs.sh does not say why" ;;
                esac
                ;;
            sh) run_block "$page" "$block" machine ;;
            'sh client') run_block "$page" "$block" client ;;
            *) problem "$page:${starts[block]}: nobody knows what \`${infos[block]}\` means" ;;
        esac
    done
    for failure in "${fails[@]}"; do
        [[ " ${seen[*]/%/|}" == *" $failure|"* ]] || problem "$page: did not fail as it should: $failure"
    done
    for pattern in "$@"; do
        grep -qE -- "$pattern" <<<"$printed" || problem "$page: no line like /$pattern/ in what its commands print:"$'\n'"$printed"
    done
    pages_run+=("$page")
    fails=()
    before=:
}
run_block() { # PAGE BLOCK machine|client
    local page=$1 start=${starts[$2]} body=${bodies[$2]} text=${texts[$2]} output line code number command pattern failure
    "$before" "$body"
    # What shows something until it is interrupted is.
    body=$(sed -E 's/^egret .* --watch/timeout -s INT 1 &/' <<<"$body")
    output=$(in_shell "$3" 'set -o pipefail; trap '\''echo "@@ $? $LINENO"'\'' ERR
'"$body" 2>&1)
    printed+=$output$'\n'
    while read -r _ code number; do
        # SIGPIPE: `head` has seen enough.
        ((code != 141)) || continue
        line=$((start + number - 1))
        command=$(sed "${line}q;d" "$tree/$page")
        command=${command#"${command%%[! ]*}"}
        for failure in "${fails[@]}" '124 egret ports'; do
            [[ "$code $command" == "$failure"* ]] || continue
            seen+=("$failure")
            continue 2
        done
        problem "$page:$line: \`$command\` exits with $code:"$'\n'"$output"
    done < <(grep -a '^@@ ' <<<"$output")
    while IFS= read -r line; do
        [[ -n $line ]] || continue
        pattern=$(sed -E 's/[][\.*^$()+?{}|]/\\&/g; s/ *… */.*/g; s/[0-9a-f]*[0-9][0-9a-f]*/[0-9a-f]+/g; s/ +/ +/g' <<<"$line")
        grep -qE -- "^$pattern\$" <<<"$output" || problem "$page:$start: no line as promised: $line"$'\n'"$output"
    done <<<"$text"
}
# Every page with commands has been run.
all_pages_were_run() { # GLOB...
    local page
    for page in "$@"; do
        page=${page#"$tree/"}
        grep -qE '^ *```sh' "$tree/$page" || continue
        [[ " ${pages_run[*]} " == *" $page "* ]] || problem "$page has commands, and nothing runs them"
    done
}

# --- the lab of the documents: two tenants, acme at 10.0.1.2 and beta at 10.0.2.2

document_configuration() { # [SED SCRIPT]: changes to it
    cat >"$root$config" <<'TOML'
[gateway]
drain = "2s"

[steering]
interfaces = ["ens5"]

[policy]
help = "ask #net-egress"

[flow_log]
path = "/var/log/egret/flows.jsonl"

[[pool]]
name = "acme"
addresses = ["203.0.113.16/30", "2001:db8:100::/120"]
ports = "1024-65535"

[[pool]]
name = "beta"
addresses = ["203.0.113.32"]

[[tenant]]
name = "acme"
sources = ["10.0.1.0/24", "fd00:1::/64"]
pool = "acme"
# what a page adds to acme stands here

  [[tenant.allow]]
  hosts = ["api.example.org", "deb.debian.org"]

  # Another rule.
  [[tenant.allow]]
  hosts = ["old.example.org"]
  ports = [80, 443]

# The other tenant.
[[tenant]]
name = "beta"
sources = ["10.0.2.0/24"]
pool = "beta"

  [[tenant.allow]]
  hosts = ["*.example.org"]

  [[tenant.allow]]
  cidrs = ["192.0.2.0/24"]
TOML
    if (($#)); then sed -i "$1" "$root$config"; fi
    rm -rf "$root"/etc/egret/policy.d "$root"/etc/egret/names.txt "$root"/etc/egret/candidate.toml
    machine chgrp egret "$config"
    machine chmod 640 "$config"
}
reload_with() { # [SED SCRIPT]
    document_configuration "$@"
    machine egret reload >/dev/null || problem "the configuration of the documents is refused: ${*:-as it is}"
}
restart_with() { # [SED SCRIPT]
    document_configuration "$@"
    machine systemctl restart egret || problem "the gateway does not start: ${*:-as it is}"
    wait_for 10 "service" is_served -4
}
# The second tenant's client, and names.
document_lab() {
    client ip addr replace 10.0.2.2/24 dev c0
    client ip route replace 198.51.100.20 via 10.0.1.1 src 10.0.2.2
    server ip addr replace 198.51.100.20/24 dev s0
    machine ip route replace 10.0.2.0/24 dev ens5
    printf '127.0.0.1 localhost\n198.51.100.10 example.org\n' >"$root"/etc/hosts
    printf 'resolve = "*:80:198.51.100.10,[2001:db8:51::a]"\nresolve = "*:443:198.51.100.10,[2001:db8:51::a]"\n' >>"$dir"/.curlrc
    make_stand_ins
}

# Connections over TLS that stay open: as acme to 198.51.100.10, or as beta to 198.51.100.20.
hold() { # COUNT ADDRESS NAME
    local each all=$(($(flows) + $1))
    [[ -p $dir/open ]] || mkfifo "$dir"/open
    exec 8<>"$dir"/open
    for ((each = 0; each < $1; each++)); do
        ip netns exec client openssl s_client -quiet -connect "$2:443" -servername "$3" <&8 >/dev/null 2>&1 &
        echo $! >>"$dir"/held
        disown
    done
    wait_for 10 "the connections" are_held "$all"
}
are_held() { (($(flows) >= $1)); }
flows() { metric 'egret_flows_active{[^}]*}' | awk '{ n += $1 } END { print n + 0 }'; }
let_go() {
    local pid
    [[ -e $dir/held ]] || return 0
    while read -r pid; do kill -KILL "$pid" 2>/dev/null; done <"$dir"/held
    rm -f "$dir"/held
    wait_for 10 "the connections to end" no_flows
}
no_flows() { [[ $(flows) == 0 ]]; }
denied() { ask -4 "http://${1:-evil.example.org}/" >/dev/null; }

# --- the pages

scenario_documents() {
    document_lab
    machine /opt/egret/scripts/install.sh --uninstall --purge
    before=before_readme fails=('35 curl https')
    run_page README.md '^ok: 1 tenant, ' ' 0 failed$'
    install_page
    steering_page
    modes_page
    policy_page
    reload_page
    troubleshooting_page
    denied
    run_page docs/flow-log.md '^ +[0-9]+ acme\sevil.example.org\snot_allowed$'
    run_page docs/alerts.md
    # With the next scenario's.
    pages_run+=(docs/audit.md)
    all_pages_were_run "$tree"/README.md "$tree"/docs/*.md
    serve_again
    ((problems == 0)) || wrong "$problems faults in the documents"
}

# It installs, checks and starts the template, and has a configuration of its own.
before_readme() {
    [[ $1 == curl* ]] || return 0
    document_configuration
    sed -n '/^```toml$/,/^```$/p' "$tree"/README.md | sed '1d; $d' >"$root$config"
    machine egret reload >/dev/null || problem "the README's configuration is refused"
    wait_for 10 "the rules for the new pool" machine egret steering status
}
install_page() {
    before=before_install fails=('35 curl -sS https://example.com/')
    run_page docs/install.md '"tenant":"acme",.*"hostname":"deb.debian.org"' '^egret_flows_total\{' \
        '^outcome +not_allowed' ' 0 failed$' '^removed Egret, its configuration and its logs'
    [[ -z $(machine sh -c 'ls -d /etc/egret /var/lib/egret /var/log/egret 2>/dev/null; getent passwd egret') ]] || problem "a purge leaves something behind"
    install >/dev/null || problem "cannot be installed again"
    document_configuration
    machine systemctl enable --now egret-steering egret
    machine ip route replace 10.0.2.0/24 dev ens5
    wait_for 10 "service" is_served -4
}
before_install() {
    case $1 in
        'egret check'$'\n')
            document_configuration
            machine systemctl disable --now egret egret-steering 2>/dev/null
            ;;
        curl*) wait_for 10 "service" is_served -4 ;;
        'egret check &&'*)
            type_wrongly
            machine systemctl restart egret
            machine systemctl restart egret-steering 2>/dev/null && problem "steering starts with a typing error"
            is_served -4 || problem "no service with a typing error"
            document_configuration
            ;;
        *'--uninstall'*) is_served -4 || problem "no service after an upgrade" ;;
    esac
}

# Nobody puts rules back behind the commands of a page.
stop_repair() {
    machine systemctl stop egret-steering-heal.path
    wait_for 20 "repairs under way" no_repair
}
no_repair() { ! machine systemctl list-jobs | grep egret-steering; }

steering_page() {
    stop_repair
    run_page docs/steering.md '-A EGRET_PREROUTING ' '^table inet egret ' ' 0 failed$'
    machine ip rule | grep -q 'proto 230' && problem "steer.sh down leaves rules behind"
    # The drop-in that exempts a client.
    local drop_in=/etc/systemd/system/egret-steering.service.d
    mkdir -p "$root$drop_in"
    sed -n '/^```ini$/,/^```$/p' "$tree"/docs/steering.md | sed '1d; $d' >"$root$drop_in"/exempt.conf
    machine systemctl daemon-reload
    machine systemctl restart egret-steering || problem "the exemption of docs/steering.md does not start"
    expect_line 'exempt' machine egret steering status
    machine egret steering status >/dev/null || problem "egret steering status fails for an exemption"
    rm -r "$root$drop_in"
    forward 0
    machine systemctl daemon-reload
    machine systemctl restart egret-steering
    machine systemctl start egret-steering-heal.path
    wait_for 10 "service" is_served -4
}

modes_page() {
    reload_with 's/^# what .*/mode = "monitor"/'
    denied
    reload_with 's/^# what .*/[[tenant.deny]]\nname = "no-mail"\nhosts = ["mail.example.org"]/'
    before=before_modes
    run_page docs/modes.md '^loaded ' 'enforced for 10 % of the clients' 'enforced for 50 % of the clients' '^promoted: ' \
        '^ +1 evil.example.org\snot_allowed\s-$'
    [[ $(metric 'egret_candidate_info{.*}') == '' ]] || problem "a candidate is left"
}
before_modes() {
    case $1 in
        'egret candidate load /etc/egret/candidate.toml'$'\n')
            machine sed -i 's/old.example.org/new.example.org/; s/tenant.deny/tenant.allow/; s/"no-mail"/"mail"/' /etc/egret/candidate.toml
            ;;
        'egret candidate status'*)
            denied mail.example.org
            denied old.example.org
            ask -4 http://old.example.org/ http://old.example.org/ http://old.example.org/ >/dev/null
            ask -4 http://api.example.org/ http://api.example.org/ >/dev/null
            ;;
    esac
}

policy_page() {
    local flow
    reload_with
    flow=$(ask -4 http://files.example.org/ | sed -n 's/^flow: //p')
    wait_for 5 "the flow in the log" machine grep -q "\"flow\":\"$flow\"" /var/log/egret/flows.jsonl
    machine sh -c "grep '\"flow\":\"$flow\"' /var/log/egret/flows.jsonl | sed 's/$flow/00c0ffee-1f/' >>/var/log/egret/flows.jsonl"
    run_page docs/policy.md '^verdict +allowed' '^flow +00c0ffee-1f, ' '^hosts = \["files.example.org"\]' '^wrote the rule into ' \
        '^tests: 1 passed, 0 failed$'
    machine grep -q 'Suggested by .* for tenant acme' /opt/egret/acme.rules.toml || problem "egret suggest wrote nothing"
    machine egret reload >/dev/null
    expect_line '^nginx was asked for files.example.org by' ask -4 http://files.example.org/
}

reload_page() {
    # One tenant less, one rule less, another name; and flows that the configuration to come does not allow.
    reload_with '/^# The other/,$d; /# Another/,/^$/d; s/"api.example.org", /"gone.example.org", /'
    hold 2 198.51.100.10 gone.example.org
    document_configuration
    run_page docs/reload.md
    let_go
}

troubleshooting_page() {
    before=before_troubleshooting
    run_page docs/troubleshooting.md '^ok +packets in +acme, 10.0.1.254 ' '^ok .*10\.0\.1\.7' ' 0 failed$'
    is_served -4 || problem "no service behind a firewall with the rules of docs/troubleshooting.md"
    machine nft delete table inet filter
    machine iptables -F INPUT
    machine systemctl restart egret-steering
    wait_for 10 "service" is_served -4
}
before_troubleshooting() {
    case $1 in
        'nft insert'*)
            # The machine's own firewall, which lets in what was asked for.
            machine sh -c "nft add table inet filter
                nft add chain inet filter input '{ type filter hook input priority 0; policy drop; }'
                nft add rule inet filter input iif lo accept
                nft add rule inet filter input icmpv6 type != echo-request accept
                nft add rule inet filter input ct state established,related accept"
            is_served -4 && problem "the firewall lets everything in, so this shows nothing"
            ;;
    esac
}

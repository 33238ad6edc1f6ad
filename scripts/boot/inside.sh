#!/usr/bin/env bash
# The inner half of scripts/boot-test.sh, which runs it as the first process of new network, mount and process namespaces.
# Runs the scenarios and prints the result of each.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
base=$1
built=$2
shift 2
[[ $$ == 1 ]] || { echo "inside.sh is started by scripts/boot-test.sh" >&2; exit 2; }

mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
# shellcheck source=scripts/lib.sh
. "$here/../lib.sh"
# shellcheck source=scripts/boot/machine.sh
. "$here/machine.sh"
# shellcheck source=scripts/boot/scenarios.sh
. "$here/scenarios.sh"
# shellcheck source=scripts/boot/docs.sh
. "$here/docs.sh"
# shellcheck source=scripts/boot/runbooks.sh
. "$here/runbooks.sh"

for name in $(compgen -A function scenario_); do
    case " ${all_scenarios[*]} " in *" ${name#scenario_} "*) ;; *) fail "$name is not in all_scenarios" ;; esac
done
scenarios=(install_and_boot)
if (($#)); then
    for name in "$@"; do
        case " ${all_scenarios[*]} " in *" $name "*) ;; *) fail "no scenario $name; there are: ${all_scenarios[*]}" ;; esac
        [[ $name == install_and_boot ]] || scenarios+=("$name")
    done
else
    scenarios=("${all_scenarios[@]}")
fi

make_surroundings || fail "the client and the server could not be set up"
results=()
failed=0
for name in "${scenarios[@]}"; do
    say "== ${name//_/ }"
    start=$SECONDS
    if (trap stop_storm EXIT; "scenario_$name") 2>&1 | sed 's/^/   /'; then
        results+=("ok      ${name//_/ } ($((SECONDS - start)) s)")
    else
        results+=("FAILED  ${name//_/ } ($((SECONDS - start)) s)")
        failed=1
        # Nothing that follows means anything on a machine that never came up.
        [[ $name != install_and_boot ]] || break
        (serve_again) >/dev/null 2>&1 || :
    fi
done
if [[ -n ${EGRET_BOOT_KEEP:-} ]]; then
    say "A shell in the surroundings; \`machine COMMAND\` runs something in the machine."
    export -f machine leader client server ask
    bash
fi
say
printf '%s\n' "${results[@]}"
exit $failed

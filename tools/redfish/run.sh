#!/bin/sh
# Has other people's tools judge the Redfish interface: DMTF's two validators count what fails, and sushy, redfishtool,
# DMTF's utilities and Ansible's modules drive a guest off and on, and have it start from a disc.
#
#     tools/redfish/run.sh MOTHER [FOLDER]
#
# MOTHER is the built command. Everything else lies in FOLDER, which is made (a temporary one without it), the Python
# environment with the tools too: a second run with the same folder goes faster. It needs python3 and cargo; the schemas
# come with the crate nv-redfish-schema.
set -eu
mother=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
. "$here/../judges.sh"
scripts=$here/../../crates/cli/tests/redfish
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(realpath "$folder")
port=${PORT:-9643}
url=https://127.0.0.1:$port

if [ ! -x "$folder/venv/bin/ansible-playbook" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet redfish-service-validator==3.1.8 redfish-protocol-validator==1.3.2 \
        sushy==5.14.0 redfishtool==1.1.8 redfish==3.4.2 redfish-utilities==3.5.2 ansible==12.3.0 pycdlib==1.22.0
fi
PATH=$folder/venv/bin:$PATH

if [ ! -d "$folder/schemas" ]; then
    mkdir -p "$folder/crate/src"
    printf '[package]\nname = "schemas"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nnv-redfish-schema = "=0.22.1"\n' \
        > "$folder/crate/Cargo.toml"
    : > "$folder/crate/src/lib.rs"
    (cd "$folder/crate" && cargo vendor --quiet vendor > /dev/null)
    mkdir "$folder/schemas"
    find "$folder/crate/vendor/nv-redfish-schema" -path '*-csdl/*' -name '*.xml' -exec cp {} "$folder/schemas" \;
fi

begin_daemon
"$mother" create web --memory 128M > /dev/null
# The daemon starts it when it has come to it.
until "$mother" wait web --for login > /dev/null 2>&1; do sleep 0.2; done
# So that there is something to look at.
sleep 3

# A disc with the small guest's kernel, as a deploying service hands it out.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mother
python3 "$here/make_disc.py" "$cache/kernel" "$(ls "$cache"/initrd/guest-* | head -n 1)" "$folder/own.iso"
disc_port=$((port + 1))
python3 -m http.server --bind 127.0.0.1 --directory "$folder" "$disc_port" > /dev/null 2>&1 &
discs=$!
trap 'kill "$discs"; end_daemon' EXIT
disc=http://127.0.0.1:$disc_port/own.iso

judge sushy python3 -W ignore "$scripts/through_sushy.py" "$url" ada "$token" web "$disc"
judge python-redfish python3 -W ignore "$scripts/through_python_redfish.py" "$url" ada "$token" web
for reset in ForceOff On; do
    judge "redfishtool-$reset" redfishtool -r "127.0.0.1:$port" -u ada -p "$token" -S Always Systems -I web reset "$reset"
done
for reset in ForceOff On; do
    judge "rf_power_reset-$reset" rf_power_reset.py -r "$url" -u ada -p "$token" -s web -t "$reset"
done
judge rf_logs rf_logs.py -r "$url" -u ada -p "$token" -m mother
judge rf_accounts rf_accounts.py -r "$url" -u ada -p "$token"
judge ansible ansible-playbook "$scripts/through_ansible.yml" -e "address=127.0.0.1:$port" -e user=ada -e "token=$token" -e system=web -e "disc=$disc"

judge service-validator rf_service_validator -r "$url" -u ada -p "$token" --skipschema \
    --schema_directory "$folder/schemas" --logdir "$folder/service"
sed -n '/PASS.*WARN.*FAIL/,/^$/p' "$folder/service-validator.log"
judge protocol-validator rf_protocol_validator -r "$url" -u ada -p "$token" --no-cert-check --report-dir "$folder/protocol"
grep '^Summary' "$folder/protocol-validator.log" || failed=1
exit "$failed"

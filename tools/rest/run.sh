#!/bin/sh
# Has other people's tools judge the REST interface: schemathesis sends what the OpenAPI document allows and forbids and compares
# the answers with it, and a client that openapi-python-client makes of the document drives a guest from its declaration to its end.
#
#     tools/rest/run.sh MOTHER [FOLDER]
#
# MOTHER is the built command. Everything else lies in FOLDER, which is made (a temporary one without it), the Python
# environment with the tools too: a second run with the same folder goes faster. It needs python3 and curl. EXAMPLES says how
# many requests schemathesis makes up for each operation (20), SEED which (1).
set -eu
mother=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
. "$here/../judges.sh"
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(realpath "$folder")
cd "$folder"
port=${PORT:-9644}
url=https://127.0.0.1:$port

if [ ! -x "$folder/venv/bin/schemathesis" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet schemathesis==4.32.5 openapi-python-client==0.29.1
fi
PATH=$folder/venv/bin:$PATH

begin_daemon
curl --silent --insecure --header "Authorization: Bearer $token" "$url/openapi.json" > "$folder/openapi.json"

# Nothing may be left out of the client but what is no JSON: lines that come as a command prints them.
generate() {
    rm -rf "$folder/client"
    openapi-python-client generate --path "$folder/openapi.json" --output-path "$folder/client" --meta none > "$folder/made" 2>&1
    cat "$folder/made"
    test "$(grep -c '^Unable to\|^WARNING' "$folder/made")" -le 1 && ! grep -q '^Unable to' "$folder/made"
}
judge generate generate
judge client env PYTHONPATH="$folder" python3 "$here/through_client.py" "$url" "$token"

# Left out: what runs any command, what has no end, and the console, which is a WebSocket. Two questions are not asked: that a
# wrong token is refused with 401 (after 20 of them it is 429), and that whatever fits the schema is accepted (what a text means,
# a size or a file that is there, is more than a schema says).
judge schemathesis schemathesis run "$folder/openapi.json" --url "$url" --tls-verify false \
    --header "Authorization: Bearer $token" --seed "${SEED:-1}" --max-examples "${EXAMPLES:-20}" --request-timeout 60 \
    --exclude-checks ignored_auth,positive_data_acceptance --exclude-path /v1/command --exclude-path /v1/events/stream --exclude-path /v1/watch \
    --exclude-path '/v1/vms/{name}/console'
grep -a 'generated,' "$folder/schemathesis.log" || failed=1
exit "$failed"

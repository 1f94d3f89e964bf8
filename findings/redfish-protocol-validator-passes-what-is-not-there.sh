#!/bin/sh
# DMTF's redfish-protocol-validator 1.3.2 reports dozens of PASS for a service that is not there at all.
#
# Expected: with nothing listening at the address it says that it cannot connect, or fails every assertion.
# Seen: a request that fails in transport becomes a made-up response with status 600, and the attribute `ok` of a response of
# the library `requests` is true for every status that is not 400 to 599. So assertions that look at `ok`, and those that
# want "not 200", pass; others fail with words such as "succeeded with status 600".
# Who counts PASS in a pipeline should see first that the service answers.
#
# Versions: redfish-protocol-validator 1.3.2, Python 3.11. Source: its resources.py and report; requests' Response.ok.
# Output seen: "nobody listens: 62 PASS, 43 FAIL, of them SEC_BASIC_AUTH_STANDALONE passes"
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip --quiet --disable-pip-version-check install redfish-protocol-validator==1.3.2
unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE || true
# Port 1 of the loopback: nobody listens there on a usual host.
timeout 300 venv/bin/rf_protocol_validator -r https://127.0.0.1:1 -u nobody -p nothing --no-cert-check \
    --report-dir reports --report-type tsv > said 2>&1 || true
report=$(ls reports/* | head -n 1)
passes=$(grep -c 'PASS' "$report" || true)
fails=$(grep -c 'FAIL' "$report" || true)
alone=$(grep 'SEC_BASIC_AUTH_STANDALONE' "$report" | grep -c PASS || true)
echo "nobody listens: $passes PASS, $fails FAIL$([ "$alone" -gt 0 ] && echo ', of them SEC_BASIC_AUTH_STANDALONE passes')"
[ "$passes" -gt 10 ] && [ "$alone" -gt 0 ]

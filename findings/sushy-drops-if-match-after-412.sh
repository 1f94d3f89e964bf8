#!/bin/bash
# sushy (OpenStack Ironic's Redfish client) answers 412 Precondition Failed by sending the same PATCH without a precondition.
#
# Expected: If-Match guards against lost updates (RFC 9110, 13.1.1; Redfish DSP0266, "ETags"): after a 412 a client reads
# again and decides anew, or tells its caller.
# Seen: the PATCH is sent with the weak ETag that the service gave, after 412 with the same tag made strong, and after the
# second 412 with none at all. The caller sees success, and whatever somebody else had written meanwhile is overwritten.
# A service that wants the guard to hold has to answer a PATCH without If-Match by 428 Precondition Required.
# Where: sushy 5.14.0 (PyPI), Python 3.11. Source: sushy's connector and its `_op` in resources/base.
# Output seen: "If-Match of the PATCHes: W/"1", "1", none; the caller saw no error"
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv tools
tools/bin/pip install -q sushy==5.14.0 2> /dev/null || { echo "needs PyPI"; exit 2; }
tools/bin/python - <<'P'
import http.server, json, sys, threading
import sushy

SYSTEM = "/redfish/v1/Systems/1"
RESOURCES = {
    "/redfish/v1/": {
        "@odata.id": "/redfish/v1/", "Id": "RootService", "Name": "root", "RedfishVersion": "1.6.0",
        "UUID": "00000000-0000-0000-0000-000000000001", "Systems": {"@odata.id": "/redfish/v1/Systems"}, "Links": {},
    },
    SYSTEM: {
        "@odata.id": SYSTEM, "Id": "1", "Name": "system", "PowerState": "On",
        "Boot": {"BootSourceOverrideTarget": "None", "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe"]},
        "Actions": {"#ComputerSystem.Reset": {"target": SYSTEM + "/Actions/ComputerSystem.Reset"}},
    },
}
preconditions = []

class Service(http.server.BaseHTTPRequestHandler):
    """A system whose ETag never matches: somebody else writes all the time."""
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=None):
        text = json.dumps(body or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("ETag", 'W/"1"')
        self.end_headers()
        self.wfile.write(text)

    def take_body(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        body = RESOURCES.get(self.path)
        self.answer(200 if body else 404, body)

    def do_POST(self):
        self.take_body()
        self.answer(404)

    def do_PATCH(self):
        self.take_body()
        precondition = self.headers.get("If-Match")
        preconditions.append(precondition or "none")
        self.answer(412 if precondition else 200)

    def log_message(self, *_):
        pass

service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
threading.Thread(target=service.serve_forever, daemon=True).start()
client = sushy.Sushy(f"http://127.0.0.1:{service.server_port}/redfish/v1/", auth=sushy.auth.BasicAuth("user", "word"))
system = client.get_system(SYSTEM)
said = "no error"
try:
    system.set_system_boot_options(sushy.BOOT_SOURCE_TARGET_PXE)
except Exception as error:
    said = type(error).__name__
print(f"If-Match of the PATCHes: {', '.join(preconditions)}; the caller saw {said}")
sys.exit(not (preconditions == ['W/"1"', '"1"', "none"] and said == "no error"))
P

#!/bin/bash
# `promtool check metrics` refuses expositions in OpenMetrics which the Prometheus of the same package scrapes.
#
# Expected: the checker accepts what the server accepts. OpenMetrics 1.0 names a counter's family without `_total` and its
# sample with it, and has the types `info` and `unknown`.
# Seen: a plain counter ends with exit status 3 ("no help text", although its family has one), a family of type `info` or
# `unknown` with status 1 ("unknown metric type"). Only the older text format is read, and nothing says so. A project that serves
# both formats can check only one of them this way.
# Where: prometheus 2.42.0+ds-5+deb12u1 (Debian 12); 2.53.3 and 3.5.3 answered alike. Source: OpenMetrics 1.0, "Metric Types".
# Output seen: "counter: 3, info: 1, unknown: 1, scraped: 3 families, up 1"
set -eu
W=$(mktemp -d); trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$W"' EXIT; cd "$W"
apt-get download -qq prometheus=2.42.0+ds-5+deb12u1 2> /dev/null || { echo "needs Debian 12's packages"; exit 2; }
dpkg -x prometheus_*.deb tools; PATH=$W/tools/usr/bin:$PATH
counter='# HELP jobs Jobs done.\n# TYPE jobs counter\njobs_total 1\n'
info='# HELP build The build.\n# TYPE build info\nbuild_info{version="1"} 1\n'
unknown='# HELP load Load.\n# TYPE load unknown\nload 1\n'
status() { local s=0; printf '%b# EOF\n' "$1" | promtool check metrics > said 2>&1 || s=$?; echo $s; }
checked="counter: $(status "$counter"), info: $(status "$info"), unknown: $(status "$unknown")"
printf '%b# EOF\n' "$counter$info$unknown" > metrics
cat > serve.py <<'P'
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.end_headers()
        self.wfile.write(open("metrics", "rb").read())
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
open("port.new", "w").write(str(server.server_port))
import os; os.rename("port.new", "port")
server.serve_forever()
P
python3 serve.py & until [ -e port ]; do sleep 0.1; done
free=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'scrape_configs:\n- job_name: a\n  scrape_interval: 1s\n  static_configs:\n  - targets: ["127.0.0.1:%s"]\n' "$(cat port)" > c.yml
prometheus --config.file=c.yml --storage.tsdb.path=data --web.listen-address="127.0.0.1:$free" > log 2>&1 &
python3 - "$free" "$checked" <<'P'
import json, sys, time, urllib.parse, urllib.request
def ask(query):
    url = f"http://127.0.0.1:{sys.argv[1]}/api/v1/query?query=" + urllib.parse.quote(query)
    return json.load(urllib.request.urlopen(url))["data"]["result"]
found, up = [], []
for _ in range(60):
    time.sleep(0.5)
    try:
        found, up = ask('{__name__=~"jobs_total|build_info|load"}'), ask("up")
    except OSError:
        continue
    if len(found) == 3: break
up = up[0]["value"][1] if up else None
line = f"{sys.argv[2]}, scraped: {len(found)} families, up {up}"
print(line)
sys.exit(line != "counter: 3, info: 1, unknown: 1, scraped: 3 families, up 1")
P

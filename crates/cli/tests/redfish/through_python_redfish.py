"""Reads, filters, listens and asks in parallel with DMTF's own Python client.

    python3 through_python_redfish.py https://HOST:PORT NAME TOKEN SYSTEM
"""

import json
import ssl
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import redfish

url, name, token, system_id = sys.argv[1:5]
place = f"/redfish/v1/Systems/{system_id}"

client = redfish.redfish_client(base_url=url, username=name, password=token)
client.login(auth="session")


def get(path):
    answer = client.get(path)
    assert answer.status == 200, (path, answer.status, answer.text)
    return answer.dict


assert get("/redfish/v1/Systems?$expand=.")["Members"][0]["SystemType"] == "Virtual"
assert get("/redfish/v1/Systems?$filter=PowerState eq 'Gone'")["Members"] == []
assert set(get(place + "?$select=PowerState")) == {"@odata.id", "@odata.type", "PowerState"}
assert get("/redfish/v1/Managers?only")["ManagerType"] == "Service"

# 32 clients at the same time, each with a session of its own.


def look(_):
    own = redfish.redfish_client(base_url=url, username=name, password=token)
    own.login(auth="session")
    answers = [own.get(place).status for _ in range(5)]
    own.logout()
    return answers


with ThreadPoolExecutor(32) as pool:
    statuses = [status for answers in pool.map(look, range(32)) for status in answers]
assert statuses == [200] * 160, statuses
print("32 clients: 160 answers")

# A stream hears of what is done meanwhile.
service = get("/redfish/v1/EventService")
heard = []


def listen():
    context = ssl._create_unverified_context()
    request = urllib.request.Request(
        url + service["ServerSentEventUri"],
        headers={"X-Auth-Token": client.get_session_key(), "Accept": "text/event-stream"},
    )
    with urllib.request.urlopen(request, context=context, timeout=30) as stream:
        ready.set()
        for line in stream:
            if line.startswith(b"data:"):
                heard.append(json.loads(line[5:]))
                if heard[-1]["Events"][0]["MessageId"].endswith(".Resumed"):
                    return


ready = threading.Event()
listener = threading.Thread(target=listen)
listener.start()
assert ready.wait(30)
assert len(get("/redfish/v1/EventService/Subscriptions")["Members"]) >= 1
for reset in ["Pause", "Resume"]:
    target = place + "/Actions/ComputerSystem.Reset"
    answer = client.post(target, body={"ResetType": reset})
    assert answer.status in (202, 204), answer.text
listener.join(30)
assert not listener.is_alive()
ids = [event["Events"][0]["MessageId"] for event in heard]
assert "Mother.1.1.Paused" in ids and "Mother.1.1.Resumed" in ids, ids
assert heard[-1]["Events"][0]["OriginOfCondition"]["@odata.id"] == place
print("stream:", ", ".join(ids))

client.logout()

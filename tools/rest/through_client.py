"""Drives a guest by a client that was generated of the OpenAPI document: declared, started, seen, stopped, forgotten.

through_client.py URL TOKEN
"""

import sys
import time

from client import AuthenticatedClient
from client.api.events import get_v1_events
from client.api.host import get_v1_host, get_v1_host_doctor
from client.api.images import get_v1_images
from client.api.vms import (
    delete_v1_vms_name,
    get_v1_vms,
    get_v1_vms_name,
    get_v1_vms_name_processes,
    get_v1_vms_name_truth,
    post_v1_vms,
    post_v1_vms_name_action,
)
from client.models.declaration import Declaration
from client.models.desired import Desired
from client.models.refused import Refused
from client.models.vm_spec import VmSpec

url, token = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token, verify_ssl=False, timeout=120)

host = get_v1_host.sync(client=client)
assert host.cpus >= 1, host
assert get_v1_host_doctor.sync(client=client) is not None
assert get_v1_images.sync(client=client) is not None

declared = Declaration(name="seen", spec=VmSpec(memory="128M", cpus=1), desired=Desired.STOPPED)
made = post_v1_vms.sync(client=client, body=declared)
assert made.name == "seen", made
again = post_v1_vms.sync_detailed(client=client, body=declared)
assert again.status_code == 412 or again.status_code == 409, again
assert isinstance(again.parsed, Refused) and again.parsed.error.message, again

started = post_v1_vms_name_action.sync(client=client, name="seen", action="start", wait=120)
assert started.state == "done", started
until = time.monotonic() + 60
while True:
    truth = get_v1_vms_name_truth.sync(client=client, name="seen")
    if not isinstance(truth, Refused) and truth.kernel.release:
        break
    assert time.monotonic() < until, truth
    time.sleep(0.5)
assert truth.kernel.release[0].isdigit(), truth.kernel
assert truth.rows, truth
processes = get_v1_vms_name_processes.sync(client=client, name="seen")
assert any(process.pid == 1 for process in processes), processes
assert "seen" in [vm.name for vm in get_v1_vms.sync(client=client).vms]
assert get_v1_vms_name.sync(client=client, name="seen").state == "running"

stopped = post_v1_vms_name_action.sync(client=client, name="seen", action="stop", wait=120)
assert stopped.state == "done", stopped
deleted = delete_v1_vms_name.sync(client=client, name="seen", wait=120)
assert not isinstance(deleted, Refused), deleted
gone = get_v1_vms_name.sync_detailed(client=client, name="seen")
assert gone.status_code == 404 and gone.parsed.error.help_, gone
events = get_v1_events.sync(client=client)
assert any(event.vm == "seen" for event in events.events), events
print("declared, started, seen, stopped, forgotten:", len(events.events), "events")

"""Drives a guest off and on with sushy, as OpenStack Ironic and Metal3 do.

    python3 through_sushy.py https://HOST:PORT NAME TOKEN SYSTEM
"""

import sys
import time

import sushy
from sushy import auth

url, name, token, system_id = sys.argv[1:5]


def wait_for(system, wanted):
    """Waits as Ironic does: looks again until the state is the wanted one."""
    for _ in range(120):
        system.refresh(force=True)
        if system.power_state == wanted:
            return
        time.sleep(0.5)
    raise SystemExit(f"the system is {system.power_state}, not {wanted}")


root = sushy.Sushy(
    url,
    auth=auth.SessionOrBasicAuth(username=name, password=token),
    verify=False,
)
system = root.get_system(f"/redfish/v1/Systems/{system_id}")
assert system.system_type == sushy.SystemType.VIRTUAL, system.system_type
wait_for(system, sushy.PowerState.ON)
for reset, wanted in [
    (sushy.ResetType.PAUSE, sushy.PowerState.PAUSED),
    (sushy.ResetType.RESUME, sushy.PowerState.ON),
    (sushy.ResetType.FORCE_OFF, sushy.PowerState.OFF),
    (sushy.ResetType.ON, sushy.PowerState.ON),
    (sushy.ResetType.FORCE_RESTART, sushy.PowerState.ON),
]:
    allowed = system.get_allowed_reset_system_values()
    assert reset in allowed, (reset, allowed)
    system.reset_system(reset)
    wait_for(system, wanted)
    print(f"{reset.value}: {system.power_state.value}")

assert len(root.get_manager_collection().get_members()) == 1
assert len(root.get_chassis_collection().get_members()) == 1
assert root.get_task_service().tasks.get_members()

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

# As Ironic deploys: a medium into the drive, a start from it, out with it, and a start from the disk.
if len(sys.argv) > 5:
    [drive] = system.virtual_media.get_members()
    drive.insert_media(sys.argv[5], write_protected=True)
    for _ in range(120):
        drive.refresh(force=True)
        if drive.inserted:
            break
        time.sleep(0.5)
    assert drive.inserted and drive.image == sys.argv[5], drive.image
    system.refresh(force=True)
    targets = system.get_allowed_system_boot_source_values()
    assert sushy.BootSource.CD in targets and sushy.BootSource.HDD in targets, targets
    system.set_system_boot_options(
        target=sushy.BootSource.CD, enabled=sushy.BootSourceOverrideEnabled.ONCE
    )
    system.refresh(force=True)
    assert system.boot.enabled == sushy.BootSourceOverrideEnabled.ONCE, system.boot
    assert system.boot.mode == sushy.BootSourceOverrideMode.LEGACY, system.boot
    system.reset_system(sushy.ResetType.FORCE_RESTART)
    for _ in range(240):
        system.refresh(force=True)
        if system.boot.enabled == sushy.BootSourceOverrideEnabled.DISABLED:
            break
        time.sleep(0.5)
    assert system.boot.enabled == sushy.BootSourceOverrideEnabled.DISABLED, system.boot
    wait_for(system, sushy.PowerState.ON)
    drive.eject_media()
    drive.refresh(force=True)
    assert not drive.inserted
    print("inserted, started from, ejected")
    # It has what it started with until it starts again.
    system.reset_system(sushy.ResetType.FORCE_RESTART)
    time.sleep(5)
    wait_for(system, sushy.PowerState.ON)

assert len(root.get_manager_collection().get_members()) == 1
assert len(root.get_chassis_collection().get_members()) == 1
assert root.get_task_service().tasks.get_members()

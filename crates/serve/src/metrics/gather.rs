//! Asks everybody for their numbers.

use std::thread;

use api::{Metric, VmName};
use fleet::{Client, Inventory};

use super::{Families, all};
use crate::daemon::Daemon;
use crate::host_view::look;
use crate::words::{StateView, VmView};

/// All numbers as they are now. Waits for VMs, one thread for each.
pub(crate) fn gather(daemon: &Daemon, has_libvirt: bool) -> Families {
    let vms = daemon.sight.all();
    let own = of_vms(&daemon.inventory, &vms);
    let host = look(&daemon.options.version, &vms);
    all(&vms, &own, &host, has_libvirt)
}

/// What each VM that runs counts itself.
fn of_vms(inventory: &Inventory, vms: &[VmView]) -> Vec<(String, Vec<Metric>)> {
    let running = vms.iter().filter(|vm| {
        matches!(
            vm.state,
            StateView::Running | StateView::Paused | StateView::Stopping
        )
    });
    let names = running.filter_map(|vm| VmName::new(&vm.name).ok());
    thread::scope(|scope| {
        let ask = |name: VmName| {
            scope.spawn(move || {
                let client = Client::connect(&inventory.record(&name));
                let metrics = client.and_then(|mut client| client.metrics());
                // One that ends meanwhile has none.
                metrics.ok().map(|metrics| (name.to_string(), metrics))
            })
        };
        let asked: Vec<_> = names.map(ask).collect();
        let answers = asked.into_iter().filter_map(|thread| thread.join().ok());
        answers.flatten().collect()
    })
}

//! Lists that modules may join: filters of packets, chains of notifiers.

use x86::Gva;

use super::Called;
use crate::blind::Blind;
use crate::look::Look;

/// Most namespaces of networks, hooks of one place, members of one chain.
const MAX_NETS: usize = 1024;
const MAX_ENTRIES: u64 = 1024;
const MAX_CHAIN: usize = 1024;

/// Protocols that packets are filtered of, and the places of each (include/uapi/linux/netfilter.h, netfilter_arp.h,
/// netfilter_bridge.h).
const INET: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
const ARP: [&str; 3] = ["input", "output", "forward"];
const BRIDGE: [&str; 6] = [
    "prerouting",
    "input",
    "forward",
    "output",
    "postrouting",
    "broute",
];
const FAMILIES: [(&str, &str, &[&str]); 4] = [
    ("ip", "nf.hooks_ipv4", &INET),
    ("ip6", "nf.hooks_ipv6", &INET),
    ("arp", "nf.hooks_arp", &ARP),
    ("bridge", "nf.hooks_bridge", &BRIDGE),
];

/// Chains of notifiers that are variables of the kernel, by the structure at their head (include/linux/notifier.h).
const CHAINS: [(&str, &[&str]); 3] = [
    (
        "atomic_notifier_head",
        &[
            "panic_notifier_list",
            "die_chain",
            "keyboard_notifier_list",
            "vt_notifier_list",
            "restart_handler_list",
            "netevent_notif_chain",
            "inet6addr_chain",
        ],
    ),
    (
        "blocking_notifier_head",
        &[
            "reboot_notifier_list",
            "module_notify_list",
            "inetaddr_chain",
            "oom_notify_list",
            "pm_chain_head",
            "crypto_chain",
            "acpi_chain_head",
            "fb_notifier_list",
        ],
    ),
    ("raw_notifier_head", &["netdev_chain", "cpu_pm_notifier"]),
];

impl Look<'_> {
    pub(super) fn packet_filters(&self, called: &mut Vec<Called>) -> Result<(), Blind> {
        let link = self.offset("net", "list")?;
        let nets = self.steady_list(self.symbol("net_namespace_list")?, link)?;
        let entries = self.offset("nf_hook_entries", "hooks")?;
        let size = self.layouts()?.size("nf_hook_entry")? as u64;
        for net in nets.into_iter().take(MAX_NETS) {
            let number = self.member("net", net, "ns.inum")?;
            for (family, member, places) in FAMILIES {
                // A kernel that was built without this protocol has no hooks of it.
                let Ok(array) = self.offset("net", member) else {
                    continue;
                };
                for (place, at) in places.iter().zip((net.0.wrapping_add(array)..).step_by(8)) {
                    let list = self.space().u64(Gva(at))?;
                    if list == 0 {
                        continue;
                    }
                    let count = self.member("nf_hook_entries", Gva(list), "num_hook_entries")?;
                    if count > MAX_ENTRIES {
                        return Err(Blind::nonsense("list of filters of packets has no length"));
                    }
                    let at = format!("{family} {place}, net {number}");
                    for entry in 0..count {
                        let entry = Gva(list.wrapping_add(entries).wrapping_add(entry * size));
                        called.push(Called {
                            at: at.clone(),
                            address: self.member("nf_hook_entry", entry, "hook")?,
                            calls: None,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn notifiers(&self, called: &mut Vec<Called>) -> Result<(), Blind> {
        for (head, names) in CHAINS {
            let first = self.offset(head, "head")?;
            for name in names {
                let Ok(chain) = self.symbol(name) else {
                    continue;
                };
                let mut block = self.space().u64(Gva(chain.0.wrapping_add(first)))?;
                let mut left = MAX_CHAIN;
                while block != 0 {
                    left = left
                        .checked_sub(1)
                        .ok_or_else(|| Blind::nonsense("chain of notifiers does not end"))?;
                    called.push(Called {
                        at: (*name).to_owned(),
                        address: self.member("notifier_block", Gva(block), "notifier_call")?,
                        calls: None,
                    });
                    block = self.member("notifier_block", Gva(block), "next")?;
                }
            }
        }
        Ok(())
    }
}

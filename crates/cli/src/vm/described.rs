//! What a VM was asked for and given, for people who look with `mother ps` and `mother inspect`: ports, disks, network,
//! limits, labels and the words that it was started with.

use std::net::Ipv4Addr;

use api::{NetSpec, VmOrigin, VmSpec, VmState};
use fleet::Vm;

use super::words::printable;

/// Ports in a column: `8080->80`, with the address if it is not the loopback, and `/udp`.
pub(super) fn ports(origin: Option<&VmOrigin>) -> String {
    let forwards = origin.map_or(&[][..], |origin| &origin.given.forwards);
    let one = |forward: &api::Forward| {
        let text = forward.to_string();
        match text.rsplit_once(':') {
            Some((host, guest)) => format!("{host}->{guest}"),
            None => text,
        }
    };
    match forwards {
        [] => "-".to_owned(),
        _ => forwards.iter().map(one).collect::<Vec<_>>().join(","),
    }
}

/// The address of a guest that runs on a network between VMs.
pub(super) fn address(vm: &Vm) -> Option<Ipv4Addr> {
    let is_over = matches!(vm.state, VmState::Ended | VmState::Died);
    let network = vm.info.as_ref().filter(|_| !is_over)?.network.as_ref()?;
    Some(network.address)
}

/// Has a VM that runs be described with the limits that it has now, which may be others than it was started with.
pub(super) fn show_limits_in_force(vm: &mut Vm) {
    let status = vm.status.as_ref();
    let limits = status.and_then(|status| Some((status.limits?, status.info.memory_given_bytes)));
    if let (Some((limits, memory_bytes)), Some(origin)) = (limits, &mut vm.origin) {
        origin.given.set_limits(&limits, memory_bytes);
    }
}

/// Lines for `mother inspect`.
pub(super) fn lines(origin: Option<&VmOrigin>, address: Option<Ipv4Addr>) -> String {
    let Some(origin) = origin else {
        return String::new();
    };
    let given = &origin.given;
    let mut lines = String::new();
    let mut line = |head: &str, what: &str| {
        lines.push_str(&format!("{head:<8} {}\n", printable(what)));
    };
    let network = match &given.net {
        None | Some(NetSpec::None) => "none".to_owned(),
        Some(net) if given.forwards.is_empty() => {
            let address = address.map(|address| format!(", address {address}"));
            format!("{net}{}", address.unwrap_or_default())
        }
        Some(net) => format!("{net}, ports {}", ports(Some(origin)).replace(',', ", ")),
    };
    line("network", &network);
    for disk in &given.disks {
        line("disk", &disk.to_string());
    }
    for folder in &given.folders {
        line("folder", &folder.to_string());
    }
    if let Some(boot) = &origin.boot {
        line("boot", &format!("\"{}\", by {}", boot.title, boot.source));
        line("kernel", &boot.kernel);
        for initrd in &boot.initrds {
            line("initrd", initrd);
        }
        line("cmdline", &boot.cmdline);
    }
    for (head, limit) in limits(given) {
        line("limit", &format!("{head} {limit}"));
    }
    for label in &given.labels {
        line("label", &label.to_string());
    }
    line("started", &origin.words.join(" "));
    line("in", &origin.folder.display().to_string());
    lines
}

fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn limits(given: &VmSpec) -> Vec<(&'static str, String)> {
    let resident = given
        .resident_limit
        .map(|limit| ("resident", limit.to_string()));
    let page_memory = given
        .page_memory
        .map(|size| ("page memory", size.to_string()));
    let engine_memory = given
        .engine_memory
        .map(|limit| ("engine memory", limit.to_string()));
    let host = given.host_limit.map(|limit| ("host", limit.to_string()));
    let page_file = given.page_file.as_ref().map(|folder| {
        let size = given.page_file_size.map(|size| format!(", at most {size}"));
        (
            "page file in",
            format!("{}{}", folder.display(), size.unwrap_or_default()),
        )
    });
    let timeout = given.timeout.map(|timeout| ("time", timeout.to_string()));
    let rates = given.rates();
    // What is not limited has no line.
    let rate = |said: Option<String>, head, unit: &str| {
        let bound = said.filter(|rate| rate != "none")?;
        Some((head, format!("{bound}{unit}")))
    };
    let rates = [
        rate(text(rates.cpu_limit), "CPU", " of a core"),
        rates
            .cpu_weight
            .map(|weight| ("CPU", format!("weight {weight} of 100"))),
        rate(text(rates.disk_rate), "disks", " per second"),
        rate(text(rates.disk_ops), "disks", " requests per second"),
        rate(text(rates.net_rate), "network", " per second each way"),
        rate(
            text(rates.net_packets),
            "network",
            " packets per second each way",
        ),
        rate(text(rates.console_rate), "consoles", " per second"),
    ];
    [
        resident,
        page_memory,
        engine_memory,
        host,
        page_file,
        timeout,
    ]
    .into_iter()
    .chain(rates)
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::answers::Given;
    use crate::answers::keys;

    fn origin() -> VmOrigin {
        let asked = api::PartialSpec::from_file(
            "image = \"debian\"\npublish = [\"8080:80\", \"0.0.0.0:53:53/udp\"]\nresident-limit = \"10%\"\n\
             timeout = \"1h\"\nlabel = [\"team=web\"]\n",
            "f",
        );
        assert_eq!(asked.complaints, []);
        VmOrigin {
            words: ["mother", "run", "-d", "debian"]
                .map(str::to_owned)
                .to_vec(),
            folder: "/home/user".into(),
            given: VmSpec {
                net: Some("user".parse().unwrap()),
                disks: vec!["/cache/overlay.qcow2,format=qcow2".parse().unwrap()],
                ..asked.spec.clone()
            },
            asked: asked.spec,
            boot: None,
        }
    }

    #[test]
    fn people_read_what_leads_into_a_guest_and_what_bounds_it() {
        let expected = "\
network  user, ports 8080->80, 0.0.0.0:53->53/udp
disk     /cache/overlay.qcow2,format=qcow2
limit    resident 10%
limit    time 1h
label    team=web
started  mother run -d debian
in       /home/user
";
        assert_eq!(lines(Some(&origin()), None), expected);
        assert_eq!(ports(Some(&origin())), "8080->80,0.0.0.0:53->53/udp");
        assert_eq!(
            (lines(None, None).as_str(), ports(None).as_str()),
            ("", "-")
        );
    }

    #[test]
    fn people_read_what_a_disk_was_started_by() {
        let mut origin = origin();
        origin.boot = Some(api::BootChoice {
            title: "Debian \u{1b}[31m".to_owned(),
            source: "/boot/grub/grub.cfg on partition 1".to_owned(),
            kernel: "/boot/vmlinuz on partition 1".to_owned(),
            initrds: vec!["/boot/initrd.img on partition 1".to_owned()],
            cmdline: "ro console=ttyS0".to_owned(),
        });
        let said = lines(Some(&origin), None);
        let expected = "\
boot     \"Debian \u{fffd}[31m\", by /boot/grub/grub.cfg on partition 1
kernel   /boot/vmlinuz on partition 1
initrd   /boot/initrd.img on partition 1
cmdline  ro console=ttyS0
";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn people_read_where_a_guest_is_on_a_network_between_vms() {
        let mut origin = origin();
        origin.given.forwards.clear();
        origin.given.net = Some("net:lab".parse().unwrap());
        let said = lines(Some(&origin), Some([10, 64, 1, 20].into()));
        assert!(
            said.starts_with("network  net:lab, address 10.64.1.20\n"),
            "{said}"
        );
    }

    #[test]
    fn programs_find_the_same_fields_whether_something_is_known_or_not() {
        let value = |origin| serde_json::to_value(Given::of(origin, None)).unwrap();
        let origin = origin();
        let known = value(Some(&origin));
        let unknown = value(None);
        assert_eq!(keys(&known), keys(&unknown));
        assert!(unknown.as_object().unwrap().values().all(Value::is_null));
        assert_eq!(known["ports"], json!(["8080:80", "0.0.0.0:53:53/udp"]));
        assert_eq!(known["network"], "user");
        assert_eq!(known["limits"]["resident"], "10%");
        assert_eq!(known["limits"]["page_file"], Value::Null);
        assert_eq!(known["labels"], json!({"team": "web"}));
        assert_eq!(known["asked"]["image"], "debian");
        assert_eq!(
            known["disks"],
            json!([{"path": "/cache/overlay.qcow2", "format": "qcow2"}])
        );
    }
}

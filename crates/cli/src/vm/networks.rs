//! `mother networks`: which networks there are between VMs, and who is on them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use clap::Args;
use fleet::Inventory;

use super::words::columns;
use crate::answers::{self, ListedNetwork, NetworkMember};
use crate::failure::Failure;
use crate::output::say;

/// `mother networks`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
A network is there as long as a VM is on it: `mother run --net net:NAME` puts one on it.

Examples:
  mother networks
  mother networks --json | jq -r '.[].vms[] | \"\\(.address) \\(.name)\"'")]
pub struct NetworksArguments {
    /// As JSON: an array of objects
    #[arg(long)]
    json: bool,
}

/// Prints the list; the exit status.
pub fn networks(arguments: &NetworksArguments) -> Result<u8, Failure> {
    let running = Inventory::of_user()?.running()?;
    let members = running.into_iter().filter_map(|(vm, info)| {
        let on = info?.network?;
        let name = vm.to_string();
        let address = on.address;
        Some((on.name.to_string(), NetworkMember { name, address }))
    });
    let list = by_network(members);
    let text = if arguments.json {
        answers::text(&list)
    } else {
        table(&list)
    };
    say(&text)?;
    Ok(0)
}

/// Each with its members, of members with their networks.
fn by_network(members: impl Iterator<Item = (String, NetworkMember)>) -> Vec<ListedNetwork> {
    let mut all: BTreeMap<String, Vec<NetworkMember>> = BTreeMap::new();
    for (network, member) in members {
        all.entry(network).or_default().push(member);
    }
    let listed = all.into_iter().filter_map(|(name, mut vms)| {
        vms.sort_by(|one, other| one.name.cmp(&other.name));
        let [a, b, c, _] = vms.first()?.address.octets();
        Some(ListedNetwork {
            name,
            subnet: format!("{}/24", Ipv4Addr::new(a, b, c, 0)),
            resolver: Ipv4Addr::new(a, b, c, 1),
            vms,
        })
    });
    listed.collect()
}

fn table(list: &[ListedNetwork]) -> String {
    if list.is_empty() {
        return "no networks between VMs\n".to_owned();
    }
    let rows = list.iter().flat_map(|network| {
        network.vms.iter().map(|vm| {
            [
                network.name.clone(),
                network.subnet.clone(),
                vm.name.clone(),
                vm.address.to_string(),
            ]
        })
    });
    columns(
        &["NETWORK", "SUBNET", "VM", "ADDRESS"],
        &rows.collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_are_listed_by_their_networks() {
        let member = |network: &str, name: &str, address: [u8; 4]| {
            let name = name.to_owned();
            let address = address.into();
            (network.to_owned(), NetworkMember { name, address })
        };
        let members = [
            member("shop", "web", [10, 70, 1, 20]),
            member("lab", "x", [10, 80, 2, 30]),
            member("shop", "db", [10, 70, 1, 21]),
        ];
        let list = by_network(members.into_iter());
        let expected = "\
NETWORK  SUBNET        VM   ADDRESS
lab      10.80.2.0/24  x    10.80.2.30
shop     10.70.1.0/24  db   10.70.1.21
shop     10.70.1.0/24  web  10.70.1.20
";
        assert_eq!(table(&list), expected);
        assert_eq!(list[1].resolver, Ipv4Addr::new(10, 70, 1, 1));
        assert_eq!(
            table(&by_network(std::iter::empty())),
            "no networks between VMs\n"
        );
    }
}

//! Users of this host, and whose VMs a command of root's is about.

use std::fs;

use api::VmName;
use fleet::{Inventory, UsersPlace};

use crate::failure::Failure;

/// The host's list of users.
const PASSWD: &str = "/etc/passwd";

/// What a user is called; the number where no name is known.
pub fn name(user: u32) -> String {
    let list = fs::read_to_string(PASSWD).unwrap_or_default();
    named(&list, &user.to_string(), 2, 0).unwrap_or_else(|| user.to_string())
}

/// The number of a user who is named, or given by number.
fn number(typed: &str) -> Option<u32> {
    let list = fs::read_to_string(PASSWD).unwrap_or_default();
    let number = named(&list, typed, 0, 2);
    number.as_deref().unwrap_or(typed).parse().ok()
}

/// In a list of users, field `to` of the line whose field `from` is this.
fn named(list: &str, key: &str, from: usize, to: usize) -> Option<String> {
    let mut lines = list.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(from) == Some(&key))?;
    Some((*line.get(to)?).to_owned())
}

/// Has everything that follows be about the VMs of the user who was typed: of this user's folders the one that has a VM
/// called `vm`, or the first.
pub fn speak_of(typed: &str, vm: Option<&str>) -> Result<(), Failure> {
    let unknown = || Failure::NoUser(typed.to_owned());
    let user = number(typed).ok_or_else(unknown)?;
    let places: Vec<UsersPlace> = fleet::of_everybody()
        .into_iter()
        .filter(|place| place.user == user)
        .collect();
    let vm = vm.and_then(|vm| VmName::new(vm).ok());
    let has_it = |place: &&UsersPlace| {
        let inventory = Inventory::foreign(&place.folder);
        vm.as_ref()
            .is_some_and(|vm| inventory.record(vm).folder().is_dir())
    };
    let place = places.iter().find(has_it).or(places.first());
    fleet::speak_of(place.ok_or_else(unknown)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_and_numbers() {
        let list = "root:x:0:0::/root:/bin/sh\neve:x:1001:1001::/home/eve:/bin/sh\nshort:x\n";
        assert_eq!(named(list, "1001", 2, 0).as_deref(), Some("eve"));
        assert_eq!(named(list, "eve", 0, 2).as_deref(), Some("1001"));
        assert_eq!(named(list, "short", 0, 2), None);
        assert_eq!(named(list, "nobody", 0, 2), None);
        assert_eq!(number("4711"), Some(4711));
    }
}

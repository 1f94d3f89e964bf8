//! `mother update`: what a VM is asked for changes; what can change in a running one does so at once.

use api::{Command, Complaint, Label, SpecErrors, VmSpec};
use clap::Args;
use fleet::{Inventory, Vm};

use super::orders::{is_alive, order};
use super::words::find;
use crate::failure::Failure;
use crate::output::say_done;
use crate::spec_arguments::SpecArguments;

/// `mother update`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The options are those of `mother run`. Limits of memory hold at once in a VM that runs;
everything else holds when it is started the next time, which is said. A list such as
that of ports is given anew; labels are set one by one, and KEY= removes one.

Examples:
  mother update web --resident-limit 200M --label team=shop
  mother update web --memory 4G --cpus 4; mother restart web")]
pub struct UpdateArguments {
    /// Which VM
    #[arg(value_name = "NAME", id = "vm")]
    name: String,
    /// What is asked for from now on
    #[command(flatten)]
    written: SpecArguments,
    /// Say what was done as JSON: an array with an object
    #[arg(long)]
    json: bool,
}

/// Changes a VM; the exit status.
pub fn update(arguments: &UpdateArguments) -> Result<u8, Failure> {
    let written = &arguments.written.0;
    let mut complaints = written.complaints.clone();
    complaints.extend(misplaced(&written.spec, !complaints.is_empty()));
    if !complaints.is_empty() {
        let name = arguments.name.clone();
        return Err(Failure::Update(SpecErrors { name, complaints }));
    }
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.name)?;
    let Some(mut origin) = vm.origin.clone() else {
        return Err(Failure::NotNow {
            act: "update",
            name: vm.name.clone(),
            why: "it is not known how it was started".to_owned(),
            help: "start it with `mother run`; what that is told is kept",
        });
    };
    let labels = labels(&origin.asked.labels, &written.spec.labels);
    origin.asked = written.spec.over(&origin.asked);
    origin.asked.labels.clone_from(&labels);
    origin.given.labels = labels;
    let live = is_alive(&vm) && limit_now(&inventory, &vm, &written.spec)?;
    inventory.note_origin(&vm.name, &origin)?;
    say_done(&vm.name, arguments.json)?;
    let later = later(&written.spec, live);
    if is_alive(&vm) && !later.is_empty() {
        let name = &vm.name;
        eprintln!(
            "mother: when VM \"{name}\" is started the next time, with `mother restart {name}`: {}",
            later.join(", ")
        );
    }
    Ok(0)
}

/// What is not changed this way.
fn misplaced(spec: &VmSpec, is_something_given: bool) -> Option<Complaint> {
    let complaint = |field: &str, what: &str, help: &str| {
        Some(Complaint {
            field: field.to_owned(),
            what: what.to_owned(),
            help: help.to_owned(),
        })
    };
    if spec.name.is_some() {
        return complaint(
            "name",
            "a name is not changed this way",
            "write `mother rename`",
        );
    }
    if *spec == VmSpec::default() && !is_something_given {
        let help = "give options of `mother run`, such as `--memory 2G`";
        return complaint("OPTION", "nothing is to change", help);
    }
    None
}

/// Sets the limits of a VM that runs, if some are given; whether that was done.
fn limit_now(inventory: &Inventory, vm: &Vm, spec: &VmSpec) -> Result<bool, Failure> {
    let rates = spec.rates();
    let is_silent = spec.resident_limit.is_none()
        && spec.page_memory.is_none()
        && spec.engine_memory.is_none()
        && spec.host_limit.is_none();
    if is_silent && rates.is_silent() {
        return Ok(false);
    }
    let command = Command::Limit {
        resident: spec.resident_limit.map(|limit| limit.to_string()),
        page_memory: spec.page_memory.map(|size| size.to_string()),
        engine_memory: spec.engine_memory.map(|limit| limit.to_string()),
        host_limit: spec.host_limit.map(|limit| limit.to_string()),
        rates,
    };
    order(inventory, vm, "update", command)?;
    Ok(true)
}

/// Labels with those of `new` in the place of others with the same keys; one without a value removes.
fn labels(old: &[Label], new: &[Label]) -> Vec<Label> {
    let is_new = |label: &&Label| new.iter().any(|other| other.key() == label.key());
    let kept = old.iter().filter(|label| !is_new(label));
    let set = new.iter().filter(|label| !label.value().is_empty());
    kept.chain(set).cloned().collect()
}

/// The keys that hold only after the next start.
fn later(spec: &VmSpec, are_limits_live: bool) -> Vec<String> {
    let is_live = |key: &str| match key {
        "label" => true,
        "resident-limit" | "page-memory" | "engine-memory" | "host-limit" | "cpu-limit"
        | "cpu-weight" | "disk-rate" | "disk-ops" | "net-rate" | "net-packets" | "console-rate" => {
            are_limits_live
        }
        _ => false,
    };
    let said = spec.said();
    let keys = VmSpec::keys().iter();
    let later = keys.filter(|key| said.contains_key(**key) && !is_live(key));
    later.map(|key| (*key).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed_one_by_one() {
        let check = |old: &[&str], new: &[&str], expected: &[&str]| {
            let read = |texts: &[&str]| -> Vec<Label> {
                texts.iter().map(|text| text.parse().unwrap()).collect()
            };
            assert_eq!(
                labels(&read(old), &read(new)),
                read(expected),
                "{old:?} {new:?}"
            );
        };
        check(&["a=1", "b=2"], &[], &["a=1", "b=2"]);
        check(&["a=1", "b=2"], &["a=3"], &["b=2", "a=3"]);
        check(&["a=1", "b=2"], &["a="], &["b=2"]);
        check(&[], &["c=4"], &["c=4"]);
    }

    #[test]
    fn what_holds_later_is_said() {
        let spec = VmSpec {
            cpus: Some(api::VcpuCount::ONE),
            resident_limit: Some(api::ResidentLimit::Share(10)),
            labels: vec!["a=1".parse().unwrap()],
            ..VmSpec::default()
        };
        assert_eq!(later(&spec, true), ["cpus"]);
        assert_eq!(later(&spec, false), ["resident-limit", "cpus"]);
    }
}

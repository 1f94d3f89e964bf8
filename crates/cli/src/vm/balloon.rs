//! `mother balloon`: a guest is asked to give memory back, or what its balloon holds is shown.

use std::thread;
use std::time::{Duration, Instant};

use api::{BalloonBook, Command, VmName};
use clap::Args;
use fleet::{Client, ClientError, Inventory, Record};
use insight::amounts::size;

use crate::answers::{self, BalloonState};
use crate::failure::{ANSWER_IS_NO, Failure};
use crate::output::say;
use crate::vm::orders::{check_alive, time};
use crate::vm::words::find;

/// How often a balloon is looked at while it fills.
const LOOK: Duration = Duration::from_millis(100);

/// `mother balloon`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The balloon is a driver in the guest that takes pages from the guest's own programs and
gives them to the host. The guest keeps what it cannot spare, and takes pages back before
it kills programs for lack of memory.

Exit status:
  0 the balloon holds what was asked for (or nothing was asked), 1 it does not

Examples:
  mother balloon web            what its balloon holds
  mother balloon web 256M       256 MiB of the guest's memory go back to the host
  mother balloon web 0          the guest has all of it again")]
pub struct BalloonArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// What the balloon shall hold: a number with K, M or G, or 0
    #[arg(value_name = "SIZE", value_parser = bytes)]
    target: Option<u64>,
    /// How long the guest may take: seconds, or with s, m or h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time, requires = "target")]
    wait: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is known of a balloon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Balloon {
    target_bytes: u64,
    balloon_bytes: u64,
    given_bytes: u64,
    resident_bytes: Option<u64>,
}

impl Balloon {
    /// What the VM says of its balloon, of which `asked` was asked.
    fn ask(client: &mut Client, asked: Option<u64>) -> Result<Balloon, ClientError> {
        let status = client.status()?;
        let balloon = match client.books() {
            Ok(books) => books.balloon,
            // Between two lives of the guest it is empty.
            Err(ClientError::Refused { .. }) => BalloonBook {
                target_bytes: asked.unwrap_or(0),
                ..BalloonBook::default()
            },
            Err(error) => return Err(error),
        };
        Ok(Balloon {
            target_bytes: balloon.target_bytes,
            balloon_bytes: balloon.claimed_bytes,
            given_bytes: status.info.memory_given_bytes,
            resident_bytes: status.memory_resident_bytes,
        })
    }

    fn is_reached(&self) -> bool {
        self.balloon_bytes == self.target_bytes
    }
}

/// Asks or shows; the exit status.
pub fn balloon(arguments: &BalloonArguments) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.name)?;
    let act = if arguments.target.is_some() {
        "ask the balloon of"
    } else {
        "look at the balloon of"
    };
    check_alive(&vm, act)?;
    let record = inventory.record(&vm.name);
    let failed = |source| Failure::Vm {
        act,
        name: vm.name.clone(),
        source,
    };
    let look = || {
        Client::connect(&record)
            .and_then(|mut client| Balloon::ask(&mut client, arguments.target))
            .map_err(failed)
    };
    let mut known = look()?;
    if let Some(target) = arguments.target {
        if target > known.given_bytes {
            return Err(too_much(&vm.name, target, known.given_bytes));
        }
        order(&record, target).map_err(failed)?;
        let deadline = Instant::now() + arguments.wait;
        known = look()?;
        while !known.is_reached() && Instant::now() < deadline {
            thread::sleep(LOOK);
            known = look()?;
        }
    }
    say(&if arguments.json {
        as_json(&vm.name, &known)
    } else {
        as_text(&vm.name, &known)
    })?;
    let is_asked = arguments.target.is_some();
    if is_asked && !known.is_reached() {
        let left = size(known.balloon_bytes.abs_diff(known.target_bytes));
        eprintln!(
            "mother: the guest has not done it within {} s: {left} are missing; it goes on trying",
            arguments.wait.as_secs()
        );
    }
    Ok(if is_asked && !known.is_reached() {
        ANSWER_IS_NO
    } else {
        0
    })
}

fn order(record: &Record, target_bytes: u64) -> Result<(), ClientError> {
    Client::connect(record)?.order(Command::Balloon { target_bytes })
}

fn too_much(name: &VmName, target: u64, given: u64) -> Failure {
    let why = format!(
        "{} is more than the {} that its guest has",
        size(target),
        size(given)
    );
    Failure::BadAmount {
        act: "ask the balloon of",
        name: name.clone(),
        why,
    }
}

fn as_text(name: &VmName, known: &Balloon) -> String {
    let resident = known.resident_bytes.map_or_else(|| "-".to_owned(), size);
    let holds = size(known.balloon_bytes);
    let target = size(known.target_bytes);
    let given = size(known.given_bytes);
    format!("{name}: {holds} of {target} in the balloon; given {given}, resident {resident}\n")
}

fn as_json(name: &VmName, known: &Balloon) -> String {
    answers::text(&BalloonState {
        name,
        target_bytes: known.target_bytes,
        balloon_bytes: known.balloon_bytes,
        reached: known.is_reached(),
        memory_given_bytes: known.given_bytes,
        memory_resident_bytes: known.resident_bytes,
    })
}

/// An amount of memory, also none.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "write a number with K, M or G behind it, such as 256M, or 0".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = number
        .checked_mul(1 << shift)
        .ok_or_else(|| "that is more than any guest has".to_owned())?;
    if !bytes.is_multiple_of(4096) {
        return Err("a balloon holds whole pages of 4096 bytes".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_understood_or_explained() {
        let check =
            |text, expected: Option<u64>| assert_eq!(bytes(text).ok(), expected, "{text:?}");
        check("0", Some(0));
        check("256M", Some(256 << 20));
        check("1g", Some(1 << 30));
        check("8KiB", Some(8192));
        check("4096", Some(4096));
        check("100", None);
        check("-1", None);
        check("1.5G", None);
        check("M", None);
        check("", None);
        check("99999999999999G", None);
    }

    #[test]
    fn a_person_and_a_program_read_the_same() {
        let name = VmName::new("web").unwrap();
        let known = Balloon {
            target_bytes: 256 << 20,
            balloon_bytes: 200 << 20,
            given_bytes: 512 << 20,
            resident_bytes: Some(100 << 20),
        };
        assert_eq!(
            as_text(&name, &known),
            "web: 200M of 256M in the balloon; given 512M, resident 100M\n"
        );
        let value: serde_json::Value = serde_json::from_str(&as_json(&name, &known)).unwrap();
        assert_eq!(value["balloon_bytes"], 200 << 20);
        assert_eq!(value["reached"], false);
    }
}

//! Where the CPU time of a VM's vCPUs went, for programs and for people.
//!
//! The VM's process says at which addresses its guest was. The launcher, which has read nothing of the guest, gives them names: those
//! that the kernel file has which was loaded, as a process in a jail has written them down before ([`insight::Loaded::kept`]). Where
//! the kernel lies is the guest's own word: a guest that lies about it spoils its own profile.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use insight::Loaded;
use insight::profile::Profile;
use machine::profile::{Cpu, Place};
use serde::{Deserialize, Serialize};
use x86::Gva;

/// Places that are handed on, the hottest first: what fits into a message with the rest of a report.
const PLACES_MAX: usize = 1500;
/// Rows of functions in a report, and in a table.
const FUNCTIONS_MAX: usize = 200;
const FUNCTIONS_SHOWN: usize = 20;
/// Rows of one part's details in a table.
const DETAILS_SHOWN: usize = 8;
/// Whose code it is where it is no program's.
const KERNEL: &str = "kernel";
/// What user code is told apart by.
const PAGE: u64 = 4096;

/// Where the CPU time went. The times of the parts sum to `cpu_time`, and so do those of the functions with `at_no_function`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProfileReport {
    /// From one look to the next.
    pub period: f64,
    /// How often CPU time was charged to something.
    pub samples: u64,
    /// CPU time of the vCPUs' threads.
    pub cpu_time: f64,
    /// How long they slept: after HLT, or before their vCPU was started.
    pub asleep: f64,
    /// How long they did not run otherwise: for want of a core, in a pause, for a lock.
    pub kept_from_running: f64,
    /// What they were at.
    pub parts: Vec<PartReport>,
    /// The guest's hottest functions, the hottest first.
    pub functions: Vec<FunctionReport>,
    /// Time at no function: it is not known at which, or it is none of the hottest.
    pub at_no_function: f64,
    /// What names the kernel's functions, or why nothing does.
    pub names: String,
    /// On the way from the VM's process: where the guest was, and what was loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    places: Vec<PlaceSeen>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    programs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<[u8; 32]>,
}

/// One thing that vCPUs' threads are at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PartReport {
    /// What.
    pub what: String,
    /// Which of that: an instruction, a kind of exit.
    pub detail: Option<String>,
    /// CPU time.
    pub seconds: f64,
    /// The part of all CPU time, of 1.
    pub share: f64,
    /// How often it began.
    pub count: Option<u64>,
}

/// One function of the guest, or a page of its code.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FunctionReport {
    /// Its name; or a page of 4096 bytes, by its address in hexadecimal digits or, in a program's own code, by how far behind the
    /// beginning of that it is.
    pub name: String,
    /// `kernel`; `program` and its name, as the guest's kernel says; or `address space` and its top page table's address.
    pub space: String,
    /// CPU time.
    pub seconds: f64,
    /// The part of all CPU time, of 1.
    pub share: f64,
}

/// A place as [`Place`] has it: address space, RIP, the kernel's entry (0 if none is known), nanoseconds, program.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct PlaceSeen(u64, u64, u64, u64, Option<(u32, bool)>);

impl From<&Place> for PlaceSeen {
    fn from(place: &Place) -> PlaceSeen {
        let time = place.time.as_nanos() as u64;
        let entry = place.entry.unwrap_or(0);
        PlaceSeen(place.space, place.rip, entry, time, place.program)
    }
}

fn share(seconds: f64, all: f64) -> f64 {
    if all > 0.0 { seconds / all } else { 0.0 }
}

impl ProfileReport {
    /// Of what was measured, without names.
    pub(crate) fn new(cpu: &Cpu) -> ProfileReport {
        let all = cpu.cpu_time.as_secs_f64();
        let part = |part: &machine::profile::Part| PartReport {
            what: part.what.to_owned(),
            detail: part.detail.clone(),
            seconds: part.time.as_secs_f64(),
            share: share(part.time.as_secs_f64(), all),
            count: part.count,
        };
        let mut places: Vec<PlaceSeen> = cpu.places.iter().map(PlaceSeen::from).collect();
        places.sort_by_key(|PlaceSeen(space, rip, _, time, _)| (u64::MAX - time, *space, *rip));
        places.truncate(PLACES_MAX);
        ProfileReport {
            period: cpu.period.as_secs_f64(),
            samples: cpu.samples,
            cpu_time: all,
            asleep: cpu.waited.as_secs_f64(),
            kept_from_running: cpu.kept.as_secs_f64(),
            parts: cpu.parts.iter().map(part).collect(),
            functions: Vec::new(),
            at_no_function: all,
            names: String::new(),
            places,
            programs: cpu.programs.clone(),
            kernel: cpu.kernel,
        }
    }

    /// Makes functions of places, by what `symbols` keeps of the kernel file that was loaded.
    pub(crate) fn give_names(&mut self, symbols: Option<&Path>) {
        let digest = self.kernel.take();
        let known = symbols
            .zip(digest)
            .and_then(|(folder, digest)| Loaded::kept(digest, folder));
        self.name_by(known.as_ref());
    }

    fn name_by(&mut self, known: Option<&Profile>) {
        let mut is_named = false;
        let mut sums: HashMap<(String, String), u64> = HashMap::new();
        let programs = std::mem::take(&mut self.programs);
        for PlaceSeen(space, rip, entry, time, program) in std::mem::take(&mut self.places) {
            let page = rip & !(PAGE - 1);
            let text = known.and_then(|known| known.text_by_entry(Gva(entry)));
            let symbol = || known?.symbol_of(rip.checked_sub(text?.0)?);
            let named = program.and_then(|(number, is_own)| {
                let name = programs.get(number as usize)?;
                Some((format!("program {}", shown(name.as_bytes())), is_own))
            });
            let key = if let Some((program, is_own)) = named {
                let code = if is_own { "code+" } else { "" };
                (format!("{code}{page:#x}"), program)
            } else if space & 1 != 0 {
                (
                    format!("{page:#x}"),
                    format!("address space {:#x}", space & !1),
                )
            } else if let Some(name) = symbol() {
                is_named = true;
                (shown(name), KERNEL.to_owned())
            } else {
                (format!("{page:#x}"), KERNEL.to_owned())
            };
            *sums.entry(key).or_default() += time;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(key, time), (other_key, other)| other.cmp(time).then(key.cmp(other_key)));
        sums.truncate(FUNCTIONS_MAX);
        let all = self.cpu_time;
        let functions = sums.into_iter().map(|((name, space), time)| {
            let seconds = Duration::from_nanos(time).as_secs_f64();
            FunctionReport {
                name,
                space,
                seconds,
                share: share(seconds, all),
            }
        });
        self.functions = functions.collect();
        let named: f64 = self.functions.iter().map(|row| row.seconds).sum();
        self.at_no_function = (all - named).max(0.0);
        self.names =
            match known {
                Some(known) if is_named => {
                    format!("the kernel file, {}", shown(known.release().as_bytes()))
                }
                Some(_) => "none: the guest's kernel is not where the one that was loaded would be"
                    .to_owned(),
                None => "none: the kernel that was loaded is no Linux whose symbols are known"
                    .to_owned(),
            };
    }

    /// For a person, whole lines.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        writeln!(
            to,
            "mother: the vCPUs used {:.2} s of CPU time; they were asleep for {:.2} s and kept from running for {:.2} s",
            self.cpu_time, self.asleep, self.kept_from_running
        )?;
        writeln!(to, "{:>8} {:>9} {:>12}  what", "share", "seconds", "times")?;
        let mut rest = &self.parts[..];
        while let Some(first) = rest.first() {
            let len = rest
                .iter()
                .take_while(|part| part.what == first.what)
                .count();
            let (group, others) = rest.split_at(len);
            rest = others;
            self.write_group(to, group)?;
        }
        writeln!(
            to,
            "{:>8} {:>9}  hottest functions of the guest (names: {})",
            "share", "seconds", self.names
        )?;
        for FunctionReport {
            name,
            space,
            seconds,
            share,
        } in self.functions.iter().take(FUNCTIONS_SHOWN)
        {
            let of = match space.as_str() {
                KERNEL => String::new(),
                space => format!(", {space}"),
            };
            writeln!(to, "{:>6.1} % {seconds:>9.3}  {name}{of}", 100.0 * share)?;
        }
        let shown: f64 = self
            .functions
            .iter()
            .take(FUNCTIONS_SHOWN)
            .map(|row| row.seconds)
            .sum();
        let left = (self.cpu_time - shown).max(0.0);
        writeln!(
            to,
            "{:>6.1} % {left:>9.3}  at others, or at none",
            100.0 * share(left, self.cpu_time)
        )
    }

    /// What is the same but for its details: the sum, and the details that took longest.
    fn write_group(&self, to: &mut String, group: &[PartReport]) -> std::fmt::Result {
        let seconds: f64 = group.iter().map(|part| part.seconds).sum();
        let count = group
            .iter()
            .filter_map(|part| part.count)
            .reduce(|sum, more| sum + more);
        let mut row = |what: &str, seconds: f64, count: Option<u64>| {
            let count = count.map_or(String::new(), |count| count.to_string());
            let percent = 100.0 * share(seconds, self.cpu_time);
            writeln!(to, "{percent:>6.1} % {seconds:>9.3} {count:>12}  {what}")
        };
        let what = group.first().map_or("", |part| &part.what);
        row(what, seconds, count)?;
        let mut details: Vec<&PartReport> =
            group.iter().filter(|part| part.detail.is_some()).collect();
        details.sort_by(|one, other| {
            other
                .seconds
                .total_cmp(&one.seconds)
                .then(other.count.cmp(&one.count))
        });
        for part in details.into_iter().take(DETAILS_SHOWN) {
            let detail = part.detail.as_deref().unwrap_or_default();
            row(&format!("  {detail}"), part.seconds, part.count)?;
        }
        Ok(())
    }
}

/// A name as something that cannot move the cursor of whoever reads it.
fn shown(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use machine::profile::Part;

    use super::*;

    const TEXT: u64 = 0xffff_ffff_8100_0000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn measured() -> Cpu {
        let part = |what, detail: Option<&str>, time, count| Part {
            what,
            detail: detail.map(str::to_owned),
            time: ms(time),
            count: Some(count),
        };
        let place = |space, rip, time| Place {
            space,
            rip,
            entry: Some(TEXT + 0x80_0000),
            program: None,
            time: ms(time),
        };
        Cpu {
            period: ms(1),
            samples: 90,
            cpu_time: ms(100),
            waited: ms(50),
            kept: ms(5),
            parts: vec![
                part("translated code", None, 70, 1000),
                part("interpreted", Some("hlt"), 10, 9),
                part("interpreted", Some("out"), 20, 7),
            ],
            places: vec![
                place(0, TEXT + 0x10, 10),
                place(0x1234_5001, 0x40_1010, 20),
                place(0x1234_5001, 0x40_1f00, 25),
                Place {
                    program: Some((0, true)),
                    ..place(0, 0x1010, 25)
                },
                Place {
                    program: Some((0, false)),
                    ..place(0, 0x7f00_0000_1010, 5)
                },
            ],
            unplaced: ms(15),
            programs: vec!["a\x1b[2J".to_owned()],
            kernel: None,
        }
    }

    #[test]
    fn user_code_is_told_by_its_page_and_its_program_and_shares_sum_to_all() {
        let mut report = ProfileReport::new(&measured());
        report.give_names(None);
        let rows: Vec<_> = report
            .functions
            .iter()
            .map(|row| {
                (
                    row.name.as_str(),
                    row.space.as_str(),
                    (row.share * 100.0).round(),
                )
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("0x401000", "address space 0x12345000", 45.0),
                ("code+0x1000", "program a\u{fffd}[2J", 25.0),
                ("0xffffffff81000000", "kernel", 10.0),
                ("0x7f0000001000", "program a\u{fffd}[2J", 5.0),
            ]
        );
        assert!((report.at_no_function - 0.015).abs() < 1e-9);
        let shares: f64 = report.parts.iter().map(|part| part.share).sum();
        assert!((shares - 1.0).abs() < 1e-9);
        // What was on the way is not in the report.
        let text = serde_json::to_string(&report).unwrap();
        assert!(
            !text.contains("places") && !text.contains("programs"),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<ProfileReport>(&text).unwrap(),
            report
        );
    }

    #[test]
    fn a_table_sums_what_has_details_and_shows_the_longest_first() {
        let mut report = ProfileReport::new(&measured());
        report.give_names(None);
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[2..6],
            [
                "  70.0 %     0.070         1000  translated code",
                "  30.0 %     0.030           16  interpreted",
                "  20.0 %     0.020            7    out",
                "  10.0 %     0.010            9    hlt",
            ]
        );
        assert_eq!(
            lines.last(),
            Some(&"  15.0 %     0.015  at others, or at none")
        );
    }

    #[test]
    fn the_hottest_places_are_handed_on_and_the_rest_is_no_function_s() {
        let places = (0..3000).map(|number| Place {
            space: 1,
            rip: number * PAGE,
            entry: None,
            program: None,
            time: Duration::from_micros(number),
        });
        let mut report = ProfileReport::new(&Cpu {
            cpu_time: (0..3000).map(Duration::from_micros).sum(),
            places: places.collect(),
            ..Cpu::default()
        });
        assert_eq!(report.places.len(), PLACES_MAX);
        assert!(serde_json::to_string(&report).unwrap().len() < 100 << 10);
        report.give_names(None);
        assert_eq!(report.functions.len(), FUNCTIONS_MAX);
        assert_eq!(report.functions[0].name, format!("{:#x}", 2999 * PAGE));
        let all: f64 = report.functions.iter().map(|row| row.seconds).sum();
        assert!((all + report.at_no_function - report.cpu_time).abs() < 1e-9);
    }

    #[test]
    fn names_of_a_kernel_file_move_no_cursor() {
        assert_eq!(shown(b"do_\x1b[2Jexit"), "do_\u{fffd}[2Jexit");
    }
}

//! The run loop from outside: a scripted guest goes in, a report comes out.

use std::io;
use std::time::Duration;

use vcpu::{Exit, Reply, TripleFault};
use x86::Gpa;

use crate::console::Console;
use crate::report::{Ending, Report};
use crate::scripted::{Step, Then, machine};

fn quiet() -> Console {
    Console::new(Box::new(io::sink()))
}

fn run(steps: Vec<Step>) -> Report {
    machine(|_| (), vec![steps], Then::Spin, quiet()).0.run().unwrap()
}

fn crash_step() -> Step {
    (Exit::TripleFault(TripleFault { first_vector: 13, rip: 0x10_0200 }), Reply::Done)
}

#[test]
fn a_guest_that_computes_for_ever_is_stopped_when_its_time_is_up() {
    let limit = Duration::from_millis(30);
    let (machine, _) = machine(|plan| plan.timeout = Some(limit), vec![vec![]], Then::Spin, quiet());
    let report = machine.run().unwrap();
    assert_eq!(report.ending, Ending::TimedOut);
    assert!(report.wall_time >= limit, "{:?}", report.wall_time);
}

#[test]
fn a_guest_that_sleeps_is_stopped_and_costs_nothing() {
    let limit = Duration::from_millis(300);
    let (machine, _) = machine(|plan| plan.timeout = Some(limit), vec![vec![]], Then::Halt, quiet());
    let report = machine.run().unwrap();
    assert_eq!((report.ending, report.exits.halt), (Ending::TimedOut, 1));
    assert!(report.vcpu_time < limit / 10, "{:?}", report.vcpu_time);
}

#[test]
fn somebody_else_can_stop_a_guest_that_runs_or_sleeps() {
    for then in [Then::Spin, Then::Halt] {
        let (machine, _) = machine(|_| (), vec![vec![]], then, quiet());
        let control = machine.control();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            control.stop();
        });
        assert_eq!(machine.run().unwrap().ending, Ending::Stopped, "{then:?}");
        stopper.join().unwrap();
    }
}

#[test]
fn a_stop_before_the_start_counts() {
    let (machine, _) = machine(|_| (), vec![vec![]], Then::Spin, quiet());
    machine.control().stop();
    assert_eq!(machine.run().unwrap().ending, Ending::Stopped);
}

#[test]
fn a_triple_fault_shows_mode_registers_and_code() {
    let report = run(vec![crash_step()]);
    let Ending::Crashed(crash) = report.ending else { panic!("{:?}", report.ending) };
    let text = crash.to_string();
    let first = "triple fault in 64-bit long mode, CPL 0, after #GP (vector 13) at 0x100200";
    assert_eq!(text.lines().next(), Some(first));
    assert!(text.contains("RIP 0000000000100200"), "{text}");
    assert!(text.ends_with(&format!(" <f4> 0f{}", " 00".repeat(30))), "{text}");
}

#[test]
fn what_nobody_answers_reads_as_ones_and_is_counted() {
    let report = run(vec![
        (Exit::PioRead { port: 0xffee, size: 2 }, Reply::Value(0xffff)),
        (Exit::PioWrite { port: 0xffee, size: 1, value: 5 }, Reply::Done),
        (Exit::MmioRead { gpa: Gpa(0xd000_0000), size: 4 }, Reply::Value(0xffff_ffff)),
        (Exit::MsrRead { msr: 0x1234_5678 }, Reply::Fault),
        (Exit::MsrWrite { msr: 0x1234_5678, value: 1 }, Reply::Fault),
        (Exit::MsrRead { msr: x86::msr::MTRR_CAP }, Reply::Value(0x508)),
        crash_step(),
    ]);
    // Two bytes of a port read, one written.
    assert_eq!((report.unmapped.pio, report.unmapped.mmio, report.unmapped.msr), (3, 1, 2));
    assert_eq!((report.exits.pio_read, report.exits.msr_read, report.exits.total()), (1, 2, 7));
    assert_eq!(report.statistics.get("runs"), Some(7));
}

#[test]
fn a_report_knows_what_the_guest_was_given_and_took() {
    let report = run(vec![crash_step()]);
    assert_eq!(report.memory.configured_bytes, 64 << 20);
    // The kernel, zero page, command line, page tables, ACPI tables: some pages, far from all.
    assert!((1 << 14..1 << 21).contains(&report.memory.resident_bytes), "{}", report.memory.resident_bytes);
    assert!(report.vmm_memory.is_some_and(|memory| memory.total_bytes > 0));
}

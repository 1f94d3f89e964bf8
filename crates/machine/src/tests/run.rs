//! The run loop from outside: a scripted guest goes in, a report comes out.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vcpu::{Exit, Injection, Reply, TripleFault};
use x86::Gpa;

use crate::console::Console;
use crate::engine::EngineKind;
use crate::outcome::ending::Ending;
use crate::outcome::ending::StopCause;
use crate::outcome::exits::ExitKind;
use crate::plan::{OnReset, VmPlan};
use crate::report::Report;
use crate::tests::scripted::{Step, Then, machine};

fn quiet() -> Console {
    Console::new(Box::new(io::sink()))
}

fn run(steps: Vec<Step>) -> Report {
    machine(|_| (), vec![steps], Then::Spin, quiet())
        .0
        .run()
        .unwrap()
}

fn crash_step() -> Step {
    (
        Exit::TripleFault(TripleFault {
            first_vector: Some(13),
            rip: 0x10_0200,
        }),
        Reply::Done,
    )
}

#[test]
fn a_guest_that_computes_for_ever_is_stopped_when_its_time_is_up() {
    let limit = Duration::from_millis(30);
    let (machine, _) = machine(
        |plan| plan.timeout = Some(limit),
        vec![vec![]],
        Then::Spin,
        quiet(),
    );
    let report = machine.run().unwrap();
    assert_eq!(report.ending, Ending::TimedOut);
    assert!(report.wall_time >= limit, "{:?}", report.wall_time);
}

#[test]
fn a_guest_that_sleeps_is_stopped_and_costs_nothing() {
    let limit = Duration::from_millis(300);
    let (machine, _) = machine(
        |plan| plan.timeout = Some(limit),
        vec![vec![]],
        Then::Halt,
        quiet(),
    );
    let report = machine.run().unwrap();
    assert_eq!(
        (report.ending, report.exits[ExitKind::Halt]),
        (Ending::TimedOut, 1)
    );
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
        assert_eq!(
            machine.run().unwrap().ending,
            Ending::Stopped(StopCause::Left),
            "{then:?}"
        );
        stopper.join().unwrap();
    }
}

#[test]
fn a_stop_before_the_start_counts() {
    let (machine, _) = machine(|_| (), vec![vec![]], Then::Spin, quiet());
    machine.control().stop();
    assert_eq!(
        machine.run().unwrap().ending,
        Ending::Stopped(StopCause::Left)
    );
}

#[test]
fn a_triple_fault_shows_mode_registers_and_code() {
    let report = run(vec![crash_step()]);
    let Ending::Crashed(crash) = report.ending else {
        panic!("{:?}", report.ending)
    };
    let text = crash.to_string();
    let first = "triple fault in 64-bit long mode, CPL 0, after #GP (vector 13) at 0x100200";
    assert_eq!(text.lines().next(), Some(first));
    assert!(text.contains("RIP 0000000000100200"), "{text}");
    assert!(
        text.ends_with(&format!(" <f4> 0f{}", " 00".repeat(30))),
        "{text}"
    );
}

#[test]
fn what_nobody_answers_reads_as_ones_and_is_counted() {
    let report = run(vec![
        (
            Exit::PioRead {
                port: 0xffee,
                size: 2,
            },
            Reply::Value(0xffff),
        ),
        (
            Exit::PioWrite {
                port: 0xffee,
                size: 1,
                value: 5,
            },
            Reply::Done,
        ),
        (
            Exit::MmioRead {
                gpa: Gpa(0xd000_0000),
                size: 4,
            },
            Reply::Value(0xffff_ffff),
        ),
        (Exit::MsrRead { msr: 0x1234_5678 }, Reply::Fault),
        (
            Exit::MsrWrite {
                msr: 0x1234_5678,
                value: 1,
            },
            Reply::Fault,
        ),
        (
            Exit::MsrRead {
                msr: x86::msr::MTRR_CAP,
            },
            Reply::Value(0x508),
        ),
        crash_step(),
    ]);
    // Two bytes of a port read, one written.
    assert_eq!(
        (
            report.unmapped.pio,
            report.unmapped.mmio,
            report.unmapped.msr
        ),
        (3, 1, 2)
    );
    assert_eq!(
        (
            report.exits[ExitKind::PioRead],
            report.exits[ExitKind::MsrRead],
            report.exits.total()
        ),
        (1, 2, 7)
    );
    assert_eq!(report.statistics.get("runs"), Some(7));
}

#[test]
fn a_report_knows_what_the_guest_was_given_and_took() {
    let report = run(vec![crash_step()]);
    assert_eq!(report.memory.configured_bytes, 64 << 20);
    // The kernel, zero page, command line, page tables, ACPI tables: some pages, far from all.
    assert!(
        (1 << 14..1 << 21).contains(&report.memory.resident_bytes),
        "{}",
        report.memory.resident_bytes
    );
    assert!(
        report
            .vmm_memory
            .is_some_and(|memory| memory.total_bytes > 0)
    );
}

fn out(port: u16, value: u32) -> Step {
    (
        Exit::PioWrite {
            port,
            size: 1,
            value,
        },
        Reply::Done,
    )
}

/// Where the script goes on after an interrupt has been taken.
fn halt() -> Step {
    (Exit::Halt, Reply::Done)
}

/// Both 8259s started, vectors from 0x20 and 0x28, one line of the first let through.
fn start_pic(line: u8) -> Vec<Step> {
    let words = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 2),
        (0xa1, 1),
    ];
    let masks = [(0x21, !(1_u32 << line) & 0xff), (0xa1, 0xff)];
    words
        .into_iter()
        .chain(masks)
        .map(|(port, value)| out(port, value))
        .collect()
}

#[test]
fn a_reset_starts_the_guest_again() {
    let ways = [out(0xcf9, 6), out(0x64, 0xfe), out(0x92, 3)];
    for way in ways {
        let lives = vec![vec![way.clone()], vec![way.clone()], vec![crash_step()]];
        let (machine, _) = machine(
            |plan| plan.on_reset = OnReset::Reboot,
            lives,
            Then::Spin,
            quiet(),
        );
        let report = machine.run().unwrap();
        assert!(
            matches!(report.ending, Ending::Crashed(_)),
            "{way:?}: {:?}",
            report.ending
        );
        assert_eq!(
            (report.reboots, report.statistics.get("runs")),
            (2, Some(3)),
            "{way:?}"
        );
    }
}

#[test]
fn a_reset_ends_a_guest_that_must_not_come_back() {
    let report = run(vec![out(0xcf9, 6)]);
    assert_eq!((report.ending, report.reboots), (Ending::PoweredOff, 0));
}

#[test]
fn a_guest_powers_itself_off() {
    let sleep_5 = Exit::PioWrite {
        port: 0x604,
        size: 2,
        value: 5 << 10 | 1 << 13,
    };
    let report = run(vec![(sleep_5, Reply::Done)]);
    assert_eq!(
        (report.ending, report.exits[ExitKind::PioWrite]),
        (Ending::PoweredOff, 1)
    );
}

#[test]
fn a_test_kernel_ends_with_its_status() {
    let check = |has_port, expected| {
        let script = vec![out(0xf4, 0x10), crash_step()];
        let (machine, _) = machine(
            |plan| plan.debug_exit = has_port,
            vec![script],
            Then::Spin,
            quiet(),
        );
        let ending = machine.run().unwrap().ending;
        assert_eq!(
            matches!(ending, Ending::DebugExit(0x21)),
            expected,
            "{ending:?}"
        );
    };
    check(true, true);
    check(false, false);
}

#[test]
fn a_timer_wakes_a_guest_that_sleeps() {
    let mut script = start_pic(0);
    // Counter 0 once, after 2380 ticks of 1.19 MHz, just under 2 ms; then sleep, and power off when the interrupt came.
    script.extend([
        out(0x43, 0x30),
        out(0x40, 0x4c),
        out(0x40, 0x09),
        halt(),
        out(0xf4, 1),
    ]);
    let (machine, injected) = machine(|_| (), vec![script], Then::Spin, quiet());
    let report = machine.run().unwrap();
    assert_eq!(report.ending, Ending::DebugExit(3));
    assert_eq!(*injected.lock().unwrap(), [Injection::Interrupt(0x20)]);
    assert!(report.wall_time >= Duration::from_micros(1990));
}

#[test]
fn an_interrupt_that_was_given_and_not_yet_delivered_wakes_the_guest_on_its_next_vcpu() {
    let mut script = start_pic(0);
    script.extend([out(0x43, 0x30), out(0x40, 0x4c), out(0x40, 0x09), halt()]);
    // The script is at its end: the interrupt waits until the vCPU is called out, with HLT as the last that it did.
    let scripts = vec![script, vec![out(0xf4, 1)]];
    let (machine, injected) = machine(|_| (), scripts, Then::Spin, quiet());
    let control = machine.control();
    let change = std::thread::spawn(move || {
        while injected.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        let patience = Duration::from_secs(20);
        control.change_engine(EngineKind::Soft, patience).unwrap();
    });
    assert_eq!(machine.run().unwrap().ending, Ending::DebugExit(3));
    change.join().unwrap();
}

#[test]
fn what_is_typed_wakes_a_guest_that_listens() {
    let console = quiet();
    let input = console.input();
    let mut script = start_pic(4);
    // Interrupts on received data, let through by OUT2.
    script.extend([out(0x3fc, 0x08), out(0x3f9, 0x01), halt()]);
    script.extend([
        (
            Exit::PioRead {
                port: 0x3f8,
                size: 1,
            },
            Reply::Value(b'x'.into()),
        ),
        out(0xf4, 1),
    ]);
    let (machine, injected) = machine(|_| (), vec![script], Then::Spin, console);
    let typist = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        input.send(b"x")
    });
    assert_eq!(machine.run().unwrap().ending, Ending::DebugExit(3));
    assert_eq!(*injected.lock().unwrap(), [Injection::Interrupt(0x24)]);
    typist.join().unwrap().unwrap();
}

/// Collects what the guest prints.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn all_that_was_printed_arrives_and_markers_are_measured() {
    let printed = Printed::default();
    let mut script: Vec<Step> = b"ready\nset"
        .iter()
        .map(|&byte| out(0x3f8, byte.into()))
        .collect();
    script.push(out(0xf4, 0));
    let console = Console::new(Box::new(printed.clone()));
    let markers = vec!["ready".to_owned(), "go".to_owned()];
    let (machine, _) = machine(
        |plan| plan.markers = markers,
        vec![script],
        Then::Spin,
        console,
    );
    let report = machine.run().unwrap();
    assert_eq!(*printed.0.lock().unwrap(), b"ready\nset");
    let seen = report.markers[0]
        .seen
        .as_ref()
        .expect("the guest printed it");
    assert!(report.first_output.unwrap() <= seen.at && seen.at <= report.wall_time);
    // The serial port hands on whole lines.
    assert_eq!(seen.statistics.get("runs"), Some(6));
    assert_eq!(report.markers[1].seen, None);
}

#[test]
fn a_second_vcpu_sleeps_until_the_first_one_starts_it() {
    let icr = |value: u64| {
        (
            Exit::MsrWrite {
                msr: 0x830,
                value: 1 << 32 | value,
            },
            Reply::Done,
        )
    };
    let x2apic = (
        Exit::MsrWrite {
            msr: x86::msr::APIC_BASE,
            value: 0xfee0_0d00,
        },
        Reply::Done,
    );
    // INIT, then SIPI to page 0x9a (SDM vol. 3, 9.4.4.1).
    let first = vec![x2apic, icr(0x4500), icr(0x469a)];
    let scripts = vec![first, vec![crash_step()]];
    let (machine, _) = machine(|plan| plan.vcpu_count = 2, scripts, Then::Halt, quiet());
    let Ending::Crashed(crash) = machine.run().unwrap().ending else {
        panic!("the second vCPU ran its script")
    };
    assert_eq!((crash.state.cs.base, crash.state.rip), (0x9_a000, 0));
    assert!(crash.to_string().starts_with("triple fault in real mode"));
}

#[test]
fn a_pause_that_comes_before_a_vcpu_has_begun_shows_that_vcpu_too() {
    let patience = Duration::from_secs(20);
    for _ in 0..50 {
        let more = |plan: &mut VmPlan| plan.vcpu_count = 4;
        let (machine, _) = machine(more, vec![vec![]], Then::Spin, quiet());
        let control = machine.control();
        let act = std::thread::spawn(move || {
            control.pause(patience).unwrap();
            let seen = control.observed().unwrap().registers(patience).len();
            control.stop();
            seen
        });
        machine.run().unwrap();
        assert_eq!(act.join().unwrap(), 4);
    }
}

#[test]
fn the_power_button_interrupts_a_guest_that_sleeps() {
    let mut script = start_pic(2);
    // The secondary 8259 lets line 9 through, as SCI; the button's event is enabled.
    script.extend([
        out(0xa1, 0xfd),
        (
            Exit::PioWrite {
                port: 0x602,
                size: 2,
                value: 1 << 8,
            },
            Reply::Done,
        ),
    ]);
    script.extend([
        halt(),
        (
            Exit::PioRead {
                port: 0x600,
                size: 2,
            },
            Reply::Value(1 << 8),
        ),
        out(0xf4, 1),
    ]);
    let (machine, injected) = machine(|_| (), vec![script], Then::Spin, quiet());
    machine.control().press_power_button();
    assert_eq!(machine.run().unwrap().ending, Ending::DebugExit(3));
    assert_eq!(*injected.lock().unwrap(), [Injection::Interrupt(0x29)]);
}

//! Whole machines with guests of a few bytes on the software CPU: from the spec to the report, nothing replaced.
//!
//! A guest is a flat multiboot image at 1 MiB whose first page is code and whose second is an IDT.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::VmSpec;

use crate::build::opened::build;
use crate::console::Console;
use crate::control::{MachineControl, Phase};
use crate::engine::EngineKind;
use crate::outcome::ending::Ending;
use crate::outcome::ending::StopCause;
use crate::outcome::exits::ExitKind;
use crate::outcome::refusal::SwitchError;
use crate::plan::host_findings::HostFindings;
use crate::plan::plan;
use crate::report::Report;

/// Where the code starts, behind the header.
const CODE: u32 = 0x10_0020;
/// Where the IDT lies.
const IDT: u32 = 0x10_1000;
/// Code selector that every boot protocol starts with.
const CODE_SELECTOR: u32 = 0x10;

/// Machine code by pieces.
#[derive(Clone, Default)]
struct Code(Vec<u8>);

impl Code {
    fn bytes(mut self, bytes: &[u8]) -> Code {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `mov edx, port; mov al, value; out dx, al`.
    fn out(self, port: u16, value: u8) -> Code {
        let [low, high] = port.to_le_bytes();
        self.bytes(&[0xba, low, high, 0, 0, 0xb0, value, 0xee])
    }

    /// `mov ecx, value`.
    fn mov_ecx(self, value: u32) -> Code {
        self.bytes(&[0xb9]).bytes(&value.to_le_bytes())
    }

    /// `lidt` of the IDT's page. The descriptor lies in front of it.
    fn load_idt(self) -> Code {
        self.bytes(&[0x0f, 0x01, 0x1d])
            .bytes(&(IDT - 8).to_le_bytes())
    }

    /// `mov esp, 0x100000`: a stack.
    fn stack(self) -> Code {
        self.bytes(&[0xbc, 0, 0, 0x10, 0])
    }

    /// Ends through ACPI: `mov edx, 0x604; mov ax, S5; out dx, ax`, then sleep in case that was not enough.
    fn power_off(self) -> Code {
        self.bytes(&[
            0xba, 0x04, 0x06, 0, 0, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4,
        ])
    }
}

/// The image: header, code, and an IDT with these handlers (vector and code).
fn image(code: Code, handlers: &[(usize, Code)]) -> Vec<u8> {
    let flags = 1_u32 << 16;
    let checksum = 0_u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let header = [
        0x1bad_b002,
        flags,
        checksum,
        0x10_0000,
        0x10_0000,
        0,
        0x10_8000,
        CODE,
    ];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend(code.0);
    let mut idt = vec![0; 0x800];
    for (vector, handler) in handlers {
        let at = 0x10_0000 + image.len() as u32;
        let gate = u64::from(at & 0xffff | CODE_SELECTOR << 16)
            | u64::from(at & 0xffff_0000 | 0x8e00) << 32;
        idt[vector * 8..][..8].copy_from_slice(&gate.to_le_bytes());
        image.extend(&handler.0);
    }
    assert!(
        image.len() <= 0xff8,
        "code and handlers fit into the first page"
    );
    image.resize(0xff8, 0);
    image.extend(0x7ff_u16.to_le_bytes());
    image.extend(IDT.to_le_bytes());
    image.extend([0, 0]);
    image.extend(idt);
    image
}

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

/// Runs an image; the report, and what it printed.
fn run_image(image: &[u8], adjust: impl FnOnce(&mut VmSpec)) -> (Report, String) {
    run_image_and(image, adjust, |_, _| ())
}

/// Runs an image while `act` does something to it from outside.
fn run_image_and(
    image: &[u8],
    adjust: impl FnOnce(&mut VmSpec),
    act: impl FnOnce(MachineControl, Printed) + Send + 'static,
) -> (Report, String) {
    let kernel = host::MemFd::new(c"guest", image.len() as u64).unwrap();
    kernel.file().write_all_at(image, 0).unwrap();
    let mut spec = VmSpec {
        kernel: Some(format!("/proc/self/fd/{}", kernel.file().as_raw_fd()).into()),
        memory: Some("32M".parse().unwrap()),
        engine: Some("soft".parse().unwrap()),
        timeout: Some("60s".parse().unwrap()),
        debug_exit: true,
        ..VmSpec::default()
    };
    adjust(&mut spec);
    let printed = Printed::default();
    let machine = build(
        plan(&spec, &HostFindings::for_spec(&spec)).unwrap(),
        Console::new(Box::new(printed.clone())),
    )
    .unwrap();
    let control = machine.control();
    let seen = printed.clone();
    let actor = std::thread::spawn(move || act(control, seen));
    let report = machine.run().unwrap();
    actor.join().unwrap();
    let text = String::from_utf8(printed.0.lock().unwrap().clone()).unwrap();
    (report, text)
}

fn run(code: Code, handlers: &[(usize, Code)]) -> Report {
    run_image(&image(code, handlers), |_| ()).0
}

/// The first 8259 started with vectors from 0x20, the timer let through.
fn start_pic(code: Code) -> Code {
    let words = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
        (0xa1, 0xff),
    ];
    words
        .into_iter()
        .fold(code, |code, (port, value)| code.out(port, value))
}

#[test]
fn a_guest_says_hello_and_ends_with_its_status() {
    let code = b"hello\n"
        .iter()
        .fold(Code::default(), |code, &byte| code.out(0x3f8, byte));
    let (report, printed) = run_image(&image(code.out(0xf4, 0x10), &[]), |_| ());
    assert_eq!(
        (report.ending, printed.as_str()),
        (Ending::DebugExit(0x21), "hello\n")
    );
    assert_eq!(report.exits[ExitKind::PioWrite], 7);
}

#[test]
fn a_sleeping_guest_is_woken_by_its_timer() {
    // Counter 0 in mode 0, 0xff00 ticks: about 55 ms, so that a busy host gets to HLT before they are over.
    let code = start_pic(Code::default().stack().load_idt())
        .out(0x43, 0x30)
        .out(0x40, 0)
        .out(0x40, 0xff);
    let code = code.bytes(&[0xfb, 0xf4]).out(0xf4, 1);
    // On a busy host the timer may be first for all that; then the guest never sleeps.
    let sleeps = || Some(run(code.clone(), &[(0x20, Code::default().out(0xf4, 2))]));
    let report = (0..5)
        .filter_map(|_| sleeps())
        .find(|report| report.exits[ExitKind::Halt] > 0)
        .unwrap();
    assert_eq!(
        (report.ending, report.exits[ExitKind::Halt]),
        (Ending::DebugExit(5), 1)
    );
    assert!(report.wall_time.as_millis() >= 54, "{:?}", report.wall_time);
}

#[test]
fn a_guest_that_touches_every_port_is_survived() {
    // xor edx, edx; 1: mov al, 0; out dx, al; in eax, dx; add edx, 1; cmp edx, 0x10000; jne 1b
    let code = Code::default().bytes(&[0x31, 0xd2, 0xb0, 0x00, 0xee, 0xed, 0x83, 0xc2, 0x01]);
    let code = code
        .bytes(&[0x81, 0xfa, 0x00, 0x00, 0x01, 0x00, 0x75, 0xf1])
        .power_off();
    let (report, _) = run_image(&image(code, &[]), |spec| spec.debug_exit = false);
    assert_eq!(report.ending, Ending::PoweredOff);
    assert_eq!(
        (
            report.exits[ExitKind::PioRead],
            report.exits[ExitKind::PioWrite]
        ),
        (0x1_0000, 0x1_0001)
    );
    assert!(report.unmapped.pio > 0x1_0000, "{:?}", report.unmapped);
}

#[test]
fn a_guest_that_reads_every_msr_is_survived() {
    // 1: rdmsr; add ecx, 1; cmp ecx, end; jne 1b
    let scan = |code: Code, start: u32, end: u32| {
        let code = code
            .mov_ecx(start)
            .bytes(&[0x0f, 0x32, 0x83, 0xc1, 0x01, 0x81, 0xf9]);
        code.bytes(&end.to_le_bytes()).bytes(&[0x75, 0xf3])
    };
    let code = scan(Code::default().stack().load_idt(), 0, 0x2000);
    let code = scan(code, 0xc000_0000, 0xc000_0400);
    let code = scan(code, 0xc001_0000, 0xc001_1400);
    // #GP: drop the error code, step over the two bytes of RDMSR, go on.
    let skip = Code::default().bytes(&[0x83, 0xc4, 0x04, 0x83, 0x04, 0x24, 0x02, 0xcf]);
    let report = run(code.out(0xf4, 3), &[(13, skip)]);
    assert_eq!(report.ending, Ending::DebugExit(7));
    assert!(report.unmapped.msr > 0x3000, "{:?}", report.unmapped);
}

#[test]
fn a_guest_that_faults_for_ever_is_stopped_when_its_time_is_up() {
    // A handler that returns to where the fault was.
    let again = Code::default().bytes(&[0xcf]);
    let code = Code::default().stack().load_idt().bytes(&[0x0f, 0x0b]);
    let (report, _) = run_image(&image(code, &[(6, again)]), |spec| {
        spec.timeout = Some("1s".parse().unwrap())
    });
    assert_eq!(report.ending, Ending::TimedOut);
}

#[test]
fn a_guest_that_jumps_into_nowhere_crashes_alone() {
    let check = |code: &[u8], what: &str| {
        let report = run(Code::default().stack().bytes(code), &[]);
        assert!(
            matches!(report.ending, Ending::Crashed(_)),
            "{what}: {:?}",
            report.ending
        );
    };
    check(&[0x0f, 0x0b], "an instruction that does not exist");
    check(
        &[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0],
        "a jump to where no memory is",
    );
    check(
        &[0xb8, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xe0],
        "a jump to the reset vector",
    );
}

#[test]
fn a_guest_that_resets_itself_starts_again_until_it_is_stopped() {
    let reset = image(Code::default().out(0xcf9, 6).bytes(&[0xf4]), &[]);
    let (report, _) = run_image(&reset, |spec| spec.timeout = Some("1s".parse().unwrap()));
    assert_eq!(report.ending, Ending::TimedOut);
    assert!(report.reboots > 0);
    let (report, _) = run_image(&reset, |spec| spec.no_reboot = true);
    assert_eq!((report.ending, report.reboots), (Ending::PoweredOff, 0));
}

/// A guest that reads its TSC and its PM timer again and again, prints a dot each time, and ends itself when one of
/// them jumps by half a second.
fn clock_watcher() -> Code {
    let half_second_of_tsc = (host::tsc::frequency_khz() * 500) as u32;
    let half_second_of_pm = 3_579_545_u32 / 2;
    // jbe over the exit; the exit
    let exit_if_above = |code: Code| code.bytes(&[0x76, 0x08]).out(0xf4, 1);
    // rdtsc; mov esi, eax; mov edx, 0x608; in eax, dx; mov edi, eax
    let start = [
        0x0f, 0x31, 0x89, 0xc6, 0xba, 0x08, 0x06, 0, 0, 0xed, 0x89, 0xc7,
    ];
    // rdtsc; mov ebx, eax; sub eax, esi; mov esi, ebx; cmp eax, ..
    let tsc = Code::default().bytes(&[0x0f, 0x31, 0x89, 0xc3, 0x29, 0xf0, 0x89, 0xde, 0x3d]);
    let body = exit_if_above(tsc.bytes(&half_second_of_tsc.to_le_bytes()));
    // mov edx, 0x608; in eax, dx; mov ebx, eax; sub eax, edi; mov edi, ebx; and eax, 0xffffff; cmp eax, ..
    let body = body.bytes(&[
        0xba, 0x08, 0x06, 0, 0, 0xed, 0x89, 0xc3, 0x29, 0xf8, 0x89, 0xdf,
    ]);
    let body = body
        .bytes(&[0x25, 0xff, 0xff, 0xff, 0, 0x3d])
        .bytes(&half_second_of_pm.to_le_bytes());
    let body = exit_if_above(body).out(0x3f8, b'.');
    let back = -(body.0.len() as i8 + 2);
    Code::default()
        .bytes(&start)
        .bytes(&body.0)
        .bytes(&[0xeb, back as u8])
}

#[test]
fn nothing_runs_in_a_pause_and_no_clock_jumps_over_it() {
    let act = |control: MachineControl, printed: Printed| {
        let len = || printed.0.lock().unwrap().len();
        let patience = Duration::from_secs(20);
        assert!(control.wait_until_started());
        for _ in 0..2 {
            let start = len();
            while len() == start {
                std::thread::sleep(Duration::from_millis(5));
            }
            control.pause(patience).unwrap();
            // What was printed before may still be on its way.
            std::thread::sleep(Duration::from_millis(100));
            let before = len();
            std::thread::sleep(Duration::from_millis(900));
            assert_eq!(len(), before, "a paused guest prints nothing");
            control.pause(patience).unwrap();
            control.resume(patience).unwrap();
            while len() == before {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        control.pause(patience).unwrap();
        control.stop();
        assert!(control.resume(patience).is_err(), "it has ended");
    };
    let (report, _) = run_image_and(&image(clock_watcher(), &[]), |_| (), act);
    assert_eq!(report.ending, Ending::Stopped(StopCause::Left));
}

#[test]
fn a_guest_whose_vcpus_are_made_anew_goes_on_and_no_clock_jumps() {
    let act = |control: MachineControl, printed: Printed| {
        let len = || printed.0.lock().unwrap().len();
        let patience = Duration::from_secs(20);
        assert!(control.wait_until_started());
        for _ in 0..5 {
            let start = len();
            while len() < start + 10 {
                std::thread::sleep(Duration::from_millis(1));
            }
            control.change_engine(EngineKind::Soft, patience).unwrap();
        }
        // Of a paused VM: it stays so.
        control.pause(patience).unwrap();
        control.change_engine(EngineKind::Soft, patience).unwrap();
        assert_eq!(control.phase(), Phase::Paused);
        control.resume(patience).unwrap();
        let start = len();
        while len() == start {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(
            control.switch("soft", patience),
            Err(SwitchError::Already(EngineKind::Soft))
        ));
        control.stop();
        assert!(matches!(
            control.change_engine(EngineKind::Soft, patience),
            Err(SwitchError::Ended)
        ));
    };
    let (report, _) = run_image_and(&image(clock_watcher(), &[]), |_| (), act);
    assert_eq!(report.ending, Ending::Stopped(StopCause::Left));
}

#[test]
fn a_sleeping_guest_is_woken_by_its_timer_on_a_new_vcpu() {
    // As above, but the vCPU is made anew while it sleeps.
    let code = start_pic(Code::default().stack().load_idt())
        .out(0x43, 0x30)
        .out(0x40, 0)
        .out(0x40, 0xff);
    let code = code.out(0x3f8, b'.').bytes(&[0xfb, 0xf4]).out(0xf4, 1);
    let act = |control: MachineControl, _| {
        assert!(control.wait_until_started());
        // It may be over before: what counts is that it is not lost.
        let _ = control.change_engine(EngineKind::Soft, Duration::from_secs(20));
    };
    let handlers = [(0x20, Code::default().out(0xf4, 2))];
    let (report, _) = run_image_and(&image(code, &handlers), |_| (), act);
    assert_eq!(report.ending, Ending::DebugExit(5));
}

#[test]
fn a_guest_that_does_not_listen_to_its_power_button_is_ended_after_the_grace_time() {
    let act = |control: MachineControl, _| {
        assert!(control.wait_until_started());
        control.pause(Duration::from_secs(20)).unwrap();
        // Asked while it is paused: it goes on, or it could not listen.
        control.stop_gracefully(Duration::from_millis(300));
    };
    let (report, _) = run_image_and(&image(clock_watcher(), &[]), |_| (), act);
    assert_eq!(report.ending, Ending::Stopped(StopCause::GraceOver));
    assert!(report.wall_time >= Duration::from_millis(300));
}

#[test]
fn a_profile_says_where_a_guest_computed() {
    // dec ecx; jnz: half a second or less of them, behind a MOV.
    let code = Code::default()
        .mov_ecx(0x2000_0000)
        .bytes(&[0x49, 0x75, 0xfd]);
    let (report, _) = run_image(&image(code.out(0xf4, 1), &[]), |spec| spec.profile = true);
    assert_eq!(report.ending, Ending::DebugExit(3));
    let profile = report.profile.unwrap();
    let hottest = profile
        .places
        .iter()
        .max_by_key(|place| place.time)
        .unwrap();
    assert_eq!((hottest.space, hottest.rip), (0, u64::from(CODE) + 5));
    assert!(hottest.time * 10 > profile.cpu_time * 8, "{profile:?}");
    let parts: Duration = profile.parts.iter().map(|part| part.time).sum();
    let places: Duration = profile.places.iter().map(|place| place.time).sum();
    assert_eq!(
        (parts, places + profile.unplaced),
        (profile.cpu_time, profile.cpu_time)
    );
    // All of it but what its thread used before the first look and after the last.
    assert!(profile.cpu_time * 10 > report.vcpu_time * 8, "{profile:?}");
    let exits = |detail: &str| {
        let has = |part: &&crate::report::profile::Part| part.detail.as_deref() == Some(detail);
        profile.parts.iter().find(has).and_then(|part| part.count)
    };
    assert_eq!(exits("pio write"), Some(report.exits[ExitKind::PioWrite]));
    assert_eq!(exits("out"), Some(1));
}

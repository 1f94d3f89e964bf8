//! What Linux's 8250 driver and console rely on.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;
use crate::irq::IrqLines;

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Setup {
    serial: Serial,
    output: ConsoleOutput,
    input: ConsoleInput,
    sent: Shared,
    lines: IrqLines,
}

fn setup() -> Setup {
    let input = ConsoleInput::default();
    let sent = Shared::default();
    let lines = IrqLines::default();
    let output = ConsoleOutput::new(Box::new(sent.clone()));
    let serial = Serial::new(input.clone(), output.clone(), lines.line(4));
    Setup {
        serial,
        output,
        input,
        sent,
        lines,
    }
}

/// Runs a script of register accesses: `1=02` writes, `2:c1` reads and expects, `!` and `_` expect the line high
/// and low, `"text` types.
fn check(name: &str, script: &str) {
    let mut setup = setup();
    let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
    for word in script.split_whitespace() {
        if let Some(text) = word.strip_prefix('"') {
            assert_eq!(setup.input.push(text.as_bytes()), text.len());
            setup.serial.advance(Nanos(0));
        } else if let Some((offset, value)) = word.split_once('=') {
            setup.serial.write(hex(offset) as u16, 1, hex(value));
        } else if let Some((offset, value)) = word.split_once(':') {
            assert_eq!(
                setup.serial.read(hex(offset) as u16, 1),
                hex(value),
                "{name}: {word}"
            );
        } else {
            assert_eq!(
                setup.lines.take_edges().high != 0,
                word == "!",
                "{name}: {word}"
            );
        }
    }
}

#[test]
fn linux_finds_a_16550a() {
    check(
        "no FIFO before it is switched on",
        "2:01 2=01 2:c1 2=00 2:01",
    );
    check("it is not a 16750", "2=01 3=80 2=21 2:c1 3=00");
    check("it is not an XScale: no enable bit 6", "1=4f 1:0f 1=00");
    check("scratch", "7=5a 7:5a 7=a5 7:a5");
    check("loopback test", "4=1a 6:92 4=00 6:b2 6:b0");
    check("divisor", "3=83 0=01 1=00 0:01 1:00 3=03 1:00 3:03");
}

#[test]
fn the_transmitter_interrupt_comes_when_enabled_and_after_every_byte() {
    check(
        "driver's test",
        "4=08 1=02 ! 2:02 2:01 _ 1=00 1=02 2:02 1=00",
    );
    check("after a byte", "4=08 1=02 2:02 _ 0=41 ! 2:02 _");
    check("no interrupt without OUT2", "1=02 _ 2:02");
    check("transmitter is always empty", "5:60 0=41 5:60");
}

#[test]
fn a_line_whose_reader_is_behind_is_slow_for_a_driver_that_waits_and_loses_nothing() {
    let mut setup = setup();
    let serial = &mut setup.serial;
    let is_high = |lines: &IrqLines| lines.take_edges().high != 0;
    for (offset, value) in [
        (MCR, u32::from(MCR_OUT2)),
        (IER, u32::from(IER_TRANSMITTED)),
    ] {
        serial.write(offset, 1, value);
    }
    setup.output.slow_down(true);
    serial.advance(Nanos(0));
    (0..16).for_each(|byte| serial.write(DATA, 1, byte));
    assert_eq!((serial.read(LSR, 1), is_high(&setup.lines)), (0, false));
    // A kernel that polls does not wait.
    serial.write(IER, 1, 0);
    assert_eq!(serial.read(LSR, 1), u32::from(LSR_TRANSMITTER_EMPTY));
    serial.write(IER, 1, u32::from(IER_TRANSMITTED));
    assert!(!is_high(&setup.lines));
    let flush = serial.deadline().unwrap();
    serial.advance(flush);
    let sent = serial.deadline().unwrap();
    assert_eq!(sent, Nanos(16 * SLOW_BYTE_NS));
    serial.advance(sent);
    assert_eq!(
        (serial.read(LSR, 1), is_high(&setup.lines)),
        (u32::from(LSR_TRANSMITTER_EMPTY), true)
    );
    // Fast again, at once.
    (16..32).for_each(|byte| serial.write(DATA, 1, byte));
    assert!(!is_high(&setup.lines));
    setup.output.slow_down(false);
    serial.advance(sent);
    assert!(is_high(&setup.lines));
    serial.advance(serial.deadline().unwrap());
    assert_eq!(*setup.sent.0.lock().unwrap(), (0..32).collect::<Vec<u8>>());
}

#[test]
fn received_bytes_interrupt_until_they_are_read() {
    check(
        "one byte",
        "4=08 2=01 1=01 \"a ! 2:c4 5:61 0:61 _ 5:60 2:c1",
    );
    check(
        "below the trigger",
        "4=08 2=81 1=01 \"abc ! 2:cc 0:61 0:62 ! 0:63 _",
    );
    check("at the trigger", "4=08 2=41 1=01 \"abcd 2:c4");
    check(
        "a reset loses nothing",
        "4=08 2=01 1=01 \"abc 0:61 2=03 5:61 0:62 0:63 5:60 _",
    );
    check(
        "receiver before transmitter",
        "4=08 1=03 \"a 2:04 0:61 2:02 2:01",
    );
}

#[test]
fn loopback_sends_to_oneself() {
    check("bytes", "4=10 0=41 5:61 0:41 5:60");
    check("overrun", "4=10 1=04 0=41 0=42 2:06 5:63 5:61 2:01");
}

#[test]
fn pasted_text_arrives_whole() {
    let mut setup = setup();
    let text: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
    setup.serial.write(IIR_FCR, 1, 1);
    assert_eq!(setup.input.push(&text), text.len());
    setup.serial.advance(Nanos(0));
    let mut seen = Vec::new();
    while setup.serial.read(LSR, 1) & 1 != 0 {
        seen.push(setup.serial.read(DATA, 1) as u8);
    }
    assert!(seen == text, "{} of {} bytes", seen.len(), text.len());
}

#[test]
fn what_was_typed_before_linux_opens_the_console_is_not_lost() {
    check(
        "driver start",
        "\"abc 4=00 5:60 2=07 0:00 4=08 0:00 1=05 ! 4=0b 0:61 0:62 0:63 _",
    );
    check(
        "closed and opened again",
        "\"abc 4=0b 2=01 1=01 0:61 1=00 4=08 2=07 0:00 1=01 0:00 4=0b 0:62 0:63",
    );
    check("a guest that only polls", "\"ab 5:61 0:61 0:62 5:60");
    check("the loopback test keeps it", "4=0b \"a 4=1b 4=0b 0:61");
}

#[test]
fn a_driver_gets_a_moment_between_two_full_fifos() {
    let mut setup = setup();
    for (offset, value) in [(IIR_FCR, 1), (IER, 1), (MCR, 0x0b)] {
        setup.serial.write(offset, 1, value);
    }
    setup.input.push(&[b'a'; 40]);
    let mut now = Nanos(0);
    for expected in [16, 16, 8, 0] {
        setup.serial.advance(now);
        let mut count = 0;
        while setup.serial.read(LSR, 1) & 1 != 0 {
            setup.serial.read(DATA, 1);
            count += 1;
        }
        assert_eq!(count, expected);
        now = setup.serial.deadline().unwrap_or(now);
    }
    assert_eq!(setup.serial.deadline(), None);
}

#[test]
fn a_guest_that_lowers_rts_is_sent_nothing_until_it_raises_it() {
    check(
        "interrupts stay on",
        "4=0b 2=01 1=01 4=09 \"a _ 5:60 4=0b ! 5:61 0:61 _",
    );
    check(
        "a guest that never raised it",
        "4=09 2=01 1=01 \"a ! 0:61 _",
    );
}

#[test]
fn whoever_types_more_than_fits_is_told() {
    let setup = setup();
    assert_eq!(setup.input.push(&[0; 100_000]), 65_536);
    assert_eq!(setup.input.push(&[0; 10]), 0);
}

#[test]
fn output_is_handed_on_at_line_ends_and_soon() {
    let mut setup = setup();
    let seen = |setup: &Setup| String::from_utf8(setup.sent.0.lock().unwrap().clone()).unwrap();
    let send = |setup: &mut Setup, text: &str| {
        text.bytes()
            .for_each(|byte| setup.serial.write(DATA, 1, u32::from(byte)));
    };
    send(&mut setup, "one\ntwo");
    assert_eq!(seen(&setup), "one\n");
    let deadline = setup.serial.deadline().unwrap();
    setup.serial.advance(deadline);
    assert_eq!(seen(&setup), "one\ntwo");
    assert_eq!(setup.serial.deadline(), None);
    assert_eq!(setup.serial.counters().sent, 7);
}

//! What kernels rely on in the 8254.

use super::*;
use crate::irq::IrqLines;

const MILLISECOND: u64 = 1_000_000;

fn pit() -> (Pit, IrqLines) {
    let lines = IrqLines::default();
    let pit = Pit::new(Nanos(0), lines.line(0));
    (pit, lines)
}

fn program(pit: &mut Pit, channel: u16, control: u32, count: u32) {
    pit.write(3, 1, u32::from(channel) << 6 | control);
    pit.write(channel, 1, count & 0xff);
    pit.write(channel, 1, count >> 8);
}

/// Interrupts within `ns` if somebody looks at every deadline.
fn interrupts(pit: &mut Pit, lines: &IrqLines, ns: u64) -> u64 {
    let end = pit.state.now.after(ns);
    lines.take_edges();
    let mut count = 0;
    while let Some(at) = pit.deadline().filter(|at| *at <= end) {
        pit.advance(at);
        count += u64::from(lines.take_edges().rose);
    }
    pit.advance(end);
    count + u64::from(lines.take_edges().rose)
}

#[test]
fn channel_0_interrupts_at_the_rate_asked_for() {
    let check = |name, control, count, expected| {
        let (mut pit, lines) = pit();
        program(&mut pit, 0, control, count);
        assert_eq!(
            interrupts(&mut pit, &lines, 1000 * MILLISECOND),
            expected,
            "{name}"
        );
    };
    check("rate generator, 100 Hz", 0x34, 11_932, 99);
    check("square wave, 1000 Hz", 0x36, 1_193, 1000);
    check("one-shot", 0x30, 11_932, 1);
    check("strobe", 0x38, 11_932, 1);
    check("slowest", 0x34, 0, 18);
    check("needs a trigger that never comes", 0x32, 100, 0);
    check("decimal, 0x1000 is a thousand", 0x35, 0x1000, 1193);
}

#[test]
fn a_guest_that_wants_a_million_interrupts_a_second_gets_fewer() {
    let (mut pit, lines) = pit();
    program(&mut pit, 0, 0x34, 1);
    let seen = interrupts(&mut pit, &lines, 100 * MILLISECOND);
    assert!(
        (1..=100 * MILLISECOND / PERIOD_MIN_NS + 1).contains(&seen),
        "{seen}"
    );
}

#[test]
fn the_counter_can_be_read() {
    let check = |name, control, latch, at_ticks, expected| {
        let (mut pit, _lines) = pit();
        program(&mut pit, 0, control, 1000);
        pit.advance(Nanos::of_ticks(at_ticks, PIT_HZ));
        if let Some(latch) = latch {
            pit.write(3, 1, latch);
            pit.advance(Nanos::of_ticks(at_ticks + 50, PIT_HZ));
        }
        let value = pit.read(0, 1) | pit.read(0, 1) << 8;
        assert_eq!(value, expected, "{name}");
    };
    check("rate generator", 0x34, None, 300, 700);
    check("rate generator, third round", 0x34, None, 2300, 700);
    check("square wave counts by two", 0x36, None, 100, 800);
    check("one-shot goes on past zero", 0x30, None, 1001, 0xffff);
    check("latched", 0x34, Some(0x00), 300, 700);
    check("latched by read-back", 0x34, Some(0xd2), 300, 700);
    check(
        "status, then count",
        0x34,
        Some(0xe2),
        0,
        950 << 8 & 0xff00 | 0xb4,
    );
}

#[test]
fn channel_2_is_a_stopwatch() {
    let (mut pit, _lines) = pit();
    pit.write(CONTROL_B, 1, 0);
    program(&mut pit, 2, 0x30, 1000);
    pit.advance(Nanos(10 * MILLISECOND));
    assert_eq!(pit.read(CONTROL_B, 1) & 0x21, 0, "the gate holds it");
    pit.write(CONTROL_B, 1, 1);
    let start = pit.state.now;
    pit.advance(Nanos(start.0 + Nanos::of_ticks(990, PIT_HZ).0));
    assert_eq!(pit.read(CONTROL_B, 1) & 0x21, 1);
    pit.advance(Nanos(start.0 + Nanos::of_ticks(1001, PIT_HZ).0));
    assert_eq!(pit.read(CONTROL_B, 1) & 0x21, 0x21);
}

#[test]
fn linux_calibrates_its_tsc_within_a_thousandth() {
    let (mut pit, _lines) = pit();
    pit.write(CONTROL_B, 1, 1);
    program(&mut pit, 2, 0x30, 0xffff);
    let high_byte_at = |pit: &mut Pit, now| {
        pit.advance(Nanos(now));
        pit.read(2, 1);
        pit.read(2, 1)
    };
    let mut now = 0;
    let mut changed_at = Vec::new();
    for expected in [0xfe, 0xfd, 0xf0] {
        while high_byte_at(&mut pit, now) != expected {
            now += 1000;
        }
        changed_at.push(now);
    }
    let measured = changed_at[2] - changed_at[1];
    let exact = 13 * 256 * 1_000_000_000 / PIT_HZ;
    assert!(
        measured.abs_diff(exact) < exact / 1000,
        "{measured} {exact}"
    );
}

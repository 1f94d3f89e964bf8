//! What Linux's rtc_cmos driver and boot code rely on.

use super::*;
use crate::irq::IrqLines;

const SECOND: u64 = NANOS_PER_SECOND;
/// 2024-02-29 13:59:58 UTC, a Thursday.
const WALL: u64 = 1_709_215_198 * SECOND;

fn rtc(ram: RamSizes) -> (Rtc, IrqLines) {
    let lines = IrqLines::default();
    let clock = GuestClock {
        tsc_khz: 1,
        tsc_at_start: 0,
        wall_at_start_ns: WALL,
    };
    (Rtc::new(Nanos(0), clock, ram, lines.line(8)), lines)
}

fn get(rtc: &mut Rtc, register: usize) -> u8 {
    rtc.write(0, 1, register as u32);
    rtc.read(1, 1) as u8
}

fn set(rtc: &mut Rtc, register: usize, value: u8) {
    rtc.write(0, 1, register as u32);
    rtc.write(1, 1, u32::from(value));
}

const SMALL: RamSizes = RamSizes {
    low_bytes: 512 << 20,
    high_bytes: 0,
};

fn shown(rtc: &mut Rtc) -> [u8; 8] {
    [
        CENTURY_AT, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS,
    ]
    .map(|register| get(rtc, register))
}

#[test]
fn the_clock_shows_the_host_s_time() {
    let check = |b, after_ns, expected| {
        let (mut rtc, _lines) = rtc(SMALL);
        set(&mut rtc, B, b);
        rtc.advance(Nanos(after_ns));
        assert_eq!(
            shown(&mut rtc),
            expected,
            "register B {b:#x} after {after_ns}"
        );
    };
    check(
        B_24_HOURS,
        0,
        [0x20, 0x24, 0x02, 0x29, 0x05, 0x13, 0x59, 0x58],
    );
    check(
        B_24_HOURS,
        2 * SECOND,
        [0x20, 0x24, 0x02, 0x29, 0x05, 0x14, 0x00, 0x00],
    );
    check(B_24_HOURS | B_BINARY, 0, [20, 24, 2, 29, 5, 13, 59, 58]);
    check(0, 0, [0x20, 0x24, 0x02, 0x29, 0x05, 0x81, 0x59, 0x58]);
    check(B_BINARY, 0, [20, 24, 2, 29, 5, 0x81, 59, 58]);
    check(
        B_24_HOURS,
        36_002 * SECOND,
        [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00],
    );
}

#[test]
fn a_time_that_was_set_goes_on_from_there() {
    let (mut rtc, _lines) = rtc(SMALL);
    set(&mut rtc, B, B_24_HOURS | B_SET);
    let values = [
        (YEAR, 0x99),
        (MONTH, 0x12),
        (DAY, 0x31),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ];
    values
        .iter()
        .for_each(|&(register, value)| set(&mut rtc, register, value));
    rtc.advance(Nanos(5 * SECOND));
    assert_eq!(
        get(&mut rtc, SECONDS),
        0x59,
        "the clock stands while it is set"
    );
    set(&mut rtc, B, B_24_HOURS);
    rtc.advance(Nanos(6 * SECOND));
    assert_eq!(
        shown(&mut rtc),
        [0x21, 0x00, 0x01, 0x01, 0x06, 0x00, 0x00, 0x00]
    );
}

#[test]
fn the_update_flag_warns_before_the_second_ends() {
    let (mut rtc, _lines) = rtc(SMALL);
    let mut check = |at, expected| {
        rtc.advance(Nanos(at));
        assert_eq!(get(&mut rtc, A), expected, "{at}");
    };
    check(0, 0x26);
    check(SECOND - UPDATE_WARNING_NS - 1, 0x26);
    check(SECOND - 1, 0xa6);
    check(SECOND, 0x26);
}

#[test]
fn interrupts_come_when_enabled_and_stay_until_read() {
    let check = |name, b, alarm: [u8; 3], expected_at: Option<u64>, expected_c| {
        let (mut rtc, lines) = rtc(SMALL);
        let registers = [HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM];
        registers
            .iter()
            .zip(alarm)
            .for_each(|(&register, value)| set(&mut rtc, register, value));
        get(&mut rtc, C);
        set(&mut rtc, B, B_24_HOURS | b);
        let mut at = None;
        while let Some(next) = rtc.deadline().filter(|next| *next <= Nanos(10 * SECOND)) {
            rtc.advance(next);
            if lines.take_edges().high != 0 {
                at = Some(next.0);
                break;
            }
        }
        assert_eq!(at, expected_at, "{name}");
        assert_eq!(get(&mut rtc, C), expected_c, "{name}");
        assert_eq!(
            lines.take_edges().high,
            0,
            "{name}: reading C lowers the line"
        );
    };
    // The periodic flag shows whether it interrupts or not.
    check("none", 0, [ANY; 3], None, 0);
    check("update ended", B_UPDATED, [0; 3], Some(SECOND), 0xd0);
    check("alarm", B_ALARM, [0x14, 0x00, 0x03], Some(5 * SECOND), 0xf0);
    check("alarm every second", B_ALARM, [ANY; 3], Some(SECOND), 0xf0);
    check("periodic", B_PERIODIC, [0; 3], Some(976_562), 0xc0);
}

#[test]
fn firmware_s_memory_sizes_are_there() {
    let check = |low_bytes, high_bytes, expected: [(usize, u8); 4]| {
        let (mut rtc, _lines) = rtc(RamSizes {
            low_bytes,
            high_bytes,
        });
        expected
            .iter()
            .for_each(|&(at, value)| assert_eq!(get(&mut rtc, at), value, "{at:#x}"));
    };
    check(
        32 << 20,
        0,
        [(0x30, 0x00), (0x31, 0x7c), (0x34, 0x00), (0x35, 0x01)],
    );
    check(
        3 << 30,
        1 << 32,
        [(0x31, 0xfc), (0x35, 0xbf), (0x5b, 0x00), (0x5c, 0x00)],
    );
    check(
        3 << 30,
        1 << 32,
        [(0x34, 0x00), (0x5d, 0x01), (0x15, 0x80), (0x16, 0x02)],
    );
    check(0, 0, [(0x30, 0), (0x31, 0), (0x34, 0), (0x35, 0)]);
}

#[test]
fn the_battery_is_good_and_register_c_and_d_cannot_be_written() {
    let (mut rtc, _lines) = rtc(SMALL);
    set(&mut rtc, C, 0xff);
    set(&mut rtc, D, 0);
    assert_eq!((get(&mut rtc, C), get(&mut rtc, D)), (0, 0x80));
}

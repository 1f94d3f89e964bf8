//! What kernels rely on in the 8259 pair.

use super::*;

/// Initialised as Linux does: vectors 0x30 and 0x38, nothing masked.
fn linux() -> PicPair {
    let mut pics = PicPair::default();
    let writes = [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 2),
        (0xa1, 1),
    ];
    writes.iter().for_each(|&(at, value)| pics.write(at, value));
    pics
}

/// Runs a script: `+3` and `-3` change lines, `20=65` writes a port, `?31` expects a vector, `?-` none,
/// `20:08` expects a read.
fn check(name: &str, script: &str) {
    let mut pics = linux();
    let hex = |text: &str| u16::from_str_radix(text, 16).unwrap();
    for word in script.split_whitespace() {
        if let Some(line) = word.strip_prefix('+') {
            pics.set_line(line.parse().unwrap(), true);
        } else if let Some(line) = word.strip_prefix('-') {
            pics.set_line(line.parse().unwrap(), false);
        } else if let Some((at, value)) = word.split_once('=') {
            pics.write(hex(at), hex(value) as u8);
        } else if let Some((at, value)) = word.split_once(':') {
            assert_eq!(pics.read(hex(at)), hex(value) as u8, "{name}: {word}");
        } else {
            let seen = pics
                .has_interrupt()
                .then(|| format!("?{:02x}", pics.acknowledge()));
            assert_eq!(seen.as_deref().unwrap_or("?-"), word, "{name}");
        }
    }
}

#[test]
fn interrupts_come_by_priority_and_end_with_eoi() {
    check("one", "+4 ?34 ?- -4 20=20 ?-");
    check("an edge is remembered after the line fell", "+4 -4 ?34");
    check(
        "a higher one interrupts a lower",
        "+4 ?34 +1 ?31 ?- 20=20 20=20 ?-",
    );
    check("a lower one waits for the end", "+1 ?31 +4 ?- 20=20 ?34");
    check(
        "a second edge while in service",
        "+4 ?34 -4 +4 ?- 20=20 ?34",
    );
    check("specific end", "+1 ?31 +4 20=61 ?34");
}

#[test]
fn the_second_chip_comes_through_input_2() {
    check("rtc", "+8 ?38 ?- a0=20 20=20 ?-");
    check(
        "two after each other",
        "+8 +12 ?38 ?- a0=20 20=20 ?3c a0=20 20=20 ?-",
    );
    check(
        "two, second one asked for while the first is in service",
        "+12 ?3c +8 ?- a0=20 20=20 ?38",
    );
    check("above input 3", "+3 +8 ?38 20=20 ?33");
    check(
        "linux acknowledges with specific ends",
        "+8 ?38 a0=60 20=62 ?- -8 +8 ?38",
    );
}

#[test]
fn masks_hold_interrupts_back() {
    check("masked", "21=10 +4 ?- 21=00 ?34");
    check("mask reads back", "21=fb 21:fb a1=5a a1:5a");
    check("second chip masked", "a1=ff +8 ?- a1=00 ?38");
}

#[test]
fn level_inputs_interrupt_until_they_fall() {
    check("level", "4d1=02 +9 ?39 a0=20 20=20 ?39 -9 a0=20 20=20 ?-");
    check("a level that fell is forgotten", "4d1=02 +9 -9 ?-");
    check(
        "trigger modes that cannot change",
        "4d0=ff 4d0:f8 4d1=ff 4d1:de",
    );
}

#[test]
fn registers_can_be_read() {
    check("request register", "21=ff +4 20=0a 20:10");
    check("service register", "+4 ?34 20=0b 20:10");
    check("poll", "+4 20=0c 20:84 20=0b 20:10");
    check("poll without a request", "20=0c 20:00 20:00");
}

#[test]
fn rotation_and_special_modes() {
    check("rotate on end", "+3 ?33 20=a0 +3 -3 +3 +4 ?34");
    check("set priority", "20=c3 +3 +4 ?34 20=20 ?33");
    check("auto end", "20=11 21=30 21=04 21=03 +3 ?33 +5 ?35");
    check(
        "special mask lets lower ones through",
        "+1 ?31 20=68 21=02 +4 ?34",
    );
}

#[test]
fn a_request_that_went_away_is_input_7() {
    let mut pics = linux();
    assert_eq!(pics.acknowledge(), 0x37);
}

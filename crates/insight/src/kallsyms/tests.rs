//! Tables as scripts/kallsyms.c of each time writes them, and what is found in them.

use super::find::tests::table as tokens;
use super::*;

const START: u64 = 0xffff_ffff_8100_0000;
/// Where the banner is, from the beginning of the image.
const BANNER_AT: usize = 0x40;
const COUNT: usize = 900;

/// How a kernel writes its tables.
#[derive(Clone, Copy, Debug)]
struct Style {
    form: AddressForm,
    /// Bytes of a marker: 8 until 4.19.
    marker: usize,
    /// Names of 128 letters and more, since 6.1.
    has_long_names: bool,
    /// Three bytes per symbol between markers and tokens, since 6.2.
    has_order: bool,
    /// Addresses behind the tokens, since 6.4.
    addresses_last: bool,
}

const OLD: Style = Style {
    form: AddressForm::AbsolutePerCpu,
    marker: 4,
    has_long_names: false,
    has_order: false,
    addresses_last: false,
};

/// Symbols in ascending order: a few that matter, and others.
fn name(index: usize, style: Style) -> String {
    match index {
        0 => "Acpu_offset".to_owned(),
        1 => "T_text".to_owned(),
        2 => "Dlinux_banner".to_owned(),
        3 if style.has_long_names => format!("t{}", "long_".repeat(40)),
        _ => format!("tname_{index}_of_a_function"),
    }
}

/// Address of each, and whether it moves with the image.
fn address(index: usize, style: Style) -> (u64, bool) {
    match index {
        0 if style.form == AddressForm::AbsolutePerCpu => (0x1f000, false),
        0 | 1 => (START, true),
        2 => (START + BANNER_AT as u64, true),
        _ => (START + 0x100 + index as u64 * 16, true),
    }
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn addresses(bytes: &mut Vec<u8>, style: Style) {
    align(bytes, 8);
    for index in 0..COUNT {
        let (address, is_relative) = address(index, style);
        match style.form {
            AddressForm::Absolute => bytes.extend(address.to_le_bytes()),
            AddressForm::AbsolutePerCpu if is_relative => {
                bytes.extend((-1 - (address - START) as i32).to_le_bytes());
            }
            AddressForm::AbsolutePerCpu => bytes.extend((address as i32).to_le_bytes()),
            AddressForm::Relative => bytes.extend(((address - START) as u32).to_le_bytes()),
            AddressForm::SelfRelative => {
                let here = START + bytes.len() as u64;
                bytes.extend((address.wrapping_sub(here) as u32).to_le_bytes());
            }
        }
    }
    align(bytes, 8);
    if matches!(
        style.form,
        AddressForm::AbsolutePerCpu | AddressForm::Relative
    ) {
        bytes.extend(START.to_le_bytes());
    }
}

fn image(style: Style) -> Vec<u8> {
    let mut bytes = vec![0; 0x80];
    bytes[BANNER_AT..BANNER_AT + 14].copy_from_slice(b"Linux version ");
    // Other things lie before: numbers that are no markers.
    bytes.extend((0..64_u32).flat_map(|number| (number * 77).to_le_bytes()));
    if !style.addresses_last {
        addresses(&mut bytes, style);
    }
    align(&mut bytes, 8);
    bytes.extend((COUNT as u64).to_le_bytes());
    let names = bytes.len();
    let mut markers = Vec::new();
    for index in 0..COUNT {
        if index % 256 == 0 {
            markers.push(bytes.len() - names);
        }
        let name = name(index, style);
        match name.len() {
            len @ 0..0x80 => bytes.push(len as u8),
            len => bytes.extend([len as u8 & 0x7f | 0x80, (len >> 7) as u8]),
        }
        bytes.extend(name.as_bytes());
    }
    align(&mut bytes, 8);
    for marker in markers {
        bytes.extend(marker.to_le_bytes().get(..style.marker).unwrap());
    }
    align(&mut bytes, 8);
    if style.has_order {
        bytes.extend((0..COUNT).flat_map(|index| [0, (index >> 8) as u8, index as u8]));
        align(&mut bytes, 8);
    }
    bytes.extend(tokens());
    if style.addresses_last {
        addresses(&mut bytes, style);
    }
    bytes.extend([0; 64]);
    bytes
}

fn decoded(bytes: &[u8]) -> Option<Decoded> {
    decode(Image {
        bytes,
        start: Some(Gva(START)),
    })
}

#[test]
fn every_form_that_kernels_have_had_is_read_alike() {
    use AddressForm::{Absolute, Relative, SelfRelative};
    let check = |style: Style| {
        let found = decoded(&image(style)).unwrap_or_else(|| panic!("{style:?}"));
        assert_eq!(
            (found.form, found.symbols.len()),
            (style.form, COUNT),
            "{style:?}"
        );
        for (index, symbol) in found.symbols.iter().enumerate() {
            let name = name(index, style);
            let (kind, name) = name.split_at(1);
            let seen = (symbol.kind, symbol.name.as_slice());
            assert_eq!(
                seen,
                (kind.as_bytes()[0], name.as_bytes()),
                "{style:?} {index}"
            );
            let seen = (symbol.address, symbol.is_relative);
            assert_eq!(seen, address(index, style), "{style:?} {index}");
        }
        assert_eq!(found.address("_text"), Some(Gva(START)));
        assert_eq!(found.address("nothing"), None);
    };
    // 4.6, 4.20, 6.1, 6.1 with the order of names, 6.4, 6.15, 7.0.
    check(Style { marker: 8, ..OLD });
    check(Style {
        form: Absolute,
        marker: 8,
        ..OLD
    });
    check(OLD);
    check(Style {
        form: Absolute,
        ..OLD
    });
    check(Style {
        form: Relative,
        ..OLD
    });
    let since_6_1 = Style {
        has_long_names: true,
        ..OLD
    };
    check(since_6_1);
    check(Style {
        has_order: true,
        ..since_6_1
    });
    let since_6_4 = Style {
        has_order: true,
        addresses_last: true,
        ..since_6_1
    };
    check(since_6_4);
    check(Style {
        form: Relative,
        ..since_6_4
    });
    check(Style {
        form: SelfRelative,
        ..since_6_4
    });
}

#[test]
fn tables_that_do_not_prove_themselves_are_none() {
    let good = image(OLD);
    let check = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert!(decoded(&bytes).is_none(), "{name}");
    };
    assert!(decoded(&good).is_some());
    check("no banner where the symbol leads", &|bytes| {
        bytes[BANNER_AT] = b'l'
    });
    check("a name longer than its length", &|bytes| {
        let at = memchr::memmem::find(bytes, b"tname_300_").unwrap();
        bytes[at - 1] += 1;
    });
    check("a token that the index does not lead to", &|bytes| {
        let at = memchr::memmem::find(bytes, b"x7_\0").unwrap();
        bytes[at + 2] = 0;
    });
    check("another base", &|bytes| {
        let at = memchr::memmem::find(bytes, &START.to_le_bytes()).unwrap();
        bytes[at + 4] ^= 1;
    });
    let nowhere = Image {
        bytes: &good,
        start: None,
    };
    assert!(decode(nowhere).is_none(), "nobody knows where the image is");
    assert!(decoded(&good[..good.len() / 2]).is_none());
    assert!(decoded(&[]).is_none());
}

#[test]
fn damaged_tables_cost_no_more_than_whole_ones_and_never_panic() {
    let good = image(Style {
        has_long_names: true,
        has_order: true,
        addresses_last: true,
        ..OLD
    });
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % limit
    };
    let mut read = 0;
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
        }
        read += usize::from(decoded(&bytes).is_some());
    }
    assert!((1..300).contains(&read), "{read} of 300 were still read");
}

//! Which of two names is the newer one, as RPM compares versions (rpmvercmp), which boot loaders sort entries by.

use std::cmp::Ordering;

/// Compares two versions: parts of digits as numbers, parts of letters as texts, `~` before everything, `^` behind the end.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    let mut one = one.as_bytes();
    let mut other = other.as_bytes();
    loop {
        one = skip(one);
        other = skip(other);
        for (mark, order) in [(b'~', Ordering::Less), (b'^', Ordering::Greater)] {
            let has = |text: &[u8]| text.first() == Some(&mark);
            match (has(one), has(other)) {
                (true, true) => {
                    one = &one[1..];
                    other = &other[1..];
                }
                (true, false) if mark == b'^' && !other.is_empty() => return Ordering::Less,
                (false, true) if mark == b'^' && !one.is_empty() => return Ordering::Greater,
                (true, false) => return order,
                (false, true) => return order.reverse(),
                (false, false) => {}
            }
        }
        let (Some(first), Some(second)) = (one.first(), other.first()) else {
            return one.len().cmp(&other.len());
        };
        if first.is_ascii_digit() != second.is_ascii_digit() {
            return first.is_ascii_digit().cmp(&second.is_ascii_digit());
        }
        let is_number = first.is_ascii_digit();
        let (part, rest) = split(one, is_number);
        let (other_part, other_rest) = split(other, is_number);
        let order = if is_number {
            let part = trim_zeros(part);
            let other_part = trim_zeros(other_part);
            part.len().cmp(&other_part.len()).then(part.cmp(other_part))
        } else {
            part.cmp(other_part)
        };
        if order != Ordering::Equal {
            return order;
        }
        one = rest;
        other = other_rest;
    }
}

/// Leaves out what separates parts.
fn skip(text: &[u8]) -> &[u8] {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'~' | b'^');
    let at = text.iter().position(is_part).unwrap_or(text.len());
    &text[at..]
}

fn split(text: &[u8], is_number: bool) -> (&[u8], &[u8]) {
    let is_in = |byte: &u8| byte.is_ascii_alphanumeric() && byte.is_ascii_digit() == is_number;
    let at = text.iter().position(|byte| !is_in(byte));
    text.split_at(at.unwrap_or(text.len()))
}

fn trim_zeros(number: &[u8]) -> &[u8] {
    let at = number.iter().position(|byte| *byte != b'0');
    &number[at.unwrap_or(number.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_as_rpm_does() {
        let check = |one, order, other| assert_eq!(compare(one, other), order, "{one} {other}");
        check("6.10.0", Ordering::Greater, "6.9.12");
        check("a-6.1.0-2", Ordering::Less, "a-6.1.0-10");
        check("1.0", Ordering::Equal, "1.0");
        check("1.0", Ordering::Less, "1.0.1");
        check("1.0~rc1", Ordering::Less, "1.0");
        check("1.0^git", Ordering::Greater, "1.0");
        check("1.0^git", Ordering::Less, "1.0.1");
        check("010", Ordering::Equal, "10");
        check("rescue", Ordering::Less, "1");
        check("", Ordering::Less, "a");
    }
}

//! A resolver that knows the names of one list (RFC 1035, 4).
//!
//! A guest whose names are a list gets no other answers: a resolver that asks others carries whatever a guest writes into
//! a name out of the host.

use std::net::Ipv4Addr;

use machine::AllowedName;

/// How long a guest may keep an answer, in seconds: the addresses stay for as long as the VM lives.
const KEEP_S: u32 = 60;

/// Header of every message.
const HEADER_BYTES: usize = 12;

/// Longest name as it is written.
const NAME_BYTES_MAX: usize = 255;

/// Types and classes of questions: an IPv4 address, an IPv6 address, anything, of the Internet.
const A: u16 = 1;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

/// Response codes.
const FINE: u8 = 0;
const NOT_UNDERSTOOD: u8 = 1;
const REFUSED: u8 = 5;

/// An answer, and the name that it was refused for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) message: Vec<u8>,
    pub(crate) refused: Option<String>,
}

/// Answers a question; `None` for what is none.
pub(crate) fn answer(message: &[u8], names: &[AllowedName]) -> Option<Answer> {
    let header = message.get(..HEADER_BYTES)?;
    // An answer, or more than one question: nobody asks so.
    let is_answer = header[2] & 0x80 != 0;
    let operation = header[2] >> 3 & 15;
    if is_answer {
        return None;
    }
    let question = question(&message[HEADER_BYTES..]);
    let Some((name, kind, class, len_bytes)) =
        question.filter(|_| operation == 0 && header[4..6] == [0, 1])
    else {
        return Some(Answer {
            message: reply(header, NOT_UNDERSTOOD, &[], &[]),
            refused: Some("a question that is none".to_owned()),
        });
    };
    let asked = &message[HEADER_BYTES..HEADER_BYTES + len_bytes];
    let known: Vec<&AllowedName> = names.iter().filter(|it| it.name == name).collect();
    let is_plain = class == INTERNET && [A, AAAA, ANY].contains(&kind);
    if known.is_empty() || !is_plain {
        return Some(Answer {
            message: reply(header, REFUSED, asked, &[]),
            refused: Some(name),
        });
    }
    let mut addresses: Vec<Ipv4Addr> = Vec::new();
    if kind != AAAA {
        addresses.extend(known.iter().flat_map(|it| &it.addresses));
        addresses.sort();
        addresses.dedup();
    }
    Some(Answer {
        message: reply(header, FINE, asked, &addresses),
        refused: None,
    })
}

/// The name, in small letters and with dots, its type and class, and how many bytes they take.
fn question(bytes: &[u8]) -> Option<(String, u16, u16, usize)> {
    let mut name = String::new();
    let mut at = 0;
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        // A pointer has nowhere to point to yet.
        if len > 63 || at + len > NAME_BYTES_MAX {
            return None;
        }
        let label = bytes.get(at..at + len)?;
        if !name.is_empty() {
            name.push('.');
        }
        // What no name of the list can have is told in a form that harms no terminal.
        name.extend(label.iter().map(|&byte| match byte {
            b'.' | 0..=b' ' | 0x7f.. => '?',
            byte => char::from(byte).to_ascii_lowercase(),
        }));
        at += len;
    }
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    Some((name, word(at)?, word(at + 2)?, at + 4))
}

fn reply(header: &[u8], code: u8, asked: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut message = header[..2].to_vec();
    // An answer to the same operation, with recursion if that was desired; it can be had.
    message.push(0x80 | header[2] & 0x79);
    message.push(0x80 | code);
    let count = |count: usize| (count as u16).to_be_bytes();
    message.extend(count(usize::from(!asked.is_empty())));
    message.extend(count(addresses.len()));
    message.extend([0; 4]);
    message.extend(asked);
    for address in addresses {
        // The name is that of the question, right behind the header.
        message.extend([0xc0, HEADER_BYTES as u8]);
        message.extend(A.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message.extend(KEEP_S.to_be_bytes());
        message.extend([0, 4]);
        message.extend(address.octets());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<AllowedName> {
        let named = |name: &str, addresses: &[&str]| AllowedName {
            name: name.to_owned(),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            port: None,
        };
        vec![
            named("deb.example.org", &["192.0.2.1", "192.0.2.2"]),
            named("deb.example.org", &["192.0.2.2"]),
            named("x", &["192.0.2.9"]),
        ]
    }

    /// A question as resolvers ask it.
    fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(label.len() as u8);
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    fn check(name: &str, kind: u16, expected: (u8, &[[u8; 4]]), refused: Option<&str>) {
        let asked = ask(name, kind);
        let got = answer(&asked, &names()).unwrap();
        assert_eq!(got.refused.as_deref(), refused, "{name}");
        assert_eq!(got.message[..4], [0x12, 0x34, 0x81, 0x80 | expected.0]);
        assert_eq!(got.message[12..asked.len()], asked[12..], "the question");
        let rest = got.message[asked.len()..].chunks(16);
        let addresses: Vec<[u8; 4]> = rest.map(|it| it[12..16].try_into().unwrap()).collect();
        assert_eq!(addresses, expected.1, "{name}");
        assert_eq!(usize::from(got.message[7]), addresses.len());
    }

    #[test]
    fn names_of_the_list_are_answered_and_no_others() {
        let both = [[192, 0, 2, 1], [192, 0, 2, 2]];
        check("deb.example.org", A, (FINE, &both), None);
        check("DEB.Example.org", A, (FINE, &both), None);
        check("deb.example.org", AAAA, (FINE, &[]), None);
        check("x", A, (FINE, &[[192, 0, 2, 9]]), None);
        check("example.org", A, (REFUSED, &[]), Some("example.org"));
        check("a.x", A, (REFUSED, &[]), Some("a.x"));
        check("x", 16, (REFUSED, &[]), Some("x"));
        check("", A, (REFUSED, &[]), Some(""));
        check("\u{1b}[2J.x", A, (REFUSED, &[]), Some("?[2j.x"));
    }

    #[test]
    fn what_is_no_question_gets_no_more_than_it_gives() {
        let whole = ask("deb.example.org", A);
        for len in 0..whole.len() {
            let got = answer(&whole[..len], &names());
            match got {
                None => assert!(len < HEADER_BYTES),
                Some(got) => assert_eq!(got.message[3] & 15, NOT_UNDERSTOOD, "{len}"),
            }
        }
        let mut answered = whole.clone();
        answered[2] |= 0x80;
        assert_eq!(answer(&answered, &names()), None);
        // A label that points at itself, and one that is too long.
        for label in [[0xc0, 12], [64, 1]] {
            let odd = [&whole[..12], &label, &[0, 0, 1, 0, 1]].concat();
            assert_eq!(
                answer(&odd, &names()).unwrap().message[3] & 15,
                NOT_UNDERSTOOD
            );
        }
        let endless = [&whole[..12], &[1, b'a'].repeat(200), &[0, 0, 1, 0, 1]].concat();
        assert_eq!(
            answer(&endless, &names()).unwrap().message[3] & 15,
            NOT_UNDERSTOOD
        );
    }
}

//! Where a guest on the user network may send to.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::text::{BadText, Text, bad, written_as_text};

/// Longest host name (RFC 1035, 2.3.4, without the last dot), and longest part of one.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Entries of one list.
const RULES_MAX: usize = 256;

const HELP: &str = "write `deny`, or `allow=` with addresses, networks and names, each with a port if only that is meant: \
                    allow=192.0.2.7:443,10.1.0.0/16,deb.debian.org:80";

/// Where a guest may send to: only what is listed, or nowhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EgressSpec {
    /// What is listed; nothing is nowhere.
    pub rules: Vec<EgressRule>,
}

/// One entry: a place, and a port if only that is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EgressRule {
    /// Where.
    pub to: EgressPlace,
    /// TCP and UDP port; everything that goes over IP if there is none.
    pub port: Option<u16>,
}

/// A place in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EgressPlace {
    /// A network: an address, and how many of its bits count.
    Network(Ipv4Addr, u8),
    /// A name, in small letters, that is looked up when the VM starts.
    Name(String),
}

impl fmt::Display for EgressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return f.write_str("deny");
        }
        let rules: Vec<String> = self.rules.iter().map(EgressRule::to_string).collect();
        write!(f, "allow={}", rules.join(","))
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            EgressPlace::Network(address, 32) => write!(f, "{address}")?,
            EgressPlace::Network(address, bits) => write!(f, "{address}/{bits}")?,
            EgressPlace::Name(name) => f.write_str(name)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl FromStr for EgressSpec {
    type Err = BadText;

    fn from_str(text: &str) -> Result<EgressSpec, BadText> {
        if text == "deny" {
            return Ok(EgressSpec::default());
        }
        let Some(list) = text.strip_prefix("allow=") else {
            let shown = text.escape_debug();
            return bad(format!("\"{shown}\" is no list of places"), HELP);
        };
        let rules = list.split(',').map(str::parse);
        let rules = rules.collect::<Result<Vec<EgressRule>, BadText>>()?;
        if rules.len() > RULES_MAX {
            return bad(
                format!("{} places are more than {RULES_MAX}", rules.len()),
                "put neighbouring addresses together as networks",
            );
        }
        Ok(EgressSpec { rules })
    }
}

impl FromStr for EgressRule {
    type Err = BadText;

    fn from_str(text: &str) -> Result<EgressRule, BadText> {
        let shown = text.escape_debug();
        if text.matches(':').count() > 1 || text.contains('[') {
            let what = format!("\"{shown}\": the user network has no IPv6");
            return bad(what, HELP);
        }
        let (place, port) = match text.split_once(':') {
            None => (text, None),
            Some((place, port)) => {
                let number = port.parse().ok().filter(|number| *number > 0);
                if number.is_none() || port.starts_with('+') {
                    let port = port.escape_debug();
                    return bad(format!("\"{shown}\": \"{port}\" is no port"), HELP);
                }
                (place, number)
            }
        };
        let to = match place.split_once('/') {
            Some((address, bits)) => network(address, bits, text)?,
            None => match place.parse() {
                Ok(address) => EgressPlace::Network(address, 32),
                Err(_) => EgressPlace::Name(name(place, text)?),
            },
        };
        Ok(EgressRule { to, port })
    }
}

fn network(address: &str, bits: &str, text: &str) -> Result<EgressPlace, BadText> {
    let shown = text.escape_debug();
    let address: Result<Ipv4Addr, _> = address.parse();
    let bits = bits.parse().ok().filter(|bits: &u8| *bits <= 32);
    let (Ok(address), Some(bits)) = (address, bits) else {
        return bad(format!("\"{shown}\" is no network"), HELP);
    };
    let network = Ipv4Addr::from_bits(address.to_bits() & mask(bits));
    if network != address {
        return bad(
            format!("\"{shown}\" is an address within a network"),
            format!("write {network}/{bits} for the network, or {address} for the address alone"),
        );
    }
    Ok(EgressPlace::Network(address, bits))
}

/// The bits that count.
fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

impl EgressPlace {
    /// Whether a network has this address; of a name nothing is known here.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        match self {
            EgressPlace::Network(network, bits) => {
                address.to_bits() & mask(*bits) == network.to_bits()
            }
            EgressPlace::Name(_) => false,
        }
    }
}

/// A host name, in small letters (RFC 1123, 2.1, and underscores, which services have).
fn name(place: &str, text: &str) -> Result<String, BadText> {
    let name = place.strip_suffix('.').unwrap_or(place);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_number = name
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_number || name.len() > NAME_BYTES_MAX || !name.split('.').all(is_label) {
        let shown = text.escape_debug();
        return bad(
            format!("\"{shown}\" is neither an address nor a name"),
            HELP,
        );
    }
    Ok(name.to_ascii_lowercase())
}

impl Text for EgressSpec {
    const NAME: &'static str = "Egress";
    const EXAMPLES: &'static [&'static str] =
        &["deny", "allow=192.0.2.0/24:443", "allow=deb.debian.org:80"];
}

written_as_text!(EgressSpec);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<EgressSpec>(), expected) {
            (Ok(spec), Ok(printed)) => {
                assert_eq!(spec.to_string(), printed, "{text}");
                assert_eq!(printed.parse(), Ok(spec), "what is printed is read");
            }
            (Err(error), Err(expected)) => {
                assert!(error.what.contains(expected), "{text}: {}", error.what);
            }
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn a_list_is_read_as_it_is_printed() {
        check("deny", Ok("deny"));
        let all = "allow=192.0.2.7,192.0.2.0/24:443,0.0.0.0/0:53,deb.debian.org:80,intern";
        check(all, Ok(all));
        check("allow=Deb.Debian.ORG.", Ok("allow=deb.debian.org"));
        check("allow=10.0.0.1/32", Ok("allow=10.0.0.1"));
    }

    #[test]
    fn what_is_no_list_is_explained() {
        check("", Err("no list of places"));
        check("allow", Err("no list of places"));
        check("allow=", Err("neither an address nor a name"));
        check("allow=a,,b", Err("neither an address nor a name"));
        check("allow=10.0.0.1/8", Err("an address within a network"));
        check("allow=10.0.0.0/33", Err("no network"));
        check("allow=10.0.0.256", Err("neither an address nor a name"));
        check("allow=host:0", Err("no port"));
        check("allow=host:65536", Err("no port"));
        check("allow=host:+80", Err("no port"));
        check("allow=2001:db8::1", Err("no IPv6"));
        check("allow=[2001:db8::1]:80", Err("no IPv6"));
        check("allow=-host", Err("neither an address nor a name"));
        check("allow=ho st", Err("neither an address nor a name"));
        check(
            &format!("allow={}", "x".repeat(64)),
            Err("neither an address nor a name"),
        );
        let many = vec!["10.0.0.1"; 257].join(",");
        check(&format!("allow={many}"), Err("are more than 256"));
    }

    #[test]
    fn a_network_has_its_addresses() {
        let has = |text: &str, address: &str| {
            let rule: EgressRule = text.parse().unwrap();
            rule.to.has(address.parse().unwrap())
        };
        assert!(has("10.1.0.0/16", "10.1.255.1") && !has("10.1.0.0/16", "10.2.0.1"));
        assert!(has("10.1.2.3", "10.1.2.3") && !has("10.1.2.3", "10.1.2.4"));
        assert!(has("0.0.0.0/0", "255.255.255.255") && !has("name", "10.1.2.3"));
    }
}

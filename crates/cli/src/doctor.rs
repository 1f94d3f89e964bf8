//! `mother doctor`: what works on this host, and why the rest does not.

use std::fmt::Write;

use images::Cache;
use machine::{EngineFinding, TscStability as Stability};

use crate::failure::{ANSWER_IS_NO, Failure};
use crate::output::say;

/// Prints the findings; the exit status says whether any engine works.
pub fn run() -> Result<u8, Failure> {
    let findings = machine::findings();
    say(&engines(&findings))?;
    say(&time(machine::tsc_stability()))?;
    say(&paging(machine::paging_finding()))?;
    say(&default_guest(
        Cache::of_user().ok().as_ref(),
        images::has_apt(),
    ))?;
    Ok(if findings.iter().any(|finding| finding.usable) {
        0
    } else {
        ANSWER_IS_NO
    })
}

fn engines(findings: &[EngineFinding]) -> String {
    let mut text = String::from("engines\n");
    for finding in findings {
        let answer = if finding.usable {
            "works"
        } else {
            "does not work"
        };
        let _ = writeln!(
            text,
            "  {:<5} {answer}: {}",
            finding.kind.to_string(),
            finding.why
        );
        if let Some(help) = &finding.help {
            let _ = writeln!(text, "        help: {help}");
        }
    }
    let best = findings.iter().find(|finding| finding.usable);
    let auto = best.map_or("finds none".to_owned(), |finding| {
        format!("takes {}", finding.kind)
    });
    let _ = writeln!(text, "  auto  {auto}");
    text
}

fn time(stability: Stability) -> String {
    let (answer, help) = match stability {
        Stability::Stable => (
            "is stable: the host's kernel would keep its own time by it",
            "",
        ),
        Stability::Promised => (
            "should be stable: the processor promises it, and the kernel does not say",
            "",
        ),
        Stability::Unstable => (
            "is not stable: the host's kernel does not keep its time by it, so guests' clocks may jump or drift",
            "look into the kernel's log for what it says of the TSC; a host that is a VM needs one whose TSC is stable",
        ),
        Stability::Unknown => (
            "may not be stable: neither the processor nor the kernel says so",
            "",
        ),
    };
    let help = if help.is_empty() {
        String::new()
    } else {
        format!("        help: {help}\n")
    };
    format!("time\n  TSC   {answer}\n{help}")
}

fn paging((works, why, help): (bool, String, Option<String>)) -> String {
    let answer = if works { "works" } else { "does not work" };
    let help = help
        .map(|help| format!("        help: {help}\n"))
        .unwrap_or_default();
    format!("paging\n  limit {answer}: {why}\n{help}")
}

fn default_guest(cache: Option<&Cache>, has_apt: bool) -> String {
    let mut text = String::from("default guest\n");
    let apt = if has_apt { "is here" } else { "is not here" };
    let package = cache.and_then(Cache::kernel_package);
    match (&package, cache) {
        (Some(package), Some(cache)) => {
            let _ = writeln!(text, "  cache {} holds {package}", cache.folder().display());
        }
        (_, Some(cache)) => {
            let _ = writeln!(
                text,
                "  cache {} holds no guest yet",
                cache.folder().display()
            );
        }
        (_, None) => {
            text.push_str("  cache has no place: neither XDG_CACHE_HOME nor HOME is set\n")
        }
    }
    let _ = writeln!(text, "  apt   {apt}");
    let outlook = match (package, cache, has_apt) {
        (Some(_), ..) => "starts without a download",
        (None, Some(_), true) => "will be downloaded by the first `mother run`",
        _ => "cannot be had here; bring a guest of your own with `--kernel FILE --initrd FILE`",
    };
    let _ = writeln!(text, "  it    {outlook}");
    text
}

#[cfg(test)]
mod tests {
    use machine::EngineKind;

    use super::*;

    #[test]
    fn every_engine_has_a_line_and_auto_says_what_it_takes() {
        let finding = |kind, usable, help: Option<&str>| EngineFinding {
            kind,
            usable,
            why: "because".to_owned(),
            help: help.map(str::to_owned),
        };
        let both = [
            finding(EngineKind::Kvm, false, Some("load it")),
            finding(EngineKind::Soft, true, None),
        ];
        let expected = "engines\n  kvm   does not work: because\n        help: load it\n  soft  works: because\n  auto  takes soft\n";
        assert_eq!(engines(&both), expected);
        assert!(engines(&both[..1]).ends_with("  auto  finds none\n"));
    }

    #[test]
    fn a_tsc_that_guests_cannot_rely_on_is_named() {
        assert_eq!(
            time(Stability::Stable),
            "time\n  TSC   is stable: the host's kernel would keep its own time by it\n"
        );
        assert!(
            time(Stability::Unstable).contains("is not stable")
                && time(Stability::Unstable).contains("help: ")
        );
    }

    #[test]
    fn without_apt_and_cache_the_way_on_is_named() {
        assert!(default_guest(None, false).contains("--kernel FILE --initrd FILE"));
    }
}

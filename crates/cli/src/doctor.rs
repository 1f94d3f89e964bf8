//! `mother doctor`: what works on this host, and why the rest does not.

use std::fmt::Write;

use api::Jail;
use clap::Args;
use images::Cache;
use machine::{EngineFinding, PagingFinding, TscStability as Stability};
use runner::{Means, Trouble};
use serde_json::{Value, json};

use crate::failure::{ANSWER_IS_NO, Failure};
use crate::output::say;

/// `mother doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArguments {
    /// As JSON: an object
    #[arg(long)]
    json: bool,
}

/// Prints the findings; the exit status says whether any engine works.
pub fn run(arguments: &DoctorArguments) -> Result<u8, Failure> {
    let findings = machine::findings();
    let tsc = machine::tsc_stability();
    let limits = machine::paging_finding();
    let cache = Cache::of_user().ok();
    let has_apt = images::has_apt();
    let jail = runner::jail_here().map_err(Trouble::from)?;
    let weights = Means::here();
    if arguments.json {
        let cache = cache.as_ref();
        let value = value(&findings, tsc, &limits, &jail, weights, cache, has_apt);
        say(&format!("{value:#}\n"))?;
    } else {
        say(&engines(&findings))?;
        say(&time(tsc))?;
        say(&paging(&limits))?;
        say(&jailed(&jail))?;
        say(weighed(weights))?;
        say(&default_guest(cache.as_ref(), has_apt))?;
    }
    Ok(if findings.iter().any(|finding| finding.usable) {
        0
    } else {
        ANSWER_IS_NO
    })
}

/// Documented in docs/lifecycle.md.
fn value(
    engines: &[EngineFinding],
    tsc: Stability,
    limits: &PagingFinding,
    jail: &Jail,
    weights: Means,
    cache: Option<&Cache>,
    has_apt: bool,
) -> Value {
    let auto = engines.iter().find(|finding| finding.usable);
    let tsc = match tsc {
        Stability::Stable => "stable",
        Stability::Promised => "promised",
        Stability::Unstable => "unstable",
        Stability::Unknown => "unknown",
    };
    json!({
        "mother": env!("CARGO_PKG_VERSION"),
        "engines": engines,
        "auto": auto.map(|finding| finding.kind),
        "tsc": tsc,
        "paging": limits,
        "jail": jail,
        "cpu_weight": weights.word(),
        "default_guest": {
            "cache": cache.map(|cache| cache.folder().display().to_string()),
            "package": cache.and_then(Cache::kernel_package),
            "has_apt": has_apt,
        },
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

fn paging(finding: &PagingFinding) -> String {
    let PagingFinding {
        usable, why, help, ..
    } = finding;
    let answer = if *usable { "works" } else { "does not work" };
    let help = help
        .as_ref()
        .map(|help| format!("        help: {help}\n"))
        .unwrap_or_default();
    format!("paging\n  limit {answer}: {why}\n{help}")
}

/// What a VM's jail has here, and what would raise it.
fn jailed(jail: &Jail) -> String {
    let (is, help) = match jail.tier.as_str() {
        "namespaces" => ("namespaces: every wall that Mother knows", ""),
        "landlock" => (
            "landlock: no file can be opened and system calls are filtered, without namespaces",
            NAMESPACES_HELP,
        ),
        "seccomp" => (
            "seccomp: system calls are filtered, without namespaces and Landlock",
            NAMESPACES_HELP,
        ),
        _ => (
            "none: whoever breaks out of a guest has all that this user has",
            "run on a kernel with seccomp, outside of a container that takes it away",
        ),
    };
    let mut text = format!("jail\n  tier  {is}\n");
    for missing in &jail.missing {
        let _ = writeln!(text, "        missing: {missing}");
    }
    if !help.is_empty() {
        let _ = writeln!(text, "        help: {help}");
    }
    text
}

/// What `--cpu-weight` holds to here.
fn weighed(means: Means) -> &'static str {
    match means {
        Means::Cgroup => "CPU\n  share by cgroup: a VM has its weight against its neighbours\n",
        Means::Session => {
            "CPU\n  share by session: VMs are equals, a weight holds in steps of a quarter, and more than 100 is for root\n"
        }
        Means::Threads => {
            "CPU\n  share by thread: a VM with more threads that want to run gets more, and a weight can only be lowered\n        \
             help: start VMs in a cgroup of your own, as `systemd-run --user --scope -p Delegate=yes mother run ...` does\n"
        }
    }
}

/// What gives processes of ordinary users namespaces.
const NAMESPACES_HELP: &str = "allow user namespaces: the AppArmor profile that comes with this program, `apparmor/mother` (Ubuntu), \
`sysctl user.max_user_namespaces=10000` elsewhere; in a container, a \
filter that allows them";

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
    fn programs_find_every_finding_in_one_object() {
        let soft = EngineFinding {
            kind: EngineKind::Soft,
            usable: true,
            why: "because".to_owned(),
            help: None,
        };
        let limits = PagingFinding {
            usable: false,
            usable_on_kvm: false,
            why: "not for you".to_owned(),
            help: Some("be root".to_owned()),
        };
        let jail = Jail {
            tier: "landlock".to_owned(),
            landlock_abi: 3,
            missing: Vec::new(),
        };
        let value = value(
            &[soft],
            Stability::Promised,
            &limits,
            &jail,
            Means::Session,
            None,
            true,
        );
        let expected = json!({
            "mother": env!("CARGO_PKG_VERSION"),
            "engines": [{"kind": "soft", "usable": true, "why": "because", "help": null}],
            "auto": "soft",
            "tsc": "promised",
            "paging": {"usable": false, "usable_on_kvm": false, "why": "not for you", "help": "be root"},
            "jail": {"tier": "landlock", "landlock_abi": 3, "missing": []},
            "cpu_weight": "session",
            "default_guest": {"cache": null, "package": null, "has_apt": true},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn every_jail_is_told_with_what_would_raise_it() {
        let check = |tier: &str, has_help: bool| {
            let jail = Jail {
                tier: tier.to_owned(),
                landlock_abi: 0,
                missing: vec!["Landlock: not here".to_owned()],
            };
            let text = jailed(&jail);
            assert!(
                text.starts_with(&format!("jail\n  tier  {tier}: ")),
                "{text}"
            );
            assert!(text.contains("missing: Landlock: not here"), "{text}");
            assert_eq!(text.contains("help: "), has_help, "{text}");
        };
        check("namespaces", false);
        check("landlock", true);
        check("seccomp", true);
        check("none", true);
    }

    #[test]
    fn without_apt_and_cache_the_way_on_is_named() {
        assert!(default_guest(None, false).contains("--kernel FILE --initrd FILE"));
    }
}

//! Which engines can run here, why not, and which one a VM gets.
//!
//! Looking and judging are apart: [`look`] asks the host, [`judge`] turns what was seen into findings, so that every
//! kind of host is a line in a test.

use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;

/// What executes guest code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// Hardware virtualization through `/dev/kvm`.
    Kvm,
    /// Our own software CPU.
    Soft,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Kvm => "kvm",
            EngineKind::Soft => "soft",
        })
    }
}

/// What is known about one engine on this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineFinding {
    /// Which one.
    pub kind: EngineKind,
    /// Whether a VM can run on it.
    pub usable: bool,
    /// Why, as half a sentence that can follow the engine's name and a colon.
    pub why: String,
    /// What to do about it, if anything can be done.
    pub help: Option<String>,
}

/// The engine of a VM and the reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineChoice {
    /// The engine.
    pub kind: EngineKind,
    /// Why, in one line.
    pub why: String,
}

/// How `/dev/kvm` answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KvmNode {
    Opens,
    Absent,
    Denied,
    Fails,
}

/// Everything about the host that decides over engines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct HostFacts {
    kvm_node: KvmNode,
    /// CPUID 1 ECX bit 5 (SDM vol. 3, 24.6).
    has_vmx: bool,
    /// CPUID 0x8000_0001 ECX bit 2 (APM vol. 2, 15.4).
    has_svm: bool,
    /// Ring 3 may set GS base, which the software CPU lives on.
    has_fsgsbase: bool,
}

fn look() -> HostFacts {
    let kvm_node = match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => KvmNode::Opens,
        Err(error) if error.kind() == ErrorKind::NotFound => KvmNode::Absent,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => KvmNode::Denied,
        Err(_) => KvmNode::Fails,
    };
    HostFacts {
        kvm_node,
        has_vmx: host::cpu::cpuid(1, 0)[2] & 1 << 5 != 0,
        has_svm: host::cpu::cpuid(0x8000_0001, 0)[2] & 1 << 2 != 0,
        has_fsgsbase: host::cpu::has_user_fsgsbase(),
    }
}

fn judge_kvm(facts: HostFacts) -> EngineFinding {
    let extension = match (facts.has_vmx, facts.has_svm) {
        (true, _) => Some("vmx"),
        (_, true) => Some("svm"),
        _ => None,
    };
    let (why, help) = match (facts.kvm_node, extension) {
        (KvmNode::Opens, Some(extension)) => (
            format!("/dev/kvm opens and the CPU has {extension}, but our KVM engine is not built yet"),
            Some("use `--engine soft`, or `auto`, which takes it".to_owned()),
        ),
        (KvmNode::Opens, None) => (
            "/dev/kvm opens, but the CPU shows no vmx and no svm, so no guest can run on it".to_owned(),
            None,
        ),
        (KvmNode::Absent, None) => {
            ("there is no /dev/kvm, and the CPU shows no vmx and no svm".to_owned(), None)
        }
        (KvmNode::Absent, Some(extension)) => (
            format!("there is no /dev/kvm, although the CPU has {extension}"),
            Some(
                "load the kernel module kvm_intel or kvm_amd, or pass /dev/kvm into this container"
                    .to_owned(),
            ),
        ),
        (KvmNode::Denied, _) => (
            "permission to open /dev/kvm is denied".to_owned(),
            Some("add the user to the group that owns /dev/kvm".to_owned()),
        ),
        (KvmNode::Fails, _) => ("/dev/kvm exists but cannot be opened".to_owned(), None),
    };
    EngineFinding { kind: EngineKind::Kvm, usable: false, why, help }
}

fn judge_soft(facts: HostFacts) -> EngineFinding {
    let (why, help) = if facts.has_fsgsbase {
        ("needs nothing but an x86-64 CPU and a kernel that lets programs use FSGSBASE; both are here", None)
    } else {
        (
            "the host's kernel does not let programs use FSGSBASE, which the software CPU keeps its state behind",
            Some(
                "boot a Linux kernel from 5.9 on without `nofsgsbase`, on a CPU from 2013 or later"
                    .to_owned(),
            ),
        )
    };
    EngineFinding { kind: EngineKind::Soft, usable: facts.has_fsgsbase, why: why.to_owned(), help }
}

fn judge(facts: HostFacts) -> Vec<EngineFinding> {
    vec![judge_kvm(facts), judge_soft(facts)]
}

/// Every engine with whether and why it works on this host, best one first.
pub fn findings() -> Vec<EngineFinding> {
    judge(look())
}

/// Why no engine could be chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoEngine {
    pub(crate) what: String,
    pub(crate) help: String,
}

/// The engine that `wanted` (`auto`, `kvm` or `soft`) means on a host with these findings.
pub(crate) fn choose(wanted: &str, findings: &[EngineFinding]) -> Result<EngineChoice, NoEngine> {
    let find = |kind| findings.iter().find(|finding: &&EngineFinding| finding.kind == kind);
    let kind = match wanted {
        "auto" => return choose_best(findings),
        "kvm" => EngineKind::Kvm,
        "soft" => EngineKind::Soft,
        other => {
            return Err(NoEngine {
                what: format!("there is no engine \"{other}\""),
                help: "write auto, kvm or soft".to_owned(),
            });
        }
    };
    match find(kind) {
        Some(finding) if finding.usable => Ok(EngineChoice { kind, why: "asked for".to_owned() }),
        Some(finding) => Err(NoEngine {
            what: format!("the engine {kind} cannot be used: {}", finding.why),
            help: finding.help.clone().unwrap_or_else(|| "use `--engine auto`".to_owned()),
        }),
        None => Err(NoEngine {
            what: format!("nothing is known about the engine {kind}"),
            help: "use `--engine auto`".to_owned(),
        }),
    }
}

fn choose_best(findings: &[EngineFinding]) -> Result<EngineChoice, NoEngine> {
    if let Some(best) = findings.iter().find(|finding| finding.usable) {
        let passed_over = findings.iter().take_while(|finding| !finding.usable);
        let reasons: Vec<String> =
            passed_over.map(|other| format!("not {}: {}", other.kind, other.why)).collect();
        let why = if reasons.is_empty() { best.why.clone() } else { reasons.join("; ") };
        return Ok(EngineChoice { kind: best.kind, why });
    }
    let reasons: Vec<String> =
        findings.iter().map(|finding| format!("{}: {}", finding.kind, finding.why)).collect();
    Err(NoEngine {
        what: format!("no engine works on this host ({})", reasons.join("; ")),
        help: findings.iter().find_map(|finding| finding.help.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(kvm_node: KvmNode, has_vmx: bool, has_fsgsbase: bool) -> Vec<EngineFinding> {
        judge(HostFacts { kvm_node, has_vmx, has_svm: false, has_fsgsbase })
    }

    #[test]
    fn auto_says_why_it_passed_over_kvm() {
        let check = |findings: Vec<EngineFinding>, expected: &str| {
            let choice = choose("auto", &findings).unwrap();
            assert_eq!((choice.kind, choice.why.as_str()), (EngineKind::Soft, expected));
        };
        let no_vmx =
            "not kvm: /dev/kvm opens, but the CPU shows no vmx and no svm, so no guest can run on it";
        check(host(KvmNode::Opens, false, true), no_vmx);
        check(
            host(KvmNode::Opens, true, true),
            "not kvm: /dev/kvm opens and the CPU has vmx, but our KVM engine is not built yet",
        );
        check(
            host(KvmNode::Absent, false, true),
            "not kvm: there is no /dev/kvm, and the CPU shows no vmx and no svm",
        );
        check(host(KvmNode::Denied, true, true), "not kvm: permission to open /dev/kvm is denied");
    }

    #[test]
    fn an_engine_that_cannot_work_is_refused_with_the_reason() {
        let check = |wanted, findings: Vec<EngineFinding>, expected: &str| {
            assert_eq!(choose(wanted, &findings).unwrap_err().what, expected);
        };
        check("xen", host(KvmNode::Opens, true, true), "there is no engine \"xen\"");
        check(
            "kvm",
            host(KvmNode::Absent, true, true),
            "the engine kvm cannot be used: there is no /dev/kvm, although the CPU has vmx",
        );
        check(
            "soft",
            host(KvmNode::Absent, true, false),
            "the engine soft cannot be used: the host's kernel does not let programs use FSGSBASE, which the \
             software CPU keeps its state behind",
        );
        assert!(choose("auto", &host(KvmNode::Absent, true, false)).is_err());
    }
}

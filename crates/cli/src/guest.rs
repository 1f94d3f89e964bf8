//! What was typed as a spec, with the default guest filled in where nothing was said.

use std::io::{self, IsTerminal};
use std::path::Path;

use api::{
    AgentWish, Complaint, FolderSpec, MemorySize, NetSpec, PartialSpec, SpecErrors, VmName, VmSpec,
};
use images::{AppRequest, Cache, GuestCommand, Seed};
use machine::{HostFindings, VmPlan, console_word, plan};
use registry::When;
use runner::{Held, Reader, Trouble};

use crate::arguments::RunArguments;
use crate::failure::Failure;
use crate::progress;
use crate::seed;
use crate::standing::{bring_passt, gets_address, held};

/// What a Linux kernel needs to talk to the serial console.
pub const CONSOLE: &str = "console=ttyS0";

/// Where a program in a guest looks for others; busybox's come last.
const APP_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/.mother/bin";

/// Where the small guest looks for programs.
const SHELL_PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// Memory of a guest that is one program, beside its files.
const APP_MEMORY_MIB: u64 = 384;

/// The least that the kernel and a small program need beside the files.
const APP_MEMORY_MIN_MIB: u64 = 64;

/// Rows and columns of a terminal that does not say how large it is.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// Who uses the guest's shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A person at a terminal of this kind and size (rows and columns).
    Person {
        /// `TERM`.
        term: Option<String>,
        /// Rows and columns.
        size: Option<(u16, u16)>,
        /// Whether the person is there, and does not come back later.
        is_here: bool,
    },
    /// A pipe or a file of commands.
    Pipe,
}

impl User {
    /// The kind and size of the terminal that a program's three streams are to be: that of a person who has all of ours on one.
    pub fn terminal_of_program(&self) -> Option<(&str, (u16, u16))> {
        match self {
            User::Person {
                term,
                size,
                is_here: true,
            } if io::stdout().is_terminal() && io::stderr().is_terminal() => {
                let size = size.unwrap_or(USUAL_SIZE);
                Some((term.as_deref().unwrap_or("dumb"), size))
            }
            _ => None,
        }
    }
}

/// What was asked for, with nothing wrong in it that can be told before anything is fetched.
#[derive(Debug)]
pub struct Asked {
    /// The VM, as it was written.
    pub spec: VmSpec,
    /// What this host has for it, looked at once.
    pub host: HostFindings,
    /// Whether the network was asked for, and is not the one that images have anyway.
    pub is_network_asked: bool,
    /// Whether the kernel of a program's guest shall be heard.
    pub is_kernel_loud: bool,
    /// When a registry is asked.
    pub pull: When,
    /// What its cloud-init is told.
    pub seed: Option<Seed>,
}

/// A checked plan, and whether the default initrd is in it.
#[derive(Debug)]
pub struct Planned {
    /// What will be built.
    pub plan: VmPlan,
    /// What the plan is of.
    pub given: VmSpec,
    /// Whether the guest starts in our own initrd.
    pub is_default: bool,
}

/// A plan for one program as the guest.
#[derive(Debug)]
pub struct PlannedApp {
    /// What will be built.
    pub plan: VmPlan,
    /// What the plan is of.
    pub given: VmSpec,
    /// Its initrd.
    pub held: Held,
}

/// Checks all that was written, before anything is fetched: each of its parts, that they go together, and whether this
/// host has what they need.
pub fn check(
    mut written: PartialSpec,
    arguments: &RunArguments,
    user: &User,
) -> Result<Asked, Failure> {
    let spec = &mut written.spec;
    let is_network_asked = spec.net.is_some() || !spec.forwards.is_empty();
    // A bad network is none that was asked for, and complained of already.
    let starts_disk = spec.disks.iter().any(|disk| disk.boot);
    if (spec.image.is_some() || starts_disk)
        && !written.complaints.iter().any(|it| it.key() == "net")
    {
        spec.net.get_or_insert(NetSpec::User {
            reaches_host: false,
        });
    }
    let is_command = is_program(&written.spec, user, arguments.detach);
    written
        .complaints
        .extend(misfits(&written.spec, is_command));
    let report = arguments.report.as_deref();
    written.complaints.extend(report.and_then(bad_report));
    let seed = seed::read(&written.spec, &mut written.complaints);
    let host = HostFindings::for_spec(&written.spec);
    machine::check(&written, &host)?;
    Ok(Asked {
        seed,
        spec: written.spec,
        host,
        is_network_asked,
        is_kernel_loud: arguments.kernel_log,
        pull: arguments.pull.into(),
    })
}

/// Parts that are right and do not go together.
fn misfits(spec: &VmSpec, is_command: bool) -> Vec<Complaint> {
    let is_app = spec.app.is_some();
    let is_image = spec.image.is_some();
    let is_program = is_app || is_image || is_command;
    let no_program = (
        "there is no program that it could be for",
        "name one with `--app`, or a container image",
    );
    let boots = spec.disks.iter().filter(|disk| disk.boot).count();
    let other_start = (
        "a disk says `boot`, and something else is started",
        "leave out this, or `boot`",
    );
    let not_with_app = (
        "a program of this host brings its own kernel and files",
        "leave out this or `--app`",
    );
    let rules = [
        (
            "arguments",
            !spec.words.is_empty() && !is_program,
            no_program,
        ),
        (
            "env",
            !spec.environment.is_empty() && !is_program,
            no_program,
        ),
        ("workdir", spec.workdir.is_some() && !is_program, no_program),
        (
            "include",
            !spec.include.is_empty() && !is_app,
            (
                "there is no program that it could be for",
                "name one with `--app`",
            ),
        ),
        (
            "keep",
            spec.keep.is_some() && !is_image,
            ("there is no image that could be kept", "name an IMAGE"),
        ),
        ("image", is_app && is_image, not_with_app),
        ("kernel", is_app && spec.kernel.is_some(), not_with_app),
        ("initrd", is_app && spec.initrd.is_some(), not_with_app),
        ("cmdline", is_app && spec.cmdline.is_some(), not_with_app),
        ("debug-exit", is_app && spec.debug_exit, not_with_app),
        ("kernel", boots > 0 && spec.kernel.is_some(), other_start),
        ("app", boots > 0 && is_app, other_start),
        (
            "disk",
            boots > 1,
            (
                "a VM starts from one disk, and several say `boot`",
                "leave it at one of them",
            ),
        ),
        (
            "module",
            !spec.modules.is_empty() && spec.kernel.is_none(),
            (
                "the default kernel takes no modules",
                "name a kernel with `--kernel`",
            ),
        ),
    ];
    let wrong = rules.into_iter().filter(|(_, is_wrong, _)| *is_wrong);
    let told = wrong.map(|(field, _, (what, help))| complaint(field, what, help));
    told.chain(no_cloud_init(spec)).collect()
}

/// What to do about words for cloud-init where there is none.
pub const NO_CLOUD_INIT_HELP: &str = "name a disk that has it, such as ./cloud.qcow2; a guest that Mother makes is called as `--name` says";

/// Complains about words for cloud-init in a guest of ours.
fn no_cloud_init(spec: &VmSpec) -> Option<Complaint> {
    let field = spec.for_cloud_init()?;
    let has_own = spec.image.is_some() || spec.kernel.is_some() || spec.initrd.is_some();
    let is_small = !has_own && !spec.disks.iter().any(|disk| disk.boot);
    let what = "the guest has no cloud-init that would read it";
    (spec.app.is_some() || is_small).then(|| complaint(field, what, NO_CLOUD_INIT_HELP))
}

/// What is wrong with a part, and what to do.
pub fn complaint(field: &str, what: &str, help: &str) -> Complaint {
    Complaint {
        field: field.to_owned(),
        what: what.to_owned(),
        help: help.to_owned(),
    }
}

/// Complains about a report that could not be written.
fn bad_report(file: &Path) -> Option<Complaint> {
    if let Some(folder) = missing_folder(file) {
        let what = format!("there is no folder {}", folder.display());
        let help = "make the folder, or name a file in one that is there";
        return Some(complaint("report", &what, help));
    }
    let what = format!("{} is a folder", file.display());
    file.is_dir()
        .then(|| complaint("report", &what, "name a file in it"))
}

/// Gathers what a program needs, and plans a guest that is nothing but the program.
pub fn plan_app(asked: Asked, program: &Path, user: &User) -> Result<PlannedApp, Failure> {
    let Asked {
        mut spec,
        host,
        is_kernel_loud,
        ..
    } = asked;
    let request = AppRequest {
        program: program.to_owned(),
        arguments: spec.words.clone(),
        environment: environment(&spec),
        include: spec.include.clone(),
        folder: spec.workdir.clone(),
        terminal: user
            .terminal_of_program()
            .map(|(kind, size)| (kind.to_owned(), size)),
    };
    // What is no program is no reason to fetch a guest for it.
    request.check().map_err(images::AppImageError::from)?;
    bring_passt(&mut spec)?;
    let guest = progress::default_guest()?;
    let cache = Cache::of_user()?;
    let run = cache.run_folder()?;
    // What a program says that it needs is read in a jail.
    let reader = Reader::start(spec.jail.unwrap_or_default()).map_err(Trouble::from)?;
    let (initrd, len) = cache.app_initrd(&request, &reader, &run)?;
    drop(reader);
    let quiet = if is_kernel_loud {
        "panic=-1"
    } else {
        "quiet panic=-1"
    };
    let mut words = vec![CONSOLE.to_owned(), quiet.to_owned()];
    words.extend(spec.name.iter().map(|name| format!("mother.name={name}")));
    words.extend(folder_words(&spec));
    words.extend(agent_word(&mut spec));
    spec.cmdline = Some(words.join(" "));
    spec.kernel = Some(guest.kernel);
    spec.initrd = Some(initrd);
    spec.no_reboot = true;
    // The program's files are in memory twice while the kernel unpacks them.
    let files_mib = len >> 20;
    let usual = MemorySize::of_mib(2 * files_mib + APP_MEMORY_MIB).max(MemorySize::DEFAULT);
    spec.memory.get_or_insert(usual);
    let plan = plan(&spec, &host)?;
    if plan.memory_bytes >> 20 < 2 * files_mib + APP_MEMORY_MIN_MIB {
        let what = format!(
            "the program and its files are {files_mib} MiB, and the kernel unpacks them in memory"
        );
        let help = format!("give the guest `--memory {usual}`, or nothing, which is the same");
        return Err(SpecErrors {
            name: spec.shown_name().to_owned(),
            complaints: vec![complaint("memory", &what, &help)],
        }
        .into());
    }
    Ok(PlannedApp {
        plan,
        given: spec,
        held: held(run),
    })
}

/// Whether a run of no image is a program in the small guest: a command, or what a pipe or a file has for its shell.
pub fn is_program(spec: &VmSpec, user: &User, is_detached: bool) -> bool {
    let starts_disk = spec.disks.iter().any(|disk| disk.boot);
    let is_small = spec.kernel.is_none() && spec.initrd.is_none() && !starts_disk;
    let is_script = *user == User::Pipe && !is_detached && spec.console.is_none();
    is_small && (!spec.words.is_empty() || is_script)
}

/// Plans the small guest with a program in it: the command that was typed, or a shell for what comes in.
pub fn plan_program(asked: Asked, user: &User) -> Result<PlannedApp, Failure> {
    let Asked { mut spec, host, .. } = asked;
    bring_passt(&mut spec)?;
    let guest = progress::default_guest()?;
    let cache = Cache::of_user()?;
    let run = cache.run_folder()?;
    let mut environment = vec![format!("PATH={SHELL_PATH}"), "HOME=/root".to_owned()];
    environment.extend(spec.environment.iter().cloned());
    let command = GuestCommand {
        arguments: match spec.words.as_slice() {
            [] => vec!["sh".to_owned()],
            words => words.to_vec(),
        },
        environment,
        folder: spec.workdir.as_ref().map_or_else(
            || "/root".to_owned(),
            |folder| folder.to_string_lossy().into_owned(),
        ),
        ..GuestCommand::default()
    };
    let command = command.at_terminal(user.terminal_of_program());
    let initrd = cache.program_initrd(&guest, &command, &run)?;
    let mut words = vec![CONSOLE.to_owned(), "rdinit=/program panic=-1".to_owned()];
    let name = spec.name.as_ref().map(VmName::as_str);
    words.extend(net_and_name(name, gets_address(&spec)));
    words.extend(folder_words(&spec));
    words.extend(agent_word(&mut spec));
    words.extend(spec.cmdline.take());
    spec.cmdline = Some(words.join(" "));
    spec.kernel = Some(guest.kernel);
    spec.initrd = Some(initrd);
    spec.no_reboot = true;
    Ok(PlannedApp {
        plan: plan(&spec, &host)?,
        given: spec,
        held: held(run),
    })
}

/// The program's environment: how to find programs, the user's language and terminal, and what was asked for.
fn environment(spec: &VmSpec) -> Vec<String> {
    let mut variables = vec![format!("PATH={APP_PATH}"), "HOME=/root".to_owned()];
    let passed_on = |name: &str| matches!(name, "LANG" | "TERM" | "TZ") || name.starts_with("LC_");
    let host = std::env::vars_os()
        .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
    variables.extend(
        host.filter(|(name, _)| passed_on(name))
            .map(|(name, value)| format!("{name}={value}")),
    );
    variables.extend(spec.environment.iter().cloned());
    variables
}

/// Plans a kernel of the user's, or the default guest, which is fetched if it is not there.
pub fn plan_run(asked: Asked, user: &User) -> Result<Planned, Failure> {
    let Asked { mut spec, host, .. } = asked;
    bring_passt(&mut spec)?;
    if spec.kernel.is_some() {
        return Ok(Planned {
            plan: plan(&spec, &host)?,
            given: spec,
            is_default: false,
        });
    }
    let guest = progress::default_guest()?;
    let is_default = spec.initrd.is_none();
    let mut words = vec![console_word(spec.console).to_owned()];
    if is_default {
        let name = spec.name.as_ref().map(VmName::as_str);
        words.extend(words_for(user, name, gets_address(&spec)));
        words.extend(folder_words(&spec));
        words.extend(agent_word(&mut spec));
    }
    words.extend(spec.cmdline.take());
    spec.cmdline = Some(words.join(" "));
    spec.kernel = Some(guest.kernel);
    spec.initrd = spec.initrd.or(Some(guest.initrd));
    Ok(Planned {
        plan: plan(&spec, &host)?,
        given: spec,
        is_default,
    })
}

/// The folder that a file should go to, if it is not there.
fn missing_folder(file: &Path) -> Option<&Path> {
    file.parent()
        .filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
}

/// Has a guest that we make start the guest agent, unless somebody said no: what it is to be told.
pub fn agent_word(spec: &mut VmSpec) -> Option<String> {
    let wish = *spec.agent.get_or_insert_default();
    (wish == AgentWish::On).then(|| "mother.agent=on".to_owned())
}

/// Has a guest that we make mount the folders that it shares: what it is to be told of each (`crates/images/guest/folders.sh`).
pub fn folder_words(spec: &VmSpec) -> Vec<String> {
    let folders = spec.folders.iter().enumerate();
    let word = |(n, folder): (usize, &FolderSpec)| {
        let mode = if folder.is_read_only() { "ro" } else { "rw" };
        let mut word = format!("mother.folder={},{mode},", FolderSpec::tag(n));
        for byte in folder.guest().bytes() {
            match byte {
                b'/' | b'.' | b'_' | b'-' => word.push(char::from(byte)),
                plain if plain.is_ascii_alphanumeric() => word.push(char::from(plain)),
                // Neither the kernel nor a shell of the guest has anything to find in it.
                other => word.push_str(&format!("\\0{other:03o}")),
            }
        }
        word
    };
    folders.map(word).collect()
}

/// What every guest of our own initrd wants to know.
fn net_and_name(name: Option<&str>, gets_address: bool) -> Vec<String> {
    let net = gets_address.then(|| "mother.net=user".to_owned());
    let name = name.map(|name| format!("mother.name={name}"));
    net.into_iter().chain(name).collect()
}

/// What our own initrd wants to know.
fn words_for(user: &User, name: Option<&str>, gets_address: bool) -> Vec<String> {
    let mut words = net_and_name(name, gets_address);
    match user {
        User::Pipe => words.push("rdinit=/pipe".to_owned()),
        User::Person { term, size, .. } => words.extend(terminal_words(term.as_deref(), *size)),
    }
    words
}

/// What a guest is told of the terminal that its console is read at.
pub fn terminal_words(term: Option<&str>, size: Option<(u16, u16)>) -> Vec<String> {
    let term = term.filter(|term| is_plain(term));
    let term = term.map(|term| format!("mother.term={term}"));
    let size = size.map(|(rows, columns)| format!("mother.size={rows}x{columns}"));
    term.into_iter().chain(size).collect()
}

/// Whether the name of a terminal can stand on a command line and in a shell script.
pub fn is_plain(term: &str) -> bool {
    !term.is_empty()
        && term.len() < 64
        && term
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-+._".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(user: &User, name: Option<&str>, net: bool, expected: &str) {
        assert_eq!(words_for(user, name, net).join(" "), expected);
    }

    #[test]
    fn a_guest_is_told_of_a_place_in_one_word_whatever_is_in_it() {
        let check = |texts: &[&str], expected: &str| {
            let spec = VmSpec {
                folders: texts.iter().map(|text| text.parse().unwrap()).collect(),
                ..VmSpec::default()
            };
            assert_eq!(folder_words(&spec).join(" "), expected);
        };
        check(&[], "");
        check(
            &["a:/srv/www.d:ro", "b:/x y*\"\\é"],
            "mother.folder=folder0,ro,/srv/www.d \
             mother.folder=folder1,rw,/x\\0040y\\0052\\0042\\0134\\0303\\0251",
        );
    }

    #[test]
    fn the_guest_hears_of_the_terminal_only_what_is_harmless() {
        let person = |term: &str| User::Person {
            term: Some(term.to_owned()),
            size: Some((24, 80)),
            is_here: true,
        };
        check(
            &person("xterm-256color"),
            None,
            false,
            "mother.term=xterm-256color mother.size=24x80",
        );
        check(&person("x init=/bin/sh"), None, false, "mother.size=24x80");
        check(
            &person("$(reboot)"),
            Some("web1"),
            false,
            "mother.name=web1 mother.size=24x80",
        );
        check(&User::Pipe, None, false, "rdinit=/pipe");
        check(&User::Pipe, None, true, "mother.net=user rdinit=/pipe");
    }
}

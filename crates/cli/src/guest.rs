//! What was typed as a spec, with the default guest filled in where nothing was said.

use std::path::Path;

use api::VmSpec;
use images::{AppRequest, Cache, GuestCommand, RunFolder};
use machine::{HostFindings, SpecErrors, VmPlan, boot::Protocol, plan};

use crate::arguments::RunArguments;
use crate::failure::Failure;
use crate::progress;

/// What a Linux kernel needs to talk to the console.
pub const CONSOLE: &str = "console=ttyS0";
const VIRTIO_CONSOLE: &str = "console=hvc0";

/// Where a program in a guest looks for others; busybox's come last.
const APP_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/.mother/bin";

/// Where the small guest looks for programs.
const SHELL_PATH: &str = "/bin:/sbin:/usr/bin:/usr/sbin";

/// Memory of a guest that is one program, beside its files.
const APP_MEMORY_MIB: u64 = 384;

/// The least that the kernel and a small program need beside the files.
const APP_MEMORY_MIN_MIB: u64 = 64;

/// Memory of a guest for which nothing was said.
const DEFAULT_MEMORY_MIB: u64 = 512;

/// Who uses the guest's shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A person at a terminal of this kind and size (rows and columns).
    Person {
        /// `TERM`.
        term: Option<String>,
        /// Rows and columns.
        size: Option<(u16, u16)>,
    },
    /// A pipe or a file of commands.
    Pipe,
}

/// A checked plan, and whether the default initrd is in it.
#[derive(Debug)]
pub struct Planned {
    /// What will be built.
    pub plan: VmPlan,
    /// Whether the guest starts in our own initrd.
    pub is_default: bool,
}

/// A plan for one program as the guest. Its initrd is gone when this is dropped.
#[derive(Debug)]
pub struct PlannedApp {
    /// What will be built.
    pub plan: VmPlan,
    /// Holds the initrd.
    _run: RunFolder,
}

/// Gathers what a program needs, and plans a guest that is nothing but the program.
pub fn plan_app(arguments: &RunArguments, program: &Path) -> Result<PlannedApp, Failure> {
    let mut spec = spec(arguments);
    let host = HostFindings::for_spec(&spec);
    bring_passt(&mut spec, &host)?;
    check_before_download(&spec, &host)?;
    check_report(arguments, &spec)?;
    let guest = progress::default_guest()?;
    let cache = Cache::of_user()?;
    let run = cache.run_folder()?;
    let request = AppRequest {
        program: program.to_owned(),
        arguments: arguments.words.clone(),
        environment: environment(arguments),
        include: arguments.include.clone(),
        folder: arguments.workdir.clone(),
    };
    let (initrd, len) = cache.app_initrd(&request, &run)?;
    let quiet = if arguments.kernel_log {
        "panic=-1"
    } else {
        "quiet panic=-1"
    };
    let mut words = vec![CONSOLE.to_owned(), quiet.to_owned()];
    words.extend(spec.name.iter().map(|name| format!("mother.name={name}")));
    spec.cmdline = Some(words.join(" "));
    spec.kernel = Some(guest.kernel);
    spec.initrd = Some(initrd);
    spec.no_reboot = true;
    // The program's files are in memory twice while the kernel unpacks them.
    let files_mib = len >> 20;
    let usual_mib = (2 * files_mib + APP_MEMORY_MIB).max(DEFAULT_MEMORY_MIB);
    spec.memory.get_or_insert_with(|| format!("{usual_mib}M"));
    let plan = plan(&spec, &host)?;
    if plan.memory_bytes >> 20 < 2 * files_mib + APP_MEMORY_MIN_MIB {
        let what = format!(
            "the program and its files are {files_mib} MiB, and the kernel unpacks them in memory"
        );
        let help = format!("give the guest `--memory {usual_mib}M`, or nothing, which is the same");
        return Err(complaint(&spec, "memory", &what, &help));
    }
    Ok(PlannedApp { plan, _run: run })
}

/// Whether a run of no image is a program in the small guest: a command, or what a pipe or a file has for its shell.
pub fn is_program(arguments: &RunArguments, user: &User) -> bool {
    let is_small = arguments.kernel.is_none() && arguments.initrd.is_none();
    let is_script = *user == User::Pipe && !arguments.detach && arguments.console.is_none();
    is_small && (!arguments.words.is_empty() || is_script)
}

/// Plans the small guest with a program in it: the command that was typed, or a shell for what comes in.
pub fn plan_program(arguments: &RunArguments) -> Result<PlannedApp, Failure> {
    let mut spec = spec(arguments);
    check_report(arguments, &spec)?;
    let host = HostFindings::for_spec(&spec);
    bring_passt(&mut spec, &host)?;
    if !spec.modules.is_empty() {
        return Err(no_modules(&spec));
    }
    check_before_download(&spec, &host)?;
    let guest = progress::default_guest()?;
    let cache = Cache::of_user()?;
    let run = cache.run_folder()?;
    let mut environment = vec![format!("PATH={SHELL_PATH}"), "HOME=/root".to_owned()];
    environment.extend(arguments.environment.iter().cloned());
    let command = GuestCommand {
        arguments: match arguments.words.as_slice() {
            [] => vec!["sh".to_owned()],
            words => words.to_vec(),
        },
        environment,
        folder: arguments.workdir.as_ref().map_or_else(
            || "/root".to_owned(),
            |folder| folder.to_string_lossy().into_owned(),
        ),
        ..GuestCommand::default()
    };
    let initrd = cache.program_initrd(&guest, &command, &run)?;
    let mut words = vec![CONSOLE.to_owned(), "rdinit=/program panic=-1".to_owned()];
    words.extend(net_and_name(
        spec.name.as_deref(),
        is_on_user_network(&spec),
    ));
    words.extend(spec.cmdline.take());
    spec.cmdline = Some(words.join(" "));
    spec.kernel = Some(guest.kernel);
    spec.initrd = Some(initrd);
    spec.no_reboot = true;
    Ok(PlannedApp {
        plan: plan(&spec, &host)?,
        _run: run,
    })
}

fn no_modules(spec: &VmSpec) -> Failure {
    let what = "the default kernel takes no modules";
    complaint(spec, "module", what, "name a kernel with `--kernel`")
}

/// The program's environment: how to find programs, the user's language and terminal, and what was asked for.
fn environment(arguments: &RunArguments) -> Vec<String> {
    let mut variables = vec![format!("PATH={APP_PATH}"), "HOME=/root".to_owned()];
    let passed_on = |name: &str| matches!(name, "LANG" | "TERM" | "TZ") || name.starts_with("LC_");
    let host = std::env::vars_os()
        .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
    variables.extend(
        host.filter(|(name, _)| passed_on(name))
            .map(|(name, value)| format!("{name}={value}")),
    );
    variables.extend(arguments.environment.iter().cloned());
    variables
}

/// Complains about a report that could not be written.
pub fn check_report(arguments: &RunArguments, spec: &VmSpec) -> Result<(), Failure> {
    if let Some(folder) = arguments.report.as_deref().and_then(missing_folder) {
        let what = format!("there is no folder {}", folder.display());
        let help = "make the folder, or name a file in one that is there";
        return Err(complaint(spec, "report", &what, help));
    }
    if let Some(folder) = arguments.report.as_deref().filter(|file| file.is_dir()) {
        let what = format!("{} is a folder", folder.display());
        return Err(complaint(spec, "report", &what, "name a file in it"));
    }
    Ok(())
}

/// Checks what was typed and gets the default guest if that is what is wanted.
pub fn plan_run(arguments: &RunArguments, user: &User) -> Result<Planned, Failure> {
    let mut spec = spec(arguments);
    check_report(arguments, &spec)?;
    let host = HostFindings::for_spec(&spec);
    bring_passt(&mut spec, &host)?;
    for (field, is_given) in [
        ("ARGUMENT", !arguments.words.is_empty()),
        ("env", !arguments.environment.is_empty()),
        ("workdir", arguments.workdir.is_some()),
    ] {
        if is_given {
            let what = "there is no program that it could be for";
            return Err(complaint(
                &spec,
                field,
                what,
                "name one with `--app`, or a container image",
            ));
        }
    }
    if spec.kernel.is_some() {
        return Ok(Planned {
            plan: plan_own(spec, &host)?,
            is_default: false,
        });
    }
    if !spec.modules.is_empty() {
        return Err(no_modules(&spec));
    }
    check_before_download(&spec, &host)?;
    let guest = progress::default_guest()?;
    let is_default = spec.initrd.is_none();
    let mut words = vec![console_word(&spec).to_owned()];
    if is_default {
        words.extend(words_for(
            user,
            spec.name.as_deref(),
            is_on_user_network(&spec),
        ));
    }
    words.extend(spec.cmdline.take());
    spec.cmdline = Some(words.join(" "));
    spec.kernel = Some(guest.kernel);
    spec.initrd = spec.initrd.or(Some(guest.initrd));
    Ok(Planned {
        plan: plan(&spec, &host)?,
        is_default,
    })
}

/// What Linux needs to talk to the console that is connected.
fn console_word(spec: &VmSpec) -> &'static str {
    if spec.console.as_deref() == Some("virtio") {
        VIRTIO_CONSOLE
    } else {
        CONSOLE
    }
}

/// A spec with nothing but what was typed.
pub fn spec(arguments: &RunArguments) -> VmSpec {
    let RunArguments {
        kernel,
        initrd,
        modules,
        cmdline,
        memory,
        cpus,
        engine,
        disks,
        timeout,
        name,
        ..
    } = arguments.clone();
    VmSpec {
        name,
        kernel,
        initrd,
        modules,
        cmdline,
        memory,
        cpus,
        engine,
        disks,
        timeout,
        debug_exit: arguments.debug_exit,
        net: arguments.net.clone(),
        forwards: arguments.publish.clone(),
        mac: arguments.mac.clone(),
        vsock: arguments.vsock.clone(),
        no_reboot: arguments.no_reboot,
        resident_limit: arguments.resident_limit.clone(),
        page_memory: arguments.page_memory.clone(),
        page_file: arguments.page_file.clone(),
        page_file_size: arguments.page_file_size.clone(),
        huge_pages: arguments.huge_pages,
        console: arguments.console.clone(),
        ..VmSpec::default()
    }
}

/// Has passt here if the guest's network needs it: the host's, or Debian's, downloaded once.
pub fn bring_passt(spec: &mut VmSpec, host: &HostFindings) -> Result<(), Failure> {
    let is_user = is_on_user_network(spec);
    if is_user && spec.passt.is_none() {
        // Whatever else is wrong is told before anything is downloaded.
        let with_one = VmSpec {
            passt: Some("passt".into()),
            ..spec.clone()
        };
        check_before_download(&with_one, host)?;
        spec.passt = Some(progress::passt().map_err(Failure::Passt)?);
    }
    Ok(())
}

/// The plan for a kernel of the user's: a Linux that was given no command line gets its console.
fn plan_own(spec: VmSpec, host: &HostFindings) -> Result<VmPlan, SpecErrors> {
    let first = plan(&spec, host)?;
    if spec.cmdline.is_some() || first.protocol == Protocol::Multiboot {
        return Ok(first);
    }
    let with_console = VmSpec {
        cmdline: Some(console_word(&spec).to_owned()),
        ..spec
    };
    plan(&with_console, host)
}

/// The folder that a file should go to, if it is not there.
fn missing_folder(file: &Path) -> Option<&Path> {
    file.parent()
        .filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
}

/// Complaints about everything but the missing kernel, before anything is downloaded for nothing.
pub fn check_before_download(spec: &VmSpec, host: &HostFindings) -> Result<(), SpecErrors> {
    let Err(mut errors) = plan(spec, host) else {
        return Ok(());
    };
    errors
        .complaints
        .retain(|complaint| complaint.field != "kernel");
    if errors.complaints.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

fn complaint(spec: &VmSpec, field: &'static str, what: &str, help: &str) -> Failure {
    let name = spec.name.clone().unwrap_or_else(|| "guest".to_owned());
    let complaint = machine::Complaint {
        field,
        what: what.to_owned(),
        help: help.to_owned(),
    };
    SpecErrors {
        name,
        complaints: vec![complaint],
    }
    .into()
}

fn is_on_user_network(spec: &VmSpec) -> bool {
    spec.net
        .as_deref()
        .is_some_and(|net| net == "user" || net.starts_with("user,"))
}

/// What every guest of our own initrd wants to know.
fn net_and_name(name: Option<&str>, is_on_user_network: bool) -> Vec<String> {
    let net = is_on_user_network.then(|| "mother.net=user".to_owned());
    let name = name.map(|name| format!("mother.name={name}"));
    net.into_iter().chain(name).collect()
}

/// What our own initrd wants to know.
fn words_for(user: &User, name: Option<&str>, is_on_user_network: bool) -> Vec<String> {
    let mut words = net_and_name(name, is_on_user_network);
    match user {
        User::Pipe => words.push("rdinit=/pipe".to_owned()),
        User::Person { term, size } => {
            words.extend(
                term.iter()
                    .filter(|term| is_plain(term))
                    .map(|term| format!("mother.term={term}")),
            );
            words.extend(
                size.iter()
                    .map(|(rows, columns)| format!("mother.size={rows}x{columns}")),
            );
        }
    }
    words
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
    fn the_guest_hears_of_the_terminal_only_what_is_harmless() {
        let person = |term: &str| User::Person {
            term: Some(term.to_owned()),
            size: Some((24, 80)),
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

//! Kernel by kernel: which to try, what was found, and what need not be tried again.
//!
//! A run over all that mirrors offer takes hours, so what came out is written down beside the kernels, in
//! `kernels/compared`: a line for each kernel that had no complaint. `MOTHER_KERNELS=all` goes on where it stopped;
//! `MOTHER_KERNELS_AGAIN=1` begins anew, which is right when the reader changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use fixtures::kernels;
use images::{Cache, DefaultGuest};
use insight::integrity::{Integrity, Scope};
use insight::{Kernel, Rung, attach};
use sha2::{Digest, Sha256};

use crate::guest::Guest;
use crate::{compare, connections, look, say, traced};

/// Series that stand for all in a short run: the oldest form of everything, and each that changed something.
const SHORT: [&str; 4] = ["5.10.", "6.1.", "6.12.", "7."];
/// What apt says of a package that the mirror's list has and the mirror has not.
const ABSENT: &str = "404  Not Found";
/// A guest is given so long for all of it.
const LIMIT: &str = "900s";

/// The kernels to try, or why there are none.
pub fn releases(cache: &Cache) -> Result<Vec<String>, String> {
    cache
        .kernel_package()
        .ok_or("the default guest is not in the cache; `cargo xtask guest`")?;
    let wish = std::env::var("MOTHER_KERNELS").unwrap_or_default();
    if !wish.is_empty() && wish != "all" {
        return Ok(wish.split(',').map(str::to_owned).collect());
    }
    let offered = kernels::offered(cache, &mut |_| {})
        .map_err(|error| format!("no mirror of kernels: {error}"))?;
    let (cloud, whole): (Vec<String>, Vec<String>) = offered
        .into_iter()
        .partition(|release| release.contains("-cloud-"));
    let newest = |releases: &[String], series: &str| {
        releases
            .iter()
            .rfind(|release| release.starts_with(series))
            .cloned()
    };
    if wish == "all" {
        // Kernels for everything are as those for the cloud, with more in them.
        let whole = ["6.1.", "7."]
            .into_iter()
            .filter_map(|series| newest(&whole, series));
        return Ok(whole.chain(cloud.iter().rev().cloned()).collect());
    }
    Ok(SHORT
        .into_iter()
        .filter_map(|series| newest(&cloud, series))
        .collect())
}

/// Compares all of them, and returns every complaint.
pub fn run(cache: &Cache, releases: &[String]) -> Vec<String> {
    let resumes = std::env::var("MOTHER_KERNELS").is_ok_and(|wish| wish == "all");
    let path = cache.folder().join("kernels/compared");
    if std::env::var_os("MOTHER_KERNELS_AGAIN").is_some() {
        let _ = fs::remove_file(&path);
    }
    let mut compared = Compared::open(&path);
    let mut complaints = Vec::new();
    let mut absent = 0;
    for release in releases {
        let files = match kernels::guest(cache, release, &mut |_| {}) {
            Ok(files) => files,
            Err(error) => {
                let why = format!(
                    "{release}: {error}: {:?}",
                    std::error::Error::source(&error)
                );
                say(&why);
                if why.contains(ABSENT) {
                    absent += 1;
                } else {
                    complaints.push(why);
                }
                continue;
            }
        };
        let build = build(&files);
        if resumes && compared.has(&build) {
            say(&format!("{release}: compared before"));
            continue;
        }
        let start = Instant::now();
        // One kernel that fails must not keep the others from being tried.
        let found = catch_unwind(AssertUnwindSafe(|| {
            compare(&mut Guest::boot(
                &files,
                &["--memory", "256M", "--timeout", LIMIT],
            ))
        }));
        let found = found.unwrap_or_else(|panic| vec![words_of(panic.as_ref())]);
        let seconds = start.elapsed().as_secs_f64();
        say(&format!(
            "{release}: {} complaints, {seconds:.1} s",
            found.len()
        ));
        found
            .iter()
            .for_each(|complaint| say(&format!("    {complaint}")));
        if found.is_empty() {
            compared.add(&build, release);
        }
        complaints.extend(
            found
                .into_iter()
                .map(|complaint| format!("{release}: {complaint}")),
        );
    }
    if absent == releases.len() {
        complaints.push(
            "the mirror has none of the kernels that it lists: nothing was compared".to_owned(),
        );
    }
    let count = releases.len();
    let complained = complaints.len();
    say(&format!(
        "{count} kernels, {absent} of them listed by a mirror that has them no more, {complained} complaints"
    ));
    complaints
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// A kernel's bytes are what it is: a release may be built again.
fn build(files: &DefaultGuest) -> String {
    let bytes = fs::read(&files.kernel).unwrap();
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Kernels that had no complaint.
struct Compared {
    path: PathBuf,
    builds: BTreeSet<String>,
}

impl Compared {
    fn open(path: &Path) -> Compared {
        let text = fs::read_to_string(path).unwrap_or_default();
        let builds = text
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()));
        Compared {
            path: path.to_owned(),
            builds: builds.collect(),
        }
    }

    fn has(&self, build: &str) -> bool {
        self.builds.contains(build)
    }

    fn add(&mut self, build: &str, release: &str) {
        if self.builds.insert(build.to_owned()) {
            let file = File::options().create(true).append(true).open(&self.path);
            writeln!(file.unwrap(), "{build} {release}").unwrap();
        }
    }
}

fn compare(guest: &mut Guest) -> Vec<String> {
    // Something to see. What is loaded already, or built in, says so.
    guest.ask("for module in /modules/*.ko; do insmod $module 2>/dev/null; done");
    connections::prepare(guest);
    let folder = tempfile::tempdir().unwrap();
    let kernel = match guest.attach(Some(folder.path())) {
        Ok(kernel) => kernel,
        Err(error) => return vec![error.to_string()],
    };
    let mut complaints: Vec<String> = kernel.disputes().to_vec();
    complaints.extend(recognised(guest, &kernel, folder.path()));
    complaints.extend(is_unchanged(guest, &kernel, folder.path(), true));
    complaints.extend(compare::symbols(guest, &kernel));
    complaints.extend(compare::types(guest, &kernel));
    complaints.extend(compare::clock_page(guest));
    complaints.extend(compare::system(guest, &kernel));
    complaints.extend(compare::processes(guest, &kernel));
    complaints.extend(compare::modules(guest, &kernel));
    complaints.extend(compare::memory(guest, &kernel));
    complaints.extend(compare::log(guest, &kernel));
    complaints.extend(connections::sockets(guest, &kernel));
    complaints.extend(connections::mounts(guest, &kernel));
    complaints.extend(is_unchanged(guest, &kernel, folder.path(), false));
    complaints.extend(traced::traced(guest, &kernel));
    complaints
}

/// By registers, from what was kept, and by content alone: it is the same kernel.
fn recognised(guest: &Guest, kernel: &Kernel, folder: &Path) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut check = |is_right: bool, what: &str| {
        if !is_right {
            complaints.push(what.to_owned());
        }
    };
    check(
        kernel.rung() == Rung::Image && kernel.replaces().is_none(),
        "the kernel is not the one in its file",
    );
    match guest.attach(None) {
        Ok(own) => {
            check(
                own.rung() == Rung::Profile,
                "the kernel's word about itself was not found or does not agree",
            );
            check(
                own.profile() == kernel.profile(),
                "the kernel file says something else than the kernel's memory",
            );
        }
        Err(error) => check(false, &error.to_string()),
    }
    let again = guest.attach(Some(folder)).unwrap();
    check(again.is_from_cache(), "the profile was not kept");
    check(
        again.profile() == kernel.profile(),
        "the kept profile is another",
    );
    match attach(guest.memory(), &[], None) {
        Ok(blind) => check(
            blind.kaslr_slide() == kernel.kaslr_slide(),
            "content leads elsewhere than registers",
        ),
        Err(error) => check(false, &error.to_string()),
    }
    complaints
}

/// The kernel's code is what it was, or was rewritten legally, and everything could be compared.
fn is_unchanged(guest: &Guest, kernel: &Kernel, folder: &Path, is_first: bool) -> Vec<String> {
    let check = |look: &insight::Look<'_>| look.integrity(folder, "1", Scope::All);
    let result = look(kernel, &guest.registers(), check);
    let Some(Integrity {
        findings,
        not_checked,
        ..
    }) = result.value()
    else {
        return vec![format!(
            "integrity: {}",
            result.why_not().unwrap_or_default()
        )];
    };
    let mut complaints: Vec<String> = findings
        .iter()
        .map(|finding| format!("looks changed: {finding:?}"))
        .collect();
    complaints.extend(
        not_checked
            .iter()
            .map(|what| format!("not checked: {what}")),
    );
    if result
        .value()
        .is_some_and(|result| result.is_first != is_first)
    {
        complaints.push("the baseline was not kept".to_owned());
    }
    complaints
}

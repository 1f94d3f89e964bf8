//! Insight against the guests' own words, kernel by kernel: everything read from outside equals what the guest prints.
//!
//! Beside that: guests that lie, hang and panic (`liars`), memory made to mislead (`fuzz`), and costs (`bench`).
//!
//! `MOTHER_KERNELS` says which: unset, one of each of a few series; `all`, every cloud kernel that the mirrors offer; or
//! releases with commas between.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub, reason = "a test has no outside; `pub` marks what other modules use")]

#[path = "kernels/bench.rs"]
mod bench;
#[path = "kernels/compare.rs"]
mod compare;
#[path = "kernels/fuzz.rs"]
mod fuzz;
#[path = "kernels/guest.rs"]
mod guest;
#[path = "kernels/liars.rs"]
mod liars;

use std::io::Write;
use std::time::Instant;

use guest::Guest;
use images::Cache;
use insight::{Rung, attach};

/// Series that stand for all in a short run: the oldest form of everything, and each that changed something.
const SHORT: [&str; 4] = ["5.10.", "6.1.", "6.12.", "7."];

fn say(text: &str) {
    // Written, not printed: the test harness would keep what is printed to itself.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{text}").unwrap();
}

/// The kernels to try, or why there are none.
fn releases(cache: &Cache) -> Result<Vec<String>, String> {
    cache.kernel_package().ok_or("the default guest is not in the cache; `cargo xtask guest`")?;
    let wish = std::env::var("MOTHER_KERNELS").unwrap_or_default();
    if !wish.is_empty() && wish != "all" {
        return Ok(wish.split(',').map(str::to_owned).collect());
    }
    let offered =
        cache.offered_kernels(&mut |_| {}).map_err(|error| format!("no mirror of kernels: {error}"))?;
    let cloud: Vec<String> = offered.into_iter().filter(|release| release.contains("-cloud-")).collect();
    if wish == "all" {
        return Ok(cloud);
    }
    let newest = |series: &str| cloud.iter().rfind(|release| release.starts_with(series)).cloned();
    Ok(SHORT.into_iter().filter_map(newest).collect())
}

#[test]
fn everything_that_is_read_of_a_guest_is_what_the_guest_prints() {
    let cache = Cache::of_user().unwrap();
    let releases = match releases(&cache) {
        Ok(releases) => releases,
        Err(why) => return say(&format!("skipped: {why}")),
    };
    let mut complaints = Vec::new();
    for release in &releases {
        let start = Instant::now();
        match cache.kernel_guest(release, &mut |_| {}) {
            Ok(files) => {
                let found = compare(&mut Guest::boot(&files, &["--memory", "256M"]));
                say(&format!(
                    "{release}: {} complaints, {:.1} s",
                    found.len(),
                    start.elapsed().as_secs_f64()
                ));
                complaints.extend(found.into_iter().map(|complaint| format!("{release}: {complaint}")));
            }
            Err(error) => {
                complaints.push(format!("{release}: {error}: {:?}", std::error::Error::source(&error)))
            }
        }
    }
    assert!(!releases.is_empty());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn compare(guest: &mut Guest) -> Vec<String> {
    // Something to see. What is loaded already, or built in, says so.
    guest.ask("for module in /modules/*.ko; do insmod $module 2>/dev/null; done");
    let folder = tempfile::tempdir().unwrap();
    let kernel = match guest.attach(Some(folder.path())) {
        Ok(kernel) => kernel,
        Err(error) => return vec![error.to_string()],
    };
    let mut complaints: Vec<String> = kernel.disputes().to_vec();
    let mut check = |is_right: bool, what: &str| {
        if !is_right {
            complaints.push(what.to_owned());
        }
    };
    check(kernel.rung() == Rung::Profile, "the kernel's word about itself was not found or does not agree");
    let again = guest.attach(Some(folder.path())).unwrap();
    check(again.is_from_cache(), "the profile was not kept");
    check(again.profile() == kernel.profile(), "the kept profile is another");
    // Without registers, by content alone.
    match attach(guest.memory(), &[], None) {
        Ok(blind) => {
            check(blind.kaslr_slide() == kernel.kaslr_slide(), "content leads elsewhere than registers")
        }
        Err(error) => check(false, &error.to_string()),
    }
    complaints.extend(compare::symbols(guest, &kernel));
    complaints.extend(compare::types(guest, &kernel));
    complaints.extend(compare::system(guest, &kernel));
    complaints.extend(compare::processes(guest, &kernel));
    complaints.extend(compare::modules(guest, &kernel));
    complaints.extend(compare::memory(guest, &kernel));
    complaints.extend(compare::log(guest, &kernel));
    complaints
}

/// The default guest, or a loud word that there is none.
fn with_default_guest(words: &[&str], act: impl FnOnce(&mut Guest)) {
    let cache = Cache::of_user().unwrap();
    if cache.kernel_package().is_none() {
        return say("skipped: the default guest is not in the cache; `cargo xtask guest`");
    }
    act(&mut Guest::boot(&cache.default_guest(&mut |_| {}).unwrap(), words));
}

fn seconds(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_process_that_was_taken_out_of_the_kernels_books_is_found() {
    with_default_guest(&["--memory", "256M"], liars::hidden_processes);
}

#[test]
fn a_panicked_guest_still_tells_what_went_on() {
    with_default_guest(&["--memory", "256M"], liars::panicked);
}

#[test]
fn a_hung_guest_still_tells_what_goes_on() {
    with_default_guest(&["--memory", "256M"], liars::hung);
}

/// `MOTHER_HONEST_SECONDS` says for how long.
#[test]
fn an_honest_guest_at_work_raises_no_alarm() {
    let seconds = seconds("MOTHER_HONEST_SECONDS", 30);
    with_default_guest(&["--memory", "256M", "--cpus", "2"], |guest| liars::honest(guest, seconds));
}

/// `MOTHER_FUZZ_SECONDS` says for how long.
#[test]
fn no_memory_makes_insight_fail_or_hang() {
    let seconds = seconds("MOTHER_FUZZ_SECONDS", 60);
    let folder = tempfile::tempdir().unwrap();
    with_default_guest(&["--memory", "128M"], |guest| {
        let tried = fuzz::run(guest, seconds, folder.path());
        say(&format!("{tried} hostile guests in {seconds} s"));
        assert!(tried > 0);
    });
}

/// Numbers, not a test: `cargo xtask bench insight`.
#[test]
#[ignore = "a benchmark"]
fn what_attaching_and_looking_costs() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::of_user().unwrap();
    for release in releases(&cache).unwrap() {
        let files = cache.kernel_guest(&release, &mut |_| {}).unwrap();
        let (cold, warm) = bench::run(&mut Guest::boot(&files, &["--memory", "1G"]), &release, folder.path());
        say(&format!("{release}: cold {cold:.1} ms of 540, warm {warm:.2} ms of 20"));
    }
}

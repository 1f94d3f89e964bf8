//! Insight against the guests' own words, kernel by kernel: everything read from outside equals what the guest prints.
//!
//! `MOTHER_KERNELS` says which: unset, one of each of a few series; `all`, every cloud kernel that the mirrors offer; or
//! releases with commas between.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub, reason = "a test has no outside; `pub` marks what other modules use")]

#[path = "kernels/compare.rs"]
mod compare;
#[path = "kernels/guest.rs"]
mod guest;

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

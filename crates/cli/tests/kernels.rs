//! Insight against the guests' own words, kernel by kernel: everything read from outside equals what the guest prints.
//!
//! Beside that: guests that lie, hang and panic (`liars`), memory made to mislead (`fuzz`), and costs (`bench`).
//!
//! `MOTHER_KERNELS` says which ([`matrix`]): unset, one of each of a few series; `all`, every cloud kernel that the mirrors
//! offer and two for everything; or releases with commas between.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    unreachable_pub,
    reason = "a test has no outside; `pub` marks what other modules use"
)]

#[path = "kernels/bench.rs"]
mod bench;
#[path = "kernels/compare.rs"]
mod compare;
#[path = "kernels/connections.rs"]
mod connections;
#[path = "kernels/fuzz.rs"]
mod fuzz;
#[path = "kernels/guest.rs"]
mod guest;
#[path = "kernels/liars.rs"]
mod liars;
#[path = "kernels/matrix.rs"]
mod matrix;
#[path = "kernels/traced.rs"]
mod traced;

use std::io::Write;

use compare::look;
use guest::Guest;
use images::Cache;

fn say(text: &str) {
    // Written, not printed: the test harness would keep what is printed to itself.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{text}").unwrap();
}

#[test]
fn everything_that_is_read_of_a_guest_is_what_the_guest_prints() {
    let cache = Cache::of_user().unwrap();
    let releases = match matrix::releases(&cache) {
        Ok(releases) => releases,
        Err(why) => return say(&format!("skipped: {why}")),
    };
    assert!(!releases.is_empty());
    let complaints = matrix::run(&cache, &releases);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The default guest, or a loud word that there is none.
fn with_default_guest(words: &[&str], act: impl FnOnce(&mut Guest)) {
    with_default_guest_and("", words, act);
}

/// The same with more words for its kernel.
fn with_default_guest_and(options: &str, words: &[&str], act: impl FnOnce(&mut Guest)) {
    let cache = Cache::of_user().unwrap();
    if cache.kernel_package().is_none() {
        return say("skipped: the default guest is not in the cache; `cargo xtask guest`");
    }
    act(&mut Guest::boot_with(
        options,
        &cache.default_guest(&mut |_| {}).unwrap(),
        words,
    ));
}

fn seconds(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn a_process_that_was_taken_out_of_the_kernels_books_is_found() {
    with_default_guest(&["--memory", "256M"], liars::hidden_processes);
}

#[test]
fn a_process_that_is_just_being_made_is_not_told_as_hidden() {
    with_default_guest(&["--memory", "256M"], liars::forking);
}

#[test]
fn a_kernel_that_is_not_mapped_while_processes_run_is_recognised_all_the_same() {
    with_default_guest_and("pti=on", &["--memory", "256M"], liars::isolated);
}

#[test]
fn a_kernel_whose_symbols_are_nonsense_is_known_by_its_banner_only() {
    with_default_guest(&["--memory", "256M"], liars::without_symbols);
}

#[test]
fn a_panicked_guest_still_tells_what_went_on() {
    with_default_guest(&["--memory", "256M"], liars::panicked);
}

#[test]
fn a_hung_guest_still_tells_what_goes_on() {
    with_default_guest(&["--memory", "256M"], liars::hung);
}

/// `MOTHER_HONEST_SECONDS` says for how long, `MOTHER_HONEST_KERNEL` on which of Debian's kernels if not on the default
/// guest's.
#[test]
fn an_honest_guest_at_work_raises_no_alarm() {
    let seconds = seconds("MOTHER_HONEST_SECONDS", 30);
    let words = ["--memory", "256M", "--cpus", "2"];
    let Ok(release) = std::env::var("MOTHER_HONEST_KERNEL") else {
        return with_default_guest(&words, |guest| liars::honest(guest, seconds));
    };
    let cache = Cache::of_user().unwrap();
    let files = fixtures::kernels::guest(&cache, &release, &mut |_| {}).unwrap();
    liars::honest(&mut Guest::boot(&files, &words), seconds);
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
    let mut slow = false;
    for release in matrix::releases(&cache).unwrap() {
        let files = fixtures::kernels::guest(&cache, &release, &mut |_| {}).unwrap();
        let mut guest = Guest::boot(&files, &["--memory", "1G"]);
        let bench::Costs { cold, warm, share } = bench::run(&mut guest, &release, folder.path());
        say(&format!(
            "{release}: cold {cold:.1} ms of 540, warm {warm:.2} ms of 20, watching {share:.2} % of 1 %"
        ));
        slow |= cold > 540.0 || warm > 20.0 || share > 1.0;
    }
    assert!(!slow, "something costs more than is promised");
}

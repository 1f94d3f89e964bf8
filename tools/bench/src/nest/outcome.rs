//! What the nested machine said of its tests, group by group.
//!
//! A test in there measures the seconds of one guest inside of another, on a host that has six more: one that failed has
//! its whole group run once more, in a new machine and alone.

/// Groups that are run once more, at most: if more failed, it is no matter of time.
const MOST_AGAIN: usize = 2;

/// One function of `tests.sh`, and what its tests came to.
#[derive(Debug)]
struct Group {
    name: String,
    passed: u32,
    /// Whole lines.
    failed: Vec<String>,
}

/// All groups, in their order.
#[derive(Default, Debug)]
pub struct Outcome {
    groups: Vec<Group>,
    is_done: bool,
}

impl Outcome {
    /// Takes a line of the machine's.
    pub fn take(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("GROUP ") {
            self.begin(name);
        }
        let is_pass = line.starts_with("PASS ");
        let is_fail = line.starts_with("FAIL ");
        self.is_done |= line == "DONE";
        if !is_pass && !is_fail {
            return;
        }
        if self.groups.is_empty() {
            self.begin("");
        }
        if let Some(group) = self.groups.last_mut() {
            group.passed += u32::from(is_pass);
            if is_fail {
                group.failed.push(line.to_owned());
            }
        }
    }

    fn begin(&mut self, name: &str) {
        self.groups.push(Group {
            name: name.to_owned(),
            passed: 0,
            failed: Vec::new(),
        });
    }

    /// Whether the last test was reached.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// How many passed.
    pub fn passed(&self) -> u32 {
        self.groups.iter().map(|group| group.passed).sum()
    }

    /// The lines of those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &str> {
        let lines = self.groups.iter().flat_map(|group| &group.failed);
        lines.map(String::as_str)
    }

    /// The groups to run once more, as the machine takes them: with commas between.
    pub fn again(&self) -> Option<String> {
        let failed = self.groups.iter().filter(|group| !group.failed.is_empty());
        let names: Vec<&str> = failed.map(|group| group.name.as_str()).collect();
        let is_worth_it = self.is_done && !names.is_empty() && names.len() <= MOST_AGAIN;
        (is_worth_it && !names.contains(&"")).then(|| names.join(","))
    }

    /// Puts the groups of a second machine in the place of those of the first, if it came to its end.
    pub fn replace(&mut self, second: Outcome) {
        if !second.is_done {
            return;
        }
        for group in second.groups {
            if let Some(first) = self.groups.iter_mut().find(|it| it.name == group.name) {
                *first = group;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Outcome {
        let mut outcome = Outcome::default();
        lines.split(';').for_each(|line| outcome.take(line));
        outcome
    }

    /// What a first machine says, the groups that are wanted again, what those say then, and the count.
    #[track_caller]
    fn check(first: &str, again: Option<&str>, second: &str, passed: u32, failed: &[&str]) {
        let mut outcome = read(first);
        assert_eq!(outcome.again().as_deref(), again);
        outcome.replace(read(second));
        assert_eq!(outcome.passed(), passed);
        assert_eq!(outcome.failed().collect::<Vec<_>>(), failed);
    }

    #[test]
    fn a_group_with_a_failed_test_is_run_once_more() {
        let first = "GROUP a;PASS 1;PASS 2;GROUP b;PASS 3;FAIL 4: why;DONE";
        check(first, Some("b"), "GROUP b;PASS 3;PASS 4;DONE", 4, &[]);
        let worse = "GROUP b;FAIL 3;FAIL 4;DONE";
        check(first, Some("b"), worse, 2, &["FAIL 3", "FAIL 4"]);
        // One that did not come to its end says nothing.
        check(
            first,
            Some("b"),
            "GROUP b;PASS 3;PASS 4",
            3,
            &["FAIL 4: why"],
        );
    }

    #[test]
    fn what_failed_too_widely_or_has_no_end_is_not() {
        let wide = "GROUP a;FAIL 1;GROUP b;FAIL 2;GROUP c;FAIL 3;DONE";
        check(wide, None, "", 0, &["FAIL 1", "FAIL 2", "FAIL 3"]);
        check("GROUP a;PASS 1;FAIL 2", None, "", 1, &["FAIL 2"]);
        check("FAIL 1;DONE", None, "", 0, &["FAIL 1"]);
    }
}

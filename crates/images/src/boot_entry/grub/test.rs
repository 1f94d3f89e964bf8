//! GRUB's `test`, which is `[` too (GRUB manual, "test").

use super::run::Run;

/// Whether an expression holds. What makes no sense does not.
pub(super) fn holds(run: &Run<'_>, words: &[String]) -> bool {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    // `-o` binds less than `-a`.
    if let Some(at) = joint(&words, "-o") {
        let (one, other) = words.split_at(at);
        return part(run, one) || holds_of(run, &other[1..]);
    }
    if words.first() == Some(&"!") {
        words.remove(0);
        return !holds_of(run, &words);
    }
    part(run, &words)
}

fn holds_of(run: &Run<'_>, words: &[&str]) -> bool {
    let owned: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    holds(run, &owned)
}

/// Where a word joins two expressions: not where it could be what is compared.
fn joint(words: &[&str], sign: &str) -> Option<usize> {
    let at = words.iter().position(|word| *word == sign)?;
    (at > 0 && at + 1 < words.len()).then_some(at)
}

fn part(run: &Run<'_>, words: &[&str]) -> bool {
    if let Some(at) = joint(words, "-a") {
        return part(run, &words[..at]) && part(run, &words[at + 1..]);
    }
    let number = |text: &str| text.trim().parse::<i64>().unwrap_or(0);
    match words {
        ["!", rest @ ..] => !part(run, rest),
        ["-z", text] => text.is_empty(),
        ["-n", text] => !text.is_empty(),
        ["-e" | "-f" | "-d", path] => run.is_there(path),
        ["-s", path] => run.read(path).is_some_and(|bytes| !bytes.is_empty()),
        [text] => !text.is_empty(),
        [one, "=" | "==", other] => one == other,
        [one, "!=", other] => one != other,
        [one, "<", other] => one < other,
        [one, ">", other] => one > other,
        [one, "-eq", other] => number(one) == number(other),
        [one, "-ne", other] => number(one) != number(other),
        [one, "-lt", other] => number(one) < number(other),
        [one, "-le", other] => number(one) <= number(other),
        [one, "-gt", other] => number(one) > number(other),
        [one, "-ge", other] => number(one) >= number(other),
        _ => false,
    }
}

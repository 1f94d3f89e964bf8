//! GRUB's `test`, which is `[` too (GRUB manual, "test").

/// Longest expression, in words. Distributions' have seven; whoever writes thousands wants to see how deep it goes.
const WORDS_MAX: usize = 64;

/// Looks at files by GRUB's words for them.
pub(super) trait Look {
    /// Whether something is there.
    fn is_there(&self, path: &str) -> bool;

    /// Whether there is a file with something in it.
    fn has_bytes(&self, path: &str) -> bool;
}

/// Whether an expression holds. What makes no sense does not.
pub(super) fn holds(files: &dyn Look, words: &[String]) -> bool {
    if words.len() > WORDS_MAX {
        return false;
    }
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    // `-o` binds less than `-a`.
    if let Some(at) = joint(&words, "-o") {
        let (one, other) = words.split_at(at);
        return part(files, one) || holds_of(files, &other[1..]);
    }
    if words.first() == Some(&"!") {
        words.remove(0);
        return !holds_of(files, &words);
    }
    part(files, &words)
}

fn holds_of(files: &dyn Look, words: &[&str]) -> bool {
    let owned: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    holds(files, &owned)
}

/// Where a word joins two expressions: not where it could be what is compared.
fn joint(words: &[&str], sign: &str) -> Option<usize> {
    let at = words.iter().position(|word| *word == sign)?;
    (at > 0 && at + 1 < words.len()).then_some(at)
}

fn part(files: &dyn Look, words: &[&str]) -> bool {
    if let Some(at) = joint(words, "-a") {
        return part(files, &words[..at]) && part(files, &words[at + 1..]);
    }
    let number = |text: &str| text.trim().parse::<i64>().unwrap_or(0);
    match words {
        ["!", rest @ ..] => !part(files, rest),
        ["-z", text] => text.is_empty(),
        ["-n", text] => !text.is_empty(),
        ["-e" | "-f" | "-d", path] => files.is_there(path),
        ["-s", path] => files.has_bytes(path),
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

//! Verdicts, and how many readings it takes to be sure of them.

use std::time::{Duration, Instant};

use fleet::ClientError;
use insight::verdict::{READINGS_NEEDED, Row, Standing, Verdict, standing};
use watch::{Assessment, Watcher};

use super::words::{columns, printable};
use crate::failure::{ANSWER_IS_NO, BLIND};

/// Time between readings when only one answer is wanted.
const BETWEEN: Duration = Duration::from_millis(150);
/// And when code was written that is what it was: it may be changed again.
const RESTLESS: Duration = Duration::from_millis(900);
/// And when something differs that more readings may settle: so long, so often.
const SETTLING: Duration = Duration::from_secs(3);
const SETTLING_BETWEEN: Duration = Duration::from_millis(400);

/// As many readings as it takes to tell skew from contradiction.
pub(super) fn settled(watcher: &mut Watcher) -> Result<Assessment, ClientError> {
    let mut assessment = watcher.assess()?;
    for _ in 1..READINGS_NEEDED {
        watcher.wait(BETWEEN);
        assessment = watcher.assess()?;
    }
    if watcher.is_restless() {
        watcher.wait(RESTLESS);
        assessment = watcher.assess()?;
    }
    let until = Instant::now() + SETTLING;
    while Instant::now() < until
        && assessment
            .rows
            .iter()
            .any(|row| row.verdict == Verdict::Differs)
    {
        watcher.wait(SETTLING_BETWEEN);
        assessment = watcher.assess()?;
    }
    Ok(assessment)
}

/// The exit status that says how a guest stands.
pub(super) fn status(standing: Standing) -> u8 {
    match standing {
        Standing::Fine => 0,
        Standing::Blind => BLIND,
        Standing::Contradicts => ANSWER_IS_NO,
    }
}

/// How a guest stands, in a line.
pub(super) fn summary(rows: &[Row]) -> String {
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let wrong = count(Verdict::Contradicts);
    let unseen = count(Verdict::NotObservable);
    let standing = standing(rows);
    let what = match standing {
        Standing::Fine => "everything could be compared and nothing contradicts".to_owned(),
        Standing::Blind => format!("{unseen} of {} could not be compared", rows.len()),
        Standing::Contradicts if unseen > 0 => {
            format!(
                "{wrong} of {}, and {unseen} could not be compared",
                rows.len()
            )
        }
        Standing::Contradicts => format!("{wrong} of {}", rows.len()),
    };
    format!("{}: {what}\n", standing.words())
}

const HEADS: [&str; 5] = ["SUBJECT", "CLAIM", "KERNEL", "TRUTH", "VERDICT"];

/// Rows as people read them.
pub(crate) fn rows(rows: &[Row]) -> String {
    let cell = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), printable);
    let line = |row: &Row| {
        [
            printable(&row.subject),
            cell(&row.claim),
            cell(&row.kernel),
            cell(&row.truth),
            row.verdict.words().to_owned(),
        ]
    };
    let mut text = columns(&HEADS, &rows.iter().map(line).collect::<Vec<_>>());
    let told = rows
        .iter()
        .filter(|row| !matches!(row.verdict, Verdict::Agrees | Verdict::NotObservable));
    for row in told {
        let by = row
            .difference
            .as_ref()
            .map_or(String::new(), |difference| format!("{difference}: "));
        let confidence = format!("{:?}", row.confidence).to_lowercase();
        text.push_str(&format!(
            "\n{} {}: {}{}\n  rule {}, {} reading(s), confidence {confidence}, {:.1}s old; {}\n",
            printable(&row.subject),
            row.verdict.words(),
            printable(&by),
            printable(&row.meaning),
            row.rule,
            row.readings,
            row.age_ms as f64 / 1000.0,
            row.method,
        ));
    }
    let mut reasons: Vec<&str> = Vec::new();
    for row in rows
        .iter()
        .filter(|row| row.verdict == Verdict::NotObservable)
    {
        if !reasons.contains(&row.meaning.as_str()) {
            reasons.push(&row.meaning);
        }
    }
    for reason in reasons {
        text.push_str(&format!("\nnot observable: {}\n", printable(reason)));
    }
    text
}

//! Rules about things that several views must show alike: tasks, modules, code, tables.

use super::{Confidence, Finding, READINGS_NEEDED, Reading, Row, Verdict, View};

/// A row for each finding, and one for each view without any.
pub(super) fn things(readings: &[Reading]) -> Vec<Row> {
    let Some(now) = readings.last() else {
        return Vec::new();
    };
    now.kernel
        .views
        .iter()
        .flat_map(|view| judge(readings, view))
        .collect()
}

fn judge(readings: &[Reading], view: &View) -> Vec<Row> {
    let row = Row {
        kernel: Some(view.kernel.clone()).filter(|text| !text.is_empty()),
        truth: Some(view.truth.clone()).filter(|text| !text.is_empty()),
        ..Row::begun(&view.rule, &view.subject, &view.method)
    };
    if let Some(why) = &view.why_not {
        return vec![row.is(Verdict::NotObservable, why)];
    }
    if view.findings.is_empty() {
        return vec![row.is(Verdict::Agrees, "every view shows the same")];
    }
    view.findings
        .iter()
        .map(|finding| judge_finding(readings, view, finding, row.clone()))
        .collect()
}

fn judge_finding(readings: &[Reading], view: &View, finding: &Finding, row: Row) -> Row {
    let has = |reading: &&Reading| {
        let views = reading
            .kernel
            .views
            .iter()
            .filter(|other| other.rule == view.rule);
        views
            .flat_map(|other| &other.findings)
            .any(|other| other.name == finding.name)
    };
    let count = readings.iter().rev().take_while(has).count();
    let is_sure = finding.is_certain || !finding.is_young && count >= READINGS_NEEDED;
    let verdict = if is_sure {
        Verdict::Contradicts
    } else {
        Verdict::Differs
    };
    let confidence = if finding.is_certain {
        Confidence::High
    } else {
        Confidence::Medium
    };
    let difference = Some(finding.name.clone());
    Row {
        difference,
        confidence,
        readings: count,
        ..row
    }
    .is(verdict, finding.what.clone())
}

//! Families of numbers, and the two texts that Prometheus reads: the text format 0.0.4 and OpenMetrics 1.0.
//!
//! They differ where a parser would notice: in OpenMetrics a counter's family has no `_total`, units are told, and the
//! text ends with `# EOF`.

use std::collections::BTreeMap;
use std::fmt::Write;

use api::{Metric, MetricKind, MetricUnit, Sample};

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// Prometheus text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    Open,
}

impl Form {
    /// What a client accepts best; the classic form unless it asks for the other one.
    pub(crate) fn of(accept: &str) -> Form {
        let weight = |wanted: &str| {
            let accepted = accept.split(',').filter_map(|one| {
                let mut parts = one.split(';').map(str::trim);
                let kind = parts.next()?;
                let mut weight = 1.0;
                for part in parts {
                    if let Some(text) = part.strip_prefix("q=") {
                        weight = text.parse().ok()?;
                    }
                }
                kind.eq_ignore_ascii_case(wanted).then_some(weight)
            });
            accepted.fold(0.0, f64::max)
        };
        if weight("application/openmetrics-text") > weight("text/plain") {
            Form::Open
        } else {
            Form::Classic
        }
    }

    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Form::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Form::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Families by name.
#[derive(Default)]
pub(crate) struct Families(pub(crate) BTreeMap<String, Family>);

/// Numbers of one name.
pub(crate) struct Family {
    pub(crate) kind: MetricKind,
    pub(crate) unit: MetricUnit,
    pub(crate) help: String,
    pub(crate) samples: Vec<Sample>,
}

impl Families {
    /// What somebody counts, with more labels.
    pub(crate) fn take(&mut self, metrics: &[Metric], more: &[(&str, &str)]) {
        for metric in metrics {
            let family = self.family(&metric.name, metric.kind, metric.unit, &metric.help);
            family.samples.extend(metric.samples.iter().map(|sample| {
                let mut labels = sample.labels.clone();
                let more = more.iter();
                labels.extend(more.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
                Sample {
                    labels,
                    value: sample.value,
                }
            }));
        }
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        (kind, unit): (MetricKind, MetricUnit),
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let sample = Sample {
            labels: labels.collect(),
            value,
        };
        self.family(name, kind, unit, help).samples.push(sample);
    }

    pub(super) fn family(
        &mut self,
        name: &str,
        kind: MetricKind,
        unit: MetricUnit,
        help: &str,
    ) -> &mut Family {
        self.0.entry(name.to_owned()).or_insert_with(|| Family {
            kind,
            unit,
            help: help.to_owned(),
            samples: Vec::new(),
        })
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let unit = if name.ends_with("_bytes") {
            MetricUnit::Bytes
        } else if name.ends_with("_seconds") {
            MetricUnit::Seconds
        } else {
            MetricUnit::Count
        };
        self.add(name, (MetricKind::Gauge, unit), help, labels, value);
    }

    pub(crate) fn write(&self, form: Form) -> String {
        let mut text = String::new();
        for (name, family) in &self.0 {
            let is_counter = family.kind == MetricKind::Counter;
            let of_family = match form {
                Form::Open if is_counter => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            let kind = if is_counter { "counter" } else { "gauge" };
            let _ = writeln!(
                text,
                "# HELP {of_family} {}",
                escaped(&family.help, form == Form::Open)
            );
            let _ = writeln!(text, "# TYPE {of_family} {kind}");
            let unit = match family.unit {
                MetricUnit::Bytes => Some("bytes"),
                MetricUnit::Seconds => Some("seconds"),
                MetricUnit::Count => None,
            };
            // A unit that is told must be the end of the family's name.
            if let Some(unit) = unit.filter(|unit| {
                form == Form::Open
                    && of_family
                        .strip_suffix(unit)
                        .is_some_and(|rest| rest.ends_with('_'))
            }) {
                let _ = writeln!(text, "# UNIT {of_family} {unit}");
            }
            for sample in &family.samples {
                let _ = writeln!(
                    text,
                    "{name}{} {}",
                    labels(&sample.labels),
                    number(sample.value)
                );
            }
        }
        if form == Form::Open {
            text.push_str("# EOF\n");
        }
        text
    }
}

/// Backslashes and line ends; quotes where they would end something.
fn escaped(text: &str, quotes_too: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quotes_too => escaped.push_str("\\\""),
            it => escaped.push(it),
        }
    }
    escaped
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{}\"", escaped(value, true)));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return format!("{}", value as i64);
    }
    format!("{value}")
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_form_it_likes_best() {
        let check = |accept: &str, expected| assert_eq!(Form::of(accept), expected, "{accept}");
        check("", Form::Classic);
        check("*/*", Form::Classic);
        check("text/plain", Form::Classic);
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Form::Open,
        );
        check(
            "application/openmetrics-text;q=0.2,text/plain;q=0.5",
            Form::Classic,
        );
    }

    #[test]
    fn both_forms_say_the_same_in_their_own_words() {
        let mut families = Families::default();
        let seconds = (MetricKind::Counter, MetricUnit::Seconds);
        families.add(
            "a_seconds_total",
            seconds,
            "Time.",
            &[("vm", "x\"\\\n")],
            1.5,
        );
        families.gauge("b_bytes", "A \"size\".", &[], 3e9);
        families.gauge("c", "Things.", &[], 1.0);
        assert_eq!(
            families.write(Form::Classic),
            "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\na_seconds_total{vm=\"x\\\"\\\\\\n\"} 1.5\n\
             # HELP b_bytes A \"size\".\n# TYPE b_bytes gauge\nb_bytes 3000000000\n\
             # HELP c Things.\n# TYPE c gauge\nc 1\n"
        );
        assert_eq!(
            families.write(Form::Open),
            "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
             a_seconds_total{vm=\"x\\\"\\\\\\n\"} 1.5\n\
             # HELP b_bytes A \\\"size\\\".\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 3000000000\n\
             # HELP c Things.\n# TYPE c gauge\nc 1\n# EOF\n"
        );
    }
}

//! From the rows of several rounds, and perhaps of two builds in turn, to a line of the table, for
//! people and for programs. Medians and the spread between rounds, because a figure of a busy machine
//! without its spread says nothing.

use std::fmt;

use serde_json::{Value, json};

use crate::stats::{Row, figure, percentile};

/// A row got worse by half if it is more than this many times what it was.
const WORSE: f64 = 1.5;

/// One figure of one build, by round.
#[derive(Debug, Default)]
struct Series {
    values: Vec<f64>,
    is_worst: bool,
    /// Of the highest.
    notes: String,
}

impl Series {
    fn add(&mut self, row: &Row) {
        // A figure that is none is the highest.
        if self.values.iter().all(|it| it.total_cmp(&row.value).is_lt()) {
            self.notes.clone_from(&row.notes);
        }
        self.is_worst = row.is_worst;
        self.values.push(row.value);
    }

    fn percentile(&self, percent: usize) -> f64 {
        percentile(self.values.clone(), percent)
    }

    /// What counts.
    fn value(&self) -> f64 {
        if self.is_worst { self.percentile(100) } else { self.percentile(50) }
    }

    fn is_whole(&self) -> bool {
        !self.values.is_empty() && self.values.iter().all(|it| it.is_finite())
    }
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Line {
    group: String,
    /// As the table shows it, and whole.
    metric: (String, String),
    unit: String,
    bar: Option<f64>,
    ours: Series,
    /// Empty if there is no other build.
    against: Series,
}

/// Which build a round was of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Build {
    Ours,
    Against,
}

/// The lines of a group, from its rounds in any order.
pub(crate) fn lines(group: &str, rounds: &[(Build, Vec<Row>)]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (build, rows) in rounds {
        let mut began = "";
        for row in rows {
            let rest = row.metric.strip_prefix("… ");
            let whole = rest.map_or_else(|| row.metric.clone(), |rest| format!("{began}, {rest}"));
            if rest.is_none() {
                began = &row.metric;
            }
            let at = lines.iter().position(|it| it.metric.1 == whole).unwrap_or_else(|| {
                lines.push(Line {
                    group: group.to_owned(),
                    metric: (row.metric.clone(), whole),
                    unit: row.unit.clone(),
                    bar: row.bar,
                    ours: Series::default(),
                    against: Series::default(),
                });
                lines.len() - 1
            });
            match build {
                Build::Ours => lines[at].ours.add(row),
                Build::Against => lines[at].against.add(row),
            }
        }
    }
    lines
}

impl Line {
    /// Whether no round of ours failed.
    pub(crate) fn is_whole(&self) -> bool {
        self.ours.values.is_empty() || self.ours.is_whole()
    }

    fn met(&self) -> Option<bool> {
        // A figure that is none is not met.
        let bar = self.bar.map(|bar| self.ours.value() <= bar);
        if self.is_whole() { bar } else { Some(false) }
    }

    fn ratio(&self) -> Option<f64> {
        let ratio = self.ours.value() / self.against.value();
        (self.ours.is_whole() && self.against.is_whole() && ratio.is_finite()).then_some(ratio)
    }

    /// Whether it got worse by half, beyond what a busy machine does to it: not only in the median but
    /// also in the best round, which other work disturbs least; by more than is noise to such a figure,
    /// however small it was; and in every pair of rounds that were measured one after the other, but
    /// one. What must not be at all must not begin.
    pub(crate) fn is_worse(&self) -> bool {
        let (now, then) = (&self.ours, &self.against);
        if !now.is_whole() || !then.is_whole() {
            return false;
        }
        if now.is_worst && self.bar == Some(0.0) {
            return now.value() > then.value();
        }
        let noise = match &*self.unit {
            "ms" => 1.0,
            // Of something for each message.
            "each" => 0.9,
            _ => 4.0,
        };
        let pairs = now.values.iter().zip(&then.values);
        let exceptions = pairs.filter(|(now, then)| now <= then).count();
        exceptions <= usize::from(now.values.len() > 2)
            && [0, 50].iter().all(|percent| {
                let (now, then) = (now.percentile(*percent), then.percentile(*percent));
                now > then * WORSE && now > then + noise
            })
    }

    /// The columns that `scripts/bench.sh` describes.
    pub(crate) fn json(&self) -> Value {
        let figures = |of: &Series| {
            let some = |value: f64| value.is_finite().then_some(value);
            json!({"value": some(of.value()), "low": some(of.percentile(0)),
                "high": some(of.percentile(100)), "rounds": of.values})
        };
        json!({
            "group": self.group,
            "metric": self.metric.1,
            "unit": self.unit,
            "ours": figures(&self.ours),
            "against": (!self.against.values.is_empty()).then(|| figures(&self.against)),
            "ratio": self.ratio(),
            "worse": self.is_worse(),
            "bar": self.bar,
            "met": self.met(),
            "notes": self.ours.notes,
        })
    }
}

/// The head of the table.
pub(crate) fn head(compares: bool) -> String {
    if compares {
        "| metric | ours | against | ratio | bar | met | spread, notes |\n|---|---|---|---|---|---|---|"
    } else {
        "| metric | ours | bar | met | spread, notes |\n|---|---|---|---|---|"
    }
    .to_owned()
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_unit = |value: f64| {
            if value.is_nan() {
                return "failed".to_owned();
            }
            format!("{} {}", figure(value), self.unit).trim_end().to_owned()
        };
        let dash = || "–".to_owned();
        let met = match self.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        write!(f, "| {} | {} |", self.metric.0, with_unit(self.ours.value()))?;
        if !self.against.values.is_empty() {
            let ratio = self.ratio().map_or_else(dash, |ratio| format!("{ratio:.2}"));
            let mark = if self.is_worse() { " **worse**" } else { "" };
            write!(f, " {} | {ratio}{mark} |", with_unit(self.against.value()))?;
        }
        write!(f, " {} | {met} | ", self.bar.map_or_else(dash, with_unit))?;
        for (name, of) in [("", &self.ours), ("against ", &self.against)] {
            if of.values.len() > 1 {
                let (low, high) = (of.percentile(0), of.percentile(100));
                write!(
                    f,
                    "{name}{}–{} in {} rounds; ",
                    figure(low),
                    figure(high),
                    of.values.len()
                )?;
            }
        }
        write!(f, "{} |", self.ours.notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(unit: &str, ours: &[f64], against: &[f64]) -> Line {
        let row = |build, value: &f64| (build, vec![Row::told("x", *value, unit)]);
        let ours = ours.iter().map(|value| row(Build::Ours, value));
        let rounds: Vec<_> =
            ours.chain(against.iter().map(|value| row(Build::Against, value))).collect();
        lines("g", &rounds).remove(0)
    }

    #[track_caller]
    fn check(unit: &str, ours: &[f64], against: &[f64], expected: bool) {
        assert_eq!(line(unit, ours, against).is_worse(), expected);
    }

    #[test]
    fn worse_is_what_noise_does_not_explain() {
        check("ms", &[8.0, 9.0, 9.5], &[4.0, 5.0, 5.5], true);
        check("ms", &[5.0, 9.0, 9.5], &[4.0, 5.0, 5.5], false);
        check("ms", &[8.0, 7.0, 6.5], &[4.0, 5.0, 5.5], false);
        check("ms", &[8.0, 9.0, 1e3, 10.0], &[4.0, 5.0, 5.5, 11.0], true);
        check("ms", &[8.0, 9.0, 1e3, 10.0], &[4.0, 5.0, 1e4, 11.0], false);
        check("ms", &[0.9, 0.9, 0.9], &[0.2, 0.2, 0.2], false);
        check("MB", &[13.0], &[8.0], true);
        check("MB", &[11.9], &[8.0], false);
        check("each", &[1.0], &[0.0], true);
        check("each", &[4.0], &[3.0], false);
        check("ms", &[f64::NAN, 90.0], &[1.0, 1.0], false);
        check("ms", &[90.0, 90.0], &[], false);
    }

    #[test]
    fn what_must_not_be_counts_in_every_round() {
        let lost = |build, value| (build, vec![Row::at_most("lost", value, 0.0, "").worst()]);
        let rounds = |last| {
            let (ours, against) = (Build::Ours, Build::Against);
            lines("g", &[lost(ours, 0.0), lost(against, 0.0), lost(ours, last), lost(against, 0.0)])
        };
        assert!(!rounds(0.0)[0].is_worse());
        let lines = rounds(1.0);
        assert!(lines[0].is_worse());
        assert_eq!(lines[0].met(), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let row = Row::failed("x", &anyhow::anyhow!("no\nluck"));
        let lines = lines("g", &[(Build::Ours, vec![row])]);
        assert!(!lines[0].is_whole());
        assert_eq!(lines[0].to_string(), "| x | failed | – | **no** | no luck |");
        assert_eq!(lines[0].json()["ours"]["value"], Value::Null);
    }

    #[test]
    fn a_line_has_the_median_and_the_spread_of_both_builds() {
        let rows = |value| {
            vec![
                Row::at_most("x: p50", value, 5.0, "ms").note(value),
                Row::told("… p99", 7.0, "ms"),
            ]
        };
        let (ours, against) = (Build::Ours, Build::Against);
        let rounds = [
            (against, rows(2.0)),
            (ours, rows(3.0)),
            (ours, rows(6.0)),
            (against, rows(2.0)),
            (ours, rows(4.0)),
        ];
        let lines = lines("g", &rounds);
        assert_eq!(
            lines[0].to_string(),
            "| x: p50 | 4.00 ms | 2.00 ms | 2.00 | 5.00 ms | yes | \
             3.00–6.00 in 3 rounds; against 2.00–2.00 in 2 rounds; 6 |"
        );
        assert_eq!(
            lines[1].json(),
            json!({"group": "g", "metric": "x: p50, p99", "unit": "ms",
                "ours": {"value": 7.0, "low": 7.0, "high": 7.0, "rounds": [7.0, 7.0, 7.0]},
                "against": {"value": 7.0, "low": 7.0, "high": 7.0, "rounds": [7.0, 7.0]},
                "ratio": 1.0, "worse": false, "bar": null, "met": null, "notes": ""})
        );
    }
}

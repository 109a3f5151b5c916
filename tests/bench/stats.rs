//! From samples to a line of the table. Medians and the spread between rounds, because a figure of a
//! busy machine without its spread says nothing.

use std::fmt;

/// Samples of some rounds, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    /// Each of `values` is a round.
    pub(crate) fn each(values: impl IntoIterator<Item = f64>) -> Rounds {
        Rounds(values.into_iter().map(|value| vec![value]).collect())
    }

    /// Cuts the samples of one long run into `rounds` of about the same length.
    pub(crate) fn cut(samples: &[f64], rounds: usize) -> Rounds {
        let length = samples.len().div_ceil(rounds).max(1);
        Rounds(samples.chunks(length).map(<[f64]>::to_vec).collect())
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// Of all samples, by nearest rank.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        percentile(self.0.iter().flatten().copied().collect(), percent)
    }

    /// The lowest and the highest of the rounds' medians.
    fn spread(&self) -> (f64, f64) {
        let medians = self.0.iter().map(|round| percentile(round.clone(), 50));
        medians
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(it), high.max(it)))
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.spread();
        let (rounds, samples) = (self.0.len(), self.0.iter().map(Vec::len).sum::<usize>());
        write!(f, "{}–{}, {rounds} rounds", figure(low), figure(high))?;
        if samples > rounds { write!(f, ", {samples} samples") } else { Ok(()) }
    }
}

/// By nearest rank; no samples have none.
fn percentile(mut samples: Vec<f64>, percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Three digits are more than such a figure is worth.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    metric: String,
    ours: String,
    bar: String,
    pub(crate) met: Option<bool>,
    notes: String,
}

impl Row {
    /// A figure that must not be higher than `bar`.
    pub(crate) fn at_most(metric: impl Into<String>, ours: f64, bar: f64, unit: &str) -> Row {
        Row {
            metric: metric.into(),
            ours: format!("{} {unit}", figure(ours)).trim_end().to_owned(),
            bar: format!("{} {unit}", figure(bar)).trim_end().to_owned(),
            // A figure that is none is not met.
            met: Some(ours <= bar),
            notes: String::new(),
        }
    }

    /// A figure without a bar.
    pub(crate) fn told(metric: impl Into<String>, ours: f64, unit: &str) -> Row {
        Row { bar: "–".to_owned(), met: None, ..Row::at_most(metric, ours, 0.0, unit) }
    }

    /// What could not be measured.
    pub(crate) fn failed(metric: &str, error: &anyhow::Error) -> Row {
        let notes = format!("{error:#}").replace(['\n', '|'], " ");
        let (ours, bar) = ("failed".to_owned(), "–".to_owned());
        Row { metric: metric.to_owned(), ours, bar, met: Some(false), notes }
    }

    pub(crate) fn note(mut self, note: impl fmt::Display) -> Row {
        let separator = if self.notes.is_empty() { "" } else { "; " };
        self.notes = format!("{}{separator}{note}", self.notes);
        self
    }
}

pub(crate) const HEAD: &str =
    "| metric | ours | bar | met | spread, notes |\n|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let Row { metric, ours, bar, notes, .. } = self;
        write!(f, "| {metric} | {ours} | {bar} | {met} | {notes} |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_taken() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (percent, expected) in [(0, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)] {
            assert_eq!(percentile(hundred.clone(), percent), expected, "{percent}");
        }
        assert_eq!(percentile(vec![7.0], 99), 7.0);
        assert_eq!(percentile(vec![3.0, 1.0, 2.0], 50), 2.0);
        assert!(percentile(Vec::new(), 50).is_nan());
    }

    #[test]
    fn the_spread_is_that_of_the_rounds() {
        let rounds = Rounds::cut(&[1.0, 1.0, 9.0, 4.0, 4.0, 4.0, 2.0], 3);
        assert_eq!(rounds.spread(), (1.0, 4.0));
        assert_eq!(rounds.median(), 4.0);
        assert_eq!(rounds.to_string(), "1.00–4.00, 3 rounds, 7 samples");
        assert_eq!(Rounds::each([1.0, 2.0]).to_string(), "1.00–2.00, 2 rounds");
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert_eq!(Row::at_most("x", 2.0, 2.0, "ms").met, Some(true));
        assert_eq!(Row::at_most("x", 2.1, 2.0, "ms").met, Some(false));
        assert_eq!(Row::at_most("x", f64::NAN, 2.0, "ms").met, Some(false));
        assert_eq!(Row::told("x", 2.0, "ms").met, None);
        let row = Row::at_most("x", 123.4, 10.0, "MB").note("a").note("b");
        assert_eq!(row.to_string(), "| x | 123 MB | 10.0 MB | **no** | a; b |");
    }
}

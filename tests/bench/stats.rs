//! From samples to figures.

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

    pub(crate) fn mean(&self) -> f64 {
        let samples: Vec<f64> = self.0.iter().flatten().copied().collect();
        samples.iter().sum::<f64>() / f64::from(u32::try_from(samples.len()).unwrap_or(u32::MAX))
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
pub(crate) fn percentile(mut samples: Vec<f64>, percent: usize) -> f64 {
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

/// A figure of one round.
#[derive(Debug)]
pub(crate) struct Row {
    /// One that begins with an ellipsis goes on with what the last one without began.
    pub(crate) metric: String,
    /// Not a number if it could not be measured.
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) bar: Option<f64>,
    /// Of several rounds the highest counts, not the median: what must not be at all.
    pub(crate) is_worst: bool,
    pub(crate) notes: String,
}

impl Row {
    /// A figure that must not be higher than `bar`.
    pub(crate) fn at_most(metric: impl Into<String>, ours: f64, bar: f64, unit: &str) -> Row {
        Row { bar: Some(bar), ..Row::told(metric, ours, unit) }
    }

    /// A figure without a bar.
    pub(crate) fn told(metric: impl Into<String>, ours: f64, unit: &str) -> Row {
        Row {
            metric: metric.into(),
            value: ours,
            unit: unit.to_owned(),
            bar: None,
            is_worst: false,
            notes: String::new(),
        }
    }

    /// What could not be measured.
    pub(crate) fn failed(metric: &str, error: &anyhow::Error) -> Row {
        let notes = format!("{error:#}").replace(['\n', '|'], " ");
        Row::told(metric, f64::NAN, "").note(notes)
    }

    pub(crate) fn worst(self) -> Row {
        Row { is_worst: true, ..self }
    }

    pub(crate) fn note(mut self, note: impl fmt::Display) -> Row {
        let separator = if self.notes.is_empty() { "" } else { "; " };
        self.notes = format!("{}{separator}{note}", self.notes);
        self
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
}

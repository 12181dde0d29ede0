//! Measured values and their statistics.

/// Measured values, in the unit of their row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|known| *known < value);
        self.0.insert(at, value);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(50)
    }

    /// Of fewer than 100 values it is the largest one.
    pub(crate) fn p99(&self) -> f64 {
        self.quantile(99)
    }

    fn quantile(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    /// The mean of the middle eight tenths. Moves take whole timer ticks, so a median jumps by a tick where the mean
    /// shifts by a little; and on a machine that does other work too the slowest runs measure that work.
    pub(crate) fn trimmed_mean(&self) -> f64 {
        let cut = self.0.len() / 10;
        let kept = &self.0[cut..self.0.len() - cut];
        kept.iter().sum::<f64>() / kept.len() as f64
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut samples = Self::default();
        values.into_iter().for_each(|value| samples.push(value));
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let samples: Samples = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            (samples.min(), samples.median(), samples.p99(), samples.max(), samples.len()),
            (1.0, 100.0, 198.0, 200.0, 200)
        );
        assert_eq!(samples.trimmed_mean(), 100.5);
        let one: Samples = [7.0].into_iter().collect();
        assert_eq!((one.min(), one.median(), one.p99(), one.trimmed_mean()), (7.0, 7.0, 7.0, 7.0));
    }
}

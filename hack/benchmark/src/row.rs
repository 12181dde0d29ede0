//! One row of the table: a measure, what it was compared with, and what it may be.

use serde::{Deserialize, Serialize};

use crate::samples::Samples;

/// A row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) measure: String,
    pub(crate) unit: String,
    pub(crate) runs: usize,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// Mean of the middle eight tenths: what ratios are made of.
    pub(crate) mean: f64,
    /// What was measured beside it in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) floor: Option<Floor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Budget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) is_met: Option<bool>,
    /// What peers took where they were measured; not measured in this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quoted: Option<String>,
}

/// What a row is compared with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Floor {
    pub(crate) name: String,
    pub(crate) median: f64,
    pub(crate) mean: f64,
}

/// What a measure may be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Budget {
    /// Times the floor.
    Ratio(f64),
    /// The median, in the row's unit.
    Median(f64),
    /// The 99th percentile, in the row's unit.
    P99(f64),
    /// The largest value, in the row's unit.
    Most(f64),
    /// The median in the row's unit, and times the floor.
    MedianAndRatio(f64, f64),
    /// The median and the 99th percentile, in the row's unit.
    MedianAndP99(f64, f64),
}

impl Row {
    pub(crate) fn new(measure: impl Into<String>, unit: &str, samples: &Samples) -> Self {
        Self {
            measure: measure.into(),
            unit: unit.into(),
            runs: samples.len(),
            min: samples.min(),
            median: samples.median(),
            p99: samples.p99(),
            mean: samples.trimmed_mean(),
            floor: None,
            ratio: None,
            budget: None,
            is_met: None,
            quoted: None,
        }
    }

    /// A row of one value.
    pub(crate) fn one(measure: impl Into<String>, unit: &str, value: f64) -> Self {
        Self::new(measure, unit, &[value].into_iter().collect())
    }

    pub(crate) fn beside(mut self, name: &str, floor: &Samples) -> Self {
        self.ratio = Some(self.mean / floor.trimmed_mean());
        self.floor = Some(Floor { name: name.into(), median: floor.median(), mean: floor.trimmed_mean() });
        self
    }

    pub(crate) fn budget(mut self, budget: Budget) -> Self {
        let within = |ratio: f64| self.ratio.is_some_and(|is| is <= ratio);
        self.is_met = Some(match budget {
            Budget::Ratio(ratio) => within(ratio),
            Budget::Median(most) => self.median <= most,
            Budget::P99(most) | Budget::Most(most) => self.p99 <= most,
            Budget::MedianAndRatio(most, ratio) => self.median <= most && within(ratio),
            Budget::MedianAndP99(median, p99) => self.median <= median && self.p99 <= p99,
        });
        self.budget = Some(budget);
        self
    }

    pub(crate) fn quoted(mut self, text: &str) -> Self {
        self.quoted = Some(text.into());
        self
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ratio(ratio) => write!(out, "≤ {ratio:.2}×"),
            Self::Median(most) | Self::Most(most) => write!(out, "≤ {most}"),
            Self::P99(most) => write!(out, "p99 ≤ {most}"),
            Self::MedianAndRatio(most, ratio) => write!(out, "≤ {most}, ≤ {ratio}×"),
            Self::MedianAndP99(median, p99) => write!(out, "≤ {median}, p99 ≤ {p99}"),
        }
    }
}

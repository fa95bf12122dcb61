//! A measured figure and what it is held against; order statistics of samples.

use serde::Serialize;

/// One figure. Where there is a `ratio`, gate and target speak of it, else of the value; lower is
/// better unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Figure {
    pub value: f64,
    pub unit: &'static str,
    /// Must hold.
    pub gate: Option<f64>,
    /// The aim.
    pub target: Option<f64>,
    /// What the peer needed, in the same unit and run.
    pub peer: Option<f64>,
    /// Value by peer.
    pub ratio: Option<f64>,
    /// Whether gate and target are the least that is wanted, not the most.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more_is_better: bool,
}

/// A bench's figures by their keys, in the order in which they are shown.
pub type Figures = Vec<(&'static str, Figure)>;

impl Figure {
    pub fn new(value: f64, unit: &'static str) -> Self {
        Self { value: rounded(value), unit, gate: None, target: None, peer: None, ratio: None, more_is_better: false }
    }

    pub fn held_to(self, gate: f64, target: f64) -> Self {
        Self { gate: Some(gate), target: Some(target), ..self }
    }

    /// As `held_to`, of what is to be large.
    pub fn at_least(self, gate: f64, target: f64) -> Self {
        Self { more_is_better: true, ..self.held_to(gate, target) }
    }

    pub fn against(self, peer: f64) -> Self {
        Self { peer: Some(rounded(peer)), ratio: Some(rounded(self.value / peer)), ..self }
    }

    /// Whether the gate was held; none without a gate.
    pub fn held(&self) -> Option<bool> {
        let judged = self.ratio.unwrap_or(self.value);
        self.gate.map(|gate| if self.more_is_better { judged >= gate } else { judged <= gate })
    }
}

/// To four significant digits: more are noise.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// Samples in rising order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn p50(&self) -> f64 {
        self.percentile(50.0)
    }

    pub fn p99(&self) -> f64 {
        self.percentile(99.0)
    }

    /// The smallest sample that no less than `percent` of all are at most; NaN without samples.
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (self.0.len() as f64 * percent / 100.0).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(samples: T) -> Self {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_speaks_of_the_ratio_where_there_is_a_peer() {
        let plain = Figure::new(60.0, "ms").held_to(100.0, 60.0);
        assert_eq!((plain.held(), plain.ratio), (Some(true), None));
        let compared = Figure::new(9.0, "ms").held_to(0.75, 0.4).against(10.0);
        assert_eq!((compared.held(), compared.ratio), (Some(false), Some(0.9)));
        assert_eq!(Figure::new(9.0, "ms").held(), None);
    }

    #[test]
    fn what_is_to_be_large_is_held_from_below() {
        let fast = Figure::new(1.8, "Gbit/s").at_least(2.0, 3.0);
        assert_eq!((fast.against(0.6).held(), fast.against(1.0).held()), (Some(true), Some(false)));
        assert_eq!(Figure::new(f64::NAN, "Gbit/s").at_least(2.0, 3.0).held(), Some(false));
    }

    #[test]
    fn a_missing_value_never_holds_a_gate() {
        assert_eq!(Figure::new(Samples::default().p50(), "ms").held_to(100.0, 60.0).held(), Some(false));
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        assert_eq!((samples.p50(), samples.p99(), samples.percentile(100.0)), (50.0, 99.0, 100.0));
        let few: Samples = [3.0, 1.0].into_iter().collect();
        assert_eq!((few.p50(), few.p99()), (1.0, 3.0));
    }

    #[test]
    fn figures_keep_four_digits() {
        let values = [1234.56, 0.012_345_6, 0.0, 99.999];
        assert_eq!(values.map(|value| Figure::new(value, "ms").value), [1235.0, 0.01235, 0.0, 100.0]);
    }
}

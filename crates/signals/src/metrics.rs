//! Metrics: their names in one place ([`names`]), and how they become what Prometheus reads.
//!
//! Hot paths count in plain atomics of their own (or a [`Histogram`] here); at a scrape every
//! [`Source`] says what it has. Labels have few values by design: no app, machine or client is one.

mod histogram;
mod merge;
pub mod names;
mod render;

pub use histogram::{Histogram, Measured};
pub use merge::merge;
pub use render::{CONTENT_TYPE, render};

/// One metric, whatever process emits it.
#[derive(Debug)]
pub struct Metric {
    /// As Prometheus shows it, a counter without its `_total`.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// One sentence, with the unit.
    pub help: &'static str,
}

impl PartialEq for Metric {
    /// A name is given once.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    Gauge,
    /// Durations, in seconds.
    Histogram,
}

/// Somebody who has metrics. Asked at every scrape; must not block.
pub trait Source: Send + Sync {
    fn collect(&self, samples: &mut Samples);
}

impl<F: Fn(&mut Samples) + Send + Sync> Source for F {
    fn collect(&self, samples: &mut Samples) {
        self(samples);
    }
}

/// What the sources of a process said at one scrape.
#[derive(Default)]
pub struct Samples(Vec<Sample>);

struct Sample {
    metric: &'static Metric,
    labels: Vec<(&'static str, String)>,
    value: Value,
}

enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Measured),
}

impl Samples {
    /// `labels`: the values, in the order in which the metric names its labels.
    pub fn counter(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        self.add(metric, Kind::Counter, labels, Value::Counter(value));
    }

    pub fn gauge(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.add(metric, Kind::Gauge, labels, Value::Gauge(value));
    }

    pub fn histogram(&mut self, metric: &'static Metric, labels: &[&str], measured: Measured) {
        self.add(metric, Kind::Histogram, labels, Value::Histogram(measured));
    }

    fn add(&mut self, metric: &'static Metric, kind: Kind, labels: &[&str], value: Value) {
        debug_assert!(metric.kind == kind && metric.labels.len() == labels.len(), "{} is used wrongly", metric.name);
        let labels = metric.labels.iter().copied().zip(labels.iter().map(|value| (*value).to_owned())).collect();
        self.0.push(Sample { metric, labels, value });
    }
}

//! From samples to text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::names::ALL;
use super::{Kind, Metric, Sample, Samples, Source, Value};

/// Of what [`render`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `sources` say now, each line labelled with `process`.
pub fn render(process: &'static str, sources: &[&dyn Source]) -> String {
    let mut samples = Samples::default();
    for source in sources {
        source.collect(&mut samples);
    }
    let mut registry = Registry::with_labels([("process".into(), process.into())].into_iter());
    registry.register_collector(Box::new(Scrape(samples)));
    let mut text = String::new();
    // Writing to a string cannot fail, and neither do our collector's values.
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(fmt::Error) => String::new(),
    }
}

/// The samples of one scrape, grouped by metric.
struct Scrape(Samples);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in ALL {
            let mut samples = self.0.0.iter().filter(|sample| sample.metric == *metric).peekable();
            if samples.peek().is_none() {
                continue;
            }
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind_of(metric))?;
            for Sample { labels, value, .. } in samples {
                match labels.as_slice() {
                    [] => write(&mut family, value)?,
                    labels => write(&mut family.encode_family(&labels)?, value)?,
                }
            }
        }
        Ok(())
    }
}

fn kind_of(metric: &Metric) -> MetricType {
    match metric.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}

fn write(encoder: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Counter(value) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        Value::Gauge(value) => encoder.encode_gauge(value),
        Value::Histogram(measured) => {
            encoder.encode_histogram::<NoLabelSet>(measured.sum, measured.count, &measured.buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Histogram, names};

    #[test]
    fn samples_of_several_sources_become_one_family_each() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        let one = |samples: &mut Samples| {
            samples.counter(&names::EDGE_RESPONSES, &["2xx"], 3);
            samples.gauge(&names::CATALOGUE_LEASED, &[], 1.0);
            samples.histogram(&names::EDGE_WAKE_SECONDS, &[], histogram.measured());
        };
        let two = |samples: &mut Samples| samples.counter(&names::EDGE_RESPONSES, &["a \"quote\""], 4);
        let text = render("edge", &[&one, &two]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("# TYPE atoll_edge_responses ")).count(), 1);
        for expected in [
            r#"atoll_edge_responses_total{process="edge",class="2xx"} 3"#,
            r#"atoll_edge_responses_total{process="edge",class="a \"quote\""} 4"#,
            r#"atoll_catalogue_leased{process="edge"} 1.0"#,
            r#"atoll_edge_wake_seconds_count{process="edge"} 1"#,
            r#"atoll_edge_wake_seconds_bucket{process="edge",le="+Inf"} 1"#,
            "# EOF",
        ] {
            assert!(lines.iter().any(|line| squeezed(line) == squeezed(expected)), "{expected} is not in\n{text}");
        }
    }

    /// Without regard to the order of labels, which is nobody's business.
    fn squeezed(line: &str) -> Vec<char> {
        let mut letters: Vec<char> = line.chars().collect();
        letters.sort_unstable();
        letters
    }
}

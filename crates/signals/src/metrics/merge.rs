//! The metrics of several processes as one text.

use std::collections::BTreeMap;

const END: &str = "# EOF";

/// Puts the texts of several processes together: what belongs to one metric must stand together. The
/// texts are ours; lines before the first metric are left out.
pub fn merge<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    // By metric: its description, which is the same everywhere, and its samples.
    let mut families: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for text in texts {
        let mut current = None;
        for line in text.lines().filter(|line| *line != END) {
            let described = line.strip_prefix("# ").and_then(|line| line.split(' ').nth(1));
            if let Some(name) = described {
                current = Some(name);
            }
            let Some(name) = current else { continue };
            let (description, samples) = families.entry(name).or_default();
            match described {
                Some(_) if description.contains(&line) => {}
                Some(_) => description.push(line),
                None => samples.push(line),
            }
        }
    }
    let lines = families.into_values().flat_map(|(description, samples)| description.into_iter().chain(samples));
    lines.chain([END]).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_of_two_processes_stands_together() {
        let edge =
            "# HELP up Is.\n# TYPE up gauge\nup{process=\"edge\"} 1\n# HELP z Last.\n# TYPE z gauge\nz 1\n# EOF\n";
        let worker = "# HELP up Is.\n# TYPE up gauge\nup{process=\"worker\"} 1\n# EOF\n";
        assert_eq!(
            merge([edge, "", worker]),
            "# HELP up Is.\n# TYPE up gauge\nup{process=\"edge\"} 1\nup{process=\"worker\"} 1\n\
             # HELP z Last.\n# TYPE z gauge\nz 1\n# EOF\n"
        );
    }
}

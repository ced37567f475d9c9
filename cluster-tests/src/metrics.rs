//! What a node says of itself at `/metrics`, in the text form of Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::cluster::{Node, get};

/// The samples of one look, by name with labels.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Asks a node.
    ///
    /// # Errors
    /// When it does not answer, or not with metrics.
    pub fn of(node: &Node) -> Result<Metrics, String> {
        Metrics::at(node.http_place())
    }

    /// Asks whoever listens there.
    ///
    /// # Errors
    /// As [`Metrics::of`].
    pub fn at(place: SocketAddr) -> Result<Metrics, String> {
        match get(place, "/metrics") {
            Ok((200, text)) => Ok(Metrics::parse(&text)),
            Ok((code, text)) => Err(format!("/metrics answers {code}: {text}")),
            Err(error) => Err(format!("/metrics: {error}")),
        }
    }

    fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.trim().to_owned(), value.parse().ok()?))
        });
        Metrics { samples: samples.collect() }
    }

    /// The sum of a name over all its labels; `None` when it is not there.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let mut found = self.samples.iter().filter(|(key, _)| {
            key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        });
        let first = *found.next()?.1;
        Some(found.fold(first, |sum, (_, value)| sum + value))
    }

    /// The names, without labels.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|key| key.split('{').next().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_their_labels_and_comments_are_none() {
        let text = "# HELP a_total x\na_total{peer=\"1\"} 2\na_total{peer=\"2\"} 3.5\na_total_other 9\nb 1\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total"), Some(5.5));
        assert_eq!(metrics.sum("b"), Some(1.0));
        assert_eq!(metrics.sum("a"), None);
        assert_eq!(metrics.names(), BTreeSet::from(["a_total", "a_total_other", "b"]));
    }
}

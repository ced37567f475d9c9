//! The alerts and the dashboard that come with it: Prometheus and Grafana can read them, and they look at what there is.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Node, port, source};
use client::Commit;
use serde_json::Value;

const ALERTS: &str = include_str!("../../docs/alerts.yaml");
const DASHBOARD: &str = include_str!("../../docs/grafana.json");

/// The families of a node that has done a little, and the labels of each.
async fn families() -> BTreeMap<String, BTreeSet<String>> {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let order = Commit { wait_all: true, ..Commit::new("job".parse().unwrap()) };
    node.client().await.commit(&source, order, &|_| {}).await.unwrap();
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in node.get("/metrics").1.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            families.insert(help.split(' ').next().unwrap().to_owned(), BTreeSet::new());
        }
        let Some((name, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else { continue };
        let labels = labels.rsplit_once('}').unwrap().0.split("\",");
        let labels = labels.map(|label| label.split('=').next().unwrap().to_owned());
        families.entry(family(name).to_owned()).or_default().extend(labels);
    }
    families
}

fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// Words of an expression, and the character behind each.
fn words(expr: &str) -> Vec<(&str, Option<char>)> {
    let is_of_a_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = expr;
    while let Some(start) = rest.find(is_of_a_word) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len());
        words.push((&rest[..end], rest[end..].chars().next()));
        rest = &rest[end..];
    }
    words
}

#[track_caller]
fn looks_at_what_there_is(expr: &str, families: &BTreeMap<String, BTreeSet<String>>) {
    let of = words(expr).into_iter().filter(|(word, _)| word.starts_with("epochlog_"));
    let of: Vec<&str> = of.map(|(name, _)| name).collect();
    assert!(!of.is_empty(), "{expr}");
    for name in &of {
        assert!(families.contains_key(family(name)), "there is no {name}: {expr}");
    }
    // Labels that are asked for are labels of one of them.
    let asked = words(expr).into_iter().filter(|(_, next)| *next == Some('='));
    for (label, _) in asked {
        let is_one = |name: &&str| families[family(name)].contains(label);
        assert!(of.iter().any(is_one), "none of {of:?} has {label}: {expr}");
    }
    for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
        assert_eq!(expr.matches(open).count(), expr.matches(close).count(), "{expr}");
    }
}

/// The rules, by a reader of no more of YAML than they are written in: whatever else stands there is a mistake.
fn rules() -> Vec<BTreeMap<&'static str, &'static str>> {
    let mut lines = ALERTS.lines().filter(|line| !line.starts_with('#'));
    let head: Vec<&str> = lines.by_ref().take(3).collect();
    assert_eq!(head, ["groups:", "  - name: epochlog", "    rules:"]);
    let lines: Vec<&str> = lines.collect();
    let starts =
        ["      - alert: ", "        expr: ", "        for: ", "        labels:", "          severity: "];
    let starts = [&starts[..], &["        annotations:", "          summary: "]].concat();
    let rule = |lines: &[&'static str]| {
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        let value = |(line, start): (&&'static str, &&'static str)| {
            let value = line.strip_prefix(start).unwrap_or_else(|| panic!("{line:?} should be {start:?}"));
            (start.trim_matches([' ', '-', ':']), value)
        };
        lines.iter().zip(&starts).map(value).collect()
    };
    lines.chunks(starts.len()).map(rule).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_can_be_read_and_look_at_metrics_that_there_are() {
    let families = families().await;
    let rules = rules();
    let mut names = BTreeSet::new();
    for rule in &rules {
        assert!(rule["alert"].starts_with("Epochlog") && names.insert(rule["alert"]), "{rule:?}");
        let (number, unit) = rule["for"].split_at(rule["for"].len() - 1);
        assert!(number.parse::<u32>().is_ok() && ["s", "m", "h"].contains(&unit), "{rule:?}");
        assert!(["page", "warning"].contains(&rule["severity"]), "{rule:?}");
        // A text in quotes that holds none, so that the rest of YAML has no say in it.
        let summary = rule["summary"].strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap();
        assert!(summary.len() > 20 && !summary.contains(['"', '\\']), "{rule:?}");
        assert_eq!(summary.matches("{{").count(), summary.matches("}}").count(), "{rule:?}");
        let expr = rule["expr"];
        assert!(expr.starts_with(|c: char| c.is_ascii_lowercase()), "{rule:?}");
        assert!(!expr.contains(": ") && !expr.contains(" #"), "{rule:?}");
        looks_at_what_there_is(expr, &families);
    }
    for wanted in ["EpochlogNoQuorum", "EpochlogJobSilent", "EpochlogSpaceShort", "EpochlogDamaged"] {
        assert!(names.contains(wanted), "{names:?}");
    }

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let places: BTreeSet<String> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    assert_eq!(places.len(), panels.len());
    for panel in panels {
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            looks_at_what_there_is(target["expr"].as_str().unwrap(), &families);
        }
    }
}

//! What is exported, what `docs/metrics.md` says of it, and what the dashboard for Grafana asks for: one and the same.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Client;
use serde_json::Value;

use crate::canned::Surface;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../docker/grafana-dashboard.json");
const PROMETHEUS: &str = include_str!("../../../docker/prometheus.yaml");

async fn exported() -> String {
    let surface = Surface::open().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{}/metrics", surface.url())).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    answer.text().await.unwrap()
}

/// A family as it is exported.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    help: String,
    unit: String,
    labels: BTreeSet<String>,
    series: Vec<String>,
}

/// What the text says, by the format's own rules: a family's head first, then its series and no others.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    for line in body.lines() {
        if let Some(head) = line.strip_prefix("# ") {
            let (keyword, rest) = head.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            if keyword == "HELP" {
                assert!(!families.contains_key(name), "{name} has two heads");
                name.clone_into(&mut current);
            }
            assert_eq!(name, current, "{line}");
            let family = families.entry(current.clone()).or_default();
            match keyword {
                "HELP" => value.clone_into(&mut family.help),
                "TYPE" => value.clone_into(&mut family.kind),
                "UNIT" => value.clone_into(&mut family.unit),
                _ => panic!("{line}"),
            }
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap();
        let family = families.get_mut(&current).expect("a head before the first series");
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            other => panic!("{other}"),
        };
        let suffix = name.strip_prefix(current.as_str()).expect(line);
        assert!(suffixes.contains(&suffix), "{line}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        if let Some((_, labels)) = series.split_once('{') {
            for label in labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
                family.labels.insert(label.split('=').next().unwrap().to_owned());
            }
        }
        assert!(!family.series.contains(&series.to_owned()), "{series} twice");
        family.series.push(series.to_owned());
    }
    families
}

#[tokio::test]
async fn whoever_asks_at_their_own_address_gets_the_figures_and_nothing_else() {
    let surface = Surface::open_with_tokens().await;
    let figures = surface.figures_alone().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let there = async |path: &str| client.get(format!("http://{figures}{path}")).send().await.unwrap();
    let with_a_token = client.get(format!("{}/metrics", surface.url())).bearer_auth("viewers-token");
    let answer = there("/metrics").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), with_a_token.send().await.unwrap().text().await.unwrap());
    for path in ["/", "/healthz", "/api/v1/workers", "/api/v1/events"] {
        assert_eq!(there(path).await.status(), 404, "{path}");
    }
    assert_eq!(client.post(format!("http://{figures}/metrics")).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn what_is_exported_keeps_to_the_conventions() {
    let text = exported().await;
    for (name, family) in families(&text) {
        assert!(name.starts_with("bulkhead_"), "{name}");
        assert!(!name.ends_with("_total"), "{name}: the format puts that behind a counter");
        assert!(name.ends_with("_seconds") == (family.unit == "seconds"), "{name} in {:?}", family.unit);
        assert!(!["_ms", "_milliseconds", "_percent"].iter().any(|unit| name.ends_with(unit)), "{name}");
        for label in &family.labels {
            let known = ["pool", "phase", "cause", "outcome", "status", "le", "version", "backend"]
                .contains(&label.as_str());
            assert!(known, "{name} by {label}: each worker or container would be a series for ever");
        }
        assert!(!family.series.is_empty(), "{name} has no series");
    }
    assert!(text.contains("bulkhead_build_info{version=\"0.1.0\",backend=\"process\"} 1\n"), "{text}");
    assert!(text.contains("bulkhead_incidents_total{pool=\"web\",cause=\"signal\"} 7\n"), "{text}");
    assert!(text.contains("bulkhead_incidents_total{pool=\"web\",cause=\"oom\"} 0\n"), "{text}");
    assert!(text.contains("bulkhead_door_answers_total{pool=\"echo\",status=\"503\"} 3\n"), "{text}");
    assert!(text.contains("bulkhead_workers{pool=\"web\",phase=\"idle\"} 3.0\n"), "{text}");
    assert!(text.contains("bulkhead_door_up 1.0\n") && text.contains("bulkhead_engine_up 0.0\n"), "{text}");
}

#[tokio::test]
async fn buckets_are_cumulative_and_the_last_one_has_all() {
    let text = exported().await;
    let value = |series: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse::<f64>().unwrap()
    };
    let bucket =
        |le: &str| value(&format!("bulkhead_turn_duration_seconds_bucket{{le=\"{le}\",pool=\"web\"}}"));
    assert_eq!([bucket("0.001"), bucket("0.008"), bucket("0.032"), bucket("65.536")], [1.0, 1.0, 2.0, 2.0]);
    assert_eq!((bucket("+Inf"), value("bulkhead_turn_duration_seconds_count{pool=\"web\"}")), (3.0, 3.0));
    assert_eq!(value("bulkhead_turn_duration_seconds_sum{pool=\"web\"}"), 90.021);
    assert_eq!(value("bulkhead_queue_wait_seconds_bucket{le=\"0.0\",pool=\"web\"}"), 2.0);
}

/// The table of the document: name, type, labels, what it says.
fn documented() -> Vec<[String; 4]> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<String> =
            row.trim_end_matches(" |").split(" | ").map(|it| it.replace('`', "")).collect();
        cells.try_into().expect(row)
    })
    .collect()
}

#[tokio::test]
async fn the_document_lists_what_is_exported() {
    let families = families(&exported().await);
    let mut exported: Vec<[String; 4]> = families
        .into_iter()
        .map(|(name, family)| {
            let suffix = match family.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let labels: Vec<String> = family.labels.into_iter().filter(|label| label != "le").collect();
            let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
            [name + suffix, family.kind, labels, family.help]
        })
        .collect();
    exported.sort();
    let mut documented = documented();
    documented.sort();
    let rows: Vec<String> =
        exported.iter().map(|[a, b, c, d]| format!("| `{a}` | {b} | {c} | {d} |")).collect();
    assert!(exported == documented, "docs/metrics.md is to have these rows:\n{}", rows.join("\n"));
}

#[tokio::test]
async fn the_dashboard_asks_for_what_is_exported() {
    let families = families(&exported().await);
    let series: BTreeSet<String> = families
        .values()
        .flat_map(|family| family.series.iter().map(|it| it.split('{').next().unwrap().to_owned()))
        .collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let names: Vec<&str> = words.filter(|word| word.starts_with("bulkhead_")).collect();
            assert!(!names.is_empty(), "{query} asks for nothing of ours");
            for name in names {
                assert!(series.contains(name), "{name} in {query} is not exported");
                asked.insert(name.to_owned());
            }
            assert_eq!(target["datasource"]["uid"], "bulkhead-prometheus", "{query}");
        }
    }
    assert!(asked.len() >= 15, "it shows little: {asked:?}");
    assert!(PROMETHEUS.contains("metrics_path: /metrics"));
}

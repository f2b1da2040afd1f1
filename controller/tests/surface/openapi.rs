//! What the API says of itself is what it does.

use std::collections::BTreeSet;

use reqwest::{Client, Method};
use serde_json::Value;

use crate::canned::Surface;

const README: &str = include_str!("../../../README.md");

async fn document(surface: &Surface) -> (String, Value) {
    let client = Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{}/openapi.json", surface.url())).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    let text = answer.text().await.unwrap();
    let document = serde_json::from_str(&text).unwrap();
    (text, document)
}

/// Each method of each path.
fn operations(document: &Value) -> BTreeSet<(String, Method)> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().keys().map(|it| it.to_uppercase().parse().unwrap());
        methods.map(|method| (path.clone(), method)).collect::<Vec<(String, Method)>>()
    };
    paths.iter().flat_map(of).collect::<Vec<_>>().into_iter().collect()
}

#[tokio::test]
async fn the_description_is_this_one() {
    let (text, _) = document(&Surface::open().await).await;
    insta::assert_snapshot!("openapi", text);
}

#[tokio::test]
async fn what_is_described_is_served_and_nothing_else() {
    let surface = Surface::open().await;
    let (_, document) = document(&surface).await;
    let operations = operations(&document);
    let client = Client::builder().no_proxy().build().unwrap();
    let paths: BTreeSet<&String> = operations.iter().map(|(path, _)| path).collect();
    for path in paths {
        let place = path
            .replace("{id}", "web-0")
            .replace("pools/{name}", "pools/web")
            .replace("{name}", "index.html");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let answer =
                client.request(method.clone(), format!("{}{place}", surface.url())).send().await.unwrap();
            let served = answer.status() != 405;
            assert_eq!(served, operations.contains(&(path.clone(), method.clone())), "{method} {path}");
            let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
            if kind == "application/problem+json" {
                let problem: Value = answer.json().await.unwrap();
                assert_ne!(problem["type"], "urn:bulkhead:unknown-route", "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn everything_it_refers_to_is_there() {
    let (text, document) = document(&Surface::open().await).await;
    let mut named = BTreeSet::new();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        named.insert(reference.split('"').next().unwrap().to_owned());
    }
    for name in &named {
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
    }
    for name in ["StateFrame", "JournalEvent", "IncidentView", "Problem"] {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} says nothing of itself");
        }
    }
}

#[tokio::test]
async fn the_readme_names_every_route() {
    let (_, document) = document(&Surface::open().await).await;
    for (path, method) in operations(&document) {
        let named = README.lines().any(|line| line.contains(method.as_str()) && line.contains(&path));
        assert!(named, "README.md does not name {method} {path}");
    }
}

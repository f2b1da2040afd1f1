//! What the API promises to programs: every route, and every way to be refused.

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::canned::Surface;

fn ask(surface: &Surface, method: Method, path: &str) -> RequestBuilder {
    let client = Client::builder().no_proxy().build().unwrap();
    client.request(method, format!("{}{path}", surface.url()))
}

async fn get(surface: &Surface, path: &str) -> Value {
    let answer = ask(surface, Method::GET, path).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    assert_eq!(answer.headers()["content-type"], "application/json", "{path}");
    answer.json().await.unwrap()
}

/// The answer to a refused request, on one line. That it is a well-formed problem is asserted on the way.
async fn refusal(request: RequestBuilder) -> String {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let media_type = answer.headers().get("content-type").cloned();
    let body = answer.text().await.unwrap();
    assert_eq!(media_type.unwrap(), "application/problem+json", "{status} {body}");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], status, "{body}");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{body}");
    let kind = problem["type"].as_str().and_then(|kind| kind.strip_prefix("urn:bulkhead:")).unwrap();
    format!("{status} {kind}: {}\n", problem["detail"].as_str().unwrap())
}

#[tokio::test]
async fn workers_are_listed_and_shown_one_by_one() {
    let surface = Surface::open().await;
    let workers = get(&surface, "/api/v1/workers").await;
    assert_eq!(workers.as_array().unwrap().len(), 5);
    let mut web_0 = get(&surface, "/api/v1/workers/web-0").await;
    assert_eq!(web_0["id"], workers[0]["id"]);
    web_0["started_at"] = json!("[time]");
    insta::assert_snapshot!(web_0.to_string(), @r#"{"backend":"process","container":null,"generation":1,"holding":[{"for_ms":12.4,"request":"GET /work?ms=20"}],"id":"web-0","node":null,"phase":"busy","pid":4711,"pod":null,"pool":"web","started_at":"[time]","trouble":null,"turns":1200}"#);
}

#[tokio::test]
async fn pools_and_incidents_are_listed() {
    let surface = Surface::open().await;
    let pools = get(&surface, "/api/v1/pools").await;
    insta::assert_snapshot!(pools[1].to_string(), @r#"{"app":"echo","backend":"process","busy":1,"connections":10000,"counters":{"abandoned":0,"answered":{},"connections":0,"cut":0,"deaths":0,"deliveries":0,"redelivered":0,"turns":0},"degraded":true,"listen":"127.0.0.1:12345","model":"prefork","name":"echo","protocol":"tcp","queued":2,"ready":1,"turn":"connection","wanted":1}"#);
    let incidents = get(&surface, "/api/v1/incidents").await;
    assert_eq!(incidents.as_array().unwrap().len(), 2);
    let mut incident = get(&surface, "/api/v1/incidents/web-0.1").await;
    assert_eq!(incident["id"], incidents[1]["id"]);
    incident["at"] = json!("[time]");
    insta::assert_snapshot!(incident.to_string(), @r#"{"at":"[time]","backend":"process","cause":{"detail":"64 MiB","kind":"oom"},"complete":false,"held":[],"id":"web-0.1","last_output":[],"memory":{"limit_bytes":67108864,"peak_bytes":null},"pool":"web","reproduce":null,"siblings":1,"siblings_failed":null,"steps_ms":{"detected":null,"ready":null,"redelivered":null,"spawned":null},"trouble":"Unschedulable: no node has as much","unit":"pid 4711","worker":"web-0"}"#);
}

#[tokio::test]
async fn logs_are_as_many_lines_as_were_asked_for() {
    let surface = Surface::open().await;
    assert_eq!(get(&surface, "/api/v1/workers/web-0/logs").await.as_array().unwrap().len(), 3);
    let last = get(&surface, "/api/v1/workers/web-0/logs?lines=1").await;
    assert_eq!(last, json!(["thread 'main' panicked"]));
}

#[tokio::test]
async fn orders_reach_the_master() {
    let surface = Surface::open().await;
    let post = |path: &str, body: &Value| {
        let request = ask(&surface, Method::POST, path).json(body);
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap().to_string())
        }
    };
    let kill = "/api/v1/workers/web-0/kill";
    assert_eq!(post(kill, &json!({})).await, (202, r#"{"signal":"SIGKILL","worker":"web-0"}"#.into()));
    assert_eq!(post(kill, &json!({"signal": "term"})).await.1, r#"{"signal":"SIGTERM","worker":"web-0"}"#);
    assert_eq!(post("/api/v1/workers/web-1/drain", &json!({})).await, (202, r#"{"worker":"web-1"}"#.into()));
    let scaled = post("/api/v1/pools/web/scale", &json!({"workers": 6})).await;
    assert_eq!(scaled, (202, r#"{"pool":"web","workers":6}"#.into()));
    let told = ["kill web-0 with 9", "kill web-0 with 15", "drain web-1", "scale web to 6"];
    assert_eq!(surface.orders(), told);
}

#[tokio::test]
async fn an_empty_body_is_an_order_without_wishes() {
    let surface = Surface::open().await;
    let request = ask(&surface, Method::POST, "/api/v1/workers/web-0/kill");
    let answer = request.header("content-type", "application/json; charset=utf-8").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(surface.orders(), ["kill web-0 with 9"]);
}

#[tokio::test]
async fn health_and_readiness_are_two_questions() {
    let early = Surface::open_before_anybody_is_ready().await;
    assert_eq!(ask(&early, Method::GET, "/healthz").send().await.unwrap().status(), 200);
    let unready = refusal(ask(&early, Method::GET, "/readyz")).await;
    insta::assert_snapshot!(unready, @"503 not-ready: the door is not there or gives no sign of life, or a pool has no worker yet; GET /api/v1/state says which");
    let surface = Surface::open().await;
    assert_eq!(ask(&surface, Method::GET, "/readyz").send().await.unwrap().text().await.unwrap(), "ready\n");
}

#[tokio::test]
async fn names_that_are_wrong_or_unknown_are_refused() {
    let surface = Surface::open().await;
    let mut refusals = String::new();
    for path in [
        "/api/v1/workers/web-9",
        "/api/v1/workers/web",
        "/api/v1/workers/%ff",
        "/api/v1/workers/web-9/logs",
        "/api/v1/workers/web-0/logs?lines=many",
        "/api/v1/workers/web-0/logs?line=1",
        "/api/v1/incidents/web-3",
        "/api/v1/incidents/web-3.9",
        "/api/v2/workers",
    ] {
        refusals += &format!("{path}\n  {}", refusal(ask(&surface, Method::GET, path)).await);
    }
    insta::assert_snapshot!(refusals, @r#"
    /api/v1/workers/web-9
      404 unknown-worker: there is no worker web-9: see 'bulkhead ps'
    /api/v1/workers/web
      400 bad-name: "web" is not a worker id: it looks like 'web-3'
    /api/v1/workers/%ff
      400 bad-name: Invalid URL: Invalid UTF-8 in `id`
    /api/v1/workers/web-9/logs
      404 unknown-worker: there is no worker web-9: see 'bulkhead ps'
    /api/v1/workers/web-0/logs?lines=many
      400 bad-query: Failed to deserialize query string: lines: invalid digit found in string: use ?lines=NUMBER
    /api/v1/workers/web-0/logs?line=1
      400 bad-query: Failed to deserialize query string: line: unknown field `line`, expected `lines`: use ?lines=NUMBER
    /api/v1/incidents/web-3
      400 bad-name: "web-3" is not one life of a worker: it looks like 'web-3.7'
    /api/v1/incidents/web-3.9
      404 unknown-incident: there is no incident web-3.9: that worker has not died, or too many others have since; GET /api/v1/incidents lists those that are remembered
    /api/v2/workers
      404 unknown-route: there is nothing at /api/v2/workers; the API begins at /api/v1/
    "#);
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused() {
    let surface = Surface::open().await;
    let mut refusals = String::new();
    for (path, body) in [
        ("workers/web-0/kill", "{"),
        ("workers/web-0/kill", r#"{"signal":9}"#),
        ("workers/web-0/kill", r#"{"signal":"SIGNOSUCH"}"#),
        ("workers/web-0/kill", r#"{"sginal":"SIGKILL"}"#),
        ("workers/web-2/kill", "{}"),
        ("workers/web-3/kill", "{}"),
        ("workers/echo-0/kill", "{}"),
        ("workers/web-9/drain", "{}"),
        ("workers/echo-1/drain", "{}"),
        ("pools/web/scale", ""),
        ("pools/web/scale", r#"{"workers":-1}"#),
        ("pools/web/scale", r#"{"workers":1001}"#),
        ("pools/wbe/scale", r#"{"workers":1}"#),
        ("pools/W/scale", r#"{"workers":1}"#),
    ] {
        let request = ask(&surface, Method::POST, &format!("/api/v1/{path}"));
        let request = request.header("content-type", "application/json").body(body);
        refusals += &format!("{path} {body}\n  {}", refusal(request).await);
    }
    insta::assert_snapshot!(refusals, @r#"
    workers/web-0/kill {
      400 bad-body: the body is not as expected: EOF while parsing an object at line 1 column 1
    workers/web-0/kill {"signal":9}
      400 bad-body: the body is not as expected: invalid type: integer `9`, expected a string at line 1 column 11
    workers/web-0/kill {"signal":"SIGNOSUCH"}
      422 bad-signal: "SIGNOSUCH" is not a signal: use a name such as KILL or SIGTERM, or a number from 1 to 31
    workers/web-0/kill {"sginal":"SIGKILL"}
      400 bad-body: the body is not as expected: unknown field `sginal`, expected `signal` at line 1 column 9
    workers/web-2/kill {}
      409 not-running: worker web-2 is not running at this moment: its next life is on its way
    workers/web-3/kill {}
      502 backend-failed: the backend could not signal web-3: cannot kill web-3.1: the engine is on fire
    workers/echo-0/kill {}
      504 backend-silent: the backend did not signal echo-0 within 10s
    workers/web-9/drain {}
      404 unknown-worker: there is no worker web-9: see 'bulkhead ps'
    workers/echo-1/drain {}
      503 stopping: everything is being stopped
    pools/web/scale 
      400 bad-body: the body is not as expected: missing field `workers` at line 1 column 2
    pools/web/scale {"workers":-1}
      400 bad-body: the body is not as expected: invalid value: integer `-1`, expected u32 at line 1 column 13
    pools/web/scale {"workers":1001}
      422 bad-number: 1001 workers are too many: a pool has at most 1000
    pools/wbe/scale {"workers":1}
      404 unknown-pool: there is no pool wbe: the pools are web, echo
    pools/W/scale {"workers":1}
      400 bad-name: "W" is not a pool name: use 1 to 32 of a-z, 0-9 and '-', a letter first, no '-' last
    "#);
    assert!(surface.orders().is_empty(), "none of them reached the master");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let surface = Surface::open().await;
    let request = ask(&surface, Method::DELETE, "/api/v1/workers");
    assert_eq!(request.try_clone().unwrap().send().await.unwrap().headers()["allow"], "GET,HEAD");
    insta::assert_snapshot!(refusal(request).await, @"405 wrong-method: /api/v1/workers cannot be asked with DELETE; the Allow header says with what");
    let kill_by_link = ask(&surface, Method::GET, "/api/v1/workers/web-0/kill");
    insta::assert_snapshot!(refusal(kill_by_link).await, @"405 wrong-method: /api/v1/workers/web-0/kill cannot be asked with GET; the Allow header says with what");
}

#[tokio::test]
async fn a_body_may_be_64_kib_whether_it_says_so_or_not() {
    let surface = Surface::open().await;
    let kill = |body: reqwest::Body| {
        let request = ask(&surface, Method::POST, "/api/v1/workers/web-0/kill");
        request.header("content-type", "application/json").body(body)
    };
    let largest = format!("{{{}}}", " ".repeat((64 << 10) - 2));
    assert_eq!(kill(largest.clone().into()).send().await.unwrap().status(), 202);
    insta::assert_snapshot!(refusal(kill((largest.clone() + " ").into())).await, @"413 body-too-large: a body may have 64 KiB at most");
    let pieces = [largest, " ".to_owned()].map(Ok::<_, std::io::Error>);
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    assert_eq!(kill(chunked).send().await.unwrap().status(), 413);
    assert_eq!(surface.orders().len(), 1, "only the one that fitted");
}

#[tokio::test]
async fn no_web_page_reaches_it() {
    let surface = Surface::open().await;
    let kill = || ask(&surface, Method::POST, "/api/v1/workers/web-0/kill");
    // What a page can send without being asked back: a form or plain text.
    let as_text = kill().header("content-type", "text/plain").body("{}");
    insta::assert_snapshot!(refusal(as_text).await, @"415 not-json: send this with `content-type: application/json`");
    insta::assert_snapshot!(refusal(kill()).await, @"415 not-json: send this with `content-type: application/json`");
    let from_page = || kill().header("origin", "http://evil.example").json(&json!({}));
    insta::assert_snapshot!(refusal(from_page()).await, @"403 foreign-origin: this API does not answer to web pages of another origin");
    // What it can do when its own name has been made to resolve to this address.
    let rebound = from_page().header("host", "evil.example");
    let told = refusal(rebound).await.replace(&surface.address.to_string(), "[address]");
    insta::assert_snapshot!(told, @r#"421 foreign-host: this API does not answer as "evil.example": use its IP address ([address]) or localhost, or give it this name with api.host_name"#);
    let reading = ask(&surface, Method::GET, "/api/v1/workers").header("origin", "null");
    assert!(refusal(reading).await.starts_with("403 foreign-origin"));
    // The dashboard, served from here, may.
    let own_page = kill().header("origin", surface.url()).json(&json!({}));
    assert_eq!(own_page.send().await.unwrap().status(), 202);
    assert_eq!(surface.orders(), ["kill web-0 with 9"]);
}

#[tokio::test]
async fn a_request_that_names_no_host_is_refused() {
    let surface = Surface::open().await;
    let mut connection = TcpStream::connect(surface.address).await.unwrap();
    connection.write_all(b"GET /api/v1/workers HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400") && answer.contains("urn:bulkhead:bad-host"), "{answer}");
}

#[tokio::test]
async fn requests_and_trickles_are_passed_on() {
    let surface = Surface::open().await;
    let order = |method: Method, path: &str, body: Value| {
        let request = ask(&surface, method, path).json(&body);
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap().to_string())
        }
    };
    let (request, trickle) = ("/api/v1/pools/web/request", "/api/v1/pools/web/trickle");
    let asked = order(Method::POST, request, json!({"path": "/segv"})).await;
    assert_eq!(asked, (202, r#"{"pool":"web","request":"GET /segv"}"#.to_owned()));
    let asked = order(Method::POST, request, json!({"path": "/", "method": "POST"})).await;
    assert_eq!(asked, (202, r#"{"pool":"web","request":"POST /"}"#.to_owned()));
    let asked = order(Method::PUT, trickle, json!({"path": "/work?ms=300", "per_second": 4})).await;
    assert_eq!(asked, (202, r#"{"path":"/work?ms=300","per_second":4.0,"pool":"web"}"#.to_owned()));
    let ended = ask(&surface, Method::DELETE, trickle).send().await.unwrap();
    assert_eq!((ended.status().as_u16(), ended.text().await.unwrap()), (202, r#"{"pool":"web"}"#.to_owned()));
    let told = ["GET /segv of web", "POST / of web", "4 a second of /work?ms=300 of web", "no more of web"];
    assert_eq!(surface.orders(), told);
    let trickles = get(&surface, "/api/v1/trickle").await;
    assert_eq!((&trickles[0]["sent"], &trickles[0]["in_flight"]), (&json!(12), &json!(2)));
}

#[tokio::test]
async fn requests_and_trickles_that_make_no_sense_are_refused() {
    let surface = Surface::open().await;
    let mut refusals = String::new();
    for (method, path, body) in [
        (Method::POST, "web/request", "{}"),
        (Method::POST, "web/request", r#"{"path":7}"#),
        (Method::POST, "web/request", r#"{"path":"segv"}"#),
        (Method::POST, "web/request", r#"{"path":"/","method":"CONNECT"}"#),
        (Method::POST, "web/request", r#"{"path":"/","body":"x"}"#),
        (Method::POST, "echo/request", r#"{"path":"/"}"#),
        (Method::POST, "wbe/request", r#"{"path":"/"}"#),
        (Method::POST, "W/request", r#"{"path":"/"}"#),
        (Method::PUT, "web/trickle", r#"{"path":"/"}"#),
        (Method::PUT, "web/trickle", r#"{"path":"/","per_second":"4"}"#),
        (Method::PUT, "web/trickle", r#"{"path":"/","per_second":0}"#),
        (Method::PUT, "web/trickle", r#"{"path":"/","per_second":51}"#),
        (Method::PUT, "echo/trickle", r#"{"path":"/","per_second":4}"#),
        (Method::DELETE, "echo/trickle", ""),
        (Method::DELETE, "wbe/trickle", ""),
        (Method::POST, "web/trickle", "{}"),
    ] {
        let request = ask(&surface, method.clone(), &format!("/api/v1/pools/{path}"));
        let request = request.header("content-type", "application/json").body(body);
        refusals += &format!("{method} {path} {body}\n  {}", refusal(request).await);
    }
    insta::assert_snapshot!(refusals, @r#"
    POST web/request {}
      400 bad-body: the body is not as expected: missing field `path` at line 1 column 2
    POST web/request {"path":7}
      400 bad-body: the body is not as expected: invalid type: integer `7`, expected a string at line 1 column 9
    POST web/request {"path":"segv"}
      422 bad-path: "segv" is not a path: it begins with '/' and has only visible ASCII, escaped where it has to be
    POST web/request {"path":"/","method":"CONNECT"}
      422 bad-method: "CONNECT" is not sent from here: use one of GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH
    POST web/request {"path":"/","body":"x"}
      400 bad-body: the body is not as expected: unknown field `body`, expected `path` or `method` at line 1 column 18
    POST echo/request {"path":"/"}
      409 not-http: pool echo speaks tcp: only an http pool can be sent a request
    POST wbe/request {"path":"/"}
      404 unknown-pool: there is no pool wbe: the pools are web, echo
    POST W/request {"path":"/"}
      400 bad-name: "W" is not a pool name: use 1 to 32 of a-z, 0-9 and '-', a letter first, no '-' last
    PUT web/trickle {"path":"/"}
      400 bad-body: the body is not as expected: missing field `per_second` at line 1 column 12
    PUT web/trickle {"path":"/","per_second":"4"}
      400 bad-body: the body is not as expected: invalid type: string "4", expected f64 at line 1 column 28
    PUT web/trickle {"path":"/","per_second":0}
      422 bad-number: 0 a second is not within 0.1 to 50
    PUT web/trickle {"path":"/","per_second":51}
      422 bad-number: 51 a second is not within 0.1 to 50
    PUT echo/trickle {"path":"/","per_second":4}
      409 not-http: pool echo speaks tcp: only an http pool can be sent a request
    DELETE echo/trickle 
      409 not-http: pool echo speaks tcp: only an http pool can be sent a request
    DELETE wbe/trickle 
      404 unknown-pool: there is no pool wbe: the pools are web, echo
    POST web/trickle {}
      405 wrong-method: /api/v1/pools/web/trickle cannot be asked with POST; the Allow header says with what
    "#);
    assert!(surface.orders().is_empty(), "none of them reached the master");
}

#[tokio::test]
async fn a_token_is_demanded_for_everything_but_the_dashboard_and_health() {
    let surface = Surface::open_with_tokens().await;
    for path in ["/", "/healthz", "/readyz", "/assets/index.html"] {
        assert_eq!(ask(&surface, Method::GET, path).send().await.unwrap().status(), 200, "{path}");
    }
    for path in [
        "/api/v1/pools",
        "/api/v1/workers",
        "/api/v1/workers/web-0",
        "/api/v1/workers/web-0/logs",
        "/api/v1/incidents",
        "/api/v1/incidents/web-0.1",
        "/api/v1/events",
        "/api/v1/state",
        "/api/v1/trickle",
        "/api/v1/whoami",
        "/metrics",
        "/api/v1/nothing",
        "/nothing",
    ] {
        let answer = ask(&surface, Method::GET, path).send().await.unwrap();
        assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"bulkhead\"", "{path}");
        assert_eq!(answer.status(), 401, "{path}");
        let wrong = ask(&surface, Method::GET, path).bearer_auth("operators-toke");
        assert!(refusal(wrong).await.starts_with("401 unauthorized"), "{path}");
        if !path.ends_with("nothing") {
            let viewer = ask(&surface, Method::GET, path).bearer_auth("viewers-token");
            assert_eq!(viewer.send().await.unwrap().status(), 200, "{path}");
        }
    }
}

#[tokio::test]
async fn a_viewer_cannot_act_and_an_operator_can() {
    let surface = Surface::open_with_tokens().await;
    let orders = [
        (Method::POST, "workers/web-0/kill", json!({})),
        (Method::POST, "workers/web-0/drain", json!({})),
        (Method::POST, "pools/web/scale", json!({"workers": 4})),
        (Method::POST, "pools/web/request", json!({"path": "/"})),
        (Method::PUT, "pools/web/trickle", json!({"path": "/", "per_second": 1})),
        (Method::DELETE, "pools/web/trickle", json!({})),
    ];
    for (method, path, body) in orders {
        let order = || ask(&surface, method.clone(), &format!("/api/v1/{path}")).json(&body);
        assert!(refusal(order()).await.starts_with("401 unauthorized"), "{path}");
        let told = refusal(order().bearer_auth("viewers-token")).await;
        assert_eq!(
            told, "403 not-an-operator: this token may look and not act: use an operator's\n",
            "{path}"
        );
        assert!(surface.orders().is_empty(), "{path} reached the master");
        let answer = order().bearer_auth("operators-token").send().await.unwrap();
        assert_eq!(answer.status(), 202, "{path}");
        assert_eq!(surface.orders().len(), 1, "{path}");
    }
    for (token, scope) in [("viewers-token", "viewer"), ("operators-token", "operator")] {
        let asked = ask(&surface, Method::GET, "/api/v1/whoami").bearer_auth(token);
        let who: Value = asked.send().await.unwrap().json().await.unwrap();
        assert_eq!(who, json!({"scope": scope, "backend": "process", "version": env!("CARGO_PKG_VERSION")}));
    }
    let who = get(&Surface::open().await, "/api/v1/whoami").await;
    assert_eq!(who["scope"], "operator", "where no token is asked for");
}

#[tokio::test]
async fn every_answer_tells_browsers_what_they_may_not() {
    let surface = Surface::open_with_tokens().await;
    for path in ["/", "/healthz", "/assets/nothing.js", "/api/v1/pools", "/nothing"] {
        let answer = ask(&surface, Method::GET, path).send().await.unwrap();
        let headers = answer.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        for policy in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
            assert_eq!(headers[policy], "same-origin", "{path}");
        }
        let content = headers["content-security-policy"].to_str().unwrap();
        assert!(
            content.contains("default-src 'none'") && content.contains("frame-ancestors 'none'"),
            "{path}"
        );
        assert!(!content.contains("unsafe"), "{path}: {content}");
    }
}

#[tokio::test]
async fn the_dashboard_is_served_and_kept_by_its_tag() {
    let surface = Surface::open().await;
    let page = ask(&surface, Method::GET, "/").send().await.unwrap();
    assert_eq!(
        (page.status().as_u16(), &page.headers()["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert_eq!(page.headers()["cache-control"], "no-cache");
    let tag = page.headers()["etag"].to_str().unwrap().to_owned();
    assert!(page.text().await.unwrap().contains("<!doctype html>"));
    let again = |tag: String| ask(&surface, Method::GET, "/").header("if-none-match", tag).send();
    let kept = again(format!("\"other\", W/{tag}")).await.unwrap();
    assert_eq!((kept.status().as_u16(), kept.headers()["etag"].to_str().unwrap()), (304, tag.as_str()));
    assert_eq!(kept.text().await.unwrap(), "");
    assert_eq!(again("\"other\"".to_owned()).await.unwrap().status(), 200);
    for path in ["/assets/nothing.js", "/assets/.hidden", "/assets/..%2f..%2fCargo.toml", "/assets/a%2fb"] {
        assert!(refusal(ask(&surface, Method::GET, path)).await.starts_with("404 unknown-file"), "{path}");
    }
}

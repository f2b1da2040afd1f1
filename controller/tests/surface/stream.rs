//! What listeners are told, over real connections: who resumes misses nothing, who is too slow is told and dropped,
//! and nobody is asked anything for nobody.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::canned::Surface;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// One event as a browser would see it.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: Option<String>,
    name: String,
    data: Value,
    /// As it came over the wire.
    raw: String,
}

/// A client of the stream.
struct Listener {
    answer: Response,
    text: String,
}

impl Listener {
    async fn to(request: RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        Self { answer, text: String::new() }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.text[searched..].find("\n\n") {
                let event = parsed(&self.text[..searched + end]);
                self.text.drain(..searched + end + 2);
                searched = 0;
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            // The first half of an end may be there. It is long, and comes in many pieces.
            searched = self.text.trim_end_matches('\n').len();
            let more = tokio::time::timeout(DEADLINE, self.answer.chunk()).await;
            let more = more.unwrap_or_else(|_| panic!("nothing came; so far: {:?}", self.text));
            self.text += std::str::from_utf8(&more.unwrap()?).unwrap();
        }
    }

    /// The next event of the journal, or about it.
    async fn news(&mut self) -> Event {
        loop {
            let event = self.next().await.expect("the stream ended");
            if event.name != "state" {
                return event;
            }
        }
    }

    /// What the next events of the journal say.
    async fn details(&mut self, number: usize) -> Vec<String> {
        let mut details = Vec::new();
        for _ in 0..number {
            details.push(self.news().await.data["detail"].as_str().unwrap().to_owned());
        }
        details
    }
}

/// `None` for a comment.
fn parsed(text: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = values.next().map(str::to_owned);
        assert_eq!(values.next(), None, "two of {name} in {text:?}");
        value
    };
    let data = serde_json::from_str(&field("data")?).unwrap();
    Some(Event { id: field("id"), name: field("event").unwrap(), data, raw: text.to_owned() })
}

fn events(surface: &Surface, query: &str) -> RequestBuilder {
    let client = Client::builder().no_proxy().build().unwrap();
    client.get(format!("{}/api/v1/events{query}", surface.url()))
}

/// Waits until this holds, and says what was seen when it does not.
async fn until<T: std::fmt::Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<(), T>) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(()) => return,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("{what}: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn a_new_listener_is_shown_the_state_and_then_what_happens() {
    let surface = Surface::open().await;
    surface.tell("before anybody listened");
    let mut listener = Listener::to(events(&surface, "")).await;
    let state = listener.next().await.unwrap();
    assert_eq!((state.name.as_str(), &state.id), ("state", &None));
    assert_eq!(state.data["pools"][0]["name"], "web");
    assert_eq!(state.data["turns"].as_array().unwrap().len(), 1);
    surface.tell("while somebody listens");
    let event = listener.news().await;
    assert_eq!((event.name.as_str(), event.data["kind"].as_str()), ("door", Some("door")));
    assert_eq!(event.data["detail"], "while somebody listens");
    assert_eq!(event.id.as_deref(), event.data["id"].as_str());
    assert!(event.id.unwrap().ends_with("-2"));
}

#[tokio::test]
async fn a_new_listener_is_told_where_it_is_before_anything_happens() {
    let surface = Surface::open().await;
    surface.tell("before anybody listened");
    let mut listener = Listener::to(events(&surface, "")).await;
    while !listener.text.contains("\n\n") {
        listener.text += std::str::from_utf8(&listener.answer.chunk().await.unwrap().unwrap()).unwrap();
    }
    let (position, _) = listener.text.split_once("\n\n").unwrap();
    let id = position.strip_prefix("id: ").unwrap().to_owned();
    assert!(id.ends_with("-1"), "{id}");
    drop(listener);
    surface.tell("while it was away");
    let mut listener = Listener::to(events(&surface, "").header("last-event-id", &id)).await;
    assert_eq!(listener.details(1).await, ["while it was away"]);
}

#[tokio::test]
async fn who_resumes_misses_nothing() {
    let surface = Surface::open().await;
    let mut listener = Listener::to(events(&surface, "?after=0")).await;
    surface.tell("1");
    surface.tell("2");
    assert_eq!(listener.details(1).await, ["1"]);
    let second = listener.news().await;
    drop(listener);
    surface.tell("3");
    surface.tell("4");
    // As a browser does it: the address that it was given first, and the header.
    let id = second.id.unwrap();
    let mut listener = Listener::to(events(&surface, "?after=0").header("last-event-id", &id)).await;
    assert_eq!(listener.details(2).await, ["3", "4"]);
    surface.tell("5");
    assert_eq!(listener.details(1).await, ["5"]);
    // As a terminal does it.
    let mut listener = Listener::to(events(&surface, &format!("?after={id}"))).await;
    assert_eq!(listener.details(3).await, ["3", "4", "5"]);
}

#[tokio::test]
async fn who_cannot_be_told_everything_is_told_that() {
    let surface = Surface::open().await;
    for number in 0..2005 {
        surface.tell(&number.to_string());
    }
    let mut listener = Listener::to(events(&surface, "?after=0")).await;
    let first = listener.news().await;
    assert_eq!((first.name.as_str(), &first.data["detail"]), ("door", &Value::from("5")));
    let boot = first.id.unwrap().rsplit_once('-').unwrap().0.to_owned();

    let mut listener = Listener::to(events(&surface, &format!("?after={boot}-3"))).await;
    let gap = listener.next().await.unwrap();
    assert_eq!(gap.name, "gap");
    assert_eq!(
        gap.data.to_string(),
        format!(r#"{{"asked":"{boot}-3","oldest":"{boot}-6","why":"too long ago"}}"#)
    );
    assert_eq!(listener.details(1).await, ["5"]);

    let mut listener = Listener::to(events(&surface, "").header("last-event-id", "zzzzzz-17")).await;
    let gap = listener.next().await.unwrap();
    assert_eq!((gap.name.as_str(), gap.data["why"].as_str()), ("gap", Some("another controller")));
    assert_eq!(listener.details(1).await, ["5"]);
}

#[tokio::test]
async fn what_is_remembered_is_told_and_then_the_stream_ends() {
    let surface = Surface::open().await;
    surface.tell("1");
    surface.tell("2");
    let mut listener = Listener::to(events(&surface, "?follow=false")).await;
    let first = listener.next().await.unwrap();
    assert_eq!(first.data["detail"], "1");
    assert_eq!(listener.next().await.unwrap().data["detail"], "2");
    assert_eq!(listener.next().await, None);
    let after = format!("?follow=false&after={}", first.id.unwrap());
    let mut listener = Listener::to(events(&surface, &after)).await;
    assert_eq!(listener.next().await.unwrap().data["detail"], "2");
    assert_eq!(listener.next().await, None);
    assert_eq!(surface.frames(), 0, "nobody wanted to see the state");
}

#[tokio::test]
async fn ten_listeners_get_the_same_bytes_and_cost_one() {
    let surface = Surface::open().await;
    let mut listeners = Vec::new();
    for _ in 0..10 {
        listeners.push(Listener::to(events(&surface, "")).await);
    }
    // They have begun with different ones: the last of those is the first that all of them have in common.
    let number = |event: &Event| event.data["turns"][0]["turn"].as_u64().unwrap();
    let mut seen = Vec::new();
    for listener in &mut listeners {
        seen.push(vec![listener.next().await.unwrap()]);
    }
    let common = seen.iter().map(|frames| number(&frames[0])).max().unwrap();
    for (listener, frames) in listeners.iter_mut().zip(&mut seen) {
        while number(&frames[frames.len() - 1]) < common + 2 {
            frames.push(listener.next().await.unwrap());
        }
    }
    // The numbers count the questions: none is left out, so each frame was asked for once and not ten times.
    for shared in common..common + 3 {
        let of = |frames: &Vec<Event>| frames.iter().find(|it| number(it) == shared).map(|it| it.raw.clone());
        let first = of(&seen[0]);
        assert!(first.is_some() && seen.iter().all(|frames| of(frames) == first), "frame {shared} differs");
    }
}

#[tokio::test]
async fn nobody_is_asked_when_nobody_listens() {
    let surface = Surface::open().await;
    assert_eq!(surface.frames(), 0);
    let mut one = Listener::to(events(&surface, "")).await;
    let mut other = Listener::to(events(&surface, "")).await;
    one.next().await.unwrap();
    drop(one);
    // The other one still listens.
    for _ in 0..3 {
        other.next().await.unwrap();
    }
    drop(other);
    let mut before = surface.frames();
    until("the sampler goes on", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = surface.frames();
        let same = before == now;
        before = now;
        if same { Ok(()) } else { Err(now) }
    })
    .await;
    // And is there again for the next one.
    Listener::to(events(&surface, "")).await.next().await.unwrap();
    assert!(surface.frames() > before);
}

#[tokio::test]
async fn a_slow_reader_is_told_and_dropped_and_the_others_are_not() {
    let surface = Surface::open_with_long_states().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut slow = socket.connect(surface.address).await.unwrap();
    let asked = format!("GET /api/v1/events HTTP/1.1\r\nhost: {}\r\n\r\n", surface.address);
    slow.write_all(asked.as_bytes()).await.unwrap();
    let mut quick = Listener::to(events(&surface, "")).await;
    // As many as its socket and its backlog hold between them, and more.
    for _ in 0..32 {
        assert_eq!(quick.next().await.unwrap().name, "state");
    }
    // From here on it is quick: what is kept for it is more than a small buffer takes in a few pieces.
    rustix::net::sockopt::set_socket_recv_buffer_size(&slow, 4 << 20).unwrap();
    let mut said = Vec::new();
    let all = tokio::time::timeout(DEADLINE, async {
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = slow.read(&mut piece).await.unwrap();
            said.extend_from_slice(&piece[..read]);
            // The last chunk of a body that ends as it should.
            if read == 0 || said.ends_with(b"\r\n0\r\n\r\n") {
                break;
            }
        }
    });
    all.await.unwrap_or_else(|_| panic!("it is still served"));
    let said = String::from_utf8_lossy(&said);
    let end = &said[said.len().saturating_sub(400)..];
    assert!(end.contains("event: dropped\ndata: {\"why\":\"this reader is too slow"), "{end}");
    assert_eq!(quick.next().await.unwrap().name, "state");
}

#[tokio::test]
async fn there_is_room_for_64_and_again_when_one_goes() {
    let surface = Surface::open().await;
    let mut listeners = Vec::new();
    for _ in 0..64 {
        listeners.push(Listener::to(events(&surface, "")).await);
    }
    let refused = events(&surface, "").send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json::<Value>().await.unwrap()["type"], "urn:bulkhead:too-many-listeners");
    drop(listeners.pop());
    until("there is no room again", async || {
        let status = events(&surface, "").send().await.unwrap().status();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn streams_end_when_the_api_does() {
    let surface = Surface::open().await;
    let mut listener = Listener::to(events(&surface, "")).await;
    listener.next().await.unwrap();
    surface.close().await;
    while listener.next().await.is_some() {}
}

#[tokio::test]
async fn the_state_can_be_had_once() {
    let surface = Surface::open().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{}/api/v1/state", surface.url())).send().await.unwrap();
    let state: Value = answer.json().await.unwrap();
    assert_eq!(state["controller"]["backend"], "process");
    assert_eq!(state["turns"].as_array().unwrap().len(), 0, "turns belong to those who listen");
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let surface = Surface::open().await;
    let mut refusals = String::new();
    for (query, header) in [
        ("?after=yesterday", None),
        ("?after=k3f9x2-", None),
        ("?follow=maybe", None),
        ("?since=0", None),
        ("", Some("k3f9x2")),
    ] {
        let mut request = events(&surface, query);
        if let Some(id) = header {
            request = request.header("last-event-id", id);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        refusals += &format!("{query} {header:?}\n  {} {}\n", problem["status"], problem["detail"]);
    }
    insta::assert_snapshot!(refusals, @r#"
    ?after=yesterday None
      400 "\"yesterday\" is not the id of an event: it looks like 'k3f9x2-17'; 0 stands for everything that is remembered"
    ?after=k3f9x2- None
      400 "\"k3f9x2-\" is not the id of an event: it looks like 'k3f9x2-17'; 0 stands for everything that is remembered"
    ?follow=maybe None
      400 "Failed to deserialize query string: follow: provided string was not `true` or `false`: use ?after=ID, or ?after=0, and ?follow=false"
    ?since=0 None
      400 "Failed to deserialize query string: since: unknown field `since`, expected `after` or `follow`: use ?after=ID, or ?after=0, and ?follow=false"
     Some("k3f9x2")
      400 "\"k3f9x2\" is not the id of an event: it looks like 'k3f9x2-17'; 0 stands for everything that is remembered"
    "#);
}

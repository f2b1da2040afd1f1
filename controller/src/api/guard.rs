//! Who may speak to the API at all.
//!
//! An API on loopback is reached by every web page that a browser on this machine shows, in two ways. A page may
//! send it a request outright; then the browser names the page in `Origin`, which is not us: `403`. Or the page's
//! own name is made to resolve to 127.0.0.1 (DNS rebinding); then the browser believes that we are that page's
//! server and gives us its name in `Host`. So `Host` has to be one that no stranger can own: an IP address,
//! `localhost`, or the address that we listen on; anything else is `421`.
//!
//! What is not a browser sends whatever it likes; against that only the address helps that the API listens on.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// Lets a request pass, or refuses it.
pub(super) async fn admit(State(listen): State<SocketAddr>, request: Request, next: Next) -> Response {
    // HTTP/2 and absolute-form requests carry the host in the target; it stands for the header then.
    let authority = request.uri().authority().map(axum::http::uri::Authority::as_str);
    match judge(authority, request.headers(), listen) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn judge(authority: Option<&str>, headers: &HeaderMap, listen: SocketAddr) -> Result<(), Problem> {
    let Some(host) = only(headers, header::HOST.as_str()) else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-host", "send exactly one Host header"));
    };
    if let Some(stranger) = [Some(host), authority].into_iter().flatten().find(|host| !is_ours(host, listen))
    {
        return Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "foreign-host",
            format!("this API does not answer as {stranger:?}: use its IP address ({listen}) or localhost"),
        ));
    }
    if headers.contains_key(header::ORIGIN)
        && only(headers, header::ORIGIN.as_str()).and_then(|origin| origin.strip_prefix("http://"))
            != Some(host)
    {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "foreign-origin",
            "this API does not answer to web pages of another origin",
        ));
    }
    Ok(())
}

/// The header's value when it is there once and is text.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether nobody else can own this host.
fn is_ours(host: &str, listen: SocketAddr) -> bool {
    let name = match host.rsplit_once(':') {
        // `[::1]` ends in a bracket and its last colon is no port's.
        Some((name, port)) if !port.ends_with(']') && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || host == listen.to_string()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn verdict(headers: &[(&'static str, &'static str)]) -> Option<u16> {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap_or(header::HOST), HeaderValue::from_static(value)))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            });
        judge(None, &map, SocketAddr::from(([127, 0, 0, 1], 9090))).err().map(|problem| problem.status)
    }

    #[test]
    fn hosts_that_nobody_else_can_own_are_answered() {
        for host in ["127.0.0.1:9090", "localhost:9090", "LOCALHOST", "[::1]:9090", "[::1]", "10.1.2.3:80"] {
            assert_eq!(verdict(&[("host", host)]), None, "{host} was refused");
        }
    }

    #[test]
    fn rebound_names_are_misdirected() {
        for host in
            ["evil.example", "evil.example:9090", "localhost.evil.example:9090", "127.0.0.1.evil:9090", ""]
        {
            assert_eq!(verdict(&[("host", host)]), Some(421), "{host} was answered");
        }
        assert_eq!(verdict(&[]), Some(400));
        assert_eq!(verdict(&[("host", "127.0.0.1"), ("host", "evil.example")]), Some(400));
    }

    #[test]
    fn pages_of_another_origin_are_forbidden() {
        let from = |origin| verdict(&[("host", "127.0.0.1:9090"), ("origin", origin)]);
        assert_eq!(from("http://127.0.0.1:9090"), None);
        for origin in ["http://evil.example", "null", "https://127.0.0.1:9090", "http://127.0.0.1:8080", ""] {
            assert_eq!(from(origin), Some(403), "{origin} was answered");
        }
    }

    #[test]
    fn a_target_that_names_another_host_is_misdirected() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:9090"));
        let judged = judge(Some("evil.example"), &headers, SocketAddr::from(([127, 0, 0, 1], 9090)));
        assert_eq!(judged.err().map(|problem| problem.status), Some(421));
    }
}

//! Who may speak to the API at all.
//!
//! An API on loopback is reached by every web page that a browser on this machine shows, in two ways. A page may
//! send it a request outright; then the browser names the page in `Origin`, or what kind of page it is in
//! `Sec-Fetch-Site`, which is not us: `403`. Or the page's
//! own name is made to resolve to 127.0.0.1 (DNS rebinding); then the browser believes that we are that page's
//! server and gives us its name in `Host`. So `Host` has to be one that no stranger can own: an IP address,
//! `localhost`, or the address that we listen on; anything else is `421`.
//!
//! What is not a browser sends whatever it likes; that is what tokens are for ([`access`](super::access)).
//!
//! Every answer, refusals included, tells browsers not to guess its type, not to let other pages frame it or read it,
//! and what the dashboard's page may load: what comes from here, and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::{Access, CHALLENGE, Scope, is_public};
use super::problem::Problem;

/// Who is let in.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    /// Where we listen.
    pub(super) listen: SocketAddr,
    /// A name under which we answer besides.
    pub(super) host_name: Option<String>,
    pub(super) access: Access,
}

/// Lets a request pass with its sender's [`Scope`], or refuses it.
pub(super) async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let admitted = gate.judge(&request);
    let refused = admitted.is_err();
    let mut response = match admitted {
        Ok(scope) => {
            request.extensions_mut().insert(scope);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    if refused && response.status() == StatusCode::UNAUTHORIZED {
        let (name, challenge) = CHALLENGE;
        response.headers_mut().insert(name, challenge);
    }
    for (name, value) in SAFETY {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    // Figures of a moment ago, and who is told them may differ: nothing for a cache, unless a route knows better.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What every answer tells browsers.
const SAFETY: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
         connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
];

impl Gate {
    fn judge(&self, request: &Request) -> Result<Scope, Problem> {
        // HTTP/2 and absolute-form requests carry the host in the target; it stands for the header then.
        let authority = request.uri().authority().map(axum::http::uri::Authority::as_str);
        judge(authority, request.headers(), self.listen, self.host_name.as_deref())?;
        if is_public(request.uri().path()) {
            return Ok(Scope::Viewer);
        }
        not_for_strangers(request.headers())?;
        let scope = self.access.scope(request.headers())?;
        scope.allows(request.method())?;
        Ok(scope)
    }
}

/// Whether no web page of a stranger's can have sent this.
fn judge(
    authority: Option<&str>,
    headers: &HeaderMap,
    listen: SocketAddr,
    host_name: Option<&str>,
) -> Result<(), Problem> {
    let Some(host) = only(headers, header::HOST.as_str()) else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-host", "send exactly one Host header"));
    };
    if let Some(stranger) =
        [Some(host), authority].into_iter().flatten().find(|host| !is_ours(host, listen, host_name))
    {
        return Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "foreign-host",
            format!(
                "this API does not answer as {stranger:?}: use its IP address ({listen}) or localhost, or give it this name with api.host_name"
            ),
        ));
    }
    // Behind a proxy that speaks TLS our pages are https ones, and which it is does not say whose they are.
    let of_ours = |origin: &str| {
        let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        name == Some(host)
    };
    if headers.contains_key(header::ORIGIN) && !only(headers, header::ORIGIN.as_str()).is_some_and(of_ours) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "foreign-origin",
            "this API does not answer to web pages of another origin",
        ));
    }
    Ok(())
}

/// Whether no page of a stranger's has had a browser ask this: by an image or a link, say, for which there is no
/// `Origin`. Browsers name the kind of page that asks, and what is not a browser says nothing.
fn not_for_strangers(headers: &HeaderMap) -> Result<(), Problem> {
    const SITE: &str = "sec-fetch-site";
    if headers.contains_key(SITE) && !matches!(only(headers, SITE), Some("same-origin" | "none")) {
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
fn is_ours(host: &str, listen: SocketAddr, host_name: Option<&str>) -> bool {
    let name = match host.rsplit_once(':') {
        // `[::1]` ends in a bracket and its last colon is no port's.
        Some((name, port)) if !port.ends_with(']') && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || host_name.is_some_and(|ours| name.eq_ignore_ascii_case(ours))
        || host == listen.to_string()
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
        let listen = SocketAddr::from(([127, 0, 0, 1], 9090));
        judge(None, &map, listen, Some("controller")).err().map(|problem| problem.status)
    }

    #[test]
    fn hosts_that_nobody_else_can_own_are_answered() {
        for host in [
            "127.0.0.1:9090",
            "localhost:9090",
            "LOCALHOST",
            "[::1]:9090",
            "[::1]",
            "10.1.2.3:80",
            "controller:9090",
        ] {
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
        let proxied = [("host", "controller"), ("origin", "https://controller")];
        assert_eq!(verdict(&proxied), None, "a proxy in front of us speaks TLS");
        for origin in [
            "http://evil.example",
            "https://evil.example",
            "null",
            "ftp://127.0.0.1:9090",
            "127.0.0.1:9090",
            "http://127.0.0.1:8080",
            "",
        ] {
            assert_eq!(from(origin), Some(403), "{origin} was answered");
        }
    }

    #[test]
    fn what_a_page_of_a_stranger_has_a_browser_ask_is_forbidden_but_the_dashboard_itself() {
        let gate =
            Gate { listen: SocketAddr::from(([127, 0, 0, 1], 9090)), host_name: None, access: Access::Open };
        let status = |path: &str, site: &str| {
            let request =
                Request::builder().uri(path).header("host", "localhost").header("sec-fetch-site", site);
            let judged = request.body(axum::body::Body::empty()).map(|request| gate.judge(&request));
            judged.ok().and_then(Result::err).map(|problem| problem.status)
        };
        for site in ["same-origin", "none"] {
            assert_eq!(status("/api/v1/workers", site), None, "{site}");
        }
        for site in ["cross-site", "same-site", "", "same-origin, none"] {
            assert_eq!(status("/api/v1/workers", site), Some(403), "{site}");
            assert_eq!(status("/", site), None, "a link to the dashboard from {site}");
        }
    }

    #[test]
    fn a_target_that_names_another_host_is_misdirected() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:9090"));
        let judged = judge(Some("evil.example"), &headers, SocketAddr::from(([127, 0, 0, 1], 9090)), None);
        assert_eq!(judged.err().map(|problem| problem.status), Some(421));
    }
}

//! Who may do what.
//!
//! An API on loopback is asked by people and programs of this machine, who could kill workers without it: there,
//! nobody is asked for anything, unless the API has a name, by which a proxy brings it others. Anywhere else a request
//! has to carry a token, `Authorization: Bearer TOKEN` (RFC 6750). There are two: an operator's, which may do
//! everything, and a viewer's, which may look.
//!
//! Tokens are kept as their SHA-256 and compared as such, every bit of them whatever the first ones say: how long a
//! refusal takes tells nothing about how nearly a guess was right.
//!
//! What needs no token anywhere is the dashboard's own files, which say nothing about a deployment and which a browser
//! cannot ask for with a token, and the two questions of whoever watches over processes, `/healthz` and `/readyz`.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::problem::Problem;

/// Who may ask.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever reaches the address may do everything.
    Open,
    /// Whoever has a token may do what it is for.
    Tokens {
        /// May do everything.
        operator: Token,
        /// May look.
        viewer: Option<Token>,
    },
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look.
    Viewer,
    /// Everything.
    Operator,
}

/// A token, of which only the hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Access {
    /// What the sender of `headers` may do, or why nothing.
    pub(super) fn scope(&self, headers: &HeaderMap) -> Result<Scope, Problem> {
        let Self::Tokens { operator, viewer } = self else { return Ok(Scope::Operator) };
        let Some(presented) = bearer(headers) else {
            return Err(unauthorized("send a token: `Authorization: Bearer TOKEN`"));
        };
        let presented = Token::new(presented);
        // Both, always: which one was compared is nobody's business either.
        let is_operator = presented.is(operator);
        let is_viewer = viewer.as_ref().is_some_and(|viewer| presented.is(viewer));
        match (is_operator, is_viewer) {
            (true, _) => Ok(Scope::Operator),
            (false, true) => Ok(Scope::Viewer),
            (false, false) => Err(unauthorized("this token is not known here")),
        }
    }
}

impl Scope {
    /// Whether this is enough for a request with `method`.
    pub(super) fn allows(self, method: &Method) -> Result<(), Problem> {
        if self == Self::Operator || matches!(*method, Method::GET | Method::HEAD) {
            return Ok(());
        }
        let detail = "this token may look and not act: use an operator's";
        Err(Problem::new(StatusCode::FORBIDDEN, "not-an-operator", detail))
    }
}

impl Token {
    /// Of this text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether they are the same, in a time that does not depend on where they differ.
    fn is(&self, other: &Self) -> bool {
        let differences = self.0.iter().zip(&other.0).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(differences) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What is served to whoever asks, token or not.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz") || path.starts_with("/assets/")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && values.next().is_none()).then(|| token.trim())
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

/// What an answer of 401 has to say by what to authenticate (RFC 9110, 11.6.1).
pub(super) const CHALLENGE: (header::HeaderName, HeaderValue) =
    (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bulkhead\""));

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(headers: &[&'static str]) -> Result<Scope, u16> {
        let access = Access::Tokens {
            operator: Token::new("operators-token"),
            viewer: Some(Token::new("viewers-token")),
        };
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        access.scope(&map).map_err(|problem| problem.status)
    }

    #[test]
    fn a_token_says_what_its_bearer_may_do() {
        assert_eq!(scope(&["Bearer operators-token"]), Ok(Scope::Operator));
        assert_eq!(scope(&["bearer viewers-token"]), Ok(Scope::Viewer));
        for wrong in [
            "Bearer operators-toke",
            "Bearer operators-tokens",
            "Bearer ",
            "Bearer",
            "Basic operators-token",
            "operators-token",
            "",
        ] {
            assert_eq!(scope(&[wrong]), Err(401), "{wrong:?}");
        }
        assert_eq!(scope(&[]), Err(401));
        assert_eq!(scope(&["Bearer viewers-token", "Bearer operators-token"]), Err(401));
    }

    #[test]
    fn a_viewer_may_look_and_not_act() {
        for (method, viewer) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::POST, false),
            (Method::PUT, false),
            (Method::DELETE, false),
            (Method::PATCH, false),
            (Method::OPTIONS, false),
        ] {
            assert_eq!(Scope::Viewer.allows(&method).is_ok(), viewer, "{method}");
            assert!(Scope::Operator.allows(&method).is_ok(), "{method}");
        }
    }

    #[test]
    fn a_token_is_shown_to_nobody() {
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(..)");
    }
}

//! The dashboard's files: `/` and `/assets/NAME`.
//!
//! They are compiled into the program, so that what a controller shows fits what it says, and nothing has to be
//! installed. Whoever works on them sets `BULKHEAD_DASHBOARD_DIR`, and they are read anew for each request.
//!
//! Browsers keep what they were sent and ask whether it is still good (`no-cache`, with an `ETag`): an upgrade shows
//! at once, and costs one short answer a file otherwise.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::PathBuf;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

use super::problem::Problem;

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/dashboard");

/// Where to read them instead, for whoever works on them.
const DIRECTORY: &str = "BULKHEAD_DASHBOARD_DIR";

/// Serves the dashboard's page.
#[utoipa::path(
    get,
    path = "/",
    tag = "dashboard",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(super) async fn index(headers: HeaderMap) -> Result<Response, Problem> {
    file("index.html", &headers).await
}

/// Serves one of the dashboard's other files.
#[utoipa::path(
    get,
    path = "/assets/{name}",
    tag = "dashboard",
    params(("name" = String, Path, description = "The file's name")),
    responses(
        (status = 200, description = "The file", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "The copy of `If-None-Match` is still good"),
        (status = "default", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn asset(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(name) = name.map_err(|rejection| no_such_file(&rejection.body_text()))?;
    file(&name, &headers).await
}

async fn file(name: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let content = read(name).await.ok_or_else(|| no_such_file(name))?;
    let tag = entity_tag(&content);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let common = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if known.is_some_and(|known| is_among(known, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    let media_type = [(header::CONTENT_TYPE, media_type(name))];
    Ok((common, media_type, content.into_owned()).into_response())
}

async fn read(name: &str) -> Option<Cow<'static, [u8]>> {
    // A plain name, of nothing that is hidden and in no other directory.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.bytes().all(plain) || name.starts_with('.') || name.is_empty() {
        return None;
    }
    match std::env::var_os(DIRECTORY).map(PathBuf::from) {
        None => FILES.get_file(name).map(|file| Cow::Borrowed(file.contents())),
        Some(directory) => tokio::fs::read(directory.join(name)).await.ok().map(Cow::Owned),
    }
}

/// By content, so that the same file has the same tag in the next build.
fn entity_tag(content: &[u8]) -> HeaderValue {
    let mut tag = String::from("\"");
    for byte in Sha256::digest(content).iter().take(12) {
        let _infallible = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether `If-None-Match` names this tag. A weak one is as good here (RFC 9110, 13.1.2).
fn is_among(known: &str, tag: &HeaderValue) -> bool {
    let mut known = known.split(',').map(|known| known.trim().trim_start_matches("W/"));
    known.any(|known| known == "*" || known.as_bytes() == tag.as_bytes())
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn no_such_file(name: &str) -> Problem {
    let detail = format!("the dashboard has no file {name:?}; it begins at /");
    Problem::new(StatusCode::NOT_FOUND, "unknown-file", detail)
}

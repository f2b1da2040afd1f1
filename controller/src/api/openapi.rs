//! `GET /openapi.json`: the API in the words of OpenAPI 3.1.
//!
//! It is put together from what stands on the handlers and on the types that they read and write, by the same calls
//! that make the router; so a route that is served is described. What cannot be derived is here: who may ask, and the
//! types that go over the stream one line at a time.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::{OpenApi as _, ToSchema};

use super::stream_views::{Dropped, Gap, JournalEvent, StateFrame};

/// What a pool's door has counted since it started.
//
// `server::control::Counters`, for people and programs who read this: the data path knows nothing of OpenAPI. A test
// holds the two to each other.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountersView {
    /// Connections accepted.
    connections: u64,
    /// Turns done by a worker.
    turns: u64,
    /// Deliveries of a turn to a worker, first ones and redeliveries.
    deliveries: u64,
    /// Deliveries after the first.
    redelivered: u64,
    /// Workers whose link closed with a turn in their hands or without a goodbye.
    deaths: u64,
    /// Answers that the door gave in a worker's place, by status.
    answered: std::collections::BTreeMap<String, u64>,
    /// Connections cut because their worker died in the middle of an answer.
    cut: u64,
    /// Turns dropped in the queue because their client had gone.
    abandoned: u64,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Bulkhead",
        description = "The controller's API. Bodies are JSON and have to be declared as such. Orders are answered 202: \
                       they have begun. On loopback nobody is asked for a token; elsewhere `Authorization: Bearer TOKEN` \
                       is needed for all but the dashboard's files, /healthz and /readyz, and an operator's token for \
                       everything but GET.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "pools", description = "Sets of interchangeable workers"),
        (name = "workers", description = "Who serves"),
        (name = "incidents", description = "Who died, and what became of what they held"),
        (name = "watching", description = "What happens, as it happens"),
        (name = "controller", description = "This process"),
        (name = "dashboard", description = "For people"),
    ),
    components(schemas(StateFrame, JournalEvent, Gap, Dropped))
)]
struct Base;

/// What stands above the routes.
pub(super) fn base() -> OpenApi {
    let mut document = Base::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    // The second one is none at all: on loopback, or where the access is open.
    let none = SecurityRequirement::default();
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("token", []), none]);
    document
}

/// The document as it is served: put into words once.
#[derive(Debug, Clone)]
pub(super) struct Served(Bytes);

/// Puts it into words.
pub(super) fn served(document: &OpenApi) -> Served {
    // It holds nothing but text and numbers.
    let text = document.to_pretty_json().unwrap_or_default();
    Served(Bytes::from(text))
}

impl IntoResponse for Served {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], self.0).into_response()
    }
}

#[cfg(test)]
mod tests {
    use server::control::Counters;

    use super::*;

    #[test]
    fn the_description_of_the_counters_is_theirs() -> Result<(), serde_json::Error> {
        let described = CountersView {
            connections: 0,
            turns: 0,
            deliveries: 0,
            redelivered: 0,
            deaths: 0,
            answered: std::collections::BTreeMap::new(),
            cut: 0,
            abandoned: 0,
        };
        assert_eq!(serde_json::to_value(described)?, serde_json::to_value(Counters::default())?);
        Ok(())
    }
}

//! What door and controller share and nobody else may know, as two Secrets of the cluster.
//!
//! ```text
//!   bulkhead-tunnel   ca.crt, tls.crt, tls.key, secret     mounted by doors, read by the controller
//!   bulkhead-ca       ca.key, ca.crt, api-token            read by the controller alone
//! ```
//! They are made by whichever controller finds none, and never changed by us. They belong to nobody: doors read theirs when
//! they are started, so it has to outlive the controllers' Deployment, or doors and the next controllers would have
//! nothing in common. Two that make them at the same time agree:
//! the API lets one of them create `bulkhead-ca`, and only that one goes on to create `bulkhead-tunnel`, for which the
//! others wait. If it dies in between, or takes longer than ten seconds, the next one finds a key without a tunnel:
//! it removes that very key and makes both anew. Should the slow one then still come to create its own tunnel, the two
//! certificates differ, and whoever reads them says so.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as SecretObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use server::identity::Secret;
use thiserror::Error;

use super::calls::{Operation, ask};
use super::cluster::Cluster;
use crate::backend::BackendError;

/// The Secret that doors mount.
pub const TUNNEL: &str = "bulkhead-tunnel";
/// The Secret with the key that the doors' certificate is signed by.
pub const AUTHORITY: &str = "bulkhead-ca";

/// How long another controller may take between its two creations.
const HALF_MADE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// All of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The certificate by which doors are known, in PEM.
    pub ca_certificate: String,
    /// Its key, in PEM.
    pub ca_key: String,
    /// The doors' certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// Under which workers' tokens are made, and by which a controller proves to a door that it is one.
    pub secret: Secret,
    /// What the API asks for where the spec names no token of its own: the same, whichever controller leads.
    pub api_token: String,
}

/// Why the material cannot be had.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// The API would not.
    #[error(transparent)]
    Api(#[from] BackendError),
    /// Somebody has changed a Secret.
    #[error(
        "the secret {secret} has no usable {entry:?}: delete {TUNNEL} and {AUTHORITY} to have both made anew, \
         then restart controllers and doors"
    )]
    Damaged {
        /// Which.
        secret: &'static str,
        /// What is missing, or makes no sense.
        entry: &'static str,
    },
    /// It could not be made.
    #[error("cannot make the tunnel's certificates")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The deployment's material: what is there, or what `make` makes.
///
/// # Errors
/// The API will not, or somebody has changed what is there.
pub async fn get_or_create<E>(
    cluster: &Cluster,
    make: impl Fn() -> Result<Material, E>,
) -> Result<Material, SecretsError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut waited = Duration::ZERO;
    loop {
        let (tunnel, authority) = (get(cluster, TUNNEL).await?, get(cluster, AUTHORITY).await?);
        match (tunnel, authority) {
            (Some(tunnel), Some(authority)) => return read(&tunnel, &authority),
            (Some(_), None) => {
                return Err(SecretsError::Damaged { secret: AUTHORITY, entry: "ca.key" });
            }
            (None, None) => {
                let material = make().map_err(|error| SecretsError::Make(error.into()))?;
                let [tunnel, authority] = written(&material);
                // Whoever is second waits for the first.
                if create(cluster, AUTHORITY, &authority).await? && create(cluster, TUNNEL, &tunnel).await? {
                    return Ok(material);
                }
            }
            (None, Some(half)) if waited >= HALF_MADE => {
                tracing::warn!("{AUTHORITY} has been left without {TUNNEL}: both are made anew");
                discard(cluster, &half).await?;
                waited = Duration::ZERO;
            }
            (None, Some(_)) => {
                tokio::time::sleep(LOOK_AGAIN).await;
                waited += LOOK_AGAIN;
            }
        }
    }
}

async fn get(cluster: &Cluster, name: &'static str) -> Result<Option<SecretObject>, BackendError> {
    let secrets = cluster.api::<SecretObject>();
    ask(&cluster.name, Operation::Read, format!("secret {name}"), secrets.get_opt(name)).await
}

/// Whether it was us who created it.
async fn create(cluster: &Cluster, name: &str, object: &SecretObject) -> Result<bool, BackendError> {
    let creating = async {
        match cluster.api::<SecretObject>().create(&PostParams::default(), object).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    };
    ask(&cluster.name, Operation::Create, format!("secret {name}"), creating).await
}

async fn discard(cluster: &Cluster, object: &SecretObject) -> Result<(), BackendError> {
    let this_one = Preconditions { uid: object.uid(), resource_version: None };
    let how = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
    let name = object.name_any();
    let secrets = cluster.api::<SecretObject>();
    match ask(&cluster.name, Operation::Delete, format!("secret {name}"), secrets.delete(&name, &how)).await {
        Ok(_) | Err(BackendError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn written(material: &Material) -> [SecretObject; 2] {
    let object = |name: &str, entries: &[(&str, &str)]| SecretObject {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(super::pod::product_labels()),
            ..ObjectMeta::default()
        },
        data: Some(
            entries
                .iter()
                .map(|(entry, text)| ((*entry).to_owned(), ByteString(text.as_bytes().to_vec())))
                .collect::<BTreeMap<_, _>>(),
        ),
        ..SecretObject::default()
    };
    let tunnel = object(
        TUNNEL,
        &[
            ("ca.crt", &material.ca_certificate),
            ("tls.crt", &material.certificate),
            ("tls.key", &material.key),
            ("secret", &String::from(material.secret.clone())),
        ],
    );
    [
        tunnel,
        object(
            AUTHORITY,
            &[
                ("ca.key", &material.ca_key),
                ("ca.crt", &material.ca_certificate),
                ("api-token", &material.api_token),
            ],
        ),
    ]
}

fn read(tunnel: &SecretObject, authority: &SecretObject) -> Result<Material, SecretsError> {
    let text = |object: &SecretObject, secret: &'static str, entry: &'static str| {
        let bytes = object.data.as_ref().and_then(|data| data.get(entry));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.ok_or(SecretsError::Damaged { secret, entry })
    };
    let secret = text(tunnel, TUNNEL, "secret")?;
    let ca_certificate = text(tunnel, TUNNEL, "ca.crt")?;
    if text(authority, AUTHORITY, "ca.crt")? != ca_certificate {
        return Err(SecretsError::Damaged { secret: AUTHORITY, entry: "ca.crt" });
    }
    Ok(Material {
        ca_certificate,
        ca_key: text(authority, AUTHORITY, "ca.key")?,
        certificate: text(tunnel, TUNNEL, "tls.crt")?,
        key: text(tunnel, TUNNEL, "tls.key")?,
        secret: Secret::try_from(secret.trim().to_owned())
            .map_err(|_| SecretsError::Damaged { secret: TUNNEL, entry: "secret" })?,
        api_token: text(authority, AUTHORITY, "api-token")?.trim().to_owned(),
    })
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("ca_certificate", &self.ca_certificate).finish_non_exhaustive()
    }
}

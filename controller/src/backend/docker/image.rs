//! The image that workers run: this program, packed by itself.
//!
//! [`ensure`] packs the running program ([`Pack`]) and gives it to the engine as `bulkhead:HASH`, the first twelve
//! digits of a hash over its content. Where that tag exists nothing is sent, so a program that has not changed is
//! sent once. Nothing is pulled and nothing is built. If we die while sending, the engine has no tag and the next one
//! sends again; of two that send the same at once the later has the tag, and removes the other's.
//!
//! An image that has just been sent makes its predecessors useless, and those that no container uses are removed.
//! They are known by a label that we put there, never by their name alone.
//!
//! Where the operator names an image (Compose does: there the program runs from one already), it is used as it is.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;
use tokio::task::JoinError;

use super::calls::Operation;
use super::container::NOBODY;
use super::engine::Engine;
use super::pack::{PROGRAM, Pack, PackError};
use crate::backend::BackendError;

/// The repository of the images that we make.
const REPOSITORY: &str = "bulkhead";

/// The label by which we know them again; its value is the whole hash.
const PACKED_LABEL: &str = "io.bulkhead.packed";

/// Why there is no image for workers to run.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The operator named one that the engine does not have.
    #[error(
        "the image {0:?} is not on the engine; build or pull it first \
         (`docker pull {0}`), or give none and this program packs itself"
    )]
    Missing(String),
    /// The program could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The thread that packed it was lost.
    #[error("cannot pack this program into an image")]
    Interrupted(#[source] JoinError),
    /// The engine would not.
    #[error(transparent)]
    Engine(#[from] BackendError),
}

/// Where the image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// This program packs itself.
    Packed,
    /// The operator named it.
    Named(String),
}

/// Makes sure that the engine has the image, and returns its name.
pub(super) async fn ensure(engine: &Engine, source: &Source) -> Result<String, ImageError> {
    match source {
        Source::Named(image) => match exists(engine, image).await? {
            true => Ok(image.clone()),
            false => Err(ImageError::Missing(image.clone())),
        },
        Source::Packed => {
            let pack =
                tokio::task::spawn_blocking(Pack::this_program).await.map_err(ImageError::Interrupted)??;
            let tag = pack.hash.get(..12).unwrap_or(&pack.hash).to_owned();
            let image = format!("{REPOSITORY}:{tag}");
            if !exists(engine, &image).await? {
                load(engine, pack, &tag).await?;
                remove_others(engine, &image).await;
            }
            Ok(image)
        }
    }
}

/// Whether the engine has an image of that name.
async fn exists(engine: &Engine, image: &str) -> Result<bool, BackendError> {
    let inspected = async {
        match engine.docker().inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    };
    engine.ask(Operation::FindImage, image, inspected).await
}

async fn load(engine: &Engine, pack: Pack, tag: &str) -> Result<(), BackendError> {
    let mut changes = vec![
        format!("ENTRYPOINT [\"{PROGRAM}\"]"),
        format!("USER {NOBODY}"),
        format!("LABEL {PACKED_LABEL}={}", pack.hash),
    ];
    if !pack.libraries.is_empty() {
        let libraries: Vec<_> = pack.libraries.iter().map(|it| it.to_string_lossy()).collect();
        changes.push(format!("ENV LD_LIBRARY_PATH={:?}", libraries.join(":")));
    }
    let options =
        CreateImageOptionsBuilder::new().from_src("-").repo(REPOSITORY).tag(tag).changes(changes).build();
    let _progress =
        spinner(format!("sending {} MB to {} as {REPOSITORY}:{tag}", pack.tar.len() >> 20, engine.name()));
    let answers =
        engine.docker().create_image(Some(options), Some(bollard::body_full(pack.tar.into())), None);
    let whole = answers.try_for_each(|_| async { Ok(()) });
    engine.ask(Operation::LoadImage, format!("image {REPOSITORY}:{tag}"), whole).await
}

/// Removes the images that earlier versions of this program packed of themselves. One that a container still uses
/// stays, and so does everything when the engine will not: the next change of program tries again.
async fn remove_others(engine: &Engine, current: &str) {
    let ours = HashMap::from([("label", vec![PACKED_LABEL])]);
    let options = ListImagesOptionsBuilder::new().filters(&ours).build();
    let listed =
        engine.ask(Operation::ListImages, "images", engine.docker().list_images(Some(options))).await;
    let images = listed.unwrap_or_else(|error| {
        tracing::debug!(%error, "old images stay");
        Vec::new()
    });
    for image in images {
        // Without a tag it lost a race: two of us sent the same program at once. With a foreign tag somebody kept it.
        let ours = |tag: &String| tag.starts_with(&format!("{REPOSITORY}:")) || tag == "<none>:<none>";
        if image.repo_tags.iter().any(|tag| tag == current || !ours(tag)) {
            continue;
        }
        // Not forced: the engine refuses to remove what a container uses.
        let options = RemoveImageOptionsBuilder::new().build();
        let removal = engine.docker().remove_image(&image.id, Some(options), None);
        match engine.ask(Operation::RemoveImage, &image.id, removal).await {
            Ok(_) => tracing::info!(image = image.id, "removed an earlier image of this program"),
            Err(error) => tracing::debug!(image = image.id, %error, "an earlier image stays"),
        }
    }
}

/// Something that moves on a terminal while the engine takes its time; nothing anywhere else.
fn spinner(message: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner()).with_message(message);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

//! Where this run directory's workers live, and that they live in one place only.
//!
//! A controller that was killed leaves its workers serving, for the next one to adopt. But the next one looks for them
//! on its own backend. Started on another one (`--backend`, another engine, another owner, or `auto` while the engine
//! is away), it would find nobody and fill every place anew, and the same place would have two workers.
//!
//! So each controller notes in `control/quarters.json` where it is about to put workers, and the next one, where it is
//! to put them elsewhere, first looks whether somebody still lives there. If so it refuses, and says how to see them
//! off. It does not do that by itself: they serve, and taking them away is somebody's decision. The dead are removed.
//! `auto` stays where they live.
//!
//! The note can be old; what counts is what kernel and engine say of those it leads to.

use std::fs;
use std::io;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use server::identity::Incarnation;

use crate::backend::docker::{DockerBackend, DockerOptions, Engine};
use crate::backend::kubernetes::{Cluster, KubernetesBackend};
use crate::backend::process::ProcessBackend;
use crate::backend::{Backend, Found, Home, Vital};
use crate::model::in_full;
use crate::rundir::{Lock, RunDir};

/// Where workers live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "backend", rename_all = "snake_case")]
pub(super) enum Quarters {
    /// On this machine, with their state in the run directory.
    Process,
    /// In containers.
    Docker {
        /// Of the engine there, written as in `DOCKER_HOST`.
        engine: String,
        /// Labelled so.
        owner: String,
    },
    /// In pods.
    Kubernetes {
        /// Of the cluster whose API is there.
        api: String,
        /// In this namespace.
        namespace: String,
        /// Labelled so.
        owner: String,
    },
}

impl Quarters {
    /// In containers of this engine.
    pub(super) fn on(engine: &Engine, home: &Home) -> Self {
        Self::Docker { engine: engine.address().to_string(), owner: home.owner.clone() }
    }

    /// Where the last controller of this run directory had them.
    pub(super) fn noted(run_dir: &RunDir) -> anyhow::Result<Option<Self>> {
        let path = run_dir.quarters();
        match fs::read(&path) {
            Ok(json) => {
                let noted = serde_json::from_slice(&json);
                noted.map(Some).with_context(|| {
                    format!(
                        "{} is damaged: remove it if no worker of this run directory lives",
                        path.display()
                    )
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Notes for the next controller that workers will live here. The caller holds the [`Lock`], so that nobody else
    /// notes anything at the same time.
    pub(super) fn note(&self, run_dir: &RunDir, _held: &Lock) -> anyhow::Result<()> {
        let path = run_dir.quarters();
        let draft = path.with_extension("new");
        serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&draft, json))
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes sure that nobody lives here any more, because workers are about to live elsewhere.
    ///
    /// # Errors
    /// Somebody does, or it cannot be told.
    pub(super) async fn must_be_empty(&self, home: &Home, docker: &DockerOptions) -> anyhow::Result<()> {
        let living = self.living(home, docker).await?;
        if living.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = living.iter().map(ToString::to_string).collect();
        bail!(
            "workers of an earlier run still live {self}: {}\nTo adopt them, start it {} again; to be rid of them, \
             stop it then with Ctrl-C. Or choose another run directory with --run-dir",
            names.join(", "),
            self.manner()
        )
    }

    /// Who lives here. Containers in which nobody does are removed.
    pub(super) async fn living(
        &self,
        home: &Home,
        docker: &DockerOptions,
    ) -> anyhow::Result<Vec<Incarnation>> {
        match self {
            Self::Process => {
                ProcessBackend::living(home).context("cannot look for workers of an earlier run")
            }
            Self::Docker { engine, owner } => {
                let cannot_tell = || {
                    format!(
                        "cannot tell whether workers of an earlier run still live {self}: start that engine again, or, \
                         if it is gone for good, remove {}",
                        RunDir::at(&home.run_dir).quarters().display()
                    )
                };
                let engine = Engine::at_host(engine).await.with_context(cannot_tell)?;
                let home = Home { owner: owner.clone(), ..home.clone() };
                let backend = DockerBackend::to_look_around(engine, &home, docker)?;
                let mut living = Vec::new();
                for found in backend.list().await.with_context(cannot_tell)? {
                    match found.vital {
                        Vital::Alive { .. } | Vital::Waiting { .. } => living.push(found.life),
                        Vital::Dead(_) => {
                            if let Err(error) = backend.remove(&found.life, &found.unit).await {
                                tracing::warn!(life = %found.life, error = in_full(&error), "it stays");
                            }
                        }
                    }
                }
                living.sort();
                Ok(living)
            }
            Self::Kubernetes { api, namespace, owner } => {
                let cannot_tell = || {
                    format!(
                        "cannot tell whether workers of an earlier run still live {self}: let KUBECONFIG lead to that \
                         cluster again, or, if it is gone for good, remove {}",
                        RunDir::at(&home.run_dir).quarters().display()
                    )
                };
                let cluster = Cluster::find(Some(namespace)).await.with_context(cannot_tell)?;
                if cluster.address() != api {
                    bail!(cannot_tell());
                }
                let found = KubernetesBackend::to_look_around(cluster, owner).list().await;
                let alive = |found: Found| (!matches!(found.vital, Vital::Dead(_))).then_some(found.life);
                let mut living: Vec<_> =
                    found.with_context(cannot_tell)?.into_iter().filter_map(alive).collect();
                living.sort();
                Ok(living)
            }
        }
    }

    /// How to get back to them on the command line.
    fn manner(&self) -> String {
        match self {
            Self::Process => "with --backend process".to_owned(),
            Self::Docker { engine, owner } => {
                format!("with DOCKER_HOST={engine}, --backend docker and --owner {owner:?}")
            }
            Self::Kubernetes { namespace, owner, .. } => {
                format!("with --backend kubernetes, --namespace {namespace} and --owner {owner:?}")
            }
        }
    }
}

impl std::fmt::Display for Quarters {
    /// Continues "they live …".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process => f.write_str("as plain processes"),
            Self::Docker { engine, owner } => {
                write!(f, "in containers of the engine at {engine} (owner {owner:?})")
            }
            Self::Kubernetes { api, namespace, owner } => {
                write!(f, "in pods of the cluster at {api} (namespace {namespace}, owner {owner:?})")
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, RunDir, Home) {
        let temp = tempfile::tempdir().unwrap();
        let run_dir = RunDir::at(temp.path().join("run"));
        run_dir.create().unwrap();
        let home = Home {
            owner: "test".to_owned(),
            run_dir: run_dir.path().to_owned(),
            program: "/bin/false".into(),
        };
        (temp, run_dir, home)
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_goes_with_the_directory() {
        let (_temp, run_dir, home) = fresh();
        assert_eq!(Quarters::noted(&run_dir).unwrap(), None);
        let lock = run_dir.lock().unwrap();
        let docker = Quarters::Docker { engine: "unix:///d.sock".to_owned(), owner: home.owner };
        for quarters in [Quarters::Process, docker] {
            quarters.note(&run_dir, &lock).unwrap();
            assert_eq!(Quarters::noted(&run_dir).unwrap(), Some(quarters));
        }
        run_dir.remove().unwrap();
        assert!(!run_dir.path().exists());
    }

    #[tokio::test]
    async fn an_engine_that_is_away_may_have_workers() {
        let (temp, _run_dir, home) = fresh();
        let engine = format!("unix://{}", temp.path().join("no.sock").display());
        let quarters = Quarters::Docker { engine, owner: "test".to_owned() };
        let error = quarters.must_be_empty(&home, &DockerOptions::default()).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot tell whether workers of an earlier run still live"), "{error}");
        assert!(Quarters::Process.must_be_empty(&home, &DockerOptions::default()).await.is_ok());
    }
}

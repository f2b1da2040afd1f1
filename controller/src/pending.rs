//! Stand-ins for what other parts of the controller provide, under the paths at which the real ones will be:
//! `crate::pending::supervisor::Handle` is to become `crate::supervisor::Handle`, and so on; extension traits
//! (`…Ext`) are to become inherent methods. Nothing else in this crate changes when this file goes.

#![expect(missing_docs, reason = "the real ones are documented")]

pub mod spec {
    use std::path::Path;

    use thiserror::Error;

    use crate::spec::{BackendChoice, Deployment};

    #[derive(Debug, Clone, Default, clap::Args)]
    pub struct Overrides {
        /// Where workers run: auto, process or docker
        #[arg(long, value_name = "BACKEND", value_parser = choice)]
        pub backend: Option<BackendChoice>,
    }

    fn choice(text: &str) -> Result<BackendChoice, String> {
        serde_json::from_value(text.into()).map_err(|error| error.to_string())
    }

    #[derive(Debug, Error)]
    pub enum SpecError {
        #[error("spec files are not part of this build")]
        NotBuilt,
    }

    pub fn load(_: Option<&Path>, _: &Overrides) -> Result<Deployment, SpecError> {
        Err(SpecError::NotBuilt)
    }

    pub fn parse(_: &str, _: &str) -> Result<Deployment, SpecError> {
        Err(SpecError::NotBuilt)
    }

    pub trait DeploymentExt {
        fn to_yaml(&self) -> String;
    }

    impl DeploymentExt for Deployment {
        fn to_yaml(&self) -> String {
            format!("{self:?}")
        }
    }
}

pub mod rundir {
    use std::io;
    use std::path::PathBuf;

    use server::identity::Secret;

    use crate::rundir::RunDir;

    #[derive(Debug)]
    pub struct Lock;

    pub trait RunDirExt {
        fn default_path() -> io::Result<PathBuf>;
        fn create(&self) -> io::Result<()>;
        fn lock(&self) -> io::Result<Lock>;
        fn secret(&self) -> io::Result<Secret>;
    }

    impl RunDirExt for RunDir {
        fn default_path() -> io::Result<PathBuf> {
            Ok(std::env::temp_dir().join("bulkhead"))
        }
        fn create(&self) -> io::Result<()> {
            let dirs = [self.link_dir(), self.control_dir(), self.workers_dir()];
            dirs.iter().try_for_each(std::fs::create_dir_all)
        }
        fn lock(&self) -> io::Result<Lock> {
            Ok(Lock)
        }
        fn secret(&self) -> io::Result<Secret> {
            Ok(Secret::new([0; 32]))
        }
    }
}

pub mod backend {
    use thiserror::Error;

    #[derive(Debug, Error)]
    #[error("this backend is not part of this build")]
    pub struct NotBuilt;

    pub mod process {
        use std::sync::Arc;

        use super::NotBuilt;
        use crate::backend::{Backend, Home};

        #[derive(Debug)]
        pub struct ProcessBackend;

        impl ProcessBackend {
            #[expect(clippy::new_ret_no_self, reason = "there is no self to return yet")]
            pub fn new(_: &Home) -> Result<Arc<dyn Backend>, NotBuilt> {
                Err(NotBuilt)
            }
        }
    }

    pub mod docker {
        use std::sync::Arc;

        use super::NotBuilt;
        use crate::backend::{Backend, Home};

        pub const DEFAULT_OWNER: &str = "bulkhead";

        #[derive(Debug, Clone, Default, clap::Args)]
        pub struct DockerOptions {}

        #[derive(Debug)]
        pub struct Engine;

        impl Engine {
            pub fn name(&self) -> String {
                String::new()
            }
        }

        #[derive(Debug)]
        pub struct DockerBackend;

        pub async fn probe() -> Result<Engine, NotBuilt> {
            Err(NotBuilt)
        }

        impl DockerBackend {
            pub async fn on(_: Engine, _: &Home, _: &DockerOptions) -> Result<Arc<dyn Backend>, NotBuilt> {
                Err(NotBuilt)
            }
        }
    }
}

pub mod model {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum StopScope {
        WorkersOnly,
        DoorToo,
    }
}

pub mod supervisor {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use server::identity::{Incarnation, PoolName, Secret, WorkerId};
    use thiserror::Error;

    use super::model::StopScope;
    use crate::api::views::{IncidentView, PoolView, WorkerView};
    use crate::backend::{Backend, BackendError};
    use crate::spec::Pool;

    #[derive(Debug, Error)]
    pub enum CommandError {
        #[error("there is no worker {0}: see 'bulkhead ps'")]
        UnknownWorker(WorkerId),
        #[error("there is no pool {pool}: the pools are {known}")]
        UnknownPool { pool: PoolName, known: String },
        #[error("worker {0} is not running at this moment: its next life is on its way")]
        NotRunning(WorkerId),
        #[error("{0} is not a signal: they are numbered 1 to 64")]
        UnknownSignal(i32),
        #[error("{workers} workers are too many: a pool has at most {most}")]
        TooManyWorkers { workers: u32, most: u32 },
        #[error("the backend could not {operation} {worker}")]
        Backend {
            operation: &'static str,
            worker: WorkerId,
            #[source]
            source: BackendError,
        },
        #[error("the backend did not {operation} {worker} in time")]
        Silence { operation: &'static str, worker: WorkerId },
        #[error("everything is being stopped")]
        Stopping,
        #[error("the supervisor has stopped")]
        Stopped,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct StopSummary {
        pub clean: usize,
        pub killed: usize,
        pub left_behind: Vec<Incarnation>,
    }

    #[derive(Debug)]
    pub struct Config {
        pub pools: Vec<Pool>,
        pub secret: Secret,
        pub control_socket: PathBuf,
        pub backend: Arc<dyn Backend>,
    }

    #[derive(Debug, Clone)]
    pub struct Handle;

    pub fn start(_: Config) -> Handle {
        Handle
    }

    impl Handle {
        pub async fn workers(&self) -> Result<Vec<WorkerView>, CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn pools(&self) -> Result<Vec<PoolView>, CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn incidents(&self) -> Result<Vec<IncidentView>, CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn incident(&self, _: Incarnation) -> Result<Option<IncidentView>, CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn is_ready(&self) -> Result<bool, CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn kill(&self, _: &WorkerId, _: i32) -> Result<(), CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn drain(&self, _: &WorkerId) -> Result<(), CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn scale(&self, _: &PoolName, _: u32) -> Result<(), CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn logs(&self, _: &WorkerId, _: usize) -> Result<Vec<String>, CommandError> {
            Err(CommandError::Stopped)
        }
        pub async fn stop(&self, _: StopScope, _: Duration) -> Result<StopSummary, CommandError> {
            Err(CommandError::Stopped)
        }
    }
}

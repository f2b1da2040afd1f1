//! What the command line says over the spec file.

use std::net::SocketAddr;

use clap::Args;
use server::identity::PoolName;

use super::mistake::{Mistake, Origin, nearest};
use super::raw;
use super::setting::Setting;
use super::units::{FilePath, Value};
use super::{BackendChoice, LinkChoice};

/// Settings of the spec that the command line may override.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Settings that override the spec file's")]
pub struct Overrides {
    /// Where workers run: auto, process, docker or kubernetes
    #[arg(long, value_name = "BACKEND", value_parser = value::<BackendChoice>)]
    pub backend: Option<BackendChoice>,
    /// How workers reach the door: fd or tunnel
    #[arg(long, value_name = "LINK", value_parser = value::<LinkChoice>)]
    pub link: Option<LinkChoice>,
    /// How many workers, for every pool or for one (may be repeated)
    #[arg(long, value_name = "[POOL=]NUMBER", value_parser = for_pool::<u32>)]
    pub workers: Vec<ForPool<u32>>,
    /// Where a pool listens (may be repeated); without a name only when there is one pool
    #[arg(long, value_name = "[POOL=]IP:PORT", value_parser = for_pool::<SocketAddr>)]
    pub listen: Vec<ForPool<SocketAddr>>,
    /// Where the controller's API listens
    #[arg(long, value_name = "IP:PORT", value_parser = value::<SocketAddr>)]
    pub api: Option<SocketAddr>,
    /// A file with the token of those who may do everything with the API
    #[arg(long, value_name = "FILE", value_parser = value::<FilePath>)]
    token_file: Option<FilePath>,
    /// A file with the token of those who may look
    #[arg(long, value_name = "FILE", value_parser = value::<FilePath>)]
    viewer_token_file: Option<FilePath>,
}

/// A value for one pool, or for all.
pub type ForPool<T> = (Option<PoolName>, T);

impl Overrides {
    /// Puts them in the place of what `spec` says. What cannot be put anywhere is returned.
    pub(super) fn apply(&self, file: &str, spec: &mut raw::Spec) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if let Some(backend) = self.backend {
            spec.backend = Setting::by_flag(backend, format!("--backend {backend}"));
        }
        if let Some(link) = self.link {
            spec.link = Some(Setting::by_flag(link, format!("--link {link}")));
        }
        if let Some(listen) = self.api {
            spec.api.listen = Setting::by_flag(listen, format!("--api {listen}"));
        }
        if let Some(path) = &self.token_file {
            let words = format!("--token-file {path}");
            spec.api.token_file = Some(Setting::by_flag(path.clone(), words));
        }
        if let Some(path) = &self.viewer_token_file {
            let words = format!("--viewer-token-file {path}");
            spec.api.viewer_token_file = Some(Setting::by_flag(path.clone(), words));
        }
        for (name, workers) in &self.workers {
            let words = format!("--workers {}", spelled(name.as_ref(), workers));
            match pools(file, &mut spec.pools, name.as_ref(), &words) {
                Ok(pools) => {
                    for pool in pools {
                        pool.size.workers = Setting::by_flag(*workers, words.clone());
                    }
                }
                Err(mistake) => mistakes.push(mistake),
            }
        }
        for (name, listen) in &self.listen {
            let words = format!("--listen {}", spelled(name.as_ref(), listen));
            let all = names(&spec.pools);
            match pools(file, &mut spec.pools, name.as_ref(), &words).as_deref_mut() {
                Ok([pool]) => pool.listen = Setting::by_flag(*listen, words),
                Ok(_) => mistakes.push(Mistake {
                    file: file.to_owned(),
                    origin: Origin::Flag(words),
                    key: String::new(),
                    problem: "it does not say which pool is to listen there".to_owned(),
                    remedy: format!("write --listen POOL={listen}; the pools are {all}"),
                }),
                Err(mistake) => mistakes.push(mistake.clone()),
            }
        }
        mistakes
    }
}

/// The pools that are meant: the one of that name, or all.
fn pools<'a>(
    file: &str,
    pools: &'a mut raw::Named<raw::Pool>,
    name: Option<&PoolName>,
    words: &str,
) -> Result<Vec<&'a mut raw::Pool>, Mistake> {
    let Some(name) = name else {
        return Ok(pools.0.iter_mut().map(|entry| &mut entry.value).collect());
    };
    let known = names(pools);
    let meant = nearest(name.as_str(), pools.0.iter().map(|entry| entry.name.as_str())).map(str::to_owned);
    match pools.0.iter_mut().find(|entry| entry.name == name.as_str()) {
        Some(entry) => Ok(vec![&mut entry.value]),
        None => Err(Mistake {
            file: file.to_owned(),
            origin: Origin::Flag(words.to_owned()),
            key: String::new(),
            problem: format!("there is no pool {name} in {file}"),
            remedy: match meant {
                Some(meant) => format!("did you mean {meant}? The pools are {known}"),
                None => format!("the pools are {known}"),
            },
        }),
    }
}

fn names(pools: &raw::Named<raw::Pool>) -> String {
    pools.0.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn spelled<T: Value>(name: Option<&PoolName>, value: &T) -> String {
    name.map_or_else(|| value.to_string(), |name| format!("{name}={value}"))
}

fn value<T: Value>(text: &str) -> Result<T, String> {
    T::read(text).ok_or_else(|| format!("not {}: {}", T::NAME, T::SPELLING))
}

fn for_pool<T: Value>(text: &str) -> Result<ForPool<T>, String> {
    match text.split_once('=') {
        Some((name, text)) => {
            let name = name.parse().map_err(|error: server::identity::NameError| error.to_string())?;
            Ok((Some(name), value(text)?))
        }
        None => Ok((None, value(text)?)),
    }
}

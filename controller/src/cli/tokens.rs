//! The API's tokens: read from the files that the spec names, or made up.
//!
//! A token that is made up is kept in the run directory, for its owner alone, so that the next controller of the same
//! deployment asks for the same one. It is told once, when it is made, and to a terminal: what is printed elsewhere ends
//! up in logs that others read, so there the file is named. It is made last of all, when nothing can fail any more, for
//! it would be told to nobody by a controller that does not start.
//!
//! A file that others on this machine can read is taken as it is, and said aloud.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};

use crate::api::{Access, Admission, Token};
use crate::rundir::{Lock, Novelty, RunDir};
use crate::spec::{Api, ApiAccess};

/// The shortest token that is taken: what can be guessed is none.
const SHORTEST: usize = 16;

/// What reads our standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Whoever sits there.
    Terminal,
    /// A file, or a program that may keep it.
    Log,
}

impl Audience {
    /// Ours.
    pub(super) fn of_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Terminal } else { Self::Log }
    }
}

/// Who is let in, and what to tell `audience` about it.
pub(super) fn admission(
    api: &Api,
    run_dir: &RunDir,
    lock: &Lock,
    audience: Audience,
) -> anyhow::Result<(Admission, String)> {
    let (access, note) = match &api.access {
        ApiAccess::Open if api.listen.ip().is_loopback() => (Access::Open, String::new()),
        ApiAccess::Open => {
            let note =
                format!("token    none is asked for: whoever reaches {} may do everything\n", api.listen);
            (Access::Open, note)
        }
        ApiAccess::Token { operator, viewer } => {
            tokens(operator.as_deref(), viewer.as_deref(), run_dir, lock, audience)?
        }
    };
    Ok((Admission { access, host_name: api.host_name.clone() }, note))
}

fn tokens(
    operator: Option<&Path>,
    viewer: Option<&Path>,
    run_dir: &RunDir,
    lock: &Lock,
    audience: Audience,
) -> anyhow::Result<(Access, String)> {
    let mut warnings = String::new();
    let viewer = viewer.map(|path| read(path, &mut warnings)).transpose()?;
    let (operator, note) = match operator {
        Some(path) => (read(path, &mut warnings)?, format!("token    as in {}\n", path.display())),
        None => {
            let (token, novelty) = run_dir.api_token(lock)?;
            let file = run_dir.api_token_file();
            let note = match (novelty, audience) {
                (Novelty::New, Audience::Terminal) => {
                    format!("token    {token} (kept in {})\n", file.display())
                }
                (Novelty::New, Audience::Log) => format!("token    made up; it is in {}\n", file.display()),
                (Novelty::Known, _) => format!("token    as in {}\n", file.display()),
            };
            (usable(&token).with_context(|| unusable(&file))?.to_owned(), note)
        }
    };
    if viewer.as_ref() == Some(&operator) {
        bail!(
            "viewers and operators have the same token: then all of them are operators; give viewers another"
        );
    }
    let viewer = viewer.map(|token| Token::new(&token));
    Ok((Access::Tokens { operator: Token::new(&operator), viewer }, note + &warnings))
}

/// The token in this file, and a warning if others can read it as well.
fn read(path: &Path, warnings: &mut String) -> anyhow::Result<String> {
    let read = || {
        let mut file = File::open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok::<_, io::Error>((text, file.metadata()?.mode()))
    };
    let (text, mode) =
        read().with_context(|| format!("cannot read the API's token from {}", path.display()))?;
    if mode & 0o004 != 0 {
        *warnings +=
            &format!("token    everybody on this machine can read {}: `chmod o-r` it\n", path.display());
    }
    Ok(usable(&text).with_context(|| unusable(path))?.to_owned())
}

fn unusable(path: &Path) -> String {
    format!("there is no token in {}", path.display())
}

/// The token that a file holds: one word that fits into a header and that nobody guesses.
fn usable(text: &str) -> anyhow::Result<&str> {
    let token = text.trim();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("a token is one word of visible ASCII: `openssl rand -hex 32` makes one");
    }
    if token.len() < SHORTEST {
        bail!("a token has at least {SHORTEST} characters: `openssl rand -hex 32` makes one");
    }
    Ok(token)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn place() -> (tempfile::TempDir, RunDir, Lock) {
        let temp = tempfile::tempdir().unwrap();
        let run_dir = RunDir::at(temp.path().join("run"));
        run_dir.create().unwrap();
        let lock = run_dir.lock().unwrap();
        (temp, run_dir, lock)
    }

    fn api(listen: &str, access: ApiAccess) -> Api {
        Api { listen: listen.parse().unwrap(), access, host_name: None }
    }

    #[test]
    fn a_token_that_is_made_up_is_told_once() {
        let (_temp, run_dir, lock) = place();
        let api = api("0.0.0.0:9090", ApiAccess::Token { operator: None, viewer: None });
        let (admission, first) = admission(&api, &run_dir, &lock, Audience::Terminal).unwrap();
        assert!(matches!(admission.access, Access::Tokens { viewer: None, .. }));
        let token = std::fs::read_to_string(run_dir.api_token_file()).unwrap();
        assert!(first.contains(token.trim()), "{first}");
        let (_, again) = super::admission(&api, &run_dir, &lock, Audience::Terminal).unwrap();
        assert!(!again.contains(token.trim()) && again.contains("api-token"), "{again}");
    }

    #[test]
    fn a_token_that_is_made_up_is_not_told_to_a_log() {
        let (_temp, run_dir, lock) = place();
        let api = api("0.0.0.0:9090", ApiAccess::Token { operator: None, viewer: None });
        let (_, note) = admission(&api, &run_dir, &lock, Audience::Log).unwrap();
        let token = std::fs::read_to_string(run_dir.api_token_file()).unwrap();
        assert!(!note.contains(token.trim()) && note.contains("api-token"), "{note}");
    }

    #[test]
    fn a_token_is_made_up_last_of_all() {
        let (_temp, run_dir, lock) = place();
        let viewer = Some("/nonexistent/token".into());
        let api = api("0.0.0.0:9090", ApiAccess::Token { operator: None, viewer });
        admission(&api, &run_dir, &lock, Audience::Terminal).unwrap_err();
        assert!(!run_dir.api_token_file().exists(), "it was made, and nobody was told");
    }

    #[test]
    fn a_token_that_everybody_can_read_is_told_of() {
        use std::os::unix::fs::PermissionsExt;
        let (temp, run_dir, lock) = place();
        let path = temp.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let note = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let access = ApiAccess::Token { operator: Some(path.clone()), viewer: None };
            admission(&api("127.0.0.1:9090", access), &run_dir, &lock, Audience::Log).unwrap().1
        };
        assert!(!note(0o640).contains("everybody"), "a group may have been made for it");
        assert!(note(0o644).contains("everybody on this machine can read"));
    }

    #[test]
    fn what_everybody_may_do_is_said() {
        let (_temp, run_dir, lock) = place();
        let said =
            |listen| admission(&api(listen, ApiAccess::Open), &run_dir, &lock, Audience::Log).unwrap().1;
        assert_eq!(said("127.0.0.1:9090"), "");
        assert_eq!(
            said("0.0.0.0:9090"),
            "token    none is asked for: whoever reaches 0.0.0.0:9090 may do everything\n"
        );
    }

    #[test]
    fn files_that_hold_no_token_are_refused() {
        let (temp, run_dir, lock) = place();
        let file = |name: &str, text: &str| -> Option<PathBuf> {
            let path = temp.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let refusal = |operator, viewer| {
            let api = api("127.0.0.1:9090", ApiAccess::Token { operator, viewer });
            let error =
                admission(&api, &run_dir, &lock, Audience::Log).err().map(|error| format!("{error:#}"));
            error.unwrap_or_default().replace(&temp.path().display().to_string(), "DIR")
        };
        let good = || file("good", "0123456789abcdef\n");
        let told = [
            refusal(file("short", "secret"), None),
            refusal(file("words", "one two three four five"), None),
            refusal(file("empty", "\n"), None),
            refusal(Some(temp.path().join("none")), None),
            refusal(good(), good()),
            refusal(good(), file("other", "fedcba9876543210")),
        ];
        insta::assert_snapshot!(told.join("\n"), @"
        there is no token in DIR/short: a token has at least 16 characters: `openssl rand -hex 32` makes one
        there is no token in DIR/words: a token is one word of visible ASCII: `openssl rand -hex 32` makes one
        there is no token in DIR/empty: a token has at least 16 characters: `openssl rand -hex 32` makes one
        cannot read the API's token from DIR/none: No such file or directory (os error 2)
        viewers and operators have the same token: then all of them are operators; give viewers another
        ");
    }
}

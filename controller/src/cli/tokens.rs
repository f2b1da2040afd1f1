//! The API's tokens: read from the files that the spec names, or made up.
//!
//! A token that is made up is kept in the run directory, for its owner alone, so that the next controller of the same
//! deployment asks for the same one. It is told once, when it is made: what is printed ends up in logs.

use std::path::Path;

use anyhow::{Context, bail};

use crate::api::{Access, Admission, Token};
use crate::rundir::{Lock, Novelty, RunDir};
use crate::spec::{Api, ApiAccess};

/// The shortest token that is taken: what can be guessed is none.
const SHORTEST: usize = 16;

/// Who is let in, and what to tell people about it.
pub(super) fn admission(api: &Api, run_dir: &RunDir, lock: &Lock) -> anyhow::Result<(Admission, String)> {
    let (access, note) = match &api.access {
        ApiAccess::Open if api.listen.ip().is_loopback() => (Access::Open, String::new()),
        ApiAccess::Open => {
            let note =
                format!("token    none is asked for: whoever reaches {} may do everything\n", api.listen);
            (Access::Open, note)
        }
        ApiAccess::Token { operator, viewer } => {
            tokens(operator.as_deref(), viewer.as_deref(), run_dir, lock)?
        }
    };
    Ok((Admission { access, host_name: api.host_name.clone() }, note))
}

fn tokens(
    operator: Option<&Path>,
    viewer: Option<&Path>,
    run_dir: &RunDir,
    lock: &Lock,
) -> anyhow::Result<(Access, String)> {
    let (operator, note) = match operator {
        Some(path) => (read(path)?, format!("token    as in {}\n", path.display())),
        None => {
            let (token, novelty) = run_dir.api_token(lock)?;
            let file = run_dir.api_token_file();
            let note = match novelty {
                Novelty::New => format!("token    {token} (kept in {})\n", file.display()),
                Novelty::Known => format!("token    as in {}\n", file.display()),
            };
            (usable(&token).with_context(|| unusable(&file))?.to_owned(), note)
        }
    };
    let viewer = viewer.map(read).transpose()?;
    if viewer.as_ref() == Some(&operator) {
        bail!(
            "viewers and operators have the same token: then all of them are operators; give viewers another"
        );
    }
    let viewer = viewer.map(|token| Token::new(&token));
    Ok((Access::Tokens { operator: Token::new(&operator), viewer }, note))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the API's token from {}", path.display()))?;
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
        let (admission, first) = admission(&api, &run_dir, &lock).unwrap();
        assert!(matches!(admission.access, Access::Tokens { viewer: None, .. }));
        let token = std::fs::read_to_string(run_dir.api_token_file()).unwrap();
        assert!(first.contains(token.trim()), "{first}");
        let (_, again) = super::admission(&api, &run_dir, &lock).unwrap();
        assert!(!again.contains(token.trim()) && again.contains("api-token"), "{again}");
    }

    #[test]
    fn what_everybody_may_do_is_said() {
        let (_temp, run_dir, lock) = place();
        let said = |listen| admission(&api(listen, ApiAccess::Open), &run_dir, &lock).unwrap().1;
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
            let error = admission(&api, &run_dir, &lock).err().map(|error| format!("{error:#}"));
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

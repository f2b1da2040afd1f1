//! The report: one HTML page of all findings, with nothing outside of it.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::findings::Findings;

/// Writes the page; where it is.
///
/// # Errors
/// When it cannot be written.
pub fn write(dir: &Path, findings: &[Findings]) -> anyhow::Result<PathBuf> {
    let path = dir.join("report.json");
    std::fs::write(&path, serde_json::to_string_pretty(findings)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

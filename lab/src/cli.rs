//! `bulkhead lab`: the command line, and where findings are kept between one experiment and the report.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::experiments::{Bench, Experiment};
use crate::findings::{Findings, Size};
use crate::serve::Serve;

/// Measure what the ways to serve many clients cost and survive
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead lab races                what is lost without synchronisation
  bulkhead lab all --quick          everything, in about two minutes
  bulkhead lab serve prefork        one of the servers, to be tried with nc and ps
  bulkhead lab report               one page of all that was found: bulkhead-lab/report.html")]
pub struct LabArgs {
    #[command(subcommand)]
    command: Option<Special>,
    /// Which experiment to run: isolation, scale, idle, throughput, preemption, races, deadlock, pool, talk, chaos, peers;
    /// or `all`. Without it they are listed
    experiment: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Measure less thoroughly: all experiments together take two minutes
    #[arg(long, global = true)]
    quick: bool,
    /// Print the findings as JSON: an object, or with `all` an array of them when all are through
    #[arg(long, global = true)]
    json: bool,
    /// Where findings are kept
    #[arg(long, global = true, value_name = "DIRECTORY", default_value = "bulkhead-lab")]
    dir: PathBuf,
    /// A PostgreSQL for `pool`, instead of one that the lab starts. It works there in a schema of its own,
    /// bulkhead_lab_PID, which stays if the lab is killed
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Special {
    /// Write one page of all that was found
    Report,
    /// Run one of the lab's servers until Ctrl-C, to try it
    Serve(Serve),
}

/// Runs what was asked for. `bulkhead`: that program, for the systems that are Bulkhead itself.
///
/// # Errors
/// What an experiment cannot do without, an unknown name, or a directory that cannot be written.
pub fn run(args: LabArgs, bulkhead: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let LabArgs { command, experiment, how } = args;
    if let Some(Special::Report) = &command {
        let findings = all_findings(&how.dir)?;
        let path = crate::report::write(&how.dir, &findings)?;
        say(&format!("{}\n", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(Special::Serve(serve)) = command {
        crate::janitor::engage();
        crate::serve::run(&serve, say)?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = match experiment.as_deref() {
        None => {
            say(&list(how.json)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some("all") => Experiment::ALL.to_vec(),
        Some(name) => vec![by_name(name)?],
    };
    crate::janitor::engage();
    let _orphans = Orphans;
    let bench = Bench {
        size: if how.quick { Size::Quick } else { Size::Full },
        bulkhead,
        database_url: how.database_url,
    };
    let several = chosen.len() > 1;
    let (mut found, mut failed) = (Vec::new(), 0);
    for experiment in chosen {
        let run = experiment.run(&bench).with_context(|| format!("{} could not be run", experiment.name()));
        match run {
            Ok(findings) => {
                keep(&how.dir, &findings)?;
                if !how.json {
                    say(&shown(&findings))?;
                }
                found.push(findings);
            }
            // Of several one costs itself, and not what the others find.
            Err(error) if several => {
                eprintln!("{error:#}");
                failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    match found.as_slice() {
        _ if !how.json => {}
        [one] if !several => say(&(serde_json::to_string_pretty(one)? + "\n"))?,
        all => say(&(serde_json::to_string_pretty(all)? + "\n"))?,
    }
    if failed > 0 {
        eprintln!("{failed} experiments could not be run; what the others found is in {}", how.dir.display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever has lost its parent ends with the lab.
struct Orphans;

impl Drop for Orphans {
    fn drop(&mut self) {
        crate::compartment::end_orphans();
    }
}

fn by_name(name: &str) -> anyhow::Result<Experiment> {
    Experiment::from_str(name, true).or_else(|_| {
        let known: Vec<_> = Experiment::ALL.iter().map(|it| it.name()).collect();
        bail!("there is no experiment {name:?}; there are: {}, and all", known.join(", "))
    })
}

/// What there is to be run: for people, or as JSON.
fn list(json: bool) -> anyhow::Result<String> {
    if json {
        let entry = |it: &Experiment| serde_json::json!({ "name": it.name(), "question": it.question() });
        let all: Vec<_> = Experiment::ALL.iter().map(entry).collect();
        return Ok(serde_json::to_string_pretty(&all)? + "\n");
    }
    let mut text = String::from("experiments (bulkhead lab NAME [--quick] [--json]):\n");
    for experiment in Experiment::ALL {
        text += &format!("  {:<12} {}\n", experiment.name(), experiment.question());
    }
    Ok(text)
}

/// Prints. A reader who has heard enough (`| head -1`) is no error.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        said => said.context("cannot print what was found"),
    }
}

/// The findings of one experiment, for people.
fn shown(findings: &Findings) -> String {
    let Findings { experiment, question, method, machine, outcome, .. } = findings;
    let mut text = format!("{experiment}: {question}\n{method}\n{machine}\n\n");
    for table in &outcome.tables {
        text += &format!("{}\n", table.render());
    }
    for note in &outcome.notes {
        text += &format!("note: {note}\n");
    }
    for answer in &outcome.answers {
        text += &format!("claim {:>2} {}: {}\n", answer.claim, answer.verdict.words(), answer.evidence);
    }
    text
}

/// Writes the findings of one experiment, in the place of those of the time before.
fn keep(dir: &Path, findings: &Findings) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(format!("{}.json", findings.experiment));
    let new = path.with_extension("json.new");
    std::fs::write(&new, serde_json::to_string_pretty(findings)? + "\n")
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What was found so far, in the order of experiments.
fn all_findings(dir: &Path) -> anyhow::Result<Vec<Findings>> {
    let mut all = Vec::new();
    for experiment in Experiment::ALL {
        let path = dir.join(format!("{}.json", experiment.name()));
        match std::fs::read_to_string(&path) {
            Ok(text) => all.push(serde_json::from_str(&text).with_context(|| {
                format!("{} is not of this version: run the experiment again", path.display())
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    if all.is_empty() {
        bail!("nothing was found yet in {}: run `bulkhead lab all --quick` first", dir.display());
    }
    Ok(all)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        _lab: LabArgs,
    }

    #[test]
    fn the_help_and_both_lists_name_every_experiment() {
        let help = Line::command().render_long_help().to_string();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&list(true).unwrap()).unwrap();
        let text = list(false).unwrap();
        assert_eq!(listed.len(), Experiment::ALL.len());
        for (experiment, entry) in Experiment::ALL.iter().zip(&listed) {
            let name = experiment.name();
            assert_eq!(entry["name"], name);
            assert!(help.contains(name), "{name} is missing in: {help}");
            assert!(text.contains(experiment.question()));
        }
    }
}

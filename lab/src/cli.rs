//! `bulkhead lab`: the command line, and where findings are kept between one experiment and the report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::experiments::{Bench, Experiment};
use crate::findings::{Findings, Size};

/// Measure what the ways to serve many clients cost and survive
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead lab races                what is lost without synchronisation
  bulkhead lab all --quick          everything, in about two minutes
  bulkhead lab report               one page of all that was found: bulkhead-lab/report.html")]
pub struct LabArgs {
    #[command(subcommand)]
    command: Option<Special>,
    /// Which experiment to run; `all` for all of them. Without it they are listed
    experiment: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Measure less thoroughly: all experiments together take two minutes
    #[arg(long, global = true)]
    quick: bool,
    /// Print the findings as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Where findings are kept
    #[arg(long, global = true, value_name = "DIRECTORY", default_value = "bulkhead-lab")]
    dir: PathBuf,
    /// A PostgreSQL for `pool`, instead of one that the lab starts; it works there in a schema of its own
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Special {
    /// Write one page of all that was found
    Report,
}

/// Runs what was asked for. `bulkhead`: that program, for the systems that are Bulkhead itself.
///
/// # Errors
/// What an experiment cannot do without, an unknown name, or a directory that cannot be written.
pub fn run(args: LabArgs, bulkhead: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let LabArgs { command, experiment, how } = args;
    if let Some(Special::Report) = command {
        let findings = all_findings(&how.dir)?;
        let path = crate::report::write(&how.dir, &findings)?;
        println!("{}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = match experiment.as_deref() {
        None => {
            list();
            return Ok(ExitCode::SUCCESS);
        }
        Some("all") => Experiment::ALL.to_vec(),
        Some(name) => vec![by_name(name)?],
    };
    crate::janitor::engage();
    let bench = Bench {
        size: if how.quick { Size::Quick } else { Size::Full },
        bulkhead,
        database_url: how.database_url,
    };
    for experiment in chosen {
        let findings =
            experiment.run(&bench).with_context(|| format!("{} could not be run", experiment.name()))?;
        keep(&how.dir, &findings)?;
        if how.json {
            println!("{}", serde_json::to_string_pretty(&findings)?);
        } else {
            print(&findings);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn by_name(name: &str) -> anyhow::Result<Experiment> {
    Experiment::from_str(name, true).or_else(|_| {
        let known: Vec<_> = Experiment::ALL.iter().map(|it| it.name()).collect();
        bail!("there is no experiment {name:?}; there are: {}, and all", known.join(", "))
    })
}

fn list() {
    println!("experiments (bulkhead lab NAME [--quick] [--json]):");
    for experiment in Experiment::ALL {
        println!("  {:<12} {}", experiment.name(), experiment.question());
    }
}

fn print(findings: &Findings) {
    println!("{}: {}", findings.experiment, findings.question);
    println!("{}\n{}\n", findings.method, findings.machine);
    for table in &findings.outcome.tables {
        println!("{}", table.render());
    }
    for note in &findings.outcome.notes {
        println!("note: {note}");
    }
    for answer in &findings.outcome.answers {
        println!("claim {:>2} {}: {}", answer.claim, answer.verdict.words(), answer.evidence);
    }
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

//! What an experiment has found can be shown: asked of every experiment, after its pattern.

use lab::findings::{Findings, Plot};

/// Whether the report shows all of it.
pub(crate) fn shows(found: &Findings) -> Result<(), String> {
    let page = lab::report::page(std::slice::from_ref(found));
    let (outcome, count) = (&found.outcome, |text: &str| page.matches(text).count());
    let figures = count("<figure");
    if figures != outcome.plots.len() {
        return Err(format!("{figures} of {} plots are in the report", outcome.plots.len()));
    }
    let heat_maps = outcome.plots.iter().filter(|it| matches!(it, Plot::HeatMap { .. })).count();
    if count("<table") != outcome.tables.len() + heat_maps {
        return Err(format!("{} tables are in the report, of {}", count("<table"), outcome.tables.len()));
    }
    for (opened, closed) in [("<svg", "</svg>"), ("<figure", "</figure>"), ("<section", "</section>")] {
        if count(opened) != count(closed) {
            return Err(format!(
                "{opened} is opened {} times and closed {} times",
                count(opened),
                count(closed)
            ));
        }
    }
    // A number that is none, a colour that no style sheet knows.
    for bad in ["NaN", ">inf", "#A0"] {
        if page.contains(bad) {
            return Err(format!("{bad} is in the report"));
        }
    }
    Ok(())
}

//! How far a measurement has come: a bar on a terminal's standard error, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The bar of one experiment. It is gone when this is dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Of an experiment that takes so many steps.
    pub fn new(name: &str, steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {pos}/{len}  {elapsed} so far, {eta} to go  {wide_msg}",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(bar)
    }

    /// One that shows nothing, for what is a step of something else.
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// There are so many steps more than was thought.
    pub fn more(&self, steps: u64) {
        self.0.inc_length(steps);
    }

    /// What is measured now.
    pub fn doing(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// A step is done.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

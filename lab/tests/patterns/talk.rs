//! Every message comes back as it was sent, over everything that two processes can talk over; who calls a function never
//! has to wait for the processor, and who asks another process has to.

use lab::experiments::Experiment;
use lab::findings::{Findings, Verdict};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("talk", || crate::pattern(Experiment::Talk, holds))]
}

// That messages come back whole is looked after by the experiment itself: a way by which they do not has no figure.
fn holds(found: &Findings) -> Result<(), String> {
    let measured = found.outcome.data["measured"].as_array().ok_or("nothing was measured")?;
    for way in ["call", "channel", "pipes", "unix_socket", "shared_memory", "tcp"] {
        let of: Vec<_> = measured.iter().filter(|it| it["way"] == way).collect();
        if of.len() != 2 {
            return Err(format!("{way} was measured {} times instead of with 2 lengths", of.len()));
        }
        // On a crowded machine everybody may be made to wait so often that nobody has to by itself, with one length.
        let sleeps: f64 = of.iter().filter_map(|it| it["sleeps"].as_f64()).sum();
        let sleeps_as_expected = if way == "call" { sleeps == 0.0 } else { sleeps > 0.0 };
        if !sleeps_as_expected {
            return Err(format!("{way}: {sleeps} sleeps for a round trip of each length: {of:?}"));
        }
    }
    // Whether it costs more than a channel depends on the machine; that it was held against one does not.
    match found.outcome.answers.iter().find(|it| it.claim == 2) {
        Some(answer) if answer.verdict != Verdict::NotMeasured && answer.evidence.contains("a channel") => {
            Ok(())
        }
        other => Err(format!("claim 2 was answered {other:?}")),
    }
}

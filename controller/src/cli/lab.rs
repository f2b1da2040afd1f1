//! `bulkhead lab`: handed over to the crate of that name, with this program for the systems that are Bulkhead itself.

use std::process::ExitCode;

use anyhow::Context;

pub(super) fn run(args: ::lab::LabArgs) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    ::lab::run(args, Some(program))
}

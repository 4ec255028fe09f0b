//! `swctl completion` and `swctl man`: made from the command tree itself, so that they cannot be stale.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::{Context, Done, Failure, Outcome};

#[derive(clap::Args, Debug)]
pub struct CompletionArgs {
    shell: Shell,
}

#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Made when missing
    dir: PathBuf,
}

pub fn completion(args: &CompletionArgs, context: &mut Context) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "swctl", &mut script);
    context.print.raw(&script)?;
    Ok(Outcome::Done)
}

pub fn man(args: &ManArgs) -> Done {
    let failed = |e| Failure::Io(format!("cannot write to {}: {e}", args.dir.display()));
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)?;
    Ok(Outcome::Done)
}

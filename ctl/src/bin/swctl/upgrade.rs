//! `swctl upgrade`: another version of the daemon takes over, and no frame is lost.

use std::fs::File;
use std::path::PathBuf;

use ctl::upgrade::{Monitor, Upgraded};
use serde::Serialize;

use crate::args::Output;
use crate::context::{Context, Done, Failure, Outcome};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The program to become [default: what is now where the daemon's program was]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

#[derive(Serialize)]
struct View {
    from: String,
    to: String,
    paused_us: u64,
}

pub fn upgrade(args: Args, context: &mut Context) -> Done {
    let monitor = Monitor::connect(&context.global.socket)?;
    let path = match args.binary {
        Some(path) => path,
        None => monitor.program()?,
    };
    let program = File::open(&path).map_err(|e| Failure::Io(format!("{}: {e}", path.display())))?;
    let people = context.global.output == Output::Table;
    // Preparing a process with thousands of ports takes longer than a request does.
    let limit = context.global.timeout.max(ctl::upgrade::PATIENCE);
    let upgraded = monitor.upgrade(&program, limit, |step| {
        if people {
            context.note(step);
        }
    })?;
    let Upgraded { from, to, paused_us } = upgraded;
    if people {
        let paused = paused_us as f64 / 1000.0;
        context.print.line(&format!("upgraded from {from} to {to}; frames waited for {paused:.1} ms"))?;
    } else {
        context.print.object(&View { from, to, paused_us })?;
    }
    Ok(Outcome::Done)
}

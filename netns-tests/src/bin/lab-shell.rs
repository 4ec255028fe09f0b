//! A lab to play in: two empty nodes joined by a wire, and any program run inside.
//!
//! `lab-shell [--keep] [PROGRAM [ARGUMENT]...]` runs the program in the sandbox (not in a node:
//! see `ip netns`) and ends with its exit code; without a program it prints the namespaces. With
//! `--keep` the lab stays after the program's end, until it is killed. `lab-shell --install` gets the programs
//! that the suites run, and does nothing else.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, ExitCode};

use lab::{Context as _, Lab, Result};

fn main() -> ExitCode {
    // Packages can be installed only outside the sandbox, which has no network.
    if std::env::args_os().nth(1).is_some_and(|a| a == "--install") {
        return match lab::install::ensure_tools(&lab::install::all()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                let _ = writeln!(std::io::stderr(), "lab-shell: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let sandbox = lab::enter::enter();
    match run(&sandbox) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "lab-shell: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(sandbox: &lab::enter::Sandbox) -> Result<u8> {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let keep = args.first().is_some_and(|a| a == "--keep");
    if keep {
        args.remove(0);
    }
    let lab = Lab::new("").node("node-a").node("node-b").build()?;
    let mut code = 0;
    match args.split_first() {
        Some((program, rest)) => {
            let status = Command::new(program).args(rest).status().context(program.to_string_lossy())?;
            code = u8::try_from(status.code().unwrap_or(1)).unwrap_or(1);
        }
        None => {
            for name in lab::netns::list()? {
                writeln!(std::io::stdout().lock(), "{name}")?;
            }
        }
    }
    if keep {
        lab::enter::keep(&lab.how_to_look_around(sandbox))?;
    }
    Ok(code)
}

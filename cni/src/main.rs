//! `swd-cni`, the CNI plugin of the switch: a container runtime runs it once for each step in the life of a pod.
//!
//! It holds no state and makes no device: it checks what the runtime hands over, asks the daemon on its socket,
//! and writes the answer in the form of the specification's version that was asked for. See `docs/cni.md`.
#![forbid(unsafe_code)]

mod args;
mod config;
mod daemon;
mod delegate;
mod env;
mod error;
mod request;
mod result;
mod verbs;
mod version;

use std::io::{self, IsTerminal as _, Read as _};
use std::process::ExitCode;

use env::{Command, Env};
use error::{CniError, Code};
use serde_json::Value;
use version::SpecVersion;

/// Longest configuration that is read, in bytes. GC of a full node lists a few thousand attachments of about
/// 150 bytes each, twice.
const MAX_STDIN: u64 = 16 << 20;

fn main() -> ExitCode {
    let about = format!("swd-cni {} (CNI {})\n", env!("CARGO_PKG_VERSION"), SpecVersion::list());
    if std::env::args_os().nth(1).is_some_and(|a| a == "--version" || a == "-V") {
        return write(io::stdout(), about.as_bytes(), ExitCode::SUCCESS);
    }
    match Env::read(|name| std::env::var_os(name)) {
        Ok(Some(env)) => match stdin(&env) {
            Ok(stdin) => {
                let (version, output) = verbs::run(&env, stdin);
                print(version, output)
            }
            Err(e) => print(SpecVersion::LATEST, Err(e)),
        },
        // No runtime: somebody wants to know what this is.
        Ok(None) => {
            let versions = format!("CNI protocol versions supported: {}\n", SpecVersion::list());
            let version = env!("CARGO_PKG_VERSION");
            let about = format!("CNI plugin swd-cni {version}, of the userspace switch swd\n{versions}");
            write(io::stderr(), about.as_bytes(), ExitCode::SUCCESS)
        }
        Err(e) => print(SpecVersion::LATEST, Err(e)),
    }
}

fn stdin(env: &Env) -> Result<Vec<u8>, CniError> {
    let stdin = io::stdin();
    let mut content = Vec::new();
    if env.command == Command::Version && stdin.is_terminal() {
        // It needs nothing from there, and a person who tries it should not have to guess Ctrl-D.
        return Ok(content);
    }
    let read = stdin.lock().take(MAX_STDIN + 1).read_to_end(&mut content);
    match (read, env.command) {
        (Err(e), command) if command != Command::Version => Err(CniError::new(
            Code::Io,
            format!("cannot read the network configuration from standard input: {e}"),
        )),
        (Ok(_), command) if content.len() as u64 > MAX_STDIN && command != Command::Version => {
            Err(CniError::new(
                Code::Io,
                format!("the network configuration on standard input is longer than {MAX_STDIN} bytes"),
            ))
        }
        _ => Ok(content),
    }
}

fn print(version: SpecVersion, output: verbs::Output) -> ExitCode {
    let (object, code) = match output {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(e) => (e.to_json(version), ExitCode::FAILURE),
    };
    write(io::stdout(), line(&object).as_bytes(), code)
}

fn line(object: &Value) -> String {
    format!("{object}\n")
}

/// A runtime that does not take the answer must not believe that all is well.
fn write(mut to: impl io::Write, bytes: &[u8], code: ExitCode) -> ExitCode {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

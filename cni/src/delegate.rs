//! An external IPAM plugin: the binary in `CNI_PATH`, run with our environment and our standard input.
//!
//! It is asked with the verb we were asked with, and with DEL when an ADD has to be undone. Its errors are passed
//! on with their code, because runtimes act on it.

use std::path::PathBuf;
use std::process::Output;

use ctl::plugin;

use crate::config::Config;
use crate::env::{COMMAND, Command, Env};
use crate::error::{CniError, Code};

/// An IPAM plugin that was found.
#[derive(Debug)]
pub struct Delegate<'a> {
    pub kind: String,
    binary: PathBuf,
    config: &'a [u8],
}

impl<'a> Delegate<'a> {
    /// The one the configuration names, if it names one.
    pub fn of(env: &Env, config: &'a Config) -> Result<Option<Self>, CniError> {
        let Some(kind) = config.external_ipam()? else { return Ok(None) };
        let path = env.path()?;
        let Some(binary) = plugin::find(path, &kind) else {
            let msg = format!("IPAM plugin {kind} is not in CNI_PATH ({path})");
            return Err(CniError::new(Code::Ipam, msg)
                .details("install it there, or leave `ipam.type` away and let the switch allocate"));
        };
        Ok(Some(Self { kind, binary, config: &config.bytes }))
    }

    /// Runs it; what it wrote to standard output.
    pub fn run(&self, command: Command) -> Result<Vec<u8>, CniError> {
        let output = plugin::run(&self.binary, [(COMMAND, command.as_str())], self.config).map_err(|e| {
            CniError::new(Code::Ipam, format!("cannot run IPAM plugin {}: {e}", self.binary.display()))
        })?;
        if output.status.success() { Ok(output.stdout) } else { Err(self.error(command, &output)) }
    }

    /// Runs it where only success counts.
    pub fn tell(&self, command: Command) -> Result<(), CniError> {
        self.run(command).map(drop)
    }

    fn error(&self, command: Command, output: &Output) -> CniError {
        let who = format!("IPAM plugin {}: {}", self.kind, command.as_str());
        match plugin::refusal(output) {
            Some(e) => CniError { code: e.code, msg: format!("{who}: {}", e.msg), details: e.details },
            None => CniError::new(Code::Ipam, format!("{who}: it ended with {} and no error", output.status))
                .details("it may have said more on standard error; see the log of the runtime"),
        }
    }
}

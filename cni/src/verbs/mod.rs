//! The verbs, a file each. Every one makes one call to the daemon, or a second where its file says why.

mod add;
mod check;
mod del;
mod gc;
mod status;

use serde_json::Value;

use crate::config::Config;
use crate::env::{Command, Env};
use crate::error::{CniError, Code};
use crate::version::{self, SpecVersion};

/// What goes to standard output on success, if anything.
pub type Output = Result<Option<Value>, CniError>;

/// Carries out a verb. The version is that of the answer, also of an error.
pub fn run(env: &Env, stdin: Vec<u8>) -> (SpecVersion, Output) {
    if env.command == Command::Version {
        return (SpecVersion::LATEST, Ok(Some(version::reply(&stdin))));
    }
    match Config::parse(stdin) {
        Ok(config) => (config.version, dispatch(env, &config)),
        Err(e) => (SpecVersion::LATEST, Err(e)),
    }
}

fn dispatch(env: &Env, config: &Config) -> Output {
    let allowed = match env.command {
        Command::Check => config.version.has_check(),
        Command::Gc | Command::Status => config.version.has_gc_and_status(),
        Command::Add | Command::Del | Command::Version => true,
    };
    if !allowed {
        let (verb, version) = (env.command.as_str(), config.version.as_str());
        let msg = format!("`cniVersion` {version} of the network configuration does not have {verb}");
        return Err(CniError::new(Code::IncompatibleVersion, msg));
    }
    match env.command {
        Command::Add => add::run(env, config).map(Some),
        Command::Del => del::run(env, config).map(|()| None),
        Command::Check => check::run(env, config).map(|()| None),
        Command::Gc => gc::run(env, config).map(|()| None),
        Command::Status => status::run(env, config).map(|()| None),
        Command::Version => Ok(None),
    }
}

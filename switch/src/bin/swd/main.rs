//! `swd`, the daemon: one process, or a monitor and its switch process.
//!
//! [`switch_process`] puts the parts together and forwards; [`monitor_process`] starts it and holds what it must not
//! lose. Which of the two this is, the environment says ([`Inherited`]).

mod account;
mod means;
mod monitor_process;
mod options;
mod serving;
mod state_dir;
mod switch_process;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use switch::monitor::{Inherited, succession};
use switch::notify;

use account::Account;
use options::{Cli, Options};

const STATE_DIR: &str = "/var/lib/swd";
const NFT_TABLE: &str = "swd";

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(std::io::stderr().lock(), "swd: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Failure> {
    // First of all: descriptors are known by their numbers.
    let inherited = Inherited::take()?;
    let left = succession::inherit()?;
    let cli = Cli::parse();
    let mut config = String::new();
    let options = match &cli.config {
        Some(path) => {
            // What a daemon was started with holds for its life.
            config = match (&inherited, &left) {
                (Some(inherited), _) => inherited.config.clone(),
                (None, Some(left)) => left.config.clone(),
                (None, None) => Options::read(path)?,
            };
            cli.options.or(Options::parse(path, &config)?)
        }
        None => cli.options,
    };
    if inherited.is_none() && left.is_none() && succession::rehearsal()? {
        writeln!(std::io::stdout().lock(), "{}", succession::greeting(env!("CARGO_PKG_VERSION")))?;
        return Ok(ExitCode::SUCCESS);
    }
    start_log(options.log_level.as_deref().unwrap_or("info"))?;
    raise_nofile();
    match inherited {
        None if options.monitor != Some(false) => monitor_process::run(&options, config, left),
        None => {
            notify::decline_descriptors()?;
            switch_process::run(options, None).map(|()| ExitCode::SUCCESS)
        }
        inherited => switch_process::run(options, inherited).map(|()| ExitCode::SUCCESS),
    }
}

fn socket_path(options: &Options) -> PathBuf {
    options.socket.clone().unwrap_or_else(|| PathBuf::from(ctl::DEFAULT_SOCKET))
}

fn state_dir(options: &Options) -> PathBuf {
    options.state_dir.clone().unwrap_or_else(|| PathBuf::from(STATE_DIR))
}

/// Directories that the switch process reads and writes.
fn own_directories(options: &Options) -> [PathBuf; 2] {
    [state_dir(options), ctl::tombstone::directory(&socket_path(options))]
}

/// Whom the switch process becomes, and why nobody where it could: it stays who it is if it could not get at its own
/// directories. Both processes come to the same answer.
fn account(options: &Options) -> Result<(Option<Account>, Option<String>), Failure> {
    let Some(account) = account::of(options.user.as_deref())? else { return Ok((None, None)) };
    for dir in own_directories(options) {
        if let Some(closed) = account::obstacle(account, &dir) {
            let (dir, closed) = (dir.display(), closed.display());
            let text = format!("user {} cannot reach {dir}, because {closed} is closed to it", account.uid);
            return Ok((None, Some(text)));
        }
    }
    Ok((Some(account), None))
}

fn nft_table(options: &Options) -> &str {
    options.nft_table.as_deref().unwrap_or(NFT_TABLE)
}

fn about_socket(path: &Path, e: &std::io::Error) -> String {
    format!("control socket {}: {e}", path.display())
}

fn start_log(level: &str) -> Result<(), Failure> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(level).map_err(|e| format!("log level `{level}`: {e}"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

/// One port is one descriptor, and the usual limit is 1,024.
fn raise_nofile() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
}

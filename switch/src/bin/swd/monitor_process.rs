//! The process that a service manager starts: it holds what must not be lost, and starts the other.

use std::process::ExitCode;
use std::time::Duration;

use switch::control::server::Socket;
use switch::io::HostOpener;
use switch::monitor::child::Birth;
use switch::monitor::{self, Job, PidFile};
use switch::node::NftHost;

use super::account::Account;
use super::options::Options;
use super::{Failure, about_socket, account, nft_table, own_directories, ready, socket_path};

/// How long the switch process of a monitor that was killed may take to end.
const LEFTOVER: Duration = Duration::from_secs(3);

/// Runs until the switch process has ended for good; `config` is the content of the configuration file. The exit code is that of the last one.
pub fn run(options: &Options, config: String) -> Result<ExitCode, Failure> {
    let path = socket_path(options);
    let (account, kept) = account(options)?;
    if let Some(why) = kept {
        tracing::warn!("the switch process keeps its user: {why}; use a directory that others may pass");
    }
    for dir in own_directories(options) {
        Account::own(account, &dir, 0o700).map_err(|e| format!("directory {}: {e}", dir.display()))?;
    }
    let pid_file = PidFile::beside(&path);
    if !pid_file.wait(LEFTOVER) {
        tracing::warn!("the switch process of another monitor has not ended within {LEFTOVER:?}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let job = Job {
        // By its descriptor, so that a restart is not an upgrade by accident.
        birth: Birth {
            program: "/proc/self/exe".into(),
            args: std::env::args_os().skip(1).collect(),
            config,
            pid_file: pid_file.clone(),
        },
        opener: HostOpener,
        host: NftHost::new(nft_table(options))?,
        socket: Socket::prepare(&path).map_err(|e| about_socket(&path, &e))?,
        notify: ready::tell,
    };
    let code = runtime.block_on(monitor::run(job))?;
    pid_file.forget();
    Ok(code.into())
}

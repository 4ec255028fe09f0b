//! The process that a service manager starts: it holds what must not be lost, and starts the other.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use switch::control::server::Socket;
use switch::io::HostOpener;
use switch::monitor::child::Birth;
use switch::monitor::{self, Job};
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let job = Job {
        // By its descriptor, so that a restart is not an upgrade by accident.
        birth: Birth {
            program: "/proc/self/exe".into(),
            args: std::env::args_os().skip(1).collect(),
            config,
        },
        opener: HostOpener,
        host: NftHost::new(nft_table(options))?,
        socket: patiently(|| Socket::prepare(&path)).map_err(|e| about_socket(&path, &e))?,
        notify: ready::tell,
        start_limit: options.start_limit.map_or(monitor::START, Duration::from_secs),
    };
    Ok(runtime.block_on(monitor::run(job))?.into())
}

/// Tries for a while: the switch process of a monitor that was killed ends with it, but takes a moment.
fn patiently<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let limit = Instant::now() + LEFTOVER;
    loop {
        match work() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < limit => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

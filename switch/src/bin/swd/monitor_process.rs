//! The process that a service manager starts: it holds what must not be lost, and starts the other.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use switch::control::server::Socket;
use switch::io::HostOpener;
use switch::monitor::child::Birth;
use switch::monitor::{self, Estate, Job, Origin, PidFile, Returned, Store, Talk};
use switch::node::NftHost;
use switch::notify::{self, Notifier};

use super::account::Account;
use super::options::Options;
use super::{Failure, about_socket, account, nft_table, own_directories, socket_path};

/// How long the switch process of a monitor that was killed may take to end.
const LEFTOVER: Duration = Duration::from_secs(3);

/// Runs until the switch process has ended for good; `config` is the content of the configuration file, `left` what the
/// program before this one has left. The exit code is that of the last switch process.
pub fn run(options: &Options, config: String, left: Option<Estate>) -> Result<ExitCode, Failure> {
    let (account, kept) = account(options)?;
    if let Some(why) = kept {
        tracing::warn!("the switch process keeps its user: {why}; use a directory that others may pass");
    }
    for dir in own_directories(options) {
        Account::own(account, &dir, 0o700).map_err(|e| format!("directory {}: {e}", dir.display()))?;
    }
    let (store, origin) = match left {
        Some(estate) => {
            let next = estate.next_name;
            (store(next)?, Origin::Left(Box::new(estate)))
        }
        None => {
            // First of all: descriptors are known by their numbers.
            let returned = kept_by_the_service_manager()?;
            let store = store(returned.next)?;
            returned.refused.iter().for_each(|name| store.forget(Some(name)));
            (store, origin(options, returned)?)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let job = Job {
        // By its descriptor, so that a restart is not an upgrade by accident.
        birth: Birth {
            program: "/proc/self/exe".into(),
            args: std::env::args_os().skip(1).collect(),
            config,
            pid_file: PidFile::beside(&socket_path(options)),
        },
        opener: HostOpener,
        host: NftHost::new(nft_table(options))?,
        notify: notify::tell,
        watchdog: notify::watchdog(),
        store,
        version: env!("CARGO_PKG_VERSION"),
        origin,
        start_limit: options.start_limit.map_or(monitor::START, Duration::from_secs),
    };
    Ok(runtime.block_on(monitor::run(job))?.into())
}

/// With what a monitor begins that was started.
fn origin(options: &Options, mut returned: Returned) -> Result<Origin, Failure> {
    let path = socket_path(options);
    let door = ctl::upgrade::door(&path);
    let about_door = |e: io::Error| format!("the monitor's socket {}: {e}", door.display());
    if options.take_over == Some(true)
        && let Some(talk) = Talk::ask(&door).map_err(about_door)?
    {
        return Ok(Origin::Other(talk));
    }
    if !PidFile::beside(&path).wait(LEFTOVER) {
        tracing::warn!("the switch process of another monitor has not ended within {LEFTOVER:?}");
    }
    let listener = returned.listener.take();
    let socket = match listener.and_then(|(listener, id)| Socket::returned(listener, &path, id)) {
        Some(socket) => socket,
        None => Socket::prepare(&path).map_err(|e| about_socket(&path, &e))?,
    };
    let own = Socket::prepare_private(&door).map_err(about_door)?;
    Ok(Origin::Start(Box::new([socket, own]), Box::new(returned)))
}

/// Where descriptors go; `next` is the number of the first name that is free.
fn store(next: u64) -> io::Result<Store> {
    Ok(Notifier::from_env()?.map_or_else(Store::default, |manager| Store::new(manager, next)))
}

/// Descriptors that have come back.
fn kept_by_the_service_manager() -> io::Result<Returned> {
    let returned = Returned::sort(notify::take_descriptors()?);
    let (ports, sockets) = (returned.ports.len(), returned.underlay.len());
    if ports + sockets > 0 || returned.memory.is_some() {
        tracing::info!(
            ports,
            sockets,
            memory = returned.memory.is_some(),
            "taken back from the service manager"
        );
    }
    Ok(returned)
}

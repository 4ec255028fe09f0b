//! STATUS: whether ADD would work now. Runtimes ask every few seconds and mark the node by the answer.
//!
//! 51 when pods that are attached suffer too: a daemon that is gone forwards nothing. One that does not answer in
//! time may well forward, since its worker does not wait for its control thread, so that is 50.

use ctl::error::Reason;
use ctl::proto;

use crate::config::Config;
use crate::daemon::{self, Daemon};
use crate::delegate::Delegate;
use crate::env::{Command, Env};
use crate::error::{CniError, Code};

pub fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    let socket = config.socket()?;
    let request = proto::GetReadinessRequest { network: config.network()? };
    let delegate = Delegate::of(env, config)?;
    let reply = Daemon::connect(&socket, daemon::STATUS)
        .and_then(|mut d| d.call(async |s| s.get_readiness(request).await));
    match reply {
        Ok(readiness) if readiness.ready => {}
        Ok(readiness) => {
            let code = if readiness.degraded { Code::NotAvailableDegraded } else { Code::NotAvailable };
            return Err(
                CniError::new(code, format!("swd is not ready: {}", readiness.cause)).details(readiness.hint)
            );
        }
        Err(e) => {
            let gone = e.reason == Reason::Unreachable;
            let code = if gone { Code::NotAvailableDegraded } else { Code::NotAvailable };
            return Err(CniError::new(code, format!("swd is not ready: {}", e.message)).details(e.hint));
        }
    }
    delegate.map_or(Ok(()), |d| d.tell(Command::Status))
}

//! CHECK: whether the attachment is still what ADD made.
//!
//! The daemon compares device, namespace, addresses and its own tables. What later plugins of the chain may
//! change is not compared: other interfaces, and addresses in the result that do not belong to ours.

use ctl::error::Reason;
use ctl::proto;

use crate::config::Config;
use crate::daemon::{self, Daemon};
use crate::delegate::Delegate;
use crate::env::{Command, Env};
use crate::error::{CniError, Code, both};
use crate::request;
use crate::result::Previous;

pub fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    env.refuse_own_netns()?;
    let Some(document) = config.prev_result()? else {
        return Err(CniError::new(Code::InvalidConfig, "network configuration: `prevResult` is missing")
            .details("CHECK compares with the result of ADD; the runtime must hand it on"));
    };
    let previous = Previous::of(Some(document))?;
    let delegate = Delegate::of(env, config)?;
    let checked = compare(env, config, &previous);
    both(checked, delegate.map_or(Ok(()), |d| d.tell(Command::Check)))
}

fn compare(env: &Env, config: &Config, previous: &Previous) -> Result<(), CniError> {
    let subject = env.subject();
    let Some(ips) = previous.addresses_of(&env.ifname) else {
        let msg = format!("{subject}: `prevResult` has no interface of that name in a sandbox");
        return Err(CniError::new(Code::Broken, msg).details("delete the pod and make it anew"));
    };
    let request = proto::CheckAttachmentRequest {
        key: Some(request::key(env)),
        cni_network: config.name.clone(),
        netns: env.netns_path()?,
        ips,
    };
    let reply = Daemon::connect(&config.socket()?, daemon::CHECK)
        .and_then(|mut d| d.call(async |s| s.check_attachment(request).await));
    match reply {
        Ok(reply) if reply.problems.is_empty() => Ok(()),
        Ok(reply) => Err(CniError::new(Code::Broken, format!("{subject}: {}", reply.problems.join("; ")))
            .details("see swctl port show; if it does not recover, delete the pod and make it anew")),
        Err(e) if e.reason == Reason::PortNotFound => {
            Err(CniError::new(Code::UnknownContainer, format!("{subject}: {}", e.message)).details(e.hint))
        }
        Err(e) => Err(CniError::from_api(&format!("cannot check {subject}"), e)),
    }
}

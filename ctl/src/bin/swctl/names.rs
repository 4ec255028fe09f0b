//! Names of containers' ports, `CONTAINER-ID/IFNAME`: too long for a table, and to be typed.
//!
//! Runtimes give ids of 64 hexadecimal digits and show the first 12. Tables here do the same, and what they show, or
//! any other beginning of an id that is that of one port only, is taken where a port is named.

use ctl::error::{ApiError, Reason};
use ctl::proto;

use crate::context::{Context, Failure};

/// Digits of an id.
const FULL: usize = 64;
/// As runtimes show it.
const SHORT: usize = 12;
/// Fewer digits could as well be a name that somebody has thought of.
const FEWEST: usize = 4;
/// Most names that an error lists.
const LISTED: usize = 4;

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A table's cell with ids of containers shortened.
pub fn shortened(cell: &str) -> String {
    let mut out = String::with_capacity(cell.len());
    let mut rest = cell;
    while let Some((before, after)) = rest.split_once('/') {
        let at = before.rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
        let (lead, id) = before.split_at_checked(at).unwrap_or((before, ""));
        out.push_str(lead);
        let is_id = id.len() == FULL && is_hex(id);
        out.push_str(if is_id { id.get(..SHORT).unwrap_or(id) } else { id });
        out.push('/');
        rest = after;
    }
    out + rest
}

/// May a text be the beginning of an id, with or without the interface?
fn may_be_short(text: &str) -> bool {
    let id = text.split_once('/').map_or(text, |(id, _)| id);
    (FEWEST..FULL).contains(&id.len()) && is_hex(id)
}

/// Does a port's name begin with a shortened one?
fn is_meant(name: &str, text: &str) -> bool {
    let Some((id, ifname)) = name.split_once('/') else { return false };
    let (start, wanted) = text.split_once('/').map_or((text, None), |(start, ifname)| (start, Some(ifname)));
    id.len() == FULL && is_hex(id) && id.starts_with(start) && wanted.is_none_or(|wanted| wanted == ifname)
}

/// The port that a text means among those there are. What is no port's stays as it is, for the daemon to refuse.
fn resolve(text: String, ports: &[String]) -> Result<String, Failure> {
    if ports.contains(&text) {
        return Ok(text);
    }
    let meant: Vec<&String> = ports.iter().filter(|name| is_meant(name, &text)).collect();
    match meant.as_slice() {
        [] => Ok(text),
        [only] => Ok((*only).clone()),
        several => {
            let mut listed: Vec<&str> = several.iter().take(LISTED).map(|name| name.as_str()).collect();
            if several.len() > LISTED {
                listed.push("…");
            }
            let message = format!("port {text} may be any of {}: {}", several.len(), listed.join(", "));
            Err(ApiError::new(Reason::InvalidArgument, message).hint("give more of its name").into())
        }
    }
}

impl Context {
    /// The ports that are meant; the daemon is asked only if one of the names may be a shortened one.
    pub fn ports(&mut self, names: Vec<String>) -> Result<Vec<String>, Failure> {
        if !names.iter().any(|name| may_be_short(name)) {
            return Ok(names);
        }
        let request = proto::ListPortsRequest::default();
        let reply = self.call(async |s| s.list_ports(request).await)?;
        let ports: Vec<String> = reply.ports.into_iter().filter_map(|p| Some(p.spec?.name)).collect();
        names.into_iter().map(|name| resolve(name, &ports)).collect()
    }

    /// The port that is meant.
    pub fn port(&mut self, name: String) -> Result<String, Failure> {
        Ok(self.ports(vec![name])?.into_iter().next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(start: &str) -> String {
        start.to_owned() + &"0".repeat(FULL - start.len())
    }

    #[test]
    fn ids_are_shortened_and_nothing_else() {
        let long = id("4f2a90c1d3e5");
        for (cell, shown) in [
            (format!("{long}/eth0"), "4f2a90c1d3e5/eth0"),
            (format!("to port {long}/net1, {long}/eth0"), "to port 4f2a90c1d3e5/net1, 4f2a90c1d3e5/eth0"),
        ] {
            assert_eq!(shortened(&cell), shown);
        }
        let upper = format!("{}/eth0", long.to_uppercase());
        let longer = format!("{long}0/eth0");
        for same in ["", "web-0", "a/b/c", "/var/run/netns/cni-1f2e", "10.1.1.2/24", &long, &upper, &longer] {
            assert_eq!(shortened(same), same);
        }
    }

    #[test]
    fn a_beginning_means_one_port_or_none() {
        let (a, b) = (format!("{}/eth0", id("4f2a90c1")), format!("{}/eth0", id("4f2b")));
        let c = format!("{}/net1", id("4f2b"));
        let ports = [a.clone(), b.clone(), c.clone(), "4f2a".to_owned(), "web-0".to_owned()];
        let of = |text: &str| resolve(text.to_owned(), &ports).map_err(|e| e.to_string());
        assert_eq!(of("4f2a90"), Ok(a.clone()));
        assert_eq!(of("4f2a"), Ok("4f2a".to_owned()), "the whole name counts first");
        assert_eq!(of("4f2b0000/net1"), Ok(c.clone()));
        assert_eq!(of("4f2a/net1"), Ok("4f2a/net1".to_owned()), "for the daemon to refuse");
        assert_eq!(of("web"), Ok("web".to_owned()));
        let message = of("4f2b").unwrap_err();
        assert!(message.contains(&b) && message.contains(&c) && message.contains("any of 2"), "{message}");
        assert!(may_be_short("4f2a") && may_be_short("4f2a/eth0") && may_be_short("beef"));
        assert!(!may_be_short("4f2") && !may_be_short("web-0") && !may_be_short(&a) && !may_be_short(""));
    }
}

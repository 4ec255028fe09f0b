//! What the firewalls of this host do with packets that are forwarded by a device of ours.
//!
//! Every base chain at the hook `forward` has a say, and one that drops is enough. Those chains are followed for one
//! packet, as the kernel would: interfaces, the state of the connection and whether its destination was translated
//! are known, addresses and all the rest are not. A rule that asks for something unknown may match or not, so three
//! answers are possible, and only a certain one is worth an alarm: an operator who lets the pods' addresses through
//! by a rule of his own must not hear of it every minute.
//!
//! Read are nftables (also what iptables-nft writes) and the text of `iptables-legacy-save`.

use std::collections::HashMap;

mod iptables;
mod nft;

/// A chain that calls itself is refused by the kernel; this is deeper than any that it accepts.
const MAX_DEPTH: usize = 32;

/// A forwarded packet, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// Interface it came in by.
    pub iif: &'a str,
    /// Interface it goes out by.
    pub oif: &'a str,
    /// It belongs to a connection that was let through before.
    pub established: bool,
    /// The destination of its connection was translated.
    pub dnat: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It passes.
    Accepted,
    /// It does not.
    Dropped,
    /// It depends on what is not known.
    Unsure,
}

/// The chains that forwarded packets meet.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: HashMap<ChainId, Chain>,
}

/// Names a chain.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct ChainId {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

#[derive(Debug, Default)]
struct Chain {
    /// Of base chains at the hook `forward`: does the policy drop?
    drops: Option<bool>,
    rules: Vec<Rule>,
}

#[derive(Debug, Default)]
struct Rule {
    tests: Vec<Test>,
    verdicts: Vec<Verdict>,
}

#[derive(Debug)]
enum Test {
    Iif {
        names: Vec<String>,
        unless: bool,
    },
    Oif {
        names: Vec<String>,
        unless: bool,
    },
    Established {
        unless: bool,
    },
    Dnat {
        unless: bool,
    },
    /// The same for every packet that is looked at.
    Always(bool),
    Unknown,
}

#[derive(Clone, Debug)]
enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// One for each interface that the packet comes in by, or goes out by.
    ByIif(Vec<(String, Verdict)>),
    ByOif(Vec<(String, Verdict)>),
    /// One for each state of the connection.
    ByState(Vec<(String, Verdict)>),
    Unknown,
}

/// What a chain, or a rule, says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Accept,
    Drop,
    /// On with the next rule.
    Nothing,
    /// Back to the chain that called.
    Return,
}

/// A yes, a no, or neither.
type Maybe = Option<bool>;

/// What could have happened already, had an unknown test been true.
#[derive(Clone, Copy, Default)]
struct Doubt {
    accepted: bool,
    dropped: bool,
}

impl Ruleset {
    /// The base chains at the hook `forward`.
    pub(super) fn base_chains(&self) -> Vec<&ChainId> {
        let mut ids: Vec<_> =
            self.chains.iter().filter(|(_, c)| c.drops.is_some()).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Is there a chain of this name beside `id`?
    pub(super) fn has(&self, id: &ChainId, name: &str) -> bool {
        self.chains.contains_key(&ChainId { name: name.to_owned(), ..id.clone() })
    }

    /// What a base chain does with a packet.
    pub(super) fn fate(&self, id: &ChainId, packet: &Packet<'_>) -> Fate {
        let mut doubt = Doubt::default();
        let policy = self.chains.get(id).and_then(|c| c.drops) == Some(true);
        let drops = match self.follow(id, packet, &mut doubt, 0) {
            Said::Accept => false,
            Said::Drop => true,
            Said::Nothing | Said::Return => policy,
        };
        match drops {
            true if doubt.accepted => Fate::Unsure,
            true => Fate::Dropped,
            false if doubt.dropped => Fate::Unsure,
            false => Fate::Accepted,
        }
    }

    fn follow(&self, id: &ChainId, packet: &Packet<'_>, doubt: &mut Doubt, depth: usize) -> Said {
        let Some(chain) = self.chains.get(id).filter(|_| depth < MAX_DEPTH) else {
            *doubt = Doubt { accepted: true, dropped: true };
            return Said::Nothing;
        };
        for rule in &chain.rules {
            let matches = rule.matches(packet);
            if matches == Some(false) {
                continue;
            }
            for verdict in &rule.verdicts {
                let said = self.say(id, verdict, packet, doubt, depth);
                match (matches, said) {
                    (_, Said::Nothing) => {}
                    (Some(true), Said::Return) => return Said::Nothing,
                    (Some(true), said) => return said,
                    (_, Said::Accept) => doubt.accepted = true,
                    (_, Said::Drop) => doubt.dropped = true,
                    // Whatever comes after may be skipped.
                    (_, Said::Return) => *doubt = Doubt { accepted: true, dropped: true },
                }
            }
        }
        Said::Nothing
    }

    fn say(
        &self,
        id: &ChainId,
        verdict: &Verdict,
        packet: &Packet<'_>,
        doubt: &mut Doubt,
        depth: usize,
    ) -> Said {
        let chain = |name: &str| ChainId { name: name.to_owned(), ..id.clone() };
        let choose = |choices: &[(String, Verdict)], name: &str| {
            choices.iter().find(|(pattern, _)| is_named(pattern, name)).map(|(_, verdict)| verdict.clone())
        };
        let chosen = match verdict {
            Verdict::Accept => return Said::Accept,
            Verdict::Drop => return Said::Drop,
            Verdict::Return => return Said::Return,
            Verdict::Jump(name) => return self.follow(&chain(name), packet, doubt, depth + 1),
            Verdict::Goto(name) => {
                return match self.follow(&chain(name), packet, doubt, depth + 1) {
                    Said::Nothing => Said::Return,
                    said => said,
                };
            }
            Verdict::Unknown => {
                *doubt = Doubt { accepted: true, dropped: true };
                None
            }
            Verdict::ByIif(choices) => choose(choices, packet.iif),
            Verdict::ByOif(choices) => choose(choices, packet.oif),
            Verdict::ByState(choices) => {
                choose(choices, if packet.established { "established" } else { "new" })
            }
        };
        match chosen {
            Some(verdict) if depth < MAX_DEPTH => self.say(id, &verdict, packet, doubt, depth + 1),
            _ => Said::Nothing,
        }
    }
}

/// Does an interface match a name, which may end with `*`?
fn is_named(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

impl Rule {
    fn matches(&self, packet: &Packet<'_>) -> Maybe {
        let mut all = Some(true);
        for test in &self.tests {
            let any = |names: &[String], name: &str| names.iter().any(|n| is_named(n, name));
            let holds = match test {
                Test::Iif { names, unless } => any(names, packet.iif) != *unless,
                Test::Oif { names, unless } => any(names, packet.oif) != *unless,
                Test::Established { unless } => packet.established != *unless,
                Test::Dnat { unless } => packet.dnat != *unless,
                Test::Always(holds) => *holds,
                Test::Unknown => {
                    all = None;
                    continue;
                }
            };
            if !holds {
                return Some(false);
            }
        }
        all
    }
}

/// A test of the state of the connection, by the names that both tools use.
fn state<'a>(states: impl Iterator<Item = &'a str>, unless: bool) -> Test {
    let mut known = false;
    let mut other = false;
    for state in states {
        match state.to_ascii_lowercase().as_str() {
            "established" => known = true,
            "new" => other = true,
            "dnat" if !known && !other => return Test::Dnat { unless },
            _ => {}
        }
    }
    match (known, other) {
        (true, false) => Test::Established { unless },
        (false, true) => Test::Established { unless: !unless },
        // A packet that is looked at is one or the other, and nothing else.
        (true, true) => Test::Always(!unless),
        (false, false) => Test::Always(unless),
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;

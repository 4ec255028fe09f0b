//! The law of conservation at the end of a test: every frame that came in was forwarded, answered
//! or dropped, the drops by reason add up, and nothing was dropped for a reason that the test did
//! not provoke.
//!
//! The only place that knows the keys of `swctl drops`, `swctl port stats` and `swctl peer stats`.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::node::Node;

/// What became of all frames together, as the switch itself accounts for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Frames that came in.
    pub frames_in: u64,
    /// Frames that left, counted once however many copies left.
    pub forwarded: u64,
    /// Frames that the switch answered itself (ARP, ND, ICMP).
    pub answered: u64,
    /// Frames dropped.
    pub dropped: u64,
}

/// Counters of one node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The switch's own account, where it gives one.
    pub account: Option<Account>,
    /// Frames received from ports and peers.
    pub rx_frames: u64,
    /// Frames sent to ports and peers.
    pub tx_frames: u64,
    /// Drops by reason; only reasons that occurred.
    pub drops: Vec<(String, u64)>,
}

impl Ledger {
    /// Reads a node's counters. The node should be quiet: the parts are read one after the other.
    pub fn read(node: &Node) -> Result<Self> {
        let drops = node.swctl(&["drops"])?;
        let ports = node.swctl(&["port", "stats"])?;
        let peers = node.swctl(&["peer", "stats"])?;
        let mut ledger = Self::from_json(&drops, &[&ports, &peers])?;
        ledger.account = parse_account(&node.swctl_text(&["drops"])?);
        Ok(ledger)
    }

    /// From the replies of `swctl -o json` to `drops` and to `port stats` and `peer stats`.
    pub fn from_json(drops: &Value, stats: &[&Value]) -> Result<Self> {
        let mut ledger = Self::default();
        for row in rows(drops, "drops")? {
            let reason = row["reason"].as_str().ok_or_else(|| bad("drops", row))?;
            let count = number(row, "count")?;
            if count > 0 {
                ledger.drops.push((reason.to_owned(), count));
            }
        }
        for row in stats.iter().map(|s| rows(s, "stats")).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            ledger.rx_frames += number(row, "rx_frames")?;
            ledger.tx_frames += number(row, "tx_frames")?;
        }
        Ok(ledger)
    }

    /// All drops together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, n)| n).sum()
    }

    /// Drops for one reason.
    pub fn dropped_for(&self, reason: &str) -> u64 {
        self.drops.iter().filter(|(r, _)| r == reason).map(|(_, n)| n).sum()
    }

    /// Fails if something was dropped for a reason that is not among those allowed.
    pub fn allow_only(&self, allowed: &[&str]) -> Result<()> {
        let others: Vec<String> = self
            .drops
            .iter()
            .filter(|(reason, _)| !allowed.contains(&reason.as_str()))
            .map(|(reason, n)| format!("{reason}: {n}"))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let others = others.join(", ");
        Err(Error::failed(format!("frames were dropped for other reasons than {allowed:?}: {others}")))
    }

    /// Fails unless frames in = forwarded + answered + dropped, and the drops by reason add up to
    /// those dropped.
    pub fn balanced(&self) -> Result<()> {
        let Some(account) = self.account else {
            return Err(Error::failed("swctl drops gave no account of all frames"));
        };
        let Account { frames_in, forwarded, answered, dropped } = account;
        if frames_in != forwarded + answered + dropped || dropped != self.dropped() {
            return Err(Error::failed(format!(
                "frames are not conserved: {account:?}, drops {:?}",
                self.drops
            )));
        }
        Ok(())
    }
}

/// Reads "frames in A = forwarded B + answered C + dropped D" out of a table.
fn parse_account(text: &str) -> Option<Account> {
    let line = text.lines().find(|l| l.starts_with("frames in "))?;
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    Some(Account {
        frames_in: numbers.next()?,
        forwarded: numbers.next()?,
        answered: numbers.next()?,
        dropped: numbers.next()?,
    })
}

fn rows<'a>(reply: &'a Value, what: &str) -> Result<&'a Vec<Value>> {
    reply.as_array().ok_or_else(|| bad(what, reply))
}

fn number(row: &Value, key: &str) -> Result<u64> {
    row.get(key).and_then(Value::as_u64).ok_or_else(|| bad(key, row))
}

fn bad(what: &str, value: &Value) -> Error {
    Error::failed(format!("unexpected JSON of swctl ({what}): {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ledgers_balance_and_name_what_was_not_expected() {
        let drops = json!([{"reason": "spoofed-mac", "count": 2}, {"reason": "fdb-full", "count": 0}]);
        let ports = json!([{"rx_frames": 5, "tx_frames": 1}, {"rx_frames": 1, "tx_frames": 3}]);
        let peers = json!([]);
        let mut ledger = Ledger::from_json(&drops, &[&ports, &peers]).unwrap();
        assert_eq!((ledger.rx_frames, ledger.tx_frames), (6, 4));
        assert_eq!((ledger.dropped(), ledger.dropped_for("spoofed-mac")), (2, 2));
        ledger.allow_only(&["spoofed-mac"]).unwrap();
        assert!(ledger.allow_only(&[]).unwrap_err().message().contains("spoofed-mac: 2"));
        assert!(ledger.balanced().is_err());
        let table = "REASON COUNT\nspoofed-mac 2\n\nframes in 6 = forwarded 3 + answered 1 + dropped 2\n";
        ledger.account = parse_account(table);
        ledger.balanced().unwrap();
        ledger.drops.clear();
        assert!(ledger.balanced().is_err());
        assert!(Ledger::from_json(&json!("x"), &[&ports]).is_err());
    }
}

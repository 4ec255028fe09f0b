//! The law of conservation at the end of a test: every frame that came in was forwarded, answered
//! or dropped, every copy that was posted left or was dropped, the drops by reason add up to both,
//! and nothing was dropped for a reason that the test did not provoke.
//!
//! The only place that knows the keys of `swctl drops`, `swctl port stats` and `swctl peer stats`.
//! Both sums come from one reply, read between two batches, so they hold exactly under full load.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::node::Node;

/// What became of all frames together, as the switch itself accounts for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Frames that came in.
    pub frames_in: u64,
    /// Forwarded to one place.
    pub unicast: u64,
    /// Forwarded to several.
    pub flooded: u64,
    /// Had to wait for a neighbour.
    pub held: u64,
    /// Of these, sent once it answered.
    pub released: u64,
    /// Of these, dropped because it did not.
    pub expired: u64,
    /// Turned into an answer.
    pub replied: u64,
    /// Taken by the switch.
    pub consumed: u64,
    /// Dropped before they could be posted.
    pub dropped: u64,
    /// Copies given to ports and peers.
    pub posted: u64,
    /// Copies that left.
    pub frames_out: u64,
    /// Copies lost while sending.
    pub send_drops: u64,
}

/// One drop reason that occurred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Its word.
    pub reason: String,
    /// Where it happens; `tx` for copies that were lost while sending.
    pub stage: String,
    /// How often.
    pub count: u64,
    /// Ports and peers (after an `@`) to which it is counted, for messages.
    pub sources: String,
}

/// Counters of one node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The switch's own account.
    pub account: Account,
    /// Whether the switch itself says that both sums hold for every port and peer.
    pub balanced: bool,
    /// Drops by reason; only reasons that occurred.
    pub drops: Vec<Drop>,
}

impl Ledger {
    /// Reads a node's counters.
    pub fn read(node: &Node) -> Result<Self> {
        Self::from_json(&node.swctl(&["drops"])?)
    }

    /// From the reply of `swctl -o json drops`.
    pub fn from_json(reply: &Value) -> Result<Self> {
        let sums = &reply["ledger"];
        let account = Account {
            frames_in: number(sums, "frames_in")?,
            unicast: number(sums, "unicast")?,
            flooded: number(sums, "flooded")?,
            held: number(sums, "held")?,
            released: number(sums, "released")?,
            expired: number(sums, "expired")?,
            replied: number(sums, "replied")?,
            consumed: number(sums, "consumed")?,
            dropped: number(sums, "frames_dropped")?,
            posted: number(sums, "posted")?,
            frames_out: number(sums, "frames_out")?,
            send_drops: number(sums, "send_drops")?,
        };
        let balanced = sums["balanced"].as_bool().ok_or_else(|| bad("balanced", sums))?;
        let mut drops = Vec::new();
        for row in reply["drops"].as_array().ok_or_else(|| bad("drops", reply))? {
            let text = |key: &str| row[key].as_str().map(str::to_owned).ok_or_else(|| bad(key, row));
            let sources = row["sources"].as_array().ok_or_else(|| bad("sources", row))?;
            let source = |s: &Value| format!("{} from {}", s["count"], s["dev"].as_str().unwrap_or("-"));
            let sources = sources.iter().map(source).collect::<Vec<_>>().join(", ");
            let count = number(row, "count")?;
            if count > 0 {
                drops.push(Drop { reason: text("reason")?, stage: text("stage")?, count, sources });
            }
        }
        Ok(Self { account, balanced, drops })
    }

    /// All drops together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|d| d.count).sum()
    }

    /// Drops for one reason.
    pub fn dropped_for(&self, reason: &str) -> u64 {
        self.drops.iter().filter(|d| d.reason == reason).map(|d| d.count).sum()
    }

    /// Fails if something was dropped for a reason that is not among those allowed.
    pub fn allow_only(&self, allowed: &[&str]) -> Result<()> {
        let others: Vec<String> = self
            .drops
            .iter()
            .filter(|d| !allowed.contains(&d.reason.as_str()))
            .map(|d| format!("{}: {} ({})", d.reason, d.count, d.sources))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let others = others.join(", ");
        Err(Error::failed(format!("frames were dropped for other reasons than {allowed:?}: {others}")))
    }

    /// Fails unless both sums hold exactly, in the switch's account and with the drops by reason:
    /// `in + expired = unicast + flooded + held + replied + consumed + drops (rx to egress)` and
    /// `posted = out + drops (tx)`.
    pub fn balanced(&self) -> Result<()> {
        let a = &self.account;
        let of_stage = |tx: bool| -> u64 {
            self.drops.iter().filter(|d| (d.stage == "tx") == tx).map(|d| d.count).sum()
        };
        let verdicts = a.unicast + a.flooded + a.held + a.replied + a.consumed + a.dropped;
        let broken = [
            (a.frames_in + a.expired != verdicts, "not every frame has one verdict"),
            (a.dropped != of_stage(false), "drops by reason are not those of the ledger"),
            (a.send_drops != of_stage(true), "tx drops by reason are not those of the ledger"),
            (a.posted != a.frames_out + a.send_drops, "not every copy left or was dropped"),
            (a.released + a.expired > a.held, "more frames stopped waiting than ever waited"),
            (a.expired != self.dropped_for("neighbour-failed"), "neighbour-failed is not expired"),
            (!self.balanced, "the switch finds a port or peer that is not balanced"),
        ];
        match broken.iter().find(|(broken, _)| *broken) {
            None => Ok(()),
            Some((_, what)) => {
                Err(Error::failed(format!("frames are not conserved: {what}: {a:?}, drops {:?}", self.drops)))
            }
        }
    }
}

/// The end of a test: on every node both sums hold, and nothing was dropped for other reasons.
pub fn check(nodes: &[Node], allowed: &[&str]) -> Result<()> {
    for node in nodes {
        check_node(node, allowed)?;
    }
    Ok(())
}

/// As [`check`] for one node.
pub fn check_node(node: &Node, allowed: &[&str]) -> Result<()> {
    use crate::error::Context;
    let ledger = Ledger::read(node)?;
    ledger.balanced().context(node.name())?;
    ledger.allow_only(allowed).context(node.name())
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

    fn reply() -> Value {
        json!({
            "ledger": {
                "frames_in": 12, "frames_forwarded": 7, "frames_answered": 2, "frames_dropped": 3,
                "frames_out": 11, "unicast": 5, "flooded": 1, "held": 2, "released": 1, "expired": 1,
                "replied": 1, "consumed": 1, "generated": 1, "posted": 12, "send_drops": 1,
                "balanced": true,
            },
            "drops": [
                {"reason": "spoofed-mac", "stage": "guard", "count": 2, "sources": [{"dev": "p", "count": 2}]},
                {"reason": "neighbour-failed", "stage": "resolve", "count": 1, "sources": []},
                {"reason": "tx-full", "stage": "tx", "count": 1, "sources": [{"dev": null, "count": 1}]},
                {"reason": "no-port", "stage": "rx", "count": 0, "sources": []},
            ],
        })
    }

    #[test]
    fn ledgers_balance_and_name_what_was_not_expected() {
        let ledger = Ledger::from_json(&reply()).unwrap();
        ledger.balanced().unwrap();
        assert_eq!((ledger.dropped(), ledger.dropped_for("spoofed-mac")), (4, 2));
        ledger.allow_only(&["spoofed-mac", "neighbour-failed", "tx-full"]).unwrap();
        let error = ledger.allow_only(&["tx-full", "neighbour-failed"]).unwrap_err();
        assert!(error.message().contains("spoofed-mac: 2 (2 from p)"), "{error}");
        assert!(Ledger::from_json(&json!([])).is_err());
    }

    #[test]
    fn every_number_that_is_off_by_one_is_noticed() {
        let ledger = reply()["ledger"].as_object().unwrap().clone();
        for key in ledger.keys().filter(|k| !matches!(k.as_str(), "balanced" | "generated")) {
            // Not among the parts: sums of them, printed for people. Released has only a bound.
            if matches!(key.as_str(), "frames_forwarded" | "frames_answered") {
                continue;
            }
            let mut off = reply();
            off["ledger"][key] = json!(ledger[key].as_u64().unwrap() + 1);
            assert!(Ledger::from_json(&off).unwrap().balanced().is_err(), "{key}");
        }
        let mut off = reply();
        off["drops"][2]["stage"] = json!("egress");
        assert!(Ledger::from_json(&off).unwrap().balanced().is_err());
        off = reply();
        off["ledger"]["balanced"] = json!(false);
        assert!(Ledger::from_json(&off).unwrap().balanced().is_err());
    }
}

//! The account of all frames, as `swctl status` and `swctl drops` print it.

use ctl::proto;
use serde::Serialize;

/// Every key of the API's ledger: `frames_in = frames_forwarded + frames_answered + frames_dropped` and
/// `posted = frames_out + send_drops`; the other keys are the parts of these.
#[derive(Serialize)]
pub struct Ledger {
    pub frames_in: u64,
    pub frames_forwarded: u64,
    pub frames_answered: u64,
    pub frames_dropped: u64,
    pub frames_out: u64,
    pub unicast: u64,
    pub flooded: u64,
    pub held: u64,
    pub released: u64,
    pub expired: u64,
    pub replied: u64,
    pub consumed: u64,
    pub generated: u64,
    pub posted: u64,
    pub send_drops: u64,
    pub balanced: bool,
}

impl From<proto::Ledger> for Ledger {
    fn from(l: proto::Ledger) -> Self {
        Self {
            frames_in: l.frames_in,
            frames_forwarded: l.frames_forwarded,
            frames_answered: l.frames_answered,
            frames_dropped: l.frames_dropped,
            frames_out: l.frames_out,
            unicast: l.unicast,
            flooded: l.flooded,
            held: l.held,
            released: l.released,
            expired: l.expired,
            replied: l.replied,
            consumed: l.consumed,
            generated: l.generated,
            posted: l.posted,
            send_drops: l.send_drops,
            balanced: l.balanced,
        }
    }
}

impl Ledger {
    /// The first sum in words.
    pub fn line(&self) -> String {
        format!(
            "in {} = forwarded {} + answered {} + dropped {}",
            self.frames_in, self.frames_forwarded, self.frames_answered, self.frames_dropped
        )
    }
}

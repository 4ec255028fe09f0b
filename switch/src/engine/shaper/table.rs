//! The shapers of all ports, and which of them the timer has to look at next.
//!
//! Ports without limits are not in here: for them, finding that out is all there is. The queue of dates is a heap
//! with at most one valid entry per shaper; an entry whose shaper is gone or has another date by now is skipped
//! when its time comes.

use super::{Direction, Limits, Shaper, ShaperStats};
use crate::datapath::PortId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Both directions of a port.
#[derive(Debug, Default)]
struct Pair {
    to_pod: Option<Shaper>,
    from_pod: Option<Shaper>,
}

impl Pair {
    fn of(&mut self, direction: Direction) -> &mut Option<Shaper> {
        match direction {
            Direction::ToPod => &mut self.to_pod,
            Direction::FromPod => &mut self.from_pod,
        }
    }
}

/// What an inspection sees of a port's limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortLimits {
    /// Limits in force.
    pub limits: Limits,
    /// What the pod receives; `None` when that is unlimited.
    pub ingress: Option<ShaperStats>,
    /// What the pod sends; `None` when that is unlimited.
    pub egress: Option<ShaperStats>,
}

/// A shaper whose time has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Due {
    ms: u64,
    /// The port.
    pub port: PortId,
    /// Which of its shapers.
    pub direction: Direction,
}

/// Shapers by port.
#[derive(Debug, Default)]
pub struct Shapers {
    ports: Vec<Option<Box<Pair>>>,
    due: BinaryHeap<Reverse<Due>>,
}

impl Shapers {
    /// The shaper of a port, if it has one for this direction.
    #[inline]
    pub fn get_mut(&mut self, port: PortId, direction: Direction) -> Option<&mut Shaper> {
        self.ports.get_mut(port.0 as usize)?.as_mut()?.of(direction).as_mut()
    }

    /// Does what the pod sends have a limit?
    #[inline]
    #[must_use]
    pub fn limits_egress(&self, port: PortId) -> bool {
        matches!(self.ports.get(port.0 as usize), Some(Some(pair)) if pair.from_pod.is_some())
    }

    /// Limits in force and how they fare; `None` for a port without.
    #[must_use]
    pub fn of(&self, port: PortId, now_ms: u64) -> Option<PortLimits> {
        let pair = self.ports.get(port.0 as usize)?.as_ref()?;
        let rate = |shaper: &Option<Shaper>| shaper.as_ref().map(Shaper::rate);
        let stats = |shaper: &Option<Shaper>| shaper.as_ref().map(|s| s.stats(now_ms));
        Some(PortLimits {
            limits: Limits { ingress: rate(&pair.to_pod), egress: rate(&pair.from_pod) },
            ingress: stats(&pair.to_pod),
            egress: stats(&pair.from_pod),
        })
    }

    /// Puts a shaper in place.
    pub fn set(&mut self, port: PortId, direction: Direction, shaper: Shaper) {
        let at = port.0 as usize;
        if at >= self.ports.len() {
            self.ports.resize_with(at + 1, || None);
        }
        if let Some(slot) = self.ports.get_mut(at) {
            *slot.get_or_insert_default().of(direction) = Some(shaper);
        }
    }

    /// Removes a shaper.
    pub fn clear(&mut self, port: PortId, direction: Direction) {
        let Some(slot) = self.ports.get_mut(port.0 as usize) else { return };
        if let Some(pair) = slot {
            *pair.of(direction) = None;
            if pair.to_pod.is_none() && pair.from_pod.is_none() {
                *slot = None;
            }
        }
    }

    /// Asks the timer to look at a shaper in which something waits. Cheap when it has been asked already.
    #[inline]
    pub fn schedule(&mut self, port: PortId, direction: Direction) {
        if let Some(shaper) = self.get_mut(port, direction)
            && shaper.due_ms.is_none()
            && let Some(ms) = shaper.next_ms()
        {
            shaper.due_ms = Some(ms);
            self.due.push(Reverse(Due { ms, port, direction }));
        }
    }

    /// When [`Shapers::pop_due`] has something to give next, in milliseconds.
    #[inline]
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.due.peek().map(|due| due.0.ms)
    }

    /// A shaper whose time has come. Whoever takes it schedules it again.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<Due> {
        while self.next_ms().is_some_and(|ms| ms <= now_ms) {
            let Some(Reverse(due)) = self.due.pop() else { break };
            if let Some(shaper) = self.get_mut(due.port, due.direction)
                && shaper.due_ms == Some(due.ms)
            {
                shaper.due_ms = None;
                return Some(due);
            }
        }
        None
    }
}

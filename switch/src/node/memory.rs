//! A [`NodeHost`] without a kernel, for tests of those who drive one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{NodeError, NodeHost, NodePlan, Obstacle, rules};

/// What a [`MemoryHost`] was told, and what it answers.
#[derive(Debug, Default)]
pub struct MemoryState {
    /// What is in place; `None` when nothing is.
    pub plan: Option<NodePlan>,
    /// How often something was changed.
    pub changes: u32,
    /// There is no `nft`.
    pub without_nft: bool,
    /// `nft` does not end.
    pub stuck: bool,
    /// How often somebody waited for it in vain.
    pub waits: u32,
    /// Somebody has touched the table.
    pub touched: bool,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
}

impl MemoryState {
    fn answer(&mut self) -> Result<(), NodeError> {
        self.waits += u32::from(self.stuck);
        if self.stuck { Err(NodeError::Stuck { what: "asking" }) } else { Ok(()) }
    }
}

/// Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct MemoryHost(Arc<Mutex<MemoryState>>);

impl MemoryHost {
    /// The state, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeHost for MemoryHost {
    fn apply(&mut self, plan: &NodePlan) -> Result<bool, NodeError> {
        if plan.devices.is_empty() {
            let was = self.state().plan.is_some();
            return self.remove().map(|()| was);
        }
        let mut state = self.state();
        state.answer()?;
        if state.without_nft {
            return Err(NodeError::NoNft);
        }
        // As the real one: what does not show in the rules is no change.
        let rules = |plan: &NodePlan| rules::replace("swd", plan);
        if !state.touched && state.plan.as_ref().map(rules) == Some(rules(plan)) {
            return Ok(false);
        }
        state.plan = Some(plan.clone());
        state.touched = false;
        state.changes += 1;
        Ok(true)
    }

    fn remove(&mut self) -> Result<(), NodeError> {
        let mut state = self.state();
        if state.plan.take().is_some() {
            state.changes += 1;
        }
        state.touched = false;
        Ok(())
    }

    fn verify(&mut self) -> Result<bool, NodeError> {
        let mut state = self.state();
        state.answer()?;
        Ok(!state.touched)
    }

    fn obstacles(&mut self) -> Vec<Obstacle> {
        self.state().obstacles.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Device;
    use super::*;
    use crate::io::NodeLink;

    #[test]
    fn it_behaves_like_the_real_one() {
        let mut host = MemoryHost::default();
        let device = Device {
            port: "node".into(),
            ifname: "swd0".into(),
            addresses: Vec::new(),
            link: NodeLink::default(),
            subnets: Vec::new(),
            masquerade: true,
            except: Vec::new(),
        };
        let plan = NodePlan { devices: vec![device], ..NodePlan::default() };
        host.state().without_nft = true;
        assert!(matches!(host.apply(&plan), Err(NodeError::NoNft)));
        host.state().without_nft = false;
        assert!(host.apply(&plan).unwrap() && !host.apply(&plan).unwrap());
        host.state().touched = true;
        assert!(!host.verify().unwrap() && host.apply(&plan).unwrap() && host.verify().unwrap());
        assert!(host.apply(&NodePlan::default()).unwrap());
        let state = host.state();
        assert_eq!((state.plan.is_none(), state.changes), (true, 3));
    }
}

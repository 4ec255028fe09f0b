//! The node's kernel from the point of view of the control thread: told what to do with each change, looked at now
//! and then, and asked what stands in the way.
//!
//! Rules follow the desired state like tables do, with one difference: a port whose mappings the kernel refuses is
//! not added at all, because its owner was promised that they work. What is refused later, or was at start, is
//! reported and tried again.

use std::time::{Duration, Instant};

use ctl::desired::{DesiredState, Port};
use ctl::error::{ApiError, Reason};

use super::core::Core;
use crate::node::{NodeError, NodeHost, NodePlan, Obstacle, plan};

/// Time between two looks at our own rules: somebody may flush all there are.
const VERIFY: Duration = Duration::from_secs(5);
/// Time between two looks at everybody's rules, which may be many.
const OBSTACLES: Duration = Duration::from_secs(60);
/// After the kernel was waited for in vain: how long nothing is asked of it. All changes wait meanwhile, also those that
/// have no part in it.
const REST: Duration = Duration::from_secs(60);

/// What is known about the node's kernel.
pub struct Kernel {
    host: Box<dyn NodeHost + Send>,
    problem: Option<String>,
    obstacles: Vec<Obstacle>,
    verify_at: Instant,
    obstacles_at: Instant,
    /// Until then it is left alone, because it did not answer.
    rests_until: Option<Instant>,
    /// Nothing is asked of it: another process looks after it.
    sleeps: bool,
}

impl Kernel {
    pub(super) fn new(host: Box<dyn NodeHost + Send>, now: Instant) -> Self {
        Self {
            host,
            problem: None,
            obstacles: Vec::new(),
            verify_at: now,
            obstacles_at: now,
            rests_until: None,
            sleeps: false,
        }
    }

    /// Leaves the kernel to another process, or no longer.
    pub(super) fn sleep(&mut self, sleeps: bool) {
        self.sleeps = sleeps;
    }

    /// Makes the kernel do what the plan says. Whether it does can be seen in [`Kernel::problem`].
    pub(super) fn follow(&mut self, plan: &NodePlan, now: Instant) {
        if self.rests(now) {
            return;
        }
        match self.host.apply(plan) {
            Ok(changed) => {
                if let Some(problem) = self.problem.take() {
                    tracing::info!("the node's rules are in place again, after: {problem}");
                }
                if changed {
                    (self.verify_at, self.obstacles_at) = (now + VERIFY, now);
                }
            }
            Err(e) => self.report(&e, now),
        }
    }

    /// Is it not to be asked now? Its problem is then that it did not answer.
    fn rests(&self, now: Instant) -> bool {
        self.sleeps || self.rests_until.is_some_and(|until| now < until)
    }

    fn report(&mut self, e: &NodeError, now: Instant) {
        if matches!(e, NodeError::Stuck { .. }) {
            self.rests_until = Some(now + REST);
        }
        let problem = e.to_string();
        if self.problem.as_deref() != Some(&problem) {
            tracing::error!("the node's rules: {problem}");
        }
        self.problem = Some(problem);
    }

    /// Looks whether all is as it was left, mends it, and finds out what stands in the way.
    pub(super) fn look_after(&mut self, plan: &NodePlan, now: Instant) {
        if self.rests(now) {
            return;
        }
        if now >= self.verify_at {
            self.verify_at = now + VERIFY;
            match self.host.verify() {
                Ok(true) if self.problem.is_none() => {}
                Ok(intact) => {
                    if !intact && self.problem.is_none() {
                        tracing::warn!("the node's rules were changed by somebody else and are set again");
                    }
                    self.follow(plan, now);
                }
                Err(e) => return self.report(&e, now),
            }
        }
        if now >= self.obstacles_at && !self.rests(now) {
            self.obstacles_at = now + OBSTACLES;
            let found = self.host.obstacles();
            for obstacle in found.iter().filter(|o| !self.obstacles.contains(o)) {
                tracing::warn!("in the way of the node's port: {obstacle}");
            }
            self.obstacles = found;
        }
    }

    /// Why the rules are not as they should be.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What stood in the way when it was last looked.
    pub(super) fn obstacles(&self) -> &[Obstacle] {
        &self.obstacles
    }

    /// Removes the rules, at the end of the daemon: its devices go, and nothing of ours stays behind.
    pub(super) fn leave(&mut self) {
        if let Err(e) = self.host.remove() {
            tracing::warn!("removing the node's rules: {e}");
        }
    }
}

impl Core {
    /// Makes the kernel ready for a port that is about to be added to the state, if it has any part in it.
    ///
    /// # Errors
    /// When the kernel refuses. Then its rules are as before.
    pub(super) fn prepare_kernel(&mut self, next: &DesiredState, port: &Port) -> Result<(), ApiError> {
        if port.mappings.is_empty() && port.node.is_none() {
            return Ok(());
        }
        let object = format!("port {}", port.name);
        let wanted = plan::of(&self.settings, next);
        if let Some(problem) = wanted.problems.iter().find(|p| p.port == port.name) {
            return Err(ApiError::invalid(object, &problem.text));
        }
        let now = Instant::now();
        if self.kernel.rests(now) {
            let why = self.kernel.problem().unwrap_or_default();
            return Err(
                ApiError::new(Reason::Internal, format!("{object}: {why}")).hint("it is tried again soon")
            );
        }
        self.kernel.host.apply(&wanted).map(drop).map_err(|e| {
            if matches!(e, NodeError::Stuck { .. }) {
                self.kernel.report(&e, now);
            }
            let reason = match e {
                NodeError::Permission(_) => Reason::PermissionDenied,
                NodeError::Told { reason, .. } => reason,
                _ => Reason::Internal,
            };
            ApiError::new(reason, format!("{object}: {e}"))
        })
    }

    /// Takes back what [`Core::prepare_kernel`] did.
    pub(super) fn undo_kernel(&mut self) {
        self.kernel.follow(&self.plan, Instant::now());
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;

//! The state of the control thread and how it changes.
//!
//! A change is a whole new desired state. [`Core::commit`] checks it, writes it, and only when it is durable
//! makes it the current one; whatever fails before that leaves everything as it was. What follows cannot fail
//! as a whole: [`Core::converge`] brings devices and tables after it, object by object, and what does not
//! work is reported and tried again.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ctl::desired::{DesiredState, Port};
use ctl::error::{ApiError, Reason};
use tokio::sync::watch;

use super::agenda::Agenda;
use super::allowance::Allowance;
use super::attach::Reaper;
use super::good::{self, Proving};
use super::ipam::{Allocator, Released};
use super::kernel::Kernel;
use super::look::{LINES, LOSSES};
use super::notice::Reach;
use super::program::{self, Answer, Program, ProgramError};
use super::publish::{Numbers, Publisher};
use super::reconcile::{Actual, Up};
use super::remember::restore::Restore;
use super::state::advice::next_step;
use super::state::last_good::Suspect;
use super::state::{Loaded, Store};
use super::underlay::Ground;
use super::{Settings, bounds, derive, rules};
use crate::datapath::{Egress, NetId, PeerId, Tables};
use crate::engine::{Command, Inspection};
use crate::io::{DeviceName, Opener};
use crate::node::{NodeHost, NodePlan, plan};

/// A peer as published: a change of it makes what was learned behind it worthless.
type Identity = (IpAddr, Option<String>);

/// Time between two tries to write the state when that fails.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// Desired state, devices, and what was told to the worker.
pub struct Core {
    pub(super) settings: Settings,
    pub(super) desired: DesiredState,
    /// Of the desired state.
    pub(super) generation: u64,
    /// Highest number ever given to a state, acknowledged or not.
    attempted: u64,
    store: Store,
    pub(super) opener: Box<dyn Opener + Send>,
    pub(super) worker: Box<dyn Program>,
    pub(super) ports: BTreeMap<String, Actual>,
    pub(super) ids: Numbers,
    /// Gives addresses to attachments.
    pub(super) ipam: Allocator,
    /// Deletes attachments that were deleted behind our back.
    pub(super) reaper: Reaper,
    /// Looks that events ask for.
    pub(super) agenda: Agenda,
    /// How far changes are noticed at once.
    pub(super) reach: Reach,
    /// What the underlay was like when it was last looked at.
    pub(super) ground: Ground,
    /// Lines in the log.
    pub(super) lines: Allowance,
    /// Devices that were lost and opened anew.
    pub(super) losses: Allowance,
    /// Devices of ports that are not declared any more, which this process has not opened.
    pub(super) leftovers: HashSet<DeviceName>,
    /// Where the next look at devices begins.
    pub(super) look_from: usize,
    peers: BTreeMap<String, Identity>,
    publisher: Publisher,
    /// What a process before this one has learned and counted, while this one starts.
    pub(super) restore: Option<Restore>,
    /// What the node's kernel is to do.
    pub(super) plan: NodePlan,
    pub(super) kernel: Kernel,
    tables: Arc<Tables>,
    /// Desired generations and the tables that first contained them, oldest first.
    epochs: VecDeque<(u64, u64)>,
    applied: watch::Sender<u64>,
    /// About the state file as found at start.
    load_problem: Option<String>,
    /// What went wrong the last time, and what to do about it.
    save_problem: Option<(String, &'static str)>,
    /// States that were put aside because the process kept ending with them.
    suspects: Vec<Suspect>,
    proving: Proving,
    /// Not before then is a failed save tried again by itself.
    save_again_at: Instant,
    /// Another process is about to take over: nothing may change.
    pub(super) frozen: bool,
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        mut store: Store,
        loaded: Loaded,
        opener: Box<dyn Opener + Send>,
        host: Box<dyn NodeHost + Send>,
        worker: Box<dyn Program>,
        applied: watch::Sender<u64>,
    ) -> Self {
        if let Some(problem) = &loaded.problem {
            tracing::error!("{problem}");
        }
        let suspects = store.suspects().unwrap_or_else(|e| {
            tracing::warn!("looking for states that were put aside: {e}");
            Vec::new()
        });
        Self {
            ipam: Allocator::new(settings.seed),
            reaper: Reaper::new(settings.tombstones.clone()),
            leftovers: loaded.before.iter().filter_map(derive::device_name).collect(),
            publisher: Publisher::new(settings.seed),
            restore: None,
            plan: NodePlan::default(),
            kernel: Kernel::new(host, Instant::now()),
            proving: Proving::new(settings.good_after),
            suspects,
            tables: Arc::new(Tables::new(settings.seed)),
            settings,
            desired: loaded.desired,
            generation: loaded.generation,
            attempted: loaded.generation,
            store,
            opener,
            worker,
            ports: BTreeMap::new(),
            ids: Numbers::default(),
            agenda: Agenda::default(),
            reach: Reach::default(),
            ground: Ground::default(),
            lines: Allowance::new(LINES.0, LINES.1),
            losses: Allowance::new(LOSSES.0, LOSSES.1),
            look_from: 0,
            peers: BTreeMap::new(),
            epochs: VecDeque::new(),
            applied,
            load_problem: loaded.problem,
            save_problem: None,
            save_again_at: Instant::now(),
            frozen: false,
        }
    }

    /// Makes `next` the desired state. Returns its generation.
    ///
    /// # Errors
    /// What [`DesiredState::check`] and the switch's own rules say, or [`Reason::NotDurable`]. Then nothing
    /// has changed.
    pub fn commit(&mut self, next: DesiredState) -> Result<u64, ApiError> {
        self.check(&next)?;
        let released = self.save(next)?;
        self.converge(Instant::now())?;
        self.forget_addresses(released)?;
        Ok(self.generation)
    }

    /// Checks a state without making it the current one.
    ///
    /// # Errors
    /// See [`Core::commit`].
    pub fn check(&self, next: &DesiredState) -> Result<(), ApiError> {
        bounds::check(next)?;
        next.check()?;
        rules::check(&self.settings, next)
    }

    /// Returns the addresses that no port has any more.
    fn save(&mut self, next: DesiredState) -> Result<Vec<Released>, ApiError> {
        self.may_change()?;
        self.attempted += 1;
        if let Err(e) = self.store.save(&next, self.attempted) {
            tracing::error!("a change was not made: {e}");
            let next = next_step(&e);
            self.save_problem = Some((format!("the last change was not made: {e}"), next));
            return Err(ApiError::new(Reason::NotDurable, format!("the change was not made: {e}"))
                .hint(format!("{next}, and repeat")));
        }
        self.save_problem = None;
        self.note_leftovers(&next);
        let released = self.ipam.follow(&self.desired, &next, Instant::now());
        self.desired = next;
        self.generation = self.attempted;
        Ok(released)
    }

    /// Has what is declared on the disk, where another process may have had it on another one.
    ///
    /// # Errors
    /// [`Reason::NotDurable`].
    pub(super) fn make_durable(&mut self) -> Result<(), ApiError> {
        self.store.ensure(&self.desired, self.generation).map_err(|e| {
            ApiError::new(Reason::NotDurable, format!("the state cannot be written: {e}"))
                .hint("make room on the disk of the state directory")
        })
    }

    /// Writes the state once more if the last time failed, now and then: a disk that has room again is noticed
    /// before somebody changes something, and the node is not passed over for ever.
    ///
    /// # Errors
    /// When the worker has ended.
    pub(super) fn save_again(&mut self, now: Instant) -> Result<(), ProgramError> {
        if self.save_problem.is_none() || now < self.save_again_at {
            return Ok(());
        }
        self.save_again_at = now + SAVE_AGAIN;
        if self.save(self.desired.clone()).is_err() {
            return Ok(());
        }
        self.converge(now)
    }

    /// Finds out whether the state holds. Looks whether those that were put aside are still there.
    pub(super) fn prove(&mut self, now: Instant) {
        self.proving.step(&mut self.store, self.generation, now);
        let store = &mut self.store;
        self.suspects.retain(|suspect| store.is_kept(suspect));
    }

    /// Adds a port and answers when its pod can use it.
    ///
    /// # Errors
    /// As [`Core::commit`], and why the device could not be made. Then nothing has changed.
    pub fn add_port(&mut self, port: Port) -> Result<u64, ApiError> {
        let mut next = self.desired.clone();
        next.ports.push(port);
        self.place(next, self.desired.ports.len())
    }

    /// Opens the declared port of an attachment that is not open, in the namespace that is called so now: its runtime
    /// has said that this is the one.
    ///
    /// # Errors
    /// As [`Core::add_port`].
    pub(super) fn add_port_again(&mut self, name: &str) -> Result<(), ApiError> {
        if self.up(name).is_some() {
            return Ok(());
        }
        let Some(at) = self.desired.ports.iter().position(|p| p.name == name) else {
            return Err(ApiError::no_port(name));
        };
        let mut next = self.desired.clone();
        if let Some(owner) = next.ports[at].attachment.as_mut() {
            owner.netns_id = None;
        }
        self.place(next, at).map(drop)
    }

    /// Makes `next` the desired state once the device of its port number `at` is open. An attachment remembers the
    /// namespace that it was given: what a runtime's path leads to after a restart may be another pod's. A port added
    /// by hand does not, since its name says what is meant, whenever that is made anew.
    fn place(&mut self, mut next: DesiredState, at: usize) -> Result<u64, ApiError> {
        self.may_change()?;
        self.check(&next)?;
        let port = next.ports[at].clone();
        self.prepare_kernel(&next, &port)?;
        let mut up = match self.open(&next, &port) {
            Ok(up) => up,
            Err(e) => {
                self.undo_kernel();
                return Err(e);
            }
        };
        if let Some(owner) = next.ports[at].attachment.as_mut() {
            owner.netns_id = Some(up.identity.to_string());
            up.spec.identity = Some(up.identity.clone());
        }
        let name = port.name;
        if let Err(e) = self.save(next) {
            self.undo_open(&name, up);
            self.undo_kernel();
            return Err(e);
        }
        self.ports.insert(name, Actual::Up(up));
        self.converge(Instant::now())?;
        Ok(self.generation)
    }

    /// Opens a declared port that is not open, now, for a client that waits for it.
    ///
    /// # Errors
    /// Why the device could not be made.
    pub fn retry_port(&mut self, name: &str) -> Result<(), ApiError> {
        if matches!(self.ports.get(name), Some(Actual::Up(_))) {
            return Ok(());
        }
        self.may_change()?;
        let desired = self.desired.clone();
        let Some(port) = desired.ports.iter().find(|p| p.name == name) else {
            return Err(ApiError::no_port(name));
        };
        let up = self.open(&desired, port)?;
        self.ports.insert(name.to_owned(), Actual::Up(up));
        self.publish()?;
        Ok(())
    }

    /// Brings devices and tables after the desired state.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn converge(&mut self, now: Instant) -> Result<(), ProgramError> {
        self.number_objects();
        self.plan = plan::of(&self.settings, &self.desired);
        self.close_stale()?;
        self.discard_leftovers();
        self.open_due(now)?;
        self.kernel.follow(&self.plan, now);
        self.limit_ports()?;
        self.publish()?;
        self.epochs.push_back((self.generation, self.tables.generation));
        let applied = *self.applied.borrow();
        // Only the newest of the pairs that are in force is of any further use.
        while self.epochs.get(1).is_some_and(|(_, epoch)| *epoch <= applied) {
            self.epochs.pop_front();
        }
        self.forget_gone()
    }

    /// Gives numbers to networks and to the peers that can be reached.
    fn number_objects(&mut self) {
        for network in &self.desired.networks {
            self.ids.networks.take(&network.name);
        }
        for peer in &self.desired.peers {
            if derive::peer_problem(&self.settings, peer).is_none() {
                self.ids.peers.take(&peer.name);
            }
        }
    }

    /// Sends the tables for what is open now.
    pub(super) fn publish(&mut self) -> Result<(), ProgramError> {
        let desired = std::mem::take(&mut self.desired);
        let published = self.publish_for(&desired);
        self.desired = desired;
        published
    }

    /// The same, while the desired state is held elsewhere.
    pub(super) fn publish_for(&mut self, desired: &DesiredState) -> Result<(), ProgramError> {
        let epoch = self.tables.generation + 1;
        let mut tables = self.publisher.build(epoch, &self.settings, desired, &self.ids);
        // Between these two sends the worker may read frames that it can only drop: nothing slow belongs there.
        let handed = self.hand_over()?;
        if !handed.all {
            tables = self.publisher.build(epoch, &self.settings, desired, &self.ids);
        }
        let tables = Arc::new(tables);
        self.put_back(&tables)?;
        self.worker.send(Command::Publish(tables.clone()))?;
        self.tables = tables;
        for id in handed.ports {
            self.worker.send(Command::Announce(id))?;
        }
        let applied = self.applied.clone();
        self.worker.send(Command::Inspect(Box::new(move |i| {
            let in_force = i.tables.generation;
            applied.send_replace(in_force);
        })))
    }

    /// Puts back what was known about what these tables name for the first time. The worker gets them after it, and
    /// reads nothing from ports that no table names.
    pub(super) fn put_back(&mut self, tables: &Arc<Tables>) -> Result<(), ProgramError> {
        let Some(restore) = &mut self.restore else { return Ok(()) };
        for batch in restore.due(&self.ids, tables) {
            self.worker.send(Command::Inspect(batch.into_inspection(tables.clone())))?;
        }
        Ok(())
    }

    /// Ends that: what is left belongs to nobody here.
    ///
    /// # Errors
    /// When the worker has ended.
    pub(super) fn put_back_rest(&mut self) -> Result<(), ProgramError> {
        let Some(restore) = self.restore.take() else { return Ok(()) };
        self.worker.send(Command::Inspect(restore.rest().into_inspection(self.tables.clone())))
    }

    /// Tells the worker about peers and networks that are no longer in the tables, and frees their numbers.
    fn forget_gone(&mut self) -> Result<(), ProgramError> {
        let identity = |p: &ctl::desired::Peer| (p.name.clone(), (p.remote, p.network.clone()));
        let now: BTreeMap<String, Identity> = self
            .desired
            .peers
            .iter()
            .filter(|p| self.ids.peers.get(&p.name).is_some())
            .map(identity)
            .collect();
        for (name, before) in std::mem::take(&mut self.peers) {
            let current = now.get(&name);
            if current == Some(&before) {
                continue;
            }
            if let Some(id) = self.ids.peers.get(&name) {
                self.worker.send(Command::Forget(Egress::Peer(PeerId(id))))?;
            }
            if current.is_none() {
                self.ids.peers.release(&name);
            }
        }
        self.peers = now;
        let networks: HashSet<&str> = self.desired.networks.iter().map(|n| n.name.as_str()).collect();
        let gone: Vec<(u32, String)> = self
            .ids
            .networks
            .iter()
            .filter(|(_, n)| !networks.contains(n))
            .map(|(id, n)| (id, n.to_owned()))
            .collect();
        for (id, name) in gone {
            if let Ok(id) = u16::try_from(id) {
                self.worker.send(Command::ForgetNetwork(NetId(id)))?;
            }
            self.ids.networks.release(&name);
        }
        Ok(())
    }

    /// Tells the worker that these addresses are nobody's: whatever it heard about them is wrong from now on.
    fn forget_addresses(&self, released: Vec<Released>) -> Result<(), ProgramError> {
        let number = |(network, ip): Released| {
            let id = self.ids.networks.get(&network).and_then(|id| u16::try_from(id).ok())?;
            Some((NetId(id), ip))
        };
        let gone: HashSet<(NetId, IpAddr)> = released.into_iter().filter_map(number).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.worker.send(Command::Inspect(Box::new(move |i| {
            i.datapath.neighbours_mut().forget(i.now_ms, |e| gone.contains(&(e.network, e.ip)));
        })))
    }

    /// Asks the worker something, after everything sent so far. Do not wait while holding the lock.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Inspection<'_>) -> T + Send + 'static,
    ) -> Result<Answer<T>, ProgramError> {
        program::ask(&*self.worker, question)
    }

    /// The desired generation that tables of this generation contain.
    #[must_use]
    pub fn applied_generation(&self, epoch: u64) -> u64 {
        self.epochs.iter().rev().find(|(_, e)| *e <= epoch).map_or(0, |(generation, _)| *generation)
    }

    /// The tables sent last.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// What is wrong with the state file.
    pub(super) fn state_problems(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let load = self.load_problem.as_ref();
        let load =
            load.map(|p| (p.clone(), "compare with `swctl export`, repeat what is missing".to_owned()));
        let save = self.save_problem.as_ref();
        let save = save.map(|(problem, next)| (problem.clone(), (*next).to_owned()));
        let unsure = self.store.unsure().then(|| {
            let text = "the state on disk may be newer than what was acknowledged".to_owned();
            (text, "the next change that succeeds puts it right".to_owned())
        });
        let suspect = good::alarm(&self.suspects, &self.settings.state_dir);
        load.into_iter().chain(save).chain(unsure).chain(suspect)
    }

    /// Why changes cannot be made now, if they cannot.
    pub(super) fn unwritable(&self) -> Option<&str> {
        self.save_problem.as_ref().map(|(problem, _)| problem.as_str())
    }

    /// An open port.
    #[must_use]
    pub(super) fn up(&self, name: &str) -> Option<&Up> {
        match self.ports.get(name)? {
            Actual::Up(up) => Some(up),
            Actual::Down(_) => None,
        }
    }

    /// Takes our rules from the node's kernel and ends the worker. Pods keep their devices, for the next daemon. The
    /// node's own go: their routes would take packets from the node that nobody serves.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn stop(&mut self) -> Result<(), ProgramError> {
        self.kernel.leave();
        self.worker.send(Command::Stop)?;
        let of_node = |(name, actual): (&String, &Actual)| match actual {
            Actual::Up(up) if up.spec.node.is_some() => Some((name.clone(), up.spec.clone(), up.place)),
            _ => None,
        };
        let devices: Vec<_> = self.ports.iter().filter_map(of_node).collect();
        devices.iter().for_each(|(name, spec, place)| self.close_device(name, spec, *place));
        Ok(())
    }
}

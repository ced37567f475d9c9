//! One commit under way: what it is about, and what is known of it so far.

use std::time::Instant;

use checkpoint::Digest;
use client::{Certainty, Code, Failure};

use super::ground::Ground;
use super::no;
use super::order::Order;
use super::origin::{Broken, Origin, Replies};
use crate::pressure;

/// One commit under way.
pub(super) struct Driver<'a, G> {
    pub ground: &'a G,
    pub order: Order,
    pub replies: &'a Replies,
    /// When something last moved forward.
    pub moved: Instant,
    /// When progress was last told.
    pub told: Instant,
    /// When the stage that is under way began.
    pub stage: Instant,
    /// A seal without an answer is on its way.
    pub maybe: bool,
    /// The origin was told to begin with its pieces.
    pub opened: bool,
    /// The root of the directory, once its origin has told it.
    pub root: Option<Digest>,
    /// When a record last named the attempt.
    pub named: Instant,
    /// Bytes of files that a quorum has.
    pub acknowledged: u64,
    pub last_error: String,
}

impl<'a, G: Ground> Driver<'a, G> {
    /// A commit of which nothing is done yet.
    pub fn new(ground: &'a G, order: Order, replies: &'a Replies, started: Instant) -> Driver<'a, G> {
        Driver {
            ground,
            order,
            replies,
            moved: started,
            told: started,
            stage: started,
            maybe: false,
            opened: false,
            root: None,
            named: started,
            acknowledged: 0,
            last_error: String::new(),
        }
    }

    /// The stage of this name has ended.
    pub fn ended(&mut self, stage: &'static str) {
        self.ground.stage(stage, self.stage.elapsed());
        self.stage = Instant::now();
    }

    pub fn gave_up(&self) -> Failure {
        let failure = if self.maybe {
            no::unknown(&self.order, &self.last_error)
        } else if pressure::is_short(&self.last_error) {
            no::no_space(&self.order, &self.last_error)
        } else {
            no::no_quorum(&self.order, self.ground.no_way(), &self.last_error)
        };
        Failure { epoch: self.order.epoch, ..failure }
    }

    pub fn odd(&self, why: &str) -> Failure {
        let certainty = if self.maybe { Certainty::Unknown } else { Certainty::No };
        Failure::new(Code::Internal, "this is a bug in epochlog")
            .what(self.order.name())
            .why(why)
            .fix("please report it")
            .committed(certainty)
    }

    pub fn from<T>(&mut self, brought: Result<T, Broken>) -> Result<T, Failure> {
        self.moved = Instant::now();
        brought.map_err(|broken| match broken {
            Broken::GaveUp(failure) => *failure,
            Broken::Gone => Failure::new(Code::Interrupted, "the client went away").what(self.order.name()),
            Broken::Silent(why) => {
                Failure::new(Code::Interrupted, "the client was silent").what(self.order.name()).why(why)
            }
        })
    }
}

/// Whether it is this node that cannot read the directory: what became of the commit, its client's stream tells.
pub(super) fn is_closed_here<O: Origin>(failure: &Failure) -> bool {
    O::HASHED_HERE && failure.code == Code::PermissionDenied
}

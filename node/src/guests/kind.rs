//! What calls are for, and how many there may be of each.

use crate::limits::{self, Bound};

/// What a call is for. Each kind has places of its own: who asks for much of one takes none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Commits: those that are streamed, and each until it has said what it is.
    Commit,
    /// Commits of a directory that was handed over. No call begins as one: it becomes one when the directory is there,
    /// and then has or waits for a turn of [`limits::SOURCES`], which are the bound.
    ByPath,
    /// Manifests and content.
    Fetch,
    /// Reads published directories again, or looks through an object store.
    Verify,
    /// Waits for something: who has published, whether a service is healthy.
    Wait,
    /// Is answered at once.
    Short,
    /// A page over HTTP.
    Page,
}

impl Kind {
    /// By the path of a gRPC call.
    pub fn of(path: &str) -> Kind {
        match path {
            "/epochlog.Epochlog/Commit" => Kind::Commit,
            "/epochlog.Epochlog/Fetch" => Kind::Fetch,
            "/epochlog.Epochlog/Verify" | "/epochlog.Epochlog/VerifyObjects" | "/epochlog.Epochlog/Gc" => {
                Kind::Verify
            }
            "/epochlog.Epochlog/PublishedOn" | "/grpc.health.v1.Health/Watch" => Kind::Wait,
            path if path.starts_with("/grpc.reflection.") => Kind::Wait,
            _ => Kind::Short,
        }
    }

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::ByPath => "by_path",
            Kind::Fetch => "fetch",
            Kind::Verify => "verify",
            Kind::Wait => "wait",
            Kind::Short => "short",
            Kind::Page => "page",
        }
    }

    /// Calls of this kind at a time. Those that read take turns: few are worked on, and the rest wait.
    pub const fn most(self) -> usize {
        match self {
            Kind::Commit => limits::STREAMED_MAX,
            Kind::ByPath => in_line(limits::SOURCES) + in_line(limits::SOURCES),
            Kind::Fetch => 512,
            Kind::Short => 128,
            Kind::Verify => 32,
            Kind::Wait => 256,
            Kind::Page => 32,
        }
    }

    /// Whether such a call brings an epoch in.
    pub fn is_commit(self) -> bool {
        matches!(self, Kind::Commit | Kind::ByPath)
    }
}

/// Calls that have or wait for a turn.
const fn in_line(bound: Bound) -> usize {
    bound.at_once + bound.waiting
}

// Whoever may wait for a turn has a place to wait in: it is told so, and gets through. What is answered at once keeps half of
// its places from the lists of entries.
const _: () = {
    assert!(
        Kind::Fetch.most()
            >= in_line(limits::MANIFESTS) + in_line(limits::CONTENTS) + in_line(limits::PASSED_ON)
    );
    assert!(Kind::Verify.most() >= in_line(limits::VERIFIES));
    assert!(Kind::Short.most() >= in_line(limits::ENTRIES) + 32);
};

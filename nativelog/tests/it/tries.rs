//! What random histories try.

use proptest::prelude::*;
use proptest::sample::Index;

/// One thing to try; which attempt, epoch or token it means is chosen when it happens.
#[derive(Debug, Clone)]
pub enum Try {
    Writer {
        job: u8,
        commit: u8,
    },
    Begin {
        job: u8,
        commit: u8,
        directory: u8,
        epoch: Option<u8>,
        token: Option<bool>,
        base: Option<u8>,
        whole: bool,
        store: Option<u8>,
    },
    Part {
        attempt: Index,
        directory: u8,
    },
    Piece {
        attempt: Index,
        directory: u8,
        file: u8,
        chunk: u8,
        how: u8,
    },
    Fill {
        attempt: Index,
        directory: u8,
    },
    /// Files of a directory, all or one, into an object.
    Link {
        attempt: Index,
        directory: u8,
        file: Option<u8>,
        object: u8,
    },
    /// All of a commit into a store, as far as it is let.
    Stored {
        job: u8,
        commit: u8,
        directory: u8,
        store: u8,
    },
    Seal {
        attempt: Index,
        directory: u8,
        manifest: bool,
    },
    DeleteBatch {
        nonce: u8,
    },
    /// Content goes into an object of this attempt, out of where it is.
    Rehome {
        attempt: Index,
        content: Index,
        object: u8,
    },
    /// An object that is released, or held, is said to be gone.
    Deleted {
        object: Index,
    },
    Abort {
        attempt: Index,
    },
    Expire {
        job: u8,
        epochs: Vec<u8>,
        by_hand: bool,
    },
    Pin {
        job: u8,
        epoch: u8,
        owner: u8,
        for_ms: u16,
    },
    RemoveJob {
        job: u8,
    },
    Unpin {
        job: u8,
        epoch: u8,
        owner: u8,
    },
    Tick {
        ms: u32,
    },
    Activate {
        version: u8,
    },
    Blank {
        node: u8,
    },
    /// The last record again, with one number of its header changed.
    Bent {
        with: u64,
    },
}

pub fn tries() -> impl Strategy<Value = Try> {
    let (job, commit, directory) = (0..2u8, 0..6u8, 0..3u8);
    let attempt = any::<Index>;
    prop_oneof![
        1 => (job.clone(), commit.clone()).prop_map(|(job, commit)| Try::Writer { job, commit }),
        6 => (
            job.clone(), commit.clone(), directory.clone(), prop::option::of(0..8u8), prop::option::weighted(0.3, any::<bool>()),
            prop::option::weighted(0.2, 0..6u8), prop::bool::weighted(0.3), prop::option::weighted(0.4, 0..3u8),
        ).prop_map(|(job, commit, directory, epoch, token, base, whole, store)| {
            Try::Begin { job, commit, directory, epoch, token, base, whole, store }
        }),
        6 => (attempt(), directory.clone()).prop_map(|(attempt, directory)| Try::Part { attempt, directory }),
        6 => (attempt(), directory.clone(), 0..7u8, 0..4u8, 0..5u8)
            .prop_map(|(attempt, directory, file, chunk, how)| Try::Piece { attempt, directory, file, chunk, how }),
        4 => (attempt(), directory.clone()).prop_map(|(attempt, directory)| Try::Fill { attempt, directory }),
        4 => (attempt(), directory.clone(), prop::option::weighted(0.3, 0..7u8), 0..3u8)
            .prop_map(|(attempt, directory, file, object)| Try::Link { attempt, directory, file, object }),
        2 => (job.clone(), commit, directory.clone(), 0..3u8)
            .prop_map(|(job, commit, directory, store)| Try::Stored { job, commit, directory, store }),
        6 => (attempt(), directory, prop::bool::weighted(0.9))
            .prop_map(|(attempt, directory, manifest)| Try::Seal { attempt, directory, manifest }),
        1 => (0..3u8).prop_map(|nonce| Try::DeleteBatch { nonce }),
        2 => (attempt(), attempt(), 0..3u8)
            .prop_map(|(attempt, content, object)| Try::Rehome { attempt, content, object }),
        1 => attempt().prop_map(|object| Try::Deleted { object }),
        1 => attempt().prop_map(|attempt| Try::Abort { attempt }),
        3 => (job.clone(), prop::collection::vec(0..8u8, 1..3), any::<bool>())
            .prop_map(|(job, epochs, by_hand)| Try::Expire { job, epochs, by_hand }),
        1 => (job.clone(), 0..8u8, 0..2u8, 0..200u16)
            .prop_map(|(job, epoch, owner, for_ms)| Try::Pin { job, epoch, owner, for_ms }),
        // A job is rarely removed: none of its commits can be tried again.
        1 => (job, 0..8u8, 0..2u8, prop::bool::weighted(0.15)).prop_map(|(job, epoch, owner, remove)| match remove {
            true => Try::RemoveJob { job },
            false => Try::Unpin { job, epoch, owner },
        }),
        1 => (0..100_000u32).prop_map(|ms| Try::Tick { ms }),
        1 => (1..5u8).prop_map(|version| Try::Activate { version }),
        1 => (1..4u8).prop_map(|node| Try::Blank { node }),
        2 => prop_oneof![0..9u64, Just(1 << 60), Just(u64::MAX)].prop_map(|with| Try::Bent { with }),
    ]
}

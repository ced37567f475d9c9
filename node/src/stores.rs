//! The object stores of a node. Nothing here waits on a thread of the consensus, and nothing of a node waits for a store
//! but who asked for something in it: one that is away makes no node unready and holds up no epoch that lies in the log.
//!
//! | file | what it holds |
//! |---|---|
//! | `all` | those that the configuration names |
//! | `kept` | one store: its requests, on threads of their own; what it was like lately |
//! | `running` | work on those threads; it ends with who waits for it |
//! | `object` | an object whose bytes lie in files of this node |
//! | `bound` | one that a commit goes into |
//! | `marked` | whether a prefix is the one that the log knows by this name |
//! | `depot` | what the replica may ask of them |
//! | `words` | errors, for people |

mod all;
mod bound;
mod depot;
mod kept;
mod marked;
mod object;
mod running;
mod words;

pub use all::Stores;
pub use bound::Bound;
pub use depot::NodeDepot;
pub use kept::{Access, Claim, Kept, LIMITS, NotIt, Stored};
pub use marked::agrees;
pub use object::{Content, Object};
pub use words::failure;

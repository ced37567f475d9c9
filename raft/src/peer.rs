//! What peers may call, and what is done with it.
//!
//! | file | what it holds |
//! |---|---|
//! | `server` | the service: who may call what, and which room answers |
//! | `appends` | entries from a leader, checked before the consensus sees them |
//! | `proposals` | proposals from elsewhere to this leader |
//! | `owned` | tasks that end with a call |

mod appends;
mod owned;
mod proposals;
mod server;

pub use server::PeerService;
pub(crate) use server::{Rooms, service};

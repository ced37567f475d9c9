//! What peers may call, and what is done with it.
//!
//! | file | what it holds |
//! |---|---|
//! | `server` | the service: who may call what, and which room answers |
//! | `appends` | entries from a leader, checked before the consensus sees them |
//! | `proposals` | proposals from elsewhere to this leader |

mod appends;
mod proposals;
mod server;

pub use server::PeerService;
pub(crate) use server::{Rooms, service};

/// A task that ends with its owner.
struct Owned(tokio::task::JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

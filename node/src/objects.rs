//! What lies in an object store, compared with what the log says of it: what may go, what is lost, and what is put back.
//!
//! The order is always the same: the store is listed, then the ledger of this node is made current, then it is looked
//! through ([`nativelog::ledger::Census`]). Nobody goes by a clock, least of all by the store's.
//!
//! | file | what it holds |
//! |---|---|
//! | `place` | a store that the log knows, found to be the one that it means; what is listed there |
//! | `garbage` | what attempts that have ended left there: a plan, and what is made of exactly that plan |
//! | `wrong` | what is missing there, short or damaged, and what lies in it |
//! | `rehome` | content that this node holds, uploaded anew under another name, which a record says |

mod garbage;
mod place;
mod rehome;
mod wrong;

pub use garbage::{Count, Plan};
pub use place::Place;
pub use rehome::rehome;
pub use wrong::{Looked, State, Wrong, look, named};

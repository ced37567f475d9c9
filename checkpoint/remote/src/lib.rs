//! Objects in a store that others run: S3 and what speaks its language, Google Cloud Storage, Azure Blob Storage, a
//! shared folder, and plain HTTP for reading.
//!
//! This crate stands beside [`checkpoint`], which knows what a directory is and nothing of networks; it knows what an
//! object is and nothing of logs. It is the only place that names the `object_store` crate, and a crate of its own so
//! that who only handles directories builds no HTTP.
//!
//! Three rules hold everywhere (`docs/remote.md` has their sources):
//! * *Keys are written once.* A name carries the attempt and a nonce that was durable before its first byte ([`name`]).
//! * *No answer is believed.* A success is proven by the store's own checksum or by reading back, and after an error
//!   the object is compared all the same ([`Store::upload`]).
//! * *Nothing hangs and nothing hammers.* Tries end when nothing moves, operations when nothing is answered
//!   ([`Limits`]), and all requests of a store pass one gate that narrows when it is busy.
//!
//! A tour: [`config`] says where a store is, [`Store`] is one that is open, [`content`] what an object holds,
//! [`journal`] what an uploader remembers, [`tap`] what is seen of the transport, [`error`] what goes wrong.

mod backend;
pub mod check;
pub mod config;
pub mod content;
mod credentials;
pub mod error;
mod gate;
pub mod journal;
pub mod limits;
mod line;
pub mod name;
pub mod pack;
mod runtime;
mod secret;
mod store;
pub mod tap;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod uploads;
mod xml;

pub use config::{Environment, Place, StoreConfig};
pub use content::{ObjectPlan, Source};
pub use error::{StoreError, Trouble};
pub use journal::{Journal, Trace};
pub use limits::Limits;
pub use name::ObjectName;
pub use pack::{Extent, Home, Packed, Piece};
pub use runtime::StoreRuntime;
pub use secret::Secret;
pub use store::{
    Deleted, Fetched, Head, Listed, Marker, OpenUpload, Page, Proof, Store, Stored, Wanted, Written,
};
pub use tap::{Counts, Verb};

//! performer.

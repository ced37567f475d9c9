//! Directories as checkpoints.

//! Why a configuration cannot be used.

/// A configuration that cannot be used, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// One that cannot, and why.
pub fn fail(why: impl Into<String>) -> ConfigError {
    ConfigError(why.into())
}

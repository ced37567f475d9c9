//! A store without sockets: [`ScriptedS3`] speaks as much S3 as the crate asks for, in memory, and [`Faults`] stands
//! before it (or before any transport) and breaks what a script says. For tests only.

mod faults;
mod s3;

use std::sync::Arc;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};

use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::limits::Limits;
use crate::store::Store;

pub use faults::{Fault, Faults, Rule, When};
pub use s3::{Request, ScriptedS3, Traits};

/// A store over the S3 in memory, with faults in between, as it is after a check of the access: what the S3 keeps to
/// is known.
///
/// # Errors
/// Those of [`Store::open`].
pub fn open(
    config: &StoreConfig,
    limits: Limits,
    s3: &ScriptedS3,
    faults: &Faults,
) -> Result<Store, StoreError> {
    let store = open_unasked(config, limits, s3, faults)?;
    let traits = s3.traits();
    store.learned(traits.conditional, !traits.echoes);
    Ok(store)
}

/// The same before it was asked anything.
///
/// # Errors
/// Those of [`Store::open`].
pub fn open_unasked(
    config: &StoreConfig,
    limits: Limits,
    s3: &ScriptedS3,
    faults: &Faults,
) -> Result<Store, StoreError> {
    let transport = Transport { s3: s3.clone(), faults: faults.clone() };
    Store::open_over(config, limits, Arc::new(transport))
}

#[derive(Clone, Debug)]
struct Transport {
    s3: ScriptedS3,
    faults: Faults,
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let unasked = self.s3.arrives(request.uri());
        self.faults.call(request, |request| self.s3.answer(request, unasked)).await
    }
}

#[cfg(test)]
mod tests;

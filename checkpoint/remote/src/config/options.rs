//! The keys that the `object_store` crate knows for each kind of store, taken as they are.

use std::collections::BTreeMap;
use std::str::FromStr;

use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use toml::Value;

use super::place::Place;
use super::section::Section;
use crate::error::StoreError;
use crate::secret::{Mask, Secret};

/// Keys and values of one kind of store, in the crate's types.
#[derive(Clone)]
pub(crate) enum Options {
    S3(Vec<(AmazonS3ConfigKey, Secret)>),
    Gcs(Vec<(GoogleConfigKey, Secret)>),
    Azure(Vec<(AzureConfigKey, Secret)>),
    Http(Vec<(ClientConfigKey, Secret)>),
    None,
}

// What is shown, and the harmless ones of the client; everything else may be a secret, so that a key that the crate
// learns is masked until it stands here.
const SHOWN: [&str; 25] = [
    "aws_region",
    "aws_default_region",
    "aws_endpoint",
    "aws_endpoint_url_s3",
    "aws_virtual_hosted_style_request",
    "aws_s3_express",
    "aws_imdsv1_fallback",
    "aws_unsigned_payload",
    "aws_checksum_algorithm",
    "aws_skip_signature",
    "aws_conditional_put",
    "aws_disable_tagging",
    "aws_disable_bulk_delete",
    "aws_request_payer",
    "aws_role_arn",
    "aws_server_side_encryption",
    "google_service_account",
    "google_application_credentials",
    "google_skip_signature",
    "azure_storage_account_name",
    "azure_storage_use_emulator",
    "azure_storage_endpoint",
    "azure_use_fabric_endpoint",
    "azure_skip_signature",
    "proxy_excludes",
];
const CLIENT: [&str; 11] = [
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "http1_only",
    "http2_only",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "randomize_addresses",
    "read_timeout",
    "timeout",
    "user_agent",
];

fn is_shown(key: &str) -> bool {
    SHOWN.contains(&key) || CLIENT.contains(&key)
}

// For the nearest known key only, beside those of the client: what is taken is what the crate parses.
const S3: [&str; 22] = [
    "access_key_id",
    "aws_access_key_id",
    "aws_checksum_algorithm",
    "aws_conditional_put",
    "aws_disable_bulk_delete",
    "aws_endpoint_url",
    "aws_region",
    "aws_role_arn",
    "aws_secret_access_key",
    "aws_server_side_encryption",
    "aws_session_token",
    "aws_skip_signature",
    "aws_sse_kms_key_id",
    "aws_unsigned_payload",
    "aws_virtual_hosted_style_request",
    "aws_web_identity_token_file",
    "endpoint_url",
    "region",
    "secret_access_key",
    "session_token",
    "skip_signature",
    "virtual_hosted_style_request",
];
const GCS: [&str; 6] = [
    "google_application_credentials",
    "google_base_url",
    "google_service_account",
    "google_service_account_key",
    "google_service_account_path",
    "google_skip_signature",
];
const AZURE: [&str; 12] = [
    "account_key",
    "account_name",
    "azure_client_id",
    "azure_client_secret",
    "azure_endpoint",
    "azure_federated_token_file",
    "azure_storage_account_key",
    "azure_storage_account_name",
    "azure_storage_sas_key",
    "azure_storage_use_emulator",
    "azure_tenant_id",
    "sas_token",
];

fn known(place: &Place) -> Vec<&'static str> {
    let own: &[&str] = match place {
        Place::S3 { .. } => &S3,
        Place::Gcs { .. } => &GCS,
        Place::Azure { .. } => &AZURE,
        Place::Folder { .. } => return Vec::new(),
        Place::Http { .. } => &[],
    };
    own.iter().chain(&CLIENT).chain(&["proxy_url"]).copied().collect()
}

impl Options {
    /// What the section says, over what the environment says.
    pub(super) fn read(
        place: &Place,
        section: &Section,
        env: &BTreeMap<String, Secret>,
    ) -> Result<Options, StoreError> {
        let mut said = Vec::new();
        for (key, value) in section.table.iter().filter(|(key, _)| !section.own_keys.contains(&key.as_str()))
        {
            said.push((key.as_str(), scalar(section, key, value)?));
        }
        match place {
            Place::S3 { .. } => all(place, section, env, said, "aws_").map(Options::S3),
            Place::Gcs { .. } => all(place, section, env, said, "google_").map(Options::Gcs),
            Place::Azure { .. } => all(place, section, env, said, "azure_").map(Options::Azure),
            Place::Http { .. } => all(place, section, &BTreeMap::new(), said, "-").map(Options::Http),
            Place::Folder { .. } => match said.first() {
                Some((key, _)) => Err(section.unknown(key, &[])),
                None => Ok(Options::None),
            },
        }
    }

    fn pairs(&self) -> Vec<(&str, &Secret)> {
        match self {
            Options::S3(pairs) => pairs.iter().map(|(key, value)| (key.as_ref(), value)).collect(),
            Options::Gcs(pairs) => pairs.iter().map(|(key, value)| (key.as_ref(), value)).collect(),
            Options::Azure(pairs) => pairs.iter().map(|(key, value)| (key.as_ref(), value)).collect(),
            Options::Http(pairs) => pairs.iter().map(|(key, value)| (key.as_ref(), value)).collect(),
            Options::None => Vec::new(),
        }
    }

    pub(super) fn shown(&self) -> Vec<(String, String)> {
        let show = |(key, value): (&str, &Secret)| match is_shown(key) {
            // An address may hold user info or a token that nobody refused: the environment says what it likes.
            true => (key.to_string(), Mask::default().show(value.expose(), usize::MAX)),
            false => (key.to_string(), value.to_string()),
        };
        self.pairs().into_iter().map(show).collect()
    }

    /// The values that must not be shown.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let hidden = self.pairs().into_iter().filter(|(key, _)| !is_shown(key));
        hidden.map(|(_, value)| value.clone()).collect()
    }

    /// Whether an address among the options is not encrypted.
    pub(crate) fn is_plain_http(&self) -> bool {
        let services = ["aws_endpoint", "aws_endpoint_url_s3", "azure_storage_endpoint", "google_base_url"];
        self.pairs()
            .iter()
            .any(|(key, value)| services.contains(key) && value.expose().starts_with("http://"))
    }
}

// Keys that say where a store is: the location does.
fn is_location(key: &str) -> bool {
    ["aws_bucket", "google_bucket", "azure_container_name", "azure_storage_container_name"].contains(&key)
        || key.ends_with("bucket")
        || key.ends_with("bucket_name")
}

fn all<K: FromStr + AsRef<str> + PartialEq>(
    place: &Place,
    section: &Section,
    env: &BTreeMap<String, Secret>,
    said: Vec<(&str, String)>,
    start: &str,
) -> Result<Vec<(K, Secret)>, StoreError> {
    let mut pairs: Vec<(K, Secret)> = Vec::new();
    // Others set variables, too: what nobody here knows is nobody's mistake.
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with(start)) {
        if let Ok(key) = name.parse::<K>()
            && !is_location(key.as_ref())
        {
            pairs.push((key, value.clone()));
        }
    }
    let from_env = pairs.len();
    for (name, value) in said {
        let key: K = name.parse().map_err(|_| section.unknown(name, &known(place)))?;
        if is_location(key.as_ref()) {
            return Err(section.error(name, "the location says it", "leave it out"));
        }
        if pairs[from_env..].iter().any(|(other, _)| *other == key) {
            return Err(section.error(
                name,
                format!("{} is said twice", key.as_ref()),
                "leave one of them out",
            ));
        }
        refuse_user_info(section, name, &value)?;
        pairs.push((key, Secret::new(value)));
    }
    // Last wins in the crate, but a key of the environment under another name must not win over ours.
    let said: Vec<(K, Secret)> = pairs.drain(from_env..).collect();
    pairs.retain(|(key, _)| !said.iter().any(|(other, _)| other == key));
    pairs.extend(said);
    Ok(pairs)
}

fn scalar(section: &Section, key: &str, value: &Value) -> Result<String, StoreError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Boolean(flag) => Ok(flag.to_string()),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err(section.error(key, "is neither text, number nor true or false", "write one value")),
    }
}

fn refuse_user_info(section: &Section, key: &str, value: &str) -> Result<(), StoreError> {
    let Some((_, rest)) = value.split_once("://") else { return Ok(()) };
    let host = rest.split('/').next().unwrap_or(rest);
    // Proxies have no other place for it, and their address is not shown.
    if host.contains('@') && !key.contains("proxy") {
        return Err(section.error(key, "has user info in it", "write access keys beside it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_is_proposed_or_shown_is_one_of_the_crates() {
        for name in S3.iter().chain(&CLIENT) {
            assert!(name.parse::<AmazonS3ConfigKey>().is_ok(), "{name}");
        }
        for name in GCS.iter().chain(&CLIENT) {
            assert!(name.parse::<GoogleConfigKey>().is_ok(), "{name}");
        }
        for name in AZURE.iter().chain(&CLIENT) {
            assert!(name.parse::<AzureConfigKey>().is_ok(), "{name}");
        }
        for name in SHOWN.into_iter().chain(CLIENT) {
            let canonical = [
                name.parse::<AmazonS3ConfigKey>().ok().map(|key| key.as_ref().to_string()),
                name.parse::<GoogleConfigKey>().ok().map(|key| key.as_ref().to_string()),
                name.parse::<AzureConfigKey>().ok().map(|key| key.as_ref().to_string()),
            ];
            assert!(canonical.into_iter().flatten().any(|key| key == name), "{name} is no canonical name");
        }
    }
}

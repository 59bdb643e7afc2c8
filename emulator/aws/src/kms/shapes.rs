//! The shapes of the KMS API, named as in the service model (botocore `kms/2014-11-01`).

use model_aws::At;
use model_aws::kms::{Alias, Key, KeyState, State};
use serde::{Deserialize, Serialize};

/// A time as the protocol writes it: seconds with a fraction.
pub fn epoch(at: At) -> f64 {
    at.0 as f64 / 1000.0
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyName {
    pub key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateKey {
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub tags: Vec<Tag>,
    key_usage: Option<String>,
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    origin: Option<String>,
    multi_region: Option<bool>,
    custom_key_store_id: Option<String>,
}

impl CreateKey {
    /// What the request asks for that is not here: only symmetric keys of KMS's own making are.
    pub fn unsupported(&self) -> Option<String> {
        let other = |name: &str, value: &Option<String>, only: &str| {
            value.as_deref().filter(|value| *value != only).map(|value| format!("{name} {value}"))
        };
        other("KeyUsage", &self.key_usage, "ENCRYPT_DECRYPT")
            .or_else(|| other("KeySpec", &self.key_spec, "SYMMETRIC_DEFAULT"))
            .or_else(|| other("CustomerMasterKeySpec", &self.customer_master_key_spec, "SYMMETRIC_DEFAULT"))
            .or_else(|| other("Origin", &self.origin, "AWS_KMS"))
            .or_else(|| self.custom_key_store_id.as_ref().map(|_| "CustomKeyStoreId".to_owned()))
            .or_else(|| self.multi_region.filter(|wanted| *wanted).map(|_| "MultiRegion".to_owned()))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    pub tag_key: String,
    pub tag_value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TagResource {
    pub key_id: String,
    pub tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TagKey {
    pub key_id: String,
    pub tag_keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ScheduleDeletion {
    pub key_id: String,
    pub pending_window_in_days: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateAlias {
    pub alias_name: String,
    pub target_key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AliasName {
    pub alias_name: String,
}

/// ListKeys, ListAliases, ListResourceTags.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListRequest {
    pub key_id: Option<String>,
    pub limit: Option<i64>,
    pub marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMetadata {
    #[serde(rename = "AWSAccountId")]
    account: String,
    key_id: String,
    arn: String,
    creation_date: f64,
    enabled: bool,
    description: String,
    key_usage: &'static str,
    key_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_date: Option<f64>,
    origin: &'static str,
    key_manager: &'static str,
    customer_master_key_spec: &'static str,
    key_spec: &'static str,
    encryption_algorithms: [&'static str; 1],
    multi_region: bool,
}

impl KeyMetadata {
    pub fn new(kms: &State, key: &Key) -> Self {
        Self {
            account: kms.account().to_owned(),
            key_id: key.id.clone(),
            arn: kms.arn(key),
            creation_date: epoch(key.created),
            enabled: key.state == KeyState::Enabled,
            description: key.description.clone(),
            key_usage: "ENCRYPT_DECRYPT",
            key_state: key.state.name(),
            deletion_date: key.state.deletion_date().map(epoch),
            origin: "AWS_KMS",
            key_manager: if key.managed { "AWS" } else { "CUSTOMER" },
            customer_master_key_spec: "SYMMETRIC_DEFAULT",
            key_spec: "SYMMETRIC_DEFAULT",
            encryption_algorithms: ["SYMMETRIC_DEFAULT"],
            multi_region: false,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyAlias {
    alias_name: String,
    alias_arn: String,
    target_key_id: String,
    creation_date: f64,
    last_updated_date: f64,
}

impl KeyAlias {
    pub fn new(kms: &State, alias: &Alias, key: &str) -> Self {
        Self {
            alias_name: alias.name.clone(),
            alias_arn: kms.alias_arn(alias),
            target_key_id: key.to_owned(),
            creation_date: epoch(alias.created),
            last_updated_date: epoch(alias.created),
        }
    }
}

//! Who asks, for which bucket: the rule that says who may do what.
//!
//! Users own their buckets: the owner and root may do everything in them, nobody else anything. The decision is bound to
//! the secret that the request was signed with, so that a request signed with a secret that was replaced is refused as soon
//! as the newer version is seen.

use super::{Backend, OpError};
use crate::transfer::{AccessError, Authorise};
use std::sync::Arc;
use tenfour_metadata::api::{Bucket, Config, User};
use tenfour_types::BucketName;

/// A user whose signature was verified.
#[derive(Clone)]
pub struct Requester {
    /// The access key.
    pub access_key: String,
    secret_key: Arc<str>,
}

impl Requester {
    /// The user of this access key, whose signature was verified with this secret.
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        Self { access_key: access_key.to_owned(), secret_key: secret_key.into() }
    }

    /// The user as a version knows it, if it may do anything at all.
    pub fn user<'a>(&self, config: &'a Config) -> Result<&'a User, AccessError> {
        let user = config.users.get(&self.access_key).filter(|user| user.enabled);
        user.filter(|user| *user.secret_key == *self.secret_key).ok_or(AccessError::Denied)
    }

    /// This user's request for a bucket.
    pub fn wants(&self, bucket: BucketName, expected_owner: Option<&str>) -> Wants {
        Wants { who: self.clone(), bucket, expected_owner: expected_owner.map(str::to_owned) }
    }
}

/// A user's request for a bucket.
#[derive(Clone)]
pub struct Wants {
    who: Requester,
    bucket: BucketName,
    expected_owner: Option<String>,
}

impl Wants {
    /// The bucket's name.
    pub fn bucket(&self) -> &BucketName {
        &self.bucket
    }

    /// The bucket, by the cached version, or by the newest when that one refuses.
    pub async fn bucket_now<B: Backend>(&self, backend: &B) -> Result<Bucket, OpError> {
        match self.check(&backend.config()) {
            Ok(bucket) => Ok(bucket),
            Err(_) => Ok(self.check(&*backend.refresh_config().await?)?),
        }
    }
}

impl Authorise for Wants {
    fn check(&self, config: &Config) -> Result<Bucket, AccessError> {
        let user = self.who.user(config)?;
        let bucket = config.buckets.get(&self.bucket).ok_or(AccessError::NoSuchBucket)?;
        let owns = user.root || bucket.owner == user.access_key;
        let as_expected = self.expected_owner.as_ref().is_none_or(|owner| *owner == bucket.owner);
        if owns && as_expected { Ok(bucket.clone()) } else { Err(AccessError::Denied) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_metadata::api::BucketState;
    use tenfour_types::BucketId;

    fn config() -> Config {
        let mut config = Config::default();
        for (key, root) in [("alice", false), ("bob", false), ("root", true)] {
            let user = User {
                access_key: key.into(),
                secret_key: format!("secret-{key}"),
                display_name: key.into(),
                enabled: true,
                root,
            };
            config.users.insert(key.into(), user);
        }
        let name = BucketName::new("photos").unwrap();
        let bucket = Bucket {
            id: BucketId(1),
            name: name.clone(),
            owner: "alice".into(),
            created_ms: 0,
            state: BucketState::Open,
        };
        config.buckets.insert(name, bucket);
        config
    }

    fn wants(key: &str, bucket: &str, owner: Option<&str>) -> Wants {
        Requester::new(key, &format!("secret-{key}")).wants(BucketName::new(bucket).unwrap(), owner)
    }

    #[test]
    fn only_the_owner_and_root_get_in() {
        let config = config();
        assert!(wants("alice", "photos", None).check(&config).is_ok());
        assert!(wants("root", "photos", None).check(&config).is_ok());
        assert_eq!(wants("bob", "photos", None).check(&config), Err(AccessError::Denied));
        assert_eq!(wants("carol", "photos", None).check(&config), Err(AccessError::Denied));
        assert_eq!(wants("alice", "none", None).check(&config), Err(AccessError::NoSuchBucket));
        assert_eq!(wants("alice", "photos", Some("bob")).check(&config), Err(AccessError::Denied));
        assert!(wants("alice", "photos", Some("alice")).check(&config).is_ok());
    }

    #[test]
    fn a_disabled_user_and_a_replaced_secret_are_refused() {
        let mut config = config();
        config.users.get_mut("alice").unwrap().enabled = false;
        assert_eq!(wants("alice", "photos", None).check(&config), Err(AccessError::Denied));
        let alice = config.users.get_mut("alice").unwrap();
        (alice.enabled, alice.secret_key) = (true, "another".into());
        assert_eq!(wants("alice", "photos", None).check(&config), Err(AccessError::Denied));
    }
}

//! Keys, sessions and what they prove.
//!
//! A key is `evk_ID_SECRET`: 16 hexadecimal digits that find it and 64 that prove it. Secrets are random, so a
//! single SHA-256 keeps them: there is nothing to guess that a slow hash would protect. They are compared in
//! constant time, and no type here prints one.

use std::fmt;

use evalign_core::{Digest, Tenant};
use evalign_store::{KeyLimits, KeyScope, NewKey, StoredKey};
use subtle::ConstantTimeEq;

use crate::error::ServeError;

/// A secret that was just made: it can be shown once, and nothing prints it by accident.
pub struct MintedKey {
    pub record: NewKey,
    text: String,
}

impl MintedKey {
    /// What the client sends as `Authorization: Bearer ...`.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for MintedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedKey").field("id", &self.record.id).finish_non_exhaustive()
    }
}

/// `bytes` random bytes from the system as hexadecimal digits.
pub(crate) fn random_hex<const BYTES: usize>() -> Result<String, ServeError> {
    let mut raw = [0; BYTES];
    getrandom::fill(&mut raw).map_err(|error| ServeError::Random(error.to_string()))?;
    // A digest of raw bytes is their digits, whatever their number.
    Ok(Digest::from_raw(&raw).as_str().to_owned())
}

/// Makes a key, without limits. It counts once [`evalign_store::Store::create_key`] has its record.
///
/// # Errors
/// The system gives no random numbers.
pub fn mint_key(
    tenant: Tenant,
    name: &str,
    scope: KeyScope,
    expires_ms: Option<u64>,
) -> Result<MintedKey, ServeError> {
    let (id, secret) = (random_hex::<8>()?, random_hex::<32>()?);
    let text = format!("evk_{id}_{secret}");
    let digest = Digest::of(&secret);
    let (name, limits) = (name.to_owned(), KeyLimits::default());
    Ok(MintedKey { record: NewKey { id, tenant, name, scope, digest, expires_ms, limits }, text })
}

/// The two parts of what a client sent as a key, if it looks like one.
pub(crate) fn parse_key(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.strip_prefix("evk_")?.split_once('_')?;
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    (id.len() == 16 && secret.len() == 64 && hex(id) && hex(secret)).then_some((id, secret))
}

/// Whether the secret is the key's. Takes the same time for every secret, and for a key that is not there.
pub(crate) fn proves(secret: &str, key: Option<&StoredKey>) -> bool {
    let given = Digest::of(secret);
    let nobody = Digest::of("");
    let kept = key.map_or(&nobody, |key| &key.digest);
    let same = given.as_str().as_bytes().ct_eq(kept.as_str().as_bytes());
    bool::from(same) && key.is_some()
}

/// Whom a request is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) key: String,
    pub(crate) tenant: Tenant,
    pub(crate) scope: KeyScope,
    pub(crate) limits: KeyLimits,
    /// What forms have to carry, where the caller is a browser.
    pub(crate) csrf: Option<String>,
}

impl Caller {
    pub(crate) fn of(key: &StoredKey, csrf: Option<String>) -> Self {
        let StoredKey { id, tenant, scope, limits, .. } = key.clone();
        Self { key: id, tenant, scope, limits, csrf }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_proves_itself_and_nothing_else_does() {
        let minted = mint_key(Tenant::default(), "test", KeyScope::Read, None).unwrap();
        let (id, secret) = parse_key(minted.expose()).unwrap();
        assert_eq!(id, minted.record.id);
        let NewKey { id, tenant, name, scope, digest, expires_ms, limits } = minted.record.clone();
        let (created_ms, revoked_ms) = (0, None);
        let kept = StoredKey { id, tenant, name, scope, digest, created_ms, expires_ms, revoked_ms, limits };
        assert!(proves(secret, Some(&kept)));
        assert!(!proves(secret, None));
        assert!(!proves("", None));
        assert!(!proves(&secret.replace(['0', '1'], "2"), Some(&kept)));
        assert!(!format!("{minted:?}").contains(secret));
    }

    #[test]
    fn what_does_not_look_like_a_key_is_none() {
        for text in ["", "evk_", "evk_0_1", "sk-abc", "evk_0123456789abcdef_", "evk_../../etc_aa"] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}

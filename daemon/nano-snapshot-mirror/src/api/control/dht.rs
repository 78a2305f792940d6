//! DHT requests over the control socket, for a producer without network access. The mirror receives no private key. The client verifies every
//! signature in the answer.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use service_kit::http_server::{json, refuse};
use snapshot_pointer::{
    AnswerCounts, Authority, Dht as _, InvalidRawItem, LookupResult, RawItem, Salt, SignedItem,
};

use super::api::Api;
use crate::text::Causes;

/// The result of a look-up, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Looked {
    /// Items with the same `seq`, the best first. There is more than one only if the authority signed several values with that number.
    items: Vec<RawItem>,
    /// Whether every queried node had answered or timed out.
    settled: bool,
    queried: u32,
    valid: u32,
    empty: u32,
    invalid: u32,
    errors: u32,
    timeouts: u32,
}

impl Looked {
    fn of(found: &LookupResult) -> Self {
        let counts = found.counts;
        Self {
            items: found.items().iter().map(RawItem::from).collect(),
            settled: found.settled,
            queried: counts.queried,
            valid: counts.valid,
            empty: counts.empty,
            invalid: counts.invalid,
            errors: counts.errors,
            timeouts: counts.timeouts,
        }
    }

    /// Verifies the signatures of all items and returns the result.
    pub(crate) fn found(
        &self,
        authority: &Authority,
        salt: &Salt,
    ) -> Result<LookupResult, InvalidRawItem> {
        let mut found = LookupResult::default();
        for raw in &self.items {
            let item = SignedItem::try_from(raw)?;
            if item.authority() != authority {
                return Err(InvalidRawItem::Field { field: "authority" });
            }
            if item.salt() != salt {
                return Err(InvalidRawItem::Field { field: "salt" });
            }
            found.add(item);
        }
        found.settled = self.settled;
        found.counts = AnswerCounts {
            queried: self.queried,
            valid: self.valid,
            empty: self.empty,
            invalid: self.invalid,
            errors: self.errors,
            timeouts: self.timeouts,
        };
        Ok(found)
    }
}

/// The number of nodes that stored an item, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) nodes: u32,
}

/// Looks an item up.
pub(super) async fn get_item(State(api): State<Arc<Api>>, uri: Uri) -> Response {
    // Both are hexadecimal digits, so nothing in them is escaped.
    let parameter = |name: &str| {
        let mut pairs = uri.query().unwrap_or_default().split('&');
        pairs
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .ok_or_else(|| format!("{name}: missing"))
    };
    let wanted = parameter("authority")
        .and_then(authority)
        .and_then(|authority| Ok((authority, salt(parameter("salt")?)?)));
    let (authority, salt) = match wanted {
        Ok(wanted) => wanted,
        Err(text) => return refuse(StatusCode::BAD_REQUEST, &text),
    };
    match api.dht.get_item(&authority, &salt, &mut |_| {}).await {
        Ok(found) => json(StatusCode::OK, &Looked::of(&found)),
        Err(error) => refuse(StatusCode::BAD_GATEWAY, &Causes(&error).to_string()),
    }
}

/// Stores a signed item.
pub(super) async fn post_item(State(api): State<Arc<Api>>, body: Bytes) -> Response {
    let raw: RawItem = match serde_json::from_slice(&body) {
        Ok(raw) => raw,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                &format!("this is no signed item: {error}"),
            );
        }
    };
    let item = match SignedItem::try_from(&raw) {
        Ok(item) => item,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &Causes(&error).to_string()),
    };
    match api.dht.put_item(&item).await {
        Ok(stored) => json(
            StatusCode::OK,
            &Taken {
                nodes: stored.nodes,
            },
        ),
        Err(error) => refuse(StatusCode::CONFLICT, &Causes(&error).to_string()),
    }
}

fn authority(text: &str) -> Result<Authority, String> {
    text.parse()
        .map_err(|error| format!("authority: {}", Causes(&error)))
}

fn salt(hex: &str) -> Result<Salt, String> {
    let bytes = HEXLOWER
        .decode(hex.as_bytes())
        .map_err(|_| "salt must be hexadecimal digits".to_owned())?;
    Salt::new(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use snapshot_pointer::{Seq, SigningKey};

    use super::*;

    #[test]
    fn a_mirror_is_not_believed_without_signatures() {
        let key = SigningKey::from_seed(&[3; 32]);
        let daily: Salt = "daily".parse().unwrap();
        let signed = SignedItem::sign(&key, &daily, Seq::new(7).unwrap(), &[5; 32]).unwrap();
        let looked = || {
            Looked::of(&LookupResult {
                best: Some(signed.clone()),
                settled: true,
                ..LookupResult::default()
            })
        };
        let found = looked().found(signed.authority(), &daily).unwrap();
        assert_eq!((found.best, found.settled), (Some(signed.clone()), true));

        let mut later = looked();
        later.items[0].seq += 1;
        assert!(later.found(signed.authority(), &daily).is_err());
        let other: Salt = "weekly".parse().unwrap();
        assert!(looked().found(signed.authority(), &other).is_err());
        let authority = SigningKey::from_seed(&[4; 32]).authority();
        assert!(looked().found(&authority, &daily).is_err());
    }
}

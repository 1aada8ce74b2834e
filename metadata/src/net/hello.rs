//! What both ends of a connection say while they prove the cluster key to each other.

use serde::{Deserialize, Serialize};
use tenfour_types::ClusterId;

/// The version of frames and messages; both ends must speak the same.
pub(crate) const PROTOCOL: u16 = 1;

/// Who is at this end. Authenticated by the handshake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) cluster: ClusterId,
    pub(crate) role: Role,
}

/// A client or a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// A gateway, a node, an operator.
    Client,
    /// A replica, and which life of its store: a store that was lost and begun anew has another incarnation.
    Replica { id: u64, incarnation: u128 },
}

impl Hello {
    pub(crate) fn new(cluster: ClusterId, role: Role) -> Self {
        Self { protocol: PROTOCOL, cluster, role }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// The peer's hello, when it is of our cluster and speaks our protocol; else why not.
    pub(crate) fn check(&self, theirs: &[u8]) -> Result<Self, String> {
        let theirs: Self =
            postcard::from_bytes(theirs).map_err(|_| "its hello is not readable".to_owned())?;
        if theirs.protocol != self.protocol {
            return Err(format!(
                "it speaks version {} of the protocol, this process {}",
                theirs.protocol, self.protocol
            ));
        }
        if theirs.cluster != self.cluster {
            return Err(format!(
                "it belongs to cluster {}, this process to {}",
                theirs.cluster, self.cluster
            ));
        }
        Ok(theirs)
    }
}

//! Group 0: the cluster map, buckets, users and leases.
//!
//! A change that requests are checked against (a bucket, a user) raises the [`ConfigVersion`] and is answered only after every
//! index group has committed the fence with it; so a gateway that compares the version in an index group's answer with its
//! own notices every change that was acknowledged before its request began, without asking group 0.

use crate::api::index::Watermark;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tenfour_placement::{ClusterMap, NodeState};
use tenfour_types::limits::ACCESS_KEY_BYTES_MAX;
use tenfour_types::{
    BucketId, BucketName, ClusterId, ConfigVersion, Epoch, GroupId, LeaseId, MetaGroupId, NodeId, ShardIndex,
    TargetId,
};
use thiserror::Error;

/// A change to group 0.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClusterCommand {
    /// The first command of a cluster: who it is. Its index groups are 1 to `index_groups`, and its slots are dealt to them.
    Bootstrap {
        /// The new cluster.
        cluster: ClusterId,
        /// How many index groups it has, at least 1.
        index_groups: u16,
        /// Its first user.
        root: Option<User>,
    },
    /// A node says that it is there, with its targets; repeated at every start. Puts it into the map, or updates it, as Up
    /// (a node that is Out stays so, until `SetNodeState`). Refused as a whole when it lists another node's target; a target
    /// of its own that was poisoned stays poisoned, and the others are registered.
    RegisterNode {
        /// The node.
        node: NodeId,
        /// Where its shard service listens: fabric endpoints in order of preference.
        endpoints: Vec<String>,
        /// Its rack.
        rack: String,
        /// Its targets and their weights (capacity in GiB, at least 1).
        targets: Vec<(TargetId, u32)>,
    },
    /// The failure detector's verdict.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Up, Down or Out.
        state: NodeState,
    },
    /// A target failed a flush or lost its folder: it is out of service for ever.
    PoisonTarget {
        /// The target.
        target: TargetId,
    },
    /// Lays the placement groups over the targets that are registered; refused when they exist already.
    BuildGroups {
        /// How many; `None` for the default of the map's size.
        count: Option<u32>,
    },
    /// A new bucket of a user.
    CreateBucket {
        /// Its name.
        name: BucketName,
        /// Its owner: a user's access key.
        owner: String,
        /// For listings, milliseconds since 1970.
        created_ms: u64,
    },
    /// Begins to remove a bucket: from the fence on, commits into this incarnation are refused. The reply is
    /// [`ClusterDone::Closing`]; whoever closes a bucket that is closing already joins that round.
    CloseBucket {
        /// The incarnation.
        bucket: BucketId,
    },
    /// Ends it: removed when it was found empty in every group, else opened again.
    FinishCloseBucket {
        /// The incarnation.
        bucket: BucketId,
        /// The round of closing in which the groups were asked: what was found in an earlier round decides nothing.
        round: u64,
        /// Whether every group found it empty after the fence.
        empty: bool,
    },
    /// Creates a user, or changes the one of that access key. A new access key has at most `ACCESS_KEY_BYTES_MAX` bytes.
    PutUser {
        /// The user.
        user: User,
    },
    /// Removes a user; its buckets stay, to be given to another.
    RemoveUser {
        /// Whose access key.
        access_key: String,
    },
    /// A gateway wants a lease. Earlier leases of the same holder end with it, so that a gateway which was killed and comes
    /// back under its name leaves nothing behind that is held for ever.
    GrantLease {
        /// The gateway's name, the same after every restart, and no other gateway's. An empty one takes nothing over: such a
        /// lease lives until it is ended.
        holder: String,
    },
    /// A lease is over (its gateway ended, or is gone): from the fence on, commits under it are refused.
    EndLease {
        /// The lease.
        lease: LeaseId,
    },
    /// An index group has committed all fences up to this one (internal: sent by the fence driver).
    FenceDone {
        /// The group.
        group: MetaGroupId,
        /// The fence's number.
        number: u64,
    },
    /// A target was lost with its folder, and another one takes its place on the same node: which id that one has. The reply is
    /// [`ClusterDone::Target`], and stays the same until that target was registered. With its registration the lost one is
    /// poisoned, in one epoch, so that its slots move once.
    ReplaceTarget {
        /// The node.
        node: NodeId,
        /// Its lost target, or one that this one took the place of.
        target: TargetId,
    },
    /// Repair has found every shard of these slots on the target, by a map whose fences every index group had committed: what
    /// held them before is needed no more. A slot that has moved since is left as it is.
    SlotsWhole {
        /// The target.
        target: TargetId,
        /// The map's epoch.
        epoch: Epoch,
        /// Its slots.
        slots: Vec<(GroupId, ShardIndex)>,
    },
}

/// The reply to a [`ClusterCommand`].
pub type ClusterReply = Result<ClusterDone, ClusterRefusal>;

/// A change that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClusterDone {
    /// Nothing more to say.
    Done,
    /// The map's epoch after it.
    Epoch(Epoch),
    /// The new bucket.
    Bucket(Bucket),
    /// The new lease.
    Lease(LeaseId),
    /// The bucket is closing, in this round.
    Closing {
        /// What [`ClusterCommand::FinishCloseBucket`] has to repeat.
        round: u64,
    },
    /// The id of a target to be made.
    Target(TargetId),
}

/// A change that was refused; nothing happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Error)]
pub enum ClusterRefusal {
    /// The name is taken by another owner.
    #[error("the bucket name is taken")]
    BucketExists,
    /// The name is taken, by the same owner.
    #[error("the bucket exists and is yours")]
    BucketOwnedByYou,
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// That round of closing is over: the bucket was opened again, or closes in a later round.
    #[error("the bucket is not closing in that round")]
    NotClosing,
    /// Not empty.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// Too many buckets.
    #[error("the user has as many buckets as one may have")]
    TooManyBuckets,
    /// No such user.
    #[error("no such user")]
    NoSuchUser,
    /// No such node.
    #[error("no such node")]
    NoSuchNode,
    /// No such lease.
    #[error("no such lease")]
    NoSuchLease,
    /// The target belongs to another node, or there is none of that id.
    #[error("target {0} belongs to another node, or is not known")]
    TargetRefused(TargetId),
    /// There are placement groups already.
    #[error("placement groups exist already")]
    GroupsExist,
    /// No targets yet.
    #[error("no targets are registered")]
    NoTargets,
    /// The cluster exists already, or not yet.
    #[error("the cluster was bootstrapped already, or not yet")]
    Bootstrapped,
    /// Too many placement groups or index groups, or none.
    #[error("there cannot be so many groups")]
    GroupCount,
    /// An access key that no client could log in with.
    #[error("an access key has 1 to {} bytes: choose another", ACCESS_KEY_BYTES_MAX)]
    AccessKeyLength,
}

/// A bucket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// This incarnation of it.
    pub id: BucketId,
    /// Its name.
    pub name: BucketName,
    /// The access key of its owner.
    pub owner: String,
    /// For listings, milliseconds since 1970.
    pub created_ms: u64,
    /// Open or closing.
    pub state: BucketState,
}

/// Whether a bucket takes requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BucketState {
    /// It does.
    Open,
    /// It is being removed.
    Closing,
}

/// A user: one access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The access key: the user's name in every request.
    pub access_key: String,
    /// The secret key, as SigV4 needs it.
    pub secret_key: String,
    /// For people.
    pub display_name: String,
    /// A disabled user's requests are refused.
    pub enabled: bool,
    /// The administrator: may do everything to every bucket.
    pub root: bool,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("access_key", &self.access_key)
            .field("enabled", &self.enabled)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// What every request is checked against.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// Rises with every change.
    pub version: ConfigVersion,
    /// By name.
    pub buckets: BTreeMap<BucketName, Bucket>,
    /// By access key.
    pub users: BTreeMap<String, User>,
    /// The metadata group of each of the 1,024 key slots.
    pub slots: Vec<MetaGroupId>,
}

/// A linearizable read of group 0.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClusterQuery {
    /// Buckets, users and slots.
    Config,
    /// The map, when it is newer than the one that the asker has.
    Map {
        /// The asker's.
        known: Epoch,
    },
    /// Who the cluster is and how it fares.
    Status,
    /// Buckets, users and slots, when they are newer than those that the asker has.
    ConfigSince {
        /// The asker's.
        known: ConfigVersion,
    },
}

/// The answer to a [`ClusterQuery`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClusterAnswer {
    /// To `Config`, and to `ConfigSince` when there is something newer.
    Config(Arc<Config>),
    /// To `Map`; `None` when the asker's is the newest.
    Map(Option<Arc<ClusterMap>>),
    /// To `Status`.
    Status(ClusterStatus),
    /// To `ConfigSince`: what the asker has is the newest.
    ConfigIsNewest,
}

/// How group 0 sees the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// The newest map.
    pub map: Arc<ClusterMap>,
    /// The leases that live, with their holders.
    pub leases: Vec<(LeaseId, String)>,
    /// Index groups that have not yet committed the newest fence.
    pub fences_pending: Vec<MetaGroupId>,
    /// Milliseconds since each node was last heard of by the leader.
    pub silent_ms: BTreeMap<NodeId, u64>,
    /// Nodes that are up and have been silent for longer than they should: they may be slow, or about to be called down.
    pub suspected: Vec<NodeId>,
    /// What each node that repairs has told of it last.
    pub repair: BTreeMap<NodeId, RepairProgress>,
}

/// How far a node's repair is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairProgress {
    /// Shards that it has yet to find or make anew, as far as it has counted them.
    pub shards_left: u64,
    /// Shards that it has made anew since it started.
    pub shards_rebuilt: u64,
    /// Their bytes.
    pub bytes_rebuilt: u64,
    /// Bytes that it has read from others for that.
    pub bytes_read: u64,
    /// Bytes a second that it makes anew now; 0 when it rests.
    pub bytes_per_second: u64,
}

/// What a node sends the leader of group 0 every `NODE_HEARTBEAT_MS`. Not a Raft entry: only a change of state becomes one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
    /// The epoch it follows.
    pub epoch: Epoch,
    /// Targets that it had to take out of service.
    pub poisoned: Vec<TargetId>,
    /// How far its repair is.
    pub repair: RepairProgress,
}

/// What a gateway sends every second while it has news: its watermark for each index group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseReport {
    /// The lease.
    pub lease: LeaseId,
    /// For each index group.
    pub watermarks: Vec<(MetaGroupId, Watermark)>,
}

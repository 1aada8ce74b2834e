//! `tenfour admin`: users, nodes, and the check of every shard.

use crate::cluster::connect;
use crate::config::ClusterSection;
use crate::status::Which;
use crate::stripes::all_stripes;
use crate::table;
use anyhow::{Context, Result, bail};
use rand::RngExt;
use tenfour_gateway::{Gateway, GatewayConfig};
use tenfour_metadata::Metadata;
use tenfour_metadata::api::{ClusterCommand, User};
use tenfour_placement::NodeState;
use tenfour_rdma::Fabric;
use tenfour_types::limits::TOTAL_SHARDS;
use tenfour_types::{NodeId, StripeRow};

/// Subcommands of `tenfour admin`.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum AdminCommand {
    /// Users: each has one access key and owns the buckets that it creates.
    #[command(subcommand)]
    User(UserCommand),
    /// Nodes: bring one back that was taken out.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Lay the placement groups over the nodes that have registered: once, when a new cluster of machines is complete.
    LayGroups {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
        /// How many [default: by the number of targets].
        #[arg(long)]
        count: Option<u32>,
    },
    /// Ask the nodes to read and verify every shard of every stripe; exit status 1 when one is missing or damaged.
    Verify {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
        /// What carries the questions: auto, verbs, shm or tcp.
        #[arg(long, default_value_t = Fabric::Auto)]
        fabric: Fabric,
    },
}

/// Subcommands of `tenfour admin node`.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum NodeCommand {
    /// Let a node that was taken out, and whose disks are sound, serve again: start it after this.
    Return {
        /// Its number.
        node: u32,
        /// Which cluster.
        #[command(flatten)]
        which: Which,
    },
}

/// Subcommands of `tenfour admin user`.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum UserCommand {
    /// Add a user; its keys are printed once.
    Add {
        /// A name, for people.
        name: String,
        /// The access key; generated when absent.
        #[arg(long)]
        access_key: Option<String>,
        /// The secret key; generated when absent.
        #[arg(long, env = "TENFOUR_USER_SECRET_KEY", hide_env_values = true)]
        secret_key: Option<String>,
        /// Which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// List the users.
    List {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Refuse a user's requests from now on.
    Disable {
        /// Its access key.
        access_key: String,
        /// Which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Take a user's requests again.
    Enable {
        /// Its access key.
        access_key: String,
        /// Which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// Remove a user; its buckets stay with the root user.
    Remove {
        /// Its access key.
        access_key: String,
        /// Which cluster.
        #[command(flatten)]
        which: Which,
    },
}

/// Does it.
pub async fn run(command: AdminCommand) -> Result<()> {
    match command {
        AdminCommand::User(command) => user(command).await,
        AdminCommand::Node(NodeCommand::Return { node, which }) => {
            let metadata = connect(&which.section()?).await?;
            let (node, state) = (NodeId(node), NodeState::Up);
            change(&metadata, ClusterCommand::SetNodeState { node, state }).await
        }
        AdminCommand::LayGroups { which, count } => {
            let metadata = connect(&which.section()?).await?;
            change(&metadata, ClusterCommand::BuildGroups { count }).await?;
            let map = metadata.refresh_map().await?;
            println!(
                "{} placement groups over {} targets of {} nodes",
                map.groups.len(),
                map.targets.len(),
                map.nodes.len()
            );
            Ok(())
        }
        AdminCommand::Verify { which, fabric } => verify(&which.section()?, fabric).await,
    }
}

async fn user(command: UserCommand) -> Result<()> {
    match command {
        UserCommand::Add { name, access_key, secret_key, which } => {
            let access_key = access_key
                .unwrap_or_else(|| format!("TF{}", generate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 18)));
            let secret_key = secret_key.unwrap_or_else(|| {
                generate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 40)
            });
            crate::up::root_credentials(Some(&access_key), Some(&secret_key))?;
            let metadata = connect(&which.section()?).await?;
            if metadata.refresh_config().await?.users.contains_key(&access_key) {
                bail!("there is a user with the access key {access_key} already");
            }
            let user = User { access_key, secret_key, display_name: name, enabled: true, root: false };
            change(&metadata, ClusterCommand::PutUser { user: user.clone() }).await?;
            println!(
                "user {}\n  access key  {}\n  secret key  {}",
                user.display_name, user.access_key, user.secret_key
            );
            Ok(())
        }
        UserCommand::List { which } => {
            let config = connect(&which.section()?).await?.refresh_config().await?;
            let owned =
                |key: &str| config.buckets.values().filter(|bucket| bucket.owner == key).count().to_string();
            let row = |user: &User| {
                let state = if user.enabled { "enabled" } else { "disabled" };
                vec![
                    user.display_name.clone(),
                    user.access_key.clone(),
                    state.to_owned(),
                    owned(&user.access_key),
                ]
            };
            table::print(
                &["user", "access key", "state", "buckets"],
                &config.users.values().map(row).collect::<Vec<_>>(),
            );
            Ok(())
        }
        UserCommand::Disable { access_key, which } => set_enabled(&which, &access_key, false).await,
        UserCommand::Enable { access_key, which } => set_enabled(&which, &access_key, true).await,
        UserCommand::Remove { access_key, which } => {
            let metadata = connect(&which.section()?).await?;
            if find(&metadata, &access_key).await?.root {
                bail!("the root user cannot be removed");
            }
            change(&metadata, ClusterCommand::RemoveUser { access_key }).await
        }
    }
}

async fn set_enabled(which: &Which, access_key: &str, enabled: bool) -> Result<()> {
    let metadata = connect(&which.section()?).await?;
    let user = User { enabled, ..find(&metadata, access_key).await? };
    if user.root && !enabled {
        bail!("the root user cannot be disabled");
    }
    change(&metadata, ClusterCommand::PutUser { user }).await
}

async fn find(metadata: &Metadata, access_key: &str) -> Result<User> {
    let config = metadata.refresh_config().await?;
    config.users.get(access_key).cloned().with_context(|| format!("no user has the access key {access_key}"))
}

async fn change(metadata: &Metadata, command: ClusterCommand) -> Result<()> {
    match metadata.cluster(command).await? {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("refused: {refusal}"),
    }
}

fn generate(alphabet: &[u8], length: usize) -> String {
    let mut random = rand::rng();
    (0..length)
        .filter_map(|_| alphabet.get(random.random_range(0..alphabet.len())).map(|byte| char::from(*byte)))
        .collect()
}

/// How many stripes have how many whole shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    /// All stripes.
    pub stripes: usize,
    /// Those of which all 14 shards are durable and whole.
    pub full: usize,
    /// The fewest whole shards of any stripe (14 when there are none).
    pub narrowest: usize,
}

/// Asks the nodes to read and verify every shard of these stripes.
pub async fn widths(gateway: &Gateway, rows: &[StripeRow]) -> Widths {
    let whole = gateway.verify(rows).await;
    Widths {
        stripes: rows.len(),
        full: whole.iter().filter(|whole| **whole == TOTAL_SHARDS).count(),
        narrowest: whole.iter().copied().min().unwrap_or(TOTAL_SHARDS),
    }
}

/// A gateway inside this process, which serves nobody: it can ask the nodes.
pub async fn silent_gateway(section: &ClusterSection, fabric: Fabric) -> Result<Gateway> {
    let config = GatewayConfig {
        fabric,
        pool_bytes: 64 << 20,
        ..GatewayConfig::new(section.cluster_id()?, section.cluster_key()?, section.metadata.clone())
    };
    Ok(Gateway::start(config).await?)
}

async fn verify(section: &ClusterSection, fabric: Fabric) -> Result<()> {
    let gateway = silent_gateway(section, fabric).await?;
    let rows = all_stripes(gateway.metadata()).await?;
    let widths = widths(&gateway, &rows).await;
    gateway.shutdown().await;
    println!(
        "{} stripes; {} with 14 whole shards; the narrowest has {}",
        widths.stripes, widths.full, widths.narrowest
    );
    if widths.full < widths.stripes {
        bail!("{} stripes are below full width", widths.stripes - widths.full);
    }
    Ok(())
}

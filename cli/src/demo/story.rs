//! The steps of the demo, and the line that each writes into the table.

use super::compare::{Content, List, Stored};
use super::{Amount, DemoArguments};
use crate::addresses::free_addresses;
use crate::admin::{Widths, silent_gateway, widths};
use crate::cluster::LocalCluster;
use crate::layout::Wishes;
use crate::stripes::all_stripes;
use crate::units::ByteSize;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tenfour_client::{Body, Pattern, S3};
use tenfour_gateway::Gateway;
use tenfour_types::{Scaled, StripeId, TimeScale};
use tokio::process::Command;

/// Nodes that die: as many as 10+4 survives.
const VICTIMS: usize = 4;
/// How long each wait of the story may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects written at the same time.
const CONCURRENCY: usize = 16;
/// Largest of the small objects, bytes.
const SMALL_BYTES_MAX: u64 = 64 << 10;
const BUCKET: &str = "demo";

/// Plays all of it; returns how many checks failed.
pub(super) async fn tell(arguments: &DemoArguments, seed: u64, folder: &Path) -> Result<usize> {
    let began = Instant::now();
    let mut story = Story::begin(arguments, seed, folder).await?;
    let outcome = story.play(arguments).await;
    if let Err(error) = &outcome {
        story.line("the story goes on to its end", false, format!("{error:#}"));
    }
    let Story { cluster, gateway, lines, .. } = story;
    gateway.shutdown().await;
    cluster.stop().await;
    println!();
    for line in &lines {
        println!("  {} {:<58} {}", if line.passed { '✔' } else { '✘' }, line.what, line.detail);
    }
    let failed = lines.iter().filter(|line| !line.passed).count();
    println!(
        "\n{} of {} checks passed in {:.0} s",
        lines.len() - failed,
        lines.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(failed)
}

struct Line {
    what: String,
    detail: String,
    passed: bool,
}

struct Story<'a> {
    cluster: LocalCluster,
    gateway: Gateway,
    list: List,
    folder: &'a Path,
    random: StdRng,
    lines: Vec<Line>,
}

impl<'a> Story<'a> {
    async fn begin(arguments: &DemoArguments, seed: u64, folder: &'a Path) -> Result<Self> {
        let began = Instant::now();
        let wishes = Wishes {
            s3: *free_addresses(1, &[])?.first().context("no free port")?,
            rdma: None,
            nodes: None,
            gateways: 1,
            region: None,
            fabric: arguments.fabric.clone(),
            etag: "md5".to_owned(),
            codec: "auto".to_owned(),
            credentials: None,
            segment: ByteSize::mib(32),
        };
        let address: SocketAddr = wishes.s3;
        println!("starting 3 metadata, 14 node and 1 gateway processes …");
        let cluster = LocalCluster::start(&folder.join("cluster"), wishes, false).await?;
        let gateway = silent_gateway(&cluster.layout.cluster_section(), arguments.fabric.fabric).await?;
        let keys = cluster.credentials().clone();
        let list = List {
            endpoint: format!("http://{address}"),
            region: cluster.layout.plan.region.clone(),
            bucket: BUCKET.to_owned(),
            access_key: keys.access_key,
            secret_key: keys.secret_key,
            objects: Vec::new(),
        };
        let mut story =
            Self { cluster, gateway, list, folder, random: StdRng::seed_from_u64(seed), lines: Vec::new() };
        let processes = story.cluster.pids().len();
        story.line(
            "a cluster runs",
            processes == 18,
            format!("{processes} processes, {:.1} s", began.elapsed().as_secs_f64()),
        );
        Ok(story)
    }

    async fn play(&mut self, arguments: &DemoArguments) -> Result<()> {
        self.cluster.wait_for_full_width(PATIENCE.scaled()).await?;
        self.list.client()?.create_bucket().await?;
        let amount = Amount::of(arguments);
        let objects = if arguments.files.is_empty() {
            self.made_up("before", amount.large.0, amount.small_objects)
        } else {
            from_files(&arguments.files)?
        };
        self.store("objects stored", objects.clone()).await?;
        let before = self.check_widths("every stripe has 14 durable shards", &BTreeSet::new()).await?;

        let victims = self.kill_nodes().await?;
        self.read_back("every byte read back with 4 nodes dead", &objects).await?;

        let during = self.made_up("during", amount.large.0 / 4, amount.small_objects / 10);
        self.store("new objects stored with 4 nodes dead", during.clone()).await?;
        self.check_widths("each new stripe has 14 durable shards", &before).await?;
        self.read_back("the new objects read back", &during).await?;

        for victim in victims {
            if let Some(node) = self.cluster.nodes.get(victim) {
                node.start().await;
                node.ready(PATIENCE.scaled()).await?;
            }
        }
        let began = Instant::now();
        let wide = self.cluster.wait_for_full_width(PATIENCE.scaled()).await;
        self.line(
            "the nodes return, all placement groups at full width",
            wide.is_ok(),
            format!("{:.1} s", began.elapsed().as_secs_f64()),
        );
        self.wait_for_nodes().await;
        self.check_widths("every stripe has 14 durable shards again", &BTreeSet::new()).await?;
        self.read_back("everything read back once more", &[objects, during].concat()).await
    }

    /// One large object and many small ones, between 1 byte and 64 KiB.
    fn made_up(&mut self, prefix: &str, large_bytes: u64, small_objects: u64) -> Vec<Stored> {
        let sizes =
            (0..small_objects).map(|_| self.random.random_range(1..=SMALL_BYTES_MAX)).collect::<Vec<_>>();
        let names = (0..small_objects).map(|number| format!("{prefix}/small/{number:04}"));
        let all = std::iter::once((format!("{prefix}/large"), large_bytes)).chain(names.zip(sizes));
        all.map(|(key, len)| Stored { key, content: Content::Pattern { seed: self.random.random(), len } })
            .collect()
    }

    async fn store(&mut self, what: &str, objects: Vec<Stored>) -> Result<()> {
        let began = Instant::now();
        let total = objects.iter().map(|object| object.content.bytes()).sum::<Result<u64>>()?;
        let bar = progress("storing", objects.len() as u64);
        let client = self.list.client()?;
        let mut waiting = tokio::task::JoinSet::new();
        for object in objects.clone() {
            if waiting.len() >= CONCURRENCY {
                waiting.join_next().await.transpose()?.transpose()?;
                bar.inc(1);
            }
            let client = client.clone();
            waiting.spawn(async move {
                put(&client, &object).await.with_context(|| format!("object {:?}", object.key))
            });
        }
        while let Some(done) = waiting.join_next().await {
            done??;
            bar.inc(1);
        }
        bar.finish_and_clear();
        let seconds = began.elapsed().as_secs_f64();
        let detail = format!(
            "{} objects, {}, {:.0} MB/s",
            objects.len(),
            ByteSize(total),
            total as f64 / 1e6 / seconds
        );
        self.list.objects.extend(objects);
        self.line(what, true, detail);
        Ok(())
    }

    /// Asks the nodes to read every shard of the stripes that are not in `known`; returns all ids.
    async fn check_widths(&mut self, what: &str, known: &BTreeSet<StripeId>) -> Result<BTreeSet<StripeId>> {
        let mut rows = all_stripes(self.cluster.metadata()).await?;
        rows.retain(|row| !known.contains(&row.id));
        let Widths { stripes, full, narrowest } = widths(&self.gateway, &rows).await;
        let passed = stripes > 0 && full == stripes;
        self.line(what, passed, format!("{full} of {stripes} stripes; the narrowest has {narrowest} shards"));
        Ok(rows.iter().map(|row| row.id).collect())
    }

    /// Waits until the nodes that returned answer this process as well.
    async fn wait_for_nodes(&self) {
        let end = Instant::now() + PATIENCE.scaled();
        while self.gateway.connected_nodes() < self.cluster.nodes.len() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn kill_nodes(&mut self) -> Result<Vec<usize>> {
        let mut all: Vec<usize> = (0..self.cluster.nodes.len()).collect();
        all.shuffle(&mut self.random);
        all.truncate(VICTIMS);
        let mut dead = Vec::new();
        for victim in &all {
            let Some(node) = self.cluster.nodes.get(*victim) else { continue };
            let pid = node.pid().with_context(|| format!("{} does not run", node.name))?;
            node.kill().await;
            if Path::new(&format!("/proc/{pid}")).exists() {
                bail!("{} (process {pid}) is still there after SIGKILL", node.name);
            }
            dead.push(format!("{} ({pid})", node.name));
        }
        let detail = format!("dead: {}", dead.join(", "));
        self.line("4 of 14 nodes killed by SIGKILL", dead.len() == VICTIMS, detail);
        Ok(all)
    }

    /// Drops the page cache and lets another process read and compare.
    async fn read_back(&mut self, what: &str, objects: &[Stored]) -> Result<()> {
        let list = List { objects: objects.to_vec(), ..self.list.clone() };
        let path = self.folder.join("list.json");
        crate::config::write_private_text(&path, &serde_json::to_string(&list)?)?;
        let dropped = drop_caches();
        let began = Instant::now();
        let bar =
            ProgressBar::new_spinner().with_message("reading back and comparing, in a process of its own …");
        bar.enable_steady_tick(Duration::from_millis(100));
        let output = Command::new(std::env::current_exe()?)
            .arg("demo-compare")
            .arg("--list")
            .arg(&path)
            .args(["--timeout-scale", &TimeScale::of_process().to_string()])
            .output()
            .await?;
        bar.finish_and_clear();
        let total = objects.iter().map(|object| object.content.bytes()).sum::<Result<u64>>()?;
        let seconds = began.elapsed().as_secs_f64();
        let told = if output.status.success() { &output.stdout } else { &output.stderr };
        let told = String::from_utf8_lossy(told);
        let detail = format!(
            "{}, {}, {:.0} MB/s, {dropped}",
            told.trim(),
            ByteSize(total),
            total as f64 / 1e6 / seconds
        );
        self.line(what, output.status.success(), detail);
        Ok(())
    }

    fn line(&mut self, what: &str, passed: bool, detail: String) {
        println!("{} {what}: {detail}", if passed { '✔' } else { '✘' });
        self.lines.push(Line { what: what.to_owned(), detail, passed });
    }
}

fn from_files(files: &[std::path::PathBuf]) -> Result<Vec<Stored>> {
    let stored = |(number, path): (usize, &std::path::PathBuf)| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Stored { key: format!("files/{number}/{name}"), content: Content::File(path.canonicalize()?) })
    };
    files.iter().enumerate().map(stored).collect()
}

async fn put(client: &S3, object: &Stored) -> Result<()> {
    let body = match &object.content {
        Content::Pattern { seed, len } => Body::from(Pattern::new(*seed, *len)),
        Content::File(path) => Body::file(path)?,
    };
    client.put(&object.key, body).await?;
    Ok(())
}

fn progress(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {elapsed}");
    ProgressBar::new(length)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what)
}

/// Asks the kernel to forget what it has read; only root may.
fn drop_caches() -> &'static str {
    rustix::fs::sync();
    match std::fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => "page cache dropped",
        Err(_) => "page cache kept (only root may drop it)",
    }
}

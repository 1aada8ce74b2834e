//! Measures the fabric on this machine: `cargo run --release -p tenfour-rdma --example ping_pong -- [shm|tcp] [spin-µs]`.
//!
//! Two processes. *Ping-pong*: each answers a WRITE with immediate data by another; half a round is one way. *Fan-out*: one
//! end writes 1 MiB shards to fourteen connections and waits for a message from each, as a PUT does. Prints the median, the
//! 99th percentile, and the CPU time of both processes together for each operation. With `TOKIO_WORKER_THREADS` set, both
//! processes run tokio's multi-threaded scheduler instead of the single-threaded one.

use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tenfour_rdma::{
    ClusterKey, ConnectOptions, Connection, Domain, DomainConfig, Endpoint, Grant, Open, Provider, Received,
    Remote,
};

const ROUNDS: usize = 20_000;
const FAN_OUTS: usize = 200;
const WIDTH: usize = 14;
const HOUR: Duration = Duration::from_secs(3600);

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let provider: Provider = arguments.get(1).map_or("shm", String::as_str).parse()?;
    let spin: u64 = arguments.get(2).map_or(Ok(0), |text| text.parse())?;
    let mut builder = match std::env::var_os("TOKIO_WORKER_THREADS") {
        Some(_) => tokio::runtime::Builder::new_multi_thread(),
        None => tokio::runtime::Builder::new_current_thread(),
    };
    let at: Option<Endpoint> = arguments.get(3).map(|text| text.parse()).transpose()?;
    builder.enable_all().build()?.block_on(async move {
        match at {
            Some(at) => tokio::spawn(async move { echo(provider, spin, &at).await }).await?,
            None => tokio::spawn(measure(provider, spin)).await?,
        }
    })
}

fn domain(provider: Provider, spin: u64) -> Outcome<Domain> {
    let mut config = DomainConfig::new(provider, "ping-pong", ClusterKey::from_bytes([1; 32]), 64 << 20);
    config.tunables.spin = Duration::from_micros(spin);
    Ok(Domain::open(config)?)
}

fn encode(remote: Remote) -> Vec<u8> {
    [&remote.address.to_le_bytes()[..], &remote.key.to_le_bytes(), &remote.bytes.to_le_bytes()].concat()
}

fn decode(bytes: &[u8]) -> Option<Remote> {
    let (address, rest) = bytes.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk()?;
    let bytes = u32::from_le_bytes(*rest.first_chunk()?);
    Some(Remote { address: u64::from_le_bytes(*address), bytes, key: u64::from_le_bytes(*key) })
}

/// Tells the peer of a grant and learns of one of its.
async fn exchange(domain: &Domain, connection: &Connection, bytes: usize) -> Outcome<(Grant<Open>, Remote)> {
    let grant = connection.grant_write(domain.pool().lease(bytes).await?, 0..bytes, HOUR)?;
    connection.send(encode(grant.remote()).into()).await?;
    let Received::Message(message) = connection.recv().await? else { return Err("no grant".into()) };
    Ok((grant, decode(&message).ok_or("malformed grant")?))
}

/// The other process: answers each immediate by another, or by a message when it was a shard.
async fn echo(provider: Provider, spin: u64, at: &Endpoint) -> Outcome<()> {
    let domain = domain(provider, spin)?;
    let mut tasks = Vec::new();
    for _ in 0..=WIDTH {
        let connection = domain.connect(at, ConnectOptions::default()).await?;
        let bytes = 1 << 20;
        let (grant, to) = exchange(&domain, &connection, bytes).await?;
        let mut page = domain.pool().lease(4096).await?;
        page.fill(1);
        let page = page.freeze();
        tasks.push(tokio::spawn(async move {
            let _grant = grant;
            while let Ok(Received::Immediate { value, bytes }) = connection.recv().await {
                let answered = if bytes == 4096 {
                    connection.post_write(page.clone(), to, Some(value)).await.map(drop)
                } else {
                    connection.post_send(bytes::Bytes::from_static(b"stored")).await.map(drop)
                };
                if answered.is_err() {
                    break;
                }
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    Ok(())
}

async fn measure(provider: Provider, spin: u64) -> Outcome<()> {
    let folder = std::env::temp_dir().join(format!("tenfour-ping-pong-{}", std::process::id()));
    let at = match provider {
        Provider::Shm => Endpoint::Shm(folder),
        Provider::Tcp => "tcp:127.0.0.1:0".parse()?,
        Provider::Verbs => "verbs:10.77.0.1:0".parse()?,
    };
    let domain = domain(provider, spin)?;
    let mut listener = domain.listen(&at).await?;
    let mut child = Command::new(std::env::current_exe()?)
        .args([provider.to_string(), spin.to_string(), listener.local_endpoint().to_string()])
        .spawn()?;
    let mut peers = Vec::new();
    for _ in 0..=WIDTH {
        let connection = listener.accept().await?.accept(Vec::new()).await?;
        let (grant, to) = exchange(&domain, &connection, 4096).await?;
        peers.push((connection, grant, to));
    }

    let mut page = domain.pool().lease(4096).await?;
    page.fill(2);
    let page = page.freeze();
    let (connection, _, to) = peers.first().ok_or("no connection")?;
    let cpu = cpu_of_both(&child)?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for value in 0..ROUNDS as u32 {
        let started = Instant::now();
        let posted = connection.post_write(page.clone(), *to, Some(value)).await?;
        connection.recv().await?;
        rounds.push(started.elapsed() / 2);
        drop(posted);
    }
    report(&format!("{provider} WRITE 4 KiB with immediate, one way"), rounds, 2, cpu_of_both(&child)? - cpu);

    let mut stripe = domain.pool().lease(WIDTH << 20).await?;
    stripe.fill(3);
    let stripe = stripe.freeze();
    let cpu = cpu_of_both(&child)?;
    let mut rounds = Vec::with_capacity(FAN_OUTS);
    for _ in 0..FAN_OUTS {
        let started = Instant::now();
        let mut posted = Vec::with_capacity(WIDTH);
        for (i, (connection, _, to)) in peers.iter().skip(1).enumerate() {
            let shard = stripe.slice(i << 20..(i + 1) << 20).ok_or("no such shard")?;
            posted.push(connection.post_write(shard, *to, Some(0)).await?);
        }
        for (connection, _, _) in peers.iter().skip(1) {
            connection.recv().await?;
        }
        rounds.push(started.elapsed());
    }
    report(
        &format!("{provider} fan-out of 14 x 1 MiB and 14 answers"),
        rounds,
        1,
        cpu_of_both(&child)? - cpu,
    );

    drop(peers);
    child.wait()?;
    Ok(())
}

/// User and system time of this process and the other.
fn cpu_of_both(child: &Child) -> Outcome<Duration> {
    let mut ticks = 0u64;
    for pid in [std::process::id(), child.id()] {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("malformed stat")?;
        ticks += fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum::<u64>();
    }
    Ok(Duration::from_millis(ticks * 10))
}

fn report(what: &str, mut samples: Vec<Duration>, operations: u32, cpu: Duration) {
    samples.sort_unstable();
    let at = |part: usize| samples.get(samples.len() * part / 100).copied().unwrap_or_default();
    let each = cpu / operations / samples.len() as u32;
    println!("{what}: p50 {:.1?}, p99 {:.1?}, CPU of both ends {each:.1?} each", at(50), at(99));
}

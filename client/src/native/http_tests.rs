//! Answers that no gateway gives: late, cut off, and from something that stands between.

use super::super::{Client, ClientConfig, Error, GetOptions, Precondition, PutOptions};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ANSWER_DEADLINE: Duration = Duration::from_millis(300);
const STORED: &str = "HTTP/1.1 200 OK\r\netag: \"00000000000000000000000000000000\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const FAILED: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Answers the request of every connection with the same, after a while; and then says nothing more.
async fn server(answer: &'static str, after: Duration) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut told = vec![0; 1 << 16];
                let read = stream.read(&mut told).await.unwrap_or(0);
                tokio::time::sleep(after).await;
                if read > 0 && stream.write_all(answer.as_bytes()).await.is_ok() {
                    while stream.read(&mut told).await.is_ok_and(|read| read > 0) {}
                }
            });
        }
    });
    client(&format!("http://{at}")).await
}

async fn client(url: &str) -> Client {
    let mut config = ClientConfig::new("user", "secret");
    config.fallback_http = Some(url.to_owned());
    config.answer_deadline = ANSWER_DEADLINE;
    config.retry.attempts_max = 2;
    config.retry.pause = Duration::from_millis(1);
    Client::connect(config).await.unwrap()
}

async fn put(client: &Client, bytes: usize) -> Result<(), Error> {
    let body = client.buffer(bytes).await.unwrap().freeze();
    client.put_object("bucket", "key", &body, &PutOptions::default()).await.map(drop)
}

async fn head(client: &Client) -> Result<(), Error> {
    client.head_object("bucket", "key", &GetOptions::default()).await.map(drop)
}

#[tokio::test]
async fn what_moves_bytes_has_the_time_for_them_and_nothing_else_has() {
    let late = server(STORED, 3 * ANSWER_DEADLINE).await;
    let begun = Instant::now();
    put(&late, 1 << 20).await.unwrap();
    assert!(begun.elapsed() > 2 * ANSWER_DEADLINE);
    let small = put(&late, 100).await;
    assert!(matches!(small, Err(Error::OutcomeUnknown)), "{small:?}");
    let read = head(&late).await;
    assert!(matches!(read, Err(Error::Broken)), "{read:?}");
}

#[tokio::test]
async fn nobody_heard_of_what_found_no_connection() {
    // A port that was somebody's a moment ago.
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nowhere = client(&format!("http://{at}")).await;
    for result in [put(&nowhere, 100).await, head(&nowhere).await] {
        assert!(matches!(result, Err(Error::Broken)), "{result:?}");
    }
}

#[tokio::test]
async fn a_failure_on_the_way_leaves_the_outcome_of_a_change_unknown_and_of_nothing_else() {
    let failing = server(FAILED, Duration::ZERO).await;
    let stored = put(&failing, 100).await;
    assert!(matches!(stored, Err(Error::OutcomeUnknown)), "{stored:?}");
    let removed = failing.delete_object("bucket", "key", &Precondition::None).await;
    assert!(matches!(removed, Err(Error::OutcomeUnknown)), "{removed:?}");
    let read = head(&failing).await.unwrap_err();
    assert_eq!((read.code(), read.is_retryable()), (Some("InternalError"), true));
}

#[tokio::test]
async fn an_answer_to_another_range_is_none() {
    const WHOLE: &str = "HTTP/1.1 200 OK\r\netag: \"00000000000000000000000000000000\"\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc";
    let client = server(WHOLE, Duration::ZERO).await;
    let into = client.buffer(3).await.unwrap();
    let options = GetOptions { range: super::Range::From(1, Some(2)), ..GetOptions::default() };
    let (_, got) = client.get_object("bucket", "key", into, &options).await;
    assert!(matches!(got, Err(Error::Untrusted(_))), "{got:?}");
}

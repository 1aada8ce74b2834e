//! The table alone, where every interleaving can be had exactly.

use super::*;
use crate::memory::Pool;
use proptest::prelude::*;

const LONG: Duration = Duration::from_secs(60);

fn granted(range: Range<usize>) -> (Pool, Arc<GrantTable>, Grant<Open>) {
    let pool = Pool::create("test", 1 << 16).unwrap();
    let table = Arc::new(GrantTable::default());
    let grant = grant_write(&table, pool.try_lease(4096).unwrap(), range, LONG, random_key).unwrap();
    (pool, table, grant)
}

#[tokio::test]
async fn sealing_waits_for_the_write_in_progress_and_stops_the_next() {
    let (_pool, table, grant) = granted(100..200);
    let remote = grant.remote();
    let mut landing = table.begin_write(remote.key, remote.address, remote.bytes).unwrap();
    landing.bytes().fill(7);
    let mut seal = Box::pin(grant.seal());
    assert!(tokio::time::timeout(Duration::from_millis(10), &mut seal).await.is_err());
    assert!(!landing.is_open());
    assert!(table.begin_write(remote.key, remote.address, 1).is_err());
    drop(landing);
    let sealed = seal.await;
    assert_eq!(&sealed[..], &[7; 100]);
    assert_eq!(sealed.into_buffer().len(), 4096);
}

#[tokio::test]
async fn dropped_while_in_use_the_memory_stays_in_quarantine() {
    let (pool, table, grant) = granted(0..4096);
    let remote = grant.remote();
    let landing = table.begin_write(remote.key, remote.address, remote.bytes).unwrap();
    drop(grant);
    assert_eq!(pool.free_bytes(), pool.capacity_bytes() - 4096, "an operation can still touch it");
    assert!(!landing.is_open());
    drop(landing);
    assert_eq!(pool.free_bytes(), pool.capacity_bytes());
    assert!(table.begin_write(remote.key, remote.address, 1).is_err());
}

#[tokio::test]
async fn a_sealer_that_stops_waiting_leaks_nothing() {
    let (pool, table, grant) = granted(0..4096);
    let remote = grant.remote();
    let landing = table.begin_write(remote.key, remote.address, 1).unwrap();
    {
        let seal = grant.seal();
        assert!(tokio::time::timeout(Duration::from_millis(5), seal).await.is_err());
    }
    drop(landing);
    assert_eq!(pool.free_bytes(), pool.capacity_bytes());
}

#[tokio::test]
async fn a_closed_table_refuses_but_gives_the_memory_back() {
    let (pool, table, grant) = granted(0..10);
    let remote = grant.remote();
    table.close();
    assert_eq!(table.begin_write(remote.key, remote.address, 1).err(), Some(OperationError::Flushed));
    let refused = grant_write(&table, pool.try_lease(1).unwrap(), 0..1, LONG, random_key).err().unwrap();
    assert_eq!(
        (refused.error, refused.buffer.len()),
        (GrantError::Disconnected, 1),
        "what is not granted comes back"
    );
    drop(refused);
    assert_eq!(grant.seal().await.into_buffer().len(), 4096);
    assert_eq!(pool.free_bytes(), pool.capacity_bytes());
}

#[test]
fn grants_are_capped_and_ranges_checked() {
    let pool = Pool::create("test", 1 << 16).unwrap();
    let table = Arc::new(GrantTable::default());
    let source = pool.try_lease(4096).unwrap().freeze();
    let outside = Range { start: 5, end: 4 };
    for range in [0..4097, 4097..4097, outside, usize::MAX..usize::MAX] {
        assert_eq!(grant_read(&table, &source, range, LONG, random_key).err(), Some(GrantError::OutOfRange));
    }
    let held: Vec<_> =
        (0..GRANTS_MAX).map(|_| grant_read(&table, &source, 0..1, LONG, random_key).unwrap()).collect();
    assert_eq!(grant_read(&table, &source, 0..1, LONG, random_key).err(), Some(GrantError::TooMany));
    let mut buffer = pool.try_lease(100).unwrap();
    buffer.fill(7);
    let refused = grant_write(&table, buffer, 0..100, LONG, random_key).err().unwrap();
    assert_eq!((refused.error, &refused.buffer[..]), (GrantError::TooMany, &[7; 100][..]));
    let refused = grant_write(&table, refused.buffer, 0..101, LONG, random_key).err().unwrap();
    assert_eq!((refused.error, &refused.buffer[..]), (GrantError::OutOfRange, &[7; 100][..]));
    drop(held);
    assert!(grant_read(&table, &source, 0..1, LONG, random_key).is_ok());
}

proptest! {
    /// Exactly the accesses inside the range succeed, with the one right, and they name the right bytes.
    #[test]
    fn bounds_are_exact(start in 0usize..4096, length in 0usize..4096, offset in -4200i64..4200, bytes in 0u32..4200) {
        let end = (start + length).min(4096);
        let (_pool, table, grant) = granted(start..end);
        let remote = grant.remote();
        let address = remote.address.wrapping_add_signed(offset);
        let inside = offset >= 0 && offset + i64::from(bytes) <= (end - start) as i64;
        let landing = table.begin_write(remote.key, address, bytes);
        prop_assert_eq!(landing.is_ok(), inside);
        if let Ok(mut landing) = landing {
            prop_assert_eq!(landing.range.clone(), start + offset as usize..start + offset as usize + bytes as usize);
            prop_assert_eq!(landing.bytes().len(), bytes as usize);
        }
        prop_assert!(table.begin_read(remote.key, address, bytes).is_err());
        prop_assert!(table.begin_write(remote.key ^ 1, remote.address, 1).is_err());
    }
}

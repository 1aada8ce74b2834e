//! One operation of `tenfour bench fabric`, done one at a time or with many outstanding.

use super::peer::{ASK, PING, QUIET, decode};
use super::{ByteSize, Course};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use std::collections::VecDeque;
use tenfour_rdma::{Buffer, Completion, Connection, Domain, Frozen, MESSAGE_BYTES_MAX, Received, Remote};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A WRITE and its completion.
    Write,
    /// A WRITE with immediate, answered by one.
    WriteWithImmediate,
    /// A READ and its completion.
    Read,
    /// A message, answered by one.
    Send,
    /// Asking for a grant, filling it, and hearing that it was sealed.
    Grant,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Write, Self::WriteWithImmediate, Self::Read, Self::Send, Self::Grant];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Write => "WRITE",
            Self::WriteWithImmediate => "WRITE+imm",
            Self::Read => "READ",
            Self::Send => "SEND",
            Self::Grant => "grant",
        }
    }

    /// Operations one after the other of which one sample is made: two of a ping-pong.
    pub(super) fn per_sample(self) -> u64 {
        match self {
            Self::WriteWithImmediate | Self::Send => 2,
            Self::Write | Self::Read | Self::Grant => 1,
        }
    }

    pub(super) fn has_rate(self) -> bool {
        matches!(self, Self::Write | Self::Read | Self::Send)
    }

    pub(super) fn fits(self, size: ByteSize) -> bool {
        self != Self::Send || size.0 <= MESSAGE_BYTES_MAX as u64
    }
}

/// One operation at one size, with what it needs.
pub(super) struct Step {
    kind: Kind,
    depth: usize,
    connection: Connection,
    source: Frozen,
    to: Remote,
    from: Remote,
    ping: Bytes,
    quiet: Bytes,
    ask: Bytes,
    buffers: Vec<Buffer>,
    posted: VecDeque<Completion<()>>,
    reading: VecDeque<Completion<Buffer>>,
}

impl Step {
    pub(super) async fn new(
        kind: Kind,
        size: ByteSize,
        course: &Course,
        domain: &Domain,
        connection: &Connection,
        source: &Frozen,
        (to, from): (Remote, Remote),
    ) -> Result<Self> {
        let mut buffers = Vec::new();
        while kind == Kind::Read && buffers.len() < course.depth {
            buffers.push(domain.pool().lease(size.as_usize()).await?);
        }
        let message = |kind: u8| {
            let mut message = vec![0; size.as_usize().clamp(1, MESSAGE_BYTES_MAX)];
            message.iter_mut().take(1).for_each(|first| *first = kind);
            Bytes::from(message)
        };
        Ok(Self {
            kind,
            depth: course.depth,
            connection: connection.clone(),
            source: source.slice(0..size.as_usize()).context("a size out of bounds")?,
            to,
            from: from.sub(0, size.0 as u32).context("a size out of bounds")?,
            ping: message(PING),
            quiet: message(QUIET),
            ask: [&[ASK][..], &(size.0 as u32).to_le_bytes()].concat().into(),
            buffers,
            posted: VecDeque::new(),
            reading: VecDeque::new(),
        })
    }

    /// One, to its end.
    pub(super) async fn one(&mut self) -> Result<()> {
        let connection = &self.connection;
        match self.kind {
            Kind::Write => connection.write(self.source.clone(), self.to, None).await?,
            Kind::WriteWithImmediate => {
                let posted = connection.post_write(self.source.clone(), self.to, Some(7)).await?;
                connection.recv().await?;
                drop(posted);
            }
            Kind::Read => {
                let buffer = self.buffers.pop().context("no buffer")?;
                self.buffers.push(connection.read(buffer, self.from).await?);
            }
            Kind::Send => {
                let posted = connection.post_send(self.ping.clone()).await?;
                connection.recv().await?;
                drop(posted);
            }
            Kind::Grant => self.grant().await?,
        }
        Ok(())
    }

    async fn grant(&self) -> Result<()> {
        let asked = self.connection.post_send(self.ask.clone()).await?;
        let Received::Message(grant) = self.connection.recv().await? else { bail!("no grant") };
        let to = decode(&grant).context("a malformed grant")?;
        let written = self.connection.post_write(self.source.clone(), to, Some(9)).await?;
        let done = self.connection.recv().await?;
        drop((asked, written));
        match done {
            Received::Message(done) if &done[..] == b"done" => Ok(()),
            _ => bail!("not sealed"),
        }
    }

    /// One more, when fewer than the depth are outstanding.
    pub(super) async fn post(&mut self) -> Result<()> {
        if self.kind == Kind::Read {
            let buffer = match self.buffers.pop() {
                Some(buffer) => buffer,
                None => self.reading.pop_front().context("no buffer")?.await?,
            };
            self.reading.push_back(self.connection.post_read(buffer, self.from).await?);
            return Ok(());
        }
        if self.posted.len() >= self.depth
            && let Some(oldest) = self.posted.pop_front()
        {
            oldest.await?;
        }
        let posted = match self.kind {
            Kind::Send => self.connection.post_send(self.quiet.clone()).await?,
            _ => self.connection.post_write(self.source.clone(), self.to, None).await?,
        };
        self.posted.push_back(posted);
        Ok(())
    }

    /// Until nothing is outstanding.
    pub(super) async fn settle(&mut self) -> Result<()> {
        while let Some(oldest) = self.posted.pop_front() {
            oldest.await?;
        }
        while let Some(oldest) = self.reading.pop_front() {
            self.buffers.push(oldest.await?);
        }
        Ok(())
    }
}

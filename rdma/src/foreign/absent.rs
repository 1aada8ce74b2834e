//! Builds without the feature `verbs`: the same names, of which no value can exist.

use super::{Admits, Arrival, ForeignConfig, ForeignError, PairAddress, Place};
use crate::{Buffer, Frozen, OpenError, OperationError, Pool, Provider};
use std::convert::Infallible;
use std::marker::PhantomData;

/// See the module. No value of it exists in this build.
#[derive(Debug, Clone)]
pub struct ForeignDomain(Infallible);

/// See the module. No value of it exists in this build.
#[derive(Debug, Clone)]
pub struct ForeignPair(Infallible);

/// See the module. No value of it exists in this build.
#[derive(Debug)]
pub struct Exposed<M>(Infallible, PhantomData<M>);

/// See the module. No value of it exists in this build.
#[derive(Debug)]
pub struct ForeignCompletion<T>(Infallible, PhantomData<T>);

impl ForeignDomain {
    /// Says why there is none.
    pub fn open(_: ForeignConfig) -> Result<Self, OpenError> {
        Provider::Verbs.available()?;
        Err(OpenError::NoProvider)
    }

    /// Its memory.
    pub fn pool(&self) -> &Pool {
        match self.0 {}
    }

    /// A queue pair.
    pub fn queue_pair(&self, _: Admits, _: Option<&[u8; 16]>) -> Result<ForeignPair, ForeignError> {
        match self.0 {}
    }
}

impl ForeignPair {
    /// This end.
    pub fn local(&self) -> PairAddress {
        match self.0 {}
    }

    /// Connects it.
    pub async fn connect(&self, _: PairAddress) -> Result<(), ForeignError> {
        match self.0 {}
    }

    /// Posts a READ.
    pub async fn post_read(
        &self,
        _: Buffer,
        _: usize,
        _: Place,
    ) -> Result<ForeignCompletion<Buffer>, OperationError> {
        match self.0 {}
    }

    /// Posts a WRITE.
    pub async fn post_write(
        &self,
        _: Frozen,
        _: Place,
        _: Option<u32>,
    ) -> Result<ForeignCompletion<()>, OperationError> {
        match self.0 {}
    }

    /// Readies a receive.
    pub fn post_receive(&self) -> Result<(), OperationError> {
        match self.0 {}
    }

    /// Waits for an arrival.
    pub async fn arrival(&self) -> Result<Arrival, OperationError> {
        match self.0 {}
    }

    /// Opens memory to writes.
    pub fn expose_to_write(&self, _: Buffer) -> Result<Exposed<Buffer>, ForeignError> {
        match self.0 {}
    }

    /// Opens memory to reads.
    pub fn expose_to_read(&self, _: Frozen) -> Result<Exposed<Frozen>, ForeignError> {
        match self.0 {}
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        match self.0 {}
    }

    /// Ends it.
    pub fn close(&self) {
        match self.0 {}
    }
}

impl<M> Exposed<M> {
    /// Where it is.
    pub fn place(&self) -> Place {
        match self.0 {}
    }

    /// Closes it.
    pub fn end(self) -> Option<M> {
        match self.0 {}
    }
}

impl<T> ForeignCompletion<T> {
    /// Waits for it.
    pub async fn done(self) -> Result<T, OperationError> {
        match self.0 {}
    }
}

//! Reading an object on conditions, for every front.
//!
//! Conditions are judged before the range, as RFC 9110 (section 13.2.2) has it: what was not modified is told so, whatever
//! range is asked for.

use super::conditions::{Conditions, IfRange, Verdict};
use super::requester::Wants;
use super::{Backend, OpError};
use crate::transfer::{ReadError, Reading, Wanted};
use std::sync::Arc;
use tenfour_types::{Manifest, ObjectKey};

/// What is asked for, and on which conditions.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Which bytes.
    pub wanted: Wanted,
    /// What must hold of the object.
    pub conditions: Conditions,
    /// What the range is bound to.
    pub if_range: Option<IfRange>,
}

/// What became of it.
pub enum Opened<B> {
    /// The object, and what of it is wanted, now that `If-Range` was judged.
    Reading(Wanted, Reading<B>),
    /// The client has it already.
    NotModified(Arc<Manifest>),
}

impl Asked {
    /// Opens an object to read its bytes.
    pub async fn get<B: Backend>(
        &self,
        backend: &B,
        wants: &Wants,
        key: &ObjectKey,
    ) -> Result<Opened<B::Body>, OpError> {
        self.open(backend, wants, key, (self.wanted, Wanted::All)).await
    }

    /// Opens it to know of it. Only a part's place must be asked of the pipeline.
    pub async fn head<B: Backend>(
        &self,
        backend: &B,
        wants: &Wants,
        key: &ObjectKey,
    ) -> Result<Opened<B::Body>, OpError> {
        let ask = if matches!(self.wanted, Wanted::Part(_)) { self.wanted } else { Wanted::Head };
        self.open(backend, wants, key, (ask, Wanted::Head)).await
    }

    /// Asks the pipeline for the first of `ask`, or, when the range does not count, for the second.
    async fn open<B: Backend>(
        &self,
        backend: &B,
        wants: &Wants,
        key: &ObjectKey,
        ask: (Wanted, Wanted),
    ) -> Result<Opened<B::Body>, OpError> {
        match backend.get(wants, key, ask.0).await {
            Ok(reading) => {
                if self.is_known(&reading.manifest)? {
                    return Ok(Opened::NotModified(reading.manifest));
                }
                if self.has_range(&reading.manifest) {
                    return Ok(Opened::Reading(self.wanted, reading));
                }
            }
            Err(error @ (ReadError::Range { .. } | ReadError::NoSuchPart)) => {
                let known = backend.get(wants, key, Wanted::Head).await?;
                if self.is_known(&known.manifest)? {
                    return Ok(Opened::NotModified(known.manifest));
                }
                if self.has_range(&known.manifest) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        let reading = backend.get(wants, key, ask.1).await?;
        if self.is_known(&reading.manifest)? {
            return Ok(Opened::NotModified(reading.manifest));
        }
        Ok(Opened::Reading(Wanted::All, reading))
    }

    /// The range is as asked for: `If-Range`, if it is there, names this object.
    fn has_range(&self, manifest: &Manifest) -> bool {
        self.if_range.as_ref().is_none_or(|known| known.holds(manifest))
    }

    fn is_known(&self, manifest: &Manifest) -> Result<bool, OpError> {
        match self.conditions.judge(manifest) {
            Verdict::Holds => Ok(false),
            Verdict::NotModified => Ok(true),
            Verdict::Failed => Err(OpError::PreconditionFailed),
        }
    }
}

//! Listings, as they stream in.

use super::config::ListOptions;
use super::error::{Error, Failure};
use super::link::{Event, Held, Link};
use super::objects::{Served, request, unexpected};
use super::retry::{Again, Tries};
use super::{Client, Route};
use std::sync::Arc;
use tenfour_types::native::{Answer, Entry, LIST_WINDOW_MAX, Operation, ToGateway};

/// A listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Keys and common prefixes, in order.
    pub entries: Vec<Entry>,
    /// Where to go on (`From::Token`), when there is more.
    pub next: Option<String>,
    /// What carried it.
    pub served: Served,
}

impl Client {
    /// Lists keys, and holds them in memory: bound `most`, or use [`Client::list_each`].
    pub async fn list(&self, bucket: &str, options: &ListOptions) -> Result<Listed, Error> {
        let mut tries = Tries::new(self, Again::Reads);
        let call = async |route: Route<'_>| {
            let mut entries = Vec::new();
            let take = &mut |more: Vec<Entry>| entries.extend(more);
            let (next, served) = match route {
                Route::Http(http) => http.list(bucket, options, take).await?,
                Route::Rdma(link) => self.list_over(&link, bucket, options, take).await?,
            };
            Ok(Listed { entries, next, served })
        };
        self.again(&mut tries, call).await
    }

    /// Lists keys, handing them on as they come; the gateway waits for `take`. Not tried again once the first came. Returns where to go
    /// on, when there is more.
    pub async fn list_each(
        &self,
        bucket: &str,
        options: &ListOptions,
        take: &mut (dyn FnMut(Vec<Entry>) + Send),
    ) -> Result<Option<String>, Error> {
        let listed = match self.route().await? {
            Route::Http(http) => http.list(bucket, options, take).await,
            Route::Rdma(link) => self.list_over(&link, bucket, options, take).await,
        };
        Ok(listed?.0)
    }

    async fn list_over(
        &self,
        link: &Arc<Link>,
        bucket: &str,
        options: &ListOptions,
        take: &mut (dyn FnMut(Vec<Entry>) + Send),
    ) -> Result<(Option<String>, Served), Failure> {
        let operation = Operation::List {
            prefix: options.prefix.clone(),
            delimiter: options.delimiter.clone(),
            from: options.from.clone(),
            most: options.most,
            window: LIST_WINDOW_MAX,
        };
        let mut call = link.begin(Held::default()).await?;
        call.send(request(bucket, "", operation)).await?;
        let (mut count, mut taken) = (0, 0);
        loop {
            match call.next(self.config().answer_deadline).await {
                Event::Entries(entries) => {
                    count += entries.len() as u64;
                    take(entries);
                    taken += 1;
                    if taken == LIST_WINDOW_MAX / 2 {
                        let more = ToGateway::MoreEntries { id: call.id, messages: taken };
                        call.follow(&more).await.map_err(|_| Failure::broken(false))?;
                        taken = 0;
                    }
                }
                Event::Reply(reply) => {
                    let served = Served { carrier: link.carrier().to_owned(), fabric: reply.fabric };
                    return match reply.result? {
                        Answer::Listed { entries, next } if entries == count => Ok((next, served)),
                        _ => Err(unexpected()),
                    };
                }
                Event::Broken(_) => return Err(Failure::broken(false)),
                Event::WriteHere(..) => return Err(unexpected()),
            }
        }
    }
}

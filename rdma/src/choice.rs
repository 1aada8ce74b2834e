//! What an operator asks for: one provider by name, or the best that both ends can have.
//!
//! Invariant: a provider that was named is the only one used. Nothing that follows from a [`Fabric`] goes on silently with another.

use crate::{Endpoint, Provider, Unavailable};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// All that `auto` considers, the preferred first: a device that both ends share, then one host's memory, then what every
/// network carries.
const PREFERENCE: [Provider; 3] = [Provider::Verbs, Provider::Shm, Provider::Tcp];

/// `auto`, `verbs`, `shm` or `tcp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fabric {
    /// Whatever this machine can run; which of it carries a connection is decided for each peer.
    #[default]
    Auto,
    /// This one and no other.
    Only(Provider),
}

/// Why what was asked for cannot be had.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ChoiceError {
    /// The name of no provider.
    #[error("fabric = {0:?}: it is auto, verbs, shm or tcp")]
    Unknown(String),
    /// The provider that was named cannot be run here.
    #[error("fabric = {provider}: {reason}; name another one, or auto to use what there is")]
    Unavailable {
        /// Which.
        provider: Provider,
        /// Why.
        reason: Unavailable,
    },
    /// Neither an endpoint nor an address nor a path.
    #[error(
        "{0:?} is no place to listen: expected ADDRESS:PORT, an absolute PATH for a socket, or shm:PATH, tcp:ADDRESS:PORT, \
         verbs:ADDRESS:PORT"
    )]
    Place(String),
    /// The list of places has an endpoint of another provider than the one that was named.
    #[error("fabric = {fabric}, but {endpoint} is to be listened at; leave out one of the two")]
    Contradiction {
        /// What was named.
        fabric: Provider,
        /// What contradicts it.
        endpoint: Endpoint,
    },
    /// Nothing of what was listed is left.
    #[error("fabric = {fabric}, and no place to listen at fits it: {needs}")]
    Nowhere {
        /// What was asked for.
        fabric: Fabric,
        /// What the list lacks.
        needs: &'static str,
    },
}

/// An endpoint to listen at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenAt {
    /// Where.
    pub endpoint: Endpoint,
    /// Whether not to be able to is an error; else it is logged, and the others have to do.
    pub required: bool,
}

impl From<Endpoint> for ListenAt {
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, required: true }
    }
}

impl Fabric {
    /// What this process is to carry, the preferred first. What `auto` leaves out is logged, in one line.
    pub fn providers(self) -> Result<Vec<Provider>, ChoiceError> {
        match self {
            Self::Only(provider) => match provider.available() {
                Ok(()) => Ok(vec![provider]),
                Err(reason) => Err(ChoiceError::Unavailable { provider, reason }),
            },
            Self::Auto => Ok(PREFERENCE.into_iter().filter(|provider| is_available(*provider)).collect()),
        }
    }

    /// Where a process listens that was given these places: endpoints; addresses, which stand for `verbs` and `tcp`; and absolute
    /// paths, which stand for `shm`. The preferred provider comes first, within one provider the order is kept.
    pub fn endpoints(self, places: &[String]) -> Result<Vec<ListenAt>, ChoiceError> {
        let providers = self.providers()?;
        let mut endpoints = Vec::new();
        for place in places {
            match Place::parse(place)? {
                Place::Endpoint(endpoint) => {
                    let provider = endpoint.provider();
                    if let Self::Only(fabric) = self
                        && fabric != provider
                    {
                        return Err(ChoiceError::Contradiction { fabric, endpoint });
                    }
                    provider.available().map_err(|reason| ChoiceError::Unavailable { provider, reason })?;
                    endpoints.push(ListenAt::from(endpoint));
                }
                Place::Any(candidates) => endpoints.extend(
                    candidates
                        .into_iter()
                        .filter(|at| providers.contains(&at.provider()))
                        // An address may be one that no device has.
                        .map(|at| ListenAt {
                            required: self != Self::Auto || at.provider() != Provider::Verbs,
                            endpoint: at,
                        }),
                ),
            }
        }
        endpoints.sort_by_key(|at| PREFERENCE.iter().position(|each| *each == at.endpoint.provider()));
        if endpoints.is_empty() {
            let needs = match self {
                Self::Only(Provider::Shm) => "shm needs the absolute path of a socket",
                Self::Only(_) => "it needs an ADDRESS:PORT",
                Self::Auto => "name an ADDRESS:PORT, the absolute path of a socket, or both",
            };
            return Err(ChoiceError::Nowhere { fabric: self, needs });
        }
        Ok(endpoints)
    }
}

fn is_available(provider: Provider) -> bool {
    match provider.available() {
        Ok(()) => true,
        Err(reason) => {
            tracing::info!(%provider, %reason, "fabric = auto goes on without");
            false
        }
    }
}

/// Something to listen at.
enum Place {
    /// Named with its provider.
    Endpoint(Endpoint),
    /// Whatever of these can be had.
    Any(Vec<Endpoint>),
}

impl Place {
    fn parse(text: &str) -> Result<Self, ChoiceError> {
        if text.starts_with('/') {
            return Ok(Self::Any(vec![Endpoint::Shm(PathBuf::from(text))]));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Any(vec![Endpoint::Verbs(address), Endpoint::Tcp(address)]));
        }
        text.parse().map(Self::Endpoint).map_err(|_| ChoiceError::Place(text.to_owned()))
    }
}

impl FromStr for Fabric {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Only).map_err(|_| ChoiceError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Fabric {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => out.write_str("auto"),
            Self::Only(provider) => provider.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(fabric: &str, places: &[&str]) -> Result<Vec<String>, ChoiceError> {
        let places: Vec<String> = places.iter().map(|place| (*place).to_owned()).collect();
        let endpoints = fabric.parse::<Fabric>()?.endpoints(&places)?;
        Ok(endpoints
            .iter()
            .map(|at| at.endpoint.to_string())
            .filter(|text| !text.starts_with("verbs"))
            .collect())
    }

    #[test]
    fn a_named_provider_is_the_only_one() {
        let places = ["127.0.0.1:7001", "/run/a.sock"];
        assert_eq!(endpoints("tcp", &places).unwrap(), ["tcp:127.0.0.1:7001"]);
        assert_eq!(endpoints("shm", &places).unwrap(), ["shm:/run/a.sock"]);
        assert_eq!(endpoints("auto", &places).unwrap(), ["shm:/run/a.sock", "tcp:127.0.0.1:7001"]);
        assert!(matches!(endpoints("shm", &places[..1]), Err(ChoiceError::Nowhere { .. })));
        assert!(matches!(endpoints("auto", &[]), Err(ChoiceError::Nowhere { .. })));
        assert!(matches!(endpoints("tcp", &["shm:/run/a.sock"]), Err(ChoiceError::Contradiction { .. })));
        assert!(matches!(endpoints("auto", &["run/a.sock"]), Err(ChoiceError::Place(_))));
        assert!(matches!(endpoints("rdma", &places), Err(ChoiceError::Unknown(_))));
    }

    #[test]
    fn verbs_by_name_without_a_device_is_an_error_that_says_why() {
        let Err(reason) = Provider::Verbs.available() else { return };
        let error = endpoints("verbs", &["127.0.0.1:7001"]).unwrap_err().to_string();
        assert!(error.starts_with("fabric = verbs: ") && error.contains(&reason.to_string()), "{error}");
        assert!(endpoints("auto", &["verbs:127.0.0.1:7001"]).is_err(), "an endpoint that was named");
        assert_eq!(endpoints("auto", &["127.0.0.1:7001"]).unwrap(), ["tcp:127.0.0.1:7001"]);
    }
}

//! Who may do what: all tokens in memory, kept in step with the store.
//!
//! Invariants: a request is let in by one look at memory, and every grant of a token is told when the token is
//! revoked: each token has a sender that nothing is ever sent on, and dropping it ends all grants at once.

use std::collections::HashMap;
use std::sync::Arc;

use dfs_shared::ids::VolumeName;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::need::Need;
use super::token::{bearer, parse};
use crate::metadata::token::{Access, AccessToken, TokenId};
use crate::metadata::{MetadataError, MetadataStore};

/// What a request is allowed, for as long as its token is not revoked.
#[derive(Debug, Clone)]
pub struct Grant {
    token: Option<(TokenId, VolumeName, Access)>,
    alive: Option<watch::Receiver<()>>,
}

impl Grant {
    /// Allows everything, for ever: what the server does by itself, and `--insecure-no-auth`.
    #[must_use]
    pub const fn everything() -> Self {
        Self { token: None, alive: None }
    }

    /// Returns the token that it comes from.
    #[must_use]
    pub fn token(&self) -> Option<TokenId> {
        self.token.as_ref().map(|(id, ..)| *id)
    }

    /// Tells whether this is allowed on a volume. For handlers that learn the volume from more than the request's
    /// address, such as a session's.
    #[must_use]
    pub fn allows(&self, volume: &VolumeName, access: Access) -> bool {
        match &self.token {
            Some((_, own, allowed)) => own == volume && *allowed >= access,
            None => true,
        }
    }

    /// Tells whether it may end before the request does.
    #[must_use]
    pub fn is_revocable(&self) -> bool {
        self.alive.is_some()
    }

    /// Tells whether it has ended, without waiting.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        // Nothing is ever sent: an error is the end.
        self.alive.as_ref().is_some_and(|alive| alive.has_changed().is_err())
    }

    /// Waits until it ends.
    pub async fn revoked(&self) {
        match self.alive.clone() {
            // Nothing is ever sent: this ends when the sender is dropped.
            Some(mut alive) => while alive.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no `Authorization` header.
    #[error("no token")]
    NoToken,
    /// The header holds no token, or there are several.
    #[error("malformed token")]
    Malformed,
    /// No token has this id.
    #[error("unknown token")]
    Unknown,
    /// The token exists, the secret is another.
    #[error("wrong secret")]
    WrongSecret {
        /// Which token.
        id: TokenId,
    },
    /// The token was revoked.
    #[error("revoked token")]
    Revoked {
        /// Which token.
        id: TokenId,
    },
    /// The token is for another volume.
    #[error("token of another volume")]
    OtherVolume {
        /// Which token.
        id: TokenId,
    },
    /// The token does not allow this.
    #[error("not allowed by the token")]
    TooLittle {
        /// Which token.
        id: TokenId,
    },
}

impl Refusal {
    /// Returns the token, as far as it is known.
    #[must_use]
    pub fn token(self) -> Option<TokenId> {
        match self {
            Self::NoToken | Self::Malformed | Self::Unknown => None,
            Self::WrongSecret { id } | Self::Revoked { id } => Some(id),
            Self::OtherVolume { id } | Self::TooLittle { id } => Some(id),
        }
    }

    /// Tells whether the token is good, and only this request is not allowed.
    #[must_use]
    pub fn is_forbidden(self) -> bool {
        match self {
            Self::NoToken | Self::Malformed | Self::Unknown => false,
            Self::WrongSecret { .. } | Self::Revoked { .. } => false,
            Self::OtherVolume { .. } | Self::TooLittle { .. } => true,
        }
    }
}

#[derive(Debug)]
struct Entry {
    token: AccessToken,
    /// Dropped when the token is revoked.
    alive: Option<watch::Sender<()>>,
}

#[derive(Debug)]
struct State {
    tokens: HashMap<TokenId, Entry>,
    /// Present while no token is needed; its grants end when the first token is made.
    open: Option<watch::Sender<()>>,
}

/// All tokens of a store.
pub struct Registry {
    store: Arc<dyn MetadataStore>,
    is_insecure: bool,
    state: RwLock<State>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("tokens", &self.state.read().tokens.len()).finish_non_exhaustive()
    }
}

impl Registry {
    /// Reads the tokens of a store; `is_open` says whether everybody is let in while no token was ever made. Blocks.
    ///
    /// # Errors
    /// [`MetadataError`] when the store fails.
    pub fn open(store: Arc<dyn MetadataStore>, is_open: bool) -> Result<Self, MetadataError> {
        let open = is_open.then(|| watch::channel(()).0);
        let state = RwLock::new(State { tokens: HashMap::new(), open });
        let registry = Self { store, is_insecure: false, state };
        registry.reload()?;
        Ok(registry)
    }

    /// Lets everybody do everything, whatever tokens there are.
    #[must_use]
    pub fn insecure(store: Arc<dyn MetadataStore>) -> Self {
        Self { store, is_insecure: true, state: RwLock::new(State { tokens: HashMap::new(), open: None }) }
    }

    /// Tells how many tokens are good.
    #[must_use]
    pub fn active(&self) -> usize {
        self.state.read().tokens.values().filter(|entry| entry.alive.is_some()).count()
    }

    /// Takes over what the store has now: new tokens are good and revoked ones are not when this returns. Blocks.
    ///
    /// # Errors
    /// [`MetadataError`] when the store fails; then nothing has changed.
    pub fn reload(&self) -> Result<(), MetadataError> {
        let tokens = self.store.read(|snapshot| snapshot.tokens())?;
        let mut state = self.state.write();
        if !tokens.is_empty() {
            // From now on a token is needed, for ever: revoking the last one must not open the door again.
            state.open = None;
        }
        let mut old = std::mem::take(&mut state.tokens);
        for token in tokens {
            let alive = match token.revoked {
                Some(_) => None,
                None => Some(
                    old.remove(&token.id)
                        .and_then(|entry| entry.alive)
                        .unwrap_or_else(|| watch::channel(()).0),
                ),
            };
            state.tokens.insert(token.id, Entry { token, alive });
        }
        Ok(())
    }

    /// Decides about a request: its `Authorization` headers, what it needs, and the volume that it is about.
    ///
    /// # Errors
    /// [`Refusal`] says why it is not let in; the peer is told less.
    pub fn check<'a>(
        &self,
        mut headers: impl Iterator<Item = &'a [u8]>,
        need: Need,
        volume: Option<&VolumeName>,
    ) -> Result<Grant, Refusal> {
        if self.is_insecure || need == Need::Nothing {
            return Ok(Grant::everything());
        }
        let state = self.state.read();
        if let Some(open) = &state.open {
            return Ok(Grant { token: None, alive: Some(open.subscribe()) });
        }
        let header = headers.next().ok_or(Refusal::NoToken)?;
        if headers.next().is_some() {
            return Err(Refusal::Malformed);
        }
        let (id, secret) = bearer(header).and_then(parse).ok_or(Refusal::Malformed)?;
        let Entry { token, alive } = state.tokens.get(&id).ok_or(Refusal::Unknown)?;
        if !secret.matches(&token.digest) {
            return Err(Refusal::WrongSecret { id });
        }
        let alive = alive.as_ref().ok_or(Refusal::Revoked { id })?;
        let needed = match need {
            Need::Nothing => return Ok(Grant::everything()),
            Need::Server(access) => access,
            Need::Volume(_) if volume != Some(&token.volume) => return Err(Refusal::OtherVolume { id }),
            Need::Volume(access) => access,
        };
        if token.access < needed {
            return Err(Refusal::TooLittle { id });
        }
        let scope = (id, token.volume.clone(), token.access);
        Ok(Grant { token: Some(scope), alive: Some(alive.subscribe()) })
    }
}

#[cfg(test)]
mod tests;

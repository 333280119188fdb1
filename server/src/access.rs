//! Access: tokens, what each route needs, and who may do it.
//!
//! ```text
//!   no token was ever made ──first token──► tokens are needed ──all revoked──► nobody is let in
//!   (open, on loopback only)                 (also on loopback)
//! ```
//!
//! Owns the form of a token ([`token`]), the table of needs ([`mod@need`]), the decision ([`Registry`]) and hearing of
//! changes that another process made ([`watch`]). Leaves answers and log lines to `api`, rows to `metadata`.
//! Invariant: a decision is made in memory and for each request anew; a [`Grant`] ends when its token is revoked.

pub mod need;
pub mod registry;
pub mod token;
pub mod watch;

pub use crate::metadata::token::{Access, AccessError, AccessToken, TokenId, TokenIdError};
pub use need::{Need, need};
pub use registry::{Grant, Refusal, Registry};
pub use token::Secret;
pub use watch::{OnQuota, Watch, announce, announce_quota};

//! Components: subscribers of the event bus, each removable without touching the others.

mod changes;
mod feed;
mod logger;
mod metrics;
mod notifier;

pub use changes::Changes;
pub use feed::{Feed, FeedJoined, GAP, KINDS, Listener, Mark, Since, Wanted};
pub use logger::Logger;
pub use metrics::Metrics;
pub use notifier::{Notifier, Pushed, Subscription};

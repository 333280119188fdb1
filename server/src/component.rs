//! Components: subscribers of the event bus, each removable without touching the others.

mod logger;
mod metrics;
mod notifier;

pub use logger::Logger;
pub use metrics::Metrics;
pub use notifier::{Notifier, Pushed, Subscription};

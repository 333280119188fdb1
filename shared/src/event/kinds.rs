//! The events that dfs publishes: facts that others may want to know, never the only place where they
//! stand. Losing any of them may delay something and loses nothing.

macro_rules! events {
    ($($type:ident),+ $(,)?) => {
        $(impl $crate::event::Event for $type {
            const NAME: &'static str = stringify!($type);
        })+
    };
}

pub mod mount;
pub mod server;

//! What the tests stand on: a recording upstream, the proxy as a process, and raw clients.

pub mod answer;
pub mod client;
pub mod frames;
pub mod grpc;
pub mod h2;
pub mod proxy;
pub mod storm;
pub mod upstream;
pub mod wire;

pub use answer::{Findings, assert_own, own};
pub use client::{Client, Request, Response};
pub use proxy::{Proxy, Setup, raise_limit};
pub use upstream::{Exchange, Reply, Upstream};
pub use wire::{Head, within};

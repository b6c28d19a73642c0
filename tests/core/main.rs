//! The pure core from outside: published vectors, tables of hostile tokens, an independent
//! implementation to disagree with, and chance.

mod differential;
mod dpop;
mod issuers;
mod mint;
mod paths;
mod rfc7515;
mod rules;
mod secrets;
mod step_up;
mod verifier;
mod wycheproof;

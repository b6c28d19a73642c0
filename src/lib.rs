pub mod claims;
pub mod clock;
pub mod jose;
pub mod policy;
pub mod token;

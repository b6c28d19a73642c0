//! What kind of principal a token speaks for.
//!
//! Auth0 says so in `sub_profile` where an API has agent subject claims. Elsewhere it follows from the
//! grant and from the form of `sub`: users of every connection have a `|` in theirs, and a client's own
//! has none. On an API with agent subject claims, a client's `sub` has no `@clients` behind it, and in
//! the RFC 9068 profile there is no `gty` either.

use super::checks::is_anonymous;
use crate::claims::{Claims, WrongType};

/// What kind of principal a token speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// An agent with an identity of its own.
    Agent,
    /// An Auth0 anonymous session.
    Anonymous,
    /// A client acting for itself (client credentials grant).
    Machine,
    /// Somebody who logged in.
    User,
}

impl SubjectKind {
    /// Every kind, in the order in which people are told of them.
    pub const ALL: [Self; 4] = [Self::User, Self::Agent, Self::Machine, Self::Anonymous];

    /// The name used in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Anonymous => "anonymous",
            Self::Machine => "machine",
            Self::User => "user",
        }
    }

    /// The kind of a token with these claims.
    ///
    /// # Errors
    ///
    /// [`WrongType`] when a claim that could decide is no string, or names no kind.
    pub fn of(claims: &Claims) -> Result<Self, WrongType> {
        Self::with_reason(claims).map(|(kind, _)| kind)
    }

    /// The kind, and what decided on it. The first of these that applies decides; all of them are looked
    /// at for their type, so that none which cannot be read counts as absent.
    ///
    /// # Errors
    ///
    /// As those of [`SubjectKind::of`].
    pub fn with_reason(claims: &Claims) -> Result<(Self, &'static str), WrongType> {
        let sub = claims
            .string("sub")?
            .ok_or_else(|| wrong("sub", "absent", "a string"))?;
        let profile = claims.string("sub_profile")?.map(of_profile).transpose()?;
        let is_granted_to_client = claims.string("gty")? == Some("client-credentials");
        let is_client_id = claims.string("client_id")? == Some(sub);
        let is_azp = claims.string("azp")? == Some(sub);
        let is_bare = !sub.contains('|');
        Ok(if is_anonymous(sub) {
            (Self::Anonymous, "sub begins with anon@")
        } else if let Some(decided) = profile {
            decided
        } else if is_granted_to_client {
            (Self::Machine, "gty is client-credentials")
        } else if is_bare && sub.ends_with("@clients") {
            (Self::Machine, "sub ends in @clients")
        } else if is_client_id {
            (Self::Machine, "sub is the client_id")
        } else if is_azp {
            (Self::Machine, "sub is the azp")
        } else if is_bare {
            (Self::Machine, "sub has no |, as the sub of every user has")
        } else {
            (Self::User, "sub has a | and no claim says otherwise")
        })
    }
}

/// The values of `sub_profile`, letter for letter.
fn of_profile(profile: &str) -> Result<(SubjectKind, &'static str), WrongType> {
    match profile {
        "user" => Ok((SubjectKind::User, "sub_profile is user")),
        "ai_agent" => Ok((SubjectKind::Agent, "sub_profile is ai_agent")),
        "service" => Ok((SubjectKind::Machine, "sub_profile is service")),
        "browser_app" => Ok((SubjectKind::Machine, "sub_profile is browser_app")),
        "native_app" => Ok((SubjectKind::Machine, "sub_profile is native_app")),
        _ => Err(wrong(
            "sub_profile",
            "an unknown value",
            "user, ai_agent, service, browser_app or native_app",
        )),
    }
}

fn wrong(claim: &str, found: &'static str, expected: &'static str) -> WrongType {
    WrongType {
        claim: claim.to_owned(),
        expected,
        found,
    }
}

#[cfg(test)]
mod tests {
    use super::SubjectKind::{self, Agent, Anonymous, Machine, User};
    use crate::claims::Claims;
    use serde_json::{Map, Value, json};

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(members) => Claims::new(members),
            _ => Claims::new(Map::new()),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn auth0_says_who_a_token_speaks_for() {
        for (value, kind, reason) in [
            // `sub_profile`, whatever else the token says.
            (json!({"sub":"auth0|alice","sub_profile":"user"}), User, "sub_profile"),
            (json!({"sub":"agt_1","sub_profile":"ai_agent"}), Agent, "sub_profile"),
            (json!({"sub":"XyZ0","sub_profile":"service"}), Machine, "sub_profile"),
            (json!({"sub":"XyZ0","sub_profile":"browser_app"}), Machine, "sub_profile"),
            (json!({"sub":"XyZ0","sub_profile":"native_app"}), Machine, "sub_profile"),
            (json!({"sub":"auth0|alice","sub_profile":"ai_agent"}), Agent, "sub_profile"),
            (json!({"sub":"auth0|alice","sub_profile":"service"}), Machine, "sub_profile"),
            (json!({"sub":"agt_1","sub_profile":"user"}), User, "sub_profile"),
            (json!({"sub":"c@clients","gty":"client-credentials","sub_profile":"ai_agent"}), Agent, "sub_profile"),
            (json!({"sub":"c","client_id":"c","sub_profile":"ai_agent"}), Agent, "sub_profile"),
            (json!({"sub":"c","azp":"c","gty":"client-credentials","sub_profile":"user"}), User, "sub_profile"),
            // Without it, the grant.
            (json!({"sub":"c@clients","gty":"client-credentials"}), Machine, "gty"),
            (json!({"sub":"auth0|alice","gty":"client-credentials"}), Machine, "gty"),
            (json!({"sub":"agt_1","gty":"client-credentials"}), Machine, "gty"),
            (json!({"sub":"auth0|alice","gty":"password"}), User, "otherwise"),
            (json!({"sub":"auth0|alice","gty":"refresh_token"}), User, "otherwise"),
            (json!({"sub":"auth0|alice","gty":""}), User, "otherwise"),
            // Then the form of `sub`.
            (json!({"sub":"c@clients"}), Machine, "@clients"),
            (json!({"sub":"@clients"}), Machine, "@clients"),
            (json!({"sub":"c","client_id":"c"}), Machine, "client_id"),
            (json!({"sub":"c","azp":"c"}), Machine, "azp"),
            (json!({"sub":"a|b","client_id":"a|b"}), Machine, "client_id"),
            (json!({"sub":"a|b","azp":"a|b","client_id":"c"}), Machine, "azp"),
            (json!({"sub":"agt_1"}), Machine, "no |"),
            (json!({"sub":"agt_1","azp":"c"}), Machine, "no |"),
            (json!({"sub":"alice"}), Machine, "no |"),
            (json!({"sub":""}), Machine, "no |"),
            (json!({"sub":"alice@clients.example.com"}), Machine, "no |"),
            (json!({"sub":"C@CLIENTS"}), Machine, "no |"),
            (json!({"sub":"auth0\u{ff5c}alice"}), Machine, "no |"),
            (json!({"sub":"auth0%7Calice"}), Machine, "no |"),
            // Users.
            (json!({"sub":"auth0|alice"}), User, "otherwise"),
            (json!({"sub":"auth0|alice","azp":"c","client_id":"c"}), User, "otherwise"),
            (json!({"sub":"auth0|alice","azp":"","client_id":""}), User, "otherwise"),
            (json!({"sub":"samlp|corp|me@clients"}), User, "otherwise"),
            (json!({"sub":"auth0|anon@1"}), User, "otherwise"),
            (json!({"sub":"|"}), User, "otherwise"),
            (json!({"sub":"auth0|c","azp":"C"}), User, "otherwise"),
            (json!({"sub":"auth0|alice","act":{"sub":"agt_1","sub_profile":"ai_agent"}}), User, "otherwise"),
            (json!({"sub":"auth0|alice","Sub_Profile":"ai_agent"}), User, "otherwise"),
            (json!({"sub":"auth0|alice","client_profile":"ai_agent"}), User, "otherwise"),
            // An anonymous session is one, whatever the rest says.
            (json!({"sub":"anon@"}), Anonymous, "anon@"),
            (json!({"sub":"anon@5f7c"}), Anonymous, "anon@"),
            (json!({"sub":"anon@x|y"}), Anonymous, "anon@"),
            (json!({"sub":"anon@x@clients"}), Anonymous, "anon@"),
            (json!({"sub":"anon@x","sub_profile":"user"}), Anonymous, "anon@"),
            (json!({"sub":"anon@x","sub_profile":"ai_agent"}), Anonymous, "anon@"),
            (json!({"sub":"anon@x","gty":"client-credentials","azp":"anon@x"}), Anonymous, "anon@"),
            (json!({"sub":"ANON@x|y"}), User, "otherwise"),
            (json!({"sub":" anon@x|y"}), User, "otherwise"),
        ] {
            let found = SubjectKind::with_reason(&claims(value.clone()));
            let (found, why) = found.unwrap_or_else(|error| panic!("{value}: {error}"));
            assert_eq!(found, kind, "{value}: {why}");
            assert!(why.contains(reason), "{value}: {why}");
        }
    }

    /// A claim that cannot be read is not absent, wherever it stands in the order.
    #[test]
    fn what_names_no_kind_is_of_the_wrong_type() {
        let odd = [
            json!(null),
            json!(true),
            json!(0),
            json!(1.5),
            json!([]),
            json!(["user"]),
            json!({}),
            json!({"kind":"user"}),
        ];
        for sub in ["auth0|alice", "c@clients", "agt_1", "anon@x"] {
            for profile in [
                "",
                " ",
                "user ",
                " user",
                "User",
                "USER",
                "user\u{0}",
                "user,ai_agent",
                "user ai_agent",
                "agent",
                "ai-agent",
                "AI_AGENT",
                "ai_agent\u{200b}",
                "machine",
                "anonymous",
                "services",
                "browser-app",
                "native",
                "unknown",
                "\u{ff55}ser",
            ] {
                let value = json!({"sub":sub,"sub_profile":profile,"gty":"client-credentials"});
                let error = SubjectKind::of(&claims(value)).expect_err(profile);
                assert_eq!(error.claim, "sub_profile", "{profile:?}");
            }
            for claim in ["sub_profile", "gty", "client_id", "azp"] {
                for odd in &odd {
                    let value = json!({"sub":sub,claim:odd});
                    let error = SubjectKind::of(&claims(value.clone()));
                    let error = error.expect_err(&value.to_string());
                    assert_eq!(error.claim, claim, "{value}");
                }
            }
        }
        for odd in &odd {
            let value = json!({"sub":odd,"sub_profile":"user"});
            assert!(SubjectKind::of(&claims(value)).is_err(), "{odd}");
        }
        assert!(SubjectKind::of(&claims(json!({"sub_profile":"user"}))).is_err());
    }
}

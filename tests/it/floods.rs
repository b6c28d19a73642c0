//! Floods of tokens that are refused, and who waits for whom. The process is stopped while requests
//! arrive, so it finds all of them at once; its log then tells in which order they were decided.

use std::sync::Arc;

use crate::dpop::{ACCEPTED, PUBLIC, Prover, presented};
use crate::issuer::Issuer;
use crate::issuer::keys::SigningKey;
use crate::support::frames::{Frames, Verdict};
use crate::support::{Client, Proxy, Reply, Request, Setup, Upstream};

/// How many connections flood: the process reads some of their requests, looks at its sockets again, and
/// has not read all of them.
const FLOOD: usize = 150;

/// How many may be decided before somebody who need not wait for the flood: some, since where the process
/// stood when it was stopped is not known.
const FEW: usize = 15;

/// Good tokens are refused by this rule. So every line of the log is written when the decision is made, and
/// not when an upstream has answered.
const RULE: &str = "[require]\npermissions = [\"held:by-nobody\"]";
const GOOD: u16 = 403;
const FORGED: u16 = 401;

struct Scene {
    issuer: Issuer,
    proxy: Proxy,
    forger: Arc<SigningKey>,
    _upstream: Upstream,
}

impl Scene {
    async fn set() -> Self {
        let issuer = Issuer::start();
        let upstream = Upstream::start(|_| Reply::ok("hello"));
        let proxy = Setup::new(&issuer, &upstream)
            .top(&format!("public_url = \"{PUBLIC}\""))
            .rest(RULE)
            .rest(ACCEPTED)
            .arguments(&["--workers", "1"])
            .start()
            .await;
        let kid = issuer.key().kid().to_owned();
        Self {
            issuer,
            proxy,
            forger: Arc::new(SigningKey::rsa(1).with_kid(&kid)),
            _upstream: upstream,
        }
    }

    /// A token that only the signature gives away.
    fn forged(&self, path: &str) -> Request {
        let token = self.issuer.user(path).forged_with(&self.forger).mint();
        Request::get(path).bearer(&token)
    }

    /// A good token that was never seen before.
    fn new_token(&self, path: &str) -> Request {
        Request::get(path).bearer(&self.issuer.user(path).mint())
    }

    async fn connect(&self) -> Client {
        Client::connect(self.proxy.data).await
    }

    /// A connection on which nothing was refused yet, and which is being served.
    async fn fresh(&self) -> Client {
        self.after(&self.new_token("/before"), GOOD).await
    }

    /// A connection whose last token was not taken.
    async fn doubtful(&self) -> Client {
        self.after(&self.forged("/before"), FORGED).await
    }

    async fn after(&self, request: &Request, status: u16) -> Client {
        let mut client = self.connect().await;
        assert_eq!(client.request(request).await.status(), status);
        client
    }

    async fn flooders(&self) -> Vec<Client> {
        let mut flooders = Vec::new();
        for _ in 0..FLOOD {
            flooders.push(self.doubtful().await);
        }
        flooders
    }

    /// Everybody of the flood asks, each with another token.
    async fn flood(&self, flooders: &mut [Client]) {
        for (number, flooder) in flooders.iter_mut().enumerate() {
            flooder
                .write(&self.forged(&format!("/flood/{number}")))
                .await;
        }
    }

    /// How many requests were decided before the one to `path`, after a mark in the log.
    async fn place(&self, mark: usize, path: &str) -> usize {
        let is_request = |event: &serde_json::Value| event["message"] == "request";
        let is_it = |event: &serde_json::Value| is_request(event) && event["path"] == path;
        self.proxy.event_after(mark, path, is_it).await;
        let events = self.proxy.events();
        let mut requests = events.iter().skip(mark).filter(|event| is_request(event));
        requests.position(is_it).expect("it is in the log")
    }
}

async fn statuses(clients: &mut [Client], status: u16) {
    for client in clients {
        assert_eq!(client.response().await.status(), status);
    }
}

#[tokio::test]
async fn a_newcomer_is_before_those_who_flood() {
    let scene = Scene::set().await;
    let mut flooders = scene.flooders().await;
    let mut newcomer = scene.connect().await;
    let mut known = scene.fresh().await;
    // It was refused, and has brought a good token since.
    let mut redeemed = scene.doubtful().await;
    let good = scene.new_token("/redeeming");
    assert_eq!(redeemed.request(&good).await.status(), GOOD);
    // The last line of what came before.
    let is_it = |event: &serde_json::Value| event["path"] == "/redeeming";
    scene.proxy.event_after(0, "/redeeming", is_it).await;
    let mark = scene.proxy.mark();
    scene
        .proxy
        .while_stopped(async {
            scene.flood(&mut flooders).await;
            newcomer.write(&scene.new_token("/newcomer")).await;
            known.write(&scene.new_token("/known")).await;
            redeemed.write(&scene.new_token("/redeemed")).await;
        })
        .await;
    for client in [&mut newcomer, &mut known, &mut redeemed] {
        assert_eq!(client.response().await.status(), GOOD);
    }
    statuses(&mut flooders, FORGED).await;
    for path in ["/newcomer", "/known", "/redeemed"] {
        let place = scene.place(mark, path).await;
        assert!(place <= FEW, "{path} came after {place}");
    }
    // Throughout it was the flood's order of arrival.
    let last = scene.place(mark, &format!("/flood/{}", FLOOD - 1)).await;
    assert_eq!(last, FLOOD + 2);
}

/// A proof that is refused has cost a check, as a token has.
#[tokio::test]
async fn whose_proofs_are_refused_is_behind_a_newcomer() {
    let scene = Scene::set().await;
    let prover = Prover::new();
    let token = prover.bind(scene.issuer.user("auth0|mallory"));
    let wrong = prover.proof("POST", "/before", &token);
    let wrong = presented(Request::get("/before"), &token).header("DPoP", &wrong);
    let mut flooders = Vec::new();
    for _ in 0..FLOOD {
        flooders.push(scene.after(&wrong, FORGED).await);
    }
    let mut newcomer = scene.connect().await;
    let mark = scene.proxy.mark();
    scene
        .proxy
        .while_stopped(async {
            scene.flood(&mut flooders).await;
            newcomer.write(&scene.new_token("/newcomer")).await;
        })
        .await;
    assert_eq!(newcomer.response().await.status(), GOOD);
    statuses(&mut flooders, FORGED).await;
    let place = scene.place(mark, "/newcomer").await;
    assert!(place <= FEW, "it came after {place}");
}

#[tokio::test]
async fn whoever_was_refused_once_is_not_shut_out_by_newcomers() {
    let scene = Scene::set().await;
    let mut doubtful = scene.doubtful().await;
    let mut newcomers = Vec::new();
    for _ in 0..FLOOD {
        newcomers.push(scene.connect().await);
    }
    let mark = scene.proxy.mark();
    scene
        .proxy
        .while_stopped(async {
            scene.flood(&mut newcomers).await;
            doubtful.write(&scene.new_token("/doubtful")).await;
        })
        .await;
    assert_eq!(doubtful.response().await.status(), GOOD);
    statuses(&mut newcomers, FORGED).await;
    let place = scene.place(mark, "/doubtful").await;
    assert!(place <= FEW, "it came after {place}");
}

#[tokio::test]
async fn the_streams_of_one_connection_are_one_in_the_line() {
    let scene = Scene::set().await;
    let streams = || (3_u32..).step_by(2).take(40);
    let ask = async |connection: &mut Frames, stream: u32, path: &str| {
        let bearer = format!("Bearer {}", scene.issuer.user(path).mint());
        let fields = [("authorization", bearer.as_str())];
        connection.request(stream, path, &fields).await;
    };
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut connection = Frames::connect(scene.proxy.data).await;
        ask(&mut connection, 1, "/before").await;
        assert_eq!(connection.verdict(1).await, Verdict::Status(GOOD));
        connections.push(connection);
    }
    let mark = scene.proxy.mark();
    scene
        .proxy
        .while_stopped(async {
            for (number, connection) in connections.iter_mut().enumerate() {
                for stream in streams() {
                    ask(connection, stream, &format!("/{number}/{stream}")).await;
                }
            }
        })
        .await;
    for stream in streams() {
        let first = scene.place(mark, &format!("/0/{stream}")).await;
        let second = scene.place(mark, &format!("/1/{stream}")).await;
        let apart = first.abs_diff(second);
        assert!(apart <= FEW, "{stream}: {first} and {second}");
    }
}

#[tokio::test]
async fn whoever_leaves_the_line_is_not_waited_for() {
    let scene = Scene::set().await;
    let mut flooders = scene.flooders().await;
    let mut doubtful = scene.doubtful().await;
    scene
        .proxy
        .while_stopped(async {
            scene.flood(&mut flooders).await;
            doubtful.write(&scene.new_token("/doubtful")).await;
            for flooder in flooders.drain(..) {
                flooder.reset();
            }
        })
        .await;
    assert_eq!(doubtful.response().await.status(), GOOD);
    let mut newcomer = scene.connect().await;
    let good = scene.new_token("/newcomer");
    assert_eq!(newcomer.request(&good).await.status(), GOOD);
}

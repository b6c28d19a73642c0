//! Storms in the memory of the Kubernetes sample. What strangers can make the process hold never ends it:
//! they are told to go, or wait. Whoever is known to it is served all the while, and so are probes.

use std::collections::BTreeMap;

use crate::support::Request;
use crate::support::frames::{
    END_HEADERS, HEADERS, INITIAL_WINDOW_SIZE, LARGEST_WINDOW, PREFACE, WHOLE, block, data, frame,
    pseudo, settings, window_update,
};
use crate::support::storm::{
    AT_ONCE, CUT, Crowd, DEAF, GOOD, HANG, Heard, LARGE, MCP_EVENTS, MCP_GOOD, MCP_LIST, Scene,
    call, converse, message_of, unfinished_head, unfinished_head_of_http2,
};

#[tokio::test]
async fn unfinished_heads_do_not_end_the_process() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| Crowd::of(place, 5_000, &unfinished_head(60_000)))
        .await;
    let evicted = scene.budget("evicted_total", "head_bytes").await;
    assert!(evicted > 1_000, "{evicted} heads made way for others");
    assert!(scene.budget("refused_total", "head_bytes").await > 0);
    // The oldest are told what has become of them.
    let tally = crowd.tally();
    let told = tally.get(&Heard::Status(408)).copied().unwrap_or_default();
    assert!(told > 1_000, "{tally:?}");
    let others = tally
        .keys()
        .filter(|heard| matches!(heard, Heard::Status(_)));
    assert_eq!(others.count(), 1, "{tally:?}");
    scene.recovers().await;
}

#[tokio::test]
async fn unfinished_heads_of_http2_do_not_end_the_process() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| Crowd::of(place, 2_500, &unfinished_head_of_http2(60_000)))
        .await;
    assert!(scene.budget("evicted_total", "head_bytes").await > 0);
    let tally = crowd.tally();
    let told = tally.get(&Heard::Frames { goaway: true });
    assert!(told.is_some_and(|told| *told > 500), "{tally:?}");
    scene.recovers().await;
}

#[tokio::test]
async fn connections_that_say_nothing_make_way() {
    let scene = Scene::set().await;
    let crowd = scene.endures(|place| Crowd::of(place, 10_000, b"")).await;
    let tally = crowd.tally();
    let gone = tally.get(&Heard::End).copied().unwrap_or_default();
    assert!(gone > 5_000, "{tally:?}");
    scene.recovers().await;
}

#[tokio::test]
async fn idle_connections_make_way() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| Crowd::served(place, 2_500, &Request::get(GOOD).bytes(), b"hello"))
        .await;
    let capacity = scene.budget("capacity", "connections").await;
    let evicted = scene.budget("evicted_total", "connections").await;
    assert!(evicted > 1_000, "{evicted} of {capacity} made way");
    // All were served, and they end between two requests, the longest idle first.
    let ends: Vec<bool> = crowd
        .0
        .into_iter()
        .map(|stream| Heard::on(stream) == Heard::End)
        .collect();
    let (first, last) = (&ends[..1_000], &ends[ends.len() - 100..]);
    assert!(first.iter().all(|is_gone| *is_gone));
    assert!(last.iter().all(|is_gone| !*is_gone));
    scene.recovers().await;
}

#[tokio::test]
async fn idle_connections_of_http2_make_way() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| {
            let request = frame(HEADERS, WHOLE, 1, &block(&pseudo("GET", GOOD)));
            let bytes = [PREFACE, &settings(&[]), &request].concat();
            Crowd::served(place, 1_200, &bytes, b"hello")
        })
        .await;
    let told: Vec<bool> = crowd
        .0
        .into_iter()
        .map(|stream| Heard::on(stream) == Heard::Frames { goaway: true })
        .collect();
    let (first, last) = (&told[..500], &told[told.len() - 50..]);
    assert!(first.iter().all(|is_told| *is_told));
    assert!(last.iter().all(|is_told| !*is_told));
    scene.recovers().await;
}

#[tokio::test]
async fn uploads_that_the_backend_does_not_read_do_not_end_the_process() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| {
            let head = Request::new("POST", DEAF).header("Content-Length", "100000000");
            Crowd::uploading(place, 500, &head.bytes(), &[b'z'; 65_536], 12)
        })
        .await;
    assert!(scene.budget("refused_total", "buffer_bytes").await > 0);
    // They wait for the backend, as without a storm.
    let tally = crowd.tally();
    assert_eq!(tally, BTreeMap::from([(Heard::Nothing, 500)]));
}

#[tokio::test]
async fn uploads_over_http2_that_the_backend_does_not_read_do_not_end_the_process() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| {
            let request = frame(HEADERS, END_HEADERS, 1, &block(&pseudo("POST", DEAF)));
            let head = [PREFACE, &settings(&[]), &request].concat();
            // As much as the window of a new connection allows.
            let piece = data(0, 1, &[b'z'; 16_000]).repeat(4);
            Crowd::uploading(place, 300, &head, &piece, 1)
        })
        .await;
    drop(crowd);
    scene.recovers().await;
}

#[tokio::test]
async fn answers_that_clients_do_not_take_do_not_end_the_process() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| Crowd::of(place, 200, &Request::get(LARGE).bytes()))
        .await;
    let (used, capacity) = (
        scene.budget("used", "buffer_bytes").await,
        scene.budget("capacity", "buffer_bytes").await,
    );
    assert!(0 < used && used <= capacity, "{used} of {capacity}");
    drop(crowd);
    scene.recovers().await;
}

#[tokio::test]
async fn answers_over_http2_that_clients_do_not_take_do_not_end_the_process() {
    let scene = Scene::set().await;
    let crowd = scene
        .endures(|place| {
            let window = LARGEST_WINDOW - 65_535;
            let mut bytes = [PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)])].concat();
            bytes.extend(window_update(0, window));
            for stream in (1..).step_by(2).take(20) {
                let request = block(&pseudo("GET", LARGE));
                bytes.extend(frame(HEADERS, WHOLE, stream, &request));
            }
            Crowd::of(place, 10, &bytes)
        })
        .await;
    drop(crowd);
    scene.recovers().await;
}

#[tokio::test]
async fn streams_without_number_leave_room_for_others() {
    const CONNECTIONS: usize = 11;
    const STREAMS: usize = 95;
    let scene = Scene::with_few_files().await;
    let crowd = scene
        .endures(|place| {
            let mut bytes = [PREFACE, &settings(&[])].concat();
            for stream in (1..).step_by(2).take(STREAMS) {
                let request = block(&pseudo("GET", HANG));
                bytes.extend(frame(HEADERS, WHOLE, stream, &request));
            }
            Crowd::of(place, CONNECTIONS, &bytes)
        })
        .await;
    let capacity = scene.budget("capacity", "connections").await;
    let used = scene.budget("used", "connections").await;
    // Each connection of HTTP/2 has two places in any case.
    let in_any_case = 2 * (CONNECTIONS + 1);
    let most = capacity * 3 / 4 + in_any_case;
    assert!(used <= most, "{used} of {capacity}");
    let refused = scene.budget("refused_total", "connections").await;
    let asked = CONNECTIONS * STREAMS;
    assert!(refused >= asked - capacity, "{refused} of {asked}");
    assert!(scene.proxy.descriptors() < 1024);
    drop(crowd);
    scene.recovers().await;
}

#[tokio::test]
async fn long_messages_of_every_shape_do_not_end_the_process() {
    let scene = Scene::with_mcp().await;
    for value in ["\"x\"", "0", "[0]", r#"{"":0}"#, r#"{"":{"":{"":{"":0}}}}"#] {
        let message = message_of(value);
        let callers = (0..AT_ONCE).map(|number| {
            let user = scene.issuer.user(&format!("auth0|mallory-{number}"));
            call(MCP_GOOD, &user.claim("scope", "read").mint(), &message)
        });
        let many: Vec<Vec<u8>> = callers.collect();
        for (callers, is_kept) in [(&many[..], false), (&many[..1], true)] {
            let messages = callers.to_vec();
            let tally = scene
                .endures(move |place| converse(place, &messages, 1 + usize::from(is_kept), is_kept))
                .await;
            assert!(tally.contains_key(&403), "{value}: {tally:?}");
            let others = tally.keys().filter(|status| ![403, 503].contains(*status));
            assert_eq!(others.count(), 0, "{value}: {tally:?}");
        }
    }
    scene.recovers().await;
}

#[tokio::test]
async fn messages_that_are_not_whole_do_not_end_the_process() {
    let scene = Scene::with_mcp().await;
    let message = message_of("0");
    let user = scene.issuer.user("auth0|mallory").claim("scope", "read");
    let almost = call(MCP_GOOD, &user.mint(), &message);
    let almost = almost[..almost.len() - 1].to_vec();
    let crowd = scene
        .endures(move |place| Crowd::of(place, 500, &almost))
        .await;
    let tally = crowd.tally();
    let refused = tally.get(&Heard::Status(503)).copied().unwrap_or_default();
    assert!(refused > 0, "{tally:?}");
    scene.recovers().await;
}

#[tokio::test]
async fn long_answers_to_filter_do_not_end_the_process() {
    let scene = Scene::with_mcp().await;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for (path, refused) in [(MCP_LIST, 503), (MCP_EVENTS, CUT)] {
        let callers = (0..AT_ONCE).map(|number| {
            let user = scene.issuer.user(&format!("auth0|mallory-{number}"));
            call(path, &user.claim("scope", "call").mint(), list)
        });
        let many: Vec<Vec<u8>> = callers.collect();
        let tally = scene
            .endures(move |place| converse(place, &many, 2, false))
            .await;
        // An event announces no length, so many at once may keep each other from the rest.
        assert!(path == MCP_EVENTS || tally.contains_key(&200), "{tally:?}");
        let others = tally
            .keys()
            .filter(|status| ![200, refused].contains(*status));
        assert_eq!(others.count(), 0, "{path}: {tally:?}");
    }
    scene.recovers().await;
}

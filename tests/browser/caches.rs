//! A browser keeps answers, and must not keep one page's for another.

use serde_json::json;

use crate::browser::{Ask, Browser};
use crate::issuer::Issuer;
use crate::support::upstream::response;
use crate::support::{Reply, Setup, Upstream};

/// Every answer may be kept.
fn cacheable() -> Upstream {
    Upstream::start(|_| {
        let fields = [("Cache-Control", "max-age=3600")];
        Reply::Bytes(response("200 OK", &fields, "hello"))
    })
}

const PUBLIC: &str = "[[route]]\npath = \"/public\"\naccess = \"public\"";

pub async fn an_answer_for_one_origin_is_not_shown_to_another(browser: &Browser) {
    let issuer = Issuer::start();
    let upstream = cacheable();
    let (one, other) = (browser.open().await, browser.open().await);
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&format!(
            "[cors]\norigins = [\"{}\", \"{}\"]",
            one.origin, other.origin
        ))
        .rest(PUBLIC)
        .start()
        .await;
    let ask = Ask::get(&format!("http://{}/public", proxy.data));
    assert_eq!(one.ask(&ask).await.status(), 200);
    // It is kept, so the next answer would be this one if `Vary` did not say otherwise.
    assert_eq!(one.ask(&ask).await.status(), 200);
    assert_eq!(upstream.requests(), 1);
    assert_eq!(other.ask(&ask).await.status(), 200);
    assert_eq!(upstream.requests(), 2);
}

/// What a page embeds, as with `<img>`, is asked for without `Origin`, and kept all the same.
pub async fn an_answer_without_origin_is_not_shown_to_a_page(browser: &Browser) {
    let issuer = Issuer::start();
    let page = browser.open().await;
    for origin in [page.origin.as_str(), "*"] {
        let upstream = cacheable();
        let proxy = Setup::new(&issuer, &upstream)
            .rest(&format!("[cors]\norigins = [\"{origin}\"]"))
            .rest(PUBLIC)
            .start()
            .await;
        let url = format!("http://{}/public", proxy.data);
        let embed = "return (await fetch(input, {mode: 'no-cors'})).type";
        assert_eq!(page.run(embed, &json!(url)).await, "opaque");
        assert_eq!(upstream.next().await.head.get("origin"), None);
        let seen = page.ask(&Ask::get(&url)).await;
        assert_eq!((seen.status(), seen.text()), (200, "hello"), "{origin}");
    }
}
